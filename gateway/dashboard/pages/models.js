// Models: everything that can be asked for; one of them in detail at #/models/ID.

import { modelActions } from "../actions.js";
import { h, keyed, perFrame, replace, set, text } from "../dom.js";
import { age, count, seconds } from "../format.js";
import { cells, matches, rowOf, sorted, standing } from "../model_rows.js";
import { badge, busy, emptyCard, heading, progress, quoted, setProgress, table } from "../ui.js";
import { FIRST_MODEL } from "../words.js";
import { mountModel } from "../model_detail.js";

const REFRESH_MS = 15_000;
const ROWS_A_FRAME = 80; // new ones: making 500 at once would hold the page up
const COLUMNS = [
  ["model", "Model"], ["state", "State", "state"], ["provider", "Provider", "wide-only"], ["size", "Memory", "num wide-only"], ["context", "Context", "num wide-only"],
  ["price", "$ per M in / out", "num wide-only"], ["load", "Load takes", "num wide-only"],
];
const SHOW = [["", "All"], ["memory", "In memory"], ["local", "Loadable"], ["remote", "Remote"], ["free", "Free of charge"], ["pinned", "Pinned"], ["trouble", "In trouble"]];

export async function mount(root, ctx) {
  if (ctx.id) return mountModel(root, ctx);
  const view = new View(root, ctx);
  await view.refresh();
  return view.begin();
}

class View {
  constructor(root, { api, live, query, setQuery }) {
    this.api = api;
    this.live = live;
    this.setQuery = setQuery;
    this.entries = [];
    this.most = ROWS_A_FRAME;
    this.filter = { text: query.get("q") ?? "", provider: query.get("provider") ?? "", show: query.get("show") ?? "" };
    this.sort = { by: query.get("sort") ?? "state", down: query.get("down") === "1" };
    this.draw = perFrame(() => this.#draw());
    this.#build(root);
  }

  async refresh() {
    this.entries = (await this.api.get("/v1/models")).data;
    this.#providers();
    this.draw();
  }

  begin() {
    const offs = ["state", "load"].map((name) => this.live.on(name, this.draw));
    offs.push(this.live.on("status", (status) => status === "live" && this.refresh().catch(() => {}))); // it may be another gateway
    const timer = setInterval(() => document.hidden || this.refresh().catch(() => {}), REFRESH_MS);
    const keys = (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
      event.preventDefault();
      this.search.focus();
    };
    document.addEventListener("keydown", keys);
    return () => {
      clearInterval(timer);
      this.draw.cancel();
      document.removeEventListener("keydown", keys);
      for (const off of offs) off();
    };
  }

  #build(root) {
    const change = () => {
      this.filter = { text: this.search.value.trim(), provider: this.provider.value, show: this.show.value };
      this.#keep();
      this.draw();
    };
    this.search = h("input", { type: "search", placeholder: "Search (press /)", "aria-label": "Search models", value: this.filter.text, oninput: change });
    this.provider = h("select", { "aria-label": "Provider", onchange: change }, h("option", { value: "" }, "Every provider"));
    this.show = h("select", { "aria-label": "Which models", onchange: change }, SHOW.map(([value, name]) => h("option", { value }, name)));
    this.show.value = this.filter.show;
    this.counted = h("span", { class: "dim", role: "status" });
    this.heads = new Map();
    const columns = COLUMNS.map(([by, name, kind]) => ({ name: this.#sorter(by, name), class: kind }));
    const made = table("Models", [...columns, { name: h("span", { class: "unseen" }, "Actions") }]);
    for (const [by, button] of this.heads) button.th = button.closest("th") ?? by;
    this.table = made.table;
    this.none = emptyCard("No model matches.");
    this.update = keyed(made.body, { key: (row) => row.id, make: makeRow, patch: (node, row) => node.draw(row), same: signature, keep: true });
    root.append(
      heading("Models", this.counted),
      h("section", { class: "card" }, h("div", { class: "filters", role: "search" }, this.search, this.provider, this.show), this.table, this.none),
    );
  }

  #sorter(by, name) {
    const button = h("button", { type: "button", class: "sort", onclick: () => {
      this.sort = { by, down: this.sort.by === by && !this.sort.down };
      this.#keep();
      this.draw();
    } }, name, h("span", { "aria-hidden": "true" }));
    this.heads.set(by, button);
    return button;
  }

  #keep() {
    const { text: q, provider, show } = this.filter;
    const { by, down } = this.sort;
    this.setQuery({ q, provider, show, sort: by === "state" ? "" : by, down: down ? "1" : "" });
  }

  #providers() {
    const names = [...new Set(this.entries.map((one) => one.roundhouse?.provider ?? one.owned_by))].sort();
    replace(this.provider, h("option", { value: "" }, "Every provider"), names.map((name) => h("option", { value: name }, name)));
    this.provider.value = names.includes(this.filter.provider) ? this.filter.provider : "";
  }

