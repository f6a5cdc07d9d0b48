/* Embeddings: lines of text in, how near each is to each out (cosine). */

import { h, replace, text } from "./dom.js";
import { count, number, seconds } from "./format.js";
import { ModelField, embeds } from "./playground_models.js";
import { cosines } from "./stats.js";
import { busy, field } from "./ui.js";

const MOST_LINES = 40;
const kept = { model: "", lines: "The cat sat on the mat.\nA kitten rests on a rug.\nThe stock market fell today." };

export class Embed {
  constructor({ models, api, preferred }) {
    this.api = api;
    const able = [...models.filter(embeds), ...models.filter((model) => !embeds(model))];
    kept.model = preferred || kept.model || (able[0]?.id ?? "");
    this.field = new ModelField(able, { label: "Model", value: kept.model, onchange: () => (kept.model = this.field.value) });
    this.lines = h("textarea", { rows: "8", value: kept.lines, oninput: () => (kept.lines = this.lines.value) });
    this.button = h("button", { type: "button", class: "primary", onclick: () => busy(this.button, () => this._embed()) }, "Embed");
    this.said = h("p", { class: "dim", role: "status" });
    this.result = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Cosine similarity", hidden: true });
    this.node = h("div", { class: "columns" },
      h("section", { class: "card chat-fields" }, this.field.node,
        field("Texts, one a line", this.lines, `At most ${MOST_LINES}.`), h("div", { class: "row" }, this.button)),
      h("section", { class: "card" }, h("h2", null, "Cosine similarity"), this.said, this.result));
    text(this.said, "1 is the same direction, 0 is unrelated, −1 is opposite.");
  }

  close() {
    this.asking?.abort();
  }

  standing(states) {
    this.field.standing(states);
  }

  async _embed() {
    const input = this.lines.value.split("\n").map((line) => line.trim()).filter((line) => line !== "").slice(0, MOST_LINES);
    if (this.field.value === "") return this.field.input.focus();
    if (input.length === 0) return this.lines.focus();
    this.asking = new AbortController();
    text(this.said, "Asking …");
    const from = performance.now();
    try {
      const answer = await this.api.post("/v1/embeddings", { model: this.field.value, input }, { signal: this.asking.signal });
      this._draw(input, answer, (performance.now() - from) / 1000);
    } catch (error) {
      this.result.hidden = true;
      text(this.said, `${error.message}${error.code ? ` (${error.code})` : ""}`);
    }
  }

  _draw(input, answer, took_s) {
    const vectors = [...answer.data].sort((a, b) => a.index - b.index).map(({ embedding }) => embedding);
    const tokens = answer.usage?.prompt_tokens;
    const dimensions = number(vectors[0]?.length ?? 0);
    text(this.said, `${count(vectors.length, "vector")} of ${dimensions} dimensions in ${seconds(took_s)}${tokens ? `, ${count(tokens, "token")}` : ""}`);
    this.result.hidden = false;
    replace(this.result, matrix(input, cosines(vectors)));
  }
}

function matrix(input, values) {
  const head = h("tr", null, h("td"), input.map((line, i) => h("th", { scope: "col", class: "num", title: line }, String(i + 1))));
  const rows = values.map((row, i) => h("tr", null, h("th", { scope: "row", class: "matrix-name", title: input[i] }, `${i + 1}  ${input[i]}`),
    row.map((value) => h("td", { class: "num heat", style: { "--heat": `${Math.round(Math.max(0, value || 0) * 100)}%` } },
      Number.isNaN(value) ? "–" : value.toFixed(3).replace("-", "−")))));
  return h("table", { class: "matrix" }, h("caption", { class: "unseen" }, "Cosine similarity of each text with each"),
    h("thead", null, head), h("tbody", null, rows));
}
