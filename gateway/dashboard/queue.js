// The queue as people see it: one row per model, in the order in which models are served; and what a request waits for. Pure.

/** A request in progress and the state → {word, kind}: "queued" (for memory), "loading", "working" (its model has it, no byte has come yet), "answering". */
export function waitsFor(request, state) {
  if (request.phase !== "queued") return { word: request.phase, kind: "ready" };
  const resident = state.residents?.find((one) => one.target === request.target);
  if (resident?.phase === "loading") return { word: "loading", kind: "loading" };
  if ((state.queue ?? []).some((one) => one.target === request.target)) return { word: "queued", kind: "queued" };
  if (resident?.leases > 0 || (request.target && !resident)) return { word: "working", kind: "info" };
  return { word: "queued", kind: "queued" };
}

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
