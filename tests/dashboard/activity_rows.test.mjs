/* Activity: phases of a request, its outcome, filters, and the list that live events flow into. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Requests, commonScale, matches, outcome, phases, speed } from "../../gateway/dashboard/activity_rows.js";

const entry = (id, at_us, more = {}) => ({ id, at_us, principal: "ci", key_id: "k1", tenant: "", asked: "m", model: "m", target: "p/m", route: "/v1/chat/completions",
  status: 200, code: "", streamed: true, left: "", prompt: 1, completion: 11, cached: 0, reasoning: 0, cost_usd: null, queued_us: 0, load_us: 0, first_byte_us: 100, total_us: 1100, ...more });

test("phases follow each other without a gap and leave out what took no time", () => {
  const found = phases(entry("a", 0, { queued_us: 50, load_us: 30 }));
  assert.deepEqual(found, [
    { name: "queued", from_us: 0, to_us: 20 },
    { name: "load", from_us: 20, to_us: 50 },
    { name: "first", from_us: 50, to_us: 100 },
    { name: "answer", from_us: 100, to_us: 1100 },
  ]);
  assert.deepEqual(phases(entry("a", 0)).map((phase) => phase.name), ["first", "answer"]);
});

test("who left in the queue has one phase; who runs grows", () => {
  assert.deepEqual(phases(entry("a", 0, { left: "queued", first_byte_us: 0, total_us: 700 })), [{ name: "queued", from_us: 0, to_us: 700 }]);
  assert.deepEqual(phases({ id: "a", at_us: 1000, phase: "queued" }, 4000), [{ name: "queued", from_us: 0, to_us: 3000 }]);
  assert.deepEqual(phases({ id: "a", at_us: 1000, phase: "answering" }, 4000).map((phase) => [phase.name, phase.to_us]), [["answer", 3000]]);
  const list = new Requests();
  list.live({ id: "a", at_us: 1000, phase: "queued" }, 1100);
  list.live({ id: "a", at_us: 1000, phase: "answering" }, 2000);
  assert.deepEqual(phases(list.rows[0], 4000).map((phase) => [phase.name, phase.to_us]), [["first", 1000], ["answer", 3000]]);
});

test("outcomes in words", () => {
  assert.deepEqual(outcome(entry("a", 0)), { kind: "ok", words: "200" });
  assert.deepEqual(outcome(entry("a", 0, { status: 429, code: "queue_full" })), { kind: "error", words: "429 queue_full" });
  assert.deepEqual(outcome(entry("a", 0, { left: "answer" })), { kind: "left", words: "caller left in the answer" });
  assert.deepEqual(outcome(entry("a", 0, { status: 0 })), { kind: "error", words: "no answer" });
  assert.equal(outcome({ phase: "queued" }).kind, "running");
});

test("speed needs a stream with more than one token", () => {
  assert.equal(speed(entry("a", 0, { first_byte_us: 1e6, total_us: 2e6 })), 10);
  assert.equal(speed(entry("a", 0, { streamed: false })), null);
  assert.equal(speed(entry("a", 0, { first_byte_us: 0 })), null);
});

test("live requests obey the filter", () => {
  const all = { model: "", key: "", tenant: "", status: "", q: "" };
  assert.ok(matches(entry("a", 0), all));
  assert.ok(matches(entry("a", 0), { ...all, model: "m", key: "k1", status: "ok", q: "CHAT" }));
  assert.ok(!matches(entry("a", 0), { ...all, status: "error" }));
  assert.ok(!matches(entry("a", 0), { ...all, tenant: "other" }));
  assert.ok(matches({ id: "a", phase: "queued", model: "m" }, { ...all, status: "error" }), "its end is not known yet");
});

test("the scale is round and not spoilt by one slow request", () => {
  const many = Array.from({ length: 99 }, (_, i) => entry(`r${i}`, i, { total_us: 900_000 }));
  assert.equal(commonScale([...many, entry("slow", 0, { total_us: 60e6 })]), 1e6);
  assert.equal(commonScale([]), 10_000);
});

test("a request is listed once, newest first, whatever order its parts come in", () => {
  const list = new Requests();
  list.older([entry("c", 30), entry("b", 20)], "cursor");
  assert.equal(list.live({ id: "d", at_us: 40, phase: "queued", model: "m" }), true);
  assert.equal(list.live(entry("d", 40)), false);
  assert.equal(list.live({ id: "d", at_us: 40, phase: "answering" }), false);
  list.older([entry("b", 20), entry("a", 10)], null);
  assert.deepEqual(list.rows.map((row) => row.id), ["d", "c", "b", "a"]);
  assert.equal(list.rows[0].phase, undefined);
  assert.equal(list.next, null);
});

test("two requests may have one id", () => {
  const list = new Requests();
  list.older([entry("same", 20), entry("same", 10)], null);
  assert.equal(list.rows.length, 2);
});

test("it keeps no more than it may, and lets go of what never ended", () => {
  const list = new Requests(3);
  for (let i = 0; i < 5; i += 1) list.live(entry(`r${i}`, i));
  assert.deepEqual(list.rows.map((row) => row.id), ["r4", "r3", "r2"]);
  assert.equal(list.known.size, 3);
  list.live({ id: "lost", at_us: 100, phase: "queued" });
  assert.equal(list.forget(() => false), true);
  assert.equal(list.known.size, 2);
  list.next = "cursor";
  list.fresh([entry("r9", 9), entry("r4", 4)]);
  assert.deepEqual([list.rows[0].id, list.rows.length, list.next], ["r9", 3, "cursor"]);
});
