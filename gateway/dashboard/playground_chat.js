/* Chat and compare: one composer, one or two lanes, a system prompt, parameters and pictures.
 *
 * The law: a conversation lives as long as the document: while another page is looked at its answer goes on, and an unsent text stays.
 */

import { h, replace, text } from "./dom.js";
import { Lane } from "./playground_lane.js";
import { ModelField } from "./playground_models.js";
import { picturesIn, readPictures } from "./playground_pictures.js";
import { PARAMETERS, asCurl, chatBody } from "./playground_request.js";
import { copyButton, field, toast } from "./ui.js";

const kept = new Map(); // how many lanes → the chat

/** The chat with so many lanes, as it was left; `preferred`: the model that was asked for by whoever leads here, or "". */
export function chatOf({ models, count, announce, preferred }) {
  if (!kept.has(count)) kept.set(count, new Chat({ models, count, announce }));
  const chat = kept.get(count);
  chat.take(models, preferred);
  return chat;
}

class Chat {
  constructor({ models, count, announce }) {
    this.memory = { system: "", draft: "", settings: {}, inTurn: true, pictures: [] };
    this.lanes = Array.from({ length: count }, (_, i) => {
      const field = new ModelField(models, { label: count === 1 ? "Model" : `Model ${"AB"[i]}` });
      return new Lane({ field, turns: [], label: count === 1 ? "Conversation" : `Conversation ${"AB"[i]}`, announce });
    });
    this._build();
    this._busy();
  }

  /** The models as they are now. A field that was left empty, or whose model has gone, gets another. */
  take(models, preferred) {
    this.lanes.forEach(({ field }, i) => {
      field.list(models);
      const usual = models[Math.min(i, models.length - 1)]?.id ?? "";
      field.value = (i === 0 && preferred) || field.value || usual;
    });
    requestAnimationFrame(() => this.lanes.forEach((lane) => lane.back()));
  }

  /** Nobody looks: what is being answered goes on. */
  close() {
    this.lanes.forEach((lane) => lane.leave());
  }

  standing(states) {
    this.lanes.forEach((lane) => lane.field.standing(states));
  }

  _build() {
    const { memory: kept_ } = this;
    this.input = h("textarea", { rows: "3", placeholder: "Message. Enter sends, Shift+Enter makes a new line.", "aria-label": "Message", value: kept_.draft,
      oninput: () => (kept_.draft = this.input.value), onkeydown: (event) => this._key(event), onpaste: (event) => this._pasted(event) });
    this.file = h("input", { type: "file", accept: "image/*", multiple: true, class: "unseen", tabindex: "-1", "aria-label": "Pictures",
      onchange: () => this._pictures([...this.file.files]) });
    this.thumbs = h("div", { class: "pictures" });
    this.send = h("button", { type: "button", class: "primary", onclick: () => this._send() }, "Send");
    this.stop = h("button", { type: "button", class: "danger", onclick: () => this._stop() }, "Stop");
    this.again = h("button", { type: "button", onclick: () => this._ask(null) }, "Again");
    const wide = this.lanes.length > 1;
    const box = h("input", { type: "checkbox", checked: kept_.inTurn, onchange: () => (kept_.inTurn = box.checked) });
    const inTurn = wide && h("label", { class: "check" }, box, "one after the other, for fair speeds");
    this.node = h("div", { class: "chat" },
      h("div", { class: "chat-main card" }, h("div", { class: wide ? "lanes two" : "lanes" }, this.lanes.map((lane) => lane.node)),
        h("div", { class: "composer" }, this.thumbs, this.input,
          h("div", { class: "row" }, this.send, this.stop, this.again, h("button", { type: "button", onclick: () => this.file.click() }, "Picture …"),
            h("button", { type: "button", onclick: () => this._clear() }, "Clear"), inTurn, this.file))),
      this._side());
    this._thumbs();
  }

