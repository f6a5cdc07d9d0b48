"""How rows come into the database, and the ledger's questions. Imported in the database's threads only: it imports SQLAlchemy.

The law: rows are written under ids of their own, and what is there already stays as it is. Every sum is of whole numbers, so that
it is exact on both databases. Every walk goes along the primary key, (at_us, row_id), and looks up the kind of each request on its
way: never the other way round (the `+ 0` below, without which SQLite might make an index of all requests for one question).

A statement per row would cost more than the row. SQLite is given fifty rows with each: its driver lets go of the interpreter and
takes it back once per statement, and whoever wants it back waits for the event loop. PostgreSQL is given a JSON text of some
hundred. The interpreter is not held for more than one such portion, so that requests go on beside it.

Sources: SQLite, "UPSERT" (DO NOTHING is for uniqueness only: a value that is refused is an error) and "Query Planner" (unary + and
the like keep a term from choosing an index); PostgreSQL, "JSON Functions and Operators"; Python, `Modules/_sqlite/cursor.c`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import sqlite

from gateway.storage.tables import captures, kinds, requests

from .activity import Outcome
from .entry import Entry
from .ledger_questions import DAY_US, By, Captured, Query, Spent, UsageQuery, UsageRow
from .ledger_rows import (
    COLUMNS,
    KIND,
    PIECES,
    Body,
    Fields,
    Kind,
    Values,
    digest,
    entry_of,
    joined,
    kind_of,
    odd,
    sound,
    time_of,
    values,
)

Place = tuple[int, int]  # (at_us, row_id)

SQLITE_ROWS = 50  # of one statement: more is not faster
POSTGRES_ROWS = 500

_KIND_COLUMNS = ("digest", *KIND, "last_us")
_BODY_COLUMNS = tuple(column.name for column in captures.columns)
_flat = chain.from_iterable
_encode = msgspec.json.Encoder().encode

_NANO = 10**9
_whole = (
    select(*requests.columns, *(kinds.c[name] for name in KIND))
    .select_from(requests.join(kinds, kinds.c.id == requests.c.kind + literal_column("0", BigInteger)))
    .subquery("whole")
)
_c = _whole.c
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


def insert(connection: Connection, row_ids: Sequence[int], rows: Sequence[Fields], bodies: Sequence[Body] = ()) -> int:
    """Those that are not there yet; how many that were."""
    into: _Into = _Postgres(connection) if connection.dialect.name == "postgresql" else _SQLite(connection)
    inserted = 0
    known: dict[Kind, int] = {}
    last_us = max(map(time_of, rows), default=0)
    for start in range(0, len(rows), into.portion):
        portion = rows[start : start + into.portion]
        theirs = list(map(kind_of, portion))
        ids = list(map(known.get, theirs))
        new = set(theirs).difference(known) if None in ids else ()
        if odd(portion, new):
            portion = list(map(sound, portion))
            theirs = list(map(kind_of, portion))
            new = set(theirs).difference(known)
        if new:
            into.kinds(new, last_us, known)
        pieces = values(row_ids[start : start + into.portion], portion, map(known.__getitem__, theirs))
        inserted += into.rows(list(pieces))
    if bodies:
        into.bodies(bodies)
    return inserted


class _Into:
    """A database of one kind."""

    portion: int

    def kinds(self, new: Iterable[Kind], last_us: int, known: dict[Kind, int]) -> None:
        """See that they are there, and stay as long as requests of then; their ids become known."""
        raise NotImplementedError

    def rows(self, values: Sequence[Values]) -> int:
        """How many were not there yet."""
        raise NotImplementedError

    def bodies(self, values: Sequence[Body]) -> None:
        """As they are."""
        raise NotImplementedError


class _SQLite(_Into):
    """With the driver's own cursor: SQLAlchemy's part of a statement costs as much as ten rows. Its transaction is SQLAlchemy's."""

    portion = SQLITE_ROWS

    def __init__(self, connection: Connection) -> None:
        self._cursor: Any = connection.connection.cursor()

    def kinds(self, new: Iterable[Kind], last_us: int, known: dict[Kind, int]) -> None:
        for kind in new:
            found = digest(kind)
            self._cursor.execute(_UPSERT, (found, *kind, last_us))
            known[kind] = self._cursor.execute(_LOOK_UP, (found,)).fetchone()[0]

    def rows(self, values: Sequence[Values]) -> int:
        if len(values) == SQLITE_ROWS:
            return self._cursor.execute(_MANY, list(_flat(_flat(values)))).rowcount
        return self._cursor.executemany(_ONE, [tuple(_flat(pieces)) for pieces in values]).rowcount

    def bodies(self, values: Sequence[Body]) -> None:
        self._cursor.executemany(_BODY, values)


class _Postgres(_Into):
    """All of a portion is one parameter: to hand over each value by itself would cost more than everything else here."""

    portion = POSTGRES_ROWS

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def kinds(self, new: Iterable[Kind], last_us: int, known: dict[Kind, int]) -> None:
        named = {digest(kind): kind for kind in new}
        # in one order, so that two gateways which write the same ones do not wait for each other for ever
        values = [[(found.hex(), *named[found], last_us)] for found in sorted(named)]
        statement = _from_json(kinds, (_KIND_COLUMNS,), _POSTGRES_AGAIN)
        for found, number in self._connection.exec_driver_sql(statement, (_json(values),)):
            known[named[bytes(found)]] = number

    def rows(self, values: Sequence[Values]) -> int:
        statement = _from_json(requests, PIECES, _IGNORE)
        return self._connection.exec_driver_sql(statement, (_json(values),)).rowcount

    def bodies(self, values: Sequence[Body]) -> None:
        self._connection.exec_driver_sql(_POSTGRES_BODY, list(values))


