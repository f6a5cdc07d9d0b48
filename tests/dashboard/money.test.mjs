/* Money: exact sums of decimal strings. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ZERO, add, amount, approximately, compare, dollars, sum, text } from "../../gateway/dashboard/money.js";

test("a tenth and two tenths are three tenths", () => {
  assert.equal(text(sum(["0.1", "0.2"]).total), "0.3");
});

test("ten thousand of the smallest prices add up exactly", () => {
  assert.equal(text(sum(new Array(10_000).fill("0.00000015")).total), "0.0015");
});

test("what is no amount is counted as unknown and adds nothing", () => {
  const { total, unknown } = sum(["1", null, "", "free", undefined, ".", "1.5e"]);
  assert.equal(text(total), "1");
  assert.equal(unknown, 6);
});

test("Python's ways of writing a Decimal are read", () => {
  for (const [written, plain] of [["1E-7", "0.0000001"], ["1.20", "1.2"], ["0E-10", "0"], ["12E+2", "1200"], ["-0.50", "-0.5"], [".5", "0.5"]]) {
    assert.equal(text(amount(written)), plain, written);
  }
});

test("more figures than a float holds survive", () => {
  assert.equal(text(add(amount("123456789012345678901.000000000001"), amount("0.000000000001"))), "123456789012345678901.000000000002");
});

test("for reading there are two decimals at least, thousands apart, and no figure lost", () => {
  for (const [written, shown] of [["0", "$0.00"], ["12.4", "$12.40"], ["1234567.00012", "$1\u202f234\u202f567.00012"], ["-3", "−$3.00"]]) {
    assert.equal(dollars(amount(written)), shown);
  }
});

test("order and length", () => {
  assert.equal(compare(amount("0.10"), amount("0.1")), 0);
  assert.equal(compare(amount("0.09"), amount("0.1")), -1);
  assert.equal(compare(amount("2"), ZERO), 1);
  assert.equal(approximately(amount("0.25")), 0.25);
});
