/* The rows of GET /admin/usage, as charts and tables want them: grouped, stacked, added. Pure.
 *
 * The law: what is added is exact (counts are whole, money is BigInt); a price that is not known is counted, never taken for zero.
 */

import { number } from "./format.js";
import * as money from "./money.js";

const COUNTS = ["requests", "errors", "prompt", "completion", "cached", "reasoning"];

/** What can be shown: `of(totals)` a number for the length of a bar, `show(totals)` what is read. */
export const MEASURES = {
  requests: { label: "Requests", whole: true, of: (totals) => totals.requests, show: (totals) => number(totals.requests) },
  tokens: { label: "Tokens", whole: true, of: tokensOf, show: (totals) => number(tokensOf(totals)) },
  cost: { label: "Cost", whole: false, of: (totals) => money.approximately(totals.cost), show: costText },
  errors: { label: "Errors", whole: true, of: (totals) => totals.errors, show: (totals) => number(totals.errors) },
};

/** What a group that has no name is called, by field. */
export const NAMELESS = { model: "no model", key: "no key", tenant: "no tenant", target: "no target", day: "no day" };

/** Everything added: the counts, `cost` (an amount) and `unpriced` (requests whose cost nobody knows). */
export function totalled(rows) {
  const totals = nothing();
  for (const row of rows) include(totals, row);
  return totals;
}

/** [{name, totals}] by one field, largest first by the measure (by name where equal). */
export function grouped(rows, field, measure) {
  const found = new Map();
  for (const row of rows) {
    const name = row[field] || NAMELESS[field];
    if (!found.has(name)) found.set(name, nothing());
    include(found.get(name), row);
  }
  const { of } = MEASURES[measure];
  return [...found]
    .map(([name, totals]) => ({ name, totals }))
    .sort((a, b) => of(b.totals) - of(a.totals) || a.name.localeCompare(b.name));
}

/** Bars per day, stacked by a field: [{name, days: [totals…]}], the `most` largest each, the rest together as "n others". */
export function stacked(rows, days, field, measure, most = 7) {
  const order = grouped(rows, field, measure).map(({ name }) => name);
  const shown = order.length > most + 1 ? order.slice(0, most) : order;
  const rest = order.length - shown.length;
  const names = rest > 0 ? [...shown, `${rest} others`] : shown;
  const place = new Map(order.map((name, i) => [name, Math.min(i, rest > 0 ? most : i)]));
  const column = new Map(days.map((day, i) => [day, i]));
  const series = names.map((name) => ({ name, days: days.map(nothing) }));
  for (const row of rows) {
    const at = column.get(row.day);
    if (at !== undefined) include(series[place.get(row[field] || NAMELESS[field])].days[at], row);
  }
  return series;
}

/** The tokens of a group: what went in and what came out (cached and reasoning tokens are parts of these). */
export function tokensOf(totals) {
  return totals.prompt + totals.completion;
}

/** "$1.20", "$1.20 + 3 unpriced", "unpriced", "$0.00". */
export function costText(totals) {
  if (totals.unpriced === 0) return money.dollars(totals.cost);
  if (totals.unpriced === totals.requests) return "unpriced";
  return `${money.dollars(totals.cost)} + ${number(totals.unpriced)} unpriced`;
}

/** The share of requests that failed: "0 %", "0.4 %", "12 %". */
export function errorShare(totals) {
  if (totals.requests === 0 || totals.errors === 0) return "0 %";
  const percent = (totals.errors / totals.requests) * 100;
  return percent < 0.05 ? "< 0.1 %" : `${percent < 9.95 ? percent.toFixed(1) : Math.round(percent)} %`;
}

function nothing() {
  return { requests: 0, errors: 0, prompt: 0, completion: 0, cached: 0, reasoning: 0, cost: money.ZERO, unpriced: 0 };
}

function include(totals, row) {
  for (const field of COUNTS) totals[field] += row[field] ?? 0;
  const cost = money.amount(row.cost_usd);
  const priced = row.priced ?? (cost === null ? 0 : row.requests);
  totals.unpriced += (row.requests ?? 0) - priced;
  if (cost !== null) totals.cost = money.add(totals.cost, cost);
}
