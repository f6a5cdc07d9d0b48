/* Statistics of the load test and the embeddings. Pure.
 *
 * The law: a percentile is a figure that was measured (nearest rank), never one between two of them.
 */

/** The figure below or at which `share` (0 to 1) of them lie, by nearest rank; NaN of none. `sorted`: ascending. */
export function percentile(sorted, share) {
  if (sorted.length === 0) return NaN;
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length - 1e-9) - 1))];
}

/** {count, least, mean, p50, p95, p99, most} of a list in any order. */
export function summary(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const mean = sorted.length === 0 ? NaN : sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  const [p50, p95, p99] = [0.5, 0.95, 0.99].map((share) => percentile(sorted, share));
  return { count: sorted.length, least: sorted[0] ?? NaN, mean, p50, p95, p99, most: sorted.at(-1) ?? NaN };
}

/** The cosine of the angle between two vectors; NaN where one is zero or their lengths differ. */
export function cosine(a, b) {
  if (a.length !== b.length) return NaN;
  let dot = 0;
  let left = 0;
  let right = 0;
  for (let i = 0; i < a.length; i += 1) {
    dot += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  return left === 0 || right === 0 ? NaN : Math.max(-1, Math.min(1, dot / Math.sqrt(left * right)));
}

/** Each with each; the diagonal is 1 where it is defined. */
export function cosines(vectors) {
  return vectors.map((a) => vectors.map((b) => cosine(a, b)));
}

/** A whole load test so far: its figures, errors by what they were, and the rate. `results`: {first_s, total_s, error, tokens}. */
export function loadReport(results, elapsed_s) {
  const good = results.filter((result) => result.error === "");
  const errors = new Map();
  for (const { error } of results) if (error !== "") errors.set(error, (errors.get(error) ?? 0) + 1);
  const tokens = good.reduce((sum, result) => sum + (result.tokens ?? 0), 0);
  return {
    done: results.length,
    good: good.length,
    errors: [...errors].sort((a, b) => b[1] - a[1]),
    first: summary(good.map((result) => result.first_s).filter((value) => value !== null)),
    total: summary(good.map((result) => result.total_s)),
    requests_per_s: elapsed_s > 0 ? results.length / elapsed_s : NaN,
    tokens_per_s: elapsed_s > 0 && tokens > 0 ? tokens / elapsed_s : NaN,
  };
}
