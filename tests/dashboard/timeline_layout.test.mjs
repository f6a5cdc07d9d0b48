/* The timeline's layout: rows, spans, marks, steps, zoom. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { clipped, fitted, followed, grouped, moved, perStep, rowsOf, spanWords, stepsPlace, zoomed } from "../../gateway/dashboard/timeline_layout.js";

const VIEW = { from_s: 1000, to_s: 2000 };

test("a row per target: spans, marks, and the requests of its model", () => {
  const rows = rowsOf({ from_s: 0, to_s: 2000,
    spans: [{ target: "p/a", model: "a", phase: "ready", from_s: 10, to_s: 20 }, { target: "p/b", model: "b", phase: "ready", from_s: 15, to_s: null }],
    marks: [{ at_s: 5, what: "loaded", target: "p/a", words: "" }, { at_s: 6, what: "load_failed", target: "p/x/y", words: "" }],
    requests: [{ at_s: 60, model: "a", count: 2 }, { at_s: 60, model: "a", count: 1 }, { at_s: 60, model: "cloud", count: 7 }] });
  assert.deepEqual(rows.map((row) => row.key), ["p/b", "p/a", "p/x/y", "cloud"]);
  assert.equal(rows[1].counts.get(60), 3);
  assert.equal(rows[2].model, "x/y");
  assert.equal(rows[3].requests, 7);
});

test("a model that was refused and never in memory has one row, with its requests", () => {
  const rows = rowsOf({ from_s: 0, to_s: 2000, spans: [], marks: [{ at_s: 5, what: "rejected", target: "p/huge", model: "huge", words: "" }],
    requests: [{ at_s: 0, model: "huge", count: 1 }] });
  assert.deepEqual(rows.map((row) => [row.key, row.requests]), [["p/huge", 1]]);
});

test("at first what there is fills the view, but never less than ten minutes of it", () => {
  const bounds = { from_s: 0, to_s: 21600 };
  const row = (from_s) => [{ spans: [{ from_s, to_s: null }], marks: [], counts: new Map() }];
  assert.deepEqual(fitted(row(21500), bounds), { from_s: 21000, to_s: 21600 });
  assert.deepEqual(fitted(row(19600), bounds), { from_s: 21600 - 2160, to_s: 21600 });
  assert.deepEqual(fitted(row(3000), bounds), bounds);
  assert.deepEqual(fitted([], bounds), { from_s: 21000, to_s: 21600 });
});

test("minutes of requests lie where they were, though the view begins in the middle of one", () => {
  const view = { from_s: 1030, to_s: 1630 };
  const steps = perStep(new Map([[1620, 1]]), view, 180);
  const { left, width } = stepsPlace(steps, view);
  const at = left + (steps.counts.indexOf(1) / steps.counts.length) * width;
  assert.ok(Math.abs(at - (1620 - 1030) / 600) < 1e-9);
});

test("a span is cut at the view's edges; one that goes on reaches the end", () => {
  assert.deepEqual(clipped({ from_s: 500, to_s: 1500 }, VIEW), { left: 0, width: 0.5 });
  assert.deepEqual(clipped({ from_s: 1750, to_s: null }, VIEW), { left: 0.75, width: 0.25 });
  assert.equal(clipped({ from_s: 10, to_s: 900 }, VIEW), null);
  assert.equal(clipped({ from_s: 2500, to_s: null }, VIEW), null);
});

test("marks that would lie on each other are one", () => {
  const found = grouped([{ at_s: 1500 }, { at_s: 1100 }, { at_s: 1105 }, { at_s: 2100 }], VIEW, 0.01);
  assert.deepEqual(found.map((mark) => [mark.left, mark.marks.length]), [[0.1, 2], [0.5, 1]]);
});

test("requests per step: whole minutes, each counted once", () => {
  const counts = new Map([[960, 1], [1020, 2], [1980, 4], [3000, 9]]);
  const fine = perStep(counts, VIEW, 100);
  assert.equal(fine.step_s, 60);
  assert.equal(fine.counts.reduce((a, b) => a + b), 7);
  const coarse = perStep(counts, { from_s: 0, to_s: 86400 }, 144);
  assert.equal(coarse.step_s, 600);
  assert.equal(coarse.counts.reduce((a, b) => a + b), 16);
});

test("zoom keeps the place under the pointer and never leaves the bounds", () => {
  const bounds = { from_s: 0, to_s: 4000 };
  assert.deepEqual(zoomed(VIEW, bounds, 0.5, 1200), { from_s: 1100, to_s: 1600 });
  assert.deepEqual(zoomed(VIEW, bounds, 100), bounds);
  assert.equal(zoomed(VIEW, bounds, 1e-9).to_s - zoomed(VIEW, bounds, 1e-9).from_s, 30);
  assert.deepEqual(moved(VIEW, bounds, 0.5), { from_s: 1500, to_s: 2500 });
  assert.deepEqual(moved(VIEW, bounds, -9), { from_s: 0, to_s: 1000 });
});

test("a view that reaches to now follows it; one of the past stays", () => {
  const before = { from_s: 0, to_s: 2000 };
  const after = { from_s: 100, to_s: 2100 };
  assert.deepEqual(followed(VIEW, before, after), { from_s: 1100, to_s: 2100 });
  assert.deepEqual(followed({ from_s: 500, to_s: 900 }, before, after), { from_s: 500, to_s: 900 });
});

test("a span in words", () => {
  const words = spanWords({ phase: "ready", from_s: 10, to_s: null, why: "over_budget" }, 25, (at) => `t${at}`, (s) => `${s} s`);
  assert.equal(words, "ready from t10 until now, 15 s, over budget");
});
