// The base's pure modules: figures, words, the event-stream parser, the queue, the memory bar's layout, the models' rows.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../../gateway/dashboard/format.js";
import { cells, matches, rowOf, sorted, standing } from "../../gateway/dashboard/model_rows.js";
import { configWords } from "../../gateway/dashboard/config_words.js";
import { queueRows, waitsFor } from "../../gateway/dashboard/queue.js";
import { eventParser } from "../../gateway/dashboard/sse.js";
import { footprintWords, happeningWords, planWords, shortName } from "../../gateway/dashboard/words.js";

const GIB = 1 << 30;

test("bytes keep three digits that count and never say 1024 KiB", () => {
  assert.equal(format.bytes(0), "0 B");
  assert.equal(format.bytes(1023), "1023 B");
  assert.equal(format.bytes(1536), "1.5 KiB");
  assert.equal(format.bytes(1024 * 1024 - 1), "1.0 MiB");
  assert.equal(format.bytes(24 * GIB), "24.0 GiB");
  assert.equal(format.bytes(-2048), "−2.0 KiB");
  assert.equal(format.bytes(undefined), "–");
});

test("seconds from microseconds to days", () => {
  const said = [0, 0.0000123, 0.0123, 0.9999, 4.24, 9.96, 59.4, 59.6, 75, 3600, 4000, 90000, -1, NaN].map(format.seconds);
  assert.deepEqual(said, ["0 µs", "12 µs", "12 ms", "1.0 s", "4.2 s", "10 s", "59 s", "1 min", "1 min 15 s", "1 h", "1 h 6 min", "1 d 1 h", "0 s", "–"]);
  assert.equal(format.age(4.9), "4 s");
  assert.equal(format.micros(0), "–");
  assert.equal(format.micros(1_500_000), "1.5 s");
});

test("money is exact enough to be compared, however small", () => {
  assert.equal(format.money("0"), "$0");
  assert.equal(format.money("1234.5"), "$1\u202f234.50");
  assert.equal(format.money("0.00042"), "$0.00042");
  assert.equal(format.money("0.996"), "$1.00");
  assert.equal(format.money(null), "–");
  assert.equal(format.perMillion("0.000003"), "$3.00");
  assert.equal(format.perMillion("0.00000005"), "$0.050");
});

test("numbers, contexts, shares", () => {
  assert.equal(format.number(1234567), "1\u202f234\u202f567");
  assert.equal(format.short(1234567), "1.23 M");
  assert.equal(format.short(999600), "1.00 M");
  assert.equal(format.context(131072), "128k");
  assert.equal(format.context(200000), "200\u202f000");
  assert.equal(format.context(null), "–");
  assert.equal(format.percent(0.1234, 1), "12.3 %");
  assert.equal(format.count(1, "model"), "1 model");
  assert.equal(format.count(2, "model"), "2 models");
});

test("a moment of another day says which", () => {
  const at = new Date(2026, 10, 22, 14, 3, 9).getTime() / 1000;
  assert.equal(format.stamp(at, at + 3600), "14:03:09");
  assert.equal(format.stamp(at, at + 86400), "11-22 14:03:09");
});

test("a request says what it waits for: memory, a load, or its model's first byte", () => {
  const resident = (phase, leases) => ({ residents: [{ target: "p/a", phase, leases }], queue: [] });
  const asked = { phase: "queued", target: "p/a" };
  assert.equal(waitsFor(asked, resident("ready", 1)).word, "working");
  assert.equal(waitsFor(asked, resident("loading", 0)).word, "loading");
  assert.equal(waitsFor(asked, { residents: [], queue: [{ target: "p/a" }] }).word, "queued");
  assert.equal(waitsFor(asked, { residents: [{ target: "p/a", phase: "draining", leases: 0 }], queue: [{ target: "p/a" }] }).word, "queued");
  assert.equal(waitsFor({ phase: "queued", target: "" }, resident("ready", 1)).word, "queued");
  assert.equal(waitsFor({ phase: "queued", target: "cloud/x" }, resident("ready", 1)).word, "working");
  assert.equal(waitsFor({ phase: "answering", target: "p/a" }, resident("ready", 1)).word, "answering");
});

test("the configuration is read in units that people think in, and a secret is not read at all", () => {
  const said = (key, value, more) => configWords({ key, value, source: "file", ...more });
  assert.equal(said("server.max_body_bytes", 67108864), "64.0 MiB (67108864)");
  assert.equal(said("models.a.memory", { ram: 314572800 }), "300 MiB of ram (314572800)");
  assert.equal(said("memory.budget", null), "auto");
  assert.equal(said("ledger.url", null), "(not set)");
  assert.equal(said("residency.idle_s", 600), "600 (10 min)");
  assert.equal(said("residency.stop_timeout_s", 10), "10");
  assert.equal(said("models.a.args", []), "(none)");
  assert.equal(said("providers.a.api_key", true, { secret: true }), "(set, not shown)");
  assert.equal(said("providers.a.proxy", true, { secret: true, source: "default" }), "(the default)");
});

