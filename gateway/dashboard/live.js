// What is happening now: one stream for the whole page, shared by all of its parts.
//
// The law: there is one connection; it comes back by itself and says so while it is away; the last word on everything is kept, so
// that a page opened later need not wait. The gateway ends each stream after some seconds with `again`, which is no being away. A gateway without /admin/live is read by polling /admin/residency and /admin/events.

import { ApiError, api, stream } from "./api.js";

const POLL_MS = 2000;
const SILENT_MS = 9000; // the gateway says its state every 2 s: four times nothing is a dead connection
const RETRY_MS = [500, 1000, 2000, 5000];
const SKEW_S = 2; // clocks that differ by less are taken for the same: what is told takes a moment to come
const KEPT = 300;
const HIDDEN_MS = 20_000;

class Live {
  /** "idle" | "connecting" | "live" | "polling" | "lost" */
  status = "idle";
  /** When the next try is made, while lost (ms since the epoch). */
  retryAt = 0;
  /** The last decisions, oldest first. */
  happenings = [];
  /** Requests that have not ended: id → Entry with `phase`. */
  requests = new Map();
  /** Loads under way: target → {model, target, percent, eta_s, elapsed_s}. */
  loads = new Map();
  #listeners = new Map();
  #last = new Map();
  #stop = null;
  #lastId = "0"; // 0: all that is still kept
  #lastSeq = 0;
  #again = false; // the stream's end was announced
  #skew_s = 0;

  /** The gateway's time in seconds since the epoch: what began when is told by its clock, and this machine's may be another. */
  get now_s() {
    return Date.now() / 1000 + this.#skew_s;
  }

  /** Listen for `state`, `happening`, `request`, `load` or `status`. Returns how to stop. */
  on(name, fn) {
    const all = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, all.add(fn));
    return () => all.delete(fn);
  }

  /** The last data of an event, or undefined. */
  last(name) {
    return this.#last.get(name);
  }

  /** The last state: devices, residents, queue, cooling_down, providers, rates, ledger. */
  get state() {
    return this.#last.get("state");
  }

  start() {
    if (this.#stop) return;
    this.#stop = new AbortController();
    this.#run(this.#stop.signal);
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
    this.#again = false;
    this.#say("idle");
  }

  /** Try again now, not later. */
  retry() {
    this.stop();
    this.start();
  }

  async #run(signal) {
    for (let tries = 0; !signal.aborted; tries += 1) {
      if (this.status !== "lost" && !this.#again) this.#say("connecting");
      try {
        await this.#follow(signal, () => (tries = -1));
      } catch (error) {
        if (signal.aborted || (error instanceof ApiError && error.status === 401)) return;
        if (error instanceof ApiError && error.status === 404) return this.#poll(signal);
      }
      if (signal.aborted) return;
      if (this.#again && tries < 0) continue;
      this.#again = false;
      const pause = RETRY_MS[Math.min(Math.max(tries, 0), RETRY_MS.length - 1)];
      this.retryAt = Date.now() + pause;
      // a proxy that ends long answers, or a restart, is no news as long as the first try brings it back
      this.#say(tries > 0 ? "lost" : "connecting");
      await sleep(pause, signal);
    }
  }

  /** One connection, until it ends. */
  async #follow(signal, onOpen) {
    const once = new AbortController();
    const cut = () => once.abort();
    signal.addEventListener("abort", cut);
    let timer = setTimeout(cut, SILENT_MS);
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(cut, SILENT_MS);
    };
    try {
      await stream("/admin/live", null, {
        signal: once.signal,
        headers: { "last-event-id": this.#lastId },
        onBytes: alive,
        onOpen: () => {
          onOpen();
          // what ended while we were away was not told to us
          if (!this.#again) this.requests.clear();
          if (!this.#again) this.loads.clear();
          this.#again = false;
          this.#say("live");
        },
        onEvent: ({ id, event, data }) => {
          if (id) this.#lastId = id;
          this.#take(event, JSON.parse(data));
        },
      });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", cut);
    }
  }

  async #poll(signal) {
    this.#journal(signal);
    while (!signal.aborted) {
      try {
        this.#take("state", await api.get("/admin/residency", { signal }));
        this.#say("polling");
      } catch (error) {
        if (signal.aborted || error.status === 401) return;
        this.retryAt = Date.now() + POLL_MS;
        this.#say("lost");
      }
      await sleep(POLL_MS, signal);
    }
  }

  async #journal(signal) {
    while (!signal.aborted) {
      try {
        const onEvent = ({ data }) => this.#take("happening", JSON.parse(data));
        await stream(`/admin/events?after=${this.#lastSeq}`, null, { signal, onEvent });
      } catch (error) {
        if (signal.aborted || error.status === 401) return;
      }
      await sleep(POLL_MS, signal);
    }
  }

  #take(name, data) {
    if (name === "happening") {
      // a number that was had already is a replay; a lower one at the beginning of a new run is not
      if (data.seq <= this.#lastSeq && this.happenings.some((one) => one.seq === data.seq && one.at_s === data.at_s)) return;
      this.#lastSeq = data.seq;
      this.happenings.push(data);
      if (this.happenings.length > KEPT) this.happenings.splice(0, this.happenings.length - KEPT);
    } else if (name === "request") {
      if (data.phase) this.requests.set(data.id, { ...data, seen_ms: Date.now() });
      else this.requests.delete(data.id);
    } else if (name === "reset") {
      this.requests.clear(); // we were too slow or too long away: some of their ends were not told
    } else if (name === "load") {
      this.loads.set(data.target, { ...data, seen_ms: Date.now() });
    } else if (name === "again") {
      this.#again = true;
    } else if (name === "state") {
      const skew_s = (data.at_s ?? Date.now() / 1000) - Date.now() / 1000;
      this.#skew_s = Math.abs(skew_s) < SKEW_S ? 0 : skew_s;
      const loading = new Set((data.residents ?? []).filter((one) => one.phase === "loading").map((one) => one.target));
      for (const target of this.loads.keys()) if (!loading.has(target)) this.loads.delete(target);
    }
    this.#last.set(name, data);
    this.#tell(name, data);
  }

  #say(status) {
    const changed = status !== this.status;
    this.status = status;
    if (changed || status === "lost") this.#tell("status", status);
  }

  #tell(name, data) {
    for (const fn of this.#listeners.get(name) ?? []) {
      try {
        fn(data);
      } catch (error) {
        reportError(error); // one part's bug must not stop the others
      }
    }
  }
}

function sleep(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}

export const live = new Live();

// A browser keeps at most six connections to one HTTP/1.1 server, for all tabs together: who is not looked at gives its own back,
// and so does a page that is left, which browsers may keep alive for the way back. What was missed is told on return.
let hiding = 0;
let paused = false;

function pause() {
  if (live.status === "idle") return;
  paused = true;
  live.stop();
}

function resume() {
  clearTimeout(hiding);
  if (paused) live.start();
  paused = false;
}

globalThis.document?.addEventListener("visibilitychange", () => {
  if (document.hidden) hiding = setTimeout(pause, HIDDEN_MS);
  else resume();
});
globalThis.addEventListener?.("pagehide", pause);
globalThis.addEventListener?.("pageshow", resume);
