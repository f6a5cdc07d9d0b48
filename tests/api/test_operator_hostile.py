"""What a tenant's user, a page in an admin's browser, a former admin and an operator who mistypes may try."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from gateway.access.door import Access
from gateway.access.sessions import FREE_FAILURES, IDLE_S
from gateway.api.errors import tell
from gateway.api.keys import key_routes
from gateway.api.session import admin_comer, refuse_forged, session_routes, while_admin
from gateway.api.settings import values_of
from gateway.api.tenants import tenant_routes
from gateway.api.terms import BODY_MAX_BYTES
from gateway.cli.commands import roundhouse
from gateway.errors import Forbidden, Unauthenticated
from gateway.metering.capture import masked, redacted
from gateway.storage.database import DatabaseUnavailable
from providers.errors import LoadFailed
from tests.access.doors import TENANT, Clock, config_of, door
from tests.api.small import small
from tests.fakes.running import CHAT, Answer, Running, ask, chat, running
from tests.fakes.upstream import FakeUpstream

on_one_loop = pytest.mark.asyncio(loop_scope="module")
KEY = "rh-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789_-AbCdE"
ADMIN = "admin-key-1234567890"
ASKER = [("authorization", "Bearer asker-key-1234567890")]
MANY = [("authorization", "Bearer many-key-1234567890")]
HIDDEN = ("hidden-one", "hidden-two")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Running, None]:
    """A key that may ask for few models, and one that names its tenant."""
    toml = f"""
    [server]
    port = 0
    admin_keys = ["{ADMIN}"]
    [tenants.red-team]
    [tenants.blue-team]
    models = ["public*"]
    [keys.asker]
    key = "asker-key-1234567890"
    models = ["public*"]
    [keys.many]
    key = "many-key-1234567890"
    tenants = ["*"]
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    [models.public]
    targets = ["up/echo"]
    [models.hidden-one]
    targets = ["up/one"]
    aliases = ["public-alias"]
    [models.hidden-two]
    targets = ["up/two"]
    """
    async with running(tmp_path_factory.mktemp("hostile"), toml) as found:
        yield found


# ------------------------------------------------------------ a tenant's user


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("hidden-one", 403),
        ("public-alias", 403),
        ("up/one", 403),
        ("up/one:latest", 403),
        ("hidden-on", 404),
        ("HIDDEN-ONE", 404),
        ("x" * 5000, 404),
    ],
)
@on_one_loop
async def test_models_of_others_are_not_named(keyed: Running, name: str, status: int) -> None:
    """Neither as what an alias means nor as what looks like it: the answer holds no name that was not in the question."""
    for answer in (
        await ask(keyed.port, "GET", f"/v1/models/{name}", None, ASKER),
        await ask(keyed.port, "POST", "/api/show", {"model": name}, ASKER),
    ):
        assert answer.status == status
        assert not any(hidden in answer.body.decode().replace(name, "") for hidden in HIDDEN)
        assert len(answer.body) < 1000 or status == 403


@on_one_loop
async def test_who_may_ask_for_all_is_told_what_looks_like_it(keyed: Running) -> None:
    """A slip is a slip."""
    answer = await ask(keyed.port, "GET", "/v1/models/hidden-on", None, [("authorization", f"Bearer {ADMIN}")])
    assert "'hidden-one'" in answer.error["message"]


@pytest.mark.parametrize("second", ["blue-team", "red-team", ""])
@on_one_loop
async def test_two_tenants_in_one_request_are_refused(keyed: Running, second: str) -> None:
    """Whatever stands between us may have looked at the other one."""
    fields = [*MANY, ("x-tenant-id", "red-team"), ("X-Tenant-ID", second)]
    answer = await ask(keyed.port, "POST", CHAT, chat("hidden-one"), fields)
    assert (answer.status, answer.error["code"]) == (400, "tenant_required")
    assert (await ask(keyed.port, "POST", CHAT, chat("hidden-one"), fields[:-1])).status == 200


# ------------------------------------------------------------ a page in somebody's browser


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[::1", "http://localhost.evil.example"])
@on_one_loop
async def test_page_of_another_site_spends_nothing(gateway: Running, upstream: FakeUpstream, origin: str) -> None:
    """Without keys it could ask, if not read: a browser sends text/plain anywhere."""
    before = len(upstream.requests)
    fields = [("origin", origin)]
    for method, path in (("POST", CHAT), ("POST", "/api/chat"), ("GET", "/v1/models")):
        answer = await ask(gateway.port, method, path, chat("echo") if method == "POST" else None, fields)
        assert answer.status == 403
    assert len(upstream.requests) == before


@pytest.mark.parametrize(
    "fields",
    [
        [("origin", "http://localhost:3000")],
        [("origin", "http://127.0.0.1:9")],
        [("origin", "https://gw.example"), ("host", "gw.example")],
        [("origin", "https://gw.example"), ("x-forwarded-host", "gw.example")],
        [("origin", "vscode-webview://abc")],
        [("origin", "app://obsidian.md")],
    ],
)
@on_one_loop
async def test_own_pages_and_programs_may_ask(gateway: Running, fields: list[tuple[str, str]]) -> None:
    """This machine's, the gateway's own behind a proxy, and those that no site can be."""
    assert (await ask(gateway.port, "POST", CHAT, chat("echo"), fields)).status == 200


@pytest.mark.parametrize("host", [b"[", b"", b"a:b:c"])
def test_an_origin_that_is_nobodys_is_not_ours(host: bytes) -> None:
    """Also where the Host field is nobody's."""
    fields = [(b"host", host), (b"x-forwarded-host", b"["), (b"x-roundhouse", b"dashboard"), (b"origin", b"null")]
    with pytest.raises(Forbidden):
        refuse_forged("POST", fields)


