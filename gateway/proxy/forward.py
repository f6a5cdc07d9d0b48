"""One attempt at one target: send, and hand the answer on as it comes.

The law: bytes pass unchanged; the first byte of the answer commits; until then a failure raises and the caller gets a real HTTP
error. An event stream that ends without `[DONE]` is an error, never a finished answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from providers.contract import Request, Response
from providers.errors import ProviderError, UpstreamBroke, UpstreamRefused

from .client import Client
from .headers import first, to_caller
from .sse import first_error, is_event_stream

# An answer of this size or less is read whole before its first byte is handed on, so that an upstream breaking off in the
# middle is a 502 and not a cut connection. Longer ones pass through piece by piece.
HELD_MAX_BYTES = 1 << 20
# After `[DONE]` the upstream may end its body for so long, which keeps its connection; one that does not is not waited for.
DONE_LINGER_S = 1.0
LAST_WORD_BYTES = 12
_NO_BODY = frozenset((204, 304))
_STATUS_MAX = 599  # RFC 9110 §15

SendUpstream = Callable[[Request], Awaitable[Response]]


async def forward(
    send: SendUpstream,
    request: Request,
    client: Client,
    source: str,
    judge: Callable[[Response], None] | None = None,
) -> None:
    """Returns when the caller has the whole answer.

    Args:
        judge: sees the answer before any of it is handed on, and may raise.
    Raises: what `judge` raises; ProviderError; `client.committed` tells whether a byte of the answer had been handed on.
    """
    response = await send(request)
    try:
        if judge is not None:
            judge(response)
        if response.status > _STATUS_MAX:
            raise UpstreamBroke(f"{source} answered with a status that is none: {response.status}", source=source)
        if is_event_stream(first(response.headers, b"content-type")) and response.status == 200:
            await _stream(response, client, source)
            return
        await client.hush()  # what follows is no event stream
        if client.started:
            await _refuse_in_stream(response, source)
        else:
            await _plain(response, client)
    finally:
        response.close()


async def _stream(response: Response, client: Client, source: str) -> None:
    opened = client.started

    async def begin(data: bytes) -> None:
        refused = first_error(data)
        if refused is not None:
            status, body = refused
            raise UpstreamRefused(f"{source} began with an error", source=source, status=status, body=body)
        await client.start_stream(to_caller(response.headers))
        await client.write(data)

    def close_if_done() -> None:
        if client.done:
            response.close()

    def sink(data: bytes) -> Awaitable[None]:
        nonlocal opened
        if data[-LAST_WORD_BYTES:].rstrip().endswith(b"[DONE]"):
            asyncio.get_running_loop().call_later(DONE_LINGER_S, close_if_done)
        if opened:
            return client.write(data)
        opened = True
        return begin(data)

    try:
        await response.pump(sink)
    except ProviderError:
        if not client.done:  # others cut the connection after their last word, or were not waited for
            raise
    if not client.done:
        raise UpstreamBroke(
            "the stream ended before it was finished", source=source, nothing_received=not client.committed
        )
    await client.end()


async def _refuse_in_stream(response: Response, source: str) -> None:
    body = await response.read(HELD_MAX_BYTES)
    raise UpstreamRefused(
        f"{source} answered with status {response.status} instead of a stream",
        source=source,
        status=response.status,
        body=body,
    )


async def _plain(response: Response, client: Client) -> None:
    headers = to_caller(response.headers)
    length = first(response.headers, b"content-length")
    body = response.whole()
    if body is None and (response.status in _NO_BODY or (length is not None and int(length) <= HELD_MAX_BYTES)):
        body = await response.read(HELD_MAX_BYTES)
    if body is not None:
        await client.answer(response.status, headers, body)
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
    await client.end()
