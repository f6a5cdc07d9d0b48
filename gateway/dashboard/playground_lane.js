/* One conversation with one model: its turns, the answer as it streams in, its figures. Chat has one lane, compare has two.
 *
 * The law: a stream is drawn at most once per frame; stopping and failing end it, leaving the page does not; what had come stays readable.
 */

import { stream } from "./api.js";
import { h, perFrame, replace, text } from "./dom.js";
import { age, number, seconds } from "./format.js";
import { Answer } from "./playground_answer.js";
import { chatBody } from "./playground_request.js";
import { drawText } from "./playground_text.js";
import { progress, setProgress, toast } from "./ui.js";

export class Lane {
  /** `field`: a ModelField; `turns`: what was said before, kept by who made the lane; `label` tells two lanes apart. */
  constructor({ field, turns, label, announce }) {
    this.field = field;
    this.turns = turns;
    this.announce = announce;
    this.log = h("div", { class: "talk", tabindex: "0", role: "region", "aria-label": label });
    this.node = h("div", { class: "lane" }, h("div", { class: "lane-head" }, field.node), this.log);
    this.stopping = null;
    this.cleared = 0;
    turns.forEach((turn) => this._append(turn));
    this._nothing();
  }

  /** Another page is looked at: the place in the conversation is kept, which a node that is taken out forgets. */
  leave() {
    this.place = this._follows ? null : this.log.scrollTop;
  }

  back() {
    this.log.scrollTop = this.place ?? this.log.scrollHeight;
  }

  get _follows() {
    return this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 40;
  }

  get isBusy() {
    return this.stopping !== null;
  }

  clear() {
    this.stop();
    this.cleared += 1;
    this.turns.length = 0;
    replace(this.log);
    this._nothing();
  }

  stop() {
    this.stopping?.abort();
  }

  /** Ask with one more turn (null: the last answer anew). Resolves when the answer has ended, however it did; throws where the fields are wrong. */
  async ask(turn, system, settings) {
    const turns = turn === null ? this.turns.slice(0, -1) : [...this.turns, turn];
    const body = chatBody(this.field.value, system, turns, settings);
    if (turn === null) {
      this.turns.pop();
      this.log.lastElementChild.remove();
    } else {
      this.turns.push(turn);
      this._append(turn);
    }
    const answered = { role: "assistant", content: "", reasoning: "", model: body.model, figures: null, error: "", stopped: false };
    const drawn = this._append(answered);
    this.log.scrollTop = this.log.scrollHeight;
    this.stopping = new AbortController();
    try {
      await this._stream(body, answered, drawn);
    } finally {
      this.stopping = null;
    }
  }

  async _stream(body, answered, drawn) {
    const now_s = () => performance.now() / 1000;
    const answer = new Answer(now_s());
    const { signal } = this.stopping;
    const { cleared } = this;
    const draw = perFrame(() => this._update(drawn, answered, answer));
    const ticking = setInterval(draw, 250); // the seconds of a load
    try {
      await stream("/v1/chat/completions", body, { signal, headers: { "x-roundhouse-progress": "events" },
        onComment: (comment) => (answer.hear(comment), draw()), onEvent: ({ data }) => (answer.take(data, now_s()), draw()) });
      if (!answer.ended && answer.finish === "" && answer.error === "") answer.error = "The stream ended without saying that it is done.";
    } catch (error) {
      if (signal.aborted) answered.stopped = true;
      else answer.error = refusal(error);
    } finally {
      clearInterval(ticking);
      draw.cancel();
    }
    answer.load = null;
    answered.done = true;
    this._update(drawn, answered, answer);
    if (cleared === this.cleared) this.turns.push(answered); // else it belongs to what was cleared away
    this.announce(answered.stopped ? "Stopped." : answered.error ? `Failed: ${answered.error}` : `${body.model} has answered.`);
  }

  _update(drawn, answered, answer) {
    Object.assign(answered, answer.parts(), { figures: answer.figures(), error: answer.error, finish: answer.finish });
    answered.load = answer.load;
    answered.waiting_s = answer.first_s === null && !answered.done ? performance.now() / 1000 - answer.started_s : null;
    const follows = this._follows;
    drawn(answered);
    if (follows) this.log.scrollTop = this.log.scrollHeight;
  }

