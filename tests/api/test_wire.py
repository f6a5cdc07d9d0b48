"""What a caller sees on the wire of a plain answer: errors in one form, ids on everything, bytes that pass as they are."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.api.conftest import FIRST_BYTE_S, UPSTREAM_KEY
from tests.fakes.running import CHAT, Caller, Running, ask, chat
from tests.fakes.upstream import CUT, HOLD, RESET, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMED = pytest.mark.parametrize("stream", [False, True])


# ---------------------------------------------------------------- errors of the caller's


@STREAMED
@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_json", None),
        (b"{nope", 400, "invalid_json", None),
        (b"[]", 400, "invalid_json", None),
        (b'{"model":"echo","x":"\xff"}', 400, "invalid_json", None),
        (b'{"model":"echo","x":' + b"[" * 3000 + b"]" * 3000 + b"}", 400, "invalid_json", None),
        (b'{"messages":[]}', 400, "missing_model", "model"),
        (b'{"model":7}', 400, "invalid_model", "model"),
        (b'{"model":""}', 400, "invalid_model", "model"),
        (b'{"model":"ecko"}', 404, "model_not_found", "model"),
    ],
)
async def test_bad_body_is_told_in_the_envelope(
    gateway: Running, upstream: FakeUpstream, body: bytes, status: int, code: str, param: str | None, *, stream: bool
) -> None:
    """The same JSON error whether a stream was asked for or not, and nothing goes upstream."""
    before = len(upstream.requests)
    if stream and body.startswith(b'{"m'):
        body = body[:-1] + b',"stream":true}'
    answer = await ask(gateway.port, "POST", CHAT, body)
    assert answer.status == status
    assert (answer.error["code"], answer.error["param"]) == (code, param)
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["source"] == "gateway"
    assert answer.field("x-should-retry") is None
    assert len(upstream.requests) == before


async def test_unknown_model_is_named_with_its_neighbours(gateway: Running) -> None:
    """The name is in the message, and what is near it."""
    answer = await ask(gateway.port, "POST", CHAT, chat("ecko"))
    assert "'ecko'" in answer.error["message"]
    assert "'echo'" in answer.error["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_method_on_a_data_route_is_405(gateway: Running, method: str) -> None:
    """With what it takes."""
    answer = await ask(gateway.port, method, CHAT)
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.field("allow") == "POST"


async def test_other_method_on_another_route_is_405(gateway: Running) -> None:
    """In the same form."""
    answer = await ask(gateway.port, "POST", "/v1/models", {})
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert "GET" in str(answer.field("allow"))


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/chat", "/admin/nothing", "/v1/chat/completions/x"])
async def test_unknown_path_is_404_in_the_envelope(gateway: Running, path: str) -> None:
    """Not the framework's own form."""
    answer = await ask(gateway.port, "GET", path)
    assert (answer.status, answer.error["code"]) == (404, "not_found")


async def test_head_of_the_root_is_200_without_a_body(gateway: Running) -> None:
    """Coding agents probe with it."""
    async with Caller(gateway.port) as caller:
        await caller.ask("HEAD", "/")
        assert (await caller.head())[0] == 200
        await caller.ask("GET", "/health/live")
        assert (await caller.answer()).json() == {"status": "ok"}


async def test_host_that_is_none_is_told_in_the_envelope(gateway: Running) -> None:
    """Refused before any handler, and still with an id."""
    answer = await ask(gateway.port, "GET", "/v1/models", None, [("host", "a b")])
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert answer.field("x-request-id")


