/* The phases of one request as a bar on a common scale, and its ruler. A phase has a colour and a pattern, and is said in words. */

import { PHASES, PHASE_WORDS, phases } from "./activity_rows.js";
import { seconds } from "./format.js";
import { h, set } from "./dom.js";
import { ticks, trimmed } from "./scales.js";

/** An empty bar; `drawBar` fills it. */
export function bar() {
  return h("div", { class: "wf", role: "img" }, PHASES.map((name) => h("i", { class: `wf-${name}` })));
}

/** Draw the phases of `entry` into a bar that is `scale_us` long; what is longer is cut, and marked so. */
export function drawBar(node, entry, scale_us, now_us) {
  const found = new Map(phases(entry, now_us).map((phase) => [phase.name, phase]));
  let end_us = 0;
  PHASES.forEach((name, i) => {
    const phase = found.get(name);
    const from = Math.min(1, (phase?.from_us ?? 0) / scale_us);
    const to = Math.min(1, (phase?.to_us ?? 0) / scale_us);
    const segment = node.children[i];
    set(segment, "style", { left: `${(from * 100).toFixed(2)}%`, width: `${((to - from) * 100).toFixed(2)}%` });
    set(segment, "hidden", phase === undefined || to <= from);
    end_us = Math.max(end_us, phase?.to_us ?? 0);
  });
  node.classList.toggle("over", end_us > scale_us);
  const words = phaseWords(entry, now_us);
  set(node, "aria-label", words);
  set(node, "title", words);
}

/** "queued 20 ms, load 1.2 s, first byte 80 ms, answer 2.1 s". */
export function phaseWords(entry, now_us) {
  const all = phases(entry, now_us).map((phase) => `${PHASE_WORDS[phase.name]} ${seconds((phase.to_us - phase.from_us) / 1e6)}`);
  return all.length > 0 ? all.join(", ") : "no time";
}

/** The ruler above the bars. */
export function ruler(scale_us) {
  const marks = ticks(scale_us / 1e6, 2).filter((tick) => tick * 1e6 <= scale_us * 1.0001);
  return h("div", { class: "wf-ruler" }, marks.map((tick) => h("span", { style: { left: `${(tick * 1e8) / scale_us}%` } },
    tick === 0 ? "0" : trimmed(seconds(tick)))));
}

/** What the patterns mean. */
export function legend() {
  return h("ul", { class: "legend", "aria-label": "Phases" },
    PHASES.map((name) => h("li", null, h("i", { class: `swatch wf-${name}`, "aria-hidden": "true" }), PHASE_WORDS[name])));
}
