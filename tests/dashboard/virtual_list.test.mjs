/* The arithmetic of lists of which only the rows in sight exist. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { keyTo, placeOf, scrollFor, windowOf } from "../../gateway/dashboard/virtual_list.js";

test("only rows in sight and some spare ones are drawn, wherever the list is scrolled to", () => {
  assert.deepEqual(windowOf(0, 320, 32, 50_000), [0, 18]);
  assert.deepEqual(windowOf(32_000, 320, 32, 50_000), [992, 1018]);
  assert.deepEqual(windowOf(1e9, 320, 32, 50), [50, 50]);
  assert.deepEqual(windowOf(0, 320, 32, 0), [0, 0]);
});

test("a row out of sight is scrolled to, one in sight is left where it is", () => {
  assert.equal(scrollFor(3, 320, 320, 32), 96);
  assert.equal(scrollFor(12, 320, 320, 32), 320);
  assert.equal(scrollFor(30, 320, 320, 32), 672);
});

test("keys lead to rows that there are", () => {
  assert.equal(keyTo("ArrowDown", -1, 5, 3), 0);
  assert.equal(keyTo("ArrowUp", 0, 5, 3), 0);
  assert.equal(keyTo("PageDown", 3, 5, 3), 4);
  assert.equal(keyTo("End", 0, 5, 3), 4);
  assert.equal(keyTo("Home", 4, 5, 3), 0);
  assert.equal(keyTo("a", 4, 5, 3), null);
  assert.equal(keyTo("End", 0, 0, 3), null);
});

test("the row that the keyboard is at is found again after others came or went", () => {
  const items = ["a", "b", "c", "d"];
  const itself = (item) => item;
  assert.deepEqual([placeOf("c", items, itself, 2), placeOf("c", items, itself, 0), placeOf("a", items, itself, 3), placeOf("x", items, itself, 1)], [2, 2, 0, -1]);
});
