"""OpenRouter behind a real socket: its catalogue, the filter, and the catalogue kept for bad times."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers import REMOTES
from providers.contract import Banker, Offer, Provider
from providers.errors import (
    ProviderError,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnreachable,
)
from providers.openrouter import OpenRouterProvider, api_base
from providers.price_filter import Settings, affordable, free
from tests.fakes.openrouter import KEY, FakeOpenRouter, Refusal, entry
from tests.fakes.upstream import CUT, HOLD
from tests.providers.router import ENTRIES, EVERYTHING, Setup, connected, made

# --- what it is


def test_it_is_a_kind_of_its_own(tmp_path: Path) -> None:
    """Known to the gateway, a banker, without a loader; only suffixes that may follow any name are variants."""
    assert REMOTES["openrouter"] is OpenRouterProvider
    provider: Provider = made("http://127.0.0.1:1", tmp_path)
    assert isinstance(provider, Banker)
    assert (provider.kind, provider.loader, provider.server, provider.routes, provider.tagged) == (
        "openrouter",
        None,
        None,
        None,
        False,
    )
    assert provider.variants == {":nitro", ":floor", ":exacto", ":online"}


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("https://openrouter.ai", "https://openrouter.ai/api"),
        ("https://openrouter.ai/", "https://openrouter.ai/api"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api"),
        ("http://127.0.0.1:9/as/openrouter/api/v1", "http://127.0.0.1:9/as/openrouter/api"),
        ("http://proxy.example/router", "http://proxy.example/router"),
        ("http://proxy.example/v1", "http://proxy.example"),
    ],
)
def test_the_path_is_never_doubled(written: str, base: str) -> None:
    """However much of it the operator wrote."""
    assert api_base(written) == base


async def test_every_way_to_write_the_address_reaches_the_same_place(tmp_path: Path) -> None:
    """/api/v1/models each time."""
    async with FakeOpenRouter(ENTRIES) as router:
        for base_url in (router.upstream.base_url, f"{router.upstream.base_url}/api", router.base_url):
            provider = made(base_url, tmp_path)
            assert len(await provider.catalogue()) == 3
            await provider.aclose()
        assert router.asked("/api/v1/models") == 3


# --- the catalogue and its filter


async def test_the_catalogue_is_filtered_by_default(tmp_path: Path) -> None:
    """Free ones first, unknown prices out; with what is known of each."""
    async with connected(tmp_path) as it:
        assert await it.names() == ["a/free:free", "a/dear", "a/cheap"]
        dear = (await it.provider.catalogue())[1]
        assert dear.price is not None
        assert (dear.price.completion, dear.context_length, dear.capabilities) == (Decimal("0.00003"), 8192, ("chat",))
        assert it.router.upstream.requests[0].path == "/api/v1/models?output_modalities=all"


async def test_the_filter_changes_at_run_time_without_a_download(tmp_path: Path) -> None:
    """The next catalogue is made of what is at hand; the one after it asks again."""
    async with connected(tmp_path) as it:
        await it.provider.catalogue()
        it.provider.set_filter(Settings(show_free_only=True))
        assert it.provider.filter == Settings(show_free_only=True)
        assert await it.names() == ["a/free:free"]
        it.provider.set_filter(EVERYTHING)
        assert await it.names() == ["a/dear", "a/free:free", "openrouter/auto", "a/cheap"]
        it.provider.set_filter(Settings(max_cost_per_token=Decimal("0.000001")))
        assert await it.names() == ["a/free:free", "a/cheap"]
        assert it.router.asked("/api/v1/models") == 1
        await it.provider.catalogue()
        assert it.router.asked("/api/v1/models") == 2


async def test_setting_the_same_filter_again_changes_nothing(tmp_path: Path) -> None:
    """And before there is a catalogue, the next one is asked for."""
    async with connected(tmp_path) as it:
        it.provider.set_filter(Settings(show_free_only=True))
        assert await it.names() == ["a/free:free"]
        it.provider.set_filter(Settings(show_free_only=True))
        await it.provider.catalogue()
        assert it.router.asked("/api/v1/models") == 2


async def test_free_and_affordable_look_past_the_filter(tmp_path: Path) -> None:
    """`listed` is all there is."""
    async with connected(tmp_path) as it:
        assert it.provider.listed == ()
        it.provider.set_filter(Settings(show_free_only=True))
        await it.provider.catalogue()
        assert [offer.name for offer in free(it.provider.listed)] == ["a/free:free"]
        assert [offer.name for offer in affordable(it.provider.listed, Decimal("0.000001"))] == [
            "a/free:free",
            "a/cheap",
        ]


async def test_settings_come_from_configuration_and_environment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A variable that makes no sense is said in the log."""
    environ = {"OPENROUTER_SHOW_FREE_ONLY": "yes", "OPENROUTER_MAX_COST_PER_TOKEN": "cheap"}
    async with connected(tmp_path, environ=environ, prefer_free_models=False) as it:
        assert it.provider.filter == Settings(show_free_only=True, prefer_free_models=False)
        assert await it.names() == ["a/free:free"]
    assert "OPENROUTER_MAX_COST_PER_TOKEN" in caplog.text


