"""Catalogues asked in the background: each provider at its own pace, each one's failure its own. On a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from gateway.routing.health import Health, State
from gateway.routing.listings import AGAIN_AFTER_S, FAR_EVERY_S, NEAR_EVERY_S, RETRY_MAX_S, Listings, Shelf
from providers.contract import Loader, Offer, Request, Response, Server
from providers.errors import ProviderError, UpstreamBroke, UpstreamKeyRefused, UpstreamUnreachable
from tests.residency.shell import on_virtual_time, turns

REFUSED = UpstreamUnreachable("nobody listens", source="up")


class Upstream:
    """A provider that offers what it is told to."""

    kind = "fake"
    loader: Loader | None = None
    server: Server | None = None
    routes: frozenset[bytes] | None = None
    tagged = False
    variants: frozenset[str] = frozenset()

    def __init__(self, name: str, *names: str) -> None:
        self.name = name
        self.offered = list(names)
        self.error: Exception | None = None
        self.asked_s: list[float] = []
        self.gate: asyncio.Event | None = None

    async def catalogue(self) -> Sequence[Offer]:
        self.asked_s.append(asyncio.get_running_loop().time())
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [Offer(name=name) for name in self.offered]

    async def send(self, request: Request) -> Response:
        raise AssertionError("nothing is sent")

    async def aclose(self) -> None: ...


class Scene:
    """Two upstreams, near and far, and the listings of both."""

    def __init__(self, *, discovered: bool = False) -> None:
        clock = asyncio.get_running_loop().time
        self.near = Upstream("near", "a", "b")
        self.far = Upstream("far", "x")
        shelves = {
            "near": Shelf(self.near, NEAR_EVERY_S, True, discovered, False),
            "far": Shelf(self.far, FAR_EVERY_S, False, False, False),
        }
        self.health = {name: Health(clock()) for name in shelves}
        self.changes = 0
        self.listings = Listings(shelves, self.health, self.changed, clock, lambda: 0.5)
        self.running = asyncio.ensure_future(self.listings.run())

    def changed(self) -> None:
        self.changes += 1

    def names(self) -> dict[str, list[str]]:
        return {each.provider: [offer.name for offer in each.offers] for each in self.listings.listings()}

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


def scene(story: Callable[[Scene], Awaitable[None]], *, discovered: bool = False) -> None:
    """Run it."""

    @on_virtual_time
    async def scenario() -> None:
        stage = Scene(discovered=discovered)
        await story(stage)
        await stage.close()

    scenario()


def test_every_provider_is_asked_at_its_own_pace() -> None:
    """A near one every ten seconds, a far one every five minutes; nothing is told while nothing changes."""

    async def story(stage: Scene) -> None:
        await asyncio.sleep(95)
        assert len(stage.near.asked_s) == 10
        assert len(stage.far.asked_s) == 1
        assert stage.names() == {"near": ["a", "b"], "far": ["x"]}
        assert stage.changes == 2

    scene(story)


def test_change_is_told_once() -> None:
    """A model more, a model less."""

    async def story(stage: Scene) -> None:
        await turns(10)
        stage.near.offered.append("c")
        await asyncio.sleep(15)
        assert stage.names()["near"] == ["a", "b", "c"]
        stage.near.offered.remove("a")
        await asyncio.sleep(15)
        assert stage.names()["near"] == ["b", "c"]
        assert stage.changes == 4

    scene(story)


def test_failure_keeps_what_was_offered_and_is_retried_with_growing_pauses() -> None:
    """Up to a minute; the other provider does not notice."""

    async def story(stage: Scene) -> None:
        await turns(10)
        stage.near.error = REFUSED
        await asyncio.sleep(400)
        pauses = [later - earlier for earlier, later in zip(stage.near.asked_s, stage.near.asked_s[1:], strict=False)]
        assert pauses[0] == pytest.approx(NEAR_EVERY_S)
        assert pauses[1:7] == pytest.approx([1, 2, 4, 8, 16, 32])
        assert pauses[7] == pytest.approx(RETRY_MAX_S)
        assert stage.names() == {"near": ["a", "b"], "far": ["x"]}
        assert stage.listings.shelves["near"].error == "nobody listens"
        assert stage.health["near"].view(500.0).state is State.DOWN
        assert stage.health["far"].view(500.0).state is State.UP
        stage.near.error = None
        await asyncio.sleep(RETRY_MAX_S + 1)
        assert stage.listings.shelves["near"].error == ""
        assert stage.listings.shelves["near"].failures == 0
        assert len(stage.far.asked_s) == 2

    scene(story)


@pytest.mark.parametrize(
    "error", [UpstreamBroke("a web page", source="near"), UpstreamKeyRefused("no", source="near")], ids=type
)
def test_provider_that_answers_nonsense_lives(error: ProviderError) -> None:
    """Its catalogue cannot be had; requests may well be served."""

    async def story(stage: Scene) -> None:
        stage.near.error = error
        await asyncio.sleep(100)
        assert stage.listings.shelves["near"].error == error.message
        assert stage.health["near"].wait_s(asyncio.get_running_loop().time()) == 0.0

    scene(story)


def test_bug_of_one_provider_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and asked again later."""

    async def story(stage: Scene) -> None:
        stage.near.error = ZeroDivisionError("a bug")
        await asyncio.sleep(20)
        assert len(stage.near.asked_s) > 2
        assert "could not be read (ZeroDivisionError)" in stage.listings.shelves["near"].error
        assert stage.names() == {"far": ["x"]}

    scene(story)
    assert "unforeseen" in caplog.text


