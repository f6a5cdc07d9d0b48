/* One request with everything that is known of it, beside the list (over it on a narrow screen), and what was captured of it. */

import { isRunning, outcome, speed } from "./activity_rows.js";
import { h, replace } from "./dom.js";
import { bytes, moment, number, seconds } from "./format.js";
import { amount, dollars } from "./money.js";
import { copyButton } from "./ui.js";
import { bar, drawBar, legend, phaseWords } from "./waterfall.js";

const NUMBERS = { prompt: "Tokens in", completion: "Tokens out", cached: "of them cached", reasoning: "of them reasoning" };
const SHOWN = new Set(["id", "at_us", "principal", "key_id", "tenant", "asked", "model", "target", "route", "status", "code", "streamed", "left",
  "cost_usd", "queued_us", "first_byte_us", "total_us", "load_us", "bytes_in", "bytes_out", "user_agent", "phase", "seen_ms",
  ...Object.keys(NUMBERS)]);

/** [[name, words]…] of every field, the known ones in words, whatever else there is as it came. Pure but for the clock's zone. */
export function facts(entry) {
  const known = isRunning(entry) ? [] : ended(entry);
  const others = Object.entries(entry).filter(([name]) => !SHOWN.has(name)).map(([name, value]) => [name, JSON.stringify(value)]);
  const asked = entry.asked && entry.asked !== entry.model ? `${entry.model} (asked for as ${entry.asked})` : entry.model || entry.asked;
  return [
    ["When", moment(entry.at_us / 1e6)],
    ["Outcome", outcome(entry).words],
    ["Model", asked],
    ["Target", entry.target],
    ["Route", entry.route],
    ["Caller", entry.principal],
    ["Key", entry.key_id],
    ["Tenant", entry.tenant],
    ...known,
    ["User agent", entry.user_agent],
    ["Request id", entry.id],
    ...others,
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
}

function ended(entry) {
  const cost = amount(entry.cost_usd);
  const rate = speed(entry);
  return [
    ...Object.entries(NUMBERS).map(([field, name]) => [name, number(entry[field] ?? 0)]),
    ["Speed", rate === null ? "" : `${rate.toFixed(1)} tokens/s`],
    ["Cost", cost === null ? "unknown" : dollars(cost)],
    ["Waited for the model", entry.queued_us >= 1000 ? seconds(entry.queued_us / 1e6) : "not at all"],
    ["of it, load", entry.load_us ? seconds(entry.load_us / 1e6) : ""],
    ["First byte after", entry.first_byte_us ? seconds(entry.first_byte_us / 1e6) : "not reached"],
    ["Whole", seconds(entry.total_us / 1e6)],
    ["Received", bytes(entry.bytes_in)],
    ["Sent", bytes(entry.bytes_out)],
    ["Streamed", entry.streamed ? "yes" : "no"],
  ];
}

/** The panel. `onClose()`; `onFilter({model}|{key}|{tenant})`: show only such. */
export class Detail {
  constructor({ api, live, onClose, onFilter }) {
    this.api = api;
    this.live = live;
    this.onFilter = onFilter;
    this.entry = null;
    this.body = h("div", { class: "detail-body" });
    this.title = h("h2", { id: "detail-title", tabindex: "-1" });
    this.node = h("aside", { class: "card detail", "aria-labelledby": "detail-title", hidden: true,
      onkeydown: (event) => event.key === "Escape" && onClose() },
      h("div", { class: "detail-head" }, this.title,
        h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: onClose }, "×")),
      this.body);
  }

  async open(id, entry) {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.node.hidden = false;
    if (entry) this._draw(entry, undefined);
    else replace(this.body, h("p", { class: "dim" }, "Loading …"));
    this.title.textContent = entry ? entry.model || entry.asked || "Request" : "Request";
    this.title.focus({ preventScroll: true });
    try {
      const found = await this.api.get(`/admin/activity/${encodeURIComponent(id)}`, { signal });
      if (signal.aborted) return;
      if (!entry || entry.at_us === found.entry.at_us) this._draw(found.entry, found.capture); // else a later one of the same id
    } catch (error) {
      if (signal.aborted) return;
      if (!entry) replace(this.body, h("p", { class: "wrong" }, error.message));
      else if (error.status !== 404) this.body.append(h("p", { class: "wrong" }, error.message)); // not written yet
    }
  }

  close() {
    this.asking?.abort();
    this.entry = null;
    this.node.hidden = true;
  }

  _draw(entry, capture) {
    this.entry = entry;
    this.title.textContent = entry.model || entry.asked || "Request";
    const whole = bar();
    const now_us = this.live.now_s * 1e6;
    drawBar(whole, entry, Math.max(1, isRunning(entry) ? now_us - entry.at_us : entry.total_us), now_us);
    const list = h("dl", { class: "facts" }, facts(entry).map(([name, words]) => [h("dt", null, name), h("dd", null, words)]));
    replace(this.body, h("div", { class: "wf-large" }, whole), h("p", { class: "dim" }, phaseWords(entry, now_us)), legend(), list,
      this._actions(entry), capture === undefined ? null : captured(capture));
  }

  _actions(entry) {
    const only = (words, filter) => h("button", { type: "button", onclick: () => this.onFilter(filter) }, words);
    return h("div", { class: "row" },
      entry.model && only("Only this model", { model: entry.model }),
      entry.key_id && only("Only this key", { key: entry.key_id }),
      entry.tenant && only("Only this tenant", { tenant: entry.tenant }),
      copyButton(() => entry.id, "Copy id"));
  }
}

function captured(capture) {
  if (capture === null) return h("p", { class: "dim" }, "Nothing was captured of its body: capture is off unless its key asks for it.");
  return h("div", { class: "capture" }, h("h3", null, "Captured"),
    Object.entries(capture).map(([name, value]) => h("details", { open: true }, h("summary", null, name.replaceAll("_", " ")),
      h("pre", { tabindex: "0" }, pretty(value)))));
}

/** JSON is laid out, also where it is text; anything else is shown as it is. */
function pretty(value) {
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}
