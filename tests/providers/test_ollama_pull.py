"""Ollama fetches and deletes models."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import pytest

from providers.contract import Pulling
from providers.errors import (
    ProviderError,
    PullFailed,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from providers.ndjson import LINE_MAX_BYTES, read_lines
from providers.ollama_wire import PullLine, PullProgress
from tests.fakes.lies import endless, html, silent
from tests.fakes.ollama import FakeModel
from tests.fakes.upstream import CUT, Exchange
from tests.providers.ollamas import MB, connected, provider_to
from tests.providers.wire import CHUNKED, chunk, request

LLAMA = "llama3.2:1b"
ON_BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
FROM_HUB = "hf.co/x/y:Q4"


T = TypeVar("T")


async def into(taken: list[T], items: AsyncIterator[T]) -> list[T]:
    """Also what came before an error."""
    async for item in items:
        taken.append(item)
    return taken


async def pulled(steps: AsyncIterator[Pulling]) -> list[Pulling]:
    return await into([], steps)


@pytest.mark.parametrize("name", [LLAMA, FROM_HUB])
async def test_a_pull_tells_its_progress_summed_over_the_layers(name: str) -> None:
    """T47, P23: in Ollama's words, ends when the model is there, asks for the very name."""
    async with connected(fake={"registry": [FakeModel(name, size_bytes=4 * MB)]}) as it:
        steps = await pulled(it.provider.pull(name))
        assert [step.stage.partition(" ")[0] for step in steps] == [
            *["pulling"] * 5,
            "verifying",
            "writing",
            "success",
        ]
        assert [(step.done_bytes, step.total_bytes) for step in steps] == [
            (0, 0),
            (0, 4 * MB),
            (2 * MB, 4 * MB),
            (4 * MB, 4 * MB),
            *[(4 * MB + 100, 4 * MB + 100)] * 4,
        ]
        assert it.ollama.requests[0].json() == {"model": name, "stream": True}
        assert [offer.name for offer in await it.provider.catalogue()] == [name]


@ON_BOTH_LOOPS
async def test_progress_is_told_as_it_comes() -> None:
    """Not after the end; and a caller that leaves cuts the connection, so that Ollama stops."""
    async with connected(fake={"registry": [FakeModel(LLAMA)]}) as it:
        it.ollama.pulling.clear()
        async with contextlib.aclosing(it.provider.pull(LLAMA)) as steps:
            assert (await anext(steps)).stage == "pulling manifest"
            assert it.ollama.in_flight == 1
        await it.settled()
        assert (it.ollama.aborted, it.ollama.open_connections) == (1, 0)
        assert LLAMA not in it.ollama.models


@ON_BOTH_LOOPS
async def test_a_cancelled_pull_leaves_nothing_behind() -> None:
    """No connection and no task."""
    async with connected(fake={"registry": [FakeModel(LLAMA)]}) as it:
        it.ollama.pulling.clear()
        before = asyncio.all_tasks()
        pull = asyncio.create_task(pulled(it.provider.pull(LLAMA)))
        await it.ollama.until(lambda: it.ollama.in_flight == 1)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await it.settled()
        assert it.ollama.open_connections == 0
        assert asyncio.all_tasks() <= before


async def test_a_pull_that_ollama_gives_up_has_its_words() -> None:
    """A line of its own in an answer that began well; and an error status."""
    async with connected() as it:
        with pytest.raises(PullFailed, match="could not fetch nosuch: pull model manifest: file does not exist"):
            await pulled(it.provider.pull("nosuch"))
        with pytest.raises(PullFailed, match="model is required"):
            await pulled(it.provider.pull(""))
        await it.settled()


