"""A streamed answer of OpenAI's Responses API: read piece by piece, and written with every event that its clients wait for. Pure.

The law: the written stream's last event holds what `write_answer` makes of the whole; and what is read of a stream is what is read
of that last event, wherever both are told.

Written: `event:` and `type` alike, `sequence_number` from 0 without a gap, and nothing after the last word: OpenAI's streams end
with `response.completed`, `response.incomplete` or `response.failed`, and have no `[DONE]`. An item's end is held back until the
next begins or the response ends, for a cut-off answer's last item is "incomplete". Codex acts on `response.output_item.done`, the
openai package on the events before it: so all are there.

Read, from others than OpenAI: llama.cpp numbers no items and ends them all at the end, vLLM opens a call with the arguments that
its first piece repeats, Ollama has no `part` events of a summary, some give finished items only, or only the last event; numbers of
the sequence are not looked at. What an end tells beyond the pieces is added; where it contradicts them, the pieces stay.
Sources: openai-python `types/responses/*_event.py` and `lib/streaming/responses` (3.54); openai/codex
`codex-rs/codex-api/src/sse/responses.rs`; llama.cpp `tools/server/server-task.cpp`; Ollama `openai/responses.go`; vLLM
`entrypoints/openai/responses/simple_streaming_events.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from .responses_answer import (
    AnswerItem,
    Paper,
    apart,
    content_part,
    ending,
    read_item,
    read_stop,
    read_usage,
)
from .responses_request import BETWEEN_PARTS
from .sse import Event
from .talk import (
    Answer,
    Began,
    Closed,
    Delta,
    Finished,
    Grew,
    Json,
    Message,
    Opened,
    Reasoning,
    SaidError,
    Stamp,
    Talk,
    ToolCall,
    Unreadable,
    as_answer,
    as_deltas,
)

_BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDINGS = frozenset({"response.completed", "response.incomplete", "response.done"})
_FAILURES = frozenset({"error", "response.error", "response.failed", "response.cancelled"})


class _Said(msgspec.Struct):
    """What an event may hold, of whatever type."""

    type: str | None = None
    response: dict[str, Any] | None = None
    item: dict[str, Any] | None = None
    error: Any = None
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None


# Of a message, of thoughts, of a call: what a piece of each is called, and what it is a piece of.
_PIECES = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "content",
    "response.reasoning.delta": "content",
    "response.reasoning_summary_text.delta": "summary",
    "response.function_call_arguments.delta": "call",
    "response.custom_tool_call_input.delta": "call",
}
_WHOLES = {name.removesuffix("delta") + "done": of for name, of in _PIECES.items()}
_HOLDERS = {"text": "message", "refusal": "message", "content": "reasoning", "summary": "reasoning"}
_CALLS = frozenset({"function_call", "custom_tool_call"})


class _Item:
    """The output item that is being told."""

    def __init__(self, kind: str, marks: set[Json]) -> None:
        self.kind = kind
        self.marks = marks  # what the events may call it by
        self.part: tuple[str, Json] | None = None  # what is told of it just now, and its number
        self.parts = 0  # of a message, begun
        self.open = False  # as a delta's `Opened`
        self.texts: list[str] = []  # of the part


# ------------------------------------------------------------ reading


class Reader:
    """Feed it events; it gives back what they amount to."""

    def __init__(self) -> None:
        self.done = False
        self._began = False
        self._item: _Item | None = None
        self._ended: set[Json] = set()  # marks of items that are closed
        self._told: list[Delta] = []  # all but texts, for the reason of the stop
        self._out: list[Delta] = []

    def feed(self, event: Event) -> list[Delta]:
        """Raises: Unreadable, SaidError."""
        if self.done or event.data.strip() in ("", "[DONE]"):
            return []
        try:
            said = msgspec.json.decode(event.data, type=_Said)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Unreadable(f"an event is none of the Responses API's: {error}") from None
        kind = said.type or event.name
        if kind in _FAILURES or (said.error is not None and not kind.startswith("response.")):
            raise SaidError(_error_of(event.data, said))
        if kind in _BEGINNINGS:
            self._begin(said.response)
        elif kind == "response.output_item.added":
            self._add(said)
        elif kind == "response.output_item.done":
            self._end_item(said)
        elif kind in _PIECES:
            self._piece(_PIECES[kind], said)
        elif kind in _WHOLES:
            self._whole(_WHOLES[kind], said)
        elif kind in _ENDINGS:
            self._finish(kind, said.response or {})
        out, self._out = self._out, []
        return out

    def _begin(self, response: dict[str, Json] | None) -> None:
        if not self._began:
            self._began = True
            model = (response or {}).get("model")
            self._out.append(Began(model if isinstance(model, str) else ""))

    def _tell(self, delta: Delta) -> None:
        self._begin(None)
        self._told.append(delta)
        self._out.append(delta)

    def _add(self, said: _Said) -> None:
        item = said.item or {}
        self._close()
        self._open(item, _marks(said))

    def _open(self, item: dict[str, Json], marks: set[Json]) -> _Item:
        self._item = opened = _Item(str(item.get("type")), marks)
        self._ended -= marks
        if opened.kind in _CALLS:
            [call] = read_item({**item, "arguments": None, "input": None})
            assert isinstance(call, ToolCall)
            self._tell(Opened("call", call.id, call.name, call.free_form))
            opened.open, opened.part = True, ("call", 0)
        elif opened.kind == "reasoning":
            self._tell(Opened("reasoning"))
            opened.open = True
        return opened

    def _of(self, said: _Said) -> _Item | None:
        """The open item, where the event means it; None: it means another."""
        marks, item = _marks(said), self._item
        return None if item is None or (marks and not marks & item.marks) else item

    def _piece(self, of: str, said: _Said) -> None:
        if not isinstance(said.delta, str):
            return
        item = self._of(said)
        if item is None or (of != "call" and item.kind != _HOLDERS[of]):
            if _marks(said) & self._ended:
                raise Unreadable("the pieces of two output items are mixed")
            if of == "call":
                return  # nobody has said which tool is meant; the finished item will
            self._close()
            item = self._open({"type": _HOLDERS[of]}, _marks(said))
        elif of == "call" and item.kind not in _CALLS:
            return
        if self._turn_to(item, of, said) and said.delta:
            self._grow(item, said.delta)

    def _turn_to(self, item: _Item, of: str, said: _Said) -> bool:
        """Make the part that the event means the open one. False: it is not to be told."""
        number = (said.summary_index if of == "summary" else said.content_index) or 0
        if item.part == (of, number):
            return True
        if item.kind == "message":
            self._close_part(item)
            self._tell(Opened("refusal" if of == "refusal" else "text"))
            item.open, item.part, item.texts = True, (of, number), []
            item.parts += 1
        elif item.kind == "reasoning":
            if item.part is not None and item.part[0] != of:
                return False  # a summary of what is being told anyway, or the other way round
            if item.part is not None:
                self._out.append(Grew(BETWEEN_PARTS))
            item.part, item.texts = (of, number), []
        return True

    def _grow(self, item: _Item, text: str) -> None:
        item.texts.append(text)
        self._out.append(Grew(text))

    def _whole(self, of: str, said: _Said) -> None:
        """What a part amounts to: its pieces may be missing."""
        item = self._of(said)
        text = next(
            (text for text in (said.text, said.refusal, said.arguments, said.input) if isinstance(text, str)), None
        )
        if text is None or item is None or (item.kind not in _CALLS if of == "call" else item.kind != _HOLDERS[of]):
            return
        if self._turn_to(item, of, said):
            self._complete(item, text)

    def _complete(self, item: _Item, text: str) -> None:
        told = "".join(item.texts)
        if len(text) > len(told) and text.startswith(told):
            self._grow(item, text[len(told) :])

    def _end_item(self, said: _Said) -> None:
        item, marks = said.item or {}, _marks(said)
        if marks & self._ended and not (self._item and marks & self._item.marks):
            return  # llama.cpp ends items long after the next has begun
        current = self._of(said)
        if current is None or current.kind != item.get("type"):
            self._close()
            for delta in _deltas(read_item(item)):
                self._tell(delta)
            self._ended |= marks
        else:
            current.marks |= marks
            self._close(read_item(item))

    def _close(self, finished: Sequence[AnswerItem] = ()) -> None:
        """The open item is whole. `finished`: what its own end tells."""
        item, self._item = self._item, None
        if item is None:
            return
        self._ended |= item.marks
        match finished:
            case [Reasoning(text=text, seal=seal, hidden=hidden)]:
                if item.part is None and text:
                    self._grow(item, text)
                self._tell(Closed(seal, hidden and not item.texts))
            case [ToolCall(arguments=arguments)]:
                self._complete(item, arguments)
                self._tell(Closed())
            case [Message(), *_] if item.kind == "message":
                if 0 < item.parts <= len(finished):
                    [current] = _deltas(finished[item.parts - 1 : item.parts])[1:2]
                    self._complete(item, current.text if isinstance(current, Grew) else "")
                self._close_part(item)
                for delta in _deltas(finished[item.parts :]):
                    self._tell(delta)
            case _:
                self._close_part(item)

    def _close_part(self, item: _Item) -> None:
        if not item.open:
            return
        if item.kind == "function_call" and not item.texts:
            self._grow(item, "{}")
        self._tell(Closed())
        item.open = False

    def _finish(self, kind: str, response: dict[str, Json]) -> None:
        status = response.get("status")
        if status in ("failed", "cancelled"):
            raise SaidError(_object(response.get("error"), f"the response is '{status}'"))
        self._begin(response)
        self._close()
        output = cast("list[Json]", response["output"]) if isinstance(response.get("output"), list) else []
        if not self._told:
            for item in output:
                for delta in _deltas(read_item(item)):
                    self._tell(delta)
        details = response.get("incomplete_details")
        reason = cast("dict[str, Json]", details).get("reason") if isinstance(details, dict) else None
        ended = status if isinstance(status, str) else kind.removeprefix("response.")
        stop = read_stop(ended, reason if isinstance(reason, str) else None, as_answer(self._told).items)
        self._tell(Finished(stop, usage=read_usage(response.get("usage"))))
        self.done = True


def _marks(said: _Said) -> set[Json]:
    """What may name the item that an event means. Numbers and names are never alike."""
    item = said.item or {}
    named = (said.output_index, said.item_id, item.get("id"), item.get("call_id"))
    return {mark for mark in named if isinstance(mark, int | str) and mark != ""}


def _deltas(items: Sequence[AnswerItem]) -> list[Delta]:
    return as_deltas(Answer(model="", items=tuple(items)))[1:-1]


def _error_of(data: str, said: _Said) -> dict[str, Json]:
    """OpenAI's is flat, or within; a failed response holds its own."""
    within = said.error if said.error is not None else (said.response or {}).get("error")
    if isinstance(within, dict):
        return cast("dict[str, Json]", within)
    flat: dict[str, Json] = msgspec.json.decode(data)
    named = {key: flat[key] for key in ("message", "code", "param") if key in flat}
    return _object(named or None, within if isinstance(within, str) else "the response has failed")


