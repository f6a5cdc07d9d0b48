// Now: what is in memory and why, who waits, what is being answered, and what has just been decided.

import { modelActions, nameOf } from "../actions.js";
import { h, keyed, perFrame, replace, set, text } from "../dom.js";
import { age, bytes, count, number, seconds, short, stamp } from "../format.js";
import { layout, layoutWords, memoryBar } from "../memory.js";
import { badge, busy, emptyCard, heading, progress, quoted, setProgress, table } from "../ui.js";
import { FIRST_MODEL, happeningWords, sourceWords } from "../words.js";
import { queueRows, waitsFor } from "../queue.js";

const DECISIONS = 60;
const TROUBLES = 6;

export function mount(root, { live, announce, api }) {
  const parts = [devices(), residents(api), queue(api), requests(), decisions()];
  const rates = h("p", { class: "rates dim" });
  const trouble = h("ul", { class: "troubles attention", hidden: true, "aria-label": "Trouble" });
  const [memory, table_, waiting, answering, decided] = parts;
  root.append(
    heading("Now", rates), trouble,
    h("section", { class: "card", "aria-label": "Memory" }, memory.node, table_.node),
    h("div", { class: "columns" }, h("div", { class: "page" }, waiting.node, answering.node), decided.node),
  );
  const draw = perFrame(() => {
    const state = live.state;
    if (!state) return;
    drawRates(rates, state, live);
    drawTrouble(trouble, state);
    for (const part of parts) part.draw(state, live);
  });
  const said = live.on("happening", (one) => {
    if (Date.now() / 1000 - one.at_s < 10 && !["queued", "granted", "unload_started", "gone"].includes(one.what)) announce(happeningWords(one).words);
  });
  const offs = ["state", "happening", "request", "load"].map((name) => live.on(name, draw));
  const ticking = setInterval(draw, 1000); // ages go on between two words of the gateway
  draw();
  return () => {
    clearInterval(ticking);
    draw.cancel();
    said();
    for (const off of offs) off();
  };
}

function drawRates(node, { rates }, live) {
  if (!rates) return void text(node, "");
  const inFlight = rates.in_flight ?? live.requests.size;
  text(node, [
    `${number(inFlight)} in flight`, `${short(rates.requests_per_s)} requests/s`, `${short(Math.round(rates.tokens_per_s))} tokens/s`,
    `gateway ${bytes(rates.rss_bytes)}`,
  ].join(" · "));
}

/** Each trouble with the way to where more is said of it. */
function drawTrouble(node, state) {
  const sick = (state.providers ?? []).filter((one) => !one.healthy).map((one) => ["#/settings", one.name, `is not well${one.reason ? `: ${one.reason}` : ""}`]);
  const cooling = Object.entries(state.cooling_down ?? {}).map(([target, why]) =>
    [`#/models/${encodeURIComponent(nameOf(target))}`, nameOf(target), `is not tried again for a moment: ${why}`]);
  const all = [...sick, ...cooling];
  const shown = JSON.stringify(all);
  if (node.dataset.shown === shown) return;
  node.dataset.shown = shown;
  node.hidden = all.length === 0;
  replace(node, all.slice(0, TROUBLES).map(([href, name, words]) => h("li", null, h("a", { href }, name), ` ${words}`)),
    all.length > TROUBLES && h("li", null, `and ${all.length - TROUBLES} more`));
}

// ------------------------------------------------------------------ memory

function devices() {
  const node = h("div", { class: "devices" });
  const bars = new WeakMap();
  const update = keyed(node, {
    key: ([device]) => device,
    make: () => {
      const bar = memoryBar();
      const box = h("div", { class: "device" }, h("div", { class: "dhead" }, h("h2"), h("span", { class: "dim" })), bar.node);
      bars.set(box, bar);
      return box;
    },
    patch: (box, [device, facts, shown]) => {
      const words = layoutWords(shown, facts);
      text(box.firstChild.firstChild, device);
      text(box.firstChild.lastChild, words);
      box.classList.toggle("over", shown.over);
      bars.get(box).draw(shown, `Memory of ${device}: ${words}`);
    },
  });
  return {
    node,
    draw: (state, live) => update(Object.entries(state.devices).map(([device, facts]) => [device, facts, layout(device, facts, state.residents, live.loads)])),
  };
}

