// One value of the configuration as it is read: sizes and times also in the units people think in. Pure.

import { bytes, seconds } from "./format.js";

const AUTO = new Set(["server.discover", "memory.budget", "memory.headroom", "residency.min_residency_s"]);
const SIZE = /(_bytes|\.memory|^memory\.(budget|headroom|devices))$/;

/** {key, value, secret, source} → words. A secret is never in them, nor how long it is. */
export function configWords({ key, value, secret, source }) {
  if (secret) return value ? (source === "default" ? "(the default)" : "(set, not shown)") : "(not set)";
  if (value === null || value === "") return AUTO.has(key) ? "auto" : "(not set)";
  if (Array.isArray(value)) return value.join(", ") || "(none)";
  if (typeof value === "object") return ofEach(key, value);
  if (SIZE.test(key) && Number.isFinite(value) && value > 0) return `${bytes(value)} (${value})`;
  if (key.endsWith("_s") && value >= 60) return `${value} (${seconds(value)})`;
  return String(value);
}

function ofEach(key, value) {
  const all = Object.entries(value);
  if (all.length === 0) return "(none)";
  const sizes = SIZE.test(key) && all.every(([, one]) => Number.isFinite(one));
  return sizes ? all.map(([device, one]) => `${bytes(one)} of ${device} (${one})`).join(", ") : JSON.stringify(value);
}
