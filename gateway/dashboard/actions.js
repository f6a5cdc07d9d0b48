// The operator's hand on a model: load (after a look at what it would cost others), unload, pin.

import { api, modelPath } from "./api.js";
import { h, replace, set, text } from "./dom.js";
import { bytes, seconds } from "./format.js";
import { live } from "./live.js";
import { layout, memoryBar } from "./memory.js";
import { confirm, dialog, toast } from "./ui.js";
import { footprintWords, planWords, shortName, sourceWords } from "./words.js";

const act = (name, verb) => api.post(`/admin/models/${modelPath(name)}/${verb}`, {});

/** What a target is called. */
export function nameOf(target) {
  return live.state?.residents?.find((one) => one.target === target)?.model ?? shortName(target);
}

/** The dry run for a model. */
export function planOf(name) {
  return api.get(`/admin/plan?model=${encodeURIComponent(name)}`);
}

/** Load it; who would have to leave is shown first and must be agreed to. */
export async function loadModel(name) {
  const plan = await planOf(name);
  if (plan.outcome === "ready") return toast(`${name} is in memory already`);
  if (plan.outcome === "fits" || plan.outcome === "loading" || (await planDialog(name, plan))) bring(name);
  return undefined;
}

/** Show what a load would do; offers the load. */
export async function previewLoad(name) {
  const plan = await planOf(name);
  if (await planDialog(name, plan)) bring(name);
}

function bring(name) {
  const begunMs = Date.now();
  // the answer comes when it is ready, which may take minutes: nobody waits for it with a disabled button, the stream shows it
  act(name, "load").then(
    () => toast(`${name} is ready after ${seconds((Date.now() - begunMs) / 1000)}`, "ok"),
    (error) => error.status !== 401 && toast(`${name}: ${error.message}`, "bad"),
  );
}

export async function unloadModel(name, leases) {
  const busy = leases ? ` ${leases === 1 ? "A request is" : `${leases} requests are`} using it: it takes no new ones and leaves when they end.` : "";
  const yes = await confirm(`Unload ${name}?`, `Its memory is freed; the next request for it loads it again.${busy}`, "Unload");
  if (yes) await act(name, "unload");
}

export async function pinModel(name, pinned) {
  await act(name, pinned ? "pin" : "unpin");
  toast(pinned ? `${name} is pinned: once in memory, it stays there` : `${name} may leave memory again`);
}

function planDialog(name, plan) {
  const can = ["fits", "evicts", "waits"].includes(plan.outcome) || (plan.outcome === "refused" && plan.refusal === "cooling_down");
  const label = plan.outcome === "evicts" ? "Evict and load" : plan.outcome === "waits" ? "Load when there is room" : "Load";
  return dialog(`Load ${name}`, (close) => [
    h("p", null, planWords(plan, nameOf)),
    plan.outcome === "evicts" && preview(name, plan),
    h("dl", { class: "facts" },
      h("dt", null, "Needs"), h("dd", null, `${footprintWords(plan.needed)} (${sourceWords(plan.footprint_source)})`),
      h("dt", null, "Free now"), h("dd", null, Object.keys(plan.needed).map((device) => `${bytes(plan.free[device] ?? 0)} of ${device}`).join(", ")),
      h("dt", null, "Load time"), h("dd", null, plan.expected_load_s ? `about ${seconds(plan.expected_load_s)}` : "not known yet"),
      plan.queue_ahead > 0 && [h("dt", null, "Before it"), h("dd", null, `${plan.queue_ahead} in the queue`)]),
    h("div", { class: "actions" },
      h("button", { type: "button", onclick: () => close(false) }, can ? "Cancel" : "Close"),
      can && h("button", { type: "button", class: "primary", autofocus: true, onclick: () => close(true) }, label)),
  ].filter(Boolean), { wide: plan.outcome === "evicts" });
}

/** Memory as it is, who leaves marked, and as it would be. */
function preview(name, plan) {
  const { devices, residents } = live.state ?? { devices: {}, residents: [] };
  const box = h("div", { class: "preview" });
  for (const [device, size] of Object.entries(plan.needed)) {
    const facts = devices[device];
    if (!facts || !size) continue;
    const marked = residents.map((one) => (plan.victims.includes(one.target) ? { ...one, phase: "draining" } : one));
    const stays = residents.filter((one) => !plan.victims.includes(one.target));
    const coming = { target: plan.target, model: name, phase: "loading", footprint: plan.needed, footprint_source: plan.footprint_source, resident_s: 0 };
    for (const [when, who] of [["now", marked], ["then", [...stays.filter((one) => one.target !== plan.target), coming]]]) {
      const bar = memoryBar();
      bar.draw(layout(device, facts, who), `${device} ${when}: ${who.map((one) => one.model).join(", ")}`);
      box.append(h("div", { class: "prow" }, h("small", null, `${device} ${when}`), bar.node));
    }
  }
  return box;
}

/** A load can be stopped, what is there can be unloaded; who only waits cannot be told anything. */
function unloadWord(state) {
  return state === "loading" ? "Stop" : "Unload";
}

/** The buttons for one model, in step with its state: → {node, draw({name, state, leases, pinned, managed})}
 *
 *  They stay the same nodes, and what cannot be done now is only marked so: a disabled or new button would lose the focus. */
export function modelActions(run) {
  const node = h("div", { class: "row end" });
  let shown = "";
  let model = {};
  let buttons = null;
  const isCold = () => ["cold", "unreachable", "failed"].includes(model.state);
  const button = (action, more) => h("button", { type: "button", ...more,
    onclick: (event) => event.currentTarget.ariaDisabled !== "true" && run(event.currentTarget, action) });
  const make = () => [
    button(() => previewLoad(model.name), { class: "wide-only quiet" }),
    button(() => pinModel(model.name, !model.pinned), { class: "quiet" }),
    button(() => (isCold() ? loadModel(model.name) : unloadModel(model.name, model.leases))),
  ];
  const say = (one, words, label = words) => {
    text(one, words);
    set(one, "aria-label", `${label} ${model.name}`);
  };
  const draw = (next) => {
    model = next;
    const signature = `${next.name} ${next.state} ${next.pinned} ${next.managed}`;
    if (signature === shown) return;
    shown = signature;
    if (!next.managed) return void replace(node);
    buttons ??= make();
    if (!node.firstChild) node.append(...buttons);
    const [plan, pin, main] = buttons;
    say(plan, "Plan", "Plan for loading");
    say(pin, next.pinned ? "Unpin" : "Pin");
    say(main, isCold() ? "Load" : unloadWord(next.state));
    set(main, "aria-disabled", ["queued", "draining", "unloading"].includes(next.state) ? "true" : null);
    if (!isCold() && document.activeElement === plan) main.focus();
    plan.hidden = !isCold();
  };
  return { node, draw };
}
