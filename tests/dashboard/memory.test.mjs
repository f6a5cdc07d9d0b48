// The memory bar to scale: nothing overlaps, nothing lies outside, whatever the figures say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout, layoutWords } from "../../gateway/dashboard/memory.js";

const resident = (target, size, more) => ({ target, model: target, phase: "ready", footprint: { ram: size }, footprint_source: "learned", resident_s: 1, leases: 0, pinned: false, ...more });

test("residents lie side by side, others at the end, the free in between", () => {
  const facts = { budget_bytes: 80, strangers_bytes: 20, committed_bytes: 40 };
  const shown = layout("ram", facts, [resident("a", 30, { resident_s: 9 }), resident("b", 10), { ...resident("gpu", 5), footprint: { "cuda:0": 5 } }]);
  assert.deepEqual(shown.segments.map((one) => [one.id, one.left, one.width]), [["a", 0, 30], ["b", 30, 10], ["·free", 40, 40], ["·strangers", 80, 20]]);
  assert.equal(shown.free, 40);
  assert.equal(shown.over, false);
  assert.match(layoutWords(shown, facts), /40 B held · 40 B free · 20 B other programs · budget 80 B/);
});

test("what the machine keeps free is shown where the machine's size is told", () => {
  const shown = layout("ram", { budget_bytes: 70, strangers_bytes: 20, total_bytes: 100 }, [resident("a", 30)]);
  assert.equal(shown.headroom, 10);
  assert.deepEqual(shown.segments.at(-2), { ...shown.segments.at(-2), id: "·headroom", left: 70, width: 10 });
});

test("of a device much larger than the budget only what matters is drawn", () => {
  const shown = layout("ram", { budget_bytes: 70, strangers_bytes: 30, total_bytes: 1000 }, [resident("a", 30)]);
  assert.deepEqual(shown.segments.map((one) => [one.id, one.width]), [["a", 30], ["·free", 40], ["·strangers", 30]]);
});

test("over the budget and with no facts it stays within its frame", () => {
  for (const [facts, size] of [[{ budget_bytes: 10, strangers_bytes: 5 }, 30], [{ budget_bytes: 0 }, 0], [{ budget_bytes: 10, total_bytes: 5 }, 8]]) {
    const shown = layout("ram", facts, [resident("a", size)]);
    let end = 0;
    for (const one of shown.segments) {
      assert.ok(one.left >= end - 1e-9 && one.width >= 0, JSON.stringify(one));
      end = one.left + one.width;
    }
    assert.ok(end <= 100 + 1e-9);
    assert.equal(shown.over, size > facts.budget_bytes);
  }
});