# ------------------------------------------------------------ who logs in, and who was an admin

CONFIG = TENANT + '[keys.boss]\nkey = "k-boss"\nadmin = true\n[keys.guest]\nkey = "k-guest"\n'


class Desk:
    """The routes on a port, and the door behind them."""

    def __init__(self, access: Access, port: int, clock: Clock) -> None:
        self.access = access
        self.port = port
        self.clock = clock

    async def login(self, key: str) -> Answer:
        return await ask(self.port, "POST", "/admin/login", {"key": key})

    async def create(self, body: object) -> Answer:
        return await ask(self.port, "POST", "/admin/keys", body)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(tmp_path: Path) -> AsyncGenerator[Desk, None]:
    """Over a database of its own."""
    clock = Clock()
    async with door(tmp_path, CONFIG, clock) as access:
        routes = [*key_routes(access), *tenant_routes(access), *session_routes(access)]
        async with small(routes) as port:
            yield Desk(access, port, clock)


@on_one_loop
async def test_guesses_are_not_forgiven_by_ones_own_key(desk: Desk) -> None:
    """Who has a key may not try an admin's as fast as it likes."""
    for _ in range(FREE_FAILURES - 1):
        assert (await desk.login("guess")).status == 401
    assert (await desk.login("k-guest")).status == 204
    assert (await desk.login("guess")).status == 401
    assert (await desk.login("guess")).status == 429


async def told(access: Access, fields: list[tuple[bytes, bytes]]) -> AsyncGenerator[bytes, None]:
    """A stream without an end, as it is told to who sends these fields."""

    async def words() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"secret"

    async for piece in while_admin(access, fields, words()):
        yield piece


@on_one_loop
async def test_stream_ends_with_its_key(desk: Desk) -> None:
    """Of a former admin who left a page open."""
    record, key = await desk.access.create_key(
        "former", tenant="", admin=True, terms=desk.access.all_keys()[0].terms, expires_s=None
    )
    stream = told(desk.access, [(b"authorization", b"Bearer " + key.encode())])
    assert await anext(stream) == b"secret"
    await desk.access.revoke_key(record.id)
    assert [piece async for piece in stream] == []


@on_one_loop
async def test_stream_ends_with_its_session_and_does_not_keep_it_alive(desk: Desk) -> None:
    """An open page is not somebody who works."""
    token = desk.access.login("k-boss", "127.0.0.1")
    stream = told(desk.access, [(b"cookie", b"rh_session=" + token.encode())])
    assert await anext(stream) == b"secret"
    desk.clock.now_s += IDLE_S - 1
    assert await anext(stream) == b"secret"
    desk.clock.now_s += 1
    assert [piece async for piece in stream] == []
    assert desk.access.session_holder(token) is None


@on_one_loop
async def test_stream_taken_up_again_does_not_keep_a_session_alive(desk: Desk) -> None:
    """The dashboard does so every few seconds."""
    cookie = (b"cookie", b"rh_session=" + desk.access.login("k-boss", "127.0.0.1").encode())
    desk.clock.now_s += IDLE_S - 1
    assert admin_comer(desk.access, "GET", [cookie, (b"last-event-id", b"0a0b0c0d.1.2")]).name == "boss"
    desk.clock.now_s += 1
    with pytest.raises(Unauthenticated):
        admin_comer(desk.access, "GET", [cookie])


@on_one_loop
async def test_stream_of_a_guest_tells_nothing(desk: Desk) -> None:
    """Were it begun by mistake."""
    assert [piece async for piece in told(desk.access, [(b"authorization", b"Bearer k-guest")])] == []