  #draw() {
    const now = standing(this.live.state, this.live.happenings);
    const rows = this.entries.map((entry) => rowOf(entry, now));
    const shown = sorted(rows.filter((row) => matches(row, this.filter)), this.sort.by, this.sort.down);
    for (const row of shown) row.load = row.state === "loading" ? this.live.loads.get(row.target) : undefined;
    for (const [by, button] of this.heads) {
      const mine = by === this.sort.by;
      set(button.th, "aria-sort", mine ? (this.sort.down ? "descending" : "ascending") : null);
      text(button.lastChild, mine ? (this.sort.down ? " ↓" : " ↑") : "");
    }
    text(this.counted, shown.length === rows.length ? count(rows.length, "model") : `${shown.length} of ${count(rows.length, "model")}`);
    this.table.hidden = shown.length === 0;
    this.none.hidden = shown.length > 0;
    const words = rows.length ? ["No model matches."] : FIRST_MODEL;
    if (this.none.dataset.words !== words[0]) replace(this.none, words.map((one) => h("p", null, quoted(one))));
    this.none.dataset.words = words[0];
    this.update(shown.slice(0, this.most));
    if (shown.length <= this.most) return;
    this.most += ROWS_A_FRAME;
    this.draw();
  }
}

/** All that a row shows: rows that say the same are not touched. */
function signature(row) {
  const load = row.load ? `${Math.round(row.load.percent ?? -1)} ${Math.round(row.load.eta_s ?? -1)}` : "";
  return [row.state, row.pinned, row.leases, row.size, row.held, row.load_s, row.provider, row.context, row.why, load, row.price?.completion].join("|");
}

function makeRow(first) {
  const [state, provider, size, context, price, load] = Array.from({ length: 6 }, () => h("td"));
  provider.className = "wide-only dim";
  for (const cell of [size, context, price, load]) cell.className = "num wide-only";
  const link = h("a", { href: `#/models/${encodeURIComponent(first.id)}` }, first.id);
  const aliases = h("small", { class: "dim" }, first.aliases.length ? ` ${first.aliases.join(", ")}` : "");
  const sub = h("span", { class: "sub" });
  const actions = modelActions(busy);
  const row = h("tr", null, h("td", { class: "name" }, link, aliases, sub), state, provider, size, context, price, load, h("td", null, actions.node));
  const bar = progress(`Loading ${first.id}`, null);
  const left = h("small", { class: "dim" });
  row.draw = (one) => {
    const said = cells(one);
    const wanted = `${one.state} ${one.pinned} ${one.failed}`;
    if (row.dataset.state !== wanted) {
      row.dataset.state = wanted;
      replace(state, badge(one.state), one.pinned && [" ", badge("pinned", "plain")], one.state === "loading" && [" ", bar, left],
        one.failed && one.state === "cold" && h("small", { class: "wrong" }, " its last load failed"));
    }
    set(state, "title", one.why || null);
    if (one.state === "loading") {
      setProgress(bar, Number.isFinite(one.load?.percent) ? one.load.percent / 100 : null);
      text(left, Number.isFinite(one.load?.eta_s) ? `${seconds(Math.ceil(one.load.eta_s))} left` : one.load ? age(one.load.elapsed_s) : "");
    }
    text(provider, one.provider);
    text(size, said.size);
    text(context, said.context);
    text(price, said.price);
    text(load, said.load);
    text(sub, [one.provider, said.context !== "–" && said.context, said.price !== "–" && said.price, said.size !== "–" && said.size].filter(Boolean).join(" · "));
    actions.draw({ name: one.id, state: one.state, leases: one.leases, pinned: one.pinned, managed: one.managed });
  };
  return row;
}
