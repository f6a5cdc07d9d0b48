// The keys' card: list, create (the key is shown once), rotate, revoke.

import { api } from "./api.js";
import { h, replace } from "./dom.js";
import { money, moment } from "./format.js";
import { limitFields, limitsOf, limitWords } from "./limits.js";
import { openForm } from "./settings_form.js";
import { badge, busy, confirm, copyButton, dialog, emptyCard, field, table } from "./ui.js";

const path = (one, verb = "") => `/admin/keys/${encodeURIComponent(one.id)}${verb}`;

export async function keysCard(node) {
  const gone = h("input", { type: "checkbox", onchange: () => draw() });
  let keys = [];
  const draw = () => {
    const shown = keys.filter((one) => gone.checked || !one.revoked);
    const { table: made, body } = table("Keys", [
      "Name", { name: "Models", class: "wide-only" }, "Limits", { name: "Spent today", num: true, class: "wide-only" }, { name: "Expires", class: "wide-only" },
      { name: h("span", { class: "unseen" }, "Actions") },
    ]);
    for (const one of shown) body.append(row(one, look));
    const tools = h("div", { class: "row tools" }, h("button", { type: "button", onclick: () => create(look) }, "New key"),
      keys.some((one) => one.revoked) && h("label", { class: "row dim" }, gone, "Show revoked"));
    replace(node, tools, shown.length ? made : emptyCard("There is no key: whoever can reach the gateway may use it."));
  };
  const look = async () => {
    ({ keys } = await api.get("/admin/keys"));
    draw();
  };
  await look();
}

function time(value) {
  if (value === null || value === undefined || value === "") return "";
  const seconds = typeof value === "number" ? value : Date.parse(value) / 1000;
  return moment(seconds);
}

function row(one, look) {
  const name = h("td", { class: "name" }, h("b", null, one.name), " ", h("code", { class: "dim" }, one.prefix ? `${one.prefix}…` : ""), " ",
    one.admin && badge("admin", "info"), one.tenant && badge(one.tenant, "plain", "Its tenant"), one.tenants?.length > 0 && badge(`for ${one.tenants.join(", ")}`, "plain", "Names one of these tenants"),
    one.capture && badge("bodies kept", "warn"), one.source === "config" && badge("file", "plain", "It stands in the configuration"),
    one.revoked && badge("revoked", "bad", time(one.revoked)));
  return h("tr", null, name, h("td", { class: "wide-only" }, one.models?.length ? one.models.join(", ") : "all"), h("td", { class: "dim" }, limitWords(one)),
    h("td", { class: "num wide-only" }, money(one.used?.usd_day)), h("td", { class: "wide-only nowrap" }, time(one.expires) || "never"), h("td", null, buttons(one, look)));
}

function buttons(one, look) {
  if (one.revoked) return null;
  if (one.source === "config") return h("small", { class: "dim" }, "change it in the file");
  const rotate = async () => {
    const yes = await confirm(`Rotate ${one.name}?`, "A new key is made and shown once; the present one stops working at once.", "Rotate");
    if (!yes) return;
    const made = await api.post(path(one, "/rotate"), {});
    await showKey(one.name, made.key);
    await look();
  };
  const revoke = async () => {
    const yes = await confirm(`Revoke ${one.name}?`, "It stops working at once and for good. Its requests stay in the ledger.", "Revoke", { danger: true });
    if (!yes) return;
    await api.del(path(one));
    await look();
  };
  const button = (words, action, kind) => h("button", { type: "button", class: kind, "aria-label": `${words} ${one.name}`, onclick: (event) => busy(event.currentTarget, action) }, words);
  return h("div", { class: "row end" }, button("Rotate", rotate, "quiet"), button("Revoke", revoke));
}

/** The one time that a key can be seen. */
function showKey(name, key) {
  const shown = h("input", { class: "mono", readonly: true, value: key, "aria-label": "The key", onfocus: (event) => event.target.select() });
  return dialog(`The key of ${name}`, (close) => [
    h("p", null, "Copy it now: it is kept as a hash only and cannot be shown again."),
    h("div", { class: "row keyrow" }, shown, copyButton(() => key)),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: () => close() }, "I have copied it")),
  ]);
}

async function create(look) {
  const input = (name, more) => h("input", { name, autocomplete: "off", ...more });
  const name = input("name", { required: true, autofocus: true });
  const tenant = input("tenant");
  const tenants = input("tenants");
  const models = input("models", { placeholder: "all" });
  const capture = h("input", { type: "checkbox", name: "capture" });
  const expires = input("expires", { type: "date" });
  const admin = h("input", { type: "checkbox", name: "admin" });
  const limits = limitFields();
  const made = await openForm("New key", [
    field("Name", name, "Who or what uses it"), field("Tenant", tenant, "To whom its use belongs"), field("May name tenants", tenants, "In X-Tenant-ID; by commas, * for any"), field("Models", models, "Names or patterns, by commas: qwen*, local/*"),
    field("Expires", expires, "At the end of that day"), ...limits.nodes, h("label", { class: "row all" }, admin, "May administrate"),
    h("label", { class: "row all" }, capture, "Keep what is asked and answered with it"),
  ], "Create", () => {
    const said = { name: name.value.trim(), ...limitsOf(limits) };
    if (tenant.value.trim()) said.tenant = tenant.value.trim();
    for (const [name, list] of [["models", models], ["tenants", tenants]]) {
      const written = list.value.split(",").map((one) => one.trim()).filter(Boolean);
      if (written.length) said[name] = written;
    }
    if (expires.value) said.expires = new Date(`${expires.value}T23:59:59`).toISOString().replace(/\.\d+Z$/, "Z");
    if (admin.checked) said.admin = true;
    if (capture.checked) said.capture = true;
    return api.post("/admin/keys", said);
  });
  if (!made) return;
  await showKey(made.name, made.key);
  await look();
}
