"""What every provider offers, asked in the background: each at its own pace, each one's failure its own.

The law: nothing here loads a model. A provider that fails keeps what it offered before, and is asked again after a growing pause;
the request that names an unknown model has the near ones asked again at once, so that a model pulled a moment ago is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from providers.contract import Cached, Offer, Provider
from providers.errors import ProviderError, UpstreamBroke, UpstreamKeyRefused, UpstreamRefused

from .catalog import Listing
from .health import Health

log = logging.getLogger("roundhouse.providers")

NEAR_EVERY_S = 10.0  # a server in reach: what was pulled or deleted there is seen soon, at a millisecond a look
FAR_EVERY_S = 300.0  # an API elsewhere: its catalogue changes a few times a day
# The first pause after a failure, doubled with each further one; jittered, so that many gateways do not knock in step.
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0
AGAIN_AFTER_S = 2.0  # on account of unknown names a provider is asked no more often than this
SETTLE_S = 5.0  # how long a request for an unknown name waits for the first word of those that were never asked
AGAIN_WITHIN_S = 2.0  # … and for the next word of the near ones


class Shelf(msgspec.Struct):
    """One provider's offers, and how the last asking went."""

    provider: Provider
    every_s: float
    near: bool
    discovered: bool  # nobody asked for it by name or by key: not shown until it has answered
    written: bool  # the operator has written its models down: nobody is asked, so nothing is learned of its health
    offers: Sequence[Offer] = ()
    asked: int = 0
    answered: int = 0
    failures: int = 0  # in a row
    error: str = ""
    at_s: float = 0.0  # the last asking's end
    seconds: float = 0.0  # how long the last successful one took

    @property
    def shown(self) -> bool:
        return self.answered > 0 or not self.discovered


class Listings:
    """Runs for the life of the gateway.

    Args:
        shelves: by provider name, in the configured order.
        health: by provider name; an asking is a probe, too.
        changed: called after offers have changed.
        clock: monotonic seconds.
        jitter: a fresh number in [0, 1).
    """

    def __init__(
        self,
        shelves: Mapping[str, Shelf],
        health: Mapping[str, Health],
        changed: Callable[[], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.shelves = shelves
        self._health = health
        self._changed = changed
        self._clock = clock
        self._jitter = jitter
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._wakers = {name: asyncio.Event() for name in shelves}

    def listings(self) -> list[Listing]:
        """For the catalogue, in the configured order."""
        return [
            Listing(name, shelf.offers, shelf.provider.tagged, shelf.provider.variants)
            for name, shelf in self.shelves.items()
            if shelf.offers
        ]

    async def run(self) -> None:
        """For ever; on being cancelled no asking is left."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in self.shelves:
                    group.create_task(self._follow(name), name=f"list {name}")
        finally:
            for asking in self._asking.values():
                asking.cancel()

    async def _follow(self, name: str) -> None:
        while True:
            await self.ask(name)
            shelf, waker = self.shelves[name], self._wakers[name]
            waker.clear()
            try:
                async with asyncio.timeout(self._pause_s(shelf)):
                    await waker.wait()
            except TimeoutError:
                pass

    def _pause_s(self, shelf: Shelf) -> float:
        if not shelf.failures:
            return shelf.every_s * (0.9 + 0.2 * self._jitter())
        if shelf.near and shelf.discovered and not shelf.answered:
            return NEAR_EVERY_S  # a port of this machine at which nobody listens costs nothing
        pause_s = min(RETRY_FIRST_S * 2.0 ** min(shelf.failures - 1, 10), RETRY_MAX_S)
        return pause_s * (0.75 + 0.5 * self._jitter())

    def nudge(self, name: str) -> None:
        """Have it asked soon, unless that was done a moment ago."""
        shelf = self.shelves.get(name)
        if shelf is not None and self._clock() - shelf.at_s >= AGAIN_AFTER_S:
            self._wakers[name].set()

    async def ask(self, name: str) -> None:
        """Ask one provider now; who asks while that is under way shares it. Never raises ProviderError."""
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._ask(name), name=f"ask {name}")
            asking.add_done_callback(lambda _: self._asking.pop(name, None))
        await asyncio.shield(asking)

    async def _ask(self, name: str) -> None:
        shelf = self.shelves[name]
        started_s = self._clock()
        try:
            offers = await shelf.provider.catalogue()
        except (UpstreamKeyRefused, UpstreamRefused, UpstreamBroke) as error:
            self._failed(name, shelf, error.message, lives=True)
        except ProviderError as error:
            self._failed(name, shelf, error.message)
        except Exception as error:  # named boundary: one provider's bug must not end the others' refreshing
            log.exception("asking %s for its catalogue failed in an unforeseen way", name)
            self._failed(name, shelf, f"{name}: its catalogue could not be read ({type(error).__name__})")
        else:
            shelf.seconds = self._clock() - started_s
            first = shelf.answered == 0
            trouble = shelf.provider.trouble if isinstance(shelf.provider, Cached) else None
            if trouble is not None:  # what it gave is its last catalogue, kept
                self._failed(name, shelf, trouble.message)
            else:
                self._answered(name, shelf, len(offers))
            if first or list(offers) != list(shelf.offers):
                shelf.offers = offers
                self._changed()
        finally:
            shelf.asked += 1
            shelf.at_s = self._clock()

    def _answered(self, name: str, shelf: Shelf, count: int) -> None:
        if shelf.answered == 0 and shelf.discovered:
            log.info("found %s: %d models", name, count)
        elif shelf.error:
            log.info("%s answers again: %d models", name, count)
        shelf.failures, shelf.error = 0, ""
        shelf.answered += 1
        if not shelf.written:
            self._health[name].probed(None, self._clock(), shelf.seconds, self._jitter())

    def _failed(self, name: str, shelf: Shelf, words: str, *, lives: bool = False) -> None:
        """`lives`: it did answer, so requests may well be served."""
        if shelf.error != words and shelf.shown:
            log.warning("%s", words)
        shelf.failures += 1
        shelf.error = words
        self._health[name].probed(words, self._clock(), None, self._jitter(), lives=lives)

    # ------------------------------------------------------------ for those who cannot wait

    async def settle(self, within_s: float, names: Iterable[str] | None = None) -> None:
        """Return once every provider (or these) has been asked once, or the time is over."""
        waiting = [
            self.ask(name) for name in (self.shelves if names is None else names) if not self.shelves[name].asked
        ]
        await _bounded(waiting, within_s)

    async def look_again(self) -> None:
        """For the sake of a name nobody knows: have those asked that may know it by now. Bounded, and not too often."""
        await self.settle(SETTLE_S)
        now_s = self._clock()
        due = [name for name, shelf in self.shelves.items() if shelf.near and now_s - shelf.at_s >= AGAIN_AFTER_S]
        await _bounded([self.ask(name) for name in due], AGAIN_WITHIN_S)


async def _bounded(asking: Sequence[Coroutine[Any, Any, None]], within_s: float) -> None:
    """All of them, or as many as are done in time; those that are not go on by themselves."""
    if not asking:
        return
    try:
        async with asyncio.timeout(within_s):
            await asyncio.gather(*asking)
    except TimeoutError:
        pass
