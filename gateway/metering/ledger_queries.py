"""The ledger's questions in SQLAlchemy's words. Imported in the database's threads only: it imports SQLAlchemy.

The law: every sum is of whole numbers, so that it is exact on both databases; every walk goes along the primary
key, (at_us, row_id).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Text,
    and_,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.storage.tables import captures, requests

from .activity import Outcome
from .entry import Entry
from .ledger_questions import DAY_US, By, Captured, Query, Spent, UsageQuery, UsageRow
from .ledger_rows import COLUMNS, Values, entry_of, joined

Place = tuple[int, str]  # (at_us, row_id)

_NANO = 10**9
_c = requests.c
_ALL = tuple(requests.c[name] for name in COLUMNS)
_key = tuple_(_c.at_us, _c.row_id)
_place = tuple_(_c.at_us, _c.id)
_EPOCH = datetime.date(1970, 1, 1)

_OUTCOMES: Mapping[Outcome, ColumnElement[bool]] = {
    "left": _c.left != "",
    "error": and_(_c.left == "", or_(_c.status >= 400, _c.status <= 0, _c.code != "")),
    "ok": and_(_c.left == "", _c.status > 0, _c.status < 400, _c.code == ""),
}
_SEARCHED = (
    *(_c.id, _c.asked, _c.model, _c.target, _c.route, _c.code, _c.principal, _c.tenant, _c.user_agent),
    cast(_c.status, Text),
)
_GROUPS: Mapping[By, ColumnElement[Any]] = {
    # no parameter: PostgreSQL would not see that it groups by what it selects
    "day": _c.at_us // literal_column(str(DAY_US), BigInteger),
    "key": _c.key_id,
    "tenant": _c.tenant,
    "model": _c.model,
    "target": _c.target,
}


# ---------------------------------------------------------------------- writing


def insert(connection: Connection, rows: Sequence[Values], bodies: Sequence[Values] = ()) -> int:
    """Those that are not there yet; how many that were."""
    inserted = 0
    if rows:
        # prepared once and given tuples: what SQLAlchemy does per row otherwise costs as much as all of SQLite's work
        inserted = connection.exec_driver_sql(_insertion(connection.dialect, "requests"), list(rows)).rowcount
    if bodies:
        connection.exec_driver_sql(_insertion(connection.dialect, "captures"), list(bodies))
    return max(0, inserted)


@cache
def _insertion(dialect: Dialect, table: str) -> str:
    into = requests if table == "requests" else captures
    maker = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    return str(maker(into).on_conflict_do_nothing().compile(dialect=dialect))


def prune(connection: Connection, before_us: int, limit: int) -> int:
    """Delete at most so many of the oldest requests from before then, with their bodies; how many it were."""
    oldest = select(_c.at_us, _c.row_id).where(_c.at_us < before_us).order_by(_c.at_us, _c.row_id).limit(limit)
    deleted = connection.execute(delete(requests).where(_key.in_(oldest))).rowcount
    bodies = tuple_(captures.c.at_us, captures.c.row_id)
    orphans = select(captures.c.at_us, captures.c.row_id).where(captures.c.at_us < before_us).limit(limit)
    connection.execute(delete(captures).where(bodies.in_(orphans)))
    return deleted


# ---------------------------------------------------------------------- reading


def recent(connection: Connection, query: Query) -> list[Entry]:
    """The newest first, in the order of `activity.place_of`."""
    statement = _chosen(query).order_by(_c.at_us.desc(), _c.id.desc()).limit(query.limit)
    if query.before is not None:
        statement = statement.where(_place < query.before)
    return [entry_of(row) for row in connection.execute(statement)]


def following(
    connection: Connection, query: Query, behind: Place | None, limit: int
) -> tuple[list[Entry], Place | None]:
    """The oldest first, from behind a row on (None: the first); and where the last one is (None: it was the end)."""
    statement = _chosen(query).order_by(_c.at_us, _c.row_id).limit(limit)
    if behind is not None:
        statement = statement.where(_key > behind)
    rows = connection.execute(statement).all()
    end = (rows[-1].at_us, rows[-1].row_id) if len(rows) == limit else None
    return [entry_of(row) for row in rows], end


def one(connection: Connection, request_id: str) -> tuple[Entry, Captured | None] | None:
    """The newest of that id, with its bodies where they were kept. Walks back from now: there is no index of ids."""
    statement = select(*_ALL).where(_c.id == request_id).order_by(_c.at_us.desc(), _c.row_id.desc()).limit(1)
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    b = captures.c
    bodies = select(b.request, b.request_cut, b.response, b.response_cut)
    kept = connection.execute(bodies.where(b.at_us == row.at_us, b.row_id == row.row_id)).one_or_none()
    return entry_of(row), None if kept is None else Captured(*kept)


def usage(connection: Connection, query: UsageQuery) -> list[UsageRow]:
    """In the order of what it is grouped by."""
    groups = [_GROUPS[by].label(f"by_{by}") for by in query.by]
    statement = select(*groups, *_sums()).where(*_span(query), *_equals(query)).group_by(*groups).order_by(*groups)
    found: list[UsageRow] = []
    for row in connection.execute(statement):
        named: dict[str, Any] = dict(zip(query.by, row[: len(groups)], strict=True))
        if "day" in named:
            named["day"] = (_EPOCH + datetime.timedelta(days=int(named["day"]))).isoformat()
        count, errors, priced, prompt, completion, cached, reasoning, whole, nano, atto = _numbers(row[len(groups) :])
        found.append(
            UsageRow(
                **named,
                requests=count or 0,
                errors=errors or 0,
                priced=priced or 0,
                prompt=prompt or 0,
                completion=completion or 0,
                cached=cached or 0,
                reasoning=reasoning or 0,
                cost_usd=_amount(whole, nano, atto),
            )
        )
    return [row for row in found if row.requests]


def spent(connection: Connection, who: Column[str], name: str, since_us: int, until_us: int) -> Spent:
    """What one has used in [since, until); `who`: the column of keys or tenants."""
    statement = select(func.count(), func.sum(_c.prompt + _c.completion), *_money()).where(
        who == name, _c.at_us >= since_us, _c.at_us < until_us
    )
    count, tokens, whole, nano, atto = _numbers(connection.execute(statement).one())
    return Spent(count or 0, tokens or 0, _amount(whole, nano, atto) or Decimal(0))


KEYS, TENANTS = _c.key_id, _c.tenant


def _sums() -> tuple[ColumnElement[Any], ...]:
    counted = (_c.prompt, _c.completion, _c.cached, _c.reasoning)
    errors = func.sum(case((_OUTCOMES["error"], 1), else_=0))
    return (func.count(), errors, func.count(_c.cost_nano), *(func.sum(column) for column in counted), *_money())


def _money() -> tuple[ColumnElement[Any], ...]:
    """Whole dollars, billionths and billionths of those apart: a sum of each holds for nine billion rows of the dearest."""
    return func.sum(_c.cost_nano // _NANO), func.sum(_c.cost_nano % _NANO), func.sum(_c.cost_atto)


def _numbers(row: Sequence[Any]) -> list[int | None]:
    """PostgreSQL's sums of BIGINT are decimals."""
    return [None if value is None else int(value) for value in row]


def _amount(whole: int | None, nano: int | None, atto: int | None) -> Decimal | None:
    return None if whole is None or nano is None else joined(whole * _NANO + nano, atto)


def _chosen(query: Query) -> Select[Any]:
    statement = select(*_ALL).where(*_span(query), *_equals(query))
    if query.outcome:
        statement = statement.where(_OUTCOMES[query.outcome])
    if query.q:
        statement = statement.where(or_(*(column.icontains(query.q, autoescape=True) for column in _SEARCHED)))
    return statement


def _span(query: Query | UsageQuery) -> tuple[ColumnElement[bool], ...]:
    return (_c.at_us >= query.since_us, _c.at_us < query.until_us)


def _equals(query: Query | UsageQuery) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if query.key:
        found.append(or_(_c.key_id == query.key, _c.principal == query.key))
    if query.tenant:
        found.append(_c.tenant == query.tenant)
    if query.model:
        found.append(or_(_c.model == query.model, _c.asked == query.model, _c.target == query.model))
    return found