# ------------------------------------------------------------ an operator who mistypes


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "nested too deeply"),
        (b'{"name":"' + b"x" * BODY_MAX_BYTES + b'"}', 413, "larger than"),
        (b'{"name":"n","rpm":1e2}', 400, "rpm: expected a whole number"),
        (b'{"name":"n","budget_usd_day":1e400}', 400, "budget_usd_day: expected USD"),
        (b'{"name":"n","budget_usd_day":-1}', 400, "budget_usd_day: expected USD"),
        (b'{"name":"n","budget_usd_day":"NaN"}', 400, "budget_usd_day: expected USD"),
        (b'{"name":"n","budget_usd_day":NaN}', 400, "JSON object"),
        (b'{"name":1.5}', 400, "name: expected"),
        (b'{"name":"n","' + b"x" * 5000 + b'":1}', 400, "xxx…' is not known here"),
    ],
)
@on_one_loop
async def test_wrong_bodies_are_refused_in_few_words(desk: Desk, body: bytes, status: int, words: str) -> None:
    """None of them is an error of ours, and none is told again in full."""
    answer = await desk.create(body)
    assert (answer.status, words in answer.error["message"]) == (status, True), answer.body[:300]
    assert len(answer.body) < 1000


@on_one_loop
async def test_money_is_kept_to_its_last_digit(desk: Desk) -> None:
    """A float would round it."""
    made = (await desk.create(b'{"name":"n","budget_usd_day":12.12345678901234567890,"budget_usd_month":1e2}')).json()
    assert (made["budget_usd_day"], made["budget_usd_month"]) == ("12.12345678901234567890", "100")


@on_one_loop
async def test_key_in_place_of_its_id_is_not_repeated(desk: Desk) -> None:
    """Neither by the gateway nor by the command, which does not even send it."""
    for method, path in (("DELETE", f"/admin/keys/{KEY}"), ("POST", f"/admin/keys/{KEY}/rotate")):
        answer = await ask(desk.port, method, path)
        assert (answer.status, answer.error["code"]) == (404, "key_not_found")
        assert KEY not in answer.body.decode()
        assert "not its id" in answer.error["message"]


