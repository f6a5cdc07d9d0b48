/* In every page from its beginning: violations reach the console, long tasks are kept, and a test finds what a person would see. */

addEventListener("securitypolicyviolation", (event) => {
  const place = `${event.sourceFile}:${event.lineNumber}`;
  console.error(`CSP: ${event.violatedDirective} forbids ${event.blockedURI} ${place} ${event.sample}`);
});

globalThis.longTasks = []; // in ms
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((entry) => Math.round(entry.duration))))
  .observe({ type: "longtask", buffered: true });

/** The first such element that can be seen; `words`: its text, its label, or null for any. */
globalThis.seen = (css, words) => {
  const label = (node) => node.labels?.[0]?.firstChild?.textContent.trim();
  const called = (node) => [node.textContent.trim(), node.ariaLabel, label(node)];
  return [...document.querySelectorAll(css)].find(
    (node) => node.checkVisibility({ visibilityProperty: true }) && (words === null || called(node).includes(words)),
  );
};

/** The middle of it, where a mouse would hit it; null: it is not there, disabled, or something lies over it. */
globalThis.pointAt = (css, words) => {
  const node = seen(css, words);
  if (!node || node.disabled) return null;
  node.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
  const { left, top, width, height } = node.getBoundingClientRect();
  const [x, y] = [left + width / 2, top + height / 2];
  const hit = document.elementFromPoint(x, y);
  return hit && node.contains(hit) ? [x, y] : null;
};

/** What all such elements say. */
globalThis.said = (css) => [...document.querySelectorAll(css)].map((node) => node.innerText.trim());

/** The row of a table that is about this model. */
globalThis.rowOf = (model) =>
  [...document.querySelectorAll("tbody tr")].find((row) => row.querySelector("td.name a")?.textContent === model);