# ---------------------------------------------------------------------- deleting


def prune(connection: Connection, before_us: int, limit: int) -> int:
    """Delete at most so many of the oldest requests from before then, with their bodies; how many it were."""
    r = requests.c
    oldest = select(r.at_us, r.row_id).where(r.at_us < before_us).order_by(r.at_us, r.row_id).limit(limit)
    deleted = connection.execute(delete(requests).where(tuple_(r.at_us, r.row_id).in_(oldest))).rowcount
    if deleted < limit:  # those were the last ones: kinds of which all were older are nobody's any more
        connection.execute(delete(kinds).where(kinds.c.last_us < before_us))
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
    return [entry_of(row) for row in connection.execute(statement).mappings()]


def following(
    connection: Connection, query: Query, behind: Place | None, limit: int
) -> tuple[list[Entry], Place | None]:
    """The oldest first, from behind a row on (None: the first); and where the last one is (None: it was the end)."""
    statement = _chosen(query).order_by(_c.at_us, _c.row_id).limit(limit)
    if behind is not None:
        statement = statement.where(_key > behind)
    rows = connection.execute(statement).mappings().all()
    end = (rows[-1]["at_us"], rows[-1]["row_id"]) if len(rows) == limit else None
    return [entry_of(row) for row in rows], end


def one(connection: Connection, request_id: str) -> tuple[Entry, Captured | None] | None:
    """The newest of that id, with its bodies where they were kept. Walks back from now: there is no index of ids."""
    statement = select(_whole).where(_c.id == request_id).order_by(_c.at_us.desc(), _c.row_id.desc()).limit(1)
    row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        return None
    b = captures.c
    bodies = select(b.request, b.request_cut, b.response, b.response_cut)
    kept = connection.execute(bodies.where(b.at_us == row["at_us"], b.row_id == row["row_id"])).one_or_none()
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
    """What one has used in [since, until); `who`: the column of keys or tenants. What came to no target was not let in."""
    statement = select(func.count(), func.sum(_c.prompt + _c.completion), *_money()).where(
        who == name, _c.at_us >= since_us, _c.at_us < until_us, _c.target != ""
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
    statement = select(_whole).where(*_span(query), *_equals(query))
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


# ---------------------------------------------------------------------- statements of ours


def _json(values: Sequence[Any]) -> str:
    return _encode(values).decode()


def _places(sign: str, names: Sequence[str]) -> str:
    return f"({', '.join(sign for _ in names)})"


def _insertion(table: Table, names: Sequence[str], rows: str, conflict: str) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    return " ".join(("INSERT INTO", table.name, f"({columns})", rows, conflict))


@cache
def _from_json(table: Table, pieces: tuple[tuple[str, ...], ...], conflict: str) -> str:
    """Its one parameter is a list of rows, each a list of pieces, each a list of values."""
    places = [
        (name, f"r->{number}->>{place}") for number, piece in enumerate(pieces) for place, name in enumerate(piece)
    ]
    values = ", ".join(_read_as(table.columns[name].type, place) for name, place in places)
    names = [name for name, _ in places]
    return _insertion(table, names, " ".join(("SELECT", values, _EVERY)), conflict)


def _read_as(kind: object, text: str) -> str:
    if isinstance(kind, LargeBinary):
        return f"decode({text}, 'hex')"
    if isinstance(kind, Text):
        return text
    return f"({text})::{'boolean' if isinstance(kind, Boolean) else 'bigint'}"


_IGNORE = "ON CONFLICT DO NOTHING"
_EVERY = "FROM jsonb_array_elements(%s::jsonb) AS every(r)"
_LATER = f"greatest({kinds.name}.last_us, excluded.last_us)"
_POSTGRES_AGAIN = f"ON CONFLICT (digest) DO UPDATE SET last_us = {_LATER} RETURNING digest, id"
_POSTGRES_BODY = _insertion(captures, _BODY_COLUMNS, f"VALUES {_places('%s', _BODY_COLUMNS)}", _IGNORE)
_PLACES = _places("?", COLUMNS)
_ONE = _insertion(requests, COLUMNS, f"VALUES {_PLACES}", _IGNORE)
_MANY = _insertion(requests, COLUMNS, f"VALUES {', '.join([_PLACES] * SQLITE_ROWS)}", _IGNORE)
_BODY = _insertion(captures, _BODY_COLUMNS, f"VALUES {_places('?', _BODY_COLUMNS)}", _IGNORE)
_AGAIN = "ON CONFLICT (digest) DO UPDATE SET last_us = max(last_us, excluded.last_us)"
_UPSERT = _insertion(kinds, _KIND_COLUMNS, f"VALUES {_places('?', _KIND_COLUMNS)}", _AGAIN)
# and not RETURNING, which SQLite before 3.35 does not know
_LOOK_UP = str(select(kinds.c.id).where(kinds.c.digest == bindparam("digest")).compile(dialect=sqlite.dialect()))
