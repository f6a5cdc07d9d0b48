/* What the playground sends, and how it chooses models. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { figureWords } from "../../gateway/dashboard/playground_lane.js";
import { embeds, ordered, states } from "../../gateway/dashboard/playground_models.js";
import { asCurl, chatBody, messages } from "../../gateway/dashboard/playground_request.js";

test("a system prompt, turns and pictures become messages", () => {
  const turns = [{ role: "user", content: "Hi", pictures: [] }, { role: "assistant", content: "Ho", reasoning: "kept back" }, { role: "user", content: "", pictures: ["data:image/png;base64,AA"] }];
  assert.deepEqual(messages("Be brief.", turns), [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Ho" },
    { role: "user", content: [{ type: "image_url", image_url: { url: "data:image/png;base64,AA" } }] },
  ]);
  assert.deepEqual(messages("  ", []), []);
});

test("empty fields are not sent, numbers are numbers, 'more' wins", () => {
  const body = chatBody("m", "", [], { temperature: " 0.2 ", top_p: "", max_tokens: "5", more: "{\"max_tokens\": 9, \"top_k\": 4}" });
  assert.deepEqual(body, { model: "m", messages: [], stream: true, stream_options: { include_usage: true }, temperature: 0.2, max_tokens: 9, top_k: 4 });
});

test("what cannot be sent is said in words", () => {
  assert.throws(() => chatBody("m", "", [], { temperature: "hot" }), /Temperature must be a number/);
  for (const more of ["{", "[]", "7", "null"]) assert.throws(() => chatBody("m", "", [], { more }), /More, as JSON/, more);
});

test("a command for the shell holds no pictures and survives quotes", () => {
  const said = asCurl("http://x/", chatBody("m", "", [{ role: "user", content: "it's", pictures: ["data:image/png;base64," + "A".repeat(999)] }], {}));
  assert.ok(said.startsWith("curl http://x/v1/chat/completions"));
  assert.ok(said.includes("it'\\''s") && said.length < 900);
});

test("models that are in memory come first; embedders are known by word or name", () => {
  const model = (id, state, capabilities = []) => ({ id, roundhouse: { state, capabilities } });
  const all = [model("r", "remote"), model("b", "cold"), model("a", "cold"), model("z", "ready"), { id: "?" }];
  assert.deepEqual(ordered(all).map(({ id }) => id), ["z", "a", "b", "r", "?"]);
  assert.ok(embeds(model("x", "cold", ["embedding"])) && embeds(model("bge-small", "cold")) && !embeds(model("llama", "cold")));
  const now = states(all, { residents: [{ model: "a", phase: "loading" }] });
  assert.deepEqual([now.get("a"), now.get("z"), now.has("r")], ["loading", "cold", false]);
});

test("figures in words", () => {
  const figures = { first_s: 0.12, total_s: 1, tokens: 34, exact: true, tokens_per_s: 41.23 };
  assert.equal(figureWords({ figures, done: true, finish: "length" }), "first token after 120 ms · 34 tokens · 41.2 tokens/s · 1.0 s in all · cut off: it may have no more tokens");
  assert.equal(figureWords({ figures: { ...figures, exact: false }, stopped: true }), "first token after 120 ms · about 34 tokens · 41.2 tokens/s · stopped");
  assert.equal(figureWords({}), "");
});
