"""What is counted of each request and each load: whole numbers in arrays. Pure.

The law: a request pays for a lookup and some additions (about a microsecond), never for a library's instrument, which costs fifty
times as much; what is told of it (Prometheus, OTLP) is worked out from the same arrays when somebody asks. Labels are the
catalogue's and our own words, never a caller's: there are as many rows as it has targets, whatever callers write.

Source: semantic conventions for generative AI, metrics: the bounds that they ask for are among ours, so that both can be told.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from .entry import Entry

US = 1_000_000
# Seconds. From a cached embedding to a long answer after a cold load; OpenTelemetry's are those from 0.01 to 81.92.
TOTAL_S = (
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
    655.36,
)
# OpenTelemetry's are those up to 10.
FIRST_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    320.0,
)
QUEUE_S = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# Our own time: a tenth of a millisecond is usual, a whole one is a busy machine.
OVERHEAD_S = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
TOKENS = tuple(4**power for power in range(14))
# From a small file in the page cache to a big one from disk.
LOAD_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)

# A model that is loaded again so soon after it had to leave for another one was pushed out in vain.
THRASH_WITHIN_S = 300.0
THRASH_OVER_S = 3600.0  # of the loads in so long a time the ratio is told
_LOADS_KEPT = 4096  # one a second in an hour, nearly

# What an entry's `left` is told as, where errors are told by their code.
CALLER_LEFT = "caller_left"


class Histogram:
    """Counts per bucket, and a sum: of seconds, or of whole microseconds.

    Args:
        bounds: the buckets' upper bounds, in the unit in which they are told.
        scale: how much of what is added makes one of that unit.
    """

    __slots__ = ("bounds", "counts", "limits", "scale", "total")

    def __init__(self, bounds: tuple[float, ...], scale: int = 1) -> None:
        self.bounds = bounds
        self.scale = scale
        self.limits = bounds if scale == 1 else tuple(round(bound * scale) for bound in bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.limits, value)] += 1
        self.total += value

    def put(self, other: Histogram) -> None:
        """Add what another one of the same bounds has."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def sum(self) -> float:
        return self.total / self.scale

    def within(self, bounds: tuple[float, ...]) -> list[int]:
        """Counts for fewer bounds, each of them one of ours, and one more for what is above."""
        merged = [0] * (len(bounds) + 1)
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            merged[bisect_left(bounds, bound)] += count
        return merged

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        running = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, running))
        return rows


class Kind(msgspec.Struct, frozen=True):
    """What the requests of one row have in common."""

    route: str
    target: str  # "" where none was reached
    model: str  # its public name
    status: int  # 0: the caller left before there was one
    fault: str  # the error's code, CALLER_LEFT, or "": none that is ours
    streamed: bool


class Row:
    """The requests of one kind."""

    __slots__ = ("completion", "cost_usd", "first", "kind", "overhead", "prompt", "queue", "tokens", "total")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.total = Histogram(TOTAL_S, US)
        self.first = Histogram(FIRST_S, US)
        self.queue = Histogram(QUEUE_S, US)
        self.overhead = Histogram(OVERHEAD_S, US)
        self.prompt = Histogram(TOKENS)
        self.completion = Histogram(TOKENS)
        self.tokens = [0, 0]  # cached, reasoning: the others are the histograms' sums
        self.cost_usd = Decimal(0)

    @property
    def requests(self) -> int:
        return sum(self.total.counts)


class Requests:
    """All rows. `count` is the one thing that a request pays for."""

    __slots__ = ("_rows", "disconnects", "left")

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, int, str, bool], Row] = {}
        self.disconnects = 0
        self.left: Counter[str] = Counter()  # by where the caller was

    def count(self, entry: Entry, overhead_us: int) -> None:
        """One request has ended. `overhead_us`: what of it was our own time; below 0: not known."""
        fault = entry.code
        if entry.left:
            fault = CALLER_LEFT
            self.disconnects += 1
            self.left[entry.left] += 1
        key = (entry.route, entry.target, entry.model, entry.status, fault, entry.streamed)
        row = self._rows.get(key) or self.row(key)
        # written out: a call for each would double what this costs
        value = entry.total_us
        histogram = row.total
        histogram.counts[bisect_left(histogram.limits, value)] += 1
        histogram.total += value
        value = entry.queued_us
        histogram = row.queue
        histogram.counts[bisect_left(histogram.limits, value) if value else 0] += 1
        histogram.total += value
        if value := entry.first_byte_us:
            histogram = row.first
            histogram.counts[bisect_left(histogram.limits, value)] += 1
            histogram.total += value
        if overhead_us >= 0:
            histogram = row.overhead
            histogram.counts[bisect_left(histogram.limits, overhead_us)] += 1
            histogram.total += overhead_us
        if entry.prompt or entry.completion:
            self._took(row, entry)
        if entry.cost_usd:
            row.cost_usd += entry.cost_usd

    def row(self, key: tuple[str, str, str, int, str, bool]) -> Row:
        """Of this kind, made where it is the first."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(Kind(*key))
        return row

    @staticmethod
    def _took(row: Row, entry: Entry) -> None:
        value = entry.prompt
        histogram = row.prompt
        histogram.counts[bisect_left(histogram.limits, value)] += 1
        histogram.total += value
        value = entry.completion
        histogram = row.completion
        histogram.counts[bisect_left(histogram.limits, value)] += 1
        histogram.total += value
        if entry.cached or entry.reasoning:
            row.tokens[0] += entry.cached
            row.tokens[1] += entry.reasoning

    def rows(self) -> list[Row]:
        """As they stand; may be asked from another thread."""
        return list(self._rows.values())


class Loads:
    """Loads and evictions, and how many loads were of models that had just been pushed out. Times: seconds since the epoch."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()  # by reason
        self.seconds = Histogram(LOAD_S)
        self.again = 0
        self.believed: dict[
            str, tuple[Mapping[str, int], str]
        ] = {}  # target → its size as it was thought, and who said so
        self._pushed_out: dict[str, float] = {}  # target → when
        self._recent: deque[tuple[float, bool]] = deque(maxlen=_LOADS_KEPT)

    def started(self, target: str, footprint: Mapping[str, int], source: str) -> None:
        """A load has begun."""
        self.believed[target] = (footprint, source)

    def loaded(self, target: str, at_s: float, seconds: float) -> None:
        """It is in memory, after so long."""
        self.results["ok"] += 1
        self.seconds.add(seconds)
        pushed_out_s = self._pushed_out.pop(target, None)
        again = pushed_out_s is not None and at_s - seconds - pushed_out_s <= THRASH_WITHIN_S
        self.again += again
        self._recent.append((at_s, again))

    def leaves(self, target: str, at_s: float, why: str) -> None:
        """It was asked to leave."""
        self.evictions[why] += 1
        if why in ("evicted", "over_budget"):
            self._pushed_out[target] = at_s

    def gone(self, target: str) -> None:
        """It is not in memory any more, or never came."""
        self.believed.pop(target, None)

    def thrash(self, now_s: float) -> float:
        """The share of reloads in the loads of the last hour; 0.0 where there were none."""
        recent = [again for at_s, again in self._recent if now_s - at_s <= THRASH_OVER_S]
        return sum(recent) / len(recent) if recent else 0.0
