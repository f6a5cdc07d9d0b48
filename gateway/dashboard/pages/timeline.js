/* Timeline: what was in memory over the last hours, why it came and went, and how much it was asked.
 *
 * The law: one stop for the tab key, arrows for the rest; a look at the past stays where it is while time goes on.
 */

import { tableSwitch } from "../charts.js";
import { h, keyed, perFrame, replace, set } from "../dom.js";
import { moment } from "../format.js";
import { fitted, followed, moved, rowsOf, zoomed } from "../timeline_layout.js";
import { LEGEND, asTable, axis, busiest, drawRow, makeRow } from "../timeline_rows.js";
import { emptyCard, failedCard, field, heading } from "../ui.js";

const HOURS = [["1", "1 hour"], ["3", "3 hours"], ["6", "6 hours"], ["12", "12 hours"], ["24", "24 hours"]];
const AGAIN_MS = 15_000;
const SOON_MS = 700; // a burst of happenings is one reading

export function mount(root, ctx) {
  const page = new Timeline(root, ctx);
  return () => page.close();
}

class Timeline {
  constructor(root, ctx) {
    this.ctx = ctx;
    this.hours = HOURS.some(([key]) => key === ctx.query.get("hours")) ? ctx.query.get("hours") : "6";
    this.rows = [];
    this.bounds = null;
    this.view = null;
    this.chosen = false; // by zooming or moving; else what there is is shown
    this.draw = perFrame(() => this._draw());
    this._build(root);
    this.update = keyed(this.body, { key: (row) => row.key, make: makeRow, patch: (node, row) => drawRow(node, row, this.scene) });
    this.sized = new ResizeObserver(() => this.draw());
    this.sized.observe(this.chart);
    this.offs = [ctx.live.on("happening", () => this._soon()), ctx.live.on("status", (status) => status === "live" && this._soon())];
    this.timer = setInterval(() => document.hidden || this._ask(), AGAIN_MS);
    this._ask();
  }

  close() {
    clearInterval(this.timer);
    clearTimeout(this.later);
    this.asking?.abort();
    this.draw.cancel();
    this.sized.disconnect();
    this.offs.forEach((off) => off());
  }

  _build(root) {
    const hours = h("select", { onchange: (event) => this._hours(event.target.value) },
      HOURS.map(([key, words]) => h("option", { value: key, selected: key === this.hours }, words)));
    const button = (label, words, run) => h("button", { type: "button", title: words, "aria-label": words, onclick: () => run() }, label);
    this.ticks = h("div", { class: "tl-axis-track", "aria-hidden": "true" });
    this.body = h("div", { class: "tl-body" });
    this.tip = h("div", { class: "tip tl-tip", hidden: true, role: "status" });
    this.chart = h("div", { class: "tl", tabindex: "0", role: "group", onkeydown: (event) => this._key(event),
      "aria-label": "Residency. Arrows go from bar to bar and from model to model, plus and minus zoom, shift and arrows move in time.",
      onfocusin: (event) => this._tip(event.target), onfocusout: () => this._tip(null), onpointerover: (event) => this._tip(event.target),
      onpointerleave: () => this._tip(null) },
      h("div", { class: "tl-axis" }, h("div", { class: "tl-name" }), this.ticks), this.body, this.tip);
    this.chart.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    this.chart.addEventListener("pointerdown", (event) => this._drag(event));
    this.switch = tableSwitch(this.chart, () => asTable(this.rows, this.view ?? { from_s: 0, to_s: 0 }, Date.now() / 1000));
    this.span = h("span", { class: "dim" });
    this.note = h("div", { hidden: true });
    root.append(heading("Timeline", this.span),
      h("section", { class: "card" },
        h("div", { class: "tl-controls" }, field("Of the last", hours), button("−", "Zoom out", () => this._zoom(2)), button("+", "Zoom in", () => this._zoom(0.5)),
          button("‹", "Earlier", () => this._move(-0.5)), button("›", "Later", () => this._move(0.5)), button("All", "Show all of it", () => this._all()),
          this.switch.button),
        this.note, this.chart, this.switch.place, this._legend()));
  }

  _legend() {
    return h("ul", { class: "legend", "aria-label": "What the shapes mean" },
      LEGEND.phases.map((phase) => h("li", null, h("i", { class: `swatch ph-${phase}`, "aria-hidden": "true" }), phase)),
      LEGEND.marks.map(([kind, letter, words]) => h("li", null, h("i", { class: `tl-letter mk-${kind}`, "aria-hidden": "true" }, letter), words)),
      h("li", null, h("i", { class: "swatch spark-swatch", "aria-hidden": "true" }), "requests"));
  }

  // ---------------------------------------------------------------- what is shown

  _hours(hours) {
    this.hours = hours;
    this.view = null;
    this.chosen = false;
    this.ctx.setQuery({ hours: hours === "6" ? "" : hours });
    this._ask();
  }

  _soon() {
    clearTimeout(this.later);
    this.later = setTimeout(() => this._ask(), SOON_MS);
  }

