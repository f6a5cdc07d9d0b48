/* Activity: every request, newest first, as it comes and goes; its phases to a common scale; filters; what is known of one.
 *
 * The law: nothing moves under the reader. While the list is scrolled, pointed at or paused, new requests wait behind a button.
 */

import { Detail } from "../activity_detail.js";
import { Requests, commonScale, isRunning, keyOf, matches, outcome, speed } from "../activity_rows.js";
import { h, replace, set, text } from "../dom.js";
import { count, moment, number, seconds, short, stamp } from "../format.js";
import { field, heading } from "../ui.js";
import { VirtualList } from "../virtual_list.js";
import { bar, drawBar, legend, ruler } from "../waterfall.js";

const PAGE = 200;
const HELD = 5000; // new ones that wait while the list stands still; beyond them the page is read anew
const FIELDS = ["q", "model", "key", "tenant", "status"];
const COLUMNS = [["at", "Time"], ["status", "Status"], ["model", "Model"], ["who", "Caller"], ["tokens", "Tokens"], ["speed", "Tok/s"],
  ["total", "Total"], ["bar", "Phases"]];
const SCALES = [["", "fitting"], ["100000", "100 ms"], ["1000000", "1 s"], ["10000000", "10 s"], ["60000000", "1 min"], ["300000000", "5 min"]];

export function mount(root, ctx) {
  const page = new Activity(root, ctx);
  return () => page.close();
}

class Activity {
  constructor(root, ctx) {
    this.ctx = ctx;
    this.filter = Object.fromEntries(FIELDS.map((name) => [name, ctx.query.get(name) ?? ""]));
    this.scale = "";
    this.scale_us = 1e6;
    this.held = [];
    this.paused = false;
    this.pointed = false;
    this.whole = true;
    this.list = new VirtualList({ label: "Requests, newest first. Enter shows one.", head: this._head(), key: keyOf, make: makeRow,
      patch: (node, entry) => patchRow(node, entry, this.scale_us, ctx.live.now_s * 1e6), onOpen: (entry) => this.open(entry.id, entry),
      onNear: () => this._more(), onScroll: () => this._release() });
    this.detail = new Detail({ api: ctx.api, live: ctx.live, onClose: () => this._closed(), onFilter: (change) => this._change(change) });
    this._build(root);
    this.list.node.addEventListener("pointerenter", (event) => this._point(event.pointerType === "mouse"));
    this.list.node.addEventListener("pointerleave", () => this._point(false));
    this.offs = [ctx.live.on("request", (entry) => this._came(entry)), ctx.live.on("status", (status) => status === "live" && this._fresh()),
      ctx.live.on("state", () => this._swept()), ctx.live.on("reset", () => this._fresh())];
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.timer = setInterval(() => this._tick(), calm ? 1000 : 200);
    this._restart();
    if (ctx.id) this.open(ctx.id, null);
  }

  close() {
    clearInterval(this.timer);
    this.asking?.abort();
    this.detail.close();
    this.list.close();
    this.offs.forEach((off) => off());
  }

  // ---------------------------------------------------------------- what is on the page

  _head() {
    this.rule = h("div", { class: "wf-head" });
    return h("div", { class: "req req-head", role: "row", "aria-rowindex": "1" }, COLUMNS.map(([name, words]) =>
      h("span", { class: `req-${name}`, role: "columnheader" }, words, name === "bar" ? this.rule : null)));
  }

