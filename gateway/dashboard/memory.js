// A device's memory as one bar to scale: who holds what, what other programs hold, what is free. The layout is pure; drawing keeps
// its nodes, so that segments glide to their new widths.

import { h, keyed, set, text } from "./dom.js";
import { bytes } from "./format.js";
import { shortName, sourceWords } from "./words.js";

const SLIVER = 4; // a budget below the fourth part of the device would leave no room for the names of what is in it

/** → {total, used, free, strangers, segments: [{id, name, phase, size, left, width, title, share}]}; left and width in percent.
 *
 *  The whole is the device's (total_bytes), where that is known and our budget is no mere sliver of it; else our budget and what
 *  others hold. */
export function layout(device, facts, residents, loads = new Map()) {
  const mine = residents.filter((one) => one.footprint?.[device] > 0).sort((a, b) => b.resident_s - a.resident_s || (a.target < b.target ? -1 : 1));
  const used = mine.reduce((all, one) => all + one.footprint[device], 0);
  const strangers = facts.strangers_bytes ?? 0;
  const device_bytes = facts.total_bytes <= facts.budget_bytes * SLIVER ? facts.total_bytes : 0;
  const total = Math.max(device_bytes || facts.budget_bytes + strangers, used + strangers, 1);
  const free = Math.max(0, Math.min(facts.budget_bytes - used, total - used - strangers));
  const headroom = Math.max(0, total - used - strangers - free);
  let left = 0;
  const place = (id, name, phase, size, more) => {
    const segment = { id, name, phase, size, left: (left / total) * 100, width: (size / total) * 100, title: `${name}: ${bytes(size)}`, ...more };
    left += size;
    return segment;
  };
  const segments = mine.map((one) => place(one.target, one.model ?? shortName(one.target), one.phase, one.footprint[device], {
    pinned: one.pinned,
    leases: one.leases,
    share: one.phase === "loading" ? (loads.get(one.target)?.percent ?? null) : null,
    title: `${one.model ?? one.target}: ${bytes(one.footprint[device])} (${sourceWords(one.footprint_source)}), ${one.phase}${one.pinned ? ", pinned" : ""}`,
  }));
  if (free > total / 1000) segments.push(place("·free", "free", "free", free));
  left = used + free;
  if (headroom > total / 1000) segments.push(place("·headroom", "kept free", "headroom", headroom));
  left = total - strangers;
  if (strangers > 0) segments.push(place("·strangers", "other programs", "strangers", strangers));
  return { total, used, free, strangers, headroom, segments, over: used > facts.budget_bytes };
}

/** The figures of a layout in words, for the line above the bar and for who cannot see it. */
export function layoutWords(shown, facts) {
  const parts = [`${bytes(shown.used)} held`, `${bytes(shown.free)} free`];
  if (shown.strangers) parts.push(`${bytes(shown.strangers)} other programs`);
  if (shown.headroom > shown.total / 1000) parts.push(`${bytes(shown.headroom)} kept free`);
  parts.push(`budget ${bytes(facts.budget_bytes)}`);
  return parts.join(" · ");
}

/** One bar. → {node, draw(layout, label)} */
export function memoryBar() {
  const node = h("div", { class: "membar", role: "img" });
  const update = keyed(node, {
    key: (one) => one.id,
    make: () => h("div", { class: "seg" }, h("i", { class: "fill" }), h("b"), h("small")),
    patch: drawSegment,
  });
  return {
    node,
    draw: (shown, label) => {
      set(node, "aria-label", label);
      update(shown.segments);
    },
  };
}

function drawSegment(node, one) {
  const [fill, name, size] = node.children;
  const written = `seg ${one.phase}${one.pinned ? " pinned" : ""}${one.leases ? " used" : ""}`;
  if (node.className !== written) node.className = written;
  set(node, "style", { left: `${one.left}%`, width: `${one.width}%` });
  set(node, "title", one.title);
  set(fill, "style", { width: one.share === null || one.share === undefined ? "0" : `${one.share}%` });
  text(name, `${one.pinned ? "⚲ " : ""}${one.name}`);
  text(size, bytes(one.size));
}
