/* A model's words as DOM: text with its line breaks, fenced code in <pre><code>. Nothing else of Markdown, and no HTML, ever.
 *
 * The law: every character a model wrote arrives as a text node. `pieces` is pure; `drawText` changes only what has changed.
 */

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]{0,32})[^`]*$/;

/** [{kind: "text"|"code", text, language}]; a fence that is not closed yet runs to the end. */
export function pieces(text) {
  const found = [];
  let lines = [];
  let open = null;
  const flush = (kind, language) => {
    const body = kind === "text" ? lines.join("\n").replace(/^\n+|\n+$/g, "") : lines.join("\n");
    if (kind === "code" || body !== "") found.push({ kind, text: body, language });
    lines = [];
  };
  for (const line of text.split(/\r\n|\r|\n/)) {
    const fence = FENCE.exec(line);
    if (open === null && fence !== null) {
      flush("text", "");
      open = { mark: fence[1], language: fence[2] };
    } else if (open !== null && closes(line, open.mark)) {
      flush("code", open.language);
      open = null;
    } else {
      lines.push(line);
    }
  }
  if (open === null) flush("text", "");
  else flush("code", open.language);
  return found;
}

function closes(line, mark) {
  const found = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(line);
  return found !== null && found[1][0] === mark[0] && found[1].length >= mark.length;
}

/** Bring `root`'s children to show `text`; pieces that stand already are left alone, so that a selection in them survives. */
export function drawText(root, text, h, copy) {
  const wanted = pieces(text);
  wanted.forEach((piece, i) => {
    const there = root.children[i];
    if (there !== undefined && there.dataset.kind === piece.kind) update(there, piece);
    else {
      const made = element(piece, h, copy);
      if (there === undefined) root.append(made);
      else there.replaceWith(made);
    }
  });
  while (root.children.length > wanted.length) root.lastElementChild.remove();
}

function element(piece, h, copy) {
  if (piece.kind === "text") return h("div", { class: "said-text", "data-kind": "text" }, piece.text);
  const code = h("code", {}, piece.text);
  const head = h("div", { class: "said-code-head" },
    h("span", { class: "said-language" }, piece.language || "code"),
    h("button", { type: "button", class: "quiet small", onclick: () => copy(code.textContent) }, "Copy"));
  return h("div", { class: "said-code", "data-kind": "code" }, head, h("pre", { tabindex: "0" }, code));
}

function update(there, piece) {
  const target = piece.kind === "text" ? there : there.querySelector("code");
  const node = target.firstChild;
  if (node === null) target.append(piece.text);
  else if (piece.text.startsWith(node.data)) {
    if (piece.text.length > node.data.length) node.appendData(piece.text.slice(node.data.length));
  } else node.data = piece.text;
  if (piece.kind === "code") there.querySelector(".said-language").textContent = piece.language || "code";
}