function residents(api) {
  const { table: node, body } = table("Models in memory", [
    "Model", { name: "State", class: "state" }, { name: "Memory", num: true, class: "wide-only" }, { name: "Device", class: "wide-only" },
    { name: "In use", num: true, class: "wide-only" }, { name: "Idle", num: true, class: "wide-only" }, { name: "Here for", num: true, class: "wide-only" }, { name: "Why", class: "wide-only" }, { name: h("span", { class: "unseen" }, "Actions") },
  ]);
  const none = emptyCard("No model is in memory. The first request for one loads it; or load one by hand on ", h("a", { href: "#/models" }, "Models"), ".");
  const update = keyed(body, { key: (one) => one.target, make: residentRow, patch: (row, one) => row.draw(one) });
  api.get("/v1/models").then(({ data }) => data.length || replace(none, FIRST_MODEL.map((words) => h("p", null, quoted(words)))), () => {});
  return {
    node: h("div", { class: "residents" }, node, none),
    draw: (state, live) => {
      // newest first: an order that no use changes, so that a row stays where it was when the hand reaches for its button
      const rows = [...state.residents].sort((a, b) => a.resident_s - b.resident_s || (a.target < b.target ? -1 : 1));
      node.hidden = rows.length === 0;
      none.hidden = rows.length > 0;
      update(rows.map((one) => ({ ...one, load: live.loads.get(one.target) })));
    },
  };
}

function residentRow(first) {
  const link = h("a", { href: `#/models/${encodeURIComponent(first.model ?? first.target)}` });
  const state = h("td");
  const cells = Array.from({ length: 6 }, () => h("td"));
  const [memory, device, used, idle, here, why] = cells;
  for (const cell of [memory, used, idle, here]) cell.className = "num wide-only";
  for (const cell of [device, why]) cell.className = "wide-only dim";
  const sub = h("span", { class: "sub" });
  const actions = modelActions(busy);
  const row = h("tr", null, h("td", { class: "name" }, link, sub), state, memory, device, used, idle, here, why, h("td", null, actions.node));
  const bar = progress(`Loading ${first.model ?? first.target}`, null);
  const barWords = h("small", { class: "dim" });
  let phase = "";
  row.draw = (one) => {
    text(link, one.model ?? one.target);
    set(link, "title", one.target);
    if (phase !== `${one.phase} ${one.pinned}`) {
      phase = `${one.phase} ${one.pinned}`;
      replace(state, badge(one.phase), one.pinned && [" ", badge("pinned", "plain", "It is not asked to leave for others")], one.phase === "loading" && [bar, barWords]);
    }
    if (one.phase === "loading") drawLoad(bar, barWords, one);
    const size = bytes(Object.values(one.footprint).reduce((all, held) => all + held, 0));
    const use = one.leases ? `in use ${one.leases}×` : one.phase === "ready" ? `idle ${age(one.idle_s)}` : "";
    text(sub, [size, Object.keys(one.footprint).join(" + "), use].filter(Boolean).join(" · "));
    text(memory, size);
    set(memory, "title", sourceWords(one.footprint_source));
    text(device, `${Object.keys(one.footprint).join(" + ")} · ${sourceWords(one.footprint_source)}`);
    text(used, one.leases || "–");
    text(idle, one.phase === "ready" && !one.leases ? age(one.idle_s) : "–");
    text(here, age(one.resident_s));
    text(why, (one.why ?? "").replaceAll("_", " "));
    actions.draw({ name: one.model ?? one.target, state: one.phase, leases: one.leases, pinned: one.pinned, managed: true });
  };
  return row;
}

function drawLoad(bar, words, one) {
  const share = one.load && Number.isFinite(one.load.percent) ? one.load.percent / 100 : null;
  setProgress(bar, share);
  const left = one.load?.eta_s;
  text(words, Number.isFinite(left) ? `${seconds(Math.ceil(left))} left` : `for ${age(one.load?.elapsed_s ?? one.resident_s)}`);
}

// ------------------------------------------------------------------ queue, requests, decisions

