"""Logging in with a browser: the cookie, what it opens, what another site cannot do with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.access.door import Access
from gateway.access.sessions import FREE_FAILURES, IDLE_S
from gateway.api.session import admin_comer, comer, cookie_of, refuse_forged, session_routes
from gateway.errors import Forbidden, InvalidRequest, Unauthenticated
from tests.access.doors import TENANT, Clock, config_of
from tests.api.small import small
from tests.fakes.running import Answer, Fields, ask

on_one_loop = pytest.mark.asyncio(loop_scope="module")
CONFIG = (
    TENANT
    + """
[keys.boss]
key = "k-boss"
admin = true
[keys.plain]
key = "k-plain"
[keys.many]
key = "k-many"
tenants = ["*"]
"""
)
HOST = (b"host", b"gw.example:8080")
ORIGIN = (b"origin", b"http://gw.example:8080")
MARK = (b"x-roundhouse", b"dashboard")


class Desk:
    """The routes on a port, and the door behind them."""

    def __init__(self, access: Access, port: int, clock: Clock) -> None:
        self.access = access
        self.port = port
        self.clock = clock

    async def login(self, key: object, fields: Fields = ()) -> Answer:
        return await ask(self.port, "POST", "/admin/login", {"key": key}, fields)

    async def cookie(self, key: str) -> str:
        """Logged in; what the browser sends back."""
        answer = await self.login(key)
        assert answer.status == 204
        return (answer.field("set-cookie") or "").partition(";")[0]

    async def session(self, *fields: tuple[str, str]) -> dict[str, object]:
        answer = await ask(self.port, "GET", "/admin/session", None, fields)
        assert answer.status == 200
        said = answer.json()
        assert said.pop("version")
        return said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Desk, None]:
    """With keys."""
    clock = Clock()
    access = Access(config_of(tmp_path_factory.mktemp("session"), CONFIG), clock=clock, ticks=clock)
    async with small(session_routes(access)) as port:
        yield Desk(access, port, clock)


@on_one_loop
async def test_login_gives_a_cookie_that_no_script_reads(desk: Desk) -> None:
    """HttpOnly, for this site only; Secure where the way here was https."""
    answer = await desk.login("k-boss")
    assert answer.status == 204
    assert answer.body == b""
    name, *attributes = (answer.field("set-cookie") or "").split("; ")
    assert name.startswith("rh_session=")
    assert set(attributes) == {"Max-Age=604800", "Path=/", "HttpOnly", "SameSite=Strict"}
    assert "k-boss" not in name
    secure = await desk.login("k-boss", [("x-forwarded-proto", "https, http")])
    assert (secure.field("set-cookie") or "").endswith("; Secure")


@on_one_loop
async def test_session_is_told_to_anybody(desk: Desk) -> None:
    """Whether one has to log in, and as whom one is; never 401."""
    nobody = {"needed": True, "name": "", "admin": False}
    assert await desk.session() == nobody
    assert await desk.session(("cookie", "rh_session=wrong")) == nobody
    assert await desk.session(("authorization", "Bearer wrong")) == nobody
    boss = {"needed": True, "name": "boss", "admin": True}
    assert await desk.session(("cookie", f"a=b; {await desk.cookie('k-boss')}")) == boss
    assert await desk.session(("authorization", "Bearer k-boss")) == boss
    assert (await desk.session(("cookie", await desk.cookie("k-plain"))))["admin"] is False


@on_one_loop
async def test_session_without_keys_is_the_operators(tmp_path: Path) -> None:
    """Nobody has to log in, and a wrong key logs nobody in."""
    access = Access(config_of(tmp_path))
    async with small(session_routes(access)) as port:
        desk = Desk(access, port, Clock())
        assert await desk.session() == {"needed": False, "name": "local", "admin": True}
        assert (await desk.login("wrong")).status == 401


@pytest.mark.parametrize("key", ["wrong", "rh-wrong", "k-boss2", "é"])
@on_one_loop
async def test_wrong_key_is_401(desk: Desk, key: str) -> None:
    """In the usual form; the key is not said again."""
    assert (await desk.login("k-boss")).status == 204  # forgives former failures
    answer = await desk.login(key)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert key not in answer.body.decode()
    assert answer.field("set-cookie") is None


@pytest.mark.parametrize("key", [None, "", " ", 5, ["k-boss"], "x" * 5000])
@on_one_loop
async def test_login_without_a_key_is_400(desk: Desk, key: object) -> None:
    """It says what is wanted."""
    answer = await desk.login(key)
    assert (answer.status, answer.error["param"]) == (400, "key")


@on_one_loop
async def test_guessing_is_slowed_down(desk: Desk) -> None:
    """After five failures even the right key waits a second."""
    assert (await desk.login("k-boss")).status == 204
    for _ in range(FREE_FAILURES):
        assert (await desk.login("wrong")).status == 401
    answer = await desk.login("k-boss")
    assert (answer.status, answer.error["code"]) == (429, "login_throttled")
    desk.clock.now_s += 1
    assert (await desk.login("k-boss")).status == 204
    assert (await desk.login("wrong")).status == 401


@on_one_loop
async def test_logout_ends_the_session_and_takes_the_cookie(desk: Desk) -> None:
    """Another site cannot do it; without a cookie nothing happens."""
    cookie = await desk.cookie("k-boss")
    forged = await ask(desk.port, "POST", "/admin/logout", b"", [("cookie", cookie)])
    assert forged.status == 403
    ours = [("cookie", cookie), ("x-roundhouse", "dashboard"), ("origin", "http://127.0.0.1")]
    answer = await ask(desk.port, "POST", "/admin/logout", b"", ours)
    assert answer.status == 204
    assert (answer.field("set-cookie") or "").startswith("rh_session=; Max-Age=0; ")
    assert (await desk.session(("cookie", cookie)))["name"] == ""
    assert (await ask(desk.port, "POST", "/admin/logout", b"")).status == 204


@on_one_loop
async def test_other_site_cannot_log_a_browser_in(desk: Desk) -> None:
    """Its work would be booked to somebody else's key."""
    assert (await desk.login("k-boss", [("origin", "https://evil.example")])).status == 403
    assert (await desk.login("k-boss", [("origin", "null")])).status == 403
    assert (await desk.login("k-boss", [("origin", "http://127.0.0.1")])).status == 204


