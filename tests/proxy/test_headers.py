"""Which header fields pass. The law: to an upstream only what is on the list; to the caller all but the other connection's own."""

from __future__ import annotations

import pytest

from gateway.proxy.headers import bearer, first, query_to_upstream, to_caller, to_upstream

HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
)


@pytest.mark.parametrize(
    "name",
    [
        *HOP_BY_HOP,
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"proxy-authorization",
        b"cookie",
        b"host",
        b"content-length",
        b"expect",
        b"accept-encoding",
        b"x-forwarded-for",
        b"origin",
        b"referer",
        b"x-request-id",
    ],
)
def test_to_upstream_drops_the_field_when_it_is_the_callers_own_business(name: bytes) -> None:
    """Keys, cookies, hop-by-hop fields and the caller's address stay here."""
    assert to_upstream([(name, b"secret"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    "name", [b"content-type", b"accept", b"user-agent", b"openai-beta", b"anthropic-version", b"idempotency-key"]
)
def test_to_upstream_passes_what_the_api_means(name: bytes) -> None:
    """Fields that belong to the API go on as they are."""
    assert to_upstream([(name, b"v")]) == [(name, b"v")]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"content-length", b"server", b"date", b"set-cookie", b"x-request-id"])
def test_to_caller_drops_the_field_when_it_belongs_to_the_other_connection(name: bytes) -> None:
    """Framing, cookies and the other server's identity are not ours to give."""
    assert to_caller([(name, b"x"), (b"content-type", b"text/plain")]) == [(b"content-type", b"text/plain")]


def test_to_caller_drops_fields_that_the_connection_field_names() -> None:
    """RFC 9110 §7.6.1: what `Connection` lists is for that connection only."""
    headers = [(b"connection", b"close, X-Debug"), (b"x-debug", b"1"), (b"x-other", b"2")]
    assert to_caller(headers) == [(b"x-other", b"2")]


def test_to_caller_passes_what_sdks_act_upon() -> None:
    """Retry hints and rate limits reach the caller, repeated fields too."""
    headers = [
        (b"retry-after", b"7"),
        (b"retry-after-ms", b"7000"),
        (b"x-should-retry", b"false"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"openai-processing-ms", b"12"),
        (b"vary", b"a"),
        (b"vary", b"b"),
    ]
    assert to_caller(headers) == headers


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer k")], "k"),
        ([(b"authorization", b"bearer  k ")], "k"),
        ([(b"authorization", b"Basic dTpw")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"x-api-key", b" k ")], "k"),
        ([(b"x-api-key", b"")], None),
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"k")], "k"),
        ([(b"authorization", "Bearer schlüssel".encode())], "schlüssel"),
    ],
)
def test_bearer_finds_the_callers_key(headers: list[tuple[bytes, bytes]], key: str | None) -> None:
    """In either field, whatever the case of the scheme; a key of any script is read as the configuration has it."""
    assert bearer(headers) == key


def test_bearer_takes_any_bytes() -> None:
    """A key that is no text is a wrong key, not a crash."""
    assert bearer([(b"authorization", b"Bearer \xff\xfe")]) is not None


def test_first_gives_the_first_value() -> None:
    """And None where there is none."""
    assert first([(b"a", b"1"), (b"a", b"2")], b"a") == b"1"
    assert first([(b"a", b"1")], b"b") is None


@pytest.mark.parametrize(
    ("query", "passed"),
    [
        (b"beta=true", b"?beta=true"),
        (b"beta=true&api_key=sk-1&x=2", b"?beta=true&x=2"),
        (b"API-Key=sk-1", b""),
        (b"key=sk-1&token=sk-2", b""),
        (b"keys=1", b"?keys=1"),
        (b"a&b", b"?a&b"),
        (b"", b""),
    ],
)
def test_a_query_goes_on_without_the_callers_keys(query: bytes, passed: bytes) -> None:
    """Whose they are nobody knows; ours must not reach an upstream."""
    assert query_to_upstream(query) == passed
