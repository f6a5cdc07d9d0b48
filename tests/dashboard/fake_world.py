"""A pretended gateway's inside: 500 models, two devices, evictions, requests; all from a seed, moved by `tick`.

The law: it says what `/admin/*` says, in the same words and units; it decides in the simplest way that looks alive, and knows
nothing of HTTP.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

GIB = 1 << 30
Json = dict[str, Any]

_FAMILIES = (
    "qwen3",
    "llama-3.3",
    "gemma-3",
    "mistral-small",
    "phi-4",
    "deepseek-r1",
    "granite-4",
    "smollm3",
    "olmo-3",
    "glm-4.7",
)
_SIZES = (("0.6b", 0.6), ("1.7b", 1.7), ("4b", 4.0), ("8b", 8.0), ("14b", 14.0), ("32b", 32.0))
_QUANTS = ("q4_k_m", "q6_k", "q8_0")
_VENDORS = (
    "openai",
    "anthropic",
    "google",
    "mistralai",
    "x-ai",
    "qwen",
    "meta-llama",
    "deepseek",
    "nousresearch",
    "cohere",
)
_AGENTS = ("OpenAI/Python 2.54.0", "curl/8.14.1", "opencode/1.4.2", "Continue/1.8", "node")
_ERRORS = ((429, "rate_limited"), (503, "load_failed"), (502, "upstream_failed"), (400, "context_length_exceeded"))


def catalogue(rng: random.Random, count: int) -> dict[str, Json]:
    """Name → entry of /v1/models: some of ours, some of an Ollama, most of a remote provider."""
    names = [f"{family}-{size}-{quant}" for family in _FAMILIES for size, _ in _SIZES for quant in _QUANTS]
    rng.shuffle(names)
    entries: dict[str, Json] = {}
    for index in range(count):
        local = index < min(60, count * 2 // 3)
        if local:
            provider = "ollama" if index % 4 == 3 else "local"
            name = names[index % len(names)]
        else:
            provider = "openrouter" if index % 5 else "groq"
            vendor = _VENDORS[index % len(_VENDORS)]
            name = (
                f"{vendor}/{rng.choice(_FAMILIES)}-{rng.choice(_SIZES)[0]}-{index}{':free' if index % 17 == 0 else ''}"
            )
        entries[name] = _entry(rng, name, provider, local=local)
    return entries


def _entry(rng: random.Random, name: str, provider: str, *, local: bool) -> Json:
    size = next((billions for word, billions in _SIZES if f"-{word}" in name), 8.0)
    inner: Json = {
        "provider": provider,
        "targets": [f"{provider}/{name}"],
        "aliases": ["default"] if name.startswith("qwen3-4b") else [],
        "state": "cold" if local else "remote",
        "bytes": None,
        "context_length": rng.choice((8192, 32768, 40960, 131072, 200000, None)),
        "capabilities": rng.sample(
            ("tools", "vision", "reasoning", "embedding", "structured_output"), rng.randint(0, 3)
        ),
        "price": None,
        "cost": "unknown",
        "pinned": False,
        "family": name.split("/")[-1].split("-")[0],
        "parameters": f"{size}B",
        "load_s": round(0.8 + size * 0.4, 2) if local and rng.random() < 0.7 else None,
    }
    if local:
        inner |= {"size_bytes": int(size * 0.62 * GIB), "quantization": name.rsplit("-", 1)[-1].upper()}
    elif ":free" in name:
        inner |= {"price": {"prompt": "0", "completion": "0"}, "cost": "free"}
    else:
        price = rng.choice((0.05, 0.1, 0.25, 0.6, 1.25, 3.0))
        inner |= {"price": {"prompt": f"{price / 1e6:.9f}", "completion": f"{price * 4 / 1e6:.9f}"}, "cost": "paid"}
    return {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": provider, "roundhouse": inner}


class World:
    """Everything that changes. `say(name, data)` is called for each event of the live stream."""

    def __init__(self, seed: int = 5, models: int = 500, rows: int = 2000, *, busy: bool = True) -> None:
        self.rng = random.Random(seed)  # the same pretended life every time
        self.models = catalogue(self.rng, models)
        self.local = [name for name, entry in self.models.items() if entry["roundhouse"]["state"] == "cold"]
        self.busy = busy
        self.now_s = time.time()
        self.budget = {"cuda:0": 24 * GIB, "ram": 48 * GIB}
        self.strangers = {"cuda:0": int(1.4 * GIB), "ram": int(9.2 * GIB)}
        self.residents: dict[str, Json] = {}
        self.queue: list[Json] = []
        self.pinned: set[str] = set()
        self.cooling: dict[str, str] = {}
        self.requests: dict[str, Json] = {}
        self.happenings: deque[Json] = deque(maxlen=1000)
        self.spans: list[Json] = []
        self.ledger: Json = {"ok": True, "error": "", "buffered": 0, "dropped": 0}
        self.closing = False
        self.say: Callable[[str, Json], None] = lambda name, data: None
        self._seq = 0
        self._ids = 0
        self.rows = [self._row(self.now_s - at * 43.7, str(at)) for at in range(rows)]
        if busy:
            for name in self.local[:6]:
                self._enter(name, ready=True)
            self._pin(self.local[0])

    # ------------------------------------------------------------ reading

    def target(self, name: str) -> str:
        return str(self.models[name]["roundhouse"]["targets"][0])

    def size(self, name: str) -> Json:
        index = self.local.index(name)
        device = "ram" if index % 3 == 2 else "cuda:0"
        return {device: int(self.models[name]["roundhouse"]["size_bytes"] * 1.25)}

    def can_fit(self, name: str) -> bool:
        return all(size <= self.budget[device] for device, size in self.size(name).items())

    def load_s(self, name: str) -> float:
        return float(self.models[name]["roundhouse"]["load_s"] or 4.0)

    def committed(self) -> dict[str, int]:
        held = dict.fromkeys(self.budget, 0)
        for resident in self.residents.values():
            for device, size in resident["footprint"].items():
                held[device] += size
        return held

    def state(self) -> Json:
        """The object of GET /admin/residency, with what the live stream adds."""
        committed = self.committed()
        return {
            "devices": {
                device: {
                    "budget_bytes": budget,
                    "committed_bytes": committed[device],
                    "measured_bytes": int(committed[device] * 0.97),
                    "strangers_bytes": self.strangers[device],
                }
                for device, budget in self.budget.items()
            },
            "residents": [self._resident(name) for name in self.residents],
            "queue": [
                {"ticket": one["ticket"], "target": self.target(one["model"]), "waiting_s": self.now_s - one["since_s"],
                 "position": place}
                for place, one in enumerate(self.queue, 1)
            ],
            "cooling_down": dict(self.cooling),
            "providers": [{"name": one["name"], "kind": one["kind"], "healthy": one["health"]["state"] == "up",
                           "reason": one["health"]["reason"]} for one in self.providers()],
            "rates": {"requests_per_s": 1.8 if self.busy else 0.0, "tokens_per_s": 212.0 if self.busy else 0.0,
                      "in_flight": len(self.requests), "rss_bytes": 74 << 20},
            "ledger": self.ledger,
            "closing": self.closing,
        }  # fmt: skip

    def _resident(self, name: str) -> Json:
        kept = self.residents[name]
        shown = {key: value for key, value in kept.items() if not key.endswith("_at")}
        idle_s = 0.0 if kept["leases"] else self.now_s - kept["used_at"]
        return shown | {"pinned": name in self.pinned, "idle_s": idle_s, "resident_s": self.now_s - kept["since_at"]}

    def providers(self) -> list[Json]:
        """As /admin/providers lists them."""
        wrong = "connection refused: is LM Studio running at http://127.0.0.1:1234?"
        rows = (("ollama", "ollama", "up", "", 0.0021), ("openrouter", "openrouter", "up", "", 0.412),
                ("groq", "openai", "failing", "429: too many requests", 0.093),
                ("lmstudio", "lmstudio", "down", wrong, None))  # fmt: skip
        return [
            {
                "name": name, "kind": kind, "discovered": name == "lmstudio", "error": reason if state == "down" else "",
                "models": sum(entry["owned_by"] == name for entry in self.models.values()), "waiting": 0, "filter": None,
                "catalogue": {"asked": True, "every_s": 300.0, "age_s": self.now_s % 300, "took_s": 0.21, "stale": False},
                "health": {"state": state, "reason": reason, "since_s": 1234.0, "retry_in_s": 21.0 if state == "failing" else None,
                           "requests": 4210, "refused": 3, "failures": 17, "error_rate": 0.004,
                           "first_byte_p50_s": p50, "first_byte_p95_s": p50 and p50 * 3, "first_byte_p99_s": p50 and p50 * 8,
                           "first_byte_average_s": p50, "probe_s": p50, "availability": 0.9987 if p50 else 0.2, "last_ok_s": 2.0},
                "hosted": None,
            }
            for name, kind, state, reason, p50 in rows
        ]  # fmt: skip

    def plan(self, name: str) -> Json:
        """The dry run."""
        needed, victims, free = self.size(name), self._victims(name), self._free()
        outcome = (
            "ready" if name in self.residents else "refused" if victims is None else "evicts" if victims else "fits"
        )
        never = not self.can_fit(name)
        refusal = "larger_than_budget" if never else "no_room_beside_pins" if victims is None else None
        return {"target": self.target(name), "outcome": outcome, "needed": needed, "footprint_source": "estimated", "free": free,
                "victims": [self.target(one) for one in victims or ()], "refusal": refusal, "queue_ahead": len(self.queue),
                "detail": (refusal or "").replace("_", " "),
                "model": name, "expected_load_s": self.load_s(name)}  # fmt: skip

    def logs(self, name: str) -> list[str]:
        resident = self.residents.get(name)
        if resident is None:
            return []
        lines = int((self.now_s - resident["since_at"]) * 2) + 3
        return [
            f"slot {at % 4}: task {at} | n_tokens = {at * 37 % 900}, truncated = 0"
            for at in range(max(0, lines - 200), lines)
        ]

    # ------------------------------------------------------------ the operator's hand

    def want(self, name: str) -> None:
        """Somebody asks for a model that may not be in memory."""
        if not self.can_fit(name):
            self.note("rejected", name, why="larger_than_budget", detail="it needs more than the whole memory budget")
            return
        if name in self.residents or any(one["model"] == name for one in self.queue):
            return
        self._ids += 1
        self.queue.append({"ticket": self._ids, "model": name, "since_s": self.now_s})
        self.note("queued", name, ticket=self._ids)

    def unload(self, name: str, why: str = "admin", detail: str = "", for_target: str = "") -> None:
        resident = self.residents.get(name)
        if resident is None or resident["phase"] in ("draining", "unloading"):
            return
        idle_s = self.now_s - resident["used_at"]
        self._phase(name, "draining", why)
        self.note("draining", name, why=why, detail=detail, for_target=for_target, seconds=idle_s)

    def _pin(self, name: str, *, pinned: bool = True) -> None:
        (self.pinned.add if pinned else self.pinned.discard)(name)
        self.models[name]["roundhouse"]["pinned"] = pinned

    def pin(self, name: str, *, pinned: bool) -> None:
        self._pin(name, pinned=pinned)
        self.note("pinned" if pinned else "unpinned", name)

    def note(self, what: str, name: str, **more: Any) -> None:
        """As the journal writes it."""
        self._seq += 1
        said = {key: value for key, value in more.items() if value not in ("", None)}
        happening = {"seq": self._seq, "at_s": self.now_s, "what": what, "target": self.target(name), **said}
        self.happenings.append(happening)
        self.say("happening", happening)

    # ------------------------------------------------------------ life

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        self.now_s = now_s
        for name in list(self.residents):
            self._live(name)
        if self.queue and self._admit(self.queue[0]["model"]):
            one = self.queue.pop(0)
            self.note("granted", one["model"], ticket=one["ticket"], seconds=now_s - one["since_s"])
        if self.busy:
            if len(self.queue) < 4 and self.rng.random() < 0.06:
                self.want(self.rng.choice(self.local[:24]))
            if len(self.requests) < 6 and self.rng.random() < 0.3:
                self._begin()
        for one in [one for one in self.requests.values() if one["ends_at"] <= now_s]:
            self._end(one)

    def _live(self, name: str) -> None:
        resident = self.residents[name]
        since_s = self.now_s - resident["phase_at"]
        match resident["phase"]:
            case "loading":
                load_s = self.load_s(name)
                self.say("load", {"model": name, "target": self.target(name), "percent": min(99.0, since_s / load_s * 100),
                                  "eta_s": max(0.0, load_s - since_s), "elapsed_s": since_s})  # fmt: skip
                if since_s >= load_s:
                    self._phase(name, "ready", resident["why"])
                    resident["load_s"] = since_s
                    self.note("loaded", name, seconds=since_s)
            case "draining" if not resident["leases"] and since_s > 1.0:
                self._phase(name, "unloading", resident["why"])
                self.note("unload_started", name, why=resident["why"])
            case "unloading" if since_s > 1.0:
                del self.residents[name]
                self._state(name, "cold")
                self.note("gone", name, why=resident["why"], seconds=since_s)
            case _:
                pass

    def _admit(self, name: str) -> bool:
        victims = self._victims(name)
        if victims is None:
            return False
        need, free = sum(self.size(name).values()), sum(self._free()[device] for device in self.size(name))
        for victim in victims:
            idle_s = self.now_s - self.residents[victim]["used_at"]
            detail = (
                f"{need / GIB:.1f} GiB needed, {free / GIB:.1f} GiB free, {self.target(victim)} idle {idle_s:.0f} s"
            )
            self.unload(victim, "evicted", detail, self.target(name))
        if victims:
            return False
        self._enter(name)
        return True

    def _victims(self, name: str) -> list[str] | None:
        """Who must leave, longest idle first; None: there cannot be room."""
        ((device, need),) = self.size(name).items()
        free = self._free()[device]
        if free >= need:
            return []
        leaving = [one for one in self.residents.values() if one["phase"] in ("draining", "unloading")]
        free += sum(one["footprint"].get(device, 0) for one in leaving)
        here = [
            n
            for n, r in self.residents.items()
            if device in r["footprint"] and r["phase"] == "ready" and n not in self.pinned
        ]
        victims: list[str] = []
        for one in sorted(here, key=lambda n: self.residents[n]["used_at"]):
            if free >= need:
                break
            victims.append(one)
            free += self.residents[one]["footprint"][device]
        return (victims or None) if free >= need else None

    def _free(self) -> dict[str, int]:
        committed = self.committed()
        return {device: budget - committed[device] for device, budget in self.budget.items()}

    def _enter(self, name: str, *, ready: bool = False) -> None:
        footprint = self.size(name)
        if any(self._free()[device] < size for device, size in footprint.items()):
            return
        source = ("learned", "estimated", "declared")[len(name) % 3]
        self.residents[name] = {
            "model": name, "target": self.target(name), "phase": "loading", "epoch": 1, "leases": 0, "footprint": footprint,
            "footprint_source": source, "load_s": None, "why": "requested", "since_at": self.now_s, "used_at": self.now_s,
            "phase_at": self.now_s,
        }  # fmt: skip
        self._phase(name, "ready" if ready else "loading", "requested")
        if ready:
            self.residents[name] |= {"load_s": 3.2, "used_at": self.now_s - self.rng.randint(3, 900)}
        else:
            self.note("load_started", name, why="requested", footprint=footprint, footprint_source=source)

    def _phase(self, name: str, phase: str, why: str) -> None:
        self.residents[name] |= {"phase": phase, "why": why, "phase_at": self.now_s}
        self._state(name, phase)

    def _state(self, name: str, state: str) -> None:
        kept = self.residents.get(name)
        self.models[name]["roundhouse"] |= {"state": state, "bytes": kept and kept["footprint"]}
        last = next((span for span in reversed(self.spans) if span["model"] == name), None)
        if last is not None and last["to_s"] is None:
            last["to_s"] = self.now_s
        if state != "cold":
            self.spans.append({"target": self.target(name), "model": name, "phase": state, "from_s": self.now_s, "to_s": None,
                               "why": kept["why"] if kept else ""})  # fmt: skip

    # ------------------------------------------------------------ requests

    def _begin(self) -> None:
        ready = [name for name, resident in self.residents.items() if resident["phase"] == "ready"]
        if not ready:
            return
        name = self.rng.choice(ready)
        self._ids += 1
        row = self._row(self.now_s, f"live-{self._ids}", name)
        row["ends_at"] = self.now_s + self.rng.uniform(0.4, 5.0)
        self.requests[row["id"]] = row
        self.residents[name]["leases"] += 1
        started = {
            key: row[key]
            for key in ("id", "at_us", "principal", "key_id", "tenant", "asked", "model", "target", "route", "streamed")
        }
        self.say("request", started | {"phase": "answering"})

    def _end(self, row: Json) -> None:
        del self.requests[row["id"]]
        resident = self.residents.get(row["model"])
        if resident is not None:
            resident["leases"] = max(0, resident["leases"] - 1)
            resident["used_at"] = self.now_s
        entry = {key: value for key, value in row.items() if key != "ends_at"}
        entry["total_us"] = int((self.now_s * 1e6) - entry["at_us"])
        self.rows.insert(0, entry)
        self.say("request", entry)

    def _row(self, at_s: float, number: str, name: str | None = None) -> Json:
        rng = self.rng
        name = name or rng.choice(self.local[:8] + list(self.models)[60:70])
        entry = self.models[name]["roundhouse"]
        status, code = (200, "") if rng.random() > 0.06 else rng.choice(_ERRORS)
        left = rng.choice(("queued", "first_byte", "answer")) if rng.random() < 0.02 else ""
        queued = rng.randint(1_000_000, 9_000_000) if rng.random() < 0.08 else 0
        first = queued + rng.randint(20_000, 700_000)
        prompt, completion = rng.randint(20, 6000), 0 if code else rng.randint(5, 900)
        price = entry["price"]
        cost = (
            None
            if price is None
            else f"{prompt * float(price['prompt']) + completion * float(price['completion']):.9f}"
        )
        return {
            "id": f"req-{number}", "at_us": int(at_s * 1e6), "principal": rng.choice(("ci", "laptop", "agents")),
            "key_id": rng.choice(("k1", "k2", "k3")), "tenant": rng.choice(("", "research", "shop")), "asked": name, "model": name,
            "target": self.target(name), "route": "/v1/chat/completions", "status": 0 if left else status,
            "code": "" if left else code, "streamed": rng.random() < 0.7, "left": left, "prompt": prompt, "completion": completion,
            "cached": prompt // 2 if rng.random() < 0.3 else 0, "reasoning": completion // 3 if rng.random() < 0.2 else 0,
            "cost_usd": cost, "queued_us": queued, "first_byte_us": 0 if code else first,
            "total_us": first + rng.randint(100_000, 6_000_000), "load_us": queued * 3 // 4, "bytes_in": prompt * 4,
            "bytes_out": completion * 90, "user_agent": rng.choice(_AGENTS),
        }  # fmt: skip