  _build(root) {
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => this._toggle() }, "Pause");
    this.fresh = h("button", { type: "button", class: "primary fresh", hidden: true, onclick: () => this._release(true) });
    this.said = h("span", { class: "dim", role: "status" });
    this.empty = h("div", { class: "empty-list", hidden: true });
    root.append(heading("Activity", this.said, this.pause), this._filters(),
      h("div", { class: "beside" }, h("div", { class: "card list-card" }, this.fresh, this.list.node, this.empty, legend()), this.detail.node));
  }

  _filters() {
    const change = (name) => (event) => this._change({ [name]: event.target.value.trim() });
    const q = h("input", { type: "search", placeholder: "Text: id, model, route, code, agent", value: this.filter.q, "aria-label": "Search text" });
    q.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this._change({ q: q.value.trim() }), 250);
    });
    const named = (name, label) => h("input", { list: `list-${name}`, value: this.filter[name], placeholder: "all", autocomplete: "off",
      onchange: change(name), "aria-label": label });
    this.inputs = { q, model: named("model", "Model"), key: named("key", "Key"), tenant: named("tenant", "Tenant"),
      status: select([["", "all"], ["ok", "ok"], ["error", "errors"], ["left", "caller left"]], this.filter.status, change("status")) };
    const scale = select(SCALES, "", (event) => {
      this.scale = event.target.value;
      this._rescale();
      this.list.draw();
    });
    const lists = ["model", "key", "tenant"].map((name) => (this[`${name}List`] = h("datalist", { id: `list-${name}` })));
    this.clear = h("button", { type: "button", onclick: () => this._change(Object.fromEntries(FIELDS.map((name) => [name, ""]))) }, "Clear");
    this._suggest();
    return h("div", { class: "card filter-bar" }, field("Search", q), field("Model", this.inputs.model), field("Key", this.inputs.key),
      field("Tenant", this.inputs.tenant), field("Status", this.inputs.status), field("Scale", scale), this.clear, lists);
  }

  /** What may be chosen: the page works without it. */
  async _suggest() {
    const options = (names) => names.map((name) => h("option", { value: name }));
    const ask = async (path, list, read) => {
      try {
        replace(list, options(read(await this.ctx.api.get(path))));
      } catch (error) {
        if (error.status !== 404 && error.name !== "AbortError") console.warn(error);
      }
    };
    await Promise.all([
      ask("/v1/models", this.modelList, (answer) => answer.data.map((model) => model.id)),
      ask("/admin/keys", this.keyList, (answer) => answer.keys.map((key) => key.id)),
      ask("/admin/tenants", this.tenantList, (answer) => (answer.tenants ?? []).map((tenant) => tenant.name ?? tenant.id)),
    ]);
  }

  // ---------------------------------------------------------------- what is in the list

  _change(change) {
    Object.assign(this.filter, change);
    for (const name of FIELDS) this.inputs[name].value = this.filter[name];
    this.ctx.setQuery(this.filter);
    this._restart();
  }

  _restart() {
    this.asking?.abort();
    this.asking = new AbortController();
    this.loading = false;
    this.failed = false;
    this.requests = new Requests();
    this.requests.next = "first";
    this.held = [];
    this.gap = false;
    this._count();
    this.empty.hidden = false;
    replace(this.empty, h("p", { class: "dim" }, "Reading the requests …"));
    this.clear.hidden = FIELDS.every((name) => this.filter[name] === "");
    for (const entry of this.ctx.live.requests?.values() ?? []) if (matches(entry, this.filter)) this.requests.live(entry);
    this.list.node.scrollTop = 0;
    this._more();
  }

  async _page(before) {
    const query = new URLSearchParams({ limit: String(PAGE), ...(before ? { before } : {}) });
    for (const name of FIELDS) if (this.filter[name]) query.set(name, this.filter[name]);
    return this.ctx.api.get(`/admin/activity?${query}`, { signal: this.asking.signal });
  }

  async _more() {
    const { requests } = this;
    if (this.loading || requests.next === null || this.failed) return;
    this.loading = true;
    const first = requests.next === "first";
    try {
      const page = await this._page(first ? "" : requests.next);
      if (requests !== this.requests) return;
      requests.older(page.rows, page.next ?? null);
      for (const begun of page.running ?? []) if (matches(begun, this.filter)) requests.live(begun);
      this.whole = page.whole !== false;
      this.loading = false;
      this._show();
    } catch (error) {
      if (requests === this.requests && error.name !== "AbortError") this._fail(error);
    }
  }

  _fail(error) {
    this.failed = true;
    this.loading = false;
    this.empty.hidden = false;
    const again = () => {
      this.failed = false;
      this.empty.hidden = true;
      this._more();
    };
    replace(this.empty, h("p", { class: "wrong" }, error.message), h("button", { type: "button", onclick: again }, "Try again"));
  }

  /** After the stream was away: what ended meanwhile. */
  async _fresh() {
    const { requests } = this;
    if (requests.next === "first") return;
    try {
      const page = await this._page("");
      if (requests !== this.requests) return;
      if (page.next && !page.rows.some((row) => requests.known.has(keyOf(row)))) return void this._missed();
      requests.fresh(page.rows);
      this._show();
    } catch (error) {
      if (error.name !== "AbortError") console.warn(error);
    }
  }

  /** There are more new ones than are at hand: the list begins anew, as soon as nobody reads in it. */
  _missed() {
    this.held = [];
    this.gap = true;
    this._release();
  }

  _swept() {
    const running = this.ctx.live.requests;
    if (running && this.requests.forget((row) => running.has(row.id))) this._show();
  }

  _came(entry) {
    if (this.detail.entry?.id === entry.id && !isRunning(entry)) this.detail.open(entry.id, entry);
    if (!matches(entry, this.filter)) return;
    if (this.requests.known.has(keyOf(entry)) || !this._still) {
      this.requests.live(entry, this.ctx.live.now_s * 1e6);
      this._show();
      return;
    }
    if (this.gap) return;
    const before = this.held.findIndex((one) => keyOf(one) === keyOf(entry));
    if (before >= 0) this.held[before] = entry;
    else this.held.push(entry);
    if (this.held.length > HELD) this._missed();
    this._count();
  }

  get _still() {
    return this.paused || this.pointed || !this.list.atTop;
  }

  /** Let those in that waited; `up`: and go to them. */
  _release(up = false) {
    if (up) this.list.node.scrollTop = 0;
    if (this.gap && (up || !this._still)) return this._restart();
    if (this.held.length > 0 && (up || !this._still)) {
      for (const entry of this.held) this.requests.live(entry);
      this.held = [];
      this._show();
    }
    this._count();
  }

  _point(pointed) {
    this.pointed = pointed;
    this._release();
  }

  _toggle() {
    this.paused = !this.paused;
    this.pause.ariaPressed = String(this.paused);
    text(this.pause, this.paused ? "Resume" : "Pause");
    this._release();
  }

  _count() {
    this.fresh.hidden = this.held.length === 0 && !this.gap;
    text(this.fresh, this.gap ? "Newer requests ↑" : `${count(this.held.length, "new request")} ↑`);
  }

  // ---------------------------------------------------------------- drawing

  _show() {
    this._rescale();
    const { rows, next } = this.requests;
    this.list.show(rows);
    const all = next === null ? count(rows.length, "request") : `${number(rows.length)}+ requests`;
    text(this.said, this.whole ? all : `${all}; older ones when the ledger is back`);
    this.empty.hidden = rows.length > 0 || this.loading;
    if (!this.empty.hidden) replace(this.empty, h("p", null, !this.whole ? "The ledger cannot be read now: older requests are shown when it is back." : this.clear.hidden ? ["No request has been made yet. Try the ",
      h("a", { href: "#/playground" }, "Playground"), `, or point a client at ${new URL("v1", document.baseURI).href}.`] : "No request matches."));
  }

  _rescale() {
    const scale_us = Number(this.scale) || commonScale(this.requests.rows);
    if (scale_us === this.scale_us && this.rule.firstChild) return;
    this.scale_us = scale_us;
    replace(this.rule, ruler(scale_us));
  }

  /** Those that run grow. */
  _tick() {
    if (!document.hidden && this.requests.rows.slice(0, 300).some(isRunning)) this.list.draw();
  }

  open(id, entry) {
    this.detail.open(id, entry);
    this.list.draw();
  }

  _closed() {
    this.detail.close();
    this.list.node.focus({ preventScroll: true });
  }
}

