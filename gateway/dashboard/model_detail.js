// One model: all facts, what has been decided about it, and what its engine prints, following live.

import { modelActions, planOf } from "./actions.js";
import { h, keyed, perFrame, replace, set, text } from "./dom.js";
import { age, bytes, context, number, perMillion, seconds, stamp } from "./format.js";
import { rowOf, standing } from "./model_rows.js";
import { badge, busy, copyButton, emptyCard, failedCard, heading } from "./ui.js";
import { footprintWords, happeningWords, planWords, sourceWords } from "./words.js";

const LOG_MS = 1000;
const PRICES = { prompt: "in", completion: "out", request: "per request", image: "per image", input_cache_read: "cached in", input_cache_write: "into the cache", internal_reasoning: "reasoning" };

/** The page of `ctx.id`. */
export async function mountModel(root, { api, live, id }) {
  const entry = (await api.get("/v1/models")).data.find((one) => one.id === id || one.roundhouse?.aliases?.includes(id));
  if (!entry) {
    root.append(heading(id), failedCard("Not found", new Error("There is no such model; the list may have changed.")), h("p", null, h("a", { href: "#/models" }, "All models")));
    return () => {};
  }
  const actions = modelActions(busy);
  const state = h("span");
  const facts = h("dl", { class: "facts" });
  const memory = h("dl", { class: "facts" });
  const plan = planCard(entry);
  const log = logCard(api, entry);
  const decided = decidedCard();
  const draw = perFrame(() => {
    const row = rowOf(entry, standing(live.state, live.happenings));
    const wanted = `${row.state} ${row.pinned}`;
    if (state.dataset.shown !== wanted) replace(state, badge(row.state, row.state, row.why), row.pinned && [" ", badge("pinned", "plain")]);
    state.dataset.shown = wanted;
    actions.draw({ name: entry.id, state: row.state, leases: row.leases, pinned: row.pinned, managed: row.managed });
    drawMemory(memory, row, live);
    plan.draw(row);
    decided.draw(row.target, live);
    log.node.hidden = !row.managed;
  });
  fill(facts, entry);
  root.append(
    h("nav", { "aria-label": "Where this is" }, h("a", { href: "#/models" }, "Models"), " /"),
    heading(entry.id, state, actions.node),
    h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", null, "Facts"), facts, links(entry)),
      h("section", { class: "card" }, h("h2", null, "Memory"), memory, plan.node)),
    decided.node, log.node,
  );
  const offs = ["state", "load", "happening"].map((name) => live.on(name, draw));
  draw();
  const stopLog = log.begin(() => rowOf(entry, standing(live.state)).state);
  return () => {
    stopLog();
    draw.cancel();
    for (const off of offs) off();
  };
}

function links(entry) {
  const name = encodeURIComponent(entry.id);
  return h("p", { class: "row links" }, h("a", { href: `#/playground?model=${name}` }, "Try it"), h("a", { href: `#/activity?model=${name}` }, "Its requests"),
    h("a", { href: `#/usage?model=${name}` }, "Its usage"), copyButton(() => entry.id, "Copy name"));
}

