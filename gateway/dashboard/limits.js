// Limits of keys and tenants: their fields in a form, and how they read.

import { h } from "./dom.js";
import { money, number } from "./format.js";
import { field } from "./ui.js";

const NUMBERS = [["rpm", "Requests a minute"], ["tpm", "Tokens a minute"], ["concurrent", "Requests at once"]];
const BUDGETS = [["budget_usd_day", "Budget a day (USD)"], ["budget_usd_month", "Budget a month (USD)"]];

/** → {nodes, inputs}: empty means no limit. */
export function limitFields() {
  const inputs = {};
  const nodes = [...NUMBERS, ...BUDGETS].map(([name, label], at) => {
    inputs[name] = h("input", { name, type: "number", min: "0", step: at < NUMBERS.length ? "1" : "any", placeholder: "no limit", inputmode: "decimal" });
    return field(label, inputs[name]);
  });
  return { nodes, inputs };
}

/** What was filled in: numbers as numbers, money as text, so that no float comes between. */
export function limitsOf({ inputs }) {
  const said = {};
  for (const [name] of NUMBERS) if (inputs[name].value) said[name] = Number(inputs[name].value);
  for (const [name] of BUDGETS) if (inputs[name].value) said[name] = inputs[name].value;
  return said;
}

/** "60 requests/min · $5.00 a day", with what is used of it where that is known. */
export function limitWords(one) {
  const used = one.used ?? {};
  const of = (spent, limit, words) => (limit ? `${spent === undefined ? "" : `${number(Number(spent))} of `}${number(limit)} ${words}` : null);
  const usd = (spent, limit, words) => (limit === null || limit === undefined ? null : `${spent === undefined || spent === null ? "" : `${money(spent)} of `}${money(limit)} ${words}`);
  const parts = [
    of(used.requests_minute, one.rpm, "requests/min"), of(used.tokens_minute, one.tpm, "tokens/min"), of(used.concurrent, one.concurrent, "at once"),
    usd(used.usd_day, one.budget_usd_day, "a day"), usd(used.usd_month, one.budget_usd_month, "a month"),
  ].filter(Boolean);
  return parts.join(" · ") || "none";
}