@on_one_loop
async def test_tenant_is_changed_by_its_command(desk: Desk) -> None:
    """Only what is given; none takes a budget away."""

    async def call(*arguments: str) -> str:
        said = [*arguments, "--url", f"http://127.0.0.1:{desk.port}"]
        result = await asyncio.to_thread(CliRunner().invoke, roundhouse, said, env={"ROUNDHOUSE_ADMIN_KEY": "k-boss"})
        assert result.exit_code == 0, result.output
        return result.stdout

    await call("tenants", "create", "green-team", "--models", "a*, b", "--rpm", "5", "--budget-day", "1.5")
    changed = await call("tenants", "change", "green-team", "--budget-day", "none", "--tpm", "7")
    assert changed == "tenant green-team is changed\n"
    terms = desk.access.tenant("green-team").terms
    assert (terms.models, terms.rpm, terms.tpm, terms.budget_usd_day) == (("a*", "b"), 5, 7, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tenants", "change", "green-team"), "say what is to be changed"),
        (("tenants", "change", "green-team", "--models", ""), "it is empty"),
        (("keys", "revoke", KEY), "not its id"),
        (("keys", "rotate", KEY), "not its id"),
        (("usage", "--key", KEY), "not the key itself"),
        (("keys", "create", "n", "--models", ""), "it is empty"),
        (("keys", "create", "n", "--models", " , "), "it is empty"),
        (("keys", "create", "n", "--tenant", ""), "it is empty"),
        (("keys", "create", "n", "--tenants", ""), "it is empty"),
    ],
)
def test_command_refuses_what_would_be_wider_than_meant(arguments: tuple[str, ...], words: str) -> None:
    """A variable that is not set makes no key that may do everything. Nothing is sent: there is no gateway."""
    result = CliRunner().invoke(roundhouse, [*arguments, "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 2
    assert words in result.stderr
    assert KEY not in result.output


# ------------------------------------------------------------ what may leak


@on_one_loop
async def test_key_in_a_query_is_no_key_and_is_not_repeated(keyed: Running) -> None:
    """It would stand in the logs of whatever is between us."""
    query = f"free_only=maybe&api_key={KEY}&key={ADMIN}"
    assert (await ask(keyed.port, "GET", f"/v1/models?{query}")).status == 401
    answer = await ask(keyed.port, "GET", f"/v1/models?{query}", None, ASKER)
    assert (answer.status, "/v1/models: a parameter" in answer.error["message"]) == (400, True)
    assert KEY not in answer.body.decode()
    assert ADMIN not in answer.body.decode()


def test_what_a_database_has_no_room_for_is_the_askers_doing() -> None:
    """PostgreSQL keeps no NUL: asking for one again does not help."""
    assert tell(DatabaseUnavailable("The database does not take this: NUL", data_refused=True)).status == 400
    assert tell(DatabaseUnavailable("gone")).status == 503


SECRET = "sk-proj-abcdefghijklmnop1234"


@pytest.mark.parametrize(
    "said",
    [
        f"my key:\n{SECRET}",
        f"my key:\t{SECRET}\r\n",
        f"\u2028{SECRET}",
        f"OPENAI_{SECRET}",
        f"postgresql://me:{SECRET}x@db/name",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
        "BEARER abcdefgh.ijklmnop",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_keys_in_the_middle_of_words_are_masked(said: str) -> None:
    """In JSON a line's first word follows the n of an escape."""
    for body in (json.dumps({"content": said, "x": "rest"}), json.dumps({"a": json.dumps({"b": said}), "x": "rest"})):
        kept = redacted(body.encode(), 10_000)[0].decode()
        json.loads(kept)
        assert "***" in kept
        assert '"rest"' in kept
        for part in ("abcdefgh", "dozjgNry", "MIIEpAIB"):
            assert part not in kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", 'geh"eim'),
        ("password", "geh\u00e9im"),
        ("password", "geheim\\"),
        ("x-api-key", "geheim"),
        ("private_key", "geheim\ngeheim"),
        ("hf_token", "geheim"),
        ("secretAccessKey", "geheim/+"),
        ("Set-Cookie", "a=geheim; Path=/"),
        ("api_key", ["geheim", "geheim"]),
        ("password", 5831),
    ],
)
def test_secrets_of_any_form_are_masked_to_their_end(name: str, value: object) -> None:
    """With quotes and escapes in them, as JSON in JSON in JSON too; what follows stays readable."""
    inner: object = {name: value, "x": "rest"}
    for _ in range(3):
        kept = redacted(json.dumps(inner).encode(), 10_000)[0].decode()
        json.loads(kept)
        assert "rest" in kept
        for part in ("geh", "eim", "5831"):
            assert part not in kept
        inner = {"arguments": json.dumps(inner), "x": "rest"}


@pytest.mark.parametrize(
    "kind", ["data:image/png;base64,", "data:audio/wav;codecs=1;base64,", "DATA:IMAGE/PNG;BASE64,", ""]
)
def test_pictures_are_left_out_however_they_are_written(kind: str) -> None:
    """With slashes that are escaped, as PHP does, and in the other alphabet."""
    raw = bytes(range(256)) * 12
    for picture in (base64.b64encode(raw), base64.urlsafe_b64encode(raw), base64.encodebytes(raw)):
        body = json.dumps({"url": kind + picture.decode(), "text": "hello"})
        for written in (body, body.replace("/", "\\/"), json.dumps(body)):
            kept = redacted(written.encode(), 10_000)[0]
            assert len(kept) < 200
            assert b"hello" in kept
            json.loads(kept)


def test_probabilities_of_words_stay() -> None:
    """`token` is what OpenAI calls a word there."""
    body = b'{"logprobs":{"content":[{"token":"Hello","logprob":-0.1}]},"max_tokens":5,"usage":{"total_tokens":9}}'
    assert redacted(body, 1000) == (body, False)


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve --api-key geheim1 --port 5",
        "exec env HF_TOKEN=geheim1 vllm serve",
        "args: Namespace(api_key='geheim1', port=5)",
        "Authorization: Basic geheim1",
        "-hft geheim1",
        "connecting to http://me:geheim1@proxy:3128",
    ],
)
def test_lines_of_programs_hold_no_secret(line: str) -> None:
    """They are told to whom asked for the model."""
    assert "geheim1" not in masked(line)
    error = LoadFailed(f"it has ended: {line}", exit_code=1, log_lines=("fine", line))
    assert b"geheim1" not in tell(error).body()
    assert masked("loaded tokenizer in 5.1 s: 32000 tokens") == "loaded tokenizer in 5.1 s: 32000 tokens"


def test_configuration_shows_no_secret_of_a_command(tmp_path: Path) -> None:
    """However it stands in it."""
    toml = """
    [providers.rig]
    kind = "process"
    command = ["sh", "-c", "exec env HF_TOKEN=geheim1 serve --api-key geheim2 --port ${port}", "-hft", "geheim3"]
    args = ["-H", "Authorization: Bearer geheim4", "-H", "X-Api-Key: geheim6"]
    [models.m]
    targets = ["rig/m"]
    args = ["--header=Authorization: Basic geheim5"]
    """
    shown = repr(list(values_of(config_of(tmp_path, toml), {})))
    assert "exec env" in shown
    assert "geheim" not in shown
