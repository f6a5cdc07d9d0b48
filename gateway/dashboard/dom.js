// Building and keeping elements. The law: data reaches the page as text nodes and attributes only, never as markup;
// a list that changes keeps the nodes of what stayed, so that focus, selection and scroll position survive an update.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Props: class, dataset, style (an object, set through CSSOM), on… (listeners), value/checked/… , attributes.
 *  null, undefined and false leave a prop or child out; arrays of children are flattened. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG, whose elements need their namespace. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  append(node, children);
  return node;
}

// These are state, not attributes: setting the attribute would only change the default.
const STATE = new Set(["value", "checked", "disabled", "selected", "open", "indeterminate", "hidden", "tabIndex"]);

// Of these the value is an attribute; an option without one has its text as its value.
const OWN_VALUE = new Set(["OPTION", "BUTTON", "LI", "PROGRESS", "METER"]);

/** One prop, as `h` takes it; writes only what differs. */
export function set(node, name, value) {
  if (name.startsWith("on")) {
    if (value) node.addEventListener(name.slice(2), value);
  } else if (name === "style") {
    for (const [key, one] of Object.entries(value ?? {})) style(node, key, one);
  } else if (name === "dataset") {
    Object.assign(node.dataset, value);
  } else if (STATE.has(name) && name in node && !(name === "value" && OWN_VALUE.has(node.tagName))) {
    const wanted = name === "value" ? String(value ?? "") : name === "tabIndex" ? value : Boolean(value);
    if (node[name] !== wanted) node[name] = wanted;
  } else if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    const written = value === true ? "" : String(value);
    if (node.getAttribute(name) !== written) node.setAttribute(name, written);
  }
}

function style(node, key, value) {
  if (key.startsWith("--")) node.style.setProperty(key, value);
  else if (node.style[key] !== value) node.style[key] = value;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** Replace the text of a node, if it differs: a screen reader and the layout only notice what changed. */
export function text(node, value) {
  const written = value === null || value === undefined ? "" : String(value);
  if (node.textContent !== written) node.textContent = written;
  return node;
}

/** Replace all children. */
export function replace(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

/** Keeps the children of `parent` in step with a list. Returns `update(items)`.
 *
 *  key(item) → a string of its own; make(item) → a node; patch(node, item): called for new and kept ones alike, unless
 *  same(item) (optional: a string that says all that is shown) is what it was. Only nodes that are out of place are moved.
 *  keep: nodes of what left are kept for its return (a list that is filtered; as many as there are keys). */
export function keyed(parent, { key, make, patch, same, keep = false }) {
  let rows = new Map();
  const away = new Map();
  return (items) => {
    const focused = parent.contains(document.activeElement) ? document.activeElement : null;
    const next = new Map();
    for (const item of items) {
      const id = key(item);
      if (next.has(id)) continue;
      const row = rows.get(id) ?? away.get(id) ?? { node: make(item), shown: undefined };
      const shown = same ? same(item) : undefined;
      if (shown === undefined || shown !== row.shown) patch?.(row.node, item);
      row.shown = shown;
      next.set(id, row);
    }
    for (const [id, row] of rows) {
      if (next.has(id)) continue;
      row.node.remove();
      if (keep) away.set(id, row);
    }
    let at = parent.firstChild;
    for (const { node } of next.values()) {
      if (node === at) at = at.nextSibling;
      else parent.insertBefore(node, at);
    }
    rows = next;
    // a moved node loses the focus in browsers that take it out and put it in again
    if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
  };
}

/** At most one call per frame; hidden pages do not draw at all. */
export function perFrame(draw) {
  let asked = 0;
  const run = () => {
    asked = 0;
    draw();
  };
  const ask = () => {
    if (!asked) asked = requestAnimationFrame(run);
  };
  ask.cancel = () => cancelAnimationFrame(asked);
  return ask;
}
