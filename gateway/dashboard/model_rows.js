// The list of models as it is shown: what each row says, which rows are shown, in which order. Pure.

import { bytes, context, perMillion, seconds } from "./format.js";

/** One entry of /v1/models and the live state → a row. `live`: {residents: Map target → resident, cooling, queued: Set, failed: Map} */
export function rowOf(entry, { residents, cooling, queued, failed }) {
  const about = entry.roundhouse ?? {};
  const targets = about.targets ?? [];
  const target = targets.find((one) => residents.has(one)) ?? targets[0] ?? entry.id;
  const resident = residents.get(target);
  const managed = !["remote", "unreachable"].includes(about.state) || Boolean(resident) || about.managed === true;
  const held = resident ? Object.values(resident.footprint).reduce((all, one) => all + one, 0) : null;
  return {
    id: entry.id,
    target,
    managed,
    provider: about.provider ?? entry.owned_by ?? "",
    aliases: about.aliases ?? [],
    state: stateOf(about, resident, cooling[target], queued.has(target)),
    why: cooling[target] ?? failed.get(target) ?? "",
    failed: failed.has(target),
    leases: resident?.leases ?? 0,
    pinned: resident?.pinned ?? about.pinned ?? false,
    size: held ?? inMemory(about.expected_bytes) ?? about.size_bytes ?? null,
    held: held !== null,
    context: about.context_length ?? null,
    price: about.price ?? null,
    free: about.cost === "free",
    load_s: resident?.load_s ?? about.load_s ?? null,
    capabilities: about.capabilities ?? [],
    about,
  };
}

/** {"ram": 5} → 5; nothing known → null. */
function inMemory(footprint) {
  const sizes = Object.values(footprint ?? {});
  return sizes.length > 0 ? sizes.reduce((all, one) => all + one, 0) : null;
}

function stateOf(about, resident, failed, waits) {
  if (resident) return resident.phase;
  if (waits) return "queued";
  if (failed) return "failed";
  // the list is older than the live state: what it says of memory is over when the resident is
  return ["remote", "unreachable"].includes(about.state) ? about.state : "cold";
}

/** The live state, indexed for `rowOf`; `happenings`, oldest first, tell whose last load went wrong. */
export function standing(state, happenings = []) {
  return {
    failed: failures(happenings),
    residents: new Map((state?.residents ?? []).map((one) => [one.target, one])),
    cooling: state?.cooling_down ?? {},
    queued: new Set((state?.queue ?? []).map((one) => one.target)),
  };
}

function failures(happenings) {
  const failed = new Map();
  for (const one of happenings) {
    if (one.what === "load_failed" || one.what === "died") failed.set(one.target, one.detail || one.words || "no reason known");
    else if (one.what === "load_started" || one.what === "loaded") failed.delete(one.target);
  }
  return failed;
}

const STATES = {
  memory: (row) => ["loading", "ready", "draining", "unloading", "queued"].includes(row.state),
  local: (row) => row.managed,
  remote: (row) => !row.managed,
  free: (row) => row.free || row.managed,
  trouble: (row) => row.failed || ["failed", "unreachable"].includes(row.state),
  pinned: (row) => row.pinned,
};

/** Whether a row is to be shown; every word of `text` must occur somewhere in it. */
export function matches(row, { text = "", provider = "", show = "" }) {
  if (provider && row.provider !== provider) return false;
  if (show && !STATES[show]?.(row)) return false;
  if (!text) return true;
  const all = [row.id, row.provider, row.state, row.about.family, ...row.aliases, ...row.capabilities].join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

const RANK = { ready: 0, loading: 1, queued: 2, draining: 3, unloading: 4, failed: 5, cold: 6, remote: 7, unreachable: 8 };
const VALUES = {
  model: (row) => row.id.toLowerCase(),
  provider: (row) => row.provider,
  state: (row) => RANK[row.state] ?? 9,
  size: (row) => row.size,
  context: (row) => row.context,
  price: (row) => (row.price ? Number(row.price.completion) : null),
  load: (row) => row.load_s,
};

/** A sorted copy; what is unknown comes last in either direction, equals stand by name. */
export function sorted(rows, by, down) {
  const value = VALUES[by] ?? VALUES.state;
  const way = down ? -1 : 1;
  const named = (a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return named(a, b);
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return x < y ? -way : way;
  });
}

/** What a row says in its cells. */
export function cells(row) {
  return {
    size: row.size === null ? "–" : `${row.held ? "" : "≈ "}${bytes(row.size)}`,
    context: context(row.context),
    price: row.price ? (row.free ? "free" : `${perMillion(row.price.prompt)} / ${perMillion(row.price.completion)}`) : "–",
    load: row.load_s === null ? "–" : seconds(row.load_s),
  };
}
