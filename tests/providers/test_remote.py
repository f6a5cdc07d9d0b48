"""What every remote kind builds on: calls for facts that fail in words of their own, and keys that are shown to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.forms import Secret
from config.schema import ProviderConfig
from providers.errors import (
    ProviderError,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from providers.pricing import Price
from providers.remote import ANSWER_MAX_BYTES, Remote, bearer, words_of
from tests.fakes.upstream import CUT, HOLD, RESET, AnswerStep, FakeUpstream
from tests.providers.wire import CHUNKED, OK, chunk

KEY = "sk-very-secret"


class Facts(msgspec.Struct):
    """What the calls here ask for."""

    answer: int


@asynccontextmanager
async def remote(upstream: FakeUpstream | None = None, **options: Any) -> AsyncGenerator[Remote]:
    url = options.pop("base_url", upstream.base_url if upstream else "")
    config = ProviderConfig(kind="openai", base_url=url, api_key=Secret(KEY), **options)
    built = Remote("mine", config, headers=bearer(config))
    try:
        yield built
    finally:
        await built.aclose()
        assert (built.endpoint.in_flight, built.endpoint.idle) == (0, 0)


def answer(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


async def failure(it: Remote, kind: type[ProviderError], **options: Any) -> ProviderError:
    """How the call fails. It names us as its source, and shows our key nowhere."""
    with pytest.raises(kind) as caught:
        await it.ask("GET", "/v1/facts", Facts, **options)
    error = caught.value
    assert error.source == "mine"
    for text in (error.message, error.detail, repr(error), repr(it), repr(it.endpoint)):
        assert KEY not in text
    assert it.endpoint.in_flight == 0
    return error


# --- calls that succeed


async def test_ask_gives_the_shape_when_the_upstream_answers() -> None:
    """With our key and what we accept; unknown fields are passed over; the connection is kept."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(answer(b'{"answer": 42, "more": []}'))
        assert await it.ask("GET", "/v1/facts?x=1", Facts) == Facts(42)
        [seen] = upstream.requests
        assert (seen.method, seen.path, seen.body) == ("GET", "/v1/facts?x=1", b"")
        assert (seen.header("accept"), seen.header("content-type")) == ("application/json", None)
        assert seen.header("authorization") == f"Bearer {KEY}"
        assert it.endpoint.idle == 1


async def test_ask_sends_json_when_there_is_a_body() -> None:
    """With the fields of this call beside it."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(answer(b'{"answer": 1}'))
        await it.ask("POST", "/v1/facts", Facts, {"name": "ä"}, headers=((b"x-mark", b"1"),))
        [seen] = upstream.requests
        assert (seen.json(), seen.header("content-type"), seen.header("x-mark")) == (
            {"name": "ä"},
            "application/json",
            "1",
        )


async def test_operators_headers_win_when_they_name_the_same_field() -> None:
    """Whatever the case of their letters: a company's gateway may want another Authorization."""
    headers = {"Authorization": Secret("Custom x"), "X-Team": Secret("blue")}
    async with FakeUpstream() as upstream, remote(upstream, headers=headers) as it:
        upstream.queue(answer(b'{"answer": 1}'))
        await it.ask("GET", "/v1/facts", Facts, headers=((b"x-team", b"red"),))
        [seen] = upstream.requests
        for name, value in (("authorization", "Custom x"), ("x-team", "blue")):
            assert [text for key, text in seen.headers if key == name] == [value]


async def test_prices_are_exact_when_the_operator_wrote_them() -> None:
    """As decimals, digit for digit."""
    prices = {"m": {"prompt": Decimal("0.00000025"), "completion": Decimal("1E-6")}}
    async with remote(base_url="http://127.0.0.1:9", prices=prices) as it:
        assert it.prices == {"m": Price(prompt=Decimal("0.00000025"), completion=Decimal("0.000001"))}


# --- calls that fail


async def test_ask_fails_when_nothing_listens(dead_port: int) -> None:
    """Nothing was sent."""
    async with remote(base_url=f"http://127.0.0.1:{dead_port}") as it:
        assert "nothing listens at its address" in (await failure(it, UpstreamUnreachable)).message


@pytest.mark.parametrize(
    "steps",
    [(HOLD,), (OK, HOLD), (OK + b"content-length: 9\r\n\r\n{", HOLD), (CHUNKED + chunk(b"{"), HOLD)],
    ids=["mute", "amid the head", "amid the body", "amid the chunks"],
)
async def test_ask_gives_up_when_the_upstream_is_slow(steps: tuple[AnswerStep, ...]) -> None:
    """One clock over the whole call; the connection is cut."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(*steps)
        error = await failure(it, UpstreamTimeout, within_s=0.05)
        assert error.message == "mine did not answer GET /v1/facts within 0.05 s"
        await upstream.until(lambda: upstream.open_connections == 0)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            (answer(b"<!doctype html><p>Hi", kind=b"text/html; charset=utf-8"),),
            "a web page instead of JSON: is base_url",
        ),
        ((answer(b"\n <html></html>", kind=b"application/json"),), "a web page instead of JSON: is base_url right?"),
        ((answer(b'{"answer": 4'),), "something else than its API's JSON"),
        ((answer(b""),), "something else than its API's JSON"),
        ((answer(b'{"answer": "many"}'),), "something else than its API's JSON"),
        ((answer(b'{"models": []}'),), "something else than its API's JSON"),
        ((answer(b'{"answer": "\xff\xfe"}'),), "something else than its API's JSON"),
        ((answer(b'{"more": ' + b"[" * 100_000),), "something else than its API's JSON"),
        ((answer(b'{"answer": 1}', b"302 Found"),), "with status 302: is base_url right?"),
        ((answer(b'{"answer": 1}', b"304 Not Modified"),), "with status 304: is base_url right?"),
        ((OK + b"content-length: 99\r\n\r\n{", CUT), "broke off in the middle of its answer"),
        ((CHUNKED + chunk(b"{"), RESET), "broke off in the middle of its answer"),
        ((CUT,), "closed the connection without an answer"),
        ((b"SSH-2.0-OpenSSH_9.6\r\n",), "is not HTTP/1.1"),
        ((OK + b"x: y\r\n" * 20_000,), "KiB of header fields"),
    ],
)
async def test_ask_says_what_came_when_it_is_no_answer(steps: tuple[AnswerStep, ...], words: str) -> None:
    """A web page, half of it, another API, no HTTP, a head without end: the upstream broke, in words of its own."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(*steps)
        assert words in (await failure(it, UpstreamBroke)).message


