/* Usage: what was asked for, by day, model, key and tenant: requests, tokens, errors and cost, which is exact.
 *
 * The law: every figure here comes from the ledger's rows by exact addition; what has no price is said to have none.
 */

import { Chart, stackedColumns, swatch, tableSwitch } from "../charts.js";
import { h, replace, set } from "../dom.js";
import { number, short } from "../format.js";
import { dollars } from "../money.js";
import { dayAfter, daysBetween, trimmed } from "../scales.js";
import { emptyCard, failedCard, field, heading, table } from "../ui.js";
import { MEASURES, NAMELESS, errorShare, grouped, stacked, totalled } from "../usage_rows.js";

const RANGES = [["1", "Today"], ["7", "7 days"], ["30", "30 days"], ["90", "90 days"]];
const FIELDS = ["model", "key", "tenant"];
const TITLES = { model: "By model", key: "By key", tenant: "By tenant" };
const SHOWN = 12; // rows of a breakdown before "all"
const HEIGHT = 280;
const AGAIN_MS = 5000; // after a request has ended

export function mount(root, ctx) {
  const page = new Usage(root, ctx);
  return () => page.close();
}

class Usage {
  constructor(root, ctx) {
    this.ctx = ctx;
    this.root = root;
    const today = new Date().toISOString().slice(0, 10);
    const { query } = ctx;
    this.today = today;
    this.since = dated(query.get("since")) ?? dayAfter(today, -29);
    this.until = dated(query.get("until")) ?? today;
    this.by = FIELDS.includes(query.get("by")) ? query.get("by") : "model";
    this.measure = query.get("measure") in MEASURES ? query.get("measure") : "requests";
    this.filter = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) ?? ""]));
    this.whole = new Set(); // breakdowns that are shown to their end
    this.chart = new Chart({ title: "Usage by day", height: HEIGHT, draw: (width) => this._columns(width) });
    this._build();
    this.offs = [ctx.live.on("request", ({ phase }) => phase || this._soon()), ctx.live.on("status", (status) => status === "live" && this._soon(0))];
    this._ask();
  }

  close() {
    this.asking?.abort();
    clearTimeout(this.later);
    this.offs.forEach((off) => off());
    this.chart.close();
  }

  // ---------------------------------------------------------------- controls

  _build() {
    this.ranges = choices("Range", RANGES, (days) => this._set({ since: dayAfter(this.today, 1 - Number(days)), until: this.today }));
    this.from = h("input", { type: "date", max: this.today, onchange: () => this._dates() });
    this.to = h("input", { type: "date", max: this.today, onchange: () => this._dates() });
    this.measures = choices("Measure", Object.entries(MEASURES).map(([key, { label }]) => [key, label]), (measure) => this._set({ measure }));
    this.bys = choices("Stacked by", FIELDS.map((name) => [name, name]), (by) => this._set({ by }));
    this.chips = h("div", { class: "row", hidden: true });
    this.csv = h("a", { class: "button", download: "" }, "CSV");
    this.jsonl = h("a", { class: "button", download: "" }, "JSONL");
    this.tiles = h("dl", { class: "tiles" });
    this.legend = h("ul", { class: "legend" });
    this.switch = tableSwitch(this.chart.node, () => this._table());
    this.chartTitle = h("h2");
    this.breakdowns = h("div", { class: "columns" });
    this.body = h("div", { class: "page" }, h("section", { class: "card" }, this.tiles),
      h("section", { class: "card", "aria-label": "By day" },
        h("div", { class: "chart-head" }, this.chartTitle, this.measures.node, this.bys.node, this.switch.button), this.chart.node, this.switch.place, this.legend),
      this.breakdowns);
    this.failed = h("div", { hidden: true });
    this.root.append(
      heading("Usage", h("span", { class: "row" }, h("span", { class: "dim" }, "Export every request:"), this.csv, this.jsonl)),
      h("div", { class: "card filter-bar" }, this.ranges.node, field("From", this.from), field("Until", this.to),
        h("small", null, "Days are UTC.")),
      this.chips, this.failed, this.body);
  }

  _dates() {
    const since = dated(this.from.value);
    const until = dated(this.to.value);
    if (since && until && since <= until) this._set({ since, until });
  }

  _set(change) {
    const again = "since" in change || "by" in change || "filter" in change;
    Object.assign(this, change);
    if (again) this._ask();
    else this._draw();
  }

  _only(name, value) {
    this._set({ filter: { ...this.filter, [name]: value } });
  }

  _mark() {
    const { since, until, by, measure, filter } = this;
    const usual = { since: since === dayAfter(this.today, -29) ? "" : since, until: until === this.today ? "" : until,
      by: by === "model" ? "" : by, measure: measure === "requests" ? "" : measure };
    this.ctx.setQuery({ ...usual, ...filter });
    this.from.value = since;
    this.to.value = until;
    this.ranges.mark(until === this.today ? String(daysBetween(since, until).length) : "");
    this.measures.mark(measure);
    this.bys.mark(by);
    const set_ = FIELDS.filter((name) => filter[name]);
    this.chips.hidden = set_.length === 0;
    replace(this.chips, h("span", { class: "dim" }, "Only"), set_.map((name) => h("button", { type: "button", class: "chip",
      "aria-label": `No longer only ${name} ${filter[name]}`, onclick: () => this._only(name, "") }, `${name}: ${filter[name]} ×`)));
    for (const [link, format] of [[this.csv, "csv"], [this.jsonl, "jsonl"]]) {
      set(link, "href", new URL(`admin/usage/export?${this._query({ format })}`, document.baseURI).href);
    }
  }

  _query(more) {
    const set_ = Object.entries(this.filter).filter(([, value]) => value);
    return new URLSearchParams([...Object.entries({ ...more, since: this.since, until: this.until }), ...set_]);
  }

  // ---------------------------------------------------------------- figures

  /** There is something new: not more often than can be read, and only where today is looked at. */
  _soon(after_ms = AGAIN_MS) {
    if (this.until < this.today || this.later) return;
    this.later = setTimeout(() => {
      this.later = 0;
      this._turn();
      if (document.hidden) this._soon();
      else this._ask(true);
    }, after_ms);
  }

  /** At midnight (UTC) what reached to today goes on reaching to today. */
  _turn() {
    const today = new Date().toISOString().slice(0, 10);
    const days = daysBetween(this.since, this.until).length;
    if (today !== this.today && this.until === this.today) Object.assign(this, { until: today, since: dayAfter(today, 1 - days) });
    this.today = this.from.max = this.to.max = today;
  }

  /** `quiet`: what is shown stays as it is until the answer is there, and if there is none. */
  async _ask(quiet = false) {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    if (!quiet) this._mark();
    if (!quiet) this.body.ariaBusy = "true";
    const ask = async (by) => (await this.ctx.api.get(`/admin/usage?${this._query({ by })}`, { signal })).rows;
    try {
      const [daily, ...parts] = await Promise.all([ask(`day,${this.by}`), ...FIELDS.map(ask)]);
      if (signal.aborted) return;
      const read = JSON.stringify([this.until, daily, parts]);
      if (quiet && read === this.read && this.failed.hidden) return;
      this.read = read;
      this.daily = daily;
      this.parts = Object.fromEntries(FIELDS.map((name, i) => [name, parts[i]]));
      this.failed.hidden = true;
      this.body.hidden = false;
      this._draw(quiet);
    } catch (error) {
      if (signal.aborted || (quiet && this.failed.hidden)) return;
      this.failed.hidden = false;
      this.body.hidden = true;
      replace(this.failed, failedCard("The ledger did not answer", error, () => this._ask()));
    } finally {
      if (!signal.aborted) this.body.ariaBusy = null;
    }
  }

  _draw(quiet = false) {
    if (!this.daily) return;
    this._mark();
    this.days = daysBetween(this.since, this.until);
    this.series = stacked(this.daily, this.days, this.by, this.measure);
    replace(this.chartTitle, `${MEASURES[this.measure].label} by day and ${this.by}`);
    this._tiles(totalled(this.parts.model));
    this.chart.redraw();
    this.switch.refresh();
    replace(this.legend, this.series.map(({ name }, at) => h("li", null, swatch(at), h("span", null, name))));
    // what somebody has the focus in is not taken away
    if (!quiet || !this.breakdowns.contains(document.activeElement)) replace(this.breakdowns, FIELDS.map((name) => this._breakdown(name)));
  }

  _tiles(totals) {
    const tile = (name, value, more) => h("div", { class: "tile" }, h("dt", null, name), h("dd", null, value), h("dd", { class: "dim" }, more));
    const failed = totals.errors > 0 ? `${number(totals.errors)} failed, ${errorShare(totals)}` : "none failed";
    replace(this.tiles,
      tile("Requests", number(totals.requests), failed),
      tile("Tokens in", number(totals.prompt), `${number(totals.cached)} from a cache`),
      tile("Tokens out", number(totals.completion), `${number(totals.reasoning)} for reasoning`),
      tile("Cost", totals.unpriced === totals.requests && totals.requests > 0 ? "unpriced" : dollars(totals.cost),
        totals.unpriced > 0 ? `without ${number(totals.unpriced)} requests of unknown cost` : "the cost of every request is known"));
  }

  _columns(width) {
    const { days = [], series = [], measure } = this;
    const { of, show, label, whole } = MEASURES[measure];
    const words = (i) => {
      const there = series.filter(({ days: all }) => of(all[i]) > 0).map(({ name, days: all }) => `${name}: ${show(all[i])}`);
      return [days[i], ...(there.length > 0 ? there : ["nothing"])];
    };
    const total = totalled(this.daily ?? []);
    const desc = `${days.length} days from ${this.since} to ${this.until}: ${show(total)} in all, stacked by ${this.by}.`;
    return stackedColumns({ title: `${label} by day`, desc, width, height: HEIGHT, whole, words, labels: days.map((day) => day.slice(5)),
      format: (value) => (measure === "cost" ? `$${value}` : trimmed(short(value))),
      series: series.map(({ name, days: all }) => ({ name, values: all.map(of) })) });
  }

  _table() {
    const { series, days, measure } = this;
    const { show } = MEASURES[measure];
    const made = table(`${MEASURES[measure].label} by day`, ["Day", ...series.map(({ name }) => ({ name, num: true }))]);
    replace(made.body, days.map((day, i) => h("tr", null, h("th", { scope: "row" }, day),
      series.map(({ days: all }) => h("td", { class: "num" }, show(all[i]))))));
    return made.table;
  }

  _breakdown(name) {
    const groups = grouped(this.parts[name], name, this.measure);
    const { of } = MEASURES[this.measure];
    const most = Math.max(1e-12, ...groups.map(({ totals }) => of(totals)));
    const made = table(TITLES[name], [name[0].toUpperCase() + name.slice(1), { name: "Requests", num: true }, { name: "Errors", num: true },
      { name: "In", num: true, class: "wide-only" }, { name: "Out", num: true, class: "wide-only" }, { name: "Cost", num: true }]);
    const shown = this.whole.has(name) ? groups : groups.slice(0, SHOWN);
    replace(made.body, shown.map((group) => this._line(name, group, of(group.totals) / most)));
    const more = groups.length > shown.length && h("button", { type: "button", onclick: () => {
      this.whole.add(name);
      this._draw();
    } }, `All ${number(groups.length)}`);
    return h("section", { class: "card" }, h("h2", null, TITLES[name]), groups.length > 0 ? made.table : emptyCard("Nothing in these days."), more);
  }

  _line(field_, { name, totals }, share) {
    const named = name !== NAMELESS[field_];
    const only = { type: "button", class: "linklike", title: `Only ${name}`, onclick: () => this._only(field_, name) };
    const label = named ? h("button", only, name) : h("span", { class: "dim" }, name);
    const length = { width: `${(share * 100).toFixed(1)}%` };
    return h("tr", null,
      h("td", { class: "name share-cell" }, label, h("div", { class: "share", "aria-hidden": "true" }, h("i", { style: length }))),
      h("td", { class: "num" }, number(totals.requests)),
      h("td", { class: `num ${totals.errors ? "" : "dim"}`, title: errorShare(totals) }, number(totals.errors)),
      h("td", { class: "num wide-only", title: number(totals.prompt) }, short(totals.prompt)),
      h("td", { class: "num wide-only", title: number(totals.completion) }, short(totals.completion)),
      costCell(totals));
  }
}

/** The exact sum, and below it how many requests it does not hold. */
function costCell(totals) {
  const known = totals.unpriced < totals.requests;
  const words = known ? `+ ${number(totals.unpriced)} unpriced` : "unpriced";
  return h("td", { class: "num" }, known && dollars(totals.cost), totals.unpriced > 0 && h("small", { class: "dim" }, words));
}

/** A row of buttons of which one is pressed. */
function choices(label, options, onchoose) {
  const buttons = options.map(([key, words]) =>
    h("button", { type: "button", dataset: { key }, "aria-pressed": "false", onclick: () => onchoose(key) }, words));
  const node = h("div", { class: "choices", role: "group", "aria-label": label }, buttons);
  return { node, mark: (key) => buttons.forEach((button) => (button.ariaPressed = String(button.dataset.key === key))) };
}

function dated(written) {
  return /^\d{4}-\d{2}-\d{2}$/.test(written ?? "") && !Number.isNaN(Date.parse(written)) ? written : null;
}
