"""An Ollama that is slow, lying or something else; and where its process is found."""

from __future__ import annotations

import asyncio
import sys

import psutil
import pytest

from config.forms import Secret
from providers.errors import (
    LoadFailed,
    ProviderError,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
)
from tests.fakes.lies import endless, html, server_error, silent, truncated, wrong_shape
from tests.fakes.ollama import FakeModel, seconds_of
from tests.fakes.processes import ROOT
from tests.fakes.upstream import Exchange, Handler
from tests.providers.ollamas import connected, provider_to

LLAMA = "llama3.2:1b"
LIES = [
    (html, UpstreamBroke, "web page instead of JSON: is base_url right"),
    (truncated, UpstreamBroke, "something else than its API's JSON"),
    (wrong_shape, UpstreamBroke, "something else than its API's JSON"),
    (server_error, UpstreamRefused, "status 500: something went wrong"),
    (endless, UpstreamBroke, "more than 16777216 bytes"),
]


@pytest.mark.parametrize(("liar", "error", "words"), LIES)
@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
async def test_a_lying_ollama_is_one_clear_error(
    path: str, liar: Handler, error: type[ProviderError], words: str
) -> None:
    """For the catalogue and for what is held; nothing stays behind and the truth is taken again."""
    async with connected(FakeModel(LLAMA)) as it:
        it.ollama.lies[path] = liar
        with pytest.raises(error, match=words):
            await (it.provider.catalogue() if path == "/api/tags" else it.provider.held())
        await it.settled()
        it.ollama.lies.clear()
        assert (await it.provider.catalogue(), await it.provider.held())[1] == []


async def test_an_empty_ollama_is_no_lie() -> None:
    """Go writes an empty list as null; an object without the list is another API."""

    async def nothing(exchange: Exchange) -> None:
        await exchange.answer(200, {"models": None})

    async def other(exchange: Exchange) -> None:
        await exchange.answer(200, {"object": "list", "data": []})

    async with connected() as it:
        it.ollama.lies = {"/api/tags": nothing, "/api/ps": nothing}
        assert (await it.provider.catalogue(), await it.provider.held()) == ([], [])
        it.ollama.lies = {"/api/tags": other}
        with pytest.raises(UpstreamBroke):
            await it.provider.catalogue()


@pytest.mark.parametrize("liar", [html, truncated, server_error])
async def test_a_model_that_is_not_described_is_listed_all_the_same(liar: Handler) -> None:
    """Without details; they are asked for again the next time."""
    async with connected(FakeModel(LLAMA)) as it:
        it.ollama.lies["/api/show"] = liar
        offer = (await it.provider.catalogue())[0]
        assert (offer.name, offer.capabilities, offer.context_length) == (LLAMA, (), None)
        assert (offer.size_bytes, offer.family) == (1_000_000, "llama")
        it.ollama.lies.clear()
        assert (await it.provider.catalogue())[0].context_length == 8192


@pytest.mark.parametrize(
    "info",
    [
        None,
        {},
        {"general.architecture": 7},
        {"general.architecture": "llama", "llama.context_length": "long"},
        {"general.architecture": "llama", "llama.context_length": -1},
    ],
)
async def test_a_strange_context_length_is_unknown(info: object) -> None:
    """Neither guessed nor an error."""

    async def show(exchange: Exchange) -> None:
        await exchange.answer(200, {"model_info": info, "capabilities": ["completion", "levitation"]})

    async with connected(FakeModel(LLAMA, modified_at="yesterday")) as it:
        it.ollama.lies["/api/show"] = show
        offer = (await it.provider.catalogue())[0]
        assert (offer.context_length, offer.capabilities, offer.created) == (None, ("chat", "completion"), 0)


async def test_no_more_than_four_models_are_asked_for_at_once() -> None:
    """Each makes Ollama read a file."""
    gate, most = asyncio.Event(), 0

    async def slow(exchange: Exchange) -> None:
        nonlocal most
        most = max(most, it.ollama.in_flight)
        await gate.wait()
        await exchange.answer(200, {})

    async with connected(*(FakeModel(f"m:{number}") for number in range(9))) as it:
        it.ollama.lies["/api/show"] = slow
        reading = asyncio.create_task(it.provider.catalogue())
        await it.ollama.until(lambda: it.ollama.asked("/api/show") == 4)
        gate.set()
        assert len(await reading) == 9
        assert (most, it.ollama.asked("/api/show")) == (4, 9)


@pytest.mark.parametrize("path", ["/api/tags", "/api/show", "/api/ps"])
async def test_a_cancelled_look_leaves_no_connection_behind(path: str) -> None:
    """Wherever it was."""
    async with connected(FakeModel(LLAMA)) as it:
        it.ollama.lies[path] = silent
        looking = asyncio.create_task(it.provider.held() if path == "/api/ps" else it.provider.catalogue())
        await it.ollama.until(lambda: it.ollama.asked(path) == 1)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        await it.settled()


