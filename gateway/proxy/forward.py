"""One attempt at one target: send, and hand the answer on as it comes.

The law: bytes pass unchanged, unless they are translated or hold a usage that only we have asked for; the first byte of the answer
commits; until then a failure raises and the caller gets a real HTTP error. A stream that ends without its last word is an error,
never a finished answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from gateway.dialects import talk
from gateway.dialects.spoken import Spoken, said_again
from gateway.dialects.sse import TooLong
from gateway.dialects.translation import JSON, Translation
from gateway.metering.usage import Usage, usage_of_body
from providers.contract import Request, Response
from providers.errors import ProviderError, UpstreamBroke, UpstreamRefused

from .client import NOTHING, Client, Headers
from .headers import first, to_caller
from .meter import LONG_BYTES, SHORT_BYTES, Meter
from .sse import first_error, is_stream, status_of, whole_error

# An answer of this size or less is read whole before its first byte is handed on, so that an upstream breaking off in the
# middle is a 502 and not a cut connection. Longer ones pass through piece by piece.
HELD_MAX_BYTES = 1 << 20
# Only a whole answer can be translated. The largest hold pictures.
TRANSLATED_MAX_BYTES = 64 << 20
# After `[DONE]` the upstream may end its body for so long, which keeps its connection; one that does not is not waited for.
DONE_LINGER_S = 1.0
LAST_WORD_BYTES = 12
_NO_BODY = frozenset((204, 304))
_DENIAL_MAX_BYTES = 200
_STATUS_MAX = 599  # RFC 9110 §15
# How an upstream says that it does not know a path or a parameter.
_MAY_EXCUSE = frozenset((400, 404, 405, 422, 501))

SendUpstream = Callable[[Request], Awaitable[Response]]


class Passage(msgspec.Struct, frozen=True):
    """What there is to do with an answer on its way.

    Args:
        source: the provider's name.
        spoken: in whose words the caller is answered.
        hide_usage: the stream's usage is ours only.
        translation: None: the bytes pass as they are.
        excuse: of a refusal (status, body) that another way of asking may mend; what it returns is raised.
    """

    source: str
    spoken: Spoken = Spoken.OPENAI
    hide_usage: bool = False
    translation: Translation | None = None
    excuse: Callable[[int, bytes], Exception | None] | None = None


async def forward(
    send: SendUpstream,
    request: Request,
    client: Client,
    passage: Passage,
    judge: Callable[[Response], None] | None = None,
) -> None:
    """Returns when the caller has the whole answer.

    Args:
        judge: sees the answer before any of it is handed on, and may raise.
    Raises: what `judge` and `excuse` raise; ProviderError; `client.committed`: whether a byte of the answer was handed on.
    """
    sent_s = client.now_s()
    try:
        response = await send(request)
    except BaseException:
        client.was_upstream(sent_s)
        raise
    try:
        if passage.excuse is not None and (response.status in _MAY_EXCUSE or _may_deny(response)):
            await client.hush()
            refusal = passage.excuse(response.status, await response.read(TRANSLATED_MAX_BYTES))
            if refusal is not None:
                raise refusal
        if judge is not None:
            judge(response)
        if response.status > _STATUS_MAX:
            raise UpstreamBroke(
                f"{passage.source} answered with a status that is none: {response.status}", source=passage.source
            )
        fields, stream = _passed(response)
        if stream and response.status == 200:
            if passage.translation is not None and not passage.translation.stream:
                raise UpstreamBroke(f"{passage.source} answered with a stream, unasked", source=passage.source)
            await _stream(response, client, passage, fields)
            return
        if client.speaks():
            await client.hush()  # what follows is no stream, or a whole answer turned into one
        if passage.translation is not None and response.status == 200:
            await _translated(response, client, passage, passage.translation, fields)
        elif client.started:
            await _refuse_in_stream(response, passage.source)
        elif passage.translation is not None:
            if response.status < 400:
                raise UpstreamBroke(
                    f"{passage.source} answered with status {response.status}, which cannot be translated",
                    source=passage.source,
                )
            body = await response.read(TRANSLATED_MAX_BYTES)
            await client.answer(response.status, _as(JSON, fields), said_again(body, passage.spoken))
        elif (body := response.whole()) is not None:
            await _whole(response, client, fields, body)
        else:
            await _plain(response, client, fields)
    finally:
        response.close()
        client.was_upstream(sent_s)


class _Passed(NamedTuple):
    """What an upstream's header fields come to. `fields`: those that the caller may see."""

    fields: Headers
    stream: bool


_PASSED = object()


def _passed(response: Response) -> _Passed:
    made = response.made
    known: _Passed | None = None if made is None else made.get(_PASSED)
    if known is None:
        known = _Passed(to_caller(response.headers), is_stream(first(response.headers, b"content-type")))
        if made is not None:
            # a tuple is written out once, see `Direct`
            known = made[_PASSED] = _Passed(tuple(known.fields), known.stream)
    return known


def _may_deny(response: Response) -> bool:
    """LM Studio says with status 200 that it has no such path, in some 70 bytes."""
    if response.status != 200:
        return False
    length = first(response.headers, b"content-length")
    return length is not None and len(length) <= 3 and int(length) <= _DENIAL_MAX_BYTES


