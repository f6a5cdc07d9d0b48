// The queue as people see it: one row per model, in the order in which models are served. Pure.

/** Tickets of /admin/residency → [{target, name, place, requests, waiting_s, expected_s}]; `learned`: target → typical load seconds. */
export function queueRows(tickets, learned = new Map()) {
  const rows = new Map();
  for (const one of tickets ?? []) {
    const row = rows.get(one.target) ?? { target: one.target, name: one.model ?? one.target.replace(/^[^/]*\//, ""), place: one.position, requests: 0, waiting_s: 0, expected_s: null };
    row.requests += 1;
    row.place = Math.min(row.place, one.position);
    row.waiting_s = Math.max(row.waiting_s, one.waiting_s);
    row.expected_s = one.expected_s ?? learned.get(one.target) ?? null;
    rows.set(one.target, row);
  }
  return [...rows.values()].sort((a, b) => a.place - b.place);
}
