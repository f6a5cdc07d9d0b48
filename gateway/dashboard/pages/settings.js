// Settings: who is reached and how they are, who may ask for what, and what the configuration says.

import { h } from "../dom.js";
import { failedCard, heading } from "../ui.js";
import { configCard } from "../settings_config.js";
import { keysCard } from "../settings_keys.js";
import { providersCard } from "../settings_providers.js";
import { tenantsCard } from "../settings_tenants.js";

const CARDS = [["Providers", providersCard], ["Keys", keysCard], ["Tenants", tenantsCard], ["Configuration", configCard]];

export function mount(root, ctx) {
  const { session } = ctx;
  const who = [session.version && `Roundhouse ${session.version}`, session.needed ? `logged in as ${session.name}` : "no login needed"].filter(Boolean).join(" · ");
  root.append(heading("Settings", h("span", { class: "dim" }, who)));
  const offs = CARDS.map(([title, make]) => place(root, title, make, ctx));
  return () => offs.forEach((off) => off());
}

/** Each card stands for itself: what fails in one leaves the others as they are. */
function place(root, title, make, ctx) {
  const node = h("section", { class: "card" });
  let off = () => {};
  let over = false;
  let failed = false;
  root.append(node);
  const fill = async () => {
    failed = false;
    node.replaceChildren(h("h2", null, title), h("p", { class: "dim" }, "Loading…"));
    const card = h("div", { class: "in" });
    try {
      off = (await make(card, ctx)) ?? off;
      if (over) return off();
      node.replaceChildren(h("h2", null, title), card);
    } catch (error) {
      if (error.status === 401) return undefined;
      failed = true;
      const old = error.status === 404;
      node.replaceChildren(old ? h("h2", null, title) : failedCard(title, error, fill), ...(old ? [h("p", { class: "dim" }, "This gateway cannot tell.")] : []));
    }
    return undefined;
  };
  fill();
  const back = ctx.live.on("status", (status) => status === "live" && failed && fill());
  return () => {
    over = true;
    back();
    off();
  };
}
