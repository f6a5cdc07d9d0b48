"""Limits of a real gateway: 64 callers at once pass exactly as often as is allowed, also when it is killed among them.

The law: what counts is what the upstream says an answer took. A request reserves an estimate, and gives back what it did not need;
so of a limit of T, with answers of u and estimates of e, k requests pass where (k-1)·u + e ≤ T < k·u + e. What a killed gateway has
answered is known to its successor, which lets in what is left: nothing but what was in flight comes on top of the limit.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from tests.cli.gateways import Served, served
from tests.fakes.running import CHAT, WITHIN_S
from tests.fakes.upstream import Exchange, FakeUpstream, speak_openai

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLERS = 64
CEILING = 8
PLACES = 5


def body_of(who: str, ceiling: int = CEILING) -> bytes:
    """As long whoever asks: a quarter of the bytes is the estimate of the prompt."""
    said = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": ceiling}
    return json.dumps({**said, "user": f"{who:<8}"}).encode()


PROMPT = -(-len(body_of("")) // 4)
PROMPT_TOLD, COMPLETION_TOLD = 7, 3  # as the fake upstream says
TOKENS = PROMPT_TOLD + COMPLETION_TOLD
PROMPT_USD, COMPLETION_USD = Decimal("0.0001"), Decimal("0.0003")  # neither is a sum of powers of two


class Kind(msgspec.Struct, frozen=True):
    """One limit, as the admin sets it, and what one request takes of it."""

    limits: Mapping[str, object]
    limit: Decimal
    each: Decimal
    reserved: Decimal
    used: str  # the field that tells how much is taken
    code: str

    @property
    def table(self) -> str:
        """The same in the configuration."""
        return "\n".join(f"{name} = {json.dumps(value)}" for name, value in self.limits.items())

    def passes(self, taken: Decimal = Decimal(0)) -> int:
        """How many requests pass where so much is taken already."""
        room = self.limit - taken - self.reserved
        return int(room // self.each) + 1 if room >= 0 else 0


RPM = Kind({"rpm": 100}, Decimal(100), Decimal(1), Decimal(1), "requests_minute", "rate_limit_exceeded")
TPM = Kind(
    {"tpm": 1000}, Decimal(1000), Decimal(TOKENS), Decimal(PROMPT + CEILING), "tokens_minute", "rate_limit_exceeded"
)
BUDGET = Kind(
    {"budget_usd_day": "0.16"},
    Decimal("0.16"),
    PROMPT_TOLD * PROMPT_USD + COMPLETION_TOLD * COMPLETION_USD,
    PROMPT * PROMPT_USD + CEILING * COMPLETION_USD,
    "usd_day",
    "insufficient_quota",
)
KINDS = {"rpm": RPM, "tpm": TPM, "budget": BUDGET}


class Upstream(FakeUpstream):
    """Counts what reaches it, by who asks; where it shall hold, it answers so many more and keeps the others waiting."""

    def __init__(self) -> None:
        super().__init__(events=COMPLETION_TOLD)
        self.begun = Counter[str]()
        self.held = Counter[str]()
        self._holds_after: Mapping[str, int] = {}
        self._gate = asyncio.Event()
        self.script(self.count)

    async def count(self, exchange: Exchange) -> None:
        await exchange.body()
        who = str(exchange.request.json().get("user")).strip()
        self.begun[who] += 1
        if self.begun[who] > self._holds_after.get(who, 1 << 30):
            self.held[who] += 1
            try:
                await self._gate.wait()
            finally:
                self.held[who] -= 1
        await speak_openai(exchange)

    def hold_after(self, more: int, *who: str) -> None:
        """So many more of each are answered."""
        self._holds_after = {one: self.begun[one] + more for one in who}
        self._gate = asyncio.Event()

    def let_go(self) -> None:
        """All are."""
        self._holds_after = {}
        self._gate.set()


class House:
    """A gateway as a process, and its admin."""

    def __init__(self, process: Served) -> None:
        self.process = process
        self.url = process.url

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        async with client(self.url) as boss:
            answer = await boss.request(method, path, json=body, headers={"authorization": "Bearer k-boss"})
            assert answer.is_success, answer.text
            return answer.json()

    async def made(self, name: str, **wanted: object) -> str:
        """A key made at run time."""
        return (await self.admin("POST", "/admin/keys", {"name": name, **wanted}))["key"]

    async def used(self, name: str, of: str = "keys") -> dict[str, Any]:
        """What the admin is told of a key, or a tenant."""
        found = (await self.admin("GET", f"/admin/{of}"))[of]
        return next(one["used"] for one in found if name in (one["id"], one.get("name")))

    async def free_again(self, name: str) -> None:
        """Returns when nothing of this key's is under way."""
        async with asyncio.timeout(WITHIN_S):
            while (await self.used(name))["concurrent"]:
                pass

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.process.kill()
        self.process.process.wait()