def test_discovered_provider_is_shown_once_it_has_answered(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody wrote it down, so that its absence is no trouble; it is looked for again and again."""

    async def story(stage: Scene) -> None:
        stage.near.error = REFUSED
        await asyncio.sleep(35)
        assert not stage.listings.shelves["near"].shown
        assert len(stage.near.asked_s) == 4
        stage.near.error = None
        await asyncio.sleep(NEAR_EVERY_S + 2)
        assert stage.listings.shelves["near"].shown
        stage.near.error = REFUSED
        await asyncio.sleep(NEAR_EVERY_S + 2)
        assert stage.listings.shelves["near"].shown

    scene(story, discovered=True)
    assert caplog.text.count("nobody listens") == 1


def test_start_waits_for_the_first_word_but_not_for_ever() -> None:
    """`settle` returns when all have been asked once, or the time is over; the asking goes on."""

    async def story(stage: Scene) -> None:
        clock = asyncio.get_running_loop().time
        stage.far.gate = asyncio.Event()
        started_s = clock()
        await stage.listings.settle(3.0, ["near"])
        assert clock() == started_s
        await stage.listings.settle(3.0)
        assert clock() - started_s == pytest.approx(3.0)
        stage.far.gate.set()
        await turns(10)
        assert stage.names() == {"near": ["a", "b"], "far": ["x"]}
        assert len(stage.far.asked_s) == 1

    scene(story)


def test_unknown_name_has_near_ones_asked_again() -> None:
    """What was pulled a moment ago is there; but not for every misspelling, and never a far one."""

    async def story(stage: Scene) -> None:
        await asyncio.sleep(AGAIN_AFTER_S)
        stage.near.offered.append("new")
        await stage.listings.look_again()
        assert stage.names()["near"] == ["a", "b", "new"]
        for _ in range(100):
            await stage.listings.look_again()
        assert len(stage.near.asked_s) == 2
        assert len(stage.far.asked_s) == 1

    scene(story)


def test_asking_is_shared_and_outlives_who_asked() -> None:
    """Ten at once are one call; one that leaves does not end it."""

    async def story(stage: Scene) -> None:
        await turns(10)
        stage.near.gate = asyncio.Event()
        asking = [asyncio.ensure_future(stage.listings.ask("near")) for _ in range(10)]
        await turns(5)
        asking[0].cancel()
        await turns(5)
        stage.near.offered = ["c"]
        stage.near.gate.set()
        await asyncio.gather(*asking, return_exceptions=True)
        assert len(stage.near.asked_s) == 2
        assert stage.names()["near"] == ["c"]

    scene(story)


def test_nudge_asks_soon_and_not_too_often() -> None:
    """The watch calls it every second while a server holds a model nobody listed."""

    async def story(stage: Scene) -> None:
        await asyncio.sleep(AGAIN_AFTER_S + 0.1)
        stage.listings.nudge("near")
        stage.listings.nudge("nobody")
        await turns(10)
        assert len(stage.near.asked_s) == 2
        stage.listings.nudge("near")
        await turns(10)
        assert len(stage.near.asked_s) == 2

    scene(story)


class Remembering(Upstream):
    """Its last catalogue stands in while it does not answer."""

    trouble: ProviderError | None = None

    @property
    def stale(self) -> bool:
        return self.trouble is not None

    @property
    def cached_age_s(self) -> float | None:
        return 5.0 if self.stale else None


def test_catalogue_that_was_kept_is_no_sign_of_life() -> None:
    """It is offered, but the provider is shown as failing, and asked again soon."""

    async def story(stage: Scene) -> None:
        keeping = Remembering("near", "a", "b")
        stage.listings.shelves["near"].provider = keeping
        keeping.trouble = REFUSED
        await asyncio.sleep(60)
        assert stage.names()["near"] == ["a", "b"]
        assert stage.listings.shelves["near"].error == "nobody listens"
        assert stage.health["near"].view(asyncio.get_running_loop().time()).state is State.DOWN
        keeping.trouble = None
        await asyncio.sleep(RETRY_MAX_S * 1.5)
        assert stage.listings.shelves["near"].error == ""
        assert stage.health["near"].view(asyncio.get_running_loop().time()).state is State.UP

    scene(story)


def test_end_leaves_nothing_running() -> None:
    """An asking that hangs is cut."""

    async def story(stage: Scene) -> None:
        stage.near.gate = asyncio.Event()
        await turns(10)

    scene(story)  # `on_virtual_time` finds tasks that are left
