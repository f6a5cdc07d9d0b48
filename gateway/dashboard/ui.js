// Small parts that several pages use: badges, dialogs, toasts, copying, empty and failed cards.

import { h } from "./dom.js";

/** A word in a coloured box; the kind (a phase, "ok", "warn", "bad", "info", "plain") is also in the word, never in the colour only. */
export function badge(word, kind = word, title) {
  return h("span", { class: `badge ${String(kind).replaceAll(/[^\w-]/g, "")}`, title }, word);
}

/** Said at the edge of the screen for some seconds; errors stay until they are dismissed. */
export function toast(words, kind = "info") {
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => box.remove() }, "×");
  const box = h("div", { class: `toast ${kind}` }, h("span", null, words), close);
  const all = document.getElementById("toasts");
  all.append(box);
  while (all.children.length > 4) all.firstChild.remove();
  if (kind !== "bad") setTimeout(() => box.remove(), 5000);
  return box;
}

/** Run something for a button: it is busy meanwhile, an error becomes a toast. Returns the answer, or undefined. */
export async function busy(button, action) {
  if (button.ariaBusy === "true") return undefined;
  button.ariaBusy = "true";
  try {
    return await action();
  } catch (error) {
    // that the gateway is away stands above the page, for as long as it is
    if (error.name !== "AbortError" && error.status !== 401) toast(error.message, error.status === 0 ? "warn" : "bad");
    return undefined;
  } finally {
    button.ariaBusy = null;
  }
}

let dialogs = 0;

/** A modal dialog. `content(close)` → nodes; resolves with what `close` was given (undefined: dismissed with Escape). */
export function dialog(title, content, { wide = false } = {}) {
  return new Promise((done) => {
    dialogs += 1;
    const id = `dialog-${dialogs}`;
    let answer;
    const box = h("dialog", { "aria-labelledby": id, class: wide ? "wide" : null });
    const close = (given) => {
      answer = given;
      box.close();
    };
    box.append(h("h2", { id }, title), ...[content(close)].flat());
    box.addEventListener("close", () => {
      box.remove();
      done(answer);
    });
    document.body.append(box);
    box.showModal();
  });
}

/** Ask before doing what cannot be undone. → true | false */
export async function confirm(title, words, yes, { danger = false } = {}) {
  const said = await dialog(title, (close) => [
    h("p", null, words),
    h("div", { class: "actions" },
      h("button", { type: "button", onclick: () => close(false) }, "Cancel"),
      h("button", { type: "button", class: danger ? "danger" : "primary", autofocus: true, onclick: () => close(true) }, yes)),
  ]);
  return said === true;
}

/** A button that copies `text()`; says so for a moment. */
export function copyButton(text, label = "Copy") {
  const button = h("button", {
    type: "button",
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select it and press Ctrl+C"; // without https the browser has no clipboard for us
      }
      setTimeout(() => (button.textContent = label), 2000);
    },
  }, label);
  return button;
}

/** A card instead of what could not be shown. */
export function failedCard(title, error, again) {
  const words = error?.message ?? String(error);
  return h("section", { class: "card failed", role: "alert" },
    h("h2", null, title),
    h("p", null, words),
    again && h("p", null, h("button", { type: "button", onclick: again }, "Try again")));
}

/** A card that says that there is nothing yet, and what to do. */
export function emptyCard(words, ...more) {
  return h("div", { class: "empty" }, h("p", null, words), ...more);
}

/** Words in which `…` is a command or a file, as nodes. */
export function quoted(words) {
  return words.split("`").map((part, at) => (at % 2 === 1 ? h("code", null, part) : part));
}

/** A page's heading line. `more`: controls at its end. */
export function heading(title, ...more) {
  return h("div", { class: "heading" }, h("h1", null, title), ...more);
}

/** A labelled field. `control` is an input, select or textarea. */
export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", null, label), control, hint && h("small", null, hint));
}

/** A table with its head; `columns`: [{name, num, class}] or names. Returns {table, body}. `caption` is read aloud only. */
export function table(caption, columns) {
  const body = h("tbody");
  const cells = columns.map((one) => {
    const { name, num, ...rest } = typeof one === "string" ? { name: one } : one;
    return h("th", { scope: "col", ...rest, class: [num && "num", rest.class].filter(Boolean).join(" ") || null }, name);
  });
  const head = h("thead", null, h("tr", null, cells));
  const node = h("table", null, h("caption", { class: "unseen" }, caption), head, body);
  return { table: h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, node), body };
}

/** A progress bar; share null: under way, nobody knows how far. */
export function progress(label, share) {
  const bar = h("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" },
    h("div"));
  setProgress(bar, share);
  return bar;
}

export function setProgress(bar, share) {
  const known = Number.isFinite(share);
  bar.classList.toggle("unknown", !known);
  if (known) bar.setAttribute("aria-valuenow", String(Math.round(share * 100)));
  else bar.removeAttribute("aria-valuenow");
  bar.firstChild.style.width = known ? `${Math.min(100, Math.max(0, share * 100))}%` : "";
}

