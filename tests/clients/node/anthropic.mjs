// @anthropic-ai/sdk over a gateway: prints what it saw as JSON; test_node.py judges.
import Anthropic from "@anthropic-ai/sdk";

const [gateway, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL: gateway, apiKey, maxRetries: 0 });
const user = (content) => ({ role: "user", content });
const tools = [
  {
    name: "get_weather",
    description: "The weather",
    input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
];
const seen = {};

for (const model of ["claude", "talker"]) {
  const asking = { model, max_tokens: 100 };
  const whole = await client.messages.create({ ...asking, messages: [user("hello")] });
  const stream = client.messages.stream({ ...asking, messages: [user("hello")] });
  const places = user("the weather in Paris and in New York");
  const calling = await client.messages.stream({ ...asking, messages: [places], tools }).finalMessage();
  const calls = calling.content.filter((block) => block.type === "tool_use");
  const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: `sun in ${call.input.city}` }));
  const history = [places, { role: "assistant", content: calling.content }, user(results)];
  const told = await client.messages.create({ ...asking, messages: history, tools });
  seen[model] = {
    whole: whole.content[0].text,
    streamed: await stream.finalText(),
    stopped: calling.stop_reason,
    asked: calls.map((call) => call.input.city),
    told: told.content[0].text,
  };
}
try {
  await client.messages.create({ model: "nobody", max_tokens: 9, messages: [user("hello")] });
} catch (error) {
  seen.refused = { kind: error.constructor.name, status: error.status, type: error.error?.type };
}
console.log(JSON.stringify(seen));
