/* The load test: the same chat many times, some at once; latencies as they come in, and what they come to.
 *
 * The law: what is measured is what a caller in this browser sees, and the page says what a browser cannot do: over HTTP/1.1 it opens
 * six connections to one address, one of which is the live stream's, so no more than five requests run at once.
 */

import { stream } from "./api.js";
import { Chart, scatter } from "./charts.js";
import { h, perFrame, replace, text } from "./dom.js";
import { count, number, seconds } from "./format.js";
import { Answer } from "./playground_answer.js";
import { ModelField } from "./playground_models.js";
import { trimmed } from "./scales.js";
import { loadReport } from "./stats.js";
import { field, progress, setProgress, table } from "./ui.js";

const AT_ONCE = 5;
const MOST = 10_000;
const HEIGHT = 240;
const kept = { model: "", prompt: "Count from one to twenty in words.", requests: "20", atOnce: "2", tokens: "32", vary: true, results: [], elapsed_s: 0 };
const COLUMNS = [["least", "Least"], ["mean", "Mean"], ["p50", "p50"], ["p95", "p95"], ["p99", "p99"], ["most", "Most"]];

export class LoadTest {
  constructor({ models, announce, preferred }) {
    this.announce = announce;
    kept.model = preferred || kept.model || (models[0]?.id ?? "");
    this.field = new ModelField(models, { label: "Model", value: kept.model, onchange: () => (kept.model = this.field.value) });
    this.chart = new Chart({ title: "Latency of each request", height: HEIGHT, draw: (width) => this._plot(width) });
    this.draw = perFrame(() => this._draw());
    this._build();
    this._draw();
  }

  close() {
    this.stopping?.abort();
    this.draw.cancel();
    this.chart.close();
  }

  standing(states) {
    this.field.standing(states);
  }

  _build() {
    const figure = (name, label, most, hint) => field(label, h("input", { type: "number", min: "1", max: String(most), step: "1", value: kept[name],
      oninput: (event) => (kept[name] = event.target.value) }), hint);
    const prompt = h("textarea", { rows: "3", value: kept.prompt, oninput: () => (kept.prompt = prompt.value) });
    const vary = h("label", { class: "check" }, h("input", { type: "checkbox", checked: kept.vary, onchange: (event) => (kept.vary = event.target.checked) }),
      "number each prompt, so that no cache answers it");
    this.start = h("button", { type: "button", class: "primary", onclick: () => this._run() }, "Start");
    this.stop = h("button", { type: "button", class: "danger", disabled: true, onclick: () => this.stopping?.abort() }, "Stop");
    this.bar = progress("Requests done", 0);
    this.said = h("p", { role: "status", class: "dim" }, "Not started.");
    this.figures = table("Latencies", ["Latency", ...COLUMNS.map(([, name]) => ({ name, num: true }))]);
    this.errors = h("div");
    this.node = h("div", { class: "columns load-test" },
      h("section", { class: "card chat-fields" }, this.field.node, field("Prompt", prompt),
        h("div", { class: "pair three" }, figure("requests", "Requests", MOST), figure("atOnce", "At once", AT_ONCE), figure("tokens", "Most tokens", 100_000)),
        h("small", null, `A browser runs at most ${AT_ONCE} at once beside this page's live stream.`), vary, h("div", { class: "row" }, this.start, this.stop)),
      h("section", { class: "card" }, this.said, this.bar, this.chart.node,
        h("ul", { class: "legend" }, h("li", null, swatchOf("circle"), "first token"), h("li", null, swatchOf("square"), "whole answer"),
          h("li", null, h("i", { class: "tl-letter mk-bad", "aria-hidden": "true" }, "✕"), "failed")),
        this.figures.table, this.errors));
  }

  async _run() {
    const wanted = clamp(kept.requests, MOST);
    const atOnce = clamp(kept.atOnce, AT_ONCE);
    if (this.field.value === "") return void this.field.input.focus();
    if (this.stopping) return;
    this.stopping = new AbortController();
    Object.assign(kept, { results: [], elapsed_s: 0, wanted, from_s: performance.now() / 1000 });
    this.start.disabled = true;
    this.stop.disabled = false;
    let next = 0;
    const worker = async () => {
      while (next < wanted && !this.stopping.signal.aborted) {
        next += 1;
        await this._one(next);
        this.draw();
      }
    };
    const ticking = setInterval(this.draw, 500);
    await Promise.all(Array.from({ length: Math.min(atOnce, wanted) }, worker));
    clearInterval(ticking);
    this._ended();
  }

