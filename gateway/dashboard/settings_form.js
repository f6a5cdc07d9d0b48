// A form in a dialog: says what is wrong beside its button, and stays open until it went well.

import { h, text } from "./dom.js";
import { dialog } from "./ui.js";

/** `send()` → what the dialog resolves with; its error is shown. undefined: dismissed. */
export function openForm(title, fields, yes, send) {
  return dialog(title, (close) => {
    const said = h("p", { class: "wrong all", role: "alert" });
    const button = h("button", { type: "submit", class: "primary" }, yes);
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      text(said, "");
      try {
        close((await send()) ?? true);
      } catch (error) {
        text(said, error.message);
      } finally {
        button.disabled = false;
      }
    };
    return h("form", { class: "form", onsubmit: submit }, fields, said,
      h("div", { class: "actions all" }, h("button", { type: "button", onclick: () => close(undefined) }, "Cancel"), button));
  });
}
