"""The pretended gateway with a past: hours of loads and evictions, weeks of requests, captures, and answers worth reading.

    python -m tests.dashboard.fake_usage --port 0 [--models 500] [--rows 50000] [--slow]

The law: as fake_admin.py's; what is invented is invented from a seed, and money is added as Decimal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from .fake_admin import Admin, Answer, Refused, serving
from .fake_world import Json, World

DAY_S = 86400.0
ANSWER = """Two ways, then.

```python
def latest(rows: list[dict]) -> dict:
    # <b>not markup</b>
    return max(rows, key=lambda row: row["at"])
```

The first reads every row; the second keeps an index:

~~~sql
CREATE INDEX by_time ON entries (at_us DESC);
~~~

Either way the answer is the *newest* row & nothing is sorted twice."""
THOUGHTS = "The caller wants the newest row. Sorting all of them would do, but a single pass is enough, and an index is better."


def spread(world: World, days: float = 30.0, seed: int = 7) -> None:
    """Give the rows that there are other times: dense in the last hours, thinner before, fewer at night."""
    rng = random.Random(seed)
    ages = sorted(days * DAY_S * rng.random() ** 3 for _ in world.rows)
    for row, age_s in zip(world.rows, ages, strict=True):
        row["at_us"] = int((world.now_s - age_s) * 1e6)


def past(world: World, hours: float = 26.0, slots: int = 3, seed: int = 9) -> tuple[list[Json], list[Json]]:
    """Spans and marks of a few models that take each other's room, up to now."""
    rng = random.Random(seed)
    now_s, at_s = world.now_s, world.now_s - hours * 3600
    spans: list[Json] = []
    marks: list[Json] = []
    held: list[tuple[str, float]] = []
    while at_s < now_s - 300:
        name = rng.choice([one for one in world.local[:8] if one not in [other for other, _ in held]])
        if len(held) >= slots:
            victim, since_s = held.pop(0)
            _leave(world, victim, (since_s, at_s), name, spans, marks)
            at_s += 3.0
        load_s = rng.uniform(2.0, 40.0)
        spans.append(_span(world, name, "loading", (at_s, at_s + load_s), "requested"))
        if rng.random() < 0.12:
            marks.append(
                _mark(world, name, "load_failed", at_s + load_s, "did not come up: exit code 1, out of memory")
            )
        else:
            marks.append(_mark(world, name, "loaded", at_s + load_s, f"loaded in {load_s:.1f} s"))
            held.append((name, at_s + load_s))
        at_s += load_s + rng.expovariate(1 / 1500)
    spans += [_span(world, name, "ready", (since_s, None), "requested") for name, since_s in held]
    return spans, marks


def _leave(
    world: World, victim: str, stayed: tuple[float, float], name: str, spans: list[Json], marks: list[Json]
) -> None:
    since_s, at_s = stayed
    spans.append(_span(world, victim, "ready", (since_s, at_s), "requested"))
    spans.append(_span(world, victim, "draining", (at_s, at_s + 2.0), "evicted"))
    spans.append(_span(world, victim, "unloading", (at_s + 2.0, at_s + 3.0), "evicted"))
    words = f"evicted {victim} for {name}: 18.2 GB needed, 11.0 free, {victim} idle 340 s"
    marks.append(_mark(world, victim, "draining", at_s, words))


def _span(world: World, name: str, phase: str, times: tuple[float, float | None], why: str) -> Json:
    return {
        "target": world.target(name),
        "model": name,
        "phase": phase,
        "from_s": times[0],
        "to_s": times[1],
        "why": why,
    }


def _mark(world: World, name: str, what: str, at_s: float, words: str) -> Json:
    return {"at_s": at_s, "what": what, "target": world.target(name), "words": words}


class UsageAdmin(Admin):
    """The routes of the pages Activity, Usage, Timeline and Playground over that past."""

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world, **options)
        spread(world)
        self.spans, self.marks = past(world)
        self.pace_s = 0.02  # between two words of an answer
        self.load_s = 0.0  # before the first one

    def _kept(self, method: str, path: list[str], query: dict[str, str], said: Json) -> Answer:
        match method, path:
            case "GET", ["activity", number]:
                return self._one(number)
            case _:
                return super()._kept(method, path, query, said)

    def _one(self, number: str) -> Answer:
        row = next((row for row in self.world.rows if row["id"] == number), None)
        if row is None:
            raise Refused(404, "not_found", "This request is not in the ledger")
        kept = {"request": {"model": row["model"], "messages": [{"role": "user", "content": "Which is the newest <row>?"}]},
                "answer": ANSWER}  # fmt: skip
        return 200, {"entry": row, "capture": kept if row["principal"] == "ci" else None}, {}

    def _timeline(self, hours: float) -> Json:
        now = super()._timeline(hours)
        names = {span["target"] for span in self.spans}
        spans = [span for span in self.spans if (span["to_s"] or now["to_s"]) >= now["from_s"]]
        spans += [span for span in now["spans"] if span["target"] not in names]
        marks = [mark for mark in self.marks if mark["at_s"] >= now["from_s"]]
        return now | {"spans": spans, "marks": marks + now["marks"]}

    def _usage(self, by: list[str], query: dict[str, str]) -> Json:
        """As the plain fake's, but with exact sums, and how many requests each holds whose cost is known."""
        found = super()._usage(by, query)
        priced: dict[tuple[str, ...], int] = {}
        for row in self._chosen(query):
            day = datetime.fromtimestamp(row["at_us"] / 1e6, UTC).date().isoformat()
            if row["cost_usd"] is not None and query.get("since", "") <= day <= query.get("until", "9"):
                at = tuple(str((row | {"day": day, "key": row["key_id"]})[name]) for name in by)
                priced[at] = priced.get(at, 0) + 1
        for group in found["rows"]:
            group["priced"] = priced.get(tuple(group[name] for name in by), 0)
            if group["cost_usd"] is not None:
                group["cost_usd"] = str(Decimal(group["cost_usd"]).normalize())
        return found

    async def _chat(self, said: Json) -> AsyncIterator[bytes]:
        steps = int(self.load_s * 4)
        for step in range(steps):
            left_s = self.load_s - step / 4
            load = {
                "model": said.get("model"),
                "phase": "loading",
                "percent": step * 100 // steps,
                "eta_s": left_s,
                "elapsed_s": step / 4,
            }
            yield _piece(said, {"choices": [], "roundhouse": {"load": load}})
            await asyncio.sleep(0.25)
        words = [("reasoning_content", word) for word in THOUGHTS.split(" ")] + [
            ("content", word) for word in ANSWER.split(" ")
        ]
        for field, word in words[: int(said.get("max_tokens", 10_000))]:
            yield _piece(said, {"choices": [{"index": 0, "delta": {field: f"{word} "}, "finish_reason": None}]})
            await asyncio.sleep(self.pace_s)
        yield _piece(said, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 12, "completion_tokens": len(words), "total_tokens": 12 + len(words)}
        yield _piece(said, {"choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"


def _piece(said: Json, more: Json) -> bytes:
    base = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1_795_000_000,
        "model": said.get("model"),
    }
    return b"data: " + json.dumps(base | more).encode() + b"\n\n"


async def _run(args: argparse.Namespace) -> None:
    admin = UsageAdmin(World(models=args.models, rows=args.rows))
    if args.slow:
        admin.load_s, admin.pace_s = 6.0, 0.06
    async with serving(admin, args.port) as address:
        print(address, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--slow", action="store_true", help="loads take six seconds, words come slowly")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(parser.parse_args()))
