/* Charts as SVG by our own hand: stacked columns, a band of small columns, points over time. No library.
 *
 * The law: a chart has a name, a description and a table of the same figures; colour is never alone (a pattern, a shape, an order);
 * what can be pointed at can be reached by arrow keys.
 */

import { h, replace, set, svg, text } from "./dom.js";
import { linear, ticks } from "./scales.js";

const MARGIN = { top: 10, right: 18, bottom: 24, left: 52 };
const PATTERNS = ["", "M-1,1 l2,-2 M0,8 l8,-8 M7,9 l2,-2", "M2,2 h2 v2 h-2z M6,6 h2 v2 h-2z", "M0,4 h8", "M4,0 v8", "M-1,7 l2,2 M0,0 l8,8 M7,-1 l2,2",
  "M0,2 h8 M0,6 h8", "M0,4 h8 M4,0 v8"];
let charts = 0;

/** A figure that redraws itself when its width changes. `draw(width)` → {node, points: [{x, y, words}]}, the points from left to right. */
export class Chart {
  constructor({ title, height, draw }) {
    charts += 1;
    this.draw = draw;
    this.at = -1;
    this.points = [];
    this.tip = h("div", { class: "tip", hidden: true, role: "status" });
    this.stage = h("div", { class: "chart-stage", tabindex: "0", role: "group", "aria-label": `${title}. Left and right arrows read it column by column.`,
      style: { height: `${height}px` }, onkeydown: (event) => this._key(event), onblur: () => this._point(-1),
      onpointermove: (event) => this._near(event.clientX), onpointerleave: () => this._point(-1) });
    this.node = h("div", { class: "chart" }, this.stage, this.tip);
    this.sized = new ResizeObserver(() => this.redraw());
    this.sized.observe(this.node);
  }

  redraw() {
    const width = this.node.clientWidth;
    if (width === 0) return;
    const { node, points } = this.draw(width);
    this.points = points;
    replace(this.stage, node);
    if (this.at >= points.length) this._point(-1);
  }

  close() {
    this.sized.disconnect();
  }

  _key(event) {
    const last = this.points.length - 1;
    const to = { ArrowRight: this.at + 1, ArrowLeft: this.at < 0 ? last : this.at - 1, Home: 0, End: last, Escape: -1 }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this._point(to < 0 && event.key !== "Escape" ? 0 : Math.min(last, to));
  }

  _near(clientX) {
    const x = clientX - this.stage.getBoundingClientRect().left;
    let best = -1;
    this.points.forEach((point, i) => {
      if (best < 0 || Math.abs(point.x - x) < Math.abs(this.points[best].x - x)) best = i;
    });
    this._point(best);
  }

  _point(at) {
    this.at = at;
    const point = this.points[at];
    this.tip.hidden = point === undefined;
    for (const node of this.stage.querySelectorAll("[data-at]")) node.classList.toggle("pointed", Number(node.dataset.at) === at);
    if (point === undefined) return;
    replace(this.tip, point.words.map((line, i) => h(i === 0 ? "strong" : "div", null, line)));
    const right = point.x > this.node.clientWidth / 2;
    set(this.tip, "style", { left: right ? "auto" : `${point.x + 14}px`, right: right ? `${this.node.clientWidth - point.x + 14}px` : "auto" });
  }
}

/** Columns, one over the other. `series`: [{name, values}]; `labels`: one per column; `words(i)`: what is said of a column. */
export function stackedColumns({ title, desc, width, height, labels, series, format, whole, words }) {
  const sums = labels.map((_, i) => series.reduce((sum, { values }) => sum + values[i], 0));
  const marks = ticks(Math.max(0, ...sums), 4, whole);
  const y = linear([0, marks.at(-1)], [height - MARGIN.bottom, MARGIN.top]);
  const step = (width - MARGIN.left - MARGIN.right) / Math.max(1, labels.length);
  const x = (i) => MARGIN.left + i * step;
  const thick = Math.max(1, Math.min(48, step * 0.78));
  const columns = labels.map((_, i) => column(series, i, { y, x: x(i) + (step - thick) / 2, thick }));
  const every = Math.max(1, Math.ceil(64 / step));
  const named = labels.map((label, i) => ((labels.length - 1 - i) % every === 0 ? svg("text", { class: "tick", x: x(i) + step / 2,
    y: height - 7, "text-anchor": "middle" }, label) : null));
  const bands = labels.map((_, i) => svg("rect", { class: "band", "data-at": i, x: x(i), y: MARGIN.top, width: step,
    height: height - MARGIN.bottom - MARGIN.top }));
  const node = picture({ title, desc, width, height }, definitions(), bands, grid(marks, y, width, format), columns, named);
  return { node, points: labels.map((_, i) => ({ x: x(i) + step / 2, y: y(sums[i]), words: words(i) })) };
}