async def test_the_operator_s_price_stands_in_for_one_that_is_unknown(tmp_path: Path) -> None:
    """Never for one that OpenRouter tells; the filter goes by it."""
    prices = {
        name: {"prompt": Decimal("0.000001"), "completion": Decimal("0.000002")}
        for name in ("openrouter/auto", "a/dear")
    }
    async with connected(tmp_path, prices=prices) as it:
        offers = {offer.name: offer for offer in await it.provider.catalogue()}
        auto, dear = offers["openrouter/auto"].price, offers["a/dear"].price
        assert auto is not None
        assert dear is not None
        assert (auto.completion, dear.completion) == (Decimal("0.000002"), Decimal("0.00003"))


async def test_configured_models_are_the_only_ones_in_their_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The filter holds for them, too, and what it hides is said once."""
    models = ("a/cheap:nitro", "a/dear", "@preset/mine", "a/free:free")
    async with connected(tmp_path, models=models, prefer_free_models=False) as it:
        assert await it.names() == list(models)
        it.provider.set_filter(Settings())
        for _ in range(3):
            assert await it.names() == ["a/free:free", "a/cheap:nitro", "a/dear"]
    assert [record.getMessage() for record in caplog.records] == [
        "openrouter: configured, but hidden by its price filter: @preset/mine"
    ]


async def test_broken_entries_are_left_out_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They take nobody along; said again only when their number changes."""
    async with connected(tmp_path, [entry("a"), {"id": 3}, None, entry("b")]) as it:
        for _ in range(3):
            assert await it.names() == ["a", "b"]
        assert len(caplog.records) == 1
        assert "2 of its catalogue's entries" in caplog.text
        it.router.entries.append(7)
        await it.provider.catalogue()
        assert len(caplog.records) == 2


async def test_a_catalogue_in_pages_is_read_to_its_end(tmp_path: Path) -> None:
    """As its API pages long lists."""
    async with connected(tmp_path, [entry(f"m/{n}") for n in range(25)], page=10) as it:
        assert await it.names() == [f"m/{n}" for n in range(25)]
        paths = [request.path for request in it.router.upstream.requests]
        assert paths[1:] == ["/api/v1/models?offset=10&limit=10", "/api/v1/models?offset=20&limit=10"]


async def test_pages_without_end_are_not_followed_for_ever(tmp_path: Path) -> None:
    """An upstream that always has one more."""
    async with connected(tmp_path, [entry("a")] * 1000, page=1) as it:
        assert await it.names() == ["a"]
        assert it.router.asked("/api/v1/models") == 20


# --- when it is down


async def fails_when_refusing(it: Setup) -> None:
    it.router.refusal = Refusal(503, "maintenance")


async def fails_when_gone(it: Setup) -> None:
    await it.router.upstream.stop()


async def fails_with_a_web_page(it: Setup) -> None:
    it.router.upstream.queue(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<html>no</html>", early=True
    )


async def fails_when_cut_off(it: Setup) -> None:
    it.router.upstream.queue(b'HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"data":[', CUT)


async def fails_with_other_entries(it: Setup) -> None:
    it.router.entries = [{"name": "no id"}, 5]


FAILURES = [
    (fails_when_refusing, UpstreamRefused),
    (fails_when_gone, UpstreamUnreachable),
    (fails_with_a_web_page, UpstreamBroke),
    (fails_when_cut_off, UpstreamBroke),
    (fails_with_other_entries, UpstreamBroke),
]


@pytest.mark.parametrize(("fail", "error"), FAILURES)
async def test_without_a_kept_catalogue_the_failure_is_told(
    tmp_path: Path, fail: Any, error: type[ProviderError]
) -> None:
    """Each its own error, none with our key in it."""
    async with connected(tmp_path) as it:
        await fail(it)
        with pytest.raises(error) as raised:
            await it.provider.catalogue()
        assert KEY not in f"{raised.value} {raised.value.detail}"
        assert (it.provider.stale, it.provider.cached_age_s) == (False, None)
        await it.settled()


