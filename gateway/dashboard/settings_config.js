// The configuration as it is in force: every value, and where it came from.

import { api } from "./api.js";
import { h, keyed, text } from "./dom.js";
import { configWords } from "./config_words.js";
import { badge, emptyCard, table } from "./ui.js";

export async function configCard(node) {
  const { path, values } = await api.get("/admin/config");
  const { table: made, body } = table("Configuration", ["Key", "Value", "From"]);
  const none = emptyCard("Nothing matches.");
  const update = keyed(body, { key: (one) => one.key, make: row });
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the configuration", oninput: () => draw() });
  const changed = h("input", { type: "checkbox", onchange: () => draw() });
  const counted = h("span", { class: "dim", role: "status" });
  const draw = () => {
    const words = search.value.toLowerCase();
    const shown = values.filter((one) => (!changed.checked || one.source !== "default") && `${one.key} ${configWords(one)} ${one.source}`.toLowerCase().includes(words));
    text(counted, `${shown.length} of ${values.length}`);
    made.hidden = shown.length === 0;
    none.hidden = shown.length > 0;
    update(shown);
  };
  node.append(
    h("p", { class: "dim" }, path ? ["Read from ", h("code", null, path)] : "There is no configuration file: these are the defaults, the environment and the command line."),
    h("div", { class: "filters" }, search, h("label", { class: "row dim" }, changed, "Only what was set"), counted),
    made, none,
  );
  draw();
}

function row(one) {
  return h("tr", null, h("td", { class: "name" }, h("code", null, one.key)), h("td", { class: "value" }, h("code", null, configWords(one))), h("td", null, badge(one.source, one.source === "default" ? "plain" : "info")));
}
