// The login: one field for an admin's key. The key goes to the gateway once; what stays is a cookie that no script can read.

import { api } from "../api.js";
import { h, replace, text } from "../dom.js";
import { busy, field } from "../ui.js";

/** `done()` is called when the cookie is there. */
export function mountLogin(main, { why, done }) {
  const key = h("input", {
    type: "password", name: "key", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "login-error",
  });
  const said = h("p", { id: "login-error", class: "wrong", role: "alert" }, why);
  const button = h("button", { class: "primary", type: "submit" }, "Log in");
  const enter = () => busy(button, async () => {
    text(said, "");
    try {
      await api.post("/admin/login", { key: key.value.trim() }, { quiet401: true });
    } catch (error) {
      text(said, words(error));
      key.select();
      return;
    }
    key.value = "";
    await done();
  });
  const form = h("form", {
    class: "login",
    onsubmit: (event) => {
      event.preventDefault();
      enter();
    },
  },
  // password managers want a name beside the secret
  h("input", { type: "text", name: "username", autocomplete: "username", value: "roundhouse", hidden: true, tabindex: "-1", "aria-hidden": "true" }),
  field("Admin key", key, "One of server.admin_keys, or a key made with `roundhouse keys create --admin`"),
  said, button);
  replace(main, h("section", { class: "card login-card" }, h("h1", null, "Log in to Roundhouse"), form));
  key.focus();
}

function words(error) {
  if (error.status === 401) return "This key is not known, has expired, or may not administrate.";
  if (error.status === 404) return "This gateway has keys, but is too old to let a browser log in with one.";
  return error.message;
}
