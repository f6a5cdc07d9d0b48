/* The playground's reading of answers and of text. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Answer, errorText, loadComment, loadEvent } from "../../gateway/dashboard/playground_answer.js";
import { pieces } from "../../gateway/dashboard/playground_text.js";

const chunk = (delta, more = {}) => JSON.stringify({ choices: [{ delta, ...more }] });

test("text, reasoning, usage and times of an answer", () => {
  const answer = new Answer(10);
  answer.hear("loading m 50% eta 1s");
  assert.equal(answer.load.percent, 50);
  answer.take(chunk({ role: "assistant", content: "" }), 11);
  assert.equal(answer.figures().first_s, null, "a role is no token");
  answer.take(chunk({ reasoning_content: "hm" }), 12);
  assert.equal(answer.load, null);
  answer.take(chunk({ content: "Hi" }), 13);
  answer.take(chunk({ content: "!" }, { finish_reason: "stop" }), 14);
  answer.take(JSON.stringify({ choices: [], usage: { completion_tokens: 5 } }), 14.1);
  answer.take("[DONE]", 14.2);
  assert.deepEqual(answer.parts(), { reasoning: "hm", content: "Hi!" });
  assert.deepEqual(answer.figures(), { first_s: 2, total_s: 4, tokens: 5, exact: true, tokens_per_s: 2 });
  assert.equal(answer.finish, "stop");
  assert.ok(answer.ended);
});

test("reasoning written into the text is taken apart, also before its end has come", () => {
  const answer = new Answer(0);
  answer.take(chunk({ content: "<think>one " }), 1);
  assert.deepEqual(answer.parts(), { reasoning: "one", content: "" });
  answer.take(chunk({ content: "two</think>\n\nDone <think>" }), 1);
  assert.deepEqual(answer.parts(), { reasoning: "one two", content: "Done <think>" });
});

test("nothing an upstream sends throws", () => {
  for (const data of ["", "null", "7", "\"x\"", "{", "[]", "{\"choices\":null}", "{\"choices\":[null]}", "{\"choices\":[{\"delta\":{\"content\":7,\"tool_calls\":7}}]}", "{\"choices\":[{\"delta\":{\"tool_calls\":[null,{}]}}]}"]) {
    const answer = new Answer(0);
    answer.take(data, 1);
    assert.equal(answer.content, "");
  }
  const answer = new Answer(0);
  answer.take("{\"error\":{\"message\":\"no room\",\"code\":\"queue_full\"}}", 1);
  assert.equal(answer.error, "no room (queue_full)");
  assert.equal(errorText("plain"), "plain");
});

test("load progress from comments and from events", () => {
  assert.deepEqual(loadComment("waiting for m, place 2"), { words: "waiting for m, place 2", percent: null });
  assert.equal(loadComment("keep-alive"), null);
  assert.deepEqual(loadEvent({ phase: "loading", percent: 43, eta_s: 1.2, elapsed_s: 3 }), { words: "loading, about 2 s left", percent: 43 });
  assert.deepEqual(loadEvent({ phase: "waiting", percent: null, eta_s: null, elapsed_s: 3.9, place: 2 }), { words: "waiting for room, place 2 in the queue, 3 s so far", percent: null });
});

test("code is told from text, closed or not, and HTML stays text", () => {
  assert.deepEqual(pieces("Hi\n\n```py\nx = '<b>'\n\n```\nbye <i>"), [
    { kind: "text", text: "Hi", language: "" },
    { kind: "code", text: "x = '<b>'\n", language: "py" },
    { kind: "text", text: "bye <i>", language: "" },
  ]);
  assert.deepEqual(pieces("~~~\na\n```\nb"), [{ kind: "code", text: "a\n```\nb", language: "" }]);
  assert.deepEqual(pieces("``` not `a` fence"), [{ kind: "text", text: "``` not `a` fence", language: "" }]);
  assert.deepEqual(pieces(""), []);
});
