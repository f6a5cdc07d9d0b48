// Decisions, refusals and states in words. Pure.

import { bytes, count, seconds } from "./format.js";

/** "local/qwen3-8b" → "qwen3-8b": what people call it; the full name stays in titles. */
export function shortName(target) {
  const slash = target.indexOf("/");
  return slash < 0 ? target : target.slice(slash + 1);
}

const sum = (footprint) => Object.values(footprint ?? {}).reduce((all, one) => all + one, 0);

/** {"cuda:0": 5} → "5 B of cuda:0". */
export function footprintWords(footprint) {
  const parts = Object.entries(footprint ?? {}).filter(([, size]) => size > 0);
  return parts.length ? parts.map(([device, size]) => `${bytes(size)} of ${device}`).join(" + ") : "nothing";
}

/** What to do where there is no model at all; `…` are commands. */
export const FIRST_MODEL = [
  "There is no model yet. Fetch a small one with `roundhouse pull`, or put a .gguf file into the models folder (server.models_dir).",
  "Ollama, LM Studio and APIs are named under [providers] in the configuration; `roundhouse doctor` says what can be found here.",
];

const LEFT = {
  idle: "nobody used it",
  admin: "unloaded by hand",
  over_budget: "there is less memory than there was",
  shutdown: "the gateway shuts down",
  died: "its engine ended",
  evicted: "room was needed",
};
const CAME = { restored: ", as it was before", found: ": found in its server's memory" };

/** One happening of the journal → {words, kind}; kind: "ok" | "info" | "warn" | "bad" | "plain". */
export function happeningWords(one) {
  const name = shortName(one.target ?? "");
  const took = one.seconds === undefined || one.seconds === null ? "" : ` in ${seconds(one.seconds)}`;
  one = { ...one, detail: (one.detail ?? "").replaceAll(one.target, name) };
  const said = SENTENCES[one.what]?.(one, name, took) ?? [`${one.what.replaceAll("_", " ")} ${name} ${one.detail ?? ""}`.trim(), "plain"];
  return { words: one.words || said[0], kind: said[1] };
}

const SENTENCES = {
  queued: (one, name) => [`a request waits for ${name}`, "plain"],
  granted: (one, name) => [`a request for ${name} goes ahead after ${seconds(one.seconds ?? 0)}`, "plain"],
  rejected: (one, name) => [`refused a request for ${name}: ${one.detail || (one.why ?? "").replaceAll("_", " ")}`, "bad"],
  load_started: (one, name) => {
    const size = one.footprint ? ` (${bytes(sum(one.footprint))}, ${sourceWords(one.footprint_source)})` : "";
    return [`loading ${name}${size}${CAME[one.why] ?? ""}`, "info"];
  },
  loaded: (one, name, took) => [`${name} is ready${took}`, "ok"],
  found: (one, name) => [`${name} was found in its server's memory`, "info"],
  load_failed: (one, name) => [`${name} could not be loaded: ${one.detail || "no reason known"}`, "bad"],
  died: (one, name) => [`${name} ended by itself: ${one.detail || "no reason known"}`, "bad"],
  draining: (one, name) => {
    if (one.why === "evicted") return [`evicting ${name} for ${shortName(one.for_target || "another model")}${one.detail ? `: ${one.detail}` : ""}`, "warn"];
    const idle = one.why === "idle" && one.seconds ? ` for ${seconds(one.seconds)}` : "";
    return [`unloading ${name}: ${LEFT[one.why] ?? one.why ?? "asked to leave"}${idle}`, "warn"];
  },
  unload_started: (one, name) => [`stopping ${name}`, "plain"],
  gone: (one, name, took) => [`${name} has left; its memory is back${took.replace(" in ", " after ")}`, "plain"],
  pinned: (one, name) => [`${name} is pinned: it stays in memory once it is there`, "info"],
  unpinned: (one, name) => [`${name} is not pinned any more`, "info"],
  budget: (one) => [`the memory budget changed${one.detail ? `: ${one.detail}` : ""}`, "info"],
};

/** A dry run → one sentence. `names(target)`: what it is called. */
export function planWords(plan, names = shortName) {
  const need = footprintWords(plan.needed);
  const about = plan.expected_load_s ? `, in about ${seconds(plan.expected_load_s)}` : "";
  switch (plan.outcome) {
    case "ready":
      return "It is in memory and ready.";
    case "loading":
      return "It is being loaded already.";
    case "fits":
      return `It needs ${need}, which is free: it would be loaded at once${about}.`;
    case "evicts":
      return `It needs ${need}. ${count(plan.victims.length, "model")} would leave memory for it: ${plan.victims.map(names).join(", ")}; then it is loaded${about}.`;
    case "waits":
      return `It needs ${need} and would have to wait: ${plan.detail || "there is no room yet"}.`;
    case "refused":
      return `It would be refused: ${plan.detail || (plan.refusal ?? "").replaceAll("_", " ")}.`;
    default:
      return `${plan.outcome}: ${plan.detail ?? ""}`;
  }
}

/** How sure we are of a size. */
export function sourceWords(source) {
  return { learned: "measured", measured: "measured", declared: "declared", estimated: "estimated" }[source] ?? source ?? "";
}