async def _stream(response: Response, client: Client, passage: Passage, headers: Headers) -> None:
    source, translation = passage.source, passage.translation
    opened = client.started
    meter = Meter(hide=passage.hide_usage, window=SHORT_BYTES if passage.spoken is Spoken.OPENAI else LONG_BYTES)
    feed = meter.feed if translation is None else translation.feed
    if translation is not None:
        headers = _as(translation.stream_type, headers)

    async def begin(data: bytes) -> None:
        if translation is None and (refused := first_error(data)) is not None:
            status, body = refused
            raise UpstreamRefused(f"{source} began with an error", source=source, status=status, body=body)
        await client.start_stream(headers)
        await client.write(data)

    async def give_up(data: bytes) -> None:
        if data:
            await client.write(data)
        assert translation is not None
        translation.end()

    def close_if_done() -> None:
        if client.done:
            response.close()

    def sink(data: bytes) -> Awaitable[None]:
        nonlocal opened
        if data[-LAST_WORD_BYTES:].rstrip().endswith(b"[DONE]"):
            asyncio.get_running_loop().call_later(DONE_LINGER_S, close_if_done)
        data = feed(data)
        if translation is not None and translation.trouble is not None:
            return give_up(data)
        if not data:
            return NOTHING
        if opened:
            return client.write(data)
        opened = True
        return begin(data)

    try:
        await response.pump(sink)
        if translation is not None:
            if not client.done:  # some end without a blank line after their last word
                await sink(b"\n\n")
            translation.end()
    except talk.SaidError as error:
        raise _said(error, source) from None
    except (talk.Unreadable, TooLong) as error:
        raise _unreadable(error, source) from None
    except ProviderError:
        # others cut the connection after their last word, or were not waited for
        if not client.done or passage.spoken is Spoken.PLAIN:
            if client.started and (rest := meter.end()):
                await client.write(rest)
            raise
    finally:
        client.usage = meter.usage if translation is None else _counted(translation.usage)
    if translation is None and client.started and (rest := meter.end()):
        await client.write(rest)
    if not client.done:
        raise UpstreamBroke(
            "the stream ended before it was finished", source=source, nothing_received=not client.committed
        )
    await client.start_stream(headers)  # of a stream that has no last word, and nothing else either
    await client.end()


def _said(error: talk.SaidError, source: str) -> UpstreamRefused:
    body = msgspec.json.encode({"error": error.error})
    return UpstreamRefused(f"{source} said an error", source=source, status=status_of(error.error), body=body)


def _unreadable(error: Exception, source: str) -> UpstreamBroke:
    return UpstreamBroke(
        f"{source} answered with something that cannot be translated: it is not what its API says",
        source=source,
        detail=str(error),
    )


def _counted(told: talk.Usage | None) -> Usage | None:
    if told is None:
        return None
    return Usage(
        prompt=told.input,
        completion=told.output,
        cached=told.cached,
        written=told.written,
        reasoning=told.reasoning,
    )


async def _refuse_in_stream(response: Response, source: str) -> None:
    body = await response.read(HELD_MAX_BYTES)
    raise UpstreamRefused(
        f"{source} answered with status {response.status} instead of a stream",
        source=source,
        status=response.status,
        body=body,
    )


async def _translated(
    response: Response, client: Client, passage: Passage, translation: Translation, headers: Headers
) -> None:
    """A whole answer. Some upstreams give one where a stream was asked for."""
    body = await response.read(TRANSLATED_MAX_BYTES)
    try:
        said = translation.whole_as_stream(body) if translation.stream else translation.whole(body)
    except talk.Unreadable as error:
        if (refused := whole_error(body)) is not None:
            raise UpstreamRefused(
                f"{passage.source} said an error", source=passage.source, status=refused[0], body=refused[1]
            ) from None
        raise _unreadable(error, passage.source) from None
    client.usage = _counted(translation.usage)
    if not translation.stream:
        await client.answer(200, _as(JSON, headers), said)
        return
    await client.start_stream(_as(translation.stream_type, headers))
    await client.write(said)
    await client.end()


def _as(content_type: bytes, headers: Headers) -> list[tuple[bytes, bytes]]:
    """The same fields with another content type; what described the upstream's own bytes is gone."""
    kept = [field for field in headers if field[0] not in (b"content-type", b"content-encoding", b"etag")]
    return [(b"content-type", content_type), *kept]


def _whole(response: Response, client: Client, headers: Headers, body: bytes) -> Awaitable[None]:
    if response.status < 400:
        client.usage = usage_of_body(body)
    return client.answer(response.status, headers, body)


async def _plain(response: Response, client: Client, headers: Headers) -> None:
    length = first(response.headers, b"content-length")
    if response.status in _NO_BODY or (length is not None and int(length) <= HELD_MAX_BYTES):
        await _whole(response, client, headers, await response.read(HELD_MAX_BYTES))
        return
    started = False

    async def begin(data: bytes) -> None:
        await client.start(response.status, headers if length is None else [*headers, (b"content-length", length)])
        await client.write(data)

    def sink(data: bytes) -> Awaitable[None]:
        nonlocal started
        if started:
            return client.write(data)
        started = True
        return begin(data)

    await response.pump(sink)
    if not started:
        await client.answer(response.status, headers, b"")
        return
    client.usage = usage_of_body(client.said_last)
    await client.end()
