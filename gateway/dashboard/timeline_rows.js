/* The timeline's drawing: the axis, a row per target with its spans, marks and requests, and the same as a table.
 *
 * The law: what is drawn is a button that says in words what it is; a span has a colour and a pattern, a mark a shape.
 */

import { spark } from "./charts.js";
import { h, replace } from "./dom.js";
import { clock, count, moment, seconds } from "./format.js";
import { timeTicks } from "./scales.js";
import { clipped, grouped, perStep, spanWords, stepsPlace } from "./timeline_layout.js";
import { table } from "./ui.js";

const NEAR = 0.008; // of the width: marks nearer together are one
const STEPS = 180; // small columns of requests, at most

/** What happened → its shape's class and letter. */
const MARKS = {
  load_started: ["load", "▲"],
  loaded: ["load", "▲"],
  found: ["load", "▲"],
  restored: ["load", "▲"],
  load_failed: ["bad", "✕"],
  died: ["bad", "✕"],
  rejected: ["bad", "✕"],
  draining: ["evict", "▼"],
  evicted: ["evict", "▼"],
  unload_started: ["evict", "▼"],
  gone: ["evict", "▼"],
  pinned: ["pin", "◆"],
  unpinned: ["pin", "◇"],
};
export const LEGEND = { phases: ["loading", "ready", "draining", "unloading"],
  marks: [["load", "▲", "load"], ["evict", "▼", "unload, eviction"], ["bad", "✕", "failure"], ["pin", "◆", "pin"]] };

/** The ruler at the top: round moments, in this machine's zone. */
export function axis(view, width) {
  const zone_s = -new Date(view.from_s * 1000).getTimezoneOffset() * 60;
  const { step_s, at_s } = timeTicks(view.from_s, view.to_s, Math.max(2, Math.floor(width / 84)), zone_s);
  const words = (at) => (step_s >= 86400 ? moment(at).slice(5, 10) : clock(at).slice(0, step_s < 60 ? 8 : 5));
  return at_s.map((at) => h("span", { class: "tl-tick", style: { left: `${place(at, view) * 100}%` } }, words(at)));
}

/** The vertical lines that go with it. */
export function lines(view, width) {
  const zone_s = -new Date(view.from_s * 1000).getTimezoneOffset() * 60;
  return timeTicks(view.from_s, view.to_s, Math.max(2, Math.floor(width / 84)), zone_s).at_s.map((at) =>
    h("i", { class: "tl-line", style: { left: `${place(at, view) * 100}%` } }));
}

function place(at_s, view) {
  return (at_s - view.from_s) / (view.to_s - view.from_s);
}

/** An empty row; `drawRow` fills it. */
export function makeRow(row) {
  return h("div", { class: row.spans.length + row.marks.length > 0 ? "tl-row" : "tl-row tl-elsewhere", role: "group" },
    h("div", { class: "tl-name" }, h("strong", { title: row.target }, row.model), h("small")),
    h("div", { class: "tl-track" }, h("div", { class: "tl-back", "aria-hidden": "true" }), h("div", { class: "tl-spans" }),
      h("div", { class: "tl-marks" }), h("div", { class: "tl-spark" })));
}

export function drawRow(node, row, { view, now_s, width, most }) {
  const [name, track] = node.children;
  const [back, spans, marks, band] = track.children;
  const steps = perStep(row.counts, view, STEPS);
  const asked = steps.counts.reduce((sum, value) => sum + value, 0);
  const inMemory = row.spans.reduce((sum, span) => sum + (span.phase === "ready" ? (clipped(span, view)?.width ?? 0) : 0), 0);
  const share = row.spans.length > 0 ? (inMemory > 0 ? `ready ${percent(inMemory)}` : "not in memory") : row.marks.length > 0 ? "not in memory" : "elsewhere";
  node.setAttribute("aria-label", `${row.model}: ${share}, ${count(asked, "request")}`);
  name.lastChild.textContent = `${share} · ${count(asked, "request")}`;
  replace(back, lines(view, width));
  replace(spans, row.spans.map((span) => drawSpan(span, row, view, now_s)));
  replace(marks, grouped(row.marks, view, NEAR).map((group) => drawMarks(group, row)));
  const { left, width: wide } = stepsPlace(steps, view);
  replace(band, asked > 0 && h("div", { style: { left: `${left * 100}%`, width: `${wide * 100}%` } }, spark(steps.counts, most * (steps.step_s / 60))));
  band.title = asked > 0 ? `${count(asked, "request")}, per ${steps.step_s === 60 ? "minute" : `${steps.step_s / 60} minutes`}` : "";
}

function drawSpan(span, row, view, now_s) {
  const shown = clipped(span, view);
  if (shown === null) return null;
  const words = `${row.model}: ${spanWords(span, now_s, clock, seconds)}`;
  return h("button", { type: "button", tabindex: "-1", class: `tl-span ph-${span.phase}`, "aria-label": words, dataset: { words, at: span.from_s },
    style: { left: `${(shown.left * 100).toFixed(3)}%`, width: `${(shown.width * 100).toFixed(3)}%` } });
}

function drawMarks({ left, marks }, row) {
  const worst = marks.find(({ what }) => MARKS[what]?.[0] === "bad") ?? marks.at(-1);
  const [kind, letter] = MARKS[worst.what] ?? ["other", "●"];
  const words = marks.map((mark) => `${clock(mark.at_s)} ${mark.words || `${mark.what.replaceAll("_", " ")} ${row.model}`}`).join("\n");
  return h("button", { type: "button", tabindex: "-1", class: `tl-mark mk-${kind}`, "aria-label": words, dataset: { words, at: marks[0].at_s },
    style: { left: `${(left * 100).toFixed(3)}%` } }, h("span", { "aria-hidden": "true" }, letter));
}

function percent(share) {
  return share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(share * 100)} %`;
}

/** The most requests in one minute of any row: all bands have this scale. */
export function busiest(rows, view) {
  let most = 1;
  for (const { counts } of rows) {
    const { step_s, counts: steps } = perStep(counts, view, STEPS);
    for (const value of steps) most = Math.max(most, value / (step_s / 60));
  }
  return most;
}

/** Everything in the view as words, in time's order. */
export function asTable(rows, view, now_s) {
  const made = table("What was in memory", ["From", "Model", "What"]);
  const found = [];
  for (const row of rows) {
    for (const span of row.spans) if (clipped(span, view) !== null) found.push([span.from_s, row, spanWords(span, now_s, clock, seconds)]);
    for (const mark of row.marks) if (mark.at_s >= view.from_s && mark.at_s <= view.to_s) found.push([mark.at_s, row, mark.words || mark.what]);
  }
  found.sort((a, b) => b[0] - a[0]);
  replace(made.body, found.slice(0, 2000).map(([at_s, row, words]) => h("tr", null, h("td", { class: "nowrap" }, moment(at_s)),
    h("td", { class: "name" }, row.model), h("td", null, words))));
  return made.table;
}
