// openai-node over a gateway: prints what it saw as JSON; test_node.py judges.
import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [gateway, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${gateway}/v1`, apiKey, maxRetries: 0 });
const Person = z.object({ name: z.string(), age: z.number() });
const user = (content) => [{ role: "user", content }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const places = user("the weather in Paris and in New York");
const seen = {};

for (const model of ["talker", "claude"]) {
  const whole = await client.chat.completions.create({ model, messages: user("hello") });
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model, messages: user("hello"), stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  const parsed = await client.chat.completions.parse({
    model,
    messages: user("'Ann' is 41"),
    response_format: zodResponseFormat(Person, "person"),
  });
  const asked = [];
  const runner = client.chat.completions.runTools({
    model,
    messages: places,
    stream: true,
    tools: [
      {
        type: "function",
        function: {
          name: "get_weather",
          description: "The weather",
          parameters,
          parse: JSON.parse,
          function: ({ city }) => (asked.push(city), `sun in ${city}`),
        },
      },
    ],
  });
  const told = await runner.finalContent();

  const response = await client.responses.create({ model, input: "hello" });
  const numbers = [];
  const stream = client.responses.stream({ model, input: "hello" });
  for await (const event of stream) numbers.push(event.sequence_number);
  const object = await client.responses.parse({
    model,
    input: "'Ann' is 41",
    text: { format: zodTextFormat(Person, "person") },
  });
  const called = await client.responses.create({
    model,
    input: places,
    tools: [{ type: "function", name: "get_weather", parameters: { ...parameters, additionalProperties: false }, strict: true }],
  });
  seen[model] = {
    whole: whole.choices[0].message.content,
    usage: whole.usage.total_tokens > 0,
    streamed: text,
    parsed: parsed.choices[0].message.parsed,
    asked,
    told,
    response: response.output_text,
    response_streamed: (await stream.finalResponse()).output_text,
    numbered: numbers.every((number, index) => number === index) && numbers.length > 5,
    object: object.output_parsed,
    called: called.output.filter((item) => item.type === "function_call").map((item) => item.arguments),
  };
}

const vectors = await client.embeddings.create({ model: "vectors", input: ["one", "two"] });
const sound = Buffer.alloc(1_000_000, "sound");
const heard = await client.audio.transcriptions.create({ model: "ears", file: await toFile(sound, "a.wav") });
const heardStreamed = [];
const hearing = await client.audio.transcriptions.create({ model: "ears", file: await toFile(sound, "a.wav"), stream: true });
for await (const event of hearing) heardStreamed.push(event);
const speech = await client.audio.speech.create({ model: "voice", voice: "alloy", input: "hello" });
const drawn = await client.images.generate({ model: "painter", prompt: "a cat" });
const judged = await client.moderations.create({ model: "guard", input: "kill" });
const names = [];
for await (const model of client.models.list()) names.push(model.id);

const refusal = async (call) => {
  try {
    await call();
    return null;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, id: Boolean(error.requestID) };
  }
};
seen.vectors = vectors.data.map((each) => each.embedding.length);
seen.heard = heard.text;
seen.heard_streamed = heardStreamed.at(-1).text;
seen.speech = (await speech.arrayBuffer()).byteLength;
seen.drawn = Buffer.from(drawn.data[0].b64_json, "base64").toString("latin1").endsWith("a cat");
seen.judged = judged.results[0].flagged;
seen.models = names;
seen.refused = {
  model: await refusal(() => client.chat.completions.create({ model: "nobody", messages: user("hello") })),
  streamed: await refusal(() => client.chat.completions.create({ model: "nobody", messages: user("hello"), stream: true })),
  body: await refusal(() => client.chat.completions.create({ model: "talker", messages: [] })),
  key: await refusal(() => new OpenAI({ baseURL: `${gateway}/v1`, apiKey: "wrong" }).models.list()),
  untold: await refusal(() => client.chat.completions.create({ model: "claude", messages: user("hello"), n: 2 })),
};

// leaving midway
const going = await client.chat.completions.create({ model: "talker", messages: user("go on"), stream: true });
for await (const chunk of going) if (chunk.choices[0].delta.content) break;
seen.left = going.controller.signal.aborted;

console.log(JSON.stringify(seen));