async def test_ask_stops_reading_when_the_body_has_no_end() -> None:
    """At a limit, long before memory is full; the connection is cut."""

    async def pour(exchange: Any) -> None:
        await exchange.body()
        await exchange.write(CHUNKED)
        piece = chunk(b" " * (1 << 20))
        while True:
            await exchange.write(piece)
            await asyncio.sleep(0)  # to a peer that has left one can write without ever waiting

    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue_handler(pour)
        assert f"a body of more than {ANSWER_MAX_BYTES} bytes" in (await failure(it, UpstreamBroke)).message
        await upstream.until(lambda: upstream.open_connections == 0)


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_key_is_called_refused_when_the_upstream_says_so(status: bytes) -> None:
    """The operator's key, not the caller's; with the upstream's own words and the key to set."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(answer(b'{"error": {"message": "Incorrect API key"}}', status))
        message = (await failure(it, UpstreamKeyRefused)).message
        number = status[:3].decode()
        assert message == (
            f"mine does not take our key (status {number}): set providers.mine.api_key: Incorrect API key"
        )


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (b"404 Not Found", b'{"error": {"message": "no such path", "type": "x"}}', "with status 404: no such path"),
        (b"500 Oops", b'{"error": "CUDA out\\n of   memory"}', "with status 500: CUDA out of memory"),
        (b"503 Busy", b"<html>Bad gateway</html>", "with status 503"),
        (b"429 Slow", b'{"type": "error", "error": {"type": "rate_limit_error", "message": "wait"}}', "429: wait"),
    ],
)
async def test_refusal_keeps_status_and_words_when_the_upstream_has_some(status: bytes, body: bytes, said: str) -> None:
    """OpenAI's, Ollama's and Anthropic's envelopes, on one line; what is none of them is left out."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(answer(body, status))
        error = await failure(it, UpstreamRefused)
        assert isinstance(error, UpstreamRefused)
        assert error.message.endswith(said)
        assert (error.status, error.body) == (int(status[:3]), body)


async def test_connection_is_cut_when_the_caller_of_ask_leaves() -> None:
    """Nothing of the call is left behind."""
    async with FakeUpstream() as upstream, remote(upstream) as it:
        upstream.queue(HOLD)
        task = asyncio.ensure_future(it.ask("GET", "/v1/facts", Facts))
        await upstream.until(lambda: upstream.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.until(lambda: upstream.open_connections == 0)


# --- what cannot be used at all


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no certificate"),
        (b"not a certificate", "holds no certificate"),
    ],
)
def test_provider_and_file_are_named_when_ca_file_cannot_be_used(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """At the start, not at the first request."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    config = ProviderConfig(kind="openai", base_url="https://u.test", ca_file=str(path))
    with pytest.raises(ValueError, match=words) as caught:
        Remote("mine", config)
    assert str(caught.value).startswith(f"providers.mine: ca_file {path} ")


def test_provider_is_named_when_its_address_cannot_be_used() -> None:
    """By the one line that says what is expected."""
    with pytest.raises(ValueError, match=r"^providers\.mine: base_url is not usable: expected"):
        Remote("mine", ProviderConfig(kind="openai", base_url="ftp://u.test"))


def test_header_is_refused_without_being_shown_when_it_holds_a_line_break() -> None:
    """A key pasted with its line end would smuggle a field in."""
    config = ProviderConfig(kind="openai", base_url="http://u.test", api_key=Secret(f"{KEY}\r\nx: y"))
    with pytest.raises(ValueError, match="line break") as caught:
        Remote("mine", config, headers=bearer(config))
    assert KEY not in str(caught.value)


# --- words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "a\\tb\\n c", "code": 1}}', "a b c"),
        (b'{"error": "plain"}', "plain"),
        (b'{"type": "error", "error": {"type": "x", "message": "theirs"}, "request_id": "r"}', "theirs"),
        (b'{"error": {}}', ""),
        (b'{"error": 7}', ""),
        (b'{"detail": "x"}', ""),
        (b"<html>", ""),
        (b"\xff", ""),
        (b'{"more": ' + b"[" * 100_000, ""),
        (b'{"error": "' + b"x" * 1000 + b'"}', "x" * 200),
    ],
)
def test_words_of_reads_every_envelope_when_there_is_one(body: bytes, words: str) -> None:
    """On one line, not longer than a line; "" for anything else."""
    assert words_of(body) == words


def test_bearer_is_empty_when_there_is_no_key() -> None:
    """A server on this machine needs none."""
    assert bearer(ProviderConfig(kind="openai")) == ()