function queue(api) {
  const { table: node, body } = table("The queue", [{ name: "Place", class: "place wide-only" }, "Model", { name: "Requests", num: true, class: "wide-only" }, { name: "Waiting", num: true }, { name: "Load takes", num: true }]);
  const none = emptyCard("Nobody waits for memory.");
  const learned = new Map();
  const update = keyed(body, {
    key: (one) => one.target,
    make: () => h("tr", null, h("td", { class: "wide-only" }), h("td", { class: "name" }, h("span"), h("span", { class: "sub" })), h("td", { class: "num wide-only" }), h("td", { class: "num" }), h("td", { class: "num" })),
    patch: (row, one) => {
      const [place, name, asked, waiting, takes] = row.children;
      text(place, one.place);
      text(name.firstChild, one.name);
      text(name.lastChild, `place ${one.place} · ${count(one.requests, "request")}`);
      text(asked, one.requests);
      text(waiting, age(one.waiting_s));
      text(takes, one.expected_s ? `≈ ${seconds(one.expected_s)}` : "unknown");
    },
  });
  const learn = async (name, target) => {
    if (learned.has(target) || learned.size > 200) return;
    learned.set(target, null);
    const plan = await api.get(`/admin/plan?model=${encodeURIComponent(name)}`).catch(() => null);
    if (plan?.expected_load_s) learned.set(target, plan.expected_load_s);
  };
  return {
    node: h("section", { class: "card" }, h("h2", null, "Queue"), node, none),
    draw: (state) => {
      const rows = queueRows(state.queue, learned);
      node.hidden = rows.length === 0;
      none.hidden = rows.length > 0;
      for (const one of rows.slice(0, 8)) if (!one.expected_s) learn(one.name, one.target);
      update(rows);
    },
  };
}

function requests() {
  const title = h("h2", null, "Requests in progress");
  const { table: node, body } = table("Requests in progress", ["Model", "State", { name: "Who", class: "wide-only" }, { name: "For", num: true }]);
  const none = emptyCard("No request is in progress.");
  const update = keyed(body, {
    key: (one) => one.id,
    make: (one) => h("tr", null,
      h("td", { class: "name" }, h("a", { href: `#/activity/${encodeURIComponent(one.id)}`, title: `${one.route} ${one.id}` }, one.model || one.asked)),
      h("td"), h("td", { class: "wide-only dim" }, one.principal || "–"), h("td", { class: "num" })),
    patch: (row, one) => {
      if (row.dataset.phase !== one.word) replace(row.children[1], badge(one.word, one.kind));
      row.dataset.phase = one.word;
      text(row.children[3], age(one.for_s));
    },
  });
  return {
    node: h("section", { class: "card" }, title, node, none),
    draw: (state, live) => {
      const all = [...live.requests.values()];
      text(title, all.length > 20 ? `Requests in progress: the first 20 of ${all.length}` : "Requests in progress");
      // without the live stream only their number is known, from the leases
      const leases = state.residents.reduce((sum, one) => sum + one.leases, 0);
      text(none.firstChild, live.status === "polling" && leases ? `${count(leases, "request")} in progress.` : "No request is in progress.");
      node.hidden = all.length === 0;
      none.hidden = all.length > 0;
      update(all.slice(0, 20).map((one) => ({ ...one, ...waitsFor(one, state), for_s: live.now_s - one.at_us / 1e6 })));
    },
  };
}

const STEPS = new Set(["queued", "granted", "unload_started"]);

function decisions() {
  const all = h("input", { type: "checkbox" });
  const list = h("ol", { class: "decisions", reversed: true });
  const none = emptyCard("Nothing has been decided yet.");
  let drawn = () => {};
  all.addEventListener("change", () => drawn());
  const update = keyed(list, {
    key: (one) => `${one.seq} ${one.at_s}`,
    make: (one) => {
      const { words, kind } = happeningWords(one);
      return h("li", { class: kind }, h("time", { datetime: new Date(one.at_s * 1000).toISOString() }, stamp(one.at_s, Date.now() / 1000)), h("span", null, words));
    },
  });
  return {
    node: h("section", { class: "card" }, h("div", { class: "heading" }, h("h2", null, "Decisions"), h("label", { class: "row dim" }, all, "Show every step")),
      h("div", { class: "scrolly", tabindex: "0", role: "region", "aria-label": "Decisions, newest first" }, list), none),
    draw: (state, live) => {
      drawn = () => {
        const shown = all.checked ? live.happenings : live.happenings.filter((one) => !STEPS.has(one.what));
        none.hidden = shown.length > 0;
        update(shown.slice(-DECISIONS).reverse());
      };
      drawn();
    },
  };
}
