/* Percentiles, cosines and the load test's report. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cosine, cosines, loadReport, percentile, summary } from "../../gateway/dashboard/stats.js";

test("a percentile is one of the figures, by nearest rank", () => {
  const hundred = Array.from({ length: 100 }, (_, i) => i + 1);
  assert.deepEqual([0, 0.5, 0.95, 0.99, 1].map((share) => percentile(hundred, share)), [1, 50, 95, 99, 100]);
  assert.equal(percentile([7], 0.99), 7);
  assert.ok(Number.isNaN(percentile([], 0.5)));
});

test("a summary sorts as numbers and leaves its list alone", () => {
  const values = [10, 9, 100, 2];
  assert.deepEqual(summary(values), { count: 4, least: 2, mean: 30.25, p50: 9, p95: 100, p99: 100, most: 100 });
  assert.deepEqual(values, [10, 9, 100, 2]);
});

test("cosines: same, opposite, across, and what has none", () => {
  assert.equal(cosine([1, 2], [2, 4]), 1);
  assert.equal(cosine([1, 0], [-3, 0]), -1);
  assert.equal(cosine([1, 0], [0, 5]), 0);
  assert.ok(Number.isNaN(cosine([0, 0], [1, 1])));
  assert.ok(Number.isNaN(cosine([1], [1, 1])));
  assert.deepEqual(cosines([[1, 0], [0, 1]]), [[1, 0], [0, 1]]);
});

test("a load test's report counts what failed apart", () => {
  const ok = (first_s, total_s) => ({ first_s, total_s, error: "", tokens: 10 });
  const bad = (error) => ({ first_s: null, total_s: 0.01, error });
  const report = loadReport([ok(0.1, 1), bad("429 queue_full"), ok(0.2, 2), bad("429 queue_full"), bad("500")], 2);
  assert.deepEqual(report.errors, [["429 queue_full", 2], ["500", 1]]);
  assert.equal(report.total.count, 2);
  assert.equal(report.first.p50, 0.1);
  assert.equal(report.requests_per_s, 2.5);
  assert.equal(report.tokens_per_s, 10);
});