# ---------------------------------------------------------------- request ids


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CHAT, chat("echo")),
        ("POST", CHAT, chat("echo", stream=True)),
        ("POST", CHAT, b"{"),
        ("POST", CHAT, chat("nix")),
        ("POST", CHAT, chat("unreachable")),
        ("GET", CHAT, None),
        ("POST", f"/{CHAT}/", chat("echo")),
        ("GET", "/", None),
        ("HEAD", "/", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/nix", None),
        ("GET", "/nix", None),
        ("GET", "/metrics", None),
        ("GET", "/health/ready", None),
        ("GET", "/admin/residency", None),
        ("POST", "/admin/models/echo/load", b""),
        ("GET", "/admin/plan", None),
    ],
)
async def test_every_answer_has_one_request_id(gateway: Running, method: str, path: str, body: bytes | None) -> None:
    """Ours, or the caller's own where that can stand in a log; never two."""
    answer = await ask(gateway.port, method, path, body)
    assert re.fullmatch(r"req-[0-9a-f]{12}-[0-9a-f]+", str(answer.field("x-request-id")))
    answer = await ask(gateway.port, method, path, body, [("x-request-id", "my-id_1.2:3")])
    assert answer.field("x-request-id") == "my-id_1.2:3"


@pytest.mark.parametrize("hostile", ["", "a b", "x" * 129, "a\tb", "ü", "<script>", "a,b", '"'])
async def test_hostile_request_id_is_replaced(gateway: Running, hostile: str) -> None:
    """It is written into logs and header fields."""
    for path, body in ((CHAT, chat("nix")), ("/admin/residency", None)):
        answer = await ask(gateway.port, "POST" if body else "GET", path, body, [("x-request-id", hostile)])
        assert str(answer.field("x-request-id")).startswith("req-")


async def test_request_ids_differ(gateway: Running) -> None:
    """Also on one connection."""
    async with Caller(gateway.port) as caller:
        ids: set[str | None] = set()
        for _ in range(5):
            await caller.ask("GET", "/v1/models")
            ids.add((await caller.answer()).field("x-request-id"))
    assert len(ids) == 5


# ---------------------------------------------------------------- bytes in, bytes out

BIG = (
    b'{"messages" : [ {"role":"user","content":"'
    + b"caf\xc3\xa9 \\u0000 \\n" * 6_000
    + b'"} ],\r\n\t"seed":123456789012345678901234567890,"top_p":1.0e-7,"x":null,"unknown":{"model":"nested"},'
    + b'"tools":[],"model":"echo","n":1.10}'
)


async def test_body_goes_upstream_byte_for_byte(gateway: Running, upstream: FakeUpstream) -> None:
    """Eighty kilobytes with unknown fields, nulls, big integers, odd spaces and escapes."""
    assert len(BIG) > 80_000
    answer = await ask(gateway.port, "POST", f"{CHAT}?beta=true&x=%20", BIG)
    assert answer.status == 200
    assert upstream.requests[-1].body == BIG
    assert upstream.requests[-1].path == f"{CHAT}?beta=true&x=%20"


async def test_only_the_models_bytes_change_when_the_target_has_another_name(
    gateway: Running, upstream: FakeUpstream
) -> None:
    """Everything else stays where and what it was."""
    body = BIG.replace(b'"model":"echo"', b'"model":"renamed"')
    assert (await ask(gateway.port, "POST", CHAT, body)).status == 200
    assert upstream.requests[-1].body == BIG.replace(b'"model":"echo"', b'"model":"other-name"')


async def test_alias_goes_upstream_as_the_upstreams_own_name(gateway: Running, upstream: FakeUpstream) -> None:
    """Nobody behind us knows our aliases."""
    assert (await ask(gateway.port, "POST", CHAT, chat("alias"))).status == 200
    assert upstream.requests[-1].json()["model"] == "echo"


@pytest.mark.parametrize("path", [f"/{CHAT}", f"{CHAT}/", "/v1//chat///completions//"])
async def test_odd_slashes_reach_the_route_and_go_upstream_clean(
    gateway: Running, upstream: FakeUpstream, path: str
) -> None:
    """And are one route in the metrics: who asks cannot make up new ones."""
    assert (await ask(gateway.port, "POST", path, chat("echo"))).status == 200
    assert upstream.requests[-1].path == CHAT
    assert {route for route, _ in gateway.parts.metrics.requests} == {CHAT}