  _append(turn) {
    this.log.querySelector(".talk-empty")?.remove();
    const { node, draw } = turn.role === "user" ? said(turn) : answerNode();
    this.log.append(node);
    draw(turn);
    return draw;
  }

  _nothing() {
    if (this.log.children.length > 0) return;
    this.log.append(h("p", { class: "talk-empty dim" }, "Nothing has been said yet. A cold model is loaded by the first message."));
  }
}

/** What went wrong before the first byte, with what may be done. */
function refusal(error) {
  const code = error.code ? ` (${error.status} ${error.code})` : error.status ? ` (${error.status})` : "";
  const again = Number.isFinite(error.retryAfterS) ? ` Try again in ${seconds(error.retryAfterS)}.` : "";
  return `${error.message}${code}${again}`;
}

async function copied(words) {
  try {
    await navigator.clipboard.writeText(words);
    toast("Copied", "ok");
  } catch {
    toast("Without https the browser has no clipboard for this page: select it and press Ctrl+C");
  }
}

function said(turn) {
  const body = h("div", { class: "said" });
  const pictures = (turn.pictures ?? []).map((url, i) => h("img", { src: url, alt: `Picture ${i + 1} of this message` }));
  const node = h("article", { class: "turn turn-user" }, h("h2", null, "You"), pictures.length > 0 && h("div", { class: "pictures" }, pictures), body);
  return { node, draw: () => drawText(body, turn.content, h, copied) };
}

function answerNode() {
  const who = h("h2");
  const thoughts = h("div", { class: "said" });
  const summary = h("summary", null, "Reasoning");
  const reasoning = h("details", { class: "reasoning", hidden: true }, summary, thoughts);
  const bar = progress("Loading", NaN);
  const waiting = h("div", { class: "load-line", hidden: true }, h("span"), bar);
  const body = h("div", { class: "said" });
  const error = h("p", { class: "wrong", role: "alert", hidden: true });
  const figures = h("p", { class: "figures dim" });
  const copy = h("button", { type: "button", class: "quiet small", hidden: true }, "Copy");
  const node = h("article", { class: "turn" }, h("div", { class: "turn-head" }, who, copy), waiting, reasoning, body, error, figures);
  let latest = null;
  copy.addEventListener("click", () => copied(latest.content));
  const draw = (turn) => {
    latest = turn;
    text(who, turn.model);
    drawWaiting(waiting, bar, turn);
    reasoning.hidden = turn.reasoning === "";
    if (turn.reasoning !== "") drawText(thoughts, turn.reasoning, h, copied);
    text(summary, turn.content === "" && !turn.done ? "Reasoning …" : "Reasoning");
    drawText(body, turn.content, h, copied);
    error.hidden = turn.error === "";
    text(error, turn.error);
    text(figures, figureWords(turn));
    copy.hidden = turn.content === "" || !turn.done;
    node.classList.toggle("writing", !turn.done);
  };
  return { node, draw };
}

function drawWaiting(node, bar, turn) {
  const waits = turn.waiting_s !== null && turn.waiting_s !== undefined;
  node.hidden = !waits;
  if (!waits) return;
  text(node.firstChild, turn.load?.words ?? `waiting for the first token, ${age(turn.waiting_s)}`);
  setProgress(bar, turn.load?.percent === null || turn.load === null || turn.load === undefined ? NaN : turn.load.percent / 100);
}

/** "first token after 120 ms · 34 tokens · 41.2 tokens/s · 0.95 s in all · stopped". Pure. */
export function figureWords({ figures, stopped, finish, done }) {
  if (!figures) return "";
  const { first_s, total_s, tokens, exact, tokens_per_s } = figures;
  return [
    first_s !== null && `first token after ${seconds(first_s)}`,
    tokens > 0 && `${exact ? "" : "about "}${number(tokens)} tokens`,
    tokens_per_s !== null && `${tokens_per_s.toFixed(1)} tokens/s`,
    done && total_s !== null && `${seconds(total_s)} in all`,
    stopped && "stopped",
    done && finish && finish !== "stop" && (finish === "length" ? "cut off: it may have no more tokens" : `ended: ${finish}`),
  ].filter(Boolean).join(" · ");
}
