"""The log's lines: for people and as JSON, with the request's id, and never with a key or a line of somebody else's."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import pytest

from gateway.cli.logs import JsonLine, Line, masked
from gateway.metering import request_id

KEY = "rh-0123456789abcdef0123"


def record(message: str, *args: object, failed: bool = False) -> logging.LogRecord:
    """One line of the log."""
    info: Any = None
    if failed:
        try:
            raise ValueError(f"broken\nby {KEY}")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("roundhouse.requests", logging.WARNING, __file__, 1, message, args, info)


def as_json(made: logging.LogRecord) -> dict[str, str]:
    """It is one line of ASCII."""
    text = JsonLine().format(made)
    assert text.isascii()
    assert len(text.splitlines()) == 1
    return json.loads(text)


def test_a_json_line_has_its_fields() -> None:
    """Time in UTC, level, logger and message; no id where there is no request."""
    said = as_json(record("%s did not load", "local/x"))
    assert said.pop("time").endswith("Z")
    assert said == {"level": "warning", "logger": "roundhouse.requests", "message": "local/x did not load"}


@pytest.mark.parametrize("evil", ["a\nb", "a\r\nb", "a\u2028b", "a\x85b", "\x1b[31mred", "\ud800"], ids=ascii)
def test_nobody_begins_a_line_of_his_own(evil: str) -> None:
    """As JSON nothing is lost by that."""
    assert as_json(record(evil))["message"] == evil
    assert len(Line().format(record(evil)).splitlines()) == 1


def test_an_exception_is_one_field_or_indented() -> None:
    """With its traceback, and without the key that it names."""
    said = as_json(record("unforeseen", failed=True))["exception"]
    assert said.startswith("Traceback")
    assert "ValueError: broken" in said
    first, *others = Line().format(record("unforeseen", failed=True)).split("\n")
    assert first.endswith("unforeseen")
    assert others
    assert all(line.startswith("    ") for line in others)
    assert KEY not in said + "".join(others)


@pytest.mark.parametrize(
    "text",
    [
        f"key {KEY} was refused",
        "Authorization: Bearer hunter2secret",
        "{'authorization': b'Bearer hunter2secret'}",
        '{"api_key": "hunter2secret"}',
        "?api_key=hunter2secret&x=1",
        "postgresql://me:hunter2secret@db/x",
        "sk-hunter2secret-and-more",
        "cookie: rh_session=hunter2secret",
        "password=hunter2secret",
    ],
)
def test_what_looks_like_a_key_is_masked(text: str) -> None:
    """In both forms; the rest of the line stays."""
    assert "hunter2secret" not in masked(text)
    assert KEY not in masked(text)
    assert "***" in masked(text)
    assert "hunter2secret" not in Line().format(record(text)) + JsonLine().format(record(text))


@pytest.mark.parametrize(
    "text",
    ["evicted B for C: 18.2 GB needed", "http://127.0.0.1:8080/v1", "rh-short", "tokens: 12", "2 keys, 3 secrets"],
)
def test_what_is_no_key_stays(text: str) -> None:
    """Words and addresses are not mangled."""
    assert masked(text) == text


async def test_a_line_names_its_request() -> None:
    """Two at once each have their own; what they have begun has it, too, but not beyond their end."""
    ended = asyncio.Event()
    seen: dict[str, list[str]] = {}

    async def later(name: str) -> None:
        seen[name].append(request_id.current())
        await ended.wait()
        seen[name].append(as_json(record("x")).get("request_id", "none"))

    async def serve(name: str) -> asyncio.Task[None]:
        state = {"fields": [(b"x-request-id", name.encode())]}
        request_id.begin(state)
        seen[name] = [as_json(record("x"))["request_id"]]
        assert Line().format(record("x")).endswith(f"x [{name}]")
        begun = asyncio.create_task(later(name))
        await asyncio.sleep(0)
        request_id.end(state)
        return begun

    begun = await asyncio.gather(asyncio.create_task(serve("req-a")), asyncio.create_task(serve("req-b")))
    ended.set()
    await asyncio.gather(*begun)
    assert seen == {name: [name, name, "none"] for name in ("req-a", "req-b")}
    assert request_id.current() == ""
