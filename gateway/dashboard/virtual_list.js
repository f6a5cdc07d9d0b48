/* A list of rows of one height of which only those in sight exist: 50,000 rows scroll like fifty.
 *
 * The law: the focus stays on the list itself (aria-activedescendant), so that it is never lost when a row leaves the page.
 */

import { h, keyed, perFrame } from "./dom.js";

let marked = 0;

/** The rows to draw: [first, past the last), with `spare` above and below. Pure. */
export function windowOf(scrollTop, height, rowHeight, count, spare = 8) {
  const first = Math.max(0, Math.floor(scrollTop / rowHeight) - spare);
  return [Math.min(first, count), Math.min(count, Math.ceil((scrollTop + height) / rowHeight) + spare)];
}

/** Where to scroll so that row `at` is wholly in sight below a head of `top` pixels. Pure. */
export function scrollFor(at, scrollTop, height, rowHeight) {
  if (at * rowHeight < scrollTop) return at * rowHeight;
  return Math.max(scrollTop, (at + 1) * rowHeight - height);
}

/** Where the item of a key is now (-1: gone): nearly always where it was, or a few rows further down. Pure. */
export function placeOf(key, items, keyOf, before) {
  for (let at = Math.max(0, before); at < Math.min(items.length, before + 8); at += 1) if (keyOf(items[at]) === key) return at;
  return items.findIndex((item) => keyOf(item) === key);
}

/** Which row a key leads to; null: it is no key of the list's. Pure. */
export function keyTo(key, at, count, page) {
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: count - 1 }[key];
  return to === undefined || count === 0 ? null : Math.max(0, Math.min(count - 1, to));
}

/**
 * @param options {label, head, key(item), make(item), patch(node, item), same(item), onOpen(item), onNear(): the end comes in sight,
 *   onScroll()}
 */
export class VirtualList {
  constructor(options) {
    this.options = options;
    this.items = [];
    this.active = -1; // index of the row the keyboard is at
    this.activeKey = null;
    this.body = h("div", { class: "vlist-body", role: "rowgroup" });
    this.node = h("div", { class: "vlist", role: "grid", tabindex: "0", "aria-label": options.label,
      onkeydown: (event) => this._key(event), onscroll: () => this._scrolled(), onclick: (event) => this._click(event) },
      h("div", { class: "vlist-head", role: "rowgroup" }, options.head), this.body);
    this.rows = keyed(this.body, { key: ({ item }) => options.key(item), make: ({ item }) => options.make(item),
      patch: (node, { item, at }) => this._patch(node, item, at) });
    this.draw = perFrame(() => this._draw());
    this.sized = new ResizeObserver(() => this.draw());
    this.sized.observe(this.node);
  }

  show(items) {
    this.items = items;
    if (this.activeKey !== null) this.active = placeOf(this.activeKey, items, this.options.key, this.active);
    this.draw();
  }

  close() {
    this.draw.cancel();
    this.sized.disconnect();
  }

  /** Whether the newest row is in sight. */
  get atTop() {
    return this.node.scrollTop < this.rowHeight;
  }

  get rowHeight() {
    return Number.parseFloat(getComputedStyle(this.node).getPropertyValue("--row-height")) || 34;
  }

  get headHeight() {
    return this.node.firstChild.offsetHeight;
  }

  _draw() {
    const { rowHeight, items } = this;
    const height = this.node.clientHeight - this.headHeight;
    this.body.style.height = `${items.length * rowHeight}px`;
    const [first, last] = windowOf(this.node.scrollTop, height, rowHeight, items.length);
    const seen = [];
    for (let at = first; at < last; at += 1) seen.push({ item: items[at], at });
    this.shownHeight = rowHeight;
    this.rows(seen);
    this.node.setAttribute("aria-rowcount", String(items.length + 1));
    this._markActive();
    if (last >= items.length - 40) this.options.onNear();
  }

  _patch(node, item, at) {
    const place = `translateY(${at * this.shownHeight}px)`;
    if (node.style.transform !== place) node.style.transform = place;
    if (node.ariaRowIndex !== String(at + 2)) node.ariaRowIndex = String(at + 2);
    node.dataset.at = String(at);
    this.options.patch(node, item);
  }

  _markActive() {
    for (const row of this.body.children) {
      const here = Number(row.dataset.at) === this.active;
      if (here && !row.id) row.id = `row-${(marked += 1)}`; // a key may hold what an id may not
      row.ariaSelected = here ? "true" : "false";
      if (here) this.node.setAttribute("aria-activedescendant", row.id);
    }
    if (this.active < 0) this.node.removeAttribute("aria-activedescendant");
  }

  _scrolled() {
    this.draw();
    this.options.onScroll();
  }

  _go(at) {
    this.active = at;
    this.activeKey = this.options.key(this.items[at]);
    const height = this.node.clientHeight - this.headHeight;
    this.node.scrollTop = scrollFor(at, this.node.scrollTop, height, this.rowHeight);
    this._draw();
  }

  _key(event) {
    if (event.target !== this.node || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor((this.node.clientHeight - this.headHeight) / this.rowHeight) - 1);
    const to = keyTo(event.key, this.active, this.items.length, page);
    if (to !== null) {
      event.preventDefault();
      this._go(to);
    } else if ((event.key === "Enter" || event.key === " ") && this.items[this.active]) {
      event.preventDefault();
      this.options.onOpen(this.items[this.active]);
    }
  }

  _click(event) {
    const row = event.target.closest?.("[data-at]");
    if (row === null || getSelection().toString() !== "") return;
    this._go(Number(row.dataset.at));
    this.options.onOpen(this.items[this.active]);
  }
}