def client(url: str) -> httpx.AsyncClient:
    """As many connections as are wanted, and no proxy from the environment."""
    wide = httpx.Limits(max_connections=None, max_keepalive_connections=CALLERS)
    return httpx.AsyncClient(base_url=url, limits=wide, timeout=WITHIN_S, trust_env=False, verify=False)  # noqa: S501 - no TLS here


class Storm:
    """Callers that ask again and again, each until it is refused, or the gateway is gone."""

    def __init__(self, url: str, body: bytes, *keys: str) -> None:
        self._url = url
        self._body = body
        self._keys = keys
        self.passed: list[httpx.Response] = []
        self.refused: list[httpx.Response] = []
        self.broken = 0  # requests of which nobody heard the end
        self.here = -1  # callers; -1: it has not begun

    async def run(self, callers: int = CALLERS) -> Storm:
        self.here = callers
        await asyncio.gather(*(self._caller(self._keys[n % len(self._keys)]) for n in range(callers)))
        return self

    async def _caller(self, key: str) -> None:
        fields = {"authorization": f"Bearer {key}"}
        try:
            async with client(self._url) as asking:
                while (answer := await asking.post(CHAT, content=self._body, headers=fields)).status_code == 200:
                    self.passed.append(answer)
                self.refused.append(answer)
        except httpx.TransportError:
            self.broken += 1
        self.here -= 1


async def exhaust(url: str, who: str, *keys: str) -> Storm:
    """64 callers; then, when all that was too much is given back, one alone takes what is left."""
    storm = await Storm(url, body_of(who), *keys).run()
    await storm.run(1)
    assert storm.broken == 0
    return storm


def configuration(upstream: FakeUpstream, more: str = "") -> str:
    """An admin, and one model that has a price."""
    return f"""
    [server]
    port = 0
    [keys.boss]
    key = "k-boss"
    admin = true
    [providers.up]
    kind = "openai"
    base_url = "{upstream.base_url}"
    models = ["echo"]
    prices = {{ echo = {{ prompt = "{PROMPT_USD}", completion = "{COMPLETION_USD}" }} }}
    [models.echo]
    targets = ["up/echo"]
    {more}
    """


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncGenerator[Upstream]:
    async with Upstream() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    """For the tests that need no gateway of their own."""
    with served(tmp_path_factory.mktemp("limits") / "gateway", configuration(upstream)) as process:
        yield House(process)


# without a kill


@pytest.mark.parametrize("who", KINDS)
async def test_exactly_what_the_limit_allows_passes(house: House, upstream: Upstream, who: str) -> None:
    """Never more than the limit, no room of a whole estimate left, and what is not needed is given back."""
    kind, before = KINDS[who], upstream.begun[who]
    storm = await exhaust(house.url, who, await house.made(who, **kind.limits))
    assert {answer.status_code for answer in storm.refused} == {429}
    assert len(storm.passed) == kind.passes() == upstream.begun[who] - before
    taken = len(storm.passed) * kind.each
    assert taken <= kind.limit < taken + kind.reserved
    used = await house.used(who)
    assert (Decimal(used[kind.used]), used["concurrent"]) == (taken, 0)
    for answer in storm.refused:
        assert answer.json()["error"]["code"] == kind.code
        assert int(answer.headers["retry-after"]) >= 1
    if kind is BUDGET:
        last = storm.refused[-1]
        assert last.headers["x-should-retry"] == "false"
        assert last.json()["error"]["type"] == "insufficient_quota"
        assert not [field for field in last.headers if field.startswith("x-ratelimit-")]
    else:
        check_fields(storm, kind, int(kind.limit - taken))


def check_fields(storm: Storm, kind: Kind, left: int) -> None:
    """Those of the limit that there is, and no others; each time what is left, counting what is reserved."""
    what, other = ("requests", "tokens") if kind is RPM else ("tokens", "requests")
    for answer in (*storm.passed, *storm.refused):
        assert answer.headers[f"x-ratelimit-limit-{what}"] == str(kind.limit)
        assert 1 <= int(answer.headers[f"x-ratelimit-reset-{what}"].removesuffix("s")) <= 60
        assert 0 <= int(answer.headers[f"x-ratelimit-remaining-{what}"]) <= kind.limit - kind.each * (kind is RPM)
        assert not [field for field in answer.headers if field.startswith("x-ratelimit-") and field.endswith(other)]
    assert storm.refused[-1].headers[f"x-ratelimit-remaining-{what}"] == str(left)
    assert 50 <= int(storm.refused[-1].headers["retry-after"]) <= 60
    if kind is RPM:
        told = sorted(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in storm.passed)
        assert told == list(range(100))