async def test_a_silent_ollama_is_given_up_within_two_seconds() -> None:
    """What it holds is asked every second."""
    async with connected() as it:
        it.ollama.lies["/api/ps"] = silent
        with pytest.raises(UpstreamTimeout, match="within 2 s"):
            await it.provider.held()
        await it.settled()


@pytest.mark.parametrize(
    ("liar", "words"),
    [
        (html, "web page"),
        (truncated, "API's JSON"),
        (wrong_shape, "API's JSON"),
        (server_error, "something went wrong"),
        (endless, "more than 16777216"),
    ],
)
async def test_a_lying_load_fails(liar: Handler, words: str) -> None:
    """Whatever the lie, the load is not believed."""
    async with connected(FakeModel(LLAMA)) as it:
        it.ollama.lies["/api/generate"] = liar
        with pytest.raises(LoadFailed, match=words):
            await it.load(LLAMA)
        await it.settled()


async def test_a_load_whose_success_cannot_be_seen_is_taken_back() -> None:
    """Ollama says it has loaded, and then does not say what it holds."""
    async with connected(FakeModel(LLAMA)) as it:
        it.ollama.lies["/api/ps"] = server_error
        with pytest.raises(LoadFailed, match="does not say what it holds"):
            await it.load(LLAMA)
        assert (it.ollama.counts.loads, it.ollama.loaded) == ([LLAMA], {})


@pytest.mark.parametrize("path", ["/api/generate", "/api/ps"])
async def test_a_stop_that_is_lied_to_is_not_believed(path: str) -> None:
    """It raises, and may be tried again."""
    async with connected(FakeModel(LLAMA)) as it:
        engine = await it.load(LLAMA)
        it.ollama.lies[path] = server_error
        with pytest.raises(UpstreamRefused):
            await engine.stop()
        it.ollama.lies.clear()
        await engine.stop()
        assert it.ollama.loaded == {}


async def test_the_key_goes_to_ollama_and_into_no_error() -> None:
    """For one behind a proxy that wants it."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(401, {"error": "unauthorized"})

    async with connected(FakeModel(LLAMA), api_key=Secret("sk-of-ours")) as it:
        await it.provider.catalogue()
        assert {one.header("authorization") for one in it.ollama.requests} == {"Bearer sk-of-ours"}
        it.ollama.lies = {"/api/tags": refuse, "/api/generate": refuse}
        with pytest.raises(UpstreamKeyRefused, match="api_key") as refused:
            await it.provider.catalogue()
        with pytest.raises(LoadFailed, match="api_key") as failed:
            await it.load(LLAMA)
        said = (
            f"{refused.value!r} {refused.value.detail} {failed.value!r} {failed.value.detail} {it.provider.endpoint!r}"
        )
        assert "sk-of-ours" not in said


# --- where it runs


async def test_the_process_that_listens_is_found() -> None:
    """The fake as a process of its own, which also serves; not for a server elsewhere, or one with memory of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.ollama",
        "--models",
        f"{LLAMA}=5000,b",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(await process.stdout.readline())}"
        provider = provider_to(url)
        assert await asyncio.to_thread(provider.root_pid) == process.pid
        assert [(offer.name, offer.size_bytes) for offer in await provider.catalogue()] == [
            (LLAMA, 5000),
            ("b:latest", 1_000_000),
        ]
        assert provider_to(url, memory=10).root_pid() is None
        assert provider_to(url.replace("127.0.0.1", "192.0.2.1")).root_pid() is None
        await provider.aclose()
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_nobody_is_no_process(dead_port: int) -> None:
    """And this process itself is not taken for the server's."""
    assert provider_to(f"http://127.0.0.1:{dead_port}").root_pid() is None
    async with connected() as it:
        found = it.provider.root_pid()
        assert found is None or psutil.Process(found).name() == "ollama"


# --- the fake


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [(None, None), (0, 0.0), (2.5, 2.5), ("10m", 600.0), ("1h30m", 5400.0), ("500ms", 0.5), ("0s", 0.0)],
)
def test_the_fake_reads_keep_alives_as_go_does(keep_alive: object, seconds: float | None) -> None:
    """Numbers are seconds; negative ones, written either way, mean for ever."""
    assert seconds_of(keep_alive) == seconds
    assert seconds_of(-1) == seconds_of("-1m")


async def test_the_fakes_models_run_out_and_are_pushed_out() -> None:
    """By the clock that the test holds, and by its limit of loaded models; a chat loads what is not loaded."""
    clock = [1e9]
    async with connected(FakeModel("a"), FakeModel("b"), fake={"clock": lambda: clock[0], "max_loaded": 1}) as it:
        it.ollama.load_behind("a", keep_s=60)
        clock[0] += 59
        assert [held.name for held in await it.provider.held()] == ["a:latest"]
        clock[0] += 1
        assert await it.provider.held() == []
        await it.load("a")
        await it.load("b")
        assert it.ollama.counts.unloads == ["a:latest", "a:latest"]
        assert [held.name for held in await it.provider.held()] == ["b:latest"]
