/* Scales and ticks: from figures to places on an axis. Pure.
 *
 * The law: every tick is a round figure in the unit that is read (1, 2 or 5 times a power of ten; 15 minutes; 6 hours).
 */

/** value → place, straight. An empty domain maps to the range's beginning. */
export function linear([from, to], [start, end]) {
  const span = to - from;
  return (value) => (span === 0 ? start : start + ((value - from) / span) * (end - start));
}

/** The smallest round figure (1, 2, 5 × 10^n) that is not below `value`. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const factor of [1, 2, 5]) if (factor * power >= value * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

/** Ticks from 0 up to the first that is not below `max`, about `count` of them; whole numbers only where `whole`. */
export function ticks(max, count = 4, whole = false) {
  const step = Math.max(roundUp(max / count), whole ? 1 : 0);
  const found = [0];
  while (found.at(-1) < max * (1 - 1e-9)) found.push(Number((found.length * step).toPrecision(12)));
  return found.length > 1 ? found : [0, step];
}

const MINUTE_S = 60;
const HOUR_S = 3600;
const DAY_S = 86400;
const TIME_STEPS_S = [1, 5, 15, 30, MINUTE_S, 2 * MINUTE_S, 5 * MINUTE_S, 10 * MINUTE_S, 15 * MINUTE_S, 30 * MINUTE_S,
  HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S, DAY_S, 2 * DAY_S, 7 * DAY_S];

/** Round moments between two times (seconds since the epoch), at most `count`; `zone_s`: local time is UTC plus this. */
export function timeTicks(from_s, to_s, count, zone_s = 0) {
  const step = TIME_STEPS_S.find((step_s) => (to_s - from_s) / step_s <= count) ?? TIME_STEPS_S.at(-1);
  const found = [];
  for (let at = Math.ceil((from_s + zone_s) / step) * step; at <= to_s + zone_s; at += step) found.push(at - zone_s);
  return { step_s: step, at_s: found };
}

/** What each day is called between two (both included): ["2026-11-20", …]; at most `most` of them, the latest. */
export function daysBetween(since, until, most = 400) {
  const found = [];
  const last_ms = Date.parse(`${until}T00:00:00Z`);
  const first_ms = Math.max(Date.parse(`${since}T00:00:00Z`), last_ms - (most - 1) * DAY_S * 1000);
  for (let at = first_ms; at <= last_ms; at += DAY_S * 1000) found.push(new Date(at).toISOString().slice(0, 10));
  return found;
}

/** The day that lies `days` after `day` ("2026-11-22", -6 → "2026-11-16"). */
export function dayAfter(day, days) {
  return new Date(Date.parse(`${day}T00:00:00Z`) + days * DAY_S * 1000).toISOString().slice(0, 10);
}

/** A figure without the zeros that say nothing on an axis: "1.50 k" → "1.5 k", "2.0 s" → "2 s", "150 k" stays. */
export function trimmed(text) {
  return text.replace(/\.(\d*?)0+(?=\D|$)/, (_, kept) => (kept === "" ? "" : `.${kept}`));
}
