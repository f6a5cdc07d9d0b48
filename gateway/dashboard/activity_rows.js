/* Requests as the activity page wants them: phases, outcome, filter, and a list that live events and pages flow into. Pure.
 *
 * The law: a request is in the list once, whatever order its beginning, its end and its page come in; newest first. Callers choose
 * request ids, so that two may have the same: a request is known by its time and its id.
 */

import { roundUp } from "./scales.js";
import { percentile } from "./stats.js";

export const PHASES = ["queued", "load", "first", "answer"];
export const PHASE_WORDS = { queued: "queued", load: "load", first: "first byte", answer: "answer" };
const LEFT_WORDS = { upload: "while sending it", queued: "in the queue", first_byte: "before the first byte", answer: "in the answer" };

/** What tells one request from all others. */
export function keyOf(entry) {
  return `${entry.at_us}.${entry.id}`;
}

/** Whether its end has not been told yet. */
export function isRunning(entry) {
  return typeof entry.phase === "string";
}

/** [{name, from_us, to_us}] of what the request went through, without what took no time. `now_us`: for one that runs. */
export function phases(entry, now_us = 0) {
  const end = isRunning(entry) ? Math.max(0, now_us - entry.at_us) : entry.total_us;
  const queued = entry.queued_us || (entry.phase === "queued" || entry.left === "queued" ? end : 0);
  const load = Math.min(entry.load_us ?? 0, queued);
  const first = entry.first_byte_us || (entry.phase === "answering" ? queued : end);
  const bounds = [0, queued - load, queued, Math.max(first, queued), end].map((bound) => Math.min(bound, end));
  return PHASES.map((name, i) => ({ name, from_us: bounds[i], to_us: bounds[i + 1] })).filter(
    (phase) => phase.to_us > phase.from_us,
  );
}

/** {kind: "ok"|"error"|"left"|"running", words}: how it ended. */
export function outcome(entry) {
  if (isRunning(entry)) return { kind: "running", words: entry.phase === "queued" ? "waiting" : entry.phase };
  if (entry.left) return { kind: "left", words: `caller left ${LEFT_WORDS[entry.left] ?? entry.left}` };
  if (entry.status >= 400 || entry.status === 0 || entry.code) {
    return { kind: "error", words: [entry.status || "no answer", entry.code].filter(Boolean).join(" ") };
  }
  return { kind: "ok", words: String(entry.status) };
}

/** Tokens per second of the answer, from the first byte on; null where it cannot be told. */
export function speed(entry) {
  const answer_us = (entry.total_us ?? 0) - (entry.first_byte_us || 0);
  if (!entry.streamed || !entry.first_byte_us || !(entry.completion > 1) || answer_us < 1000) return null;
  return (entry.completion - 1) / (answer_us / 1e6);
}

/** Whether a live request belongs to what is being looked at. `filter`: {model, key, tenant, status, q}, "" for all. */
export function matches(entry, filter) {
  if (filter.model && ![entry.model, entry.asked, entry.target].includes(filter.model)) return false;
  if (filter.key && entry.key_id !== filter.key && entry.principal !== filter.key) return false;
  if (filter.tenant && entry.tenant !== filter.tenant) return false;
  const kind = outcome(entry).kind;
  if (filter.status && kind !== "running" && kind !== filter.status) return false;
  return !filter.q || holds(entry, filter.q.toLowerCase());
}

function holds(entry, text) {
  const fields = [entry.id, entry.asked, entry.model, entry.target, entry.route, entry.code, entry.principal, entry.tenant, entry.status, entry.user_agent];
  return fields.some((field) => String(field ?? "").toLowerCase().includes(text));
}

/** The common scale of the waterfalls in µs: a round figure that nineteen of twenty fit in; at least 10 ms. */
export function commonScale(entries, most = 500) {
  const ends = entries.slice(0, most).filter((entry) => !isRunning(entry)).map((entry) => entry.total_us);
  ends.sort((a, b) => a - b);
  return Math.max(10_000, roundUp(percentile(ends, 0.95) || 0));
}

/** A request whose answer has just begun: until when it waited is known from now on, as nearly as this clock tells. */
function answering(before, entry, now_us) {
  const began = before.phase === "queued" && entry.phase === "answering" && now_us > entry.at_us;
  return began ? { ...entry, first_byte_us: now_us - entry.at_us } : entry;
}

/** The list itself: newest first, each once, and no longer than `most`. */
export class Requests {
  constructor(most = 100_000) {
    this.most = most;
    this.rows = [];
    this.next = null;
    this.known = new Map();
  }

  /** A page of older ones, with the cursor of the page after it (null: that was all). */
  older(page, next) {
    this.next = next;
    for (const entry of page) {
      if (this.known.has(keyOf(entry))) this._replace(entry);
      else if (this.rows.length < this.most) this._put(entry);
    }
    if (this.rows.length >= this.most) this.next = null;
  }

  /** The newest ones anew, after the live stream was away: whatever is older stays as it is. */
  fresh(page) {
    for (const entry of page) this.live(entry);
  }

  /** One live event: a beginning, a change, or the end, at `now_us`. Returns whether it is a row that was not there. */
  live(entry, now_us = 0) {
    const before = this.known.get(keyOf(entry));
    if (before !== undefined) {
      if (isRunning(before) || !isRunning(entry)) this._replace(answering(before, entry, now_us));
      return false;
    }
    this._put(entry);
    while (this.rows.length > this.most) this.known.delete(keyOf(this.rows.pop()));
    return true;
  }

  /** Those that run, as far as is known, but for `runs(row)` do not: their end was lost (the stream broke), they are let go. */
  forget(runs) {
    const kept = this.rows.filter((row) => !isRunning(row) || runs(row));
    if (kept.length === this.rows.length) return false;
    this.rows = kept;
    this.known = new Map(kept.map((row) => [keyOf(row), row]));
    return true;
  }

  _replace(entry) {
    const before = this.known.get(keyOf(entry));
    const whole = isRunning(entry) ? { ...before, ...entry } : entry;
    this.known.set(keyOf(entry), whole);
    this.rows[this.rows.indexOf(before)] = whole;
  }

  /** At its place by time: nearly always the first or the last. */
  _put(entry) {
    this.known.set(keyOf(entry), entry);
    const { rows } = this;
    if (rows.length === 0 || entry.at_us <= rows.at(-1).at_us) return void rows.push(entry);
    let at = 0;
    while (rows[at].at_us > entry.at_us) at += 1;
    rows.splice(at, 0, entry);
  }
}
