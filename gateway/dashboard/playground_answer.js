/* A streamed answer as it comes in: text and reasoning apart, load progress, figures. Pure: time is an argument.
 *
 * The law: whatever an upstream sends, this never throws; what it cannot read it keeps as an error that can be shown.
 *
 * Source: OpenAI's chat completion chunks; `reasoning_content` (DeepSeek, llama.cpp, vLLM),
 * `reasoning` (OpenRouter, Ollama); a chunk with {"roundhouse": {"load": …}} is this gateway's own, as is `: loading NAME 43% eta 2s`.
 */

/** What one answer has come to. `started_s`: when it was asked for, by the clock whose readings `take` gets. */
export class Answer {
  constructor(started_s) {
    this.started_s = started_s;
    this.first_s = null; // the first token, of reasoning or text
    this.last_s = null;
    this.content = "";
    this.reasoning = "";
    this.chunks = 0;
    this.usage = null;
    this.finish = "";
    this.error = "";
    this.load = null; // {words, percent} while its model is waited for
    this.ended = false;
  }

  /** A comment of the stream. */
  hear(comment) {
    if (this.first_s === null) this.load = loadComment(comment) ?? this.load;
  }

  /** The data of an event. */
  take(data, now_s) {
    if (data === "[DONE]") return void (this.ended = true);
    const chunk = parsed(data);
    if (chunk === null) return void (this.error ||= "An event of the stream is not JSON.");
    if (chunk.error) return void (this.error = errorText(chunk.error));
    if (chunk.roundhouse?.load && this.first_s === null) this.load = loadEvent(chunk.roundhouse.load);
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice) this._choice(choice, now_s);
  }

  _choice(choice, now_s) {
    const delta = choice.delta ?? choice.message ?? {};
    const content = textOf(delta.content) || textOf(choice.text);
    const reasoning = textOf(delta.reasoning_content) || textOf(delta.reasoning);
    const calls = Array.isArray(delta.tool_calls) ? delta.tool_calls.map(callText).join("") : "";
    if (choice.finish_reason) this.finish = choice.finish_reason;
    if (content + reasoning + calls === "") return;
    this.chunks += 1;
    this.first_s ??= now_s;
    this.last_s = now_s;
    this.load = null;
    this.content += content + calls;
    this.reasoning += reasoning;
  }

  /** The text and the reasoning, where a model writes its reasoning into the text: `<think>…</think>`. */
  parts() {
    const found = /^\s*<think(?:ing)?>([\s\S]*?)(?:<\/think(?:ing)?>\s*|$)/.exec(this.content);
    if (found === null) return { reasoning: this.reasoning, content: this.content };
    return { reasoning: this.reasoning + found[1].trim(), content: this.content.slice(found[0].length) };
  }

  /** {first_s, total_s, tokens, tokens_per_s}: null where it cannot be told; without a usage each chunk counts as a token. */
  figures() {
    const exact = this.usage?.completion_tokens;
    const tokens = exact ?? this.chunks;
    const span_s = this.first_s === null ? 0 : this.last_s - this.first_s;
    return {
      first_s: this.first_s === null ? null : this.first_s - this.started_s,
      total_s: this.last_s === null ? null : this.last_s - this.started_s,
      tokens,
      exact: exact !== undefined,
      tokens_per_s: tokens > 1 && span_s > 0 ? (tokens - 1) / span_s : null,
    };
  }
}

/** `loading smollm2 43% eta 2s` → {words, percent}; null: a comment that says nothing of a load. */
export function loadComment(text) {
  if (!/^(loading|waiting for|starting over) /.test(text)) return null;
  const percent = / (\d{1,3})% /.exec(`${text} `);
  return { words: text, percent: percent === null ? null : Number(percent[1]) };
}

/** The same from a progress event. */
export function loadEvent(load) {
  const phase = String(load.phase ?? "loading").replaceAll("_", " ");
  const place = load.place ? `, place ${load.place} in the queue` : "";
  const left = typeof load.eta_s === "number" ? `, about ${Math.ceil(load.eta_s)} s left` : "";
  const elapsed = left === "" && typeof load.elapsed_s === "number" ? `, ${Math.floor(load.elapsed_s)} s so far` : "";
  const percent = typeof load.percent === "number" ? load.percent : null;
  return { words: `${phase === "waiting" ? "waiting for room" : phase}${place}${left}${elapsed}`, percent };
}

/** What an error says, whichever form it has: {"error": {"message", "code"}}, {"error": "…"}, {"detail": "…"}. */
export function errorText(error) {
  if (typeof error === "string") return error;
  const message = error?.message ?? error?.error?.message ?? error?.detail ?? "";
  const code = error?.code ?? error?.error?.code ?? "";
  return [String(message) || "The upstream said no more than that it failed.", code ? `(${code})` : ""].join(" ").trim();
}

/** JSON, or null. */
export function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function callText(call) {
  const named = call?.function?.name ? `\n[calls ${call.function.name}] ` : "";
  return named + textOf(call?.function?.arguments);
}

function textOf(value) {
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map((part) => (typeof part?.text === "string" ? part.text : "")).join("");
  return "";
}
