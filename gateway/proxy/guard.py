"""The door to one provider: how many may be in at once, whether it rests, and what each exchange tells of its health.

The law: who is turned away has sent nothing; whatever ends an exchange, its place is free and its outcome counted; a caller that
leaves says nothing about the provider. Engines of ours have no such door: residency knows whether they live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.routing.health import Health, Outcome
from providers.contract import Response
from providers.errors import (
    ProviderError,
    UpstreamBusy,
    UpstreamCoolingDown,
    UpstreamKeyRefused,
    UpstreamRefused,
)

from .headers import first, retry_after_s

# What another target may mend, and what says that this one did nothing: our key or our money is refused, the model is not there,
# it is over its limits or out of order. 400, 413, 422 and their like are the caller's own, and would be so elsewhere.
MOVE_ON = frozenset((401, 402, 403, 404, 408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))
# What says that the provider, or what stands before it, is out of order. A 500 is often one model's or one request's.
_OUT_OF_ORDER = frozenset((502, 503, 504, 520, 521, 522, 523, 524, 529))
_ASKS_TO_WAIT = frozenset((429, 503, 529))

Judge = Callable[[Response], None]


class Guard:
    """One provider's door.

    Args:
        max_concurrent: exchanges at once; 0: any number.
        queue_s: how long one waits for a place.
        total_s: how long a whole exchange may take; None: for ever.
        clock: monotonic seconds; `jitter`: a fresh number in [0, 1).
    """

    def __init__(
        self,
        name: str,
        health: Health,
        *,
        max_concurrent: int,
        queue_s: float,
        total_s: float | None,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.name = name
        self.health = health
        self.total_s = total_s
        self.waiting = 0
        self._queue_s = queue_s
        self._places = asyncio.Semaphore(max_concurrent) if max_concurrent else None
        self._clock = clock
        self._jitter = jitter

    def resting_s(self, target: str) -> float:
        """0.0: it may be asked now; else in how many seconds."""
        return self.health.wait_s(self._clock(), target)

    async def exchange(self, target: str, forward: Callable[[Judge], Awaitable[None]], *, more: bool) -> None:
        """One exchange through this door.

        Args:
            forward: does it; calls the judge with the answer as soon as its header fields are there.
            more: another target comes after this one: a refusal that it may mend is raised in place of being passed on.
        Raises: UpstreamCoolingDown, UpstreamBusy: nothing was sent. UpstreamRefused, UpstreamKeyRefused: the judge's word.
            Whatever `forward` raises.
        """
        rest_s = self.resting_s(target)
        if rest_s > 0:
            raise UpstreamCoolingDown(self._why_not(), source=self.name, retry_after_s=rest_s)
        if self._places is None:
            await self._exchange(target, forward, more)
            return
        await self._take_place(self._places)
        try:
            await self._exchange(target, forward, more)
        finally:
            self._places.release()

    async def _take_place(self, places: asyncio.Semaphore) -> None:
        if not places.locked():
            await places.acquire()  # at once: a timer would cost more than all else here
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(self._queue_s):
                await places.acquire()
        except TimeoutError:
            raise UpstreamBusy(
                f"{self.name}: all its places (providers.{self.name}.max_concurrent) stayed taken for {self._queue_s:g} s",
                source=self.name,
                retry_after_s=1.0,
            ) from None
        finally:
            self.waiting -= 1

    async def _exchange(self, target: str, forward: Callable[[Judge], Awaitable[None]], more: bool) -> None:
        exchange = _Exchange(self.name, self.health, self._clock, target, more)
        trial = self.health.begin(exchange.started_s)
        try:
            await forward(exchange.judge)
        except (UpstreamKeyRefused, UpstreamRefused) as error:  # the judge has said how that counts
            exchange.reason = error.message
            raise
        except ProviderError as error:
            exchange.outcome, exchange.reason = Outcome.FAILED, error.message
            raise
        finally:
            self.health.ended(
                exchange.outcome,
                self._clock(),
                exchange.first_s,
                self._jitter(),
                trial=trial,
                reason=exchange.reason,
            )

    def _why_not(self) -> str:
        return f"{self.name} is not asked for a moment: {self.health.reason or 'it asked to wait'}"


class _Exchange:
    """What one exchange says of its provider."""

    __slots__ = ("_clock", "_health", "_more", "_name", "_target", "first_s", "outcome", "reason", "started_s")

    def __init__(self, name: str, health: Health, clock: Callable[[], float], target: str, more: bool) -> None:
        self._name = name
        self._health = health
        self._clock = clock
        self._target = target
        self._more = more
        self.started_s = clock()
        self.first_s: float | None = None
        self.outcome: Outcome = Outcome.LEFT
        self.reason = ""

    def judge(self, response: Response) -> None:
        """Four cases: 1 an answer, 2 a page where an answer should be, 3 our key is refused, 4 a refusal, that moves on or passes.

        Raises: UpstreamRefused, UpstreamKeyRefused.
        """
        self.first_s = self._clock() - self.started_s
        status = response.status
        if status < 400:
            if _is_page(response.headers):  # 2
                self.outcome = Outcome.FAILED
                raise self._refused("a web page instead of its API: is base_url right?", 502)
            self.outcome = Outcome.GOOD  # 1
            self._health.answered(self._clock())
            return
        self._count(status, response)
        if status == 401:  # 3
            raise UpstreamKeyRefused(
                f"{self._name} does not take our key (status 401): set providers.{self._name}.api_key",
                source=self._name,
            )
        if self._more and status in MOVE_ON:  # 4
            raise self._refused(f"status {status}", status)

    def _count(self, status: int, response: Response) -> None:
        self.outcome = Outcome.FAILED if status in _OUT_OF_ORDER else Outcome.REFUSED
        self.reason = f"status {status}"
        if status in _ASKS_TO_WAIT and (wait_s := retry_after_s(response.headers)) is not None:
            self.outcome = Outcome.REFUSED  # it lives, and says when
            self._health.asked_to_wait(self._target, self._clock(), wait_s)

    def _refused(self, what: str, status: int) -> UpstreamRefused:
        return UpstreamRefused(f"{self._name} answered with {what}", source=self._name, status=status, body=b"")


def _is_page(headers: list[tuple[bytes, bytes]]) -> bool:
    """A captive portal, a proxy's error page, an address that is not an API's."""
    kind = first(headers, b"content-type")
    return kind is not None and kind.lstrip()[:9].lower() == b"text/html"
