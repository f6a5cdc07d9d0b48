// Server-sent events out of a stream of text, as the HTML standard reads them. Pure: no DOM, no network.

/** Feed it pieces of text; it calls `onEvent({id, event, data})` for every whole event (data as text), `onComment` for comments. */
export function eventParser(onEvent, onComment) {
  let buffer = "";
  let id = "";
  let name = "";
  let data = null;
  const line = (written) => {
    if (written === "") {
      if (data !== null) onEvent({ id, event: name || "message", data });
      name = "";
      data = null;
      return;
    }
    if (written.startsWith(":")) {
      onComment?.(written.slice(1).trimStart());
      return;
    }
    const colon = written.indexOf(":");
    const field = colon < 0 ? written : written.slice(0, colon);
    const value = colon < 0 ? "" : written.slice(colon + (written[colon + 1] === " " ? 2 : 1));
    if (field === "data") data = data === null ? value : `${data}\n${value}`;
    else if (field === "event") name = value;
    else if (field === "id" && !value.includes("\0")) id = value;
  };
  return (piece) => {
    buffer += piece;
    let start = 0;
    for (;;) {
      const end = buffer.slice(start).search(/\r\n|\n|\r/);
      if (end < 0) break;
      const stop = start + end;
      // a CR at the very end may be half of a CRLF: wait for what follows
      if (buffer[stop] === "\r" && stop + 1 === buffer.length) break;
      line(buffer.slice(start, stop));
      start = stop + (buffer[stop] === "\r" && buffer[stop + 1] === "\n" ? 2 : 1);
    }
    buffer = buffer.slice(start);
  };
}
