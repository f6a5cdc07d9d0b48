"""The tables as queries see them; `migrations` makes them. Imported in the database's threads only: it imports SQLAlchemy.

A request is a row of figures; what it has in common with many others (who asked for what, and how it ended) is one row of `kinds`
for all of them. So a request takes a hundred bytes, and half the time to write that it would take with those words in it.

Money is two whole numbers, because SQLite would add decimals as floats: billionths of a dollar, and billionths of those. Sums of
whole numbers are exact on both databases. So amounts are kept to 18 decimals, which is finer than any price; see `money`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, MetaData, Table, Text

metadata = MetaData()


def _text(name: str, *, primary: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, primary_key=primary)


def _whole(name: str, *, primary: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=False, primary_key=primary, autoincrement=False)


def _perhaps(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=True)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


def _bytes(name: str, *, unique: bool | None = None) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False, unique=unique)


requests = Table(
    "roundhouse_requests",
    metadata,
    # together: rows lie in the order of their time, which is all the index there is
    _whole("at_us", primary=True),
    _whole("row_id", primary=True),
    _whole("kind"),  # the id of one of `kinds`
    _text("id"),
    _whole("prompt"),
    _whole("completion"),
    _whole("cached"),
    _whole("reasoning"),
    _perhaps("cost_nano"),  # both null: unknown
    _perhaps("cost_atto"),
    _whole("queued_us"),
    _whole("first_byte_us"),
    _whole("total_us"),
    _whole("load_us"),
    _whole("bytes_in"),
    _whole("bytes_out"),
)

kinds = Table(
    "roundhouse_kinds",
    metadata,
    _whole("id", primary=True),  # the database gives it
    _bytes("digest", unique=True),  # of all that follows but the last
    _text("principal"),
    _text("key_id"),
    _text("tenant"),
    _text("asked"),
    _text("model"),
    _text("target"),
    _text("route"),
    _text("code"),
    _text("left"),
    _text("user_agent"),
    _whole("status"),
    _flag("streamed"),
    _whole("last_us"),  # no request of this kind is younger
)

captures = Table(
    "roundhouse_captures",
    metadata,
    _whole("at_us", primary=True),  # of its request
    _whole("row_id", primary=True),
    _bytes("request"),
    _flag("request_cut"),
    _bytes("response"),
    _flag("response_cut"),
)

keys = Table(
    "roundhouse_keys",
    metadata,
    _text("id", primary=True),
    _text("name"),
    _text("prefix"),  # what is shown of it
    _bytes("digest", unique=True),  # keyed; the key itself is nowhere
    _text("tenant"),  # "": none
    _flag("admin"),
    _text("terms"),  # JSON: everything else that is said of it (models, limits, tenants it may name, capture)
    _whole("created_us"),
    _perhaps("expires_us"),  # null: never
    _perhaps("revoked_us"),  # null: it is not
)

tenants = Table(
    "roundhouse_tenants",
    metadata,
    _text("id", primary=True),
    _text("name"),
    _text("terms"),  # JSON: its limits
    _whole("created_us"),
)
