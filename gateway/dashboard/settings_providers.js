// The providers' card: health, latency, last error; ask one again now.

import { h, keyed, replace, set, text } from "./dom.js";
import { age, number, percent, seconds } from "./format.js";
import { badge, busy, emptyCard, table, toast } from "./ui.js";

const EVERY_MS = 5000;
const KIND = { up: "ok", unknown: "plain", failing: "warn", down: "bad" };

export async function providersCard(node, { api }) {
  const { table: made, body } = table("Providers", [
    "Provider", "Health", { name: "Models", num: true, class: "wide-only" }, { name: "First byte p50", num: true, class: "wide-only" },
    { name: "p95", num: true, class: "wide-only" }, { name: "Errors", num: true, class: "wide-only" }, { name: "Available", num: true, class: "wide-only" },
    { name: "Catalogue", class: "wide-only" }, { name: h("span", { class: "unseen" }, "Actions") },
  ]);
  const none = emptyCard("No provider is spoken to over an address; engines of ours are on Now. Ollama, LM Studio and APIs are named under [providers] in the configuration.");
  const update = keyed(body, { key: (one) => one.name, make: (one) => makeRow(one, api, look), patch: (row, one) => row.draw(one) });
  async function look() {
    const { providers } = await api.get("/admin/providers");
    made.hidden = providers.length === 0;
    none.hidden = providers.length > 0;
    update(providers);
  }
  await look();
  node.append(made, none);
  const timer = setInterval(() => document.hidden || look().catch(() => {}), EVERY_MS);
  return () => clearInterval(timer);
}

function makeRow(first, api, look) {
  const health = h("td");
  const cells = Array.from({ length: 6 }, () => h("td", { class: "num wide-only" }));
  const [models, p50, p95, errors, available, catalogue] = cells;
  catalogue.className = "wide-only dim";
  const why = h("small", { class: "dim why" });
  const refresh = h("button", { type: "button", "aria-label": `Refresh ${first.name}`, onclick: (event) => busy(event.currentTarget, async () => {
    const seen = await api.post(`/admin/providers/${encodeURIComponent(first.name)}/refresh`, {});
    toast(seen.error ? `${first.name}: ${seen.error}` : `${first.name} answers: ${number(seen.models)} models`, seen.error ? "bad" : "ok");
    await look();
  }) }, "Refresh");
  const row = h("tr", null, h("td", { class: "name" }, h("b", null, first.name), " ", h("small", { class: "dim" }, first.discovered ? `${first.kind}, discovered` : first.kind), why), health, ...cells,
    h("td", null, h("div", { class: "row end" }, refresh)));
  row.draw = (one) => {
    const { state = "unknown", reason = "", ...figures } = one.health ?? {};
    const word = one.error && state !== "down" ? "unreachable" : state;
    if (row.dataset.state !== word) replace(health, badge(word, KIND[word] ?? "bad"));
    row.dataset.state = word;
    const again = figures.retry_in_s ? `; tried again in ${age(figures.retry_in_s)}` : "";
    const trouble = one.error || reason || one.catalogue?.trouble || "";
    text(why, trouble ? `${trouble}${again}` : "");
    text(models, number(one.models));
    text(p50, seconds(figures.first_byte_p50_s ?? NaN));
    text(p95, seconds(figures.first_byte_p95_s ?? NaN));
    text(errors, figures.error_rate === null || figures.error_rate === undefined ? "–" : percent(figures.error_rate, 1));
    set(errors, "title", `${number(figures.failures ?? 0)} failures in ${number(figures.requests ?? 0)} requests, ${number(figures.refused ?? 0)} not sent`);
    text(available, percent(figures.availability ?? NaN, 1));
    const { asked, age_s: ageS, stale } = one.catalogue ?? {};
    text(catalogue, asked ? `asked ${age(ageS)} ago${stale ? ", an old copy" : ""}` : "not asked yet");
  };
  return row;
}
