"""Errors in each API's own words, and an upstream's error said again in another's."""

from __future__ import annotations

import json

import pytest

from gateway.dialects.spoken import Spoken, enveloped, event_of, said_again

ERROR = {"message": "no", "type": "t", "param": None, "code": "c"}


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (Spoken.OPENAI, {"error": ERROR}),
        (Spoken.RESPONSES, {"error": ERROR}),
        (Spoken.PLAIN, {"error": ERROR}),
        (Spoken.ANTHROPIC, {"type": "error", "error": ERROR}),
        (Spoken.OLLAMA, {"error": "no"}),
    ],
)
def test_envelopes(spoken: Spoken, expected: object) -> None:
    """What each API's clients look for."""
    assert enveloped(ERROR, spoken) == expected
    assert json.loads(said_again(json.dumps({"error": ERROR}).encode(), spoken)) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>  Bad\nGateway</html>", "<html> Bad Gateway</html>"),
        (b"", "The upstream gave no reason"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error":"plain words"}', "plain words"),
        (b'{"detail":"Not Found"}', '{"detail":"Not Found"}'),
        (b"[" * 5000, "[" * 500),
    ],
)
def test_what_is_no_envelope_becomes_the_message(body: bytes, message: str) -> None:
    """Whatever a server in front of the upstream says."""
    said = json.loads(said_again(body, Spoken.ANTHROPIC))
    assert said["error"]["message"] == message
    assert said["error"]["type"] == "upstream_error"


def test_events() -> None:
    """Responses' error event is flat; Ollama's stream is lines; what was cut is ended first."""
    flat, failed, rest = event_of({"error": ERROR}, Spoken.RESPONSES, between_events=True).split(b"\n\n")
    assert flat.startswith(b"event: error\ndata: ")
    assert json.loads(flat.partition(b"data: ")[2]) == {**ERROR, "type": "error"}
    assert failed.startswith(b"event: response.failed\ndata: ")
    assert json.loads(failed.partition(b"data: ")[2])["response"]["error"] == {"code": "c", "message": "no"}
    assert rest == b""
    assert event_of({"error": "no"}, Spoken.OLLAMA, between_events=False) == b'\n{"error":"no"}\n'
    assert event_of({"error": 1}, Spoken.OPENAI, between_events=False) == b'\n\ndata: {"error":1}\n\n'
    assert event_of({"type": "error"}, Spoken.ANTHROPIC, between_events=True).startswith(b"event: error\ndata: {")
