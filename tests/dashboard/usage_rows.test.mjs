/* Usage: grouping, stacking, totals. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { text } from "../../gateway/dashboard/money.js";
import { MEASURES, costText, errorShare, grouped, stacked, totalled } from "../../gateway/dashboard/usage_rows.js";

const row = (day, model, requests, cost_usd, more = {}) => ({ day, model, requests, errors: 0, prompt: 10, completion: 5, cached: 0, reasoning: 0, cost_usd, ...more });
const ROWS = [row("2026-11-20", "a", 3, "0.1"), row("2026-11-21", "a", 1, "0.2"), row("2026-11-21", "b", 9, null), row("2026-11-21", "", 1, "0", { errors: 1 })];

test("totals are exact, and the unpriced are counted", () => {
  const totals = totalled(ROWS);
  assert.equal(totals.requests, 14);
  assert.equal(text(totals.cost), "0.3");
  assert.equal(totals.unpriced, 9);
  assert.equal(costText(totals), "$0.30 + 9 unpriced");
  assert.equal(costText(totalled([ROWS[2]])), "unpriced");
  assert.equal(costText(totalled([])), "$0.00");
  assert.equal(costText(totalled([row("2026-11-21", "a", 10, "0.5", { priced: 7 })])), "$0.50 + 3 unpriced");
});

test("groups come largest first, and the nameless have a name", () => {
  assert.deepEqual(grouped(ROWS, "model", "requests").map((group) => group.name), ["b", "a", "no model"]);
  assert.deepEqual(grouped(ROWS, "model", "cost").map((group) => group.name), ["a", "b", "no model"]);
});

test("stacks hold every day and every row once, the small ones together", () => {
  const many = Array.from({ length: 12 }, (_, i) => row("2026-11-20", `m${i}`, 12 - i, "0.01"));
  const series = stacked(many, ["2026-11-19", "2026-11-20"], "model", "requests");
  assert.equal(series.length, 8);
  assert.equal(series.at(-1).name, "5 others");
  assert.equal(series.at(-1).days[1].requests, 5 + 4 + 3 + 2 + 1);
  assert.ok(series.every(({ days }) => days.length === 2 && days[0].requests === 0));
  assert.equal(stacked(many.slice(0, 8), ["2026-11-20"], "model", "requests").length, 8, "one alone is never 'others'");
});

test("what is read of a measure", () => {
  const totals = totalled(ROWS);
  assert.equal(MEASURES.tokens.show(totals), "60");
  assert.equal(errorShare(totals), "7.1 %");
  assert.equal(errorShare({ requests: 100_000, errors: 1 }), "< 0.1 %");
});
