"""The data routes' edge: raw ASGI, because everything between the socket and the pipeline is paid for by every request.

The law: the key is checked before the body is read; the body is read once and kept as bytes; a failure before the first byte is a
real HTTP error, after it an event in the stream; nothing outlives the exchange.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from gateway.access.door import Access
from gateway.access.principal import Principal
from gateway.dialects.ollama_answer import write_loaded
from gateway.dialects.ollama_embed import write_nothing
from gateway.dialects.ollama_request import is_load_only
from gateway.dialects.spoken import Spoken
from gateway.dialects.talk import Stamp
from gateway.errors import BodyTooLarge, CallerLeft, InvalidRequest, MethodNotAllowed
from gateway.metering import request_id
from gateway.metering.metrics import Metrics
from gateway.metering.traces import Tracing
from gateway.proxy.client import Client, Direct, Receive, Send, Watchman
from gateway.proxy.headers import Head, bearer, first, is_form
from gateway.proxy.peek import Peek, peek
from gateway.proxy.pipeline import Call, Pipeline
from gateway.proxy.routes import OLLAMA_CHAT, OLLAMA_EMBED, OLLAMA_EMBEDDINGS, SPEECH, Route, Takes, route_of
from gateway.proxy.silence import Silence, Wanted, wanted
from gateway.proxy.sse import tail_of
from gateway.proxy.upload import Upload
from gateway.residency.progress import Progress

from .errors import in_stream, tell
from .record import Recorder
from .session import comer

log = logging.getLogger("roundhouse.requests")

# A refused upload is read on and thrown away for so long, so that the refusal reaches a caller that is still sending: closing
# with unread bytes resets the connection under it. nginx lingers likewise (lingering_close).
LINGER_S = 2.0
# An enumeration looks its own names up slowly.
_OLLAMA, _JSON_BODY, _FORM = Spoken.OLLAMA, Takes.JSON, Takes.FORM
_JSON = ((b"content-type", b"application/json"),)


class DataRoutes:
    """One handler for all of them: it only needs the path."""

    def __init__(
        self,
        pipeline: Pipeline,
        access: Access,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        max_upload_bytes: int,
        keepalive_s: float,
        stamp: Callable[[], Stamp],
        progress: Callable[[str], Progress | None],
        recorder: Recorder,
        capture_max_bytes: int = 0,
        tracing: Tracing | None = None,
    ) -> None:
        self._watchman = Watchman(asyncio.get_running_loop())
        self._pipeline = pipeline
        self._access = access
        self._metrics = metrics
        self._recorder = recorder
        self._capture_max_bytes = capture_max_bytes
        self._tracing = tracing
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._stamp = stamp
        # 0 would be a comment in every turn of the loop; who writes it means none
        self._keepalive_s = keepalive_s if 0 < keepalive_s < math.inf else None
        self._progress = progress
        self._silence = Silence(self._keepalive_s, progress)

    async def handle(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One exchange, from its header fields to its last byte."""
        route = route_of(scope["path"])
        silence = self._silence if _has_comments(route) else None
        state = scope["state"]
        direct: Direct | None = state.get("exchange")
        client = Client(self._watchman, receive, send, state["fields"], silence, tail_of(route.spoken), direct)
        metrics = self._metrics
        metrics.in_flight += 1
        record = self._recorder.begin(scope, client, client.begun_s)
        mark = None if self._tracing is None else self._tracing.begin(scope["headers"])
        if mark is not None:
            scope["headers"] = mark.onto(scope["headers"])
            state["learned"] = None  # each request has a trace of its own
        try:
            await self._serve(scope, route, receive, client, direct)
        except asyncio.CancelledError:
            if not client.left:
                raise
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
        except CallerLeft:
            client.left = True
        except Exception as error:  # noqa: BLE001 - named boundary: the last handler of the data routes; `tell` knows ours
            await self._tell(error, client, receive, route.spoken)
        finally:
            client.unwatch()
            metrics.in_flight -= 1
            now_s = client.now_s()
            request_id.end(state)
            entry = self._recorder.end(record, now_s)
            came_s = state.get("came_s", client.begun_s)
            metrics.ended(entry, max(0, int((now_s - came_s - client.queued_s - client.apart_s) * 1e6)))
            if mark is not None and self._tracing is not None:
                self._tracing.ended(mark, entry, int(client.upstream_s * 1e6))

    def _fill_silence(self, call: Call, client: Client) -> None:
        """As the caller wants to hear of a load."""
        route = call.route
        want = wanted(call.head.fields)
        if want is Wanted.USUAL or not _has_comments(route):
            return
        if want is Wanted.EVENTS and not route.usage_option:
            want = Wanted.COMMENTS  # only completions have chunks that may be empty
        stamp = self._stamp()
        chat = route.dialect == "chat"
        prefix = "chatcmpl-" if chat else "cmpl-"
        client.fill(
            Silence(self._keepalive_s, self._progress, want, chat=chat, id=prefix + stamp.id, created=stamp.created)
        )

    async def _serve(
        self, scope: Mapping[str, Any], route: Route, receive: Receive, client: Client, direct: Direct | None
    ) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST")
        headers, head = scope["headers"], _head_of(scope)
        principal = client.principal = self._comer(head)
        if route.takes is not _JSON_BODY and (route.takes is _FORM or is_form(headers)):
            await self._upload(scope, route, principal, head, receive, client)
            return
        body = None if direct is None else direct.take_whole(self._max_body_bytes)
        if body is None:
            try:
                body = await self._body(headers, receive)
            finally:
                client.apart_s += client.now_s() - client.begun_s
            if body is None:
                client.left = True
                return
        client.bytes_in = len(body)
        if principal.capture and self._capture_max_bytes:
            client.keep(body, self._capture_max_bytes)
        call = Call(principal, route, scope["query_string"], head, body, _seen(body, route, scope))
        if call.seen.stream:
            self._fill_silence(call, client)
        if route.spoken is _OLLAMA and (reason := is_load_only(body)):
            await self._bring(call, reason, client)
        else:
            await self._pipeline.serve(call, client)

    def _comer(self, head: Head) -> Principal:
        """Who asks. Remembered with the header fields until anything about keys changes; sessions and keys that expire are not."""
        edition = self._access.edition
        known = head.made.get(self)
        if known is not None and known[0] is edition:
            return known[1]
        principal = comer(self._access, "POST", head.fields)
        if principal.expires_at is None and (bearer(head.fields) is not None or first(head.fields, b"cookie") is None):
            head.made[self] = (edition, principal)
        return principal

    async def _bring(self, call: Call, reason: str, client: Client) -> None:
        """Ollama's clients load a model by asking for nothing. When one leaves is residency's to decide, so that is only said."""
        model = call.seen.model
        await self._pipeline.bring(call, client, load=reason == "load")
        if call.route in (OLLAMA_EMBED, OLLAMA_EMBEDDINGS):
            said = write_nothing(model, legacy=call.route is OLLAMA_EMBEDDINGS)
        else:
            said = write_loaded(model, self._stamp(), reason, chat=call.route is OLLAMA_CHAT)
        await client.answer(200, _JSON, said)

    async def _upload(
        self,
        scope: Mapping[str, Any],
        route: Route,
        principal: Principal,
        head: Head,
        receive: Receive,
        client: Client,
    ) -> None:
        """A form: forwarded while it comes in."""
        headers = scope["headers"]
        async with Upload(receive, headers, limit_bytes=self._max_upload_bytes) as upload:
            client.heed(upload.leaving)
            fields = await upload.fields()
            client.apart_s += client.now_s() - client.begun_s
            _refuse_stream(route, fields.stream, scope["path"])
            call = Call(principal, route, scope["query_string"], head, upload, Peek(fields.model, fields.stream))
            if fields.stream:
                self._fill_silence(call, client)
            await self._pipeline.serve(call, client)

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

    async def _tell(self, error: Exception, client: Client, receive: Receive, spoken: Spoken) -> None:
        """Three cases: 1 nothing was said yet, 2 a stream has begun, 3 a plain answer was broken off: cut the connection."""
        await client.hush()
        told = tell(error, spoken)
        client.code = getattr(error, "code", "internal_error")
        if told.status >= 500:
            # of an error that is not ours the caller learns nothing, so the log must hold all
            detail = getattr(error, "detail", "") or str(error)
            log.warning("%s: %s", type(error).__name__, detail, exc_info=error if told.status == 500 else None)
        if isinstance(error, BodyTooLarge) and not client.started:
            refused_s = client.now_s()
            await _refuse_upload(client, told.status, [*told.headers, (b"connection", b"close")], told.body(), receive)
            client.apart_s += client.now_s() - refused_s
        elif not client.started:
            await client.answer(told.status, told.headers, told.body())
        elif client.streaming and not client.ended:
            if not client.failed:
                await client.end(in_stream(error, between_events=client.between_events, spoken=spoken))
            else:
                await client.end()
        elif not client.ended:
            raise error


def _head_of(scope: Mapping[str, Any]) -> Head:
    """The same one for as long as the server sees the same header fields come again."""
    learned: dict[str, Any] | None = scope["state"].get("learned")
    if learned is None:
        return Head(scope["headers"])
    head = learned.get("head")
    if head is None:
        head = learned["head"] = Head(scope["headers"])
    return head


def _has_comments(route: Route) -> bool:
    """Neither lines of JSON nor bare sound have any."""
    return route.spoken is not _OLLAMA and route is not SPEECH


def _seen(body: bytes, route: Route, scope: Mapping[str, Any]) -> Peek:
    """Raises: InvalidRequest."""
    try:
        seen = peek(body)
    except InvalidRequest:
        if is_form(scope["headers"]):
            raise InvalidRequest(
                f"{scope['path']} takes application/json, not a form",
                param="content-type",
                code="unsupported_content_type",
            ) from None
        raise
    if seen.stream:
        _refuse_stream(route, seen.stream, scope["path"])
    return seen


def _refuse_stream(route: Route, stream: bool, path: str) -> None:
    if stream and not route.streams:
        raise InvalidRequest(f"{path} cannot stream: leave 'stream' out", param="stream", code="stream_not_supported")


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