function column(series, i, { y, x, thick }) {
  let below = 0;
  return series.map(({ values }, at) => {
    const top = y(below + values[i]);
    const tall = y(below) - top;
    below += values[i];
    if (!(tall > 0)) return null;
    const box = { x, y: top, width: thick, height: Math.max(tall - (tall > 3 ? 1 : 0), 0.5) };
    return [svg("rect", { class: `fill c${(at % 8) + 1}`, ...box }), at % 8 > 0 && svg("rect", { fill: `url(#stripes-${at % 8})`, ...box })];
  });
}

/** Points over time in several shapes. `series`: [{name, shape: "circle"|"square"|"cross", points: [[x, y]]}]. */
export function scatter({ title, desc, width, height, series, xMost, format, formatX }) {
  const most = Math.max(0, ...series.map(({ points }) => points.reduce((top, point) => Math.max(top, point[1]), 0)));
  const marks = ticks(most, 4);
  const y = linear([0, marks.at(-1)], [height - MARGIN.bottom, MARGIN.top]);
  const xMarks = ticks(xMost, Math.max(2, Math.floor(width / 120)));
  const x = linear([0, xMarks.at(-1)], [MARGIN.left, width - MARGIN.right - 6]);
  const dots = series.map(({ shape, points }, at) => points.map(([px, py]) => mark(shape, x(px), y(py), `c${at + 1}`)));
  const named = xMarks.map((tick) => svg("text", { class: "tick", x: x(tick), y: height - 7, "text-anchor": "middle" }, formatX(tick)));
  return { node: picture({ title, desc, width, height }, grid(marks, y, width, format), dots, named), points: [] };
}

function mark(shape, x, y, colour) {
  if (shape === "circle") return svg("circle", { class: `mark ${colour}`, cx: x, cy: y, r: 3.5 });
  if (shape === "square") return svg("rect", { class: `mark fill ${colour}`, x: x - 3, y: y - 3, width: 6, height: 6 });
  return svg("path", { class: "mark cross", d: `M${x - 4},${y - 4} l8,8 M${x + 4},${y - 4} l-8,8` });
}

/** A band of small columns without axes, as wide as its box; `height` is in CSS. The words for it belong to what it stands in. */
export function spark(counts, most) {
  const bars = counts.map((count, i) => (count > 0 ? `M${i + 0.1},1 v${-(0.12 + (0.88 * count) / most)} h0.8 V1z` : "")).join("");
  return svg("svg", { class: "spark", viewBox: `0 0 ${counts.length} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { d: bars }));
}

function picture({ title, desc, width, height }, ...content) {
  const id = `chart-${charts}`;
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": `${id}-title ${id}-desc` },
    svg("title", { id: `${id}-title` }, title), svg("desc", { id: `${id}-desc` }, desc), content);
}

function grid(marks, y, width, format) {
  return marks.map((tick) => [
    svg("line", { class: tick === 0 ? "base" : "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
    svg("text", { class: "tick", x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
  ]);
}

/** The patterns over the colours; every chart brings its own, they are all the same. */
function definitions() {
  return svg("defs", null, PATTERNS.map((path, at) => at > 0 && svg("pattern", { id: `stripes-${at}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
    svg("path", { class: at === 2 ? "dots" : "stripes", d: path }))));
}

/** A small box in the colour and pattern of a series, for a legend. */
export function swatch(at) {
  const box = { width: 14, height: 12 };
  return svg("svg", { ...box, class: "swatch", "aria-hidden": "true" }, svg("rect", { class: `fill c${(at % 8) + 1}`, ...box }),
    at % 8 > 0 && svg("rect", { fill: `url(#stripes-${at % 8})`, ...box }));
}

/** A switch between a picture and the table of its figures. `draw()` → the table's node, made when it is asked for. */
export function tableSwitch(picture, draw) {
  const place = h("div", { hidden: true });
  const button = h("button", { type: "button", "aria-pressed": "false" }, "As a table");
  const show = () => {
    const on = button.ariaPressed === "true";
    picture.hidden = on;
    place.hidden = !on;
    if (on) replace(place, draw());
  };
  button.addEventListener("click", () => {
    button.ariaPressed = String(button.ariaPressed !== "true");
    text(button, button.ariaPressed === "true" ? "As a picture" : "As a table");
    show();
  });
  return { button, place, refresh: show };
}