test("a model whose last load failed is in trouble until it is loaded again", () => {
  const entry = { id: "a", roundhouse: { state: "cold", targets: ["p/a"] } };
  const state = { residents: [], cooling_down: {}, queue: [] };
  const failed = { what: "load_failed", target: "p/a", detail: "out of memory" };
  const row = rowOf(entry, standing(state, [{ what: "load_started", target: "p/a" }, failed]));
  assert.deepEqual([row.state, row.failed, row.why], ["cold", true, "out of memory"]);
  assert.ok(matches(row, { show: "trouble" }));
  assert.ok(!rowOf(entry, standing(state, [failed, { what: "loaded", target: "p/a" }])).failed);
});

test("a cold model says what it will take, where that is known, and what lies on the disk where it is not", () => {
  const size = (about) => rowOf({ id: "a", roundhouse: { state: "cold", targets: ["p/a"], ...about } }, standing(null)).size;
  assert.equal(size({ expected_bytes: { "cuda:0": 3, ram: 2 }, size_bytes: 9 }), 5);
  assert.equal(size({ expected_bytes: null, size_bytes: 9 }), 9);
  assert.equal(size({}), null);
});

test("the event parser reads every kind of line end, pieces cut anywhere, comments and many data lines", () => {
  const wire = ": hello\r\nid: 7\nevent: load\ndata: {\"a\":1}\ndata: two\n\ndata:none\r\r\nid: 8\r\ndata\r\n\r\nevent: lost\n\ndata: cut";
  for (const size of [1, 2, 3, 7, wire.length]) {
    const events = [];
    const comments = [];
    const feed = eventParser((one) => events.push(one), (one) => comments.push(one));
    for (let at = 0; at < wire.length; at += size) feed(wire.slice(at, at + size));
    assert.deepEqual(events, [
      { id: "7", event: "load", data: '{"a":1}\ntwo' },
      { id: "7", event: "message", data: "none" },
      { id: "8", event: "message", data: "" },
    ]);
    assert.deepEqual(comments, ["hello"]);
  }
});

test("a decision is told with its reason, and names are short", () => {
  const evicted = { what: "draining", target: "local/b", for_target: "local/c", why: "evicted", detail: "18.2 GiB needed, 11.0 GiB free, local/b idle 340 s" };
  assert.deepEqual(happeningWords(evicted), { words: "evicting b for c: 18.2 GiB needed, 11.0 GiB free, b idle 340 s", kind: "warn" });
  assert.equal(happeningWords({ ...evicted, words: "as the gateway says" }).words, "as the gateway says");
  assert.equal(happeningWords({ what: "loaded", target: "local/b", seconds: 4.2 }).words, "b is ready in 4.2 s");
  assert.equal(happeningWords({ what: "something_new", target: "local/b" }).words, "something new b");
  assert.equal(shortName("openrouter/openai/gpt"), "openai/gpt");
});

test("every outcome of a plan has a sentence", () => {
  const plan = { needed: { "cuda:0": 3 * GIB }, victims: ["local/b"], expected_load_s: 4, detail: "no room yet", refusal: "queue_full" };
  const said = ["ready", "loading", "fits", "evicts", "waits", "refused", "news"].map((outcome) => planWords({ ...plan, outcome }));
  assert.equal(new Set(said).size, 7);
  assert.match(said[3], /3\.0 GiB of cuda:0\. 1 model would leave memory for it: b; then it is loaded, in about 4\.0 s/);
  assert.equal(footprintWords({}), "nothing");
});

test("the queue has one row per model, in its places", () => {
  const tickets = [
    { ticket: 1, target: "local/b", waiting_s: 9, position: 2 },
    { ticket: 2, target: "local/a", waiting_s: 5, position: 1 },
    { ticket: 3, target: "local/b", waiting_s: 2, position: 2 },
  ];
  const rows = queueRows(tickets, new Map([["local/b", 12]]));
  assert.deepEqual(rows.map((one) => [one.place, one.name, one.requests, one.waiting_s, one.expected_s]), [[1, "a", 1, 5, null], [2, "b", 2, 9, 12]]);
});

const entry = (id, about) => ({ id, owned_by: "local", roundhouse: { provider: "local", targets: [`local/${id}`], state: "cold", ...about } });

test("what is in memory is told by the live state, not by an older list", () => {
  const live = standing({ residents: [{ target: "local/a", phase: "loading", footprint: { ram: 5 }, leases: 0, pinned: false }], queue: [{ target: "local/b" }], cooling_down: { "local/c": "no file" } });
  const states = ["a", "b", "c", "d"].map((id) => rowOf(entry(id, { state: "ready" }), live).state);
  assert.deepEqual(states, ["loading", "queued", "failed", "cold"]);
  assert.equal(rowOf(entry("r", { state: "remote" }), live).managed, false);
});

test("models are found by every word, and what is unknown sorts last both ways", () => {
  const none = standing(undefined);
  const rows = [entry("big", { size_bytes: 9, capabilities: ["vision"] }), entry("none", {}), entry("small", { size_bytes: 1 })].map((one) => rowOf(one, none));
  assert.deepEqual(sorted(rows, "size", false).map((row) => row.id), ["small", "big", "none"]);
  assert.deepEqual(sorted(rows, "size", true).map((row) => row.id), ["big", "small", "none"]);
  assert.deepEqual(rows.filter((row) => matches(row, { text: "vision BIG" })).map((row) => row.id), ["big"]);
  assert.equal(cells(rows[0]).size, "≈ 9 B");
  assert.equal(matches(rows[0], { show: "remote" }), false);
});
