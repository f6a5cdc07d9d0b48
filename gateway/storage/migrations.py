"""How a database comes to the form that `tables` describes: a numbered list, forwards only.

The law: what stands in the list is never changed, for it has been carried out somewhere; a change is one more entry. Each is
carried out once, in the transaction that also notes it. A database that has more than this program knows is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, inspect, text

from .database import DatabaseUnavailable

_LOCK = 0x526F756E64  # any number, the same for all of us: PostgreSQL's advisory locks have no names


class Migration(msgspec.Struct, frozen=True):
    """One step. In its statements {bytes} is the type for bytes, {counted} that of a primary key which the database counts, and
    {clustered} lets the primary key be the table."""

    version: int
    what: str
    statements: tuple[str, ...]


MIGRATIONS: Sequence[Migration] = (
    Migration(
        1,
        "requests, kinds, captures, keys, tenants",
        (
            """
            CREATE TABLE roundhouse_requests (
              at_us BIGINT NOT NULL, row_id BIGINT NOT NULL, kind BIGINT NOT NULL, id TEXT NOT NULL,
              prompt BIGINT NOT NULL, completion BIGINT NOT NULL, cached BIGINT NOT NULL, reasoning BIGINT NOT NULL,
              cost_nano BIGINT, cost_atto BIGINT,
              queued_us BIGINT NOT NULL, first_byte_us BIGINT NOT NULL, total_us BIGINT NOT NULL, load_us BIGINT NOT NULL,
              bytes_in BIGINT NOT NULL, bytes_out BIGINT NOT NULL,
              PRIMARY KEY (at_us, row_id)
            ) {clustered}
            """,
            """
            CREATE TABLE roundhouse_kinds (
              id {counted}, digest {bytes} NOT NULL UNIQUE,
              principal TEXT NOT NULL, key_id TEXT NOT NULL, tenant TEXT NOT NULL,
              asked TEXT NOT NULL, model TEXT NOT NULL, target TEXT NOT NULL, route TEXT NOT NULL,
              code TEXT NOT NULL, "left" TEXT NOT NULL, user_agent TEXT NOT NULL,
              status BIGINT NOT NULL, streamed BOOLEAN NOT NULL, last_us BIGINT NOT NULL
            )
            """,
            """
            CREATE TABLE roundhouse_captures (
              at_us BIGINT NOT NULL, row_id BIGINT NOT NULL,
              request {bytes} NOT NULL, request_cut BOOLEAN NOT NULL,
              response {bytes} NOT NULL, response_cut BOOLEAN NOT NULL,
              PRIMARY KEY (at_us, row_id)
            )
            """,
            """
            CREATE TABLE roundhouse_keys (
              id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, digest {bytes} NOT NULL UNIQUE,
              tenant TEXT NOT NULL, admin BOOLEAN NOT NULL, terms TEXT NOT NULL,
              created_us BIGINT NOT NULL, expires_us BIGINT, revoked_us BIGINT
            )
            """,
            """
            CREATE TABLE roundhouse_tenants (
              id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, terms TEXT NOT NULL, created_us BIGINT NOT NULL
            )
            """,
        ),
    ),
)


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring it to the newest form, in the connection's transaction. Raises: DatabaseUnavailable: it is newer than we are."""
    if connection.dialect.name == "postgresql":
        # SQLite's transaction is exclusive already; here two gateways that start together would both begin
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
        words = {"bytes": "BYTEA", "counted": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "clustered": ""}
    else:
        words = {"bytes": "BLOB", "counted": "INTEGER NOT NULL PRIMARY KEY", "clustered": "WITHOUT ROWID"}
    done, known = _version(connection), migrations[-1].version
    if done > known:
        raise DatabaseUnavailable(
            f"The database was written by a newer Roundhouse (its form is number {done}, this program knows {known}): "
            "start that version again, or set [ledger] url to another database"
        )
    for migration in migrations:
        if migration.version > done:
            for statement in migration.statements:
                connection.exec_driver_sql(statement.format(**words))
            note = text("INSERT INTO roundhouse_schema_version (version, what, at_us) VALUES (:version, :what, :at_us)")
            at_us = time.time_ns() // 1000
            connection.execute(note, {"version": migration.version, "what": migration.what, "at_us": at_us})


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table("roundhouse_schema_version"):
        connection.execute(
            text(
                "CREATE TABLE roundhouse_schema_version "
                "(version BIGINT NOT NULL PRIMARY KEY, what TEXT NOT NULL, at_us BIGINT NOT NULL)"
            )
        )
    return connection.execute(text("SELECT max(version) FROM roundhouse_schema_version")).scalar_one() or 0