  async _ask() {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    try {
      const timeline = await this.ctx.api.get(`/admin/timeline?hours=${this.hours}`, { signal });
      if (signal.aborted) return;
      const bounds = { from_s: timeline.from_s, to_s: timeline.to_s };
      this.rows = rowsOf(timeline);
      this.view = this.chosen ? followed(this.view, this.bounds, bounds) : fitted(this.rows, bounds);
      this.bounds = bounds;
      this._say(this.rows.length === 0 ? emptyCard(["Nothing was in memory and nothing was asked for in this time. Load one of the ",
        h("a", { href: "#/models" }, "Models"), ", or ask one in the ", h("a", { href: "#/playground" }, "Playground"), "."]) : null);
      this.draw();
      this.switch.refresh();
    } catch (error) {
      if (signal.aborted) return;
      this._say(this.bounds === null ? failedCard("The timeline cannot be read", error, () => this._ask()) : h("p", { class: "wrong" }, error.message));
    }
  }

  _say(node) {
    this.note.hidden = node === null;
    replace(this.note, node);
  }

  _draw() {
    if (this.view === null || this.chart.clientWidth === 0) return;
    const width = this.ticks.clientWidth;
    this.scene = { view: this.view, now_s: this.bounds.to_s, width, most: busiest(this.rows, this.view) };
    const focused = document.activeElement?.dataset?.words;
    this.update(this.rows);
    replace(this.ticks, axis(this.view, width));
    if (focused && document.activeElement === document.body) this._again(focused);
    replace(this.span, `${moment(this.view.from_s).slice(0, 16)} to ${moment(this.view.to_s).slice(0, 16)}`);
  }

  /** The bar that had the focus was drawn anew. */
  _again(words) {
    const found = [...this.chart.querySelectorAll("[data-words]")].find((node) => node.dataset.words === words);
    (found ?? this.chart).focus({ preventScroll: true });
  }

  // ---------------------------------------------------------------- moving about

  _show(view) {
    this.view = view;
    this.chosen = true;
    this.draw();
    this.switch.refresh();
  }

  /** Around a moment: the pointer's, or where the bar with the focus begins. */
  _zoom(factor, at_s = Number(document.activeElement?.dataset?.at ?? NaN)) {
    if (this.view === null) return;
    const inside = at_s >= this.view.from_s && at_s <= this.view.to_s;
    this._show(zoomed(this.view, this.bounds, factor, inside ? at_s : undefined));
  }

  _move(share) {
    if (this.view !== null) this._show(moved(this.view, this.bounds, share));
  }

  _all() {
    if (this.bounds !== null) this._show(this.bounds);
  }

  _wheel(event) {
    if (this.view === null || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    const box = this.ticks.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    this._zoom(event.deltaY > 0 ? 1.25 : 0.8, this.view.from_s + share * (this.view.to_s - this.view.from_s));
  }

  _drag(event) {
    if (this.view === null || event.pointerType !== "mouse" || event.button !== 0) return;
    const from = this.view;
    const width = this.ticks.clientWidth;
    const move = (next) => this._show(moved(from, this.bounds, (event.clientX - next.clientX) / width));
    const end = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
  }

  _key(event) {
    const { key } = event;
    const run = { "+": () => this._zoom(0.5), "=": () => this._zoom(0.5), "-": () => this._zoom(2), 0: () => this._all(), Escape: () => this._tip(null) }[key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && key.startsWith("Arrow")) this._move(key === "ArrowLeft" ? -0.25 : key === "ArrowRight" ? 0.25 : 0);
    else if (run) run();
    else if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key)) this._step(key);
    else return;
    event.preventDefault();
  }

  /** From one bar or mark to the next of its row, or to the nearest in time of the next row. */
  _step(key) {
    const rows = [...this.body.children].map((row) => [...row.querySelectorAll("[data-words]")].sort((a, b) => a.dataset.at - b.dataset.at))
      .filter((row) => row.length > 0);
    if (rows.length === 0) return;
    const here = document.activeElement;
    const y = rows.findIndex((row) => row.includes(here));
    if (y < 0) return void rows[0].at(-1).focus();
    const row = rows[y];
    const x = row.indexOf(here);
    if (key === "ArrowLeft" || key === "ArrowRight") (row[x + (key === "ArrowLeft" ? -1 : 1)] ?? here).focus();
    else if (key === "Home" || key === "End") row.at(key === "Home" ? 0 : -1).focus();
    else {
      const other = rows[y + (key === "ArrowUp" ? -1 : 1)] ?? row;
      const away = (node) => Math.abs(node.dataset.at - here.dataset.at);
      other.reduce((best, node) => (away(node) < away(best) ? node : best)).focus();
    }
  }

  _tip(target) {
    const node = target?.closest?.("[data-words]");
    this.tip.hidden = !node;
    if (!node) return;
    replace(this.tip, node.dataset.words.split("\n").map((line) => h("div", null, line)));
    const box = node.getBoundingClientRect();
    const whole = this.chart.getBoundingClientRect();
    const x = Math.max(box.left, whole.left) - whole.left;
    const right = x > whole.width / 2;
    set(this.tip, "style", { top: `${box.bottom - whole.top + 6}px`, left: right ? "auto" : `${x}px`,
      right: right ? `${Math.max(0, whole.right - Math.min(box.right, whole.right))}px` : "auto" });
  }
}