function fill(node, { id, created, roundhouse: about = {} }) {
  const price = about.price ? Object.entries(about.price).map(([part, amount]) => `${part === "request" || part === "image" ? `$${amount}` : perMillion(amount)} ${PRICES[part] ?? part}`).join(", ") : "";
  const rows = {
    Name: id,
    "Other names": about.aliases?.join(", "),
    Provider: about.provider,
    Targets: about.targets?.join(", "),
    Context: about.context_length ? `${context(about.context_length)} (${number(about.context_length)} tokens)` : "",
    "Can do": about.capabilities?.join(", "),
    "Takes in": about.input_modalities?.join(", "),
    Family: about.family,
    Parameters: about.parameters,
    Quantization: about.quantization,
    "On disk": about.size_bytes ? bytes(about.size_bytes) : "",
    Price: price && (about.cost === "free" ? "free" : `${price} (per million tokens)`),
    Since: created && about.state === "remote" ? new Date(created * 1000).toISOString().slice(0, 10) : "",
    Description: about.description,
  };
  replace(node, Object.entries(rows).filter(([, value]) => value).map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

function drawMemory(node, row, live) {
  const resident = live.state?.residents?.find((one) => one.target === row.target);
  const load = live.loads.get(row.target);
  const rows = resident
    ? {
        Holds: `${footprintWords(resident.footprint)} (${sourceWords(resident.footprint_source)})`,
        "In use": resident.leases ? `by ${resident.leases} now` : `idle for ${age(resident.idle_s)}`,
        "Here for": age(resident.resident_s),
        Because: (resident.why ?? "").replaceAll("_", " "),
        "Its load": load && row.state === "loading" ? `${Number.isFinite(load.percent) ? `${Math.round(load.percent)} %` : `for ${age(load.elapsed_s)}`}${Number.isFinite(load.eta_s) ? `, about ${seconds(Math.ceil(load.eta_s))} left` : ""}` : resident.load_s ? `took ${seconds(resident.load_s)}` : "under way",
      }
    : { State: row.managed ? (row.why ? `not in memory; its last load failed: ${row.why}` : "not in memory") : "served elsewhere: it takes no memory here", "Load takes": row.load_s ? `about ${seconds(row.load_s)}` : "" };
  const wanted = Object.entries(rows).filter(([, value]) => value);
  if (node.dataset.names !== wanted.map(([name]) => name).join()) replace(node, wanted.map(([name]) => [h("dt", null, name), h("dd")]));
  node.dataset.names = wanted.map(([name]) => name).join();
  wanted.forEach(([, value], at) => text(node.children[at * 2 + 1], value));
}

/** What a request for it would meet now; asked anew when its state changes. */
function planCard(entry) {
  const node = h("p", { class: "dim plan" });
  let asked = "";
  const draw = async (row) => {
    if (!row.managed || asked === row.state) return;
    asked = row.state;
    if (!["cold", "failed", "queued"].includes(row.state)) return void text(node, "");
    try {
      text(node, `If it were asked for now: ${planWords(await planOf(entry.id))}`);
    } catch (error) {
      text(node, error.message);
    }
  };
  return { node, draw };
}

function decidedCard() {
  const list = h("ol", { class: "decisions" });
  const none = emptyCard("Nothing has been decided about it lately.");
  const update = keyed(list, {
    key: (one) => `${one.seq} ${one.at_s}`,
    make: (one) => {
      const { words, kind } = happeningWords(one);
      return h("li", { class: kind }, h("time", { datetime: new Date(one.at_s * 1000).toISOString() }, stamp(one.at_s, Date.now() / 1000)), h("span", null, words));
    },
  });
  return {
    node: h("section", { class: "card" }, h("h2", null, "Decisions about it"), list, none),
    draw: (target, live) => {
      const mine = live.happenings.filter((one) => one.target === target || one.for_target === target).slice(-12).reverse();
      none.hidden = mine.length > 0;
      update(mine);
    },
  };
}

function logCard(api, entry) {
  const lines = h("pre", { class: "log", tabindex: "0", role: "region", "aria-label": `Log of ${entry.id}'s engine` });
  const follow = h("input", { type: "checkbox", checked: true });
  const wrap = h("input", { type: "checkbox", onchange: () => lines.classList.toggle("wrapped", wrap.checked) });
  const said = h("span", { class: "dim" });
  let shown = null;
  // scrolling up means reading; back at the end it follows again
  lines.addEventListener("scroll", () => set(follow, "checked", lines.scrollHeight - lines.scrollTop - lines.clientHeight < 24));
  const show = (written) => {
    const whole = written.join("\n");
    if (whole === shown) return;
    shown = whole;
    text(lines, whole);
    if (follow.checked) lines.scrollTop = lines.scrollHeight;
  };
  const look = async (state) => {
    try {
      const { lines: written } = await api.get(`/admin/logs?model=${encodeURIComponent(entry.id)}`);
      show(written);
      text(said, written.length ? `the last ${number(written.length)} lines` : state === "cold" || state === "failed" ? "an engine's log is kept while it is in memory" : "it has printed nothing");
    } catch (error) {
      text(said, error.message);
      return error.status !== 400;
    }
    return true;
  };
  return {
    node: h("section", { class: "card" },
      h("div", { class: "heading" }, h("h2", null, "Engine's log"), said, h("label", { class: "row dim" }, follow, "Follow"), h("label", { class: "row dim" }, wrap, "Wrap"), copyButton(() => shown ?? "")),
      lines),
    begin: (stateNow) => {
      let timer = 0;
      let over = false;
      const turn = async () => {
        const more = document.hidden || (await look(stateNow()));
        if (more && !over) timer = setTimeout(turn, LOG_MS);
      };
      turn();
      return () => {
        over = true;
        clearTimeout(timer);
      };
    },
  };
}
