"""`/admin/activity` on the wire: memory alone, memory and ledger as one, a ledger that is away, and what cannot be asked."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import quote

import msgspec
import pytest

from gateway.api.activity import Archive, activity_routes
from gateway.errors import GatewayError
from gateway.metering.activity import Activity, Begun, Wanted, place_of
from gateway.metering.entry import Entry
from tests.fakes.running import ask
from tests.metering.entries import entry

from .small import small

SHOWN = {"request": '{"a": 1}', "response": "caf\ufffd", "response_cut": True}


class Captured(msgspec.Struct, frozen=True):
    """What was kept of bodies."""

    request: bytes
    request_cut: bool
    response: bytes
    response_cut: bool


class Running:
    """A request in progress."""

    def begun(self) -> Begun:
        return Begun(
            id="now",
            at_us=10**6,
            principal="",
            key_id="",
            tenant="",
            asked="m",
            model="m",
            target="",
            route="/v1/embeddings",
            streamed=False,
            phase="queued",
        )


class Ledger:
    """Rows in a list; `away`: its database is gone."""

    def __init__(self, rows: list[Entry]) -> None:
        self.rows = rows
        self.away = False
        self.asked = 0

    async def older(self, wanted: Wanted, limit: int) -> list[Entry]:
        self._look()
        return sorted(filter(wanted.holds, self.rows), key=place_of, reverse=True)[:limit]

    async def one(self, id: str) -> Entry | None:
        self._look()
        return next((row for row in self.rows if row.id == id), None)

    async def capture(self, id: str) -> Captured | None:
        self._look()
        return Captured(b'{"a": 1}', False, b"caf\xc3", True) if id == "r3" else None

    def _look(self) -> None:
        self.asked += 1
        if self.away:
            raise GatewayError("the ledger's database is away", code="ledger_away")

    def archive(self) -> Archive:
        return Archive(self.older, self.one, self.capture)


def lately(rows: list[Entry]) -> Activity:
    """What memory holds."""
    activity = Activity()
    for row in rows:
        activity.end(activity.begin(Running()), row)
    return activity


ROWS = [entry(f"r{number}", number, status=200 if number % 5 else 500) for number in range(1, 31)]


async def pages(port: int, query: str) -> list[str]:
    """The ids on all pages, one after the other."""
    ids: list[str] = []
    before = ""
    while True:
        answer = await ask(port, "GET", f"/admin/activity?{query}{before}")
        assert answer.status == 200, answer.body
        page = answer.json()
        ids += [row["id"] for row in page["rows"]]
        assert ("running" in page) == (not before)
        if page["next"] is None:
            return ids
        before = f"&before={quote(page['next'])}"


async def test_without_a_ledger_memory_answers() -> None:
    """Newest first, page by page, with every field; those in progress beside the first page."""
    activity = lately(ROWS)
    activity.begin(Running())
    async with small(activity_routes(activity, None)) as port:
        assert await pages(port, "limit=7") == [f"r{number}" for number in range(30, 0, -1)]
        assert await pages(port, "limit=2&status=error") == ["r30", "r25", "r20", "r15", "r10", "r5"]
        answer = (await ask(port, "GET", "/admin/activity?limit=1")).json()
        assert set(answer["rows"][0]) == set(Entry.__struct_fields__)
        assert [(each["id"], each["phase"]) for each in answer["running"]] == [("now", "queued")]


async def test_memory_and_ledger_are_one_list() -> None:
    """The ledger is behind by some rows, memory has forgotten the old ones: no row is missing or there twice."""
    ledger = Ledger(ROWS[:25])
    async with small(activity_routes(lately(ROWS[15:]), ledger.archive())) as port:
        assert await pages(port, "limit=4") == [f"r{number}" for number in range(30, 0, -1)]
        assert await pages(port, "limit=500&q=R2") == [
            "r29",
            "r28",
            "r27",
            "r26",
            "r25",
            "r24",
            "r23",
            "r22",
            "r21",
            "r20",
            "r2",
        ]


async def test_a_ledger_that_is_away_does_not_take_memory_with_it() -> None:
    """The page says that it is not whole; of what memory does not hold the ledger's error is told."""
    ledger = Ledger(ROWS)
    async with small(activity_routes(lately(ROWS[28:]), ledger.archive())) as port:
        ledger.away = True
        page = (await ask(port, "GET", "/admin/activity")).json()
        assert ([row["id"] for row in page["rows"]], page["whole"]) == (["r30", "r29"], False)
        assert (await ask(port, "GET", "/admin/activity/r30")).json()["capture"] is None
        assert (await ask(port, "GET", "/admin/activity/r3")).error["code"] == "ledger_away"
        ledger.away = False
        assert (await ask(port, "GET", "/admin/activity")).json()["whole"] is True


async def test_one_request_by_its_id() -> None:
    """From memory or from the ledger, with what was kept of its bodies; ids of every shape; 404 for the others."""
    odd = entry("a:b.c-d_e", 99, cost_usd=Decimal("0.00000012"))
    ledger = Ledger(ROWS)
    async with small(activity_routes(lately([odd]), ledger.archive())) as port:
        found = (await ask(port, "GET", "/admin/activity/a%3Ab.c-d_e")).json()
        assert (found["entry"]["at_us"], found["entry"]["cost_usd"], found["capture"]) == (99, "0.00000012", None)
        found = (await ask(port, "GET", "/admin/activity/r3")).json()
        assert (found["entry"]["id"], found["capture"]) == ("r3", SHOWN)
        answer = await ask(port, "GET", "/admin/activity/nobody")
        assert (answer.status, answer.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=501", "limit"), ("before=x", "before"), ("status=good", "status")],
)
async def test_what_cannot_be_asked(query: str, param: str) -> None:
    """400, naming the parameter, before the ledger is asked."""
    ledger = Ledger([])
    async with small(activity_routes(lately([]), ledger.archive())) as port:
        answer = await ask(port, "GET", f"/admin/activity?{query}")
        assert (answer.status, answer.error["param"], ledger.asked) == (400, param, 0)
