/* What the playground sends: the body of a chat, from the fields as they are filled in. Pure.
 *
 * The law: a field that is empty is not sent; what is written under "more" is sent as it is, last.
 */

/** The numbers that can be set: [name of the field on the wire, label, step, least, most]. */
export const PARAMETERS = [
  ["temperature", "Temperature", 0.1, 0, 2],
  ["top_p", "Top p", 0.05, 0, 1],
  ["max_tokens", "Most tokens", 1, 1, 1_000_000],
  ["seed", "Seed", 1, 0, 2 ** 31],
];

/** The turns so far as messages: a system prompt, texts, and pictures as data URLs. */
export function messages(system, turns) {
  const all = system.trim() === "" ? [] : [{ role: "system", content: system }];
  for (const turn of turns) {
    if (turn.role === "assistant") all.push({ role: "assistant", content: turn.content });
    else if (turn.pictures?.length > 0) all.push({ role: "user", content: parts(turn) });
    else all.push({ role: "user", content: turn.content });
  }
  return all;
}

function parts({ content, pictures }) {
  const text = content === "" ? [] : [{ type: "text", text: content }];
  return [...text, ...pictures.map((url) => ({ type: "image_url", image_url: { url } }))];
}

/** The whole body. Throws an Error with words for the reader where "more" is not a JSON object or a number is none. */
export function chatBody(model, system, turns, settings) {
  const body = { model, messages: messages(system, turns), stream: true, stream_options: { include_usage: true } };
  for (const [name, label] of PARAMETERS) {
    const written = (settings[name] ?? "").trim();
    if (written === "") continue;
    const value = Number(written);
    if (!Number.isFinite(value)) throw new Error(`${label} must be a number, not “${written}”.`);
    body[name] = value;
  }
  return { ...body, ...more(settings.more ?? "") };
}

function more(written) {
  if (written.trim() === "") return {};
  let value;
  try {
    value = JSON.parse(written);
  } catch (error) {
    throw new Error(`“More, as JSON” cannot be read: ${error.message}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("“More, as JSON” must be an object, as {\"top_k\": 40}.");
  return value;
}

/** The same request as a command to paste into a shell. `origin`: the gateway's address; pictures are left out. */
export function asCurl(origin, body) {
  const short = JSON.stringify(body, (_, value) => (typeof value === "string" && value.startsWith("data:") ? `${value.slice(0, 40)}…` : value), 2);
  const head = `curl ${origin}v1/chat/completions \\\n  -H 'content-type: application/json' \\\n  -H "authorization: Bearer $ROUNDHOUSE_KEY" \\\n`;
  return `${head}  -d '${short.replaceAll("'", "'\\''")}'`;
}
