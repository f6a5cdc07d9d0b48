"""Which header fields pass, in and out. Pure; names are lower-case bytes.

To an upstream only what is on a list goes: the caller's key, cookies and hop-by-hop fields cannot slip through. To the caller
everything goes except what belongs to the other connection.
Source: RFC 9110 §7.6.1 (hop-by-hop fields).
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any

Headers = Iterable[tuple[bytes, bytes]]

_TO_UPSTREAM = frozenset(
    (
        b"accept",
        b"accept-language",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    )
)
_NOT_TO_CALLER = frozenset(
    (
        b"connection",
        b"content-length",  # set anew where it is known
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",  # every answer carries ours
        # the engine behind us speaks for itself, not for this address
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"access-control-max-age",
        b"alt-svc",
        b"strict-transport-security",
    )
)
# Proxies in front of us must not collect a stream: nginx heeds the second field, caches the first.
STREAM_FIELDS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class Head:
    """A caller's header fields, with what has been made of them: a caller sends the same ones with request after request.

    `made` is for whoever makes something of them, under a mark of its own; the body's length is not to be relied on.
    """

    __slots__ = ("fields", "made", "to_upstream")

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        self.fields = fields
        self.made: dict[object, Any] = {}
        self.to_upstream = to_upstream(fields)  # those that an upstream may see; the same list each time


def to_upstream(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The caller's fields that an upstream may see."""
    return [field for field in headers if field[0] in _TO_UPSTREAM]


# As clients of other APIs send a key (Google's `key`, Azure's `api-key`): whose it is, we do not know.
_KEYS = frozenset((b"access_token", b"api-key", b"api_key", b"apikey", b"key", b"token"))


def query_to_upstream(query: bytes) -> bytes:
    """The caller's query without what may be a key of its own."""
    kept = [part for part in query.split(b"&") if part.partition(b"=")[0].lower() not in _KEYS]
    return b"?" + b"&".join(kept) if kept and query else b""


_OF_THE_BODY = frozenset((b"accept", b"content-type"))


def translated_to_upstream(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The same where the body is ours: it is JSON whatever the caller's was announced as (`curl -d` announces a form)."""
    kept = [field for field in headers if field[0] in _TO_UPSTREAM and field[0] not in _OF_THE_BODY]
    return [(b"content-type", b"application/json"), *kept]


def to_caller(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The upstream's fields that the caller may see, without its length."""
    named: list[bytes] = []
    passed: list[tuple[bytes, bytes]] = []
    for field in headers:
        if field[0] not in _NOT_TO_CALLER:
            passed.append(field)
        elif field[0] == b"connection":
            named += [name.strip() for name in field[1].lower().split(b",")]
    return [field for field in passed if field[0] not in named] if named else passed


def first(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field, None where it is absent."""
    for key, value in headers:
        if key == name:
            return value
    return None


def is_form(headers: Headers) -> bool:
    """Whether the body is announced as multipart."""
    kind = first(headers, b"content-type")
    return kind is not None and kind.lstrip()[:10].lower() == b"multipart/"


def retry_after_s(headers: Headers) -> float | None:
    """How long an upstream asks to be left alone, None where it does not say so in a form we can read.

    A date counts from the answer's own Date: the two clocks need not agree. Source: RFC 9110 §10.2.3; OpenAI's retry-after-ms.
    """
    said: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"retry-after", b"retry-after-ms", b"date"):
            said[name] = value.strip()
    try:
        if b"retry-after-ms" in said:
            return _seconds(float(said[b"retry-after-ms"]) / 1000)
        after = said.get(b"retry-after")
        if after is None:
            return None
        if after[:1].isdigit():
            return _seconds(float(after))
        until, now = (parsedate_to_datetime(text.decode("latin-1")) for text in (after, said[b"date"]))
        return _seconds((until - now).total_seconds())
    except (ValueError, KeyError, TypeError):
        return None


def _seconds(number: float) -> float | None:
    return number if 0 <= number < 1e9 else None


def bearer(headers: Headers) -> str | None:
    """The caller's key, from `Authorization: Bearer …` or `x-api-key`; None without one."""
    for key, value in headers:
        if key == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and token.strip():
                return token.strip().decode("utf-8", "surrogateescape")
        elif key == b"x-api-key" and value.strip():
            return value.strip().decode("utf-8", "surrogateescape")
    return None
