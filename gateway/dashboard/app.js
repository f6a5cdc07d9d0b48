// The frame around the pages: session, router, theme, banners, announcements.
//
// A page is a module pages/NAME.js with `mount(root, ctx) → unmount()` (either may be async). Whatever goes wrong in one is shown as
// a card in its place; the frame stays.

import { api, ApiError, whenUnauthorized } from "./api.js";
import { h, keyed, replace, text } from "./dom.js";
import { live } from "./live.js";
import { failedCard, heading, toast } from "./ui.js";
import { count } from "./format.js";

const PAGES = {
  now: "Now",
  models: "Models",
  activity: "Activity",
  usage: "Usage",
  timeline: "Timeline",
  playground: "Playground",
  settings: "Settings",
};
const main = document.getElementById("main");
let session = { needed: false, name: "", admin: true, version: "" };
let leave = null; // the present page's unmount
let turn = 0; // which navigation this is: a slow module must not overwrite a later page
let unfetched = false; // the page could not be had: the gateway was away

// ------------------------------------------------------------------ router

/** "#/models/a%2Fb?x=1" → {page, id, query} */
export function route(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...rest] = path.split("/");
  return { page: page || "now", id: rest.length ? decode(rest.join("/")) : null, query: new URLSearchParams(query) };
}

function decode(written) {
  try {
    return decodeURIComponent(written);
  } catch {
    return written;
  }
}

async function show() {
  const mine = ++turn;
  unfetched = false;
  const to = route(location.hash);
  await unmount();
  if (mine !== turn) return;
  markNav(to.page);
  document.title = `${PAGES[to.page] ?? "Not found"} · Roundhouse`;
  if (!(to.page in PAGES)) {
    replace(main, h("section", { class: "card" }, h("h1", null, "There is no such page"), h("p", null, h("a", { href: "#/now" }, "To Now"))));
    return;
  }
  const root = h("div", { class: `page page-${to.page}` });
  // a slow network shows where it is going; a fast one does not flicker
  const slow = setTimeout(() => mine === turn && replace(main, heading(PAGES[to.page]), h("p", { class: "dim" }, "Loading…")), 150);
  try {
    const module = await import(`./pages/${to.page}.js`).finally(() => clearTimeout(slow));
    if (mine !== turn) return;
    replace(main, root);
    const gone = await module.mount(root, context(to));
    if (mine === turn) leave = gone;
    else gone?.();
  } catch (error) {
    if (mine !== turn || error.status === 401) return;
    unfetched = error.status === 0 || error instanceof TypeError;
    if (!unfetched) console.warn(error);
    const why = unfetched ? new ApiError(0, "unreachable", "The gateway cannot be reached. Is it running?") : error;
    // again means anew: a module that could not be fetched stays failed for the life of a document
    replace(main, heading(PAGES[to.page]), failedCard(`${PAGES[to.page]} cannot be shown`, why, () => location.reload()));
  }
}

async function unmount() {
  const gone = leave;
  leave = null;
  try {
    await gone?.();
  } catch (error) {
    console.warn(error);
  }
}

/** What a page is given. */
function context(to) {
  return {
    api,
    live,
    session,
    id: to.id,
    query: to.query,
    announce,
    toast,
    go: (hash) => (location.hash = hash),
    // keeps the filters in the address without leaving the page
    setQuery: (values) => {
      const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value));
      const path = location.hash.split("?")[0] || `#/${to.page}`;
      history.replaceState(null, "", query.size ? `${path}?${query}` : path);
    },
  };
}

