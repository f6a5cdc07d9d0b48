/* What the timeline shows, worked out from GET /admin/timeline: rows, clipped spans, grouped marks, requests per step. Pure.
 *
 * The law: times are seconds since the epoch; a view is {from_s, to_s}; nothing outside it is drawn, nothing inside is left out.
 */

const FIT_LEAST_S = 600; // what is shown at first, where there is little
const LEAST_S = 30; // no closer look than this: a minute's counts would say nothing

/** Rows, those with the latest happening first: {key, target, model, spans, marks, counts: Map second → requests}. */
export function rowsOf(timeline) {
  const rows = new Map();
  const ofModel = new Map();
  for (const span of timeline.spans) {
    const row = rowAt(rows, span.target, span.model);
    row.spans.push(span);
    row.latest_s = Math.max(row.latest_s, span.to_s ?? timeline.to_s);
    if (!ofModel.has(span.model)) ofModel.set(span.model, row);
  }
  for (const mark of timeline.marks) {
    const row = rowAt(rows, mark.target, mark.model ?? modelIn(mark.target));
    row.marks.push(mark);
    if (!ofModel.has(row.model)) ofModel.set(row.model, row);
    row.latest_s = Math.max(row.latest_s, mark.at_s);
  }
  for (const { at_s, model, count } of timeline.requests) {
    const row = ofModel.get(model) ?? rowAt(rows, model, model);
    row.counts.set(at_s, (row.counts.get(at_s) ?? 0) + count);
    row.requests += count;
  }
  return [...rows.values()].sort(
    (a, b) => Number(b.spans.length > 0) - Number(a.spans.length > 0) || b.latest_s - a.latest_s || b.requests - a.requests,
  );
}

function rowAt(rows, target, model) {
  const key = target || "";
  if (!rows.has(key)) {
    rows.set(key, { key, target: key, model, spans: [], marks: [], counts: new Map(), requests: 0, latest_s: 0 });
  }
  return rows.get(key);
}

function modelIn(target) {
  return target.slice(target.indexOf("/") + 1) || target;
}

/** The part of a span that is in the view, as shares of its width: {left, width}; null: none of it. */
export function clipped(span, view) {
  const from = Math.max(span.from_s, view.from_s);
  const to = Math.min(span.to_s ?? view.to_s, view.to_s);
  if (to < from || span.from_s > view.to_s) return null;
  const whole = view.to_s - view.from_s;
  return { left: (from - view.from_s) / whole, width: (to - from) / whole };
}

/** Marks in the view, those nearer together than `near` (a share of the width) as one: [{left, marks: […]}]. */
export function grouped(marks, view, near) {
  const whole = view.to_s - view.from_s;
  const found = [];
  for (const mark of [...marks].sort((a, b) => a.at_s - b.at_s)) {
    const left = (mark.at_s - view.from_s) / whole;
    if (left < 0 || left > 1) continue;
    const last = found.at(-1);
    if (last !== undefined && left - last.left < near) last.marks.push(mark);
    else found.push({ left, marks: [mark] });
  }
  return found;
}

/** Requests per step of the view: {step_s, counts: […]}, a step being a whole number of minutes, at most `most` steps. */
export function perStep(counts, view, most) {
  const step_s = Math.max(1, Math.ceil((view.to_s - view.from_s) / 60 / most)) * 60;
  const first_s = Math.floor(view.from_s / step_s) * step_s;
  const found = new Array(Math.max(1, Math.ceil((view.to_s - first_s) / step_s))).fill(0);
  for (const [at_s, count] of counts) {
    const step = Math.floor((at_s - first_s) / step_s);
    if (step >= 0 && step < found.length) found[step] += count;
  }
  return { step_s, first_s, counts: found };
}

/** Where the steps lie in the view, as shares of its width: whole minutes begin before it, and end after it. */
export function stepsPlace({ step_s, first_s, counts }, view) {
  const whole = view.to_s - view.from_s;
  return { left: (first_s - view.from_s) / whole, width: (counts.length * step_s) / whole };
}

/** The view `factor` times as wide (0.5: closer), the moment `at_s` staying where it is, within `bounds`. */
export function zoomed(view, bounds, factor, at_s = (view.from_s + view.to_s) / 2) {
  const whole = bounds.to_s - bounds.from_s;
  const width = Math.min(whole, Math.max(Math.min(LEAST_S, whole), (view.to_s - view.from_s) * factor));
  const share = (at_s - view.from_s) / (view.to_s - view.from_s);
  return within(at_s - share * width, width, bounds);
}

/** What there is, up to now: where all of it lies in the last part of the bounds, that part. */
export function fitted(rows, bounds) {
  let first_s = bounds.to_s;
  for (const { spans, marks, counts } of rows) {
    for (const { from_s } of spans) first_s = Math.min(first_s, from_s);
    for (const { at_s } of marks) first_s = Math.min(first_s, at_s);
    for (const at_s of counts.keys()) first_s = Math.min(first_s, at_s);
  }
  const width = Math.max(FIT_LEAST_S, (bounds.to_s - first_s) * 1.08);
  return width > (bounds.to_s - bounds.from_s) / 2 ? bounds : { from_s: bounds.to_s - width, to_s: bounds.to_s };
}

/** The view moved by a share of its own width (-0.25: earlier), within `bounds`. */
export function moved(view, bounds, share) {
  const width = view.to_s - view.from_s;
  return within(view.from_s + share * width, width, bounds);
}

function within(from_s, width, bounds) {
  const first = Math.max(bounds.from_s, Math.min(from_s, bounds.to_s - width));
  return { from_s: first, to_s: first + width };
}

/** A view that was looked at, after the bounds moved on: one that reached to now keeps reaching to now. */
export function followed(view, before, bounds) {
  const width = Math.min(view.to_s - view.from_s, bounds.to_s - bounds.from_s);
  if (view.to_s >= before.to_s - 1) return { from_s: bounds.to_s - width, to_s: bounds.to_s };
  return within(view.from_s, width, bounds);
}

/** In words, for who does not see the picture: "ready from 12:01:03 for 4 min". `clock`: seconds → text. */
export function spanWords(span, now_s, clock, duration) {
  const lasted = duration((span.to_s ?? now_s) - span.from_s);
  const why = span.why ? `, ${span.why.replaceAll("_", " ")}` : "";
  return `${span.phase} from ${clock(span.from_s)} ${span.to_s === null ? "until now, " : "for "}${lasted}${why}`;
}
