"""What is sent to OpenRouter and what comes back: whose key and name, plain answers, streams, refusals; and our account."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from config.forms import Secret
from providers.contract import Account, Request
from providers.errors import (
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamTimeout,
)
from providers.openrouter import OpenRouterProvider
from tests.fakes.openrouter import KEY, Refusal, error_event, usual_stream, word_event
from tests.fakes.upstream import CUT, HOLD
from tests.providers.router import connected


def chat(*, stream: bool = False) -> Request:
    body = b'{"model":"a/b","messages":[],"stream":%s}' % (b"true" if stream else b"false")
    headers = [(b"content-type", b"application/json")]
    return Request(method=b"POST", path=b"/v1/chat/completions", headers=headers, body=body, first_byte_s=5, idle_s=5)


async def pumped(provider: OpenRouterProvider) -> list[bytes]:
    pieces: list[bytes] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    response = await provider.send(chat(stream=True))
    try:
        await response.pump(sink)
    finally:
        response.close()
    return pieces


# --- who we say we are


async def test_requests_carry_our_key_and_name(tmp_path: Path) -> None:
    """Both names of the title field, as OpenRouter takes both; no address of ours is invented."""
    async with connected(tmp_path) as it:
        await it.provider.catalogue()
        (asked,) = it.router.upstream.requests
        assert asked.header("authorization") == f"Bearer {KEY}"
        assert (asked.header("x-title"), asked.header("x-openrouter-title")) == ("Roundhouse", "Roundhouse")
        assert asked.header("http-referer") is None


@pytest.mark.parametrize("field", ["X-Title", "X-OpenRouter-Title"])
async def test_the_operator_s_own_attribution_wins(tmp_path: Path, field: str) -> None:
    """Under whichever name it is written, ours stays away entirely."""
    headers = {field: Secret("Mine"), "HTTP-Referer": Secret("https://mine.example")}
    async with connected(tmp_path, headers=headers) as it:
        await it.provider.catalogue()
        (asked,) = it.router.upstream.requests
        titles = [value for name, value in asked.headers if name in ("x-title", "x-openrouter-title")]
        assert (titles, asked.header("http-referer")) == (["Mine"], "https://mine.example")


async def test_without_a_key_the_catalogue_works_and_the_rest_is_refused(tmp_path: Path) -> None:
    """The catalogue is public; what is sent gets OpenRouter's own refusal."""
    async with connected(tmp_path, key=None) as it:
        assert len(await it.provider.catalogue()) == 3
        assert it.router.upstream.requests[0].header("authorization") is None
        response = await it.provider.send(chat())
        assert (response.status, b"No auth credentials" in await response.read(1000)) == (401, True)
        response.close()
        with pytest.raises(UpstreamKeyRefused, match="api_key"):
            await it.provider.account()


# --- our key


async def test_the_account_is_exact(tmp_path: Path) -> None:
    """From GET /api/v1/key."""
    async with connected(tmp_path) as it:
        assert await it.provider.account() == Account(
            label="production",
            usage_usd=Decimal("0.1015644762"),
            limit_usd=Decimal(5),
            remaining_usd=Decimal("4.8984355238"),
            free_tier=False,
        )
        it.router.key_info = {"usage": "NaN"}
        with pytest.raises(UpstreamBroke, match="nonsense"):
            await it.provider.account()


# --- what is sent


async def test_a_plain_answer_passes_as_it_is(tmp_path: Path) -> None:
    """At /api/v1/chat/completions, with OpenRouter's own fields untouched both ways."""
    async with connected(tmp_path) as it:
        body = b'{"model":"a/b","models":["c/d"],"provider":{"order":["x"]},"messages":[]}'
        response = await it.provider.send(
            Request(method=b"POST", path=b"/v1/chat/completions", headers=[], body=body, first_byte_s=5, idle_s=5)
        )
        answer = await response.read(10_000)
        response.close()
        asked = it.router.upstream.requests[0]
        assert (asked.path, asked.body) == ("/api/v1/chat/completions", body)
        assert b'"content": "Hello there"' in answer


async def test_a_stream_comes_without_its_comments(tmp_path: Path) -> None:
    """Events in their order and bytes; the pieces of comments alone call nobody."""
    async with connected(tmp_path) as it:
        pieces = await pumped(it.provider)
        events = [chunk.removeprefix(b": OPENROUTER PROCESSING\n\n") for chunk in usual_stream()]
        assert b"".join(pieces) == b"".join(events)
        assert pieces[0].startswith(b"data:")
        await it.settled()
        assert it.provider.endpoint.idle == 1


async def test_a_comment_cut_between_two_pieces_goes_and_events_do_not_wait_for_it(tmp_path: Path) -> None:
    """The first word is out while the upstream is in the middle of a comment."""
    gate = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    async with connected(tmp_path) as it:
        it.router.upstream.queue(
            head + word_event("one") + b": OPENROUTER PRO", gate, b"CESSING\n", b"\n" + word_event("two"), CUT
        )
        seen: list[bytes] = []

        async def sink(piece: bytes) -> None:
            seen.append(piece)

        response = await it.provider.send(chat(stream=True))
        pumping = asyncio.create_task(response.pump(sink))
        await it.router.upstream.until(lambda: bool(seen))
        assert seen == [word_event("one")]
        gate.set()
        await pumping
        response.close()
        assert b"".join(seen) == word_event("one") + word_event("two")


async def test_an_error_in_the_stream_passes_like_any_event(tmp_path: Path) -> None:
    """What is made of it is the gateway's matter."""
    async with connected(tmp_path) as it:
        it.router.stream = [word_event("one"), b": OPENROUTER PROCESSING\n\n" + error_event()]
        assert b"".join(await pumped(it.provider)) == word_event("one") + error_event()


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(402, "Insufficient credits"),
        Refusal(429, "Rate limited", {"retry-after": "7"}),
        Refusal(502, "Provider returned error"),
    ],
    ids=lambda refusal: str(refusal.status),
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_pass_with_status_words_and_retry_after(tmp_path: Path, refusal: Refusal, stream: bool) -> None:
    """An error status is no exception."""
    async with connected(tmp_path) as it:
        it.router.refusal = refusal
        response = await it.provider.send(chat(stream=stream))
        body = await response.read(1000)
        response.close()
        assert (response.status, refusal.message.encode() in body) == (refusal.status, True)
        assert dict(response.headers).get(b"retry-after") == (b"7" if refusal.status == 429 else None)


async def test_leaving_in_the_middle_of_a_stream_cuts_the_upstream(tmp_path: Path) -> None:
    """Cancelled while pumping: nothing is in flight any more on either side."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    async with connected(tmp_path) as it:
        it.router.upstream.queue(head + word_event("one"), HOLD)
        pumping = asyncio.create_task(pumped(it.provider))
        await it.router.upstream.until(lambda: it.router.upstream.in_flight == 1)
        pumping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pumping
        await it.router.upstream.until(lambda: it.router.upstream.aborted == 1)
        assert it.provider.endpoint.in_flight == 0


async def test_silence_in_a_stream_is_a_timeout_even_after_comments(tmp_path: Path) -> None:
    """The clocks are the transport's own, behind the filter as before it."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    async with connected(tmp_path) as it:
        it.router.upstream.queue(head + b": OPENROUTER PROCESSING\n\n", HOLD)
        request = Request(method=b"POST", path=b"/v1/x", headers=[], body=b"{}", first_byte_s=5, idle_s=0.05)
        response = await it.provider.send(request)
        with pytest.raises(UpstreamTimeout):
            await response.read(1000)
        response.close()