@pytest.mark.parametrize(("fail", "error"), FAILURES)
async def test_the_last_catalogue_stands_in(
    tmp_path: Path, fail: Any, error: type[ProviderError], caplog: pytest.LogCaptureFixture
) -> None:
    """With its age and the reason, said once; the filter works on it; and the next good answer ends it."""
    async with connected(tmp_path) as it:
        expected = await it.provider.catalogue()
        entries = it.router.entries
        it.clock.now_s += 90
        await fail(it)
        assert await it.provider.catalogue() == expected
        assert (it.provider.stale, it.provider.cached_age_s) == (True, 90)
        assert isinstance(it.provider.trouble, error)
        it.provider.set_filter(Settings(show_free_only=True))
        assert await it.names() == ["a/free:free"]
        assert it.provider.stale
        if fail is fails_when_gone:
            await it.router.upstream.__aenter__()
        it.router.refusal, it.router.entries = None, entries
        assert await it.names() == ["a/free:free"]
        assert (it.provider.stale, it.provider.cached_age_s) == (False, None)
    assert len(caplog.records) == 1
    assert "its last catalogue is used" in caplog.text


async def test_after_a_restart_the_catalogue_comes_from_disk(tmp_path: Path) -> None:
    """With the operator's filter and prices of today."""
    async with connected(tmp_path) as it:
        await it.provider.catalogue()
        await it.router.upstream.stop()
        it.clock.now_s += 3600
        prices = {"openrouter/auto": {"prompt": Decimal(0), "completion": Decimal(0)}}
        later = made(it.router.base_url, tmp_path, clock=it.clock, prices=prices)
        assert [offer.name for offer in await later.catalogue()] == [
            "a/free:free",
            "openrouter/auto",
            "a/dear",
            "a/cheap",
        ]
        assert (later.stale, later.cached_age_s) == (True, 3600)
        await later.aclose()


async def test_a_clock_set_back_gives_no_age_below_zero(tmp_path: Path) -> None:
    """The age is for people."""
    async with connected(tmp_path) as it:
        await it.provider.catalogue()
        it.router.refusal = Refusal(503, "down")
        it.clock.now_s -= 500
        await it.provider.catalogue()
        assert it.provider.cached_age_s == 0


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_never_hidden_behind_an_old_catalogue(tmp_path: Path, status: int) -> None:
    """The operator must see it: nothing that is listed would work."""
    async with connected(tmp_path) as it:
        await it.provider.catalogue()
        it.router.refusal = Refusal(status, "User not found.")
        with pytest.raises(UpstreamKeyRefused, match=r"providers\.openrouter\.api_key"):
            await it.provider.catalogue()


async def test_a_corrupt_file_is_no_catalogue_and_is_replaced(tmp_path: Path) -> None:
    """It neither hides the failure nor stays."""
    async with connected(tmp_path) as it:
        path = tmp_path / "catalogues" / "openrouter.json"
        path.parent.mkdir()
        path.write_bytes(b'{"version":1,')
        it.router.refusal = Refusal(503, "down")
        with pytest.raises(UpstreamRefused):
            await it.provider.catalogue()
        it.router.refusal = None
        await it.provider.catalogue()
        assert path.read_bytes().startswith(b'{"version":1,"source":"http')
        assert KEY.encode() not in path.read_bytes()


async def test_an_empty_catalogue_is_shown_but_not_kept(tmp_path: Path) -> None:
    """True or not, it is of no use when the upstream is down."""
    async with connected(tmp_path, []) as it:
        assert await it.provider.catalogue() == []
        assert not (tmp_path / "catalogues").exists()


async def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The catalogue works all the same."""
    (tmp_path / "catalogues").write_text("a file where our folder should be")
    async with connected(tmp_path) as it:
        for _ in range(2):
            assert len(await it.provider.catalogue()) == 3
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
        assert "cannot be kept" in caplog.text
        it.router.refusal = Refusal(503, "down")
        assert len(await it.provider.catalogue()) == 3
        assert it.provider.stale


async def test_a_catalogue_that_nobody_waits_for_any_more_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled while the upstream is silent: the connection is cut, the next question works."""
    async with connected(tmp_path) as it:
        it.router.upstream.queue(HOLD)
        asking = asyncio.create_task(it.provider.catalogue())
        await it.router.upstream.until(lambda: len(it.router.upstream.requests) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await it.router.upstream.until(lambda: it.router.upstream.aborted == 1)
        assert it.provider.endpoint.in_flight == 0
        assert len(await it.provider.catalogue()) == 3


async def test_offers_are_plain_values(tmp_path: Path) -> None:
    """What comes from the disk equals what came from the wire."""
    async with connected(tmp_path) as it:
        it.provider.set_filter(EVERYTHING)
        fresh = await it.provider.catalogue()
        assert all(isinstance(offer, Offer) for offer in fresh)
        it.router.refusal = Refusal(503, "down")
        later = made(it.router.base_url, tmp_path, prefer_free_models=False)
        assert list(await later.catalogue()) == list(fresh)
        await later.aclose()
