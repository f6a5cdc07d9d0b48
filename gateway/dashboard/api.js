// The gateway's HTTP surface. The law: every failure is an ApiError with words for a person; a 401 anywhere leads to the login.

import { eventParser } from "./sse.js";

/** What went wrong: `status` (0: the gateway could not be reached), `code` and `message` of the gateway's envelope. */
export class ApiError extends Error {
  constructor(status, code, message, retryAfterS = null) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

let onUnauthorized = () => {};
/** app.js says what happens when the gateway wants a login. */
export function whenUnauthorized(fn) {
  onUnauthorized = fn;
}

/** An address of the gateway's, also where it is mounted below a path. */
export function url(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI).href;
}

/** `fetch` with the header that keeps other sites' forms out; raises ApiError for anything but success. */
export async function request(path, { method = "GET", body, signal, headers = {}, quiet401 = false } = {}) {
  const all = { "x-roundhouse": "dashboard", ...headers };
  const form = typeof FormData !== "undefined" && body instanceof FormData;
  if (body !== undefined && !form) all["content-type"] = "application/json";
  let response;
  try {
    const sent = body === undefined || form ? body : JSON.stringify(body);
    response = await fetch(url(path), { method, headers: all, body: sent, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The gateway cannot be reached. Is it running?");
  }
  if (response.ok) return response;
  const failed = await failure(response);
  if (response.status === 401 && !quiet401) onUnauthorized(failed);
  throw failed;
}

async function failure(response) {
  const written = await response.text().catch(() => "");
  const retry = Number.parseFloat(response.headers.get("retry-after") ?? "");
  const retryAfterS = Number.isFinite(retry) ? retry : null;
  try {
    const { error } = JSON.parse(written);
    return new ApiError(response.status, error.code ?? error.type ?? "", error.message, retryAfterS);
  } catch {
    const said = written && written.length < 200 && !written.startsWith("<") ? written : response.statusText;
    return new ApiError(response.status, "", `The gateway answered ${response.status}: ${said || "no reason given"}`, retryAfterS);
  }
}

async function json(path, options) {
  const response = await request(path, options);
  if (response.status === 204) return null;
  const written = await response.text();
  return written === "" ? null : JSON.parse(written);
}

export const api = {
  get: (path, options) => json(path, options),
  post: (path, body, options) => json(path, { ...options, method: "POST", body }),
  del: (path, options) => json(path, { ...options, method: "DELETE" }),
};

/** A stream of server-sent events as the answer to a POST (or, without a body, a GET).
 *
 *  onEvent({id, event, data}) gets data as text: `[DONE]` and JSON are the caller's to read. Resolves at the end of the stream with
 *  the Response (its headers); raises ApiError before the first byte, the AbortError of `signal`, or ApiError(0, "cut") inside. */
export async function stream(path, body, { onEvent, onOpen, onComment, onBytes, signal, headers, quiet401 } = {}) {
  const method = body === undefined || body === null ? "GET" : "POST";
  const response = await request(path, { method, body: body ?? undefined, signal, headers, quiet401 });
  onOpen?.(response);
  const feed = eventParser(onEvent, onComment);
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      onBytes?.(value.length);
      feed(decoder.decode(value, { stream: true }));
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    if (error instanceof TypeError) throw new ApiError(0, "cut", "The connection broke off in the middle of the answer.");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
  return response;
}

/** A path segment for a model's name, which may hold slashes and colons: the gateway reads the rest of the path as it is. */
export function modelPath(name) {
  return name.split("/").map(encodeURIComponent).join("/");
}
