// The AI SDK with its provider for compatible servers: prints what it saw as JSON; test_node.py judges.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const [gateway, apiKey] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "roundhouse",
  baseURL: `${gateway}/v1`,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const schema = z.object({ name: z.string(), age: z.number() });
const seen = {};

for (const name of ["talker", "claude"]) {
  const model = provider.chatModel(name);
  const common = { model, maxRetries: 0 };
  const whole = await generateText({ ...common, system: "Be kind", prompt: "hello" });
  const stream = streamText({ ...common, prompt: "hello" });
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  const object = await generateObject({ ...common, schema, prompt: "'Ann' is 41" });
  const growing = streamObject({ ...common, schema, prompt: "'Ann' is 41" });
  let grown = 0;
  for await (const _ of growing.partialObjectStream) grown += 1;
  const asked = [];
  const tools = {
    get_weather: tool({
      description: "The weather",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => (asked.push(city), `sun in ${city}`),
    }),
  };
  const prompt = "the weather in Paris and in New York";
  const told = await generateText({ ...common, tools, stopWhen: stepCountIs(3), prompt });
  const streamedTools = streamText({ ...common, tools, stopWhen: stepCountIs(3), prompt });
  const toldStreamed = await streamedTools.text;
  seen[name] = {
    whole: whole.text,
    ended: whole.finishReason,
    usage: whole.usage.totalTokens > 0,
    pieces: pieces.length > 2,
    streamed: pieces.join(""),
    stream_usage: (await stream.usage).totalTokens > 0,
    object: object.object,
    object_streamed: await growing.object,
    grown: grown > 2,
    asked: [...asked].sort(),
    told: told.text,
    told_streamed: toldStreamed,
  };
}
const thought = await generateText({ model: provider.chatModel("thinker"), prompt: "hello" });
const embedded = await embedMany({ model: provider.embeddingModel("vectors"), values: ["one", "two"] });
seen.thought = thought.reasoningText;
seen.vectors = embedded.embeddings.map((each) => each.length);
try {
  await generateText({ model: provider.chatModel("nobody"), prompt: "hello", maxRetries: 0 });
} catch (error) {
  seen.refused = { status: error.statusCode, message: error.message };
}
console.log(JSON.stringify(seen));