function markNav(page) {
  for (const link of document.querySelectorAll("#nav a")) {
    const here = link.hash === `#/${page}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (here) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

// ------------------------------------------------------------------ session

async function begin() {
  try {
    session = await api.get("/admin/session", { quiet401: true });
  } catch (error) {
    // a gateway from before sessions: it asks for nothing, or its 401 leads to the login
    if (!(error instanceof ApiError) || error.status === 0) banner("begin", "bad", error.message);
  }
  if (session.needed && !session.name) return login();
  document.getElementById("logout").hidden = !session.needed;
  document.body.classList.remove("out");
  live.start();
  return show();
}

async function login() {
  const had = session.name !== "";
  session = { ...session, name: "" };
  turn += 1;
  live.stop();
  standing.clear();
  drawBanners([]);
  await unmount();
  document.body.classList.add("out");
  document.getElementById("logout").hidden = true;
  document.title = "Log in · Roundhouse";
  const { mountLogin } = await import("./pages/login.js");
  mountLogin(main, { why: had ? "Your session is over: its key was revoked or has expired, or the gateway was started anew. Log in again." : "", done: begin });
}

whenUnauthorized(() => {
  if (!document.body.classList.contains("out")) login();
});

document.getElementById("logout").addEventListener("click", async () => {
  try {
    await api.post("/admin/logout", {});
  } catch (error) {
    if (error.status !== 401) return void toast(`Not logged out: ${error.message}`, "bad");
  }
  location.reload(); // nothing of what was seen or written stays in the page
});

// ------------------------------------------------------------------ banners

const standing = new Map();
const drawBanners = keyed(document.getElementById("banners"), {
  key: ([id]) => id,
  make: () => h("p", { class: "banner" }, h("span")),
  patch: (node, [, { kind, words, action }]) => {
    node.className = `banner ${kind}`;
    replace(node, h("span", null, words), action && h("button", { type: "button", onclick: action.run }, action.name));
  },
  same: ([, { kind, words }]) => `${kind} ${words}`,
});

/** Something that concerns every page; null words take it away. */
export function banner(id, kind, words, action) {
  if (words) standing.set(id, { kind, words, action });
  else standing.delete(id);
  drawBanners([...standing]);
}

const QUIET_MS = 500;
let away = false;
let fetched = false;

live.on("status", (status) => {
  if (status === "live") fetchPages();
  if (status === "live" && away && unfetched) location.reload();
  if (status === "lost") banner("closing", "warn", null); // it has gone: that is said below
  away = status === "lost" || (away && status === "connecting");
  const link = document.getElementById("link");
  const words = { live: "Live", polling: "Polling", connecting: "Connecting", lost: "Disconnected", idle: "" }[status];
  text(link, words);
  link.dataset.state = status;
  const again = { name: "Try now", run: () => live.retry() };
  banner("lost", "bad", status === "lost" ? "The connection to the gateway is lost; what you see is its last word. Trying again." : null, again);
});

live.on("state", (state) => {
  banner("begin", "bad", null);
  const { ledger, closing } = state;
  const lag = ledger && !ledger.ok;
  const kept = lag ? `${count(ledger.buffered ?? 0, "row")} kept until it is back${ledger.dropped ? `, ${count(ledger.dropped, "row")} lost` : ""}` : "";
  banner("ledger", "warn", lag ? `The ledger cannot be written (${ledger.error || "no reason known"}); requests go on, ${kept}.` : null);
  banner("closing", "warn", closing ? "The gateway is shutting down: it takes no new requests." : null);
});

/** All pages at once, as soon as it is quiet: to look at another one must not need a gateway that is there. */
function fetchPages() {
  if (fetched) return;
  fetched = true;
  setTimeout(() => ["login", ...Object.keys(PAGES)].forEach((name) => import(`./pages/${name}.js`).catch(() => {})), QUIET_MS);
}

live.on("happening", (one) => {
  if (one.what === "load_failed" || one.what === "died") announce(`${one.target}: ${one.what.replace("_", " ")}`);
});

// ------------------------------------------------------------------ announcements and theme

const ANNOUNCE_MS = 4000;
let unsaid = [];
let nextAt = 0;

/** For screen readers: politely, and not more often than can be listened to; of a burst the last is said, and how many there were. */
export function announce(words) {
  unsaid.push(words);
  if (unsaid.length > 1) return;
  setTimeout(() => {
    const last = unsaid.at(-1);
    const more = unsaid.length > 1 ? ` (and ${unsaid.length - 1} before)` : "";
    replace(document.getElementById("announcer"), h("p", null, last + more));
    unsaid = [];
    nextAt = Date.now() + ANNOUNCE_MS;
  }, Math.max(0, nextAt - Date.now()));
}

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  text(themeButton, { auto: "◐", light: "☀", dark: "☾" }[theme]);
  themeButton.ariaLabel = `Theme: ${theme}`;
  themeButton.title = `Theme: ${theme}`;
}

function savedTheme() {
  try {
    return THEMES.includes(localStorage.theme) ? localStorage.theme : "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(savedTheme()) + 1) % THEMES.length];
  try {
    localStorage.theme = next;
  } catch {
    toast("This browser keeps no settings for this page");
  }
  applyTheme(next);
});

applyTheme(savedTheme());

// ------------------------------------------------------------------ start

addEventListener("hashchange", () => {
  if (location.hash === "#main") {
    main.focus();
    return;
  }
  if (document.body.classList.contains("out")) return;
  scrollTo(0, 0);
  show();
});
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError" || event.reason?.status === 401) event.preventDefault();
  else toast(event.reason?.message ?? String(event.reason), "bad");
});
addEventListener("error", (event) => event.message && toast(event.message, "bad"));
begin();
