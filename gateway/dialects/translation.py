"""One request and its answer, translated: the caller speaks one dialect, the upstream another. Pure.

The law: what is sent on says what the caller said; what cannot be said is named (`left_out`) or refused (`NotTranslatable`), never
silently changed. A stream translated piece by piece amounts to the translation of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from . import (
    chat_answer,
    chat_request,
    chat_stream,
    messages_answer,
    messages_request,
    messages_stream,
    ollama_answer,
    ollama_embed,
    ollama_request,
    ollama_stream,
    responses_answer,
    responses_request,
    responses_stream,
)
from .ollama_answer import Durations
from .ollama_stream import Measure
from .sse import Event, EventParser, TooLong
from .talk import Answer, Delta, SaidError, Stamp, Talk, Unreadable, Usage, as_deltas

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


class Reader(Protocol):
    """Reads an upstream's stream."""

    @property
    def done(self) -> bool: ...

    def feed(self, event: Event) -> list[Delta]: ...


class Writer(Protocol):
    """Writes the caller's stream."""

    def write(self, delta: Delta) -> bytes: ...


class Caller(msgspec.Struct, frozen=True):
    """How a caller's dialect is read and answered."""

    read_request: Callable[[bytes], Talk]
    write_answer: Callable[[Answer, Talk, Stamp, Measure], bytes]
    writer: Callable[[Talk, Stamp, Measure], Writer]
    stream_type: bytes = EVENTS


class Upstream(msgspec.Struct, frozen=True):
    """How an upstream's dialect is written and understood."""

    write_request: Callable[[Talk], tuple[bytes, tuple[str, ...]]]
    read_answer: Callable[[bytes, Talk], Answer]
    reader: Callable[[Talk], Reader]


class Translation(Protocol):
    """What the data path needs of a translation."""

    body: bytes  # for the upstream
    left_out: tuple[str, ...]  # what the caller said and the upstream will not hear
    stream: bool  # the caller wants one
    stream_type: bytes

    @property
    def usage(self) -> Usage | None:
        """As far as the upstream has told it."""
        ...

    @property
    def trouble(self) -> Exception | None:
        """What `end` will raise: nothing more of the stream is read."""
        ...

    def whole(self, body: bytes) -> bytes:
        """The upstream's whole answer, for the caller. Raises: Unreadable."""
        ...

    def whole_as_stream(self, body: bytes) -> bytes:
        """The same for a caller who wanted a stream. Raises: Unreadable."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The next piece of the upstream's stream, for the caller. Raises: Unreadable, SaidError, TooLong."""
        ...

    def end(self) -> None:
        """The upstream's stream has ended. Raises: what came in one piece with something that was to be handed on first."""
        ...


class TalkTranslation:
    """Between two dialects of conversation. Implements `Translation`.

    Args:
        name: what the upstream calls the model.
    Raises: InvalidRequest, NotTranslatable.
    """

    def __init__(self, caller: str, upstream: str, body: bytes, name: str, stamp: Stamp) -> None:
        self._caller, self._upstream = CALLERS[caller], UPSTREAMS[upstream]
        self._talk = talk = self._caller.read_request(body)
        self._stamp = stamp
        self.body, missing = self._upstream.write_request(msgspec.structs.replace(talk, model=name, usage_asked=True))
        self.left_out = (*talk.left_out, *missing)
        self.stream = talk.stream
        self.stream_type = self._caller.stream_type
        self.usage: Usage | None = None
        self._parser = EventParser()
        self._reader = self._upstream.reader(talk)
        self._timing = _Timing(stamp.clock)
        self._writer = self._caller.writer(talk, stamp, self._timing.durations)
        self._begun = False
        self.trouble: Exception | None = None

    def whole(self, body: bytes) -> bytes:
        """See `Translation`."""
        answer = self._upstream.read_answer(body, self._talk)
        self.usage = answer.usage
        return self._caller.write_answer(answer, self._talk, self._stamp, self._timing.durations)

    def whole_as_stream(self, body: bytes) -> bytes:
        """See `Translation`."""
        answer = self._upstream.read_answer(body, self._talk)
        return self._write(as_deltas(answer))

    def feed(self, data: bytes) -> bytes:
        """See `Translation`. What came in one piece with an error, before it, is handed on first, unless nothing was before."""
        if self.trouble is not None:
            return b""
        self._timing.saw()
        pieces: list[bytes] = []
        try:
            for event in self._parser.feed(data):
                if self._reader.done:
                    break
                pieces.append(self._write(self._reader.feed(event)))
        except (Unreadable, SaidError, TooLong) as error:
            if not self._begun:
                raise
            self.trouble = error
        said = b"".join(pieces)
        self._begun = self._begun or bool(said)
        return said

    def end(self) -> None:
        """See `Translation`."""
        if self.trouble is not None:
            raise self.trouble

    def _write(self, deltas: list[Delta]) -> bytes:
        for delta in deltas:
            told = getattr(delta, "usage", None)
            if told is not None:
                self.usage = told
        return b"".join(map(self._writer.write, deltas))


