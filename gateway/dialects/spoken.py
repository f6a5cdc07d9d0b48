"""In whose words a route is answered, and how an error is said in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import cast

import msgspec

from .ollama_stream import failed

_SAID_CHARS = 500  # of an upstream's error that is no JSON


class Spoken(Enum):
    """Errors and streams included."""

    OPENAI = "openai"
    RESPONSES = "responses"  # OpenAI's, but errors in a stream look otherwise and there is no `[DONE]`
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"  # its streams are lines of JSON, not events
    PLAIN = "plain"  # OpenAI's errors; a stream has no last word that one could wait for


def enveloped(error: object, spoken: Spoken) -> Mapping[str, object]:
    """Anthropic's is OpenAI's with a `type` beside the error; Ollama's clients read a text, and look no further."""
    if spoken is Spoken.ANTHROPIC:
        return {"type": "error", "error": error}
    if spoken is Spoken.OLLAMA:
        fields = fields_of(error)
        return {"error": str(fields.get("message") or msgspec.json.encode(fields).decode())}
    return {"error": error}


def fields_of(error: object) -> Mapping[str, object]:
    """Of an error object in anybody's form; a text becomes its message."""
    said = msgspec.json.decode(error) if isinstance(error, msgspec.Raw) else error
    return cast("Mapping[str, object]", said) if isinstance(said, dict) else {"message": str(said)}


def event_of(envelope: Mapping[str, object], spoken: Spoken, *, between_events: bool) -> bytes:
    """An error as the last piece of a stream that has begun.

    Args:
        envelope: as `enveloped` gives it, or an upstream's own.
    """
    if spoken is Spoken.OLLAMA:
        return (b"" if between_events else b"\n") + failed(str(envelope["error"]))
    before = b"" if between_events else b"\n\n"
    if spoken is Spoken.RESPONSES:
        return before + b"".join(_named(event) for event in _failure(fields_of(envelope["error"])))
    if spoken is Spoken.ANTHROPIC:
        return before + _named({**envelope, "type": "error"})
    return before + b"data: " + msgspec.json.encode(envelope) + b"\n\n"


def _named(event: Mapping[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event))


def _failure(error: Mapping[str, object]) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Two events, since some clients know the one (OpenAI's), some the other only (Codex)."""
    told = {"code": error.get("code"), "message": error.get("message")}
    failed: dict[str, object] = {
        "id": "",
        "object": "response",
        "created_at": 0,
        "status": "failed",
        "error": told,
        "output": [],
    }
    return (
        {"code": None, "param": None, **error, "type": "error"},  # flat, as the schema of this event has it
        {"type": "response.failed", "response": failed},
    )


def said_again(body: bytes, spoken: Spoken) -> bytes:
    """An upstream's error body in other words. What is no JSON becomes the message."""
    try:
        said = msgspec.json.decode(body, type=_Said).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = " ".join(body.decode("utf-8", "replace").split())[:_SAID_CHARS] or "The upstream gave no reason"
    error = fields_of(said)
    if "type" not in error:
        error = {**error, "type": "upstream_error"}
    return msgspec.json.encode(enveloped(error, spoken))


class _Said(msgspec.Struct):
    error: object
