/* The models that may be asked, and fields to choose one: what stands in memory first. */

import { h, replace } from "./dom.js";
import { badge } from "./ui.js";

const ORDER = { ready: 0, loading: 1, draining: 2, cold: 3, remote: 4 };
let fields = 0;

/** The list of GET /v1/models, the ones that answer soonest first. Pure. */
export function ordered(models) {
  const rank = (model) => ORDER[model.roundhouse?.state] ?? 5;
  return [...models].sort((a, b) => rank(a) - rank(b) || a.id.localeCompare(b.id));
}

/** Whether a model makes embeddings, as far as its provider says or its name tells. Pure. */
export function embeds(model) {
  const said = model.roundhouse?.capabilities ?? [];
  return said.some((one) => /embed/i.test(one)) || /embed|bge|e5|gte|minilm/i.test(model.id);
}

/** A field with all names to choose from; `value` is "" until there is one. `onchange()` when it changed. */
export class ModelField {
  constructor(models, { label, value = "", onchange = () => {} }) {
    fields += 1;
    this.badge = h("span", { class: "model-state" });
    this.input = h("input", { list: `models-${fields}`, value, placeholder: "Choose a model", autocomplete: "off", spellcheck: "false",
      onfocus: () => this.input.select(), oninput: () => this._mark(), onchange });
    this.node = h("label", { class: "field model-field" }, h("span", null, label, " ", this.badge), this.input,
      (this.options = h("datalist", { id: `models-${fields}` })));
    this.list(models);
  }

  /** These may be chosen from now on. */
  list(models) {
    this.models = new Map(models.map((model) => [model.id, model]));
    replace(this.options, models.map((model) => h("option", { value: model.id }, model.roundhouse?.state ?? "")));
    this._mark();
  }

  get value() {
    return this.input.value.trim();
  }

  set value(name) {
    this.input.value = name;
    this._mark();
  }

  /** Where the models stand now. */
  standing(states) {
    for (const [id, model] of this.models) if (states.has(id)) model.roundhouse = { ...model.roundhouse, state: states.get(id) };
    this._mark();
  }

  _mark() {
    const state = this.models.get(this.value)?.roundhouse?.state;
    replace(this.badge, state ? badge(state) : null);
  }
}

/** Name → phase of what is in memory; what is managed and not in it is cold. Pure. */
export function states(models, residency) {
  const phases = new Map(residency.residents.map((resident) => [resident.model, resident.phase]));
  return new Map(models.filter((model) => !["remote", "unreachable"].includes(model.roundhouse?.state))
    .map((model) => [model.id, phases.get(model.id) ?? "cold"]));
}