@pytest.mark.parametrize("status", [401, 500])
async def test_a_pull_refused_at_once(status: int) -> None:
    """By a proxy that wants a key, or by Ollama; the body may be anything."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(status, b"<h1>no</h1>")

    async with connected() as it:
        it.ollama.lies["/api/pull"] = refuse
        with pytest.raises(UpstreamKeyRefused if status == 401 else PullFailed, match=f"status {status}"):
            await pulled(it.provider.pull(LLAMA))
        await it.settled()


@pytest.mark.parametrize("lines", [[], [{"status": "pulling manifest"}, {"status": "pulling a", "digest": "a"}]])
async def test_an_end_without_success_is_a_failure(lines: list[Mapping[str, Any]]) -> None:
    """Ollama ended, or a proxy's patience."""
    async with connected() as it:
        it.ollama.pull_lines = [*lines, {}]
        with pytest.raises(PullFailed, match="broke off while fetching"):
            await pulled(it.provider.pull(LLAMA))


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b"<html>\n<body>\n", UpstreamBroke, "web page"),
        (b'{"status": ["a"]}\n', UpstreamBroke, "API's JSON"),
        (b'{"status": "pulling", "digest": "a", "total": -5}\n', UpstreamBroke, "API's JSON"),
        (b'{"status": "pull', UpstreamBroke, "API's JSON"),
        (b"\xff\xfe\n", UpstreamBroke, "API's JSON"),
        (b"[" * (LINE_MAX_BYTES + 1), UpstreamBroke, "line of more than"),
        (b"[" * (LINE_MAX_BYTES + 1) + b"\n", UpstreamBroke, "line of more than"),
    ],
)
async def test_what_is_no_progress_is_one_clear_error(said: bytes, error: type[ProviderError], words: str) -> None:
    """Another server's page, another API's JSON, half a line, a line without end."""
    async with connected() as it:
        it.ollama.queue(CHUNKED + chunk(said) + b"0\r\n\r\n")
        with pytest.raises(error, match=words):
            await pulled(it.provider.pull(LLAMA))
        await it.settled()


@pytest.mark.parametrize("liar", [html, endless])
async def test_a_lying_pull_ends(liar: Any) -> None:
    """Within a bound of bytes."""
    async with connected() as it:
        it.ollama.lies["/api/pull"] = liar
        with pytest.raises(UpstreamBroke):
            await pulled(it.provider.pull(LLAMA))
        await it.settled()


@ON_BOTH_LOOPS
async def test_a_pull_that_is_cut_off_is_told() -> None:
    """After the steps that did come."""
    async with connected() as it:
        it.ollama.queue(CHUNKED + chunk(b'{"status": "pulling manifest"}\n{"status": "x"}\n'), CUT)
        steps: list[Pulling] = []
        with pytest.raises(UpstreamBroke):
            await into(steps, it.provider.pull(LLAMA))
        assert [step.stage for step in steps] == ["pulling manifest", "x"]


async def test_a_pull_from_nobody(dead_port: int) -> None:
    """Nothing was sent."""
    with pytest.raises(UpstreamUnreachable):
        await pulled(provider_to(f"http://127.0.0.1:{dead_port}").pull(LLAMA))


def test_progress_without_end_is_refused() -> None:
    """A model has no thousands of layers; and counts do not go back where Ollama leaves them out."""
    progress = PullProgress("ollama", LLAMA)
    progress.take(PullLine(status="pulling a", digest="a", total=10, completed=10))
    assert progress.take(PullLine(status="pulling a", digest="a")) == Pulling(
        stage="pulling a", done_bytes=10, total_bytes=10
    )
    lines = (PullLine(status="pulling", digest=str(number)) for number in range(66_000))
    with pytest.raises(UpstreamBroke, match="without end"):
        deque(map(progress.take, lines), maxlen=0)


def test_only_verifying_may_be_silent_for_long() -> None:
    """Ollama reads the whole file again then, and says nothing."""
    progress = PullProgress("ollama", LLAMA)
    progress.take(PullLine(status="pulling a"))
    assert not progress.hashing
    progress.take(PullLine(status="verifying sha256 digest"))
    assert progress.hashing


# --- lines


