/* Scales, ticks and how figures read. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { dayAfter, daysBetween, linear, roundUp, ticks, timeTicks, trimmed } from "../../gateway/dashboard/scales.js";

test("a straight scale, and one with nothing in it", () => {
  assert.equal(linear([0, 10], [100, 0])(2.5), 75);
  assert.equal(linear([5, 5], [3, 9])(5), 3);
});

test("round figures never lie below", () => {
  for (const [value, round] of [[0, 1], [NaN, 1], [1, 1], [1.1, 2], [21, 50], [51, 100], [0.03, 0.05], [0.3, 0.5], [1000, 1000]]) {
    assert.equal(roundUp(value), round, String(value));
  }
});

test("ticks begin at zero, end above the most, and are even", () => {
  for (const max of [0.007, 0.3, 1, 3, 7, 10, 99, 101, 12345, 5e8]) {
    const found = ticks(max);
    assert.equal(found[0], 0);
    assert.ok(found.at(-1) >= max && found.length <= 6 && found.length >= 2, `${max}: ${found}`);
    found.forEach((tick, i) => assert.ok(Math.abs(tick - i * found[1]) < 1e-9 * max + 1e-12));
  }
  assert.deepEqual(ticks(0), [0, 1]);
  assert.deepEqual(ticks(2, 4, true), [0, 1, 2]);
  assert.deepEqual(ticks(0.3), [0, 0.1, 0.2, 0.3]);
});

test("moments on an axis are round in the zone that is read", () => {
  const noon = Date.parse("2026-11-22T12:00:00Z") / 1000;
  const { step_s, at_s } = timeTicks(noon - 6 * 3600, noon, 7);
  assert.equal(step_s, 3600);
  assert.equal(at_s.length, 7);
  assert.ok(at_s.every((at) => at % 3600 === 0));
  const india = timeTicks(noon - 6 * 3600, noon, 7, 5.5 * 3600);
  assert.ok(india.at_s.every((at) => (at + 5.5 * 3600) % 3600 === 0));
});

test("days, also over a month's end, a leap day and a foolish range", () => {
  assert.deepEqual(daysBetween("2028-02-28", "2028-03-01"), ["2028-02-28", "2028-02-29", "2028-03-01"]);
  assert.deepEqual(daysBetween("2026-01-02", "2026-01-01"), []);
  assert.equal(daysBetween("0001-01-01", "2026-01-01").length, 400);
  assert.equal(dayAfter("2026-01-01", -1), "2025-12-31");
});

test("an axis says no zeros that mean nothing, and keeps those that do", () => {
  for (const [said, read] of [["1.50 k", "1.5 k"], ["1.00 M", "1 M"], ["150 k", "150 k"], ["2.0 s", "2 s"], ["0.050", "0.05"], ["10", "10"]]) {
    assert.equal(trimmed(said), read);
  }
});
