/* An accessibility check of the page as it stands: → ["rule: element: what is wrong"], empty where nothing is.
 *
 * The law: every rule is one that WCAG 2.2 A/AA or WAI-ARIA 1.2 states and that axe-core has by the same name; what cannot be decided
 * by a machine is not guessed. `test_a11y.py` shows each rule a page that breaks it.
 */
(() => {
  const found = [];
  const all = (css, from = document) => [...from.querySelectorAll(css)];
  const wrong = (rule, node, words) => found.push(`${rule}: ${where(node)}: ${words}`);

  function where(node) {
    const id = node.id ? `#${node.id}` : "";
    const kind = typeof node.className === "string" && node.className ? `.${node.className.trim().replaceAll(/\s+/g, ".")}` : "";
    return `<${node.localName}${id}${kind}> “${(node.textContent ?? "").trim().replaceAll(/\s+/g, " ").slice(0, 40)}”`;
  }

  // ---------------------------------------------------------------- what is there, and for whom

  // whoever is `unseen` is so to the eye only
  const isShown = (node) => node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });
  const isTold = (node) => isShown(node) && !node.closest("[aria-hidden='true'], [inert]");

  const IMPLICIT = {
    a: (node) => (node.hasAttribute("href") ? "link" : "generic"), article: "article", aside: "complementary", button: "button", datalist: "listbox",
    dd: "definition", details: "group", dialog: "dialog", dt: "term", fieldset: "group", figure: "figure",
    footer: (node) => (inSection(node) ? "generic" : "contentinfo"), form: (node) => (named(node) ? "form" : "generic"),
    h1: "heading", h2: "heading", h3: "heading", h4: "heading", h5: "heading", h6: "heading", header: (node) => (inSection(node) ? "generic" : "banner"),
    hr: "separator", img: (node) => (node.getAttribute("alt") === "" ? "presentation" : "img"), input: (node) => inputRole(node), li: "listitem",
    main: "main", menu: "list", meter: "meter", nav: "navigation", ol: "list", optgroup: "group", option: "option", output: "status", p: "paragraph",
    progress: "progressbar", search: "search", section: (node) => (named(node) ? "region" : "generic"),
    select: (node) => (node.multiple || node.size > 1 ? "listbox" : "combobox"), summary: "button", table: "table", tbody: "rowgroup", td: "cell",
    textarea: "textbox", tfoot: "rowgroup", th: (node) => (node.scope === "row" ? "rowheader" : "columnheader"), thead: "rowgroup", tr: "row", ul: "list",
    svg: "graphics", code: "code", strong: "strong", em: "emphasis", time: "time", caption: "caption",
  };
  const INPUTS = { checkbox: "checkbox", radio: "radio", range: "slider", number: "spinbutton", search: "searchbox", button: "button", submit: "button",
    reset: "button", image: "button", file: "button", color: "button", date: "textbox", password: "textbox" };
  const inSection = (node) => node.closest("article, aside, main, nav, section") !== null;
  const inputRole = (node) => (node.list ? "combobox" : (INPUTS[node.type] ?? "textbox"));

  function role(node) {
    const given = node.getAttribute("role")?.trim().split(/\s+/)[0];
    if (given) return given;
    const implicit = IMPLICIT[node.localName] ?? "generic";
    return typeof implicit === "function" ? implicit(node) : implicit;
  }

  const named = (node) => (node.getAttribute("aria-label") ?? "").trim() || referred(node, "aria-labelledby");
  const referred = (node, attribute) =>
    (node.getAttribute(attribute) ?? "").split(/\s+/).map((id) => (id && document.getElementById(id)?.textContent.trim()) || "").join(" ").trim();

  /** What is inside, as it is read: pictures by their words, what is hidden not at all. */
  function inner(node) {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.nodeType !== Node.ELEMENT_NODE || node.ariaHidden === "true" || node.hidden || getComputedStyle(node).display === "none") return "";
    const own = named(node) || (node.localName === "img" ? node.alt : "") || (node.localName === "title" ? node.textContent : "");
    return own || [...node.childNodes].map(inner).join(" ");
  }

  /** The accessible name. Source: Accessible Name and Description Computation 1.2, less what no page of ours has. */
  function nameOf(node, fromContent = true) {
    const own = named(node);
    if (own) return own;
    if (node.labels?.length) {
      const written = [...node.labels].map((label) => [...label.childNodes].filter((one) => one !== node && !one.contains?.(node)).map(inner).join(" ")).join(" ").trim();
      if (written) return written;
    }
    if (node.localName === "img") return node.alt.trim() || (node.title ?? "").trim();
    if (node.localName === "svg") return (node.querySelector(":scope > title")?.textContent ?? "").trim();
    if (node.localName === "fieldset") return (node.querySelector(":scope > legend")?.textContent ?? "").trim();
    if (node.localName === "table") return (node.caption?.textContent ?? "").trim();
    if (node.localName === "input" && ["submit", "button", "reset"].includes(node.type)) return node.value || "x";
    return (fromContent ? inner(node).trim() : "") || (node.title ?? "").trim();
  }

  // ---------------------------------------------------------------- names

  const FROM_CONTENT = new Set(["button", "link", "heading", "tab", "menuitem", "option", "checkbox", "radio", "switch", "columnheader", "rowheader"]);
  const MUST_HAVE = { button: "button-name", link: "link-name", dialog: "aria-dialog-name", alertdialog: "aria-dialog-name", progressbar: "aria-progressbar-name",
    meter: "aria-meter-name", img: "image-alt", textbox: "label", searchbox: "label", combobox: "label", listbox: "label", spinbutton: "label", slider: "label",
    checkbox: "label", radio: "label", switch: "aria-toggle-field-name", region: "landmark-name", grid: "grid-name", group: "", tab: "aria-command-name",
    menuitem: "aria-command-name", treegrid: "grid-name" };

  function names() {
    for (const node of all("body *")) {
      const rule = MUST_HAVE[role(node)];
      if (!rule || !isTold(node) || node.localName === "datalist") continue;
      const only = rule === "label" && (node.placeholder || node.title); // said below
      if (!only && !nameOf(node, FROM_CONTENT.has(role(node)))) wrong(rule, node, `the ${role(node)} has no name`);
    }
    for (const node of all("input:not([type=hidden]), select, textarea")) {
      if (!isTold(node) || named(node) || node.labels?.length || ["submit", "button", "reset"].includes(node.type)) continue;
      if (node.placeholder || node.title) wrong("label-title-only", node, "a placeholder or title is no label");
    }
    for (const node of all("label")) {
      if (isShown(node) && !node.control) wrong("label", node, "the label belongs to no field");
    }
    for (const node of all("img:not([alt])")) wrong("image-alt", node, "no alt");
    for (const node of all("summary, h1, h2, h3, h4, h5, h6")) {
      if (isTold(node) && !inner(node).trim()) wrong(node.localName === "summary" ? "summary-name" : "empty-heading", node, "it is empty");
    }
    for (const node of all("iframe")) if (!node.title) wrong("frame-title", node, "no title");
    // what is read aloud must hold what is seen, for those who speak to their computer
    for (const node of all("button[aria-label], a[aria-label], [role=button][aria-label]")) {
      const seen = node.innerText.trim().toLowerCase();
      if (isTold(node) && /\p{L}{2}/u.test(seen) && !node.ariaLabel.toLowerCase().includes(seen)) {
        wrong("label-content-name-mismatch", node, `“${node.ariaLabel}” does not hold the visible words`);
      }
    }
  }

  // ---------------------------------------------------------------- structure

  function structure() {
    const root = document.documentElement;
    if (!/^[a-z]{2,3}(-|$)/i.test(root.lang)) wrong("html-has-lang", root, "no language");
    if (!document.title.trim()) wrong("document-title", root, "no title");
    if (/user-scalable\s*=\s*(no|0)|maximum-scale\s*=\s*[01]\b/.test(document.querySelector("meta[name=viewport]")?.content ?? "")) {
      wrong("meta-viewport", root, "zooming is switched off");
    }
    headings();
    landmarks();
    const ids = new Map();
    for (const node of all("[id]")) ids.set(node.id, [...(ids.get(node.id) ?? []), node]);
    for (const [id, nodes] of ids) if (nodes.length > 1) wrong("duplicate-id", nodes[1], `${nodes.length} elements have the id ${id}`);
    for (const node of all("[tabindex]")) if (node.tabIndex > 0) wrong("tabindex", node, "a tabindex above 0 breaks the order");
    lists();
    tables();
  }

  function headings() {
    const shown = all("h1, h2, h3, h4, h5, h6, [role=heading]").filter((node) => isTold(node));
    // behind a dialog everything is inert: its headings begin anew
    const dialog = document.querySelector("dialog:modal");
    const order = (dialog ? shown.filter((node) => dialog.contains(node)) : shown).map((node) => [node, Number(node.ariaLevel ?? node.localName[1])]);
    if (!dialog && order.filter(([, level]) => level === 1).length !== 1) {
      wrong("page-has-heading-one", document.body, `${order.filter(([, level]) => level === 1).length} headings of level 1`);
    }
    let before = dialog ? 1 : 0;
    for (const [node, level] of order) {
      if (level > before + 1) wrong("heading-order", node, `level ${level} after level ${before}`);
      before = level;
    }
  }

  const LANDMARKS = new Set(["banner", "complementary", "contentinfo", "form", "main", "navigation", "region", "search"]);
  const LIVE = "[role=status], [role=alert], [role=log], [aria-live]";

  function landmarks() {
    const marks = all("body *").filter((node) => LANDMARKS.has(role(node)) && isTold(node));
    for (const kind of ["main", "banner", "contentinfo"]) {
      const many = marks.filter((node) => role(node) === kind);
      if (many.length > 1) wrong(`landmark-no-duplicate-${kind}`, many[1], `there are ${many.length}`);
    }
    if (!marks.some((node) => role(node) === "main")) wrong("landmark-one-main", document.body, "no main landmark");
    const seen = new Set();
    for (const node of marks) {
      const id = `${role(node)} ${named(node)}`.toLowerCase();
      if (seen.has(id)) wrong("landmark-unique", node, `another ${role(node)} has this name`);
      seen.add(id);
    }
    // everything readable is inside of one, but for skip links, live regions and dialogs
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const parent = node.parentElement;
      if (!node.data.trim() || !isTold(parent) || parent.closest(`${LIVE}, dialog, script, style, noscript, a.skip`)) continue;
      if (!marks.some((mark) => mark.contains(parent))) wrong("region", parent, "it is in no landmark");
    }
    const skip = document.querySelector("a[href^='#']");
    if (!skip || !document.querySelector(skip.getAttribute("href"))) wrong("skip-link", document.body, "the first link skips nothing");
  }

  function lists() {
    for (const node of all("ul, ol")) {
      for (const child of node.children) if (!["LI", "SCRIPT", "TEMPLATE"].includes(child.tagName)) wrong("list", child, "only items may be in a list");
    }
    for (const node of all("li")) if (!node.closest("ul, ol, menu")) wrong("listitem", node, "an item without its list");
    for (const node of all("dl")) {
      for (const child of node.children) if (!["DT", "DD", "DIV", "SCRIPT", "TEMPLATE"].includes(child.tagName)) wrong("definition-list", child, "only dt, dd and their groups may be in it");
    }
    for (const node of all("dt, dd")) if (!node.parentElement.matches("dl, dl > div")) wrong("dlitem", node, "it is in no dl");
  }

  function tables() {
    for (const node of all("table")) {
      if (!isTold(node)) continue;
      if (!nameOf(node, false)) wrong("table-name", node, "neither caption nor label");
      for (const head of all("th", node)) if (isShown(head) && !inner(head).trim()) wrong("empty-table-header", head, "a column without a name");
      if (!node.querySelector("th")) wrong("th-has-data-cells", node, "no header cells");
      const width = [...(node.tHead?.rows[0]?.cells ?? [])].length;
      for (const row of node.tBodies[0]?.rows ?? []) {
        const cells = [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0);
        if (width && cells !== width) wrong("td-headers", row, `${cells} cells below ${width} headers`);
      }
    }
  }

  // ---------------------------------------------------------------- ARIA

  const TRUE = ["true", "false"];
  const ATTRIBUTES = {
    activedescendant: "id", atomic: TRUE, autocomplete: ["inline", "list", "both", "none"], busy: TRUE, checked: [...TRUE, "mixed"], colcount: "int", colindex: "int",
    colspan: "int", controls: "ids", current: ["page", "step", "location", "date", "time", ...TRUE], describedby: "ids", description: "text", details: "ids", disabled: TRUE,
    errormessage: "id", expanded: TRUE, haspopup: [...TRUE, "menu", "listbox", "tree", "grid", "dialog"], hidden: TRUE, invalid: ["grammar", "spelling", ...TRUE],
    keyshortcuts: "text", label: "text", labelledby: "ids", level: "int", live: ["assertive", "polite", "off"], modal: TRUE, multiline: TRUE, multiselectable: TRUE,
    orientation: ["horizontal", "vertical", "undefined"], owns: "ids", placeholder: "text", posinset: "int", pressed: [...TRUE, "mixed"], readonly: TRUE,
    relevant: "text", required: TRUE, roledescription: "text", rowcount: "int", rowindex: "int", rowspan: "int", selected: TRUE, setsize: "int",
    sort: ["ascending", "descending", "none", "other"], valuemax: "number", valuemin: "number", valuenow: "number", valuetext: "text",
  };
  // only these may have them; what is not listed may stand anywhere
  const ONLY_AT = {
    pressed: ["button"], checked: ["checkbox", "radio", "switch", "option", "menuitemcheckbox", "menuitemradio"], sort: ["columnheader", "rowheader"],
    selected: ["gridcell", "option", "row", "tab", "columnheader", "rowheader", "treeitem"], level: ["heading", "row", "treeitem", "listitem"],
    rowcount: ["table", "grid", "treegrid"], rowindex: ["row", "cell", "gridcell", "rowheader", "columnheader"], valuenow: ["progressbar", "meter", "slider", "spinbutton", "scrollbar", "separator"],
    activedescendant: ["grid", "listbox", "combobox", "group", "application", "textbox", "tree", "treegrid", "tablist", "menu", "radiogroup", "toolbar"],
    expanded: ["button", "combobox", "link", "row", "gridcell", "tab", "treeitem", "menuitem", "checkbox", "listbox", "application", "columnheader", "rowheader"],
    modal: ["dialog", "alertdialog"], multiselectable: ["grid", "listbox", "tablist", "tree", "treegrid"],
  };
  const ROLES = new Set(("alert alertdialog application article banner blockquote button caption cell checkbox code columnheader combobox complementary contentinfo definition " +
    "deletion dialog document emphasis feed figure form generic grid gridcell group heading img insertion link list listbox listitem log main mark marquee math menu " +
    "menubar menuitem menuitemcheckbox menuitemradio meter navigation none note option paragraph presentation progressbar radio radiogroup region row rowgroup rowheader " +
    "scrollbar search searchbox separator slider spinbutton status strong subscript suggestion superscript switch tab table tablist tabpanel term textbox time timer toolbar " +
    "tooltip tree treegrid treeitem graphics-document graphics-object graphics-symbol").split(" "));
  const PARENTS = { row: ["grid", "table", "treegrid", "rowgroup"], gridcell: ["row"], cell: ["row"], columnheader: ["row"], rowheader: ["row"], option: ["listbox", "group", "combobox"],
    tab: ["tablist"], listitem: ["list", "group"], rowgroup: ["grid", "table", "treegrid"], menuitem: ["menu", "menubar", "group"], treeitem: ["tree", "group"] };
  const REQUIRED = { heading: ["level"], checkbox: ["checked"], radio: ["checked"], switch: ["checked"], slider: ["valuenow"], combobox: ["expanded"], meter: ["valuenow"], scrollbar: ["valuenow", "controls"] };
  const NATIVE = new Set(["input", "select", "option", "h1", "h2", "h3", "h4", "h5", "h6", "meter", "progress", "li", "tr", "td", "th", "tbody", "thead"]);
  // their words are what they say: another name would take its place
  const NAMELESS = new Set(["generic", "paragraph", "code", "strong", "emphasis", "caption", "deletion", "insertion", "presentation", "none", "subscript", "superscript", "term", "time", "mark"]);

  function aria() {
    for (const node of all("*")) {
      const given = node.getAttribute("role");
      if (given !== null && !given.trim().split(/\s+/).every((one) => ROLES.has(one))) wrong("aria-roles", node, `there is no role ${given}`);
      for (const { name, value } of node.attributes) if (name.startsWith("aria-")) attribute(node, name.slice(5), value);
      if (given === null || NATIVE.has(node.localName)) continue;
      for (const needed of REQUIRED[given] ?? []) if (!node.hasAttribute(`aria-${needed}`)) wrong("aria-required-attr", node, `role ${given} needs aria-${needed}`);
      if (PARENTS[given]) {
        let parent = node.parentElement;
        while (parent && ["generic", "none", "presentation"].includes(role(parent))) parent = parent.parentElement;
        if (!parent || !PARENTS[given].includes(role(parent))) wrong("aria-required-parent", node, `role ${given} inside of ${parent ? role(parent) : "nothing"}`);
      }
    }
    for (const node of all("[aria-hidden='true']")) {
      const inside = [node, ...all("*", node)].find((one) => one.tabIndex >= 0 && isShown(one));
      if (inside) wrong("aria-hidden-focus", inside, "the keyboard reaches what is hidden from reading");
    }
    const focusable = (node) => node.matches("a[href], button, input:not([type=hidden]), select, textarea, [tabindex]") && node.tabIndex >= 0;
    for (const node of all("button, a[href], summary, [role=button], [role=link], [role=img], [role=checkbox], [role=tab], [role=option]")) {
      const inside = all("*", node).find((one) => focusable(one) && isShown(one));
      if (inside) wrong("nested-interactive", inside, `inside of a ${role(node)}`);
    }
    for (const node of all("[onclick], [role=button]:not(button, a, input)")) if (node.tabIndex < 0) wrong("focusable", node, "the keyboard cannot reach it");
    for (const node of all("label[for]")) if (!document.getElementById(node.htmlFor)) wrong("label", node, `there is no #${node.htmlFor}`);
  }

  function attribute(node, name, value) {
    const kind = ATTRIBUTES[name];
    if (!kind) return wrong("aria-valid-attr", node, `there is no aria-${name}`);
    const ids = () => value.trim().split(/\s+/).filter(Boolean);
    const valid = Array.isArray(kind) ? kind.includes(value) : kind === "int" ? /^-?\d+$/.test(value) : kind === "number" ? value.trim() !== "" && Number.isFinite(Number(value))
      : kind === "id" || kind === "ids" ? ids().length > 0 && (kind === "ids" || ids().length === 1) && ids().every((id) => document.getElementById(id)) : true;
    if (!valid) wrong("aria-valid-attr-value", node, `aria-${name}="${value}"`);
    if (ONLY_AT[name] && !ONLY_AT[name].includes(role(node))) wrong("aria-allowed-attr", node, `aria-${name} means nothing at a ${role(node)}`);
    if (["label", "labelledby"].includes(name) && NAMELESS.has(role(node)) && !node.hasAttribute("tabindex") && !node.matches("dialog, section, form, svg, svg *")) {
      wrong("aria-prohibited-attr", node, `a ${role(node)} cannot be named`);
    }
    return undefined;
  }

  // ---------------------------------------------------------------- keyboard

  function scrolling() {
    for (const node of all("body *")) {
      const { overflowX, overflowY } = getComputedStyle(node);
      const scrolls = (/auto|scroll/.test(overflowY) && node.scrollHeight > node.clientHeight + 1) || (/auto|scroll/.test(overflowX) && node.scrollWidth > node.clientWidth + 1);
      if (!scrolls || !isShown(node) || node.tabIndex >= 0) continue;
      if (!all("a[href], button, input, select, textarea, [tabindex='0']", node).some(isShown)) wrong("scrollable-region-focusable", node, "the keyboard cannot scroll it");
    }
  }

  /** At least 24 by 24 pixels, or that much room around; links in a line of text are as they are, and so is
   *  what is drawn to scale and reached by arrows (WCAG 2.5.8: inline, essential). */
  function targets() {
    const inside = document.querySelector("dialog:modal") ?? document; // what lies behind it cannot be reached
    const nodes = all("a[href], button, input:not([type=hidden]), select, textarea, summary", inside)
      .filter((node) => isTold(node) && node.tabIndex >= 0 && !node.disabled && !node.closest(".unseen, .skip"));
    const boxes = nodes.map((node) => (node.labels?.[0]?.contains(node) ? node.labels[0] : node).getBoundingClientRect());
    nodes.forEach((node, i) => {
      const box = boxes[i];
      if ((box.width >= 23.5 && box.height >= 23.5) || box.width < 2 || getComputedStyle(node).display === "inline") return;
      const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
      const near = boxes.some((other, j) => j !== i && !nodes[j].contains(node) && !node.contains(nodes[j]) &&
        Math.hypot(Math.max(other.left - x, 0, x - other.right), Math.max(other.top - y, 0, y - other.bottom)) < 12);
      if (near) wrong("target-size", node, `${Math.round(box.width)} by ${Math.round(box.height)} pixels with a neighbour`);
    });
  }

  // ---------------------------------------------------------------- contrast

  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const known = new Map();

  /** Any CSS colour → [r, g, b, alpha]. */
  function colour(written) {
    if (!known.has(written)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = written;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(written, [r, g, b, a / 255]);
    }
    return known.get(written);
  }

  const over = ([r, g, b, a], below) => [r, g, b].map((one, i) => one * a + below[i] * (1 - a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);

  function opacity(node) {
    let whole = 1;
    for (let one = node; one; one = one.parentElement) whole *= Number(getComputedStyle(one).opacity);
    return whole;
  }

  /** The colours that may lie behind a point of an element: more than one where there is a gradient. null: not to be told. */
  function behind(node, x, y) {
    const stack = document.elementsFromPoint(x, y);
    const at = stack.indexOf(node);
    if (at < 0) return null; // something lies over it, or it is scrolled out of its box
    let layers = [];
    for (const one of stack.slice(at)) {
      const style = getComputedStyle(one);
      if (one instanceof SVGElement && one.localName !== "svg") {
        if (one !== node && style.fill !== "none" && !/^(text|tspan|g)$/.test(one.localName)) layers.push([[...colour(style.fill).slice(0, 3), colour(style.fill)[3] * Number(style.fillOpacity)]]);
        continue;
      }
      const stops = style.backgroundImage === "none" ? [] : (style.backgroundImage.match(/(rgba?|color|oklab|oklch|lab|lch)\([^()]*\)/g) ?? []);
      if (stops.length > 0) layers.push(stops.map(colour));
      layers.push([colour(style.backgroundColor)]);
      if (colour(style.backgroundColor)[3] === 1) break;
    }
    layers.push([colour(getComputedStyle(document.documentElement).colorScheme.includes("dark") && !stackIsOpaque(layers) ? "#121212" : "#ffffff")]);
    let shades = [[255, 255, 255]];
    for (const layer of layers.reverse()) shades = layer.flatMap((top) => shades.map((below) => over(top, below))).slice(0, 64);
    return shades;
  }

  const stackIsOpaque = (layers) => layers.some((layer) => layer.some((one) => one[3] === 1));

  function readable(node, written, box, words) {
    const style = getComputedStyle(node);
    const shades = behind(node, box.left + box.width / 2, box.top + box.height / 2);
    if (!shades) return;
    const size = Number.parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const ink = colour(written);
    if (ink[3] === 0) return; // written for who listens
    const alpha = ink[3] * opacity(node);
    const least = Math.min(...shades.map((shade) => ratio(over([...ink.slice(0, 3), alpha], shade), shade)));
    if (least < needed - 0.005) wrong("color-contrast", node, `${least.toFixed(2)} of ${needed}: “${words.trim().slice(0, 30)}”`);
  }

  function contrast() {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    let looked = 0;
    for (let text = walker.nextNode(); text && looked < 3000; text = walker.nextNode()) {
      const node = text.parentElement;
      // a letter may be a picture; a disabled control need not be readable
      if (!text.data.trim() || !isShown(node) || node.closest(".unseen, :disabled, [aria-disabled='true'], option, datalist, title, desc")) continue;
      range.selectNodeContents(text);
      const box = [...range.getClientRects()].find((one) => one.width > 1 && one.height > 1 && one.top >= 0 && one.bottom <= innerHeight && one.left >= 0 && one.right <= innerWidth);
      if (!box) continue;
      looked += 1;
      const style = getComputedStyle(node);
      readable(node, node instanceof SVGElement ? style.fill : style.color, box, text.data);
    }
    for (const node of all("input, textarea, select")) {
      if (!isShown(node) || node.disabled || ["checkbox", "radio", "file", "range"].includes(node.type) || node.closest(".unseen")) continue;
      const box = node.getBoundingClientRect();
      if (node.value) readable(node, getComputedStyle(node).color, box, node.value);
      else if (node.placeholder) readable(node, getComputedStyle(node, "::placeholder").color, box, node.placeholder);
    }
    return looked;
  }

  names();
  structure();
  aria();
  scrolling();
  targets();
  const looked = contrast();
  if (looked === 0) found.push("color-contrast: nothing was looked at");
  return [...new Set(found)];
})();