  _side() {
    const { memory: kept_ } = this;
    const system = h("textarea", { rows: "4", value: kept_.system, oninput: () => (kept_.system = system.value) });
    const parameters = PARAMETERS.map(([name, label, step, min, max]) => field(label, h("input", { type: "number", step, min, max,
      inputmode: "decimal", placeholder: "default", value: kept_.settings[name] ?? "",
      oninput: (event) => (kept_.settings[name] = event.target.value) })));
    const more = h("textarea", { rows: "3", class: "mono", spellcheck: "false", placeholder: "{\"top_k\": 40}", value: kept_.settings.more ?? "",
      oninput: () => (kept_.settings.more = more.value) });
    const curl = copyButton(() => this._curl(), "Copy as curl");
    return h("details", { class: "card chat-side", open: matchMedia("(min-width: 1000px)").matches },
      h("summary", null, "Parameters"),
      h("div", { class: "chat-fields" }, field("System prompt", system), h("div", { class: "pair" }, parameters), field("More, as JSON", more), curl));
  }

  _curl() {
    const [lane] = this.lanes;
    const draft = this.memory.draft.trim();
    const turns = draft === "" ? lane.turns : [...lane.turns, { role: "user", content: draft, pictures: this.memory.pictures }];
    return asCurl(document.baseURI.replace(/[#?].*$/, ""), chatBody(lane.field.value, this.memory.system, turns, this.memory.settings));
  }

  _key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this._send();
  }

  _send() {
    const content = this.memory.draft.trim();
    if ((content === "" && this.memory.pictures.length === 0) || this.isBusy) return;
    this._ask({ role: "user", content, pictures: this.memory.pictures });
  }

  get isBusy() {
    return this.lanes.some((lane) => lane.isBusy);
  }

  async _ask(turn) {
    const { system, settings, inTurn } = this.memory;
    const nameless = this.lanes.find((lane) => lane.field.value === "");
    if (nameless) return void nameless.field.input.focus();
    try {
      for (const lane of this.lanes) chatBody(lane.field.value, system, [], settings);
    } catch (error) {
      return void toast(error.message, "bad");
    }
    if (turn !== null) {
      Object.assign(this.memory, { draft: "", pictures: [] });
      this.input.value = "";
      this._thumbs();
    }
    this.stopped = false;
    const ask = (lane) => lane.ask(turn === null ? null : { ...turn }, system, settings);
    const asked = this.lanes.length > 1 && inTurn ? this._inTurn(ask) : Promise.all(this.lanes.map(ask));
    this._busy();
    await asked;
    this._busy();
  }

  async _inTurn(ask) {
    for (const lane of this.lanes) {
      if (this.stopped) return;
      await ask(lane);
    }
  }

  _stop() {
    this.stopped = true;
    this.lanes.forEach((lane) => lane.stop());
  }

  _clear() {
    this._stop();
    this.lanes.forEach((lane) => lane.clear());
    this._busy();
    this.input.focus();
  }

  _busy() {
    const had = document.activeElement;
    this.send.disabled = this.isBusy;
    this.stop.disabled = !this.isBusy;
    this.again.disabled = this.isBusy || !this.lanes.every(({ turns }) => turns.at(-1)?.role === "assistant");
    text(this.again, "Again");
    if (had === this.stop && this.stop.disabled) this.input.focus(); // a disabled button loses the focus
  }

  _pasted(event) {
    const files = picturesIn(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    this._pictures(files);
  }

  async _pictures(files) {
    const { urls, refused } = await readPictures(files);
    this.file.value = "";
    this.memory.pictures = [...this.memory.pictures, ...urls];
    refused.forEach((words) => toast(words, "bad"));
    this._thumbs();
  }

  _thumbs() {
    const { pictures } = this.memory;
    this.thumbs.hidden = pictures.length === 0;
    const remove = (i) => {
      pictures.splice(i, 1);
      this._thumbs();
    };
    replace(this.thumbs, pictures.map((url, i) => h("button", { type: "button", class: "thumb", "aria-label": `Remove picture ${i + 1}`,
      title: "Remove", onclick: () => remove(i) }, h("img", { src: url, alt: "" }))));
  }
}