def _object(error: Json, otherwise: str) -> dict[str, Json]:
    return cast("dict[str, Json]", error) if isinstance(error, dict) else {"message": otherwise}


# ------------------------------------------------------------ writing


class Writer:
    """Hand it the pieces in order; it gives back events. `failed` is a last word too, at any time."""

    def __init__(self, talk: Talk, stamp: Stamp) -> None:
        self._paper = Paper(talk, stamp)
        self._number = 0  # of the next event
        self._begun = False
        self._open: Opened | None = None
        self._part = False  # of thoughts: has been said to begin
        self._kept = False  # a free-form tool's text, still within a function's arguments
        self._texts: list[str] = []
        self._closed: Closed | None = None
        self._items: list[AnswerItem] = []
        self._output: list[Json] = []

    def write(self, delta: Delta) -> bytes:
        """Complete events; b"" where the piece needs none."""
        match delta:
            case Began():
                return self._begin()
            case Opened():
                return self._settle("completed") + self._start(delta)
            case Grew(text=text):
                self._texts.append(text)
                return self._grow(text) if text and not self._kept else b""
            case Closed():
                self._closed = delta
                return b""
            case Finished():
                items = [*self._items, *self._pending()]
                status, reason = ending(delta.stop, items)
                last = self._begin() + self._settle(status)
                response = self._paper.response(status, self._output, usage=delta.usage, reason=reason)
                return last + self._event(f"response.{status}", response=response)

    def failed(self, message: str, code: str = "server_error") -> bytes:
        """The answer breaks off. What was whole stays in the response."""
        ended = self._begin() + (self._settle("completed") if self._closed is not None else b"")
        response = self._paper.response("failed", self._output, error={"code": code, "message": message})
        return ended + self._event("response.failed", response=response)

    def _event(self, kind: str, **fields: Json) -> bytes:
        data = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        response = self._paper.response("in_progress", [])
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _start(self, opened: Opened) -> bytes:
        self._open, self._texts, self._closed, self._part = opened, [], None, False
        number, paper = len(self._output), self._paper
        self._kept = opened.kind == "call" and not opened.free_form and paper.is_free_form(opened.name)
        match opened.kind:
            case "reasoning":
                item = paper.reasoning(number, "in_progress", [], "")
            case "call":
                free_form = opened.free_form or self._kept
                item = paper.call(number, "in_progress", opened.id, opened.name, "", free_form=free_form)
            case _:
                item = paper.message(number, "in_progress", [])
        added = self._event("response.output_item.added", output_index=number, item=item)
        if opened.kind in ("text", "refusal"):
            part = content_part("", refusal=opened.kind == "refusal")
            added += self._event("response.content_part.added", **self._at(), content_index=0, part=part)
        return added

    def _at(self) -> dict[str, Json]:
        """What every event about the open item says of it."""
        number = len(self._output)
        return {"item_id": self._paper.id_of(self._kind(), number), "output_index": number}

    def _kind(self) -> str:
        assert self._open is not None
        match self._open.kind:
            case "reasoning":
                return "reasoning"
            case "call":
                return "custom_tool_call" if self._open.free_form or self._kept else "function_call"
            case _:
                return "message"

    def _grow(self, text: str) -> bytes:
        assert self._open is not None
        match self._open.kind:
            case "text":
                return self._event("response.output_text.delta", **self._at(), content_index=0, delta=text, logprobs=[])
            case "refusal":
                return self._event("response.refusal.delta", **self._at(), content_index=0, delta=text)
            case "reasoning":
                return self._start_part() + self._event(
                    "response.reasoning_summary_text.delta", **self._at(), summary_index=0, delta=text
                )
            case "call":
                return self._event(f"response.{_said_as(self._kind())}.delta", **self._at(), delta=text)

    def _start_part(self) -> bytes:
        if self._part:
            return b""
        self._part = True
        part = {"type": "summary_text", "text": ""}
        return self._event("response.reasoning_summary_part.added", **self._at(), summary_index=0, part=part)

    def _pending(self) -> Sequence[AnswerItem]:
        """The open item as a whole, cut off or not."""
        if self._open is None:
            return ()
        deltas: list[Delta] = [self._open, Grew("".join(self._texts)), self._closed or Closed()]
        return [piece for item in as_answer(deltas).items for piece in apart(item)]

    def _settle(self, status: str) -> bytes:
        """All the ends of the open item."""
        if self._open is None:
            return b""
        [item] = self._pending()
        written = self._paper.item(item, len(self._output), status)
        events = self._ends_of_parts(self._open.kind, written)
        events += self._event("response.output_item.done", output_index=len(self._output), item=written)
        self._items.append(item)
        self._output.append(written)
        self._open = None
        return events

    def _ends_of_parts(self, kind: str, item: dict[str, Json]) -> bytes:
        match kind:
            case "text" | "refusal":
                [part] = item["content"]
                at = {**self._at(), "content_index": 0}
                if kind == "text":
                    done = self._event("response.output_text.done", **at, text=part["text"], logprobs=[])
                else:
                    done = self._event("response.refusal.done", **at, refusal=part["refusal"])
                return done + self._event("response.content_part.done", **at, part=part)
            case "reasoning":
                events = b""
                for part in item["summary"]:
                    events += self._start_part()
                    at = {**self._at(), "summary_index": 0}
                    events += self._event("response.reasoning_summary_text.done", **at, text=part["text"])
                    events += self._event("response.reasoning_summary_part.done", **at, part=part)
                return events
            case _:
                field = "input" if item["type"] == "custom_tool_call" else "arguments"
                whole = item[field]
                events = self._grow(whole) if whole and (self._kept or not any(self._texts)) else b""
                named = {"name": item["name"]} if field == "arguments" else {}
                return events + self._event(
                    f"response.{_said_as(item['type'])}.done", **self._at(), **named, **{field: whole}
                )


def _said_as(kind: str) -> str:
    """What the events about a call's arguments are called."""
    return "custom_tool_call_input" if kind == "custom_tool_call" else "function_call_arguments"