async def test_estimates_hold_back_what_may_be_needed_until_it_is_known(house: House, upstream: Upstream) -> None:
    """As many requests as there is room for estimates are at the upstream at once; then many more pass."""
    upstream.hold_after(0, "large")
    storm = Storm(house.url, body_of("large", 200), await house.made("large", **TPM.limits))
    reserved = -(-len(body_of("large", 200)) // 4) + 200
    room = int(TPM.limit // reserved)
    running = asyncio.ensure_future(storm.run())
    await upstream.until(lambda: upstream.held["large"] == storm.here == room, WITHIN_S)
    assert (await house.used("large"))["tokens_minute"] == room * reserved
    upstream.let_go()
    await running
    await storm.run()
    await storm.run(1)
    assert len(storm.passed) == (TPM.limit - reserved) // TOKENS + 1 > 10 * room


async def test_tenant_and_both_its_keys_share_one_limit(house: House) -> None:
    """Keys that are made at run time, for a tenant that is."""
    await house.admin("POST", "/admin/tenants", {"id": "team", "rpm": 100})
    keys = [await house.made(f"team-{number}", tenant="team") for number in range(2)]
    storm = await exhaust(house.url, "team", *keys)
    assert len(storm.passed) == 100
    assert {answer.json()["error"]["code"] for answer in storm.refused} == {"rate_limit_exceeded"}
    assert "This tenant's limit" in storm.refused[-1].json()["error"]["message"]
    assert (await house.used("team", "tenants"))["requests_minute"] == 100


# ---------------------------------------------------------------------- a kill among them

LIVED = {"tpm": TPM, "budget": BUDGET, "team": RPM}  # the last a tenant made at run time, with two keys


class Lives:
    """One gateway after the other on the same files, each with 64 callers for each limit."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        keys = "".join(f'[keys.{who}]\nkey = "k-{who}"\n{kind.table}\n' for who, kind in KINDS.items())
        self._toml = configuration(upstream, keys)
        self._folder = folder / "gateway"
        self.keys = {who: [f"k-{who}"] for who in KINDS}
        self.begun = Counter(upstream.begun)  # before all of them

    @contextmanager
    def one(self) -> Generator[House]:
        """Until it is killed, or the block ends."""
        with served(self._folder, self._toml) as process:
            yield House(process)

    def storms(self, house: House) -> dict[str, Storm]:
        return {who: Storm(house.url, body_of(who), *self.keys[who]) for who in LIVED}

    async def taken(self, house: House) -> dict[str, Decimal]:
        """What each limit is said to have taken, once it is known."""
        async with client(house.url) as asking, asyncio.timeout(WITHIN_S):
            of_a_made_key = {"authorization": f"Bearer {self.keys['team'][0]}"}
            while (await asking.get("/v1/models", headers=of_a_made_key)).status_code == 503:
                pass
        used = {who: await house.used(who, "tenants" if who == "team" else "keys") for who in LIVED}
        return {who: Decimal(used[who][kind.used]) for who, kind in LIVED.items()}


def blow(storms: Mapping[str, Storm]) -> asyncio.Future[Any]:
    """All of them at once."""
    return asyncio.gather(*(storm.run() for storm in storms.values()))


async def test_first_life_of_all_may_be_killed_at_once(upstream: Upstream, tmp_path: Path) -> None:
    """When there is no database yet."""
    lives = Lives(tmp_path, upstream)
    upstream.hold_after(10, "rpm")
    with lives.one() as house:
        storm = Storm(house.url, body_of("rpm"), *lives.keys["rpm"])
        running = asyncio.ensure_future(storm.run())
        await upstream.until(lambda: upstream.held["rpm"] == storm.here == CALLERS, WITHIN_S)
        house.kill()
        await running
    upstream.let_go()
    assert (len(storm.passed), storm.broken) == (10, CALLERS)
    with lives.one() as house:
        assert (await house.used("rpm"))["requests_minute"] == 10


async def test_limits_outlive_two_kills(upstream: Upstream, tmp_path: Path) -> None:
    """Killed while answers come and go, then with all of them in flight: what had ended counts once, what had not does not."""
    lives = Lives(tmp_path, upstream)
    with lives.one() as house:
        await house.admin("POST", "/admin/tenants", {"id": "team", **RPM.limits})
        lives.keys["team"] = [await house.made(f"team-{number}", tenant="team") for number in range(2)]
        killed = lives.storms(house)
        blowing = blow(killed)
        await upstream.until(lambda: any(len(storm.passed) >= 20 for storm in killed.values()), WITHIN_S)
        house.kill()
        await blowing
    begun = upstream.begun - lives.begun

    upstream.hold_after(10, *LIVED)
    with lives.one() as house:
        known = await lives.taken(house)
        for who, kind in LIVED.items():
            # of each caller, all but one request that it did not hear the end of, or the one before that
            heard, broken = len(killed[who].passed), killed[who].broken
            assert heard - broken <= known[who] / kind.each <= begun[who]
        held = lives.storms(house)
        blowing = blow(held)
        await upstream.until(lambda: all(upstream.held[who] == held[who].here for who in LIVED), WITHIN_S)
        in_flight = Counter({who: upstream.held[who] for who in LIVED})
        house.kill()
        await blowing
    for who, kind in LIVED.items():
        assert (len(held[who].passed), held[who].broken) == (min(10, kind.passes(known[who])), in_flight[who])
        known[who] += len(held[who].passed) * kind.each
        assert in_flight[who] == min(CALLERS, (kind.limit - known[who]) // kind.reserved)
    assert in_flight.total() > 0

    upstream.let_go()
    with lives.one() as house:
        assert await lives.taken(house) == known  # neither those in flight nor those that were refused
        last = {who: await exhaust(house.url, who, *lives.keys[who]) for who in LIVED}
    begun = upstream.begun - lives.begun
    for who, kind in LIVED.items():
        assert len(last[who].passed) == kind.passes(known[who])
        assert begun[who] * kind.each <= kind.limit + (killed[who].broken + in_flight[who]) * kind.each
        assert begun[who] * kind.each > kind.limit - kind.reserved


# ---------------------------------------------------------------------- at once


class Turnstile:
    """An upstream's handler: knows who is inside now, and lets each go by hand."""

    def __init__(self) -> None:
        self._inside: dict[int, Exchange] = {}
        self._gates: dict[int, asyncio.Event] = {}
        self.most = 0

    def inside(self) -> list[int]:
        """The callers whose answers somebody waits for."""
        return [who for who, one in self._inside.items() if not one.connection.transport.is_closing()]

    def let_go(self, who: int) -> None:
        self._gates[who].set()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.body()
        asked = exchange.request.json()
        who = int(asked["user"])
        self._inside[who], gate = exchange, asyncio.Event()
        self._gates[who] = gate
        self.most = max(self.most, len(self.inside()))
        try:
            if asked.get("stream"):
                await exchange.start_stream()
                await exchange.event({"choices": [{"index": 0, "delta": {"content": "w"}, "finish_reason": None}]})
            await gate.wait()
        finally:
            del self._inside[who]
        if asked.get("stream"):
            await exchange.event("[DONE]")
            await exchange.end()
        else:
            await speak_openai(exchange)


@asynccontextmanager
async def served_by(upstream: Upstream, door: Turnstile) -> AsyncGenerator[None]:
    """Meanwhile it answers all requests."""
    upstream.script(door)
    try:
        yield
    finally:
        upstream.script(upstream.count)


async def test_never_more_at_once_than_allowed_though_callers_leave(upstream: Upstream, house: House) -> None:
    """Half of the 64 leave, before the first byte or in a stream; afterwards every place is free."""
    key = {"authorization": f"Bearer {await house.made('places', concurrent=PLACES)}"}
    door = Turnstile()
    answered: set[int] = set()
    refusals: list[httpx.Response] = []

    async def caller(who: int) -> None:
        said = {**json.loads(body_of(str(who))), "stream": who % 4 < 2}
        async with client(house.url) as asking:
            while (answer := await asking.post(CHAT, json=said, headers=key)).status_code == 429:
                refusals.append(answer)
                await upstream.until(lambda: len(door.inside()) < PLACES, WITHIN_S)
        assert answer.status_code == 200
        answered.add(who)

    async with client(house.url) as asking, served_by(upstream, door):
        callers = {who: asyncio.ensure_future(caller(who)) for who in range(CALLERS)}
        while callers:
            await upstream.until(lambda: len(callers.keys() & door.inside()) == min(PLACES, len(callers)), WITHIN_S)
            for who in callers.keys() & door.inside():
                (door.let_go(who) if who % 2 else callers[who].cancel())
                await asyncio.gather(callers.pop(who), return_exceptions=True)
        assert door.most == PLACES
        assert answered == set(range(1, CALLERS, 2))
        assert {answer.json()["error"]["code"] for answer in refusals} == {"concurrency_limit_exceeded"}
        assert {answer.headers["retry-after"] for answer in refusals} == {"1"}

        await house.free_again("places")
        again = [asyncio.ensure_future(caller(who)) for who in range(PLACES)]
        await upstream.until(lambda: len(door.inside()) == PLACES, WITHIN_S)
        one_more = await asking.post(CHAT, content=body_of(""), headers=key)
        assert one_more.json()["error"]["code"] == "concurrency_limit_exceeded"
        for who in range(PLACES):
            door.let_go(who)
        await asyncio.gather(*again)