@pytest.mark.parametrize("size", [0, 1, 80_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_answer_comes_back_byte_for_byte(
    gateway: Running, upstream: FakeUpstream, size: int, framing: str
) -> None:
    """Whatever its size and framing; fields for SDKs pass, the connection's own do not."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-odd\r\nopenai-processing-ms: 5\r\nset-cookie: a=b\r\n"
    if framing == "length":
        upstream.queue(head + b"content-length: %d\r\n\r\n" % size, body)
    elif framing == "chunked":
        chunk = b"%x\r\n%b\r\n" % (size, body) if size else b""
        upstream.queue(head + b"transfer-encoding: chunked\r\n\r\n", chunk + b"0\r\n\r\n")
    else:
        upstream.queue(head + b"connection: close\r\n\r\n", body, CUT)
    answer = await ask(gateway.port, "POST", CHAT, chat("echo"))
    assert (answer.status, answer.body) == (200, body)
    assert answer.field("content-type") == "application/x-odd"
    assert answer.field("openai-processing-ms") == "5"
    assert answer.field("set-cookie") is None


@STREAMED
@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (400, {}),
        (403, {}),
        (404, {}),
        (422, {}),
        (429, {"retry-after": "7", "retry-after-ms": "7000", "x-should-retry": "true"}),
        (500, {"x-should-retry": "false"}),
        (529, {}),
    ],
)
async def test_upstreams_own_error_passes_unchanged(
    gateway: Running, upstream: FakeUpstream, status: int, fields: dict[str, str], *, stream: bool
) -> None:
    """Its status, its body to the byte, and its hints to SDKs; no other target is asked."""
    body = b'{"error": {"message":"no \\u00e9",  "code":null, "mine":1}}'
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    head = f"HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\n{lines}content-length: {len(body)}\r\n\r\n"
    upstream.queue(head.encode() + body)
    before = len(upstream.requests)
    answer = await ask(gateway.port, "POST", CHAT, chat("echo", stream=stream))
    assert (answer.status, answer.body) == (status, body)
    for name in ("retry-after", "retry-after-ms", "x-should-retry"):
        assert answer.field(name) == fields.get(name)
    assert len(upstream.requests) == before + 1


@STREAMED
async def test_upstream_that_refuses_our_key_is_not_the_callers_401(
    gateway: Running, upstream: FakeUpstream, *, stream: bool
) -> None:
    """The caller's own key was right; and what upstreams say of a refused key may show a part of it."""
    body = b'{"error": {"message": "Incorrect API key provided: upst****5678", "code": "invalid_api_key"}}'
    head = f"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    upstream.queue(head.encode() + body)
    answer = await ask(gateway.port, "POST", CHAT, chat("echo", stream=stream))
    assert (answer.status, answer.error["code"], answer.error["source"]) == (502, "upstream_key_refused", "up")
    assert "providers.up.api_key" in answer.error["message"]
    assert answer.field("x-should-retry") == "false"
    assert b"5678" not in answer.body


# ---------------------------------------------------------------- upstreams that fail


@STREAMED
async def test_unreachable_upstream_is_502(gateway: Running, *, stream: bool) -> None:
    """And says which; it may be tried again."""
    answer = await ask(gateway.port, "POST", CHAT, chat("unreachable", stream=stream))
    assert (answer.status, answer.error["code"], answer.error["source"]) == (502, "upstream_unreachable", "dead")
    assert answer.field("x-should-retry") is None


@STREAMED
async def test_silent_upstream_is_504_and_not_asked_again(
    gateway: Running, upstream: FakeUpstream, *, stream: bool
) -> None:
    """It may still be working: neither we nor SDKs repeat it, and no other target is tried."""
    for model in ("slow", "impatient"):
        upstream.queue(HOLD)
        before = len(upstream.requests)
        answer = await ask(gateway.port, "POST", CHAT, chat(model, stream=stream))
        assert (answer.status, answer.error["code"], answer.error["source"]) == (504, "upstream_timeout", "slow")
        assert answer.field("x-should-retry") == "false"
        assert len(upstream.requests) == before + 1
        await upstream.until(lambda: upstream.in_flight == 0, FIRST_BYTE_S + 5)


@STREAMED
@pytest.mark.parametrize(
    "garbage",
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", CUT),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",),
        (b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",),
        (CUT,),
        (RESET,),
    ],
)
async def test_garbage_from_the_upstream_is_502(
    gateway: Running, upstream: FakeUpstream, garbage: tuple[bytes, ...], *, stream: bool
) -> None:
    """As long as nothing was handed on, it is a real HTTP error, in our form."""
    upstream.cut_connections()  # on a kept one, an end without a word is no error but a reason to take a fresh one
    await upstream.until(lambda: upstream.open_connections == 0)
    upstream.queue(*garbage)
    answer = await ask(gateway.port, "POST", CHAT, chat("echo", stream=stream))
    assert (answer.status, answer.error["code"], answer.error["source"]) == (502, "upstream_broke", "up")


async def test_long_answer_that_breaks_off_is_cut(gateway: Running, upstream: FakeUpstream) -> None:
    """Its status is out: a connection that ends before the body does is the only honest sign left."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n"
    upstream.queue(head, b"x" * 2_000_000, CUT)
    async with Caller(gateway.port) as caller:
        await caller.ask("POST", CHAT, chat("echo"))
        assert (await caller.head())[0] == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await caller.rest()


@STREAMED
async def test_second_target_is_tried_when_the_first_is_unreachable(
    gateway: Running, upstream: FakeUpstream, *, stream: bool
) -> None:
    """Nothing was sent to the first; the second gets its own name for the model."""
    answer = await ask(gateway.port, "POST", CHAT, chat("fallback", stream=stream))
    assert answer.status == 200
    assert upstream.requests[-1].json()["model"] == "fallback"


# ---------------------------------------------------------------- secrets


async def test_callers_secrets_stay_here_and_the_upstream_gets_its_own_key(
    gateway: Running, upstream: FakeUpstream
) -> None:
    """Authorization, cookies and hop-by-hop fields do not pass; what the API means does."""
    mine = "caller-secret-9876"
    await ask(
        gateway.port,
        "POST",
        CHAT,
        chat("echo"),
        [
            ("authorization", f"Bearer {mine}"),
            ("x-api-key", mine),
            ("cookie", f"session={mine}"),
            ("proxy-authorization", f"Basic {mine}"),
            ("te", "trailers"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", mine),
            ("openai-beta", "assistants=v2"),
            ("user-agent", "probe/1"),
        ],
    )
    sent = upstream.requests[-1]
    assert mine not in str(sent.headers)
    assert sent.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    assert [name for name, _ in sent.headers if name == "authorization"] == ["authorization"]
    assert (sent.header("openai-beta"), sent.header("user-agent")) == ("assistants=v2", "probe/1")
    assert sent.header("cookie") is None


async def test_no_secret_is_told_whatever_goes_wrong(
    gateway: Running, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in answers, nor in the log, nor in what objects say of themselves."""
    mine = "caller-secret-9876"
    caplog.set_level("DEBUG")
    told = b""
    for model, step in (("echo", b"SSH-2.0\r\n"), ("unreachable", None), ("slow", HOLD), ("nix", None)):
        if step is not None:
            upstream.queue(step)
        answer = await ask(gateway.port, "POST", CHAT, chat(model), [("authorization", f"Bearer {mine}")])
        told += answer.body + str(answer.fields).encode()
    for path in ("/admin/residency", "/v1/models", "/metrics"):
        told += (await ask(gateway.port, "GET", path)).body
    said = told.decode() + caplog.text + repr(gateway.parts)
    assert caplog.records
    assert mine not in said
    assert UPSTREAM_KEY not in said


async def test_error_bodies_are_json_that_any_client_reads(gateway: Running) -> None:
    """Also when a name holds what JSON must escape."""
    answer = await ask(gateway.port, "POST", CHAT, {"model": 'a"b\\c\n<é>\u2028'})
    assert answer.status == 404
    assert 'a"b\\c\n<é>\u2028' in json.loads(answer.body)["error"]["message"]
