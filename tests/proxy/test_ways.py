"""By which routes an upstream is asked: what is known of it, what turns out, and what a refusal means."""

from __future__ import annotations

import pytest

from gateway.proxy.routes import CHAT, EMBEDDINGS, MESSAGES, OLLAMA_CHAT, OLLAMA_EMBED, RESPONSES, ROUTES, Route
from gateway.proxy.ways import ABSENT_S, Ways, says_absent, says_no_usage

CHAT_ONLY = frozenset((CHAT.path,))
CLAUDE = frozenset((MESSAGES.path,))
RERANK = ROUTES["/v1/rerank"]


@pytest.mark.parametrize(
    ("route", "routes", "expected"),
    [
        (CHAT, None, [CHAT]),
        (RESPONSES, None, [RESPONSES, CHAT]),
        (MESSAGES, None, [MESSAGES, CHAT]),
        (RERANK, None, [RERANK]),
        (OLLAMA_CHAT, None, [CHAT]),
        (OLLAMA_EMBED, None, [EMBEDDINGS]),
        (RESPONSES, CHAT_ONLY, [CHAT]),
        (CHAT, CLAUDE, [MESSAGES]),
        (RESPONSES, CLAUDE, [MESSAGES]),
        (OLLAMA_CHAT, CLAUDE, [MESSAGES]),
        (EMBEDDINGS, CLAUDE, []),
        (RERANK, CHAT_ONLY, []),
        (OLLAMA_CHAT, frozenset((OLLAMA_CHAT.path, CHAT.path)), [OLLAMA_CHAT, CHAT]),
    ],
)
def test_the_same_route_first_then_those_that_may_stand_in(
    route: Route, routes: frozenset[bytes] | None, expected: list[Route]
) -> None:
    """Of whom nothing is known all of OpenAI's form is believed; Ollama's own routes are Ollama's only."""
    assert list(Ways().of(route, routes, "p", 0.0)) == expected


def test_what_turns_out_is_believed_for_a_while() -> None:
    """Of that upstream only."""
    ways = Ways()
    ways.lacks("old", RESPONSES, 100.0)
    assert list(ways.of(RESPONSES, None, "old", 100.0)) == [CHAT]
    assert list(ways.of(RESPONSES, None, "new", 100.0)) == [RESPONSES, CHAT]
    assert list(ways.of(RESPONSES, None, "old", 100.0 + ABSENT_S)) == [RESPONSES, CHAT]
    ways.lacks("old", CHAT, 100.0)
    assert list(ways.of(RESPONSES, None, "old", 101.0)) == []


def test_usage_is_not_asked_for_where_that_was_refused() -> None:
    """For as long."""
    ways = Ways()
    assert ways.tells_usage("p", 0.0)
    ways.no_usage("p", 5.0)
    assert not ways.tells_usage("p", 6.0)
    assert ways.tells_usage("q", 6.0)
    assert ways.tells_usage("p", 5.0 + ABSENT_S)


@pytest.mark.parametrize(
    ("status", "body", "absent"),
    [
        (404, b'{"detail":"Not Found"}', True),
        (404, b"404 page not found", True),
        (404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', True),
        (404, b'{"error":{"message":"Invalid URL (POST /v1/x)","type":"invalid_request_error"}}', True),
        (404, b'{"error":"Unexpected endpoint or method. (POST /v1/x)"}', True),
        (404, b"<html><head><title>404 Not Found</title></head></html>", True),
        (404, b"Cannot POST /v1/responses", True),
        (405, b'{"detail":"Method Not Allowed"}', True),
        (501, b"", True),
        (404, b'{"error":{"message":"The model \'x\' does not exist","code":"model_not_found"}}', False),
        (404, b'{"error":"llama3 not found, try pulling it first"}', False),
        (404, b'{"error":{"message":"Previous response with id \'resp_1\' not found."}}', False),
        (404, b'{"error":{"message":"Voice \'bob\' not found"}}', False),
        (501, b'{"error":{"message":"Start it with --reranking"}}', False),
        (400, b'{"detail":"Not Found"}', False),
        (500, b"404 page not found", False),
    ],
)
def test_a_missing_route_is_told_from_what_else_may_be_missing(status: int, body: bytes, *, absent: bool) -> None:
    """As servers say it. One caller's mistake must not make us believe for all that a route is not there."""
    assert says_absent(status, body, b"/v1/responses") is absent


def test_a_refused_parameter_is_told_from_other_refusals() -> None:
    """It names what it does not take."""
    assert says_no_usage(422, b'{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}')
    assert says_no_usage(400, b'{"error":{"message":"Unknown parameter: include_usage"}}')
    assert not says_no_usage(400, b'{"error":{"message":"temperature is out of range"}}')
    assert not says_no_usage(500, b"stream_options")


def test_twins_mean_what_their_elders_mean() -> None:
    """The same route, not a copy of it."""
    assert ROUTES["/chat/completions"] is ROUTES["/v1/chat/completions"]
    assert ROUTES["/v1/tokenize"] is ROUTES["/tokenize"]
    assert ROUTES["/audio/speech"] is ROUTES["/v1/audio/speech"]
    assert ROUTES["/v2/rerank"].path == b"/v1/rerank"
