"""The data routes' edge: raw ASGI, because everything between the socket and the pipeline is paid for by every request.

The law: the key is checked before the body is read; the body is read once and kept as bytes; a failure before the first byte is a
real HTTP error, after it an event in the stream; nothing outlives the exchange.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any, cast

from gateway.access.keys import Keys
from gateway.errors import BodyTooLarge, MethodNotAllowed
from gateway.metering.metrics import Metrics
from gateway.metering.traces import Tracing
from gateway.proxy.client import Client, Receive, Send, Watchman
from gateway.proxy.headers import bearer, first
from gateway.proxy.peek import peek
from gateway.proxy.pipeline import Call, Pipeline

from .errors import Form, form_of, in_stream, tell

log = logging.getLogger("roundhouse.requests")

# A refused upload is read on and thrown away for so long, so that the refusal reaches a caller that is still sending: closing
# with unread bytes resets the connection under it. nginx lingers likewise (lingering_close).
LINGER_S = 2.0


class DataRoutes:
    """One handler for all of them: it only needs the path."""

    def __init__(
        self,
        pipeline: Pipeline,
        keys: Keys,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        keepalive_s: float,
        tracing: Tracing | None = None,
    ) -> None:
        self._watchman = Watchman(asyncio.get_running_loop())
        self._pipeline = pipeline
        self._keys = keys
        self._metrics = metrics
        self._tracing = tracing
        self._max_body_bytes = max_body_bytes
        # 0 would be a comment in every turn of the loop; who writes it means none
        self._keepalive_s = keepalive_s if 0 < keepalive_s < math.inf else None

    async def handle(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One exchange, from its header fields to its last byte."""
        client = Client(self._watchman, receive, send, scope["state"]["fields"], self._keepalive_s)
        metrics = self._metrics
        metrics.in_flight += 1
        started_s = client.last_s
        try:
            await self._serve(scope, receive, client)
        except asyncio.CancelledError:
            if not client.left:
                raise
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
        except Exception as error:  # noqa: BLE001 - named boundary: the last handler of the data routes; `tell` knows ours
            await self._tell(error, client, receive, form_of(scope["path"]))
        finally:
            client.unwatch()
            metrics.in_flight -= 1
            seconds = self._watchman.loop.time() - started_s
            metrics.request(scope["path"], client.status, seconds, left=client.left)
            if self._tracing is not None:
                self._tracing.request(
                    scope["headers"],
                    model=client.asked,
                    target=client.target,
                    status=client.status,
                    seconds=seconds,
                    left=client.left,
                )

    async def _serve(self, scope: Mapping[str, Any], receive: Receive, client: Client) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST")
        headers = scope["headers"]
        principal = self._keys.principal(bearer(headers))
        body = await self._body(headers, receive)
        if body is None:
            client.left = True
            return
        seen = peek(body)
        path, query = scope["path"].encode(), scope["query_string"]
        if query:
            path += b"?" + query
        await self._pipeline.serve(Call(principal, path, headers, body, seen.model, seen.stream), client)

    async def _body(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes | None:
        """The whole body, None when the caller left while sending it. Raises: BodyTooLarge, with the rest unread."""
        limit = self._max_body_bytes
        length = first(headers, b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while True:
            message = cast("dict[str, Any]", await receive())
            if message["type"] != "http.request":
                return None
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if not message.get("more_body"):
                return b"".join((*pieces, piece)) if pieces else piece
            pieces.append(piece)

    async def _tell(self, error: Exception, client: Client, receive: Receive, form: Form) -> None:
        """Three cases: 1 nothing was said yet, 2 a stream has begun, 3 a plain answer was broken off: cut the connection."""
        await client.hush()
        told = tell(error, form)
        if told.status >= 500:
            # of an error that is not ours the caller learns nothing, so the log must hold all
            detail = getattr(error, "detail", "") or str(error)
            log.warning("%s: %s", type(error).__name__, detail, exc_info=error if told.status == 500 else None)
        if isinstance(error, BodyTooLarge):
            await _refuse_upload(client, told.status, [*told.headers, (b"connection", b"close")], told.body(), receive)
        elif not client.started:
            await client.answer(told.status, told.headers, told.body())
        elif client.streaming and not client.ended:
            if not client.failed:
                await client.end(in_stream(error, between_events=client.between_events, form=form))
            else:
                await client.end()
        elif not client.ended:
            raise error


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes (server.max_body_bytes)")


async def _refuse_upload(
    client: Client, status: int, headers: list[tuple[bytes, bytes]], body: bytes, receive: Receive
) -> None:
    await client.start(status, [*headers, (b"content-length", b"%d" % len(body))])
    await client.write(body)
    try:
        async with asyncio.timeout(LINGER_S):
            while (cast("dict[str, Any]", await receive())).get("more_body"):
                pass
    except TimeoutError:
        pass
    await client.end()
