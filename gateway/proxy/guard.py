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

from .headers import retry_after_s

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
        clock, health = self._clock, self.health
        started_s = clock()
        outcome: Outcome = Outcome.LEFT
        reason = ""
        first_s: float | None = None

        def judge(response: Response) -> None:
            nonlocal outcome, first_s, reason
            first_s = clock() - started_s
            status = response.status
            if status < 400:
                outcome = Outcome.GOOD
                health.answered(clock())
                return
            outcome = Outcome.FAILED if status in _OUT_OF_ORDER else Outcome.REFUSED
            reason = f"status {status}"
            if status in _ASKS_TO_WAIT and (wait_s := retry_after_s(response.headers)) is not None:
                outcome = Outcome.REFUSED  # it lives, and says when
                health.asked_to_wait(target, clock(), wait_s)
            if status == 401:
                raise UpstreamKeyRefused(
                    f"{self.name} does not take our key (status 401): set providers.{self.name}.api_key",
                    source=self.name,
                )
            if more and status in MOVE_ON:
                raise UpstreamRefused(
                    f"{self.name} answered with status {status}", source=self.name, status=status, body=b""
                )

        trial = health.begin(started_s)
        try:
            await forward(judge)
        except (UpstreamKeyRefused, UpstreamRefused) as error:  # the judge has said whether that was a failure
            reason = error.message
            raise
        except ProviderError as error:
            outcome, reason = Outcome.FAILED, error.message
            raise
        finally:
            health.ended(outcome, clock(), first_s, self._jitter(), trial=trial, reason=reason)

    def _why_not(self) -> str:
        return f"{self.name} is not asked for a moment: {self.health.reason or 'it asked to wait'}"
