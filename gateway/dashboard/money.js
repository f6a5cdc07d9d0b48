/* Sums of money, exact: decimal strings in, decimal strings out, BigInt between. Pure.
 *
 * The law: an amount is never a float. `approximately` is for the length of a bar, and for nothing that is read or added.
 */

const FORM = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?$/;

/** Zero, to start a sum with. */
export const ZERO = Object.freeze({ digits: 0n, scale: 0 });

/** "0.0012", "1E-7" → {digits, scale}, worth digits / 10^scale. null: no amount (null, "", "free"). */
export function amount(written) {
  const found = typeof written === "string" ? FORM.exec(written.trim()) : null;
  if (found === null) return null;
  const [, sign, whole, part = "", power = "0"] = found;
  if (whole === "" && part === "") return null;
  const scale = part.length - Number(power);
  const digits = BigInt(sign + "0" + whole + part);
  return scale >= 0 ? { digits, scale } : { digits: digits * 10n ** BigInt(-scale), scale: 0 };
}

/** The sum of two amounts. */
export function add(a, b) {
  const scale = Math.max(a.scale, b.scale);
  return { digits: raised(a, scale) + raised(b, scale), scale };
}

/** Negative, zero or positive, as sorting wants it. */
export function compare(a, b) {
  const scale = Math.max(a.scale, b.scale);
  const difference = raised(a, scale) - raised(b, scale);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/** What a list of written amounts comes to: {total, unknown}; null and nonsense are counted as unknown, never as zero. */
export function sum(written) {
  let total = ZERO;
  let unknown = 0;
  for (const text of written) {
    const value = amount(text);
    if (value === null) unknown += 1;
    else total = add(total, value);
  }
  return { total, unknown };
}

/** The amount, exactly, without an exponent and without zeros that say nothing: "0.0012". */
export function text(value) {
  const sign = value.digits < 0n ? "-" : "";
  const digits = (value.digits < 0n ? -value.digits : value.digits).toString().padStart(value.scale + 1, "0");
  const whole = digits.slice(0, digits.length - value.scale);
  const part = digits.slice(digits.length - value.scale).replace(/0+$/, "");
  return part === "" || value.scale === 0 ? sign + whole : `${sign}${whole}.${part}`;
}

/** For reading: "$12.40", "$0.0012", "$1 200.00" (thin spaces); at least two decimals, never fewer than there are. */
export function dollars(value) {
  const [whole, part = ""] = text(value).split(".");
  const sign = whole.startsWith("-") ? "−" : "";
  const grouped = whole.replace("-", "").replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return `${sign}$${grouped}.${part.padEnd(2, "0")}`;
}

/** The amount as a float, for the length of a bar: never read by anybody, never added. */
export function approximately(value) {
  return Number(text(value));
}

function raised(value, scale) {
  return value.digits * 10n ** BigInt(scale - value.scale);
}