function select(options, value, onchange) {
  return h("select", { onchange }, options.map(([key, words]) => h("option", { value: key, selected: key === value }, words)));
}

function makeRow(entry) {
  const cells = COLUMNS.map(([name]) => h("span", { class: `req-${name}`, role: "gridcell" }, name === "bar" ? bar() : null));
  cells[1].append(h("span", { class: "badge" }));
  return h("div", { class: "req", role: "row", dataset: { id: entry.id } }, cells);
}

const KINDS = { ok: "ok", error: "bad", left: "warn", running: "info" };

function patchRow(node, entry, scale_us, now_us) {
  const [at, status, model, who, tokens, rate, total, phases] = node.children;
  const { kind, words } = outcome(entry);
  const running = kind === "running";
  const per_s = speed(entry);
  text(at, stamp(entry.at_us / 1e6, now_us / 1e6));
  set(at, "title", moment(entry.at_us / 1e6));
  text(status.firstChild, kind === "left" ? "left" : kind === "error" ? String(entry.status || "none") : words);
  set(status.firstChild, "class", `badge ${KINDS[kind]}`);
  set(status, "title", words);
  text(model, entry.model || entry.asked || "–");
  set(model, "title", [entry.target, entry.route].filter(Boolean).join(" · "));
  text(who, [entry.principal, entry.tenant].filter(Boolean).join(" · ") || "–");
  text(tokens, running || entry.prompt + entry.completion === 0 ? "" : `${short(entry.prompt)} → ${short(entry.completion)}`);
  text(rate, per_s === null ? "" : per_s.toFixed(per_s < 100 ? 1 : 0));
  text(total, seconds((running ? Math.max(0, now_us - entry.at_us) : entry.total_us) / 1e6));
  drawBar(phases.firstChild, entry, scale_us, now_us);
}
