// Figures in words. Pure, and the same in every locale: what is read aloud in a chat must mean the same to both.

const KINDS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** 1536 → "1.5 KiB"; three digits that count. */
export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  let size = Math.abs(count);
  let kind = 0;
  while (size >= 1023.5 && kind < KINDS.length - 1) {
    size /= 1024;
    kind += 1;
  }
  const digits = kind === 0 || size >= 99.95 ? 0 : 1;
  return `${count < 0 ? "−" : ""}${size.toFixed(digits)} ${KINDS[kind]}`;
}

/** 0.0123 → "12 ms", 4.2 → "4.2 s", 75 → "1 min 15 s", 4000 → "1 h 7 min". */
export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 0) return "0 s";
  if (value < 0.0005) return `${Math.round(value * 1e6)} µs`;
  if (value < 0.9995) return `${Math.round(value * 1e3)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 59.5) return `${Math.round(value)} s`;
  return two(Math.round(value));
}

function two(whole) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => whole >= size);
  const [name, size] = units[first];
  const rest = units[first + 1];
  const left = rest ? Math.floor((whole % size) / rest[1]) : 0;
  return `${Math.floor(whole / size)} ${name}${left ? ` ${left} ${rest[0]}` : ""}`;
}

/** Idle times and ages: whole seconds, so that nothing flickers. */
export function age(value) {
  return Number.isFinite(value) && value < 59.5 ? `${Math.max(0, Math.floor(value))} s` : seconds(value);
}

/** Microseconds, as the ledger keeps them; 0 was not reached. */
export function micros(value) {
  return value ? seconds(value / 1e6) : "–";
}

/** 1234567 → "1,234,567" with thin spaces. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  const [whole, part] = String(Math.abs(value)).split(".");
  const spaced = whole.replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return `${value < 0 ? "−" : ""}${spaced}${part ? `.${part}` : ""}`;
}

/** 1234567 → "1.23 M": where there is little room. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size * 0.9995) return `${significant(value / size)}${unit}`;
  }
  return Number.isInteger(value) ? String(value) : significant(value);
}

function significant(value) {
  return Math.abs(value) >= 99.95 ? value.toFixed(0) : Math.abs(value) >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** Context lengths are powers of two: 131072 → "128k", 2000 → "2 000". */
export function context(tokens) {
  if (!tokens) return "–";
  return tokens >= 1024 && tokens % 1024 === 0 ? `${tokens / 1024}k` : number(tokens);
}

/** An exact decimal as text (or null: unknown) → "$1.23", "$0.000 42" keeps two digits that count. */
export function money(amount) {
  if (amount === null || amount === undefined || amount === "") return "–";
  const value = Number(amount);
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "$0";
  const size = Math.abs(value);
  const digits = size >= 0.995 ? 2 : Math.min(12, 1 - Math.floor(Math.log10(size)));
  const [whole, part] = size.toFixed(digits).split(".");
  return `${value < 0 ? "−" : ""}$${whole.replace(/\B(?=(\d{3})+$)/g, "\u202f")}.${part}`;
}

/** A price per token (decimal as text) → per million, as people compare them: "0.000003" → "$3.00". */
export function perMillion(perToken) {
  if (perToken === null || perToken === undefined || perToken === "") return "–";
  return money(Number((Number(perToken) * 1e6).toPrecision(12)));
}

/** 0.1234 → "12 %". */
export function percent(share, digits = 0) {
  return Number.isFinite(share) ? `${(share * 100).toFixed(digits)} %` : "–";
}

const pad = (value) => String(value).padStart(2, "0");

/** Seconds since the epoch → "14:03:09" in this machine's zone. */
export function clock(atS) {
  const at = new Date(atS * 1000);
  return Number.isNaN(at.getTime()) ? "–" : `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** Seconds since the epoch → "2026-11-22 14:03:09" in this machine's zone. */
export function moment(atS) {
  const at = new Date(atS * 1000);
  if (Number.isNaN(at.getTime())) return "–";
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock(atS)}`;
}

/** Seconds since the epoch → "14:03:09"; of another day than `nowS`'s also which: "11-21 14:03:09". */
export function stamp(atS, nowS) {
  const day = (one) => moment(one).slice(0, 10);
  return day(atS) === day(nowS) ? clock(atS) : moment(atS).slice(5);
}

/** "3 models", "1 model". */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}