@ON_BOTH_LOOPS
async def test_silence_between_two_lines_has_a_limit() -> None:
    """Asked anew before each line."""
    limits = [5.0, 0.05]
    async with connected() as it:
        hold = asyncio.Event()
        it.ollama.queue(CHUNKED + chunk(b"one\n"), hold)
        response = await it.provider.send(request())
        lines: list[bytes] = []
        with pytest.raises(UpstreamTimeout, match=r"said nothing for 0\.05 s"):
            await into(lines, read_lines(response, source="ollama", silence_s=lambda: limits[len(lines)]))
        response.close()
        assert lines == [b"one"]


@ON_BOTH_LOOPS
async def test_lines_come_whole_however_they_were_cut() -> None:
    """A line in pieces, several in one, empty ones, Windows' ends, a last one without its end; more than wait at once."""
    many = b"".join(b"%d\n" % number for number in range(100))
    async with connected() as it:
        it.ollama.queue(
            CHUNKED + chunk(b"a"),
            *(chunk(piece) for piece in (b"b", b"c\nd\n\n \r\n", many, b"la")),
            chunk(b"st") + b"0\r\n\r\n",
        )
        response = await it.provider.send(request())
        lines = [line async for line in read_lines(response, source="ollama", silence_s=lambda: 5.0)]
        response.close()
        assert lines == [b"abc", b"d", *(b"%d" % number for number in range(100)), b"last"]


@ON_BOTH_LOOPS
async def test_a_slow_reader_slows_the_upstream_down() -> None:
    """What waits for it does not grow."""
    written = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal written
        await exchange.start_stream()
        while True:
            await exchange.chunk((b"x" * 1023 + b"\n") * 64)
            written += 65536
            await asyncio.sleep(0)

    async with connected() as it:
        it.ollama.queue_handler(flood)
        response = await it.provider.send(request())
        async with contextlib.aclosing(read_lines(response, source="ollama", silence_s=lambda: 5.0)) as lines:
            await anext(lines)
            seen = [-1, -2]
            await it.ollama.until(lambda: (seen.append(written), seen[-1] == seen[-2] == seen[-3] > 0)[1])
            assert written < 64 * MB
            await anext(lines)
        response.close()
        await it.settled()


# --- deleting


async def test_delete_takes_a_model_from_the_disk_and_from_memory() -> None:
    """By its exact name; what had no file any more could not be told to go."""
    async with connected(FakeModel(LLAMA), FakeModel("llama3.2")) as it:
        it.ollama.load_behind("llama3.2")
        await it.provider.delete("llama3.2")
        assert (list(it.ollama.models), it.ollama.loaded) == ([LLAMA], {})
        sent = it.ollama.requests[-1]
        assert (sent.method, sent.json()) == ("DELETE", {"model": "llama3.2:latest"})


async def test_delete_of_what_is_not_there_is_refused() -> None:
    """With Ollama's words."""
    async with connected() as it:
        with pytest.raises(UpstreamRefused, match="model 'a:latest' not found") as caught:
            await it.provider.delete("a")
        assert caught.value.status == 404


async def test_delete_answered_by_another_server(dead_port: int) -> None:
    """A page, a redirection, nobody, or no answer (cancelled, it leaves no connection behind)."""

    async def moved(exchange: Exchange) -> None:
        await exchange.answer(302, b"", {"location": "/login"})

    async with connected(FakeModel(LLAMA)) as it:
        for liar in (html, moved):
            it.ollama.lies["/api/delete"] = liar
            with pytest.raises(UpstreamBroke, match="base_url"):
                await it.provider.delete(LLAMA)
        it.ollama.lies["/api/delete"] = silent
        waiting = asyncio.create_task(it.provider.delete(LLAMA))
        await it.ollama.until(lambda: it.ollama.asked("/api/delete") == 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await it.settled()
    with pytest.raises(UpstreamUnreachable):
        await provider_to(f"http://127.0.0.1:{dead_port}").delete(LLAMA)
