// The tenants' card.

import { h, replace } from "./dom.js";
import { api } from "./api.js";
import { busy, confirm, emptyCard, field, table } from "./ui.js";
import { limitFields, limitsOf, limitWords } from "./limits.js";
import { openForm } from "./settings_form.js";

export async function tenantsCard(node) {
  const look = async () => {
    const { tenants } = await api.get("/admin/tenants");
    const { table: made, body } = table("Tenants", ["Tenant", { name: "Keys", num: true, class: "wide-only" }, "Limits", { name: h("span", { class: "unseen" }, "Actions") }]);
    for (const one of tenants) body.append(row(one, look));
    replace(node, h("div", { class: "row tools" }, h("button", { type: "button", onclick: () => create(look) }, "New tenant")),
      tenants.length ? made : emptyCard("There is no tenant. Keys that may name one send it as X-Tenant-ID; usage and limits are kept apart."));
  };
  await look();
}

function row(one, look) {
  const remove = async () => {
    const yes = await confirm(`Remove ${one.display_name || one.id}?`, "Requests that name this tenant are refused from now on; what it used stays in the ledger.", "Remove", { danger: true });
    if (!yes) return;
    await api.del(`/admin/tenants/${encodeURIComponent(one.id)}`);
    await look();
  };
  const fixed = one.source === "config";
  const name = one.display_name || one.id;
  const button = h("button", { type: "button", "aria-label": `Remove ${name}`, disabled: fixed, title: fixed ? "It stands in the configuration file" : null, onclick: (event) => busy(event.currentTarget, remove) }, "Remove");
  const title = [h("b", null, name), " ", name !== one.id && h("code", { class: "dim" }, one.id)];
  return h("tr", null, h("td", { class: "name" }, title), h("td", { class: "num wide-only" }, one.keys ?? "–"), h("td", { class: "dim" }, limitWords(one)), h("td", null, h("div", { class: "row end" }, button)));
}

async function create(look) {
  const id = h("input", { name: "id", required: true, minlength: "3", maxlength: "50", pattern: "[a-z0-9\\-]+", autocomplete: "off", autofocus: true });
  const shown = h("input", { name: "display_name", maxlength: "100", autocomplete: "off" });
  const limits = limitFields();
  const fields = [field("Name", id, "As X-Tenant-ID says it: a-z, 0-9 and -"), field("Shown as", shown), ...limits.nodes];
  const made = await openForm("New tenant", fields, "Create", () => {
    const said = { id: id.value.trim(), ...limitsOf(limits) };
    if (shown.value.trim()) said.display_name = shown.value.trim();
    return api.post("/admin/tenants", said);
  });
  if (made) await look();
}