# what a cookie opens


def with_cookie(access: Access, key: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """As a browser sends it."""
    return [HOST, (b"cookie", f"x=1; rh_session={access.login(key, '')}".encode()), *more]


def test_cookie_opens_what_its_key_opens(tmp_path: Path) -> None:
    """A key that is sent, too, counts more."""
    access = Access(config_of(tmp_path, CONFIG))
    assert comer(access, "GET", with_cookie(access, "k-plain")).name == "plain"
    assert admin_comer(access, "GET", with_cookie(access, "k-boss")).name == "boss"
    with pytest.raises(Forbidden):
        admin_comer(access, "GET", with_cookie(access, "k-plain"))
    key = (b"authorization", b"Bearer k-plain")
    assert comer(access, "POST", with_cookie(access, "k-boss", key)).name == "plain"
    assert comer(access, "GET", with_cookie(access, "k-many", (b"x-tenant-id", b"red-team"))).tenant == "red-team"
    with pytest.raises(InvalidRequest):
        comer(access, "GET", with_cookie(access, "k-many"))


def test_cookie_of_a_session_that_is_over_is_none(tmp_path: Path) -> None:
    """The door is as it is without one."""
    clock = Clock()
    access = Access(config_of(tmp_path, CONFIG), clock=clock, ticks=clock)
    fields = with_cookie(access, "k-boss")
    clock.now_s += IDLE_S
    for ask_for in (comer, admin_comer):
        with pytest.raises(Unauthenticated):
            ask_for(access, "GET", fields)
    (tmp_path / "open").mkdir()
    assert comer(Access(config_of(tmp_path / "open")), "POST", fields).name == "local"


@pytest.mark.parametrize(
    "fields",
    [
        [HOST],
        [HOST, ORIGIN],
        [HOST, MARK],
        [HOST, MARK, (b"origin", b"null")],
        [HOST, MARK, (b"origin", b"https://evil.example")],
        [HOST, MARK, (b"origin", b"http://gw.example")],
        [HOST, MARK, (b"origin", b"http://gw.example:8081")],
        [HOST, MARK, (b"origin", b"http://gw.example.evil:8080")],
        [HOST, MARK, (b"origin", b"http://[::1")],
        [HOST, ORIGIN, (b"x-roundhouse", b"other")],
        [ORIGIN, MARK],
    ],
)
def test_cookie_alone_moves_nothing(tmp_path: Path, fields: list[tuple[bytes, bytes]]) -> None:
    """Without our own header field, or with an Origin that is not ours; reading is allowed."""
    access = Access(config_of(tmp_path, CONFIG))
    cookie = with_cookie(access, "k-boss")[1]
    for method in ("POST", "DELETE", "PUT", "PATCH"):
        for ask_for in (comer, admin_comer):
            with pytest.raises(Forbidden):
                ask_for(access, method, [cookie, *fields])
    assert admin_comer(access, "GET", [cookie, *fields]).name == "boss"


@pytest.mark.parametrize(
    "fields",
    [
        [HOST, ORIGIN, MARK],
        [(b"host", b"gw.example"), (b"origin", b"https://gw.example"), MARK],
        [(b"host", b"gw.example:443"), (b"origin", b"https://GW.example"), MARK],
        [(b"host", b"[::1]:8080"), (b"origin", b"http://[::1]:8080"), MARK],
        [(b"host", b"127.0.0.1:9"), (b"x-forwarded-host", b"gw.example"), (b"origin", b"https://gw.example"), MARK],
    ],
)
def test_our_own_page_moves_what_it_likes(fields: list[tuple[bytes, bytes]]) -> None:
    """Also behind a proxy that ends TLS, or has its own word for us."""
    refuse_forged("POST", fields)


@pytest.mark.parametrize(
    ("said", "token"),
    [
        (b"rh_session=abc", "abc"),
        (b'a=1;  rh_session="abc" ; b=2', "abc"),
        (b"xrh_session=abc", None),
        (b"rh_session=", None),
        (b"a=rh_session=abc", None),
        (b"", None),
    ],
)
def test_cookie_is_read(said: bytes, token: str | None) -> None:
    """Among others, and no other."""
    assert cookie_of([(b"cookie", said)]) == token


@on_one_loop
async def test_cookies_are_told_to_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by the log nor by what the door says of itself."""
    caplog.set_level("DEBUG")
    token = (await desk.cookie("k-boss")).partition("=")[2]
    await desk.session(("cookie", f"rh_session={token}"))
    assert token not in caplog.text + repr([vars(desk.access), vars(desk.access.sessions)])
