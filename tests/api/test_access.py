"""Who may do what, on the wire: with keys of both sorts, and without any."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.fakes.running import CHAT, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK, ADMIN = "ask-key-1234", "admin-key-1234"
PUBLIC = ["/", "/health/live", "/health/ready", "/metrics"]
DATA = [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/echo"), ("GET", "/v1/nothing")]
ADMINS = [
    ("GET", "/admin/residency"),
    ("GET", "/admin/events"),
    ("GET", "/admin/plan?model=echo"),
    ("GET", "/admin/logs?model=echo"),
    ("POST", "/admin/models/echo/load"),
    ("GET", "/admin/nothing"),
    # as the router reads them, these are the same places
    ("GET", "//admin/residency"),
    ("GET", "/admin//residency/"),
    ("GET", "/%61dmin/residency"),
    ("GET", "http://127.0.0.1/admin/residency"),
]
FOREIGN = [
    [("origin", "https://evil.example")],
    [("origin", "null")],
    [("origin", "http://localhost.evil.example")],
    [("origin", "http://[::1")],
    [("host", "evil.example")],
    [("host", "evil.example:8080"), ("origin", "http://localhost")],
    [("host", "[::1")],
]
LOCAL = [
    [],
    [("host", "localhost:8080")],
    [("host", "[::1]:8080")],
    [("origin", "http://localhost:3000")],
    [("origin", "http://127.0.0.1"), ("host", "127.0.0.1:1")],
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """With one key of each sort, the asking one from the environment."""
    toml = f"""
    [server]
    port = 0
    api_keys = ["${{ASK_KEY}}"]
    admin_keys = ["{ADMIN}"]
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    [models.echo]
    targets = ["up/echo"]
    """
    async with running(tmp_path_factory.mktemp("keyed"), toml, {"ASK_KEY": ASK}) as found:
        yield found


def bearing(key: str) -> list[tuple[str, str]]:
    """The key where SDKs put it."""
    return [("authorization", f"Bearer {key}")]


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_routes_need_no_key(keyed: Running, path: str) -> None:
    """They tell nothing about requests."""
    assert (await ask(keyed.port, "GET", path)).status == 200


@pytest.mark.parametrize(("method", "path"), [*DATA, *ADMINS])
async def test_missing_or_wrong_key_is_401(keyed: Running, upstream: FakeUpstream, method: str, path: str) -> None:
    """In the envelope, with the scheme; nothing is done."""
    before = len(upstream.requests)
    body = chat("echo") if method == "POST" else None
    for fields in ([], bearing("wrong"), bearing(""), [("authorization", "Basic YTpi")], [("x-api-key", ASK + "x")]):
        answer = await ask(keyed.port, method, path, body, fields)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), path
        assert answer.error["type"] == "authentication_error"
        assert answer.field("www-authenticate") == "Bearer"
        assert answer.field("x-request-id")
    assert len(upstream.requests) == before


@pytest.mark.parametrize(("method", "path"), ADMINS)
async def test_asking_key_is_403_on_admin_routes(keyed: Running, method: str, path: str) -> None:
    """Known, but not for this."""
    answer = await ask(keyed.port, method, path, b"" if method == "POST" else None, bearing(ASK))
    assert (answer.status, answer.error["code"]) == (403, "forbidden")
    assert answer.error["type"] == "permission_error"


@pytest.mark.parametrize(
    "fields", [bearing(ASK), bearing(ADMIN), [("x-api-key", ASK)], [("authorization", f"bearer {ASK}")]]
)
async def test_right_key_is_let_in(keyed: Running, upstream: FakeUpstream, fields: list[tuple[str, str]]) -> None:
    """In either field; the upstream sees none of it, and this one has no key of its own."""
    assert (await ask(keyed.port, "POST", CHAT, chat("echo"), fields)).status == 200
    assert upstream.requests[-1].header("authorization") is None
    assert upstream.requests[-1].header("x-api-key") is None
    assert (await ask(keyed.port, "GET", "/v1/models", None, fields)).status == 200


async def test_admin_key_is_let_in_from_any_origin(keyed: Running) -> None:
    """The key is the proof, so a dashboard elsewhere may hold it."""
    answer = await ask(keyed.port, "GET", "/admin/residency", None, [*bearing(ADMIN), ("origin", "https://a.example")])
    assert answer.status == 200


async def test_keys_are_told_to_nobody(keyed: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in answers, nor in the log, nor in what objects say of themselves."""
    caplog.set_level("DEBUG")
    said = ""
    for path in [*PUBLIC, "/v1/models", "/admin/residency", "/admin/nothing", "/admin/logs?model=echo"]:
        for key in (ASK, ADMIN, "wrong-key-1234"):
            answer = await ask(keyed.port, "GET", path, None, bearing(key))
            said += answer.body.decode() + str(answer.fields)
    said += caplog.text + repr(keyed.parts) + repr(vars(keyed.parts.app))
    for key in (ASK, ADMIN, "wrong-key-1234"):
        assert key not in said


@pytest.mark.parametrize("fields", FOREIGN)
async def test_foreign_site_is_403_on_admin_routes_without_keys(
    gateway: Running, fields: list[tuple[str, str]]
) -> None:
    """Neither a page of another site, nor one whose name resolves to this machine."""
    for method, path in (
        ("GET", "/admin/residency"),
        ("POST", "/admin/models/echo/load"),
        ("GET", "//admin/residency"),
    ):
        answer = await ask(gateway.port, method, path, b"" if method == "POST" else None, fields)
        assert (answer.status, answer.error["code"]) == (403, "forbidden")


@pytest.mark.parametrize("fields", LOCAL)
async def test_own_machine_is_let_in_without_keys(gateway: Running, fields: list[tuple[str, str]]) -> None:
    """By any of its names."""
    assert (await ask(gateway.port, "GET", "/admin/residency", None, fields)).status == 200


@pytest.mark.parametrize("fields", [bearing("sk-whatever"), [("origin", "app://a.example")], [("host", "a.example")]])
async def test_anybody_may_ask_without_keys(gateway: Running, fields: list[tuple[str, str]]) -> None:
    """SDKs always send some key, and this one goes nowhere."""
    assert (await ask(gateway.port, "POST", CHAT, chat("echo"), fields)).status == 200