class _Timing:
    """How long an answer has taken, for Ollama's clients, who reckon their tokens per second from it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = clock()
        self._first_s: float | None = None

    def saw(self) -> None:
        """Something of the answer has come."""
        if self._first_s is None:
            self._first_s = self._clock()

    def durations(self) -> Durations:
        """Until now."""
        now_s = self._clock()
        first_s = now_s if self._first_s is None else self._first_s
        return Durations(_ns(now_s - self._began_s), 0, _ns(first_s - self._began_s), _ns(now_s - first_s))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _untimed(
    read_request: Callable[[bytes], Talk],
    write_answer: Callable[[Answer, Talk, Stamp], bytes],
    writer: Callable[[Talk, Stamp], Writer],
) -> Caller:
    """A dialect whose answers tell no times."""
    return Caller(
        read_request,
        lambda answer, talk, stamp, _: write_answer(answer, talk, stamp),
        lambda talk, stamp, _: writer(talk, stamp),
    )


def _ollama(
    read_request: Callable[[bytes], Talk],
    write_answer: Callable[[Answer, Talk, Stamp, Durations], bytes],
    writer: Callable[[Talk, Stamp, Measure], Writer],
) -> Caller:
    return Caller(
        read_request,
        lambda answer, talk, stamp, measured: write_answer(answer, talk, stamp, measured()),
        writer,
        ollama_stream.NDJSON,
    )


CALLERS: Mapping[str, Caller] = {
    "chat": _untimed(chat_request.read_request, chat_answer.write_answer, chat_stream.Writer),
    "responses": _untimed(responses_request.read_request, responses_answer.write_answer, responses_stream.Writer),
    "messages": _untimed(messages_request.read_request, messages_answer.write_answer, messages_stream.Writer),
    "ollama_chat": _ollama(ollama_request.read_chat, ollama_answer.write_chat, ollama_stream.ChatWriter),
    "ollama_generate": _ollama(
        ollama_request.read_generate, ollama_answer.write_generate, ollama_stream.GenerateWriter
    ),
}
UPSTREAMS: Mapping[str, Upstream] = {
    "chat": Upstream(chat_request.write_request, chat_answer.read_answer, chat_stream.Reader),
    "responses": Upstream(
        responses_request.write_request,
        lambda body, _: responses_answer.read_answer(body),
        lambda _: responses_stream.Reader(),
    ),
    "messages": Upstream(messages_request.write_request, messages_answer.read_answer, messages_stream.Reader),
}


class EmbedTranslation:
    """From one of Ollama's two routes for embeddings to OpenAI's. Implements `Translation`.

    Raises: InvalidRequest.
    """

    stream = False
    stream_type = JSON
    trouble: Exception | None = None

    def __init__(self, body: bytes, name: str, asked: str, *, legacy: bool) -> None:
        self._legacy, self._asked = legacy, asked
        read = ollama_embed.read_embeddings if legacy else ollama_embed.read_embed
        said, self.left_out = read(body)
        self.body = with_name(said, name)
        self.usage: Usage | None = None

    def whole(self, body: bytes) -> bytes:
        """See `Translation`."""
        self.usage = ollama_embed.read_usage(body)
        if self._legacy:
            return ollama_embed.write_embeddings(body)
        return ollama_embed.write_embed(body, self._asked)

    def whole_as_stream(self, body: bytes) -> bytes:
        """See `Translation`."""
        return self.whole(body)

    def feed(self, data: bytes) -> bytes:
        """See `Translation`."""
        raise Unreadable("an event stream where embeddings were asked for")

    def end(self) -> None:
        """See `Translation`."""


def with_name(body: bytes, name: str) -> bytes:
    """Of a body that we have written ourselves."""
    return msgspec.json.encode({**msgspec.json.decode(body, type=dict[str, msgspec.Raw]), "model": name})


def translate(caller: str, upstream: str, body: bytes, asked: str, name: str, stamp: Stamp) -> Translation:
    """Between these two dialects.

    Args:
        asked: the model's name as the caller gave it; `name`: as the upstream knows it.
    Raises: InvalidRequest, NotTranslatable.
    """
    if caller in ("ollama_embed", "ollama_embeddings"):
        return EmbedTranslation(body, name, asked, legacy=caller == "ollama_embeddings")
    return TalkTranslation(caller, upstream, body, name, stamp)
