"""How much is asked: requests and tokens per second over the last moments, and requests per minute and model. Pure.

The law: a request pays for plain counting only; what a second means is worked out when somebody looks. Tokens count when an answer
ends, since only then its upstream tells them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

# Long enough that a request every few seconds does not flicker, short enough that it still means "now".
WINDOW_S = 10.0
MINUTE_S = 60
# A day's minutes; of each as many models as are used in it, all together at most CELLS_MAX.
MINUTES_KEPT = 24 * 60
CELLS_MAX = 20_000


class Rates:
    """Differences of two counters, looked at now and then: by whoever shows them, at least every few seconds.

    Who looks after a long pause sees 0 at first: of what happened meanwhile it is not known when.
    """

    __slots__ = ("_seen", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0  # that ended
        self.tokens = 0  # that were written for them
        self._seen: deque[tuple[float, int, int]] = deque()

    def count(self, tokens: int) -> None:
        """One request has ended."""
        self.requests += 1
        self.tokens += tokens

    def per_s(self, now_s: float) -> tuple[float, float]:
        """Requests and tokens per second, over WINDOW_S or since the first look."""
        seen = self._seen
        while len(seen) > 1 and seen[1][0] <= now_s - WINDOW_S:  # one that is older stays, to measure from
            seen.popleft()
        if seen and seen[0][0] < now_s - 2 * WINDOW_S:
            seen.clear()
        if not seen or seen[-1][0] < now_s:
            seen.append((now_s, self.requests, self.tokens))
        first_s, requests, tokens = seen[0]
        span_s = now_s - first_s
        if span_s <= 0:
            return 0.0, 0.0
        return (self.requests - requests) / span_s, (self.tokens - tokens) / span_s


class Minutes:
    """How many requests began in each minute, by model; the oldest minutes are forgotten."""

    __slots__ = ("_cells", "_counts", "_minute", "_now")

    def __init__(self) -> None:
        self._minute = -1  # since the epoch
        self._now: dict[str, int] = {}
        self._counts: deque[tuple[int, dict[str, int]]] = deque()
        self._cells = 0

    def count(self, at_us: int, model: str) -> None:
        """One request for this model."""
        minute = at_us // 60_000_000
        if minute > self._minute:
            self._turn(minute)
        now = self._now  # one that began earlier and ends now, and a clock set back, count in the present minute
        if model in now:
            now[model] += 1
        else:
            now[model] = 1
            self._cells += 1

    def _turn(self, minute: int) -> None:
        self._minute = minute
        self._now = {}
        counts = self._counts
        counts.append((minute, self._now))
        while counts and (counts[0][0] <= minute - MINUTES_KEPT or (self._cells > CELLS_MAX and len(counts) > 1)):
            self._cells -= len(counts.popleft()[1])

    def since(self, from_s: float) -> Iterator[tuple[int, str, int]]:
        """(beginning of the minute in seconds since the epoch, model, count), oldest first."""
        for minute, models in self._counts:
            if (minute + 1) * MINUTE_S > from_s:
                for model, count in models.items():
                    yield minute * MINUTE_S, model, count
