/* Playground: chat, two models side by side, embeddings and a load test, each through the gateway's own API as any caller has it. */

import { h, replace } from "../dom.js";
import { chatOf } from "../playground_chat.js";
import { Embed } from "../playground_embed.js";
import { LoadTest } from "../playground_load.js";
import { ordered, states } from "../playground_models.js";
import { emptyCard, failedCard, heading, quoted } from "../ui.js";
import { FIRST_MODEL } from "../words.js";

const AGAIN_MS = 5000; // without a model: until there is one
const VIEWS = {
  chat: { name: "Chat", make: (given) => chatOf({ ...given, count: 1 }) },
  compare: { name: "Side by side", make: (given) => chatOf({ ...given, count: 2 }) },
  embeddings: { name: "Embeddings", make: (given) => new Embed(given) },
  load: { name: "Load test", make: (given) => new LoadTest(given) },
};

export async function mount(root, ctx) {
  const id = ctx.id in VIEWS ? ctx.id : "chat";
  const place = h("div", { class: `play-${id}` }, emptyCard("Reading the list of models …"));
  root.append(heading("Playground", views(id)), place);
  let view = null;
  let closed = false;
  let off = () => {};
  let later = 0;
  const begin = async () => {
    clearTimeout(later);
    try {
      const models = ordered((await ctx.api.get("/v1/models")).data);
      if (closed) return;
      if (models.length === 0) later = setTimeout(begin, AGAIN_MS);
      if (models.length === 0 && view) return;
      view = VIEWS[id].make({ models, api: ctx.api, announce: ctx.announce, preferred: ctx.query.get("model") ?? "" });
      const none = models.length > 0 ? null : h("div", { class: "empty" }, FIRST_MODEL.map((words) => h("p", null, quoted(words))));
      replace(place, none, view.node);
      off();
      off = ctx.live.on("state", (state) => view.standing(states(models, state)));
      if (ctx.live.state) view.standing(states(models, ctx.live.state));
    } catch (error) {
      if (!closed) replace(place, failedCard("The models cannot be listed", error, begin));
    }
  };
  begin();
  const back = ctx.live.on("status", (status) => status === "live" && !view && begin());
  return () => {
    closed = true;
    clearTimeout(later);
    back();
    off();
    view?.close();
  };
}

function views(id) {
  return h("nav", { class: "choices", "aria-label": "What to try" }, Object.entries(VIEWS).map(([key, { name }]) =>
    h("a", { class: "button", href: `#/playground/${key}`, "aria-current": key === id ? "page" : null }, name)));
}