  _ended() {
    const stopped = this.stopping.signal.aborted;
    this.stopping = null;
    const had = document.activeElement === this.stop;
    this.start.disabled = false;
    this.stop.disabled = true;
    if (had) this.start.focus();
    this._draw();
    this.announce(`${stopped ? "Stopped" : "Done"}: ${count(kept.results.length, "request")}.`);
  }

  async _one(at) {
    const started_s = performance.now() / 1000;
    const answer = new Answer(started_s);
    const now_s = () => performance.now() / 1000;
    const content = kept.vary ? `${kept.prompt}\n(${at})` : kept.prompt;
    const body = { model: this.field.value, messages: [{ role: "user", content }], stream: true, stream_options: { include_usage: true },
      max_tokens: clamp(kept.tokens, 100_000) };
    const result = { from_s: started_s - kept.from_s, first_s: null, total_s: 0, error: "", tokens: 0 };
    try {
      await stream("/v1/chat/completions", body, { signal: this.stopping.signal, onEvent: ({ data }) => answer.take(data, now_s()) });
      result.error = answer.error && `in the stream: ${answer.error}`;
    } catch (error) {
      if (this.stopping.signal.aborted) return; // it was neither answered nor refused
      result.error = [error.status || "", error.code || error.message].filter(Boolean).join(" ");
    }
    const { first_s, tokens } = answer.figures();
    kept.results.push(Object.assign(result, { first_s, tokens, total_s: now_s() - started_s }));
    kept.elapsed_s = now_s() - kept.from_s;
  }

  _draw() {
    const report = loadReport(kept.results, kept.elapsed_s);
    const { wanted = 0 } = kept;
    setProgress(this.bar, wanted === 0 ? 0 : report.done / wanted);
    if (wanted > 0) text(this.said, progressWords(report, wanted, kept.elapsed_s));
    replace(this.figures.body, [["First token", report.first], ["Whole answer", report.total]].map(([name, one]) =>
      h("tr", null, h("th", { scope: "row" }, name), COLUMNS.map(([key]) => h("td", { class: "num" }, Number.isNaN(one[key]) ? "–" : seconds(one[key]))))));
    replace(this.errors, report.errors.map(([words, times]) => h("p", { class: "wrong" }, `${number(times)} × ${words}`)));
    this.chart.redraw();
  }

  _plot(width) {
    const good = kept.results.filter((result) => result.error === "");
    const bad = kept.results.filter((result) => result.error !== "");
    const series = [
      { name: "first token", shape: "circle", points: good.filter(({ first_s }) => first_s !== null).map(({ from_s, first_s }) => [from_s, first_s]) },
      { name: "whole answer", shape: "square", points: good.map(({ from_s, total_s }) => [from_s, total_s]) },
      { name: "failed", shape: "cross", points: bad.map(({ from_s, total_s }) => [from_s, total_s]) },
    ];
    const desc = `By the moment it was sent; ${good.length} answered, ${bad.length} failed. The table below has the percentiles.`;
    return scatter({ title: "Latency of each request", desc, width, height: HEIGHT, series, xMost: Math.max(1, kept.elapsed_s), format: axisSeconds, formatX: axisSeconds });
  }
}

function clamp(written, most) {
  const value = Math.floor(Number(written));
  return Number.isFinite(value) ? Math.max(1, Math.min(most, value)) : 1;
}

function axisSeconds(value) {
  return value === 0 ? "0" : trimmed(seconds(value));
}

function progressWords(report, wanted, elapsed_s) {
  const rates = [Number.isNaN(report.requests_per_s) ? "" : `${report.requests_per_s.toFixed(1)} requests/s`,
    Number.isNaN(report.tokens_per_s) ? "" : `${report.tokens_per_s.toFixed(1)} tokens/s`].filter(Boolean);
  const failed = report.done - report.good;
  return [`${number(report.done)} of ${number(wanted)}`, failed > 0 ? `${number(failed)} failed` : "none failed", `${seconds(elapsed_s)}`, ...rates].join(" · ");
}

function swatchOf(shape) {
  return h("i", { class: `dot ${shape}`, "aria-hidden": "true" });
}
