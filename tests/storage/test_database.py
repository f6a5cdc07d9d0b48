"""The database behind its async face: where it is, how it is opened, what keeps work apart, and how it says that it is away."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text

from gateway.storage.database import Database, DatabaseUnavailable, UnusableUrl, checked, database_url
from gateway.storage.migrations import MIGRATIONS, Migration, migrate
from gateway.storage.tables import metadata, tenants

ROOT = Path(__file__).parents[2]
BUSY_S = 0.1


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Database, None]:
    """A database that is closed with the block."""
    database = Database(url, busy_s=BUSY_S)
    try:
        yield database
    finally:
        await database.aclose()


def adds(connection: Connection, *names: str) -> None:
    """Write rows."""
    for name in names:
        connection.execute(tenants.insert().values(id=name, name=name, terms="{}", created_us=1))


def names(connection: Connection) -> list[str]:
    """What is there."""
    return [row[0] for row in connection.execute(tenants.select().order_by(tenants.c.id))]


# ---------------------------------------------------------------------- where it is


def test_configured_before_the_environment_before_the_state_folder(tmp_path: Path) -> None:
    """The nearest word counts."""
    environ = {"DATABASE_URL": "postgres://u:p@host/db"}
    assert database_url("sqlite:////x.db", environ, tmp_path) == "sqlite:////x.db"
    assert database_url("", environ, tmp_path) == "postgresql+psycopg://u:p@host/db"
    assert database_url("", {}, tmp_path) == f"sqlite:///{tmp_path}/ledger.sqlite3"


@pytest.mark.parametrize(
    "url", ["mysql://me:geheim@host/db", "geheim", "sqlite:", "sqlite://", "sqlite:///", "://geheim"]
)
def test_url_of_no_database_of_ours_is_refused_without_its_password(url: str) -> None:
    """It says which there are."""
    with pytest.raises(UnusableUrl, match="postgresql://") as caught:
        checked(url)
    assert "geheim" not in str(caught.value)


def test_repr_shows_no_password() -> None:
    """Only what kind it is."""
    assert repr(Database("postgresql://me:geheim@host/db")) == "Database(postgresql+psycopg)"


def test_missing_driver_is_said_with_the_way_to_it() -> None:
    """And only where PostgreSQL is asked for."""
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from gateway.storage.database import UnusableUrl, checked\n"
        "checked('sqlite:////x')\n"
        "try: checked('postgresql://host/db')\n"
        "except UnusableUrl as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'roundhouse[postgres]'" in done.stdout


def test_nothing_of_it_is_imported_before_the_first_work() -> None:
    """The start of the gateway does not pay for SQLAlchemy."""
    code = (
        "import sys, gateway.metering.ledger; print(any(n.startswith(('sqlalchemy', 'psycopg')) for n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ---------------------------------------------------------------------- work


async def test_work_is_kept_whole_or_not_at_all(any_url: str) -> None:
    """What failed half-way left nothing, and what it raised comes out as it is."""

    def fails(connection: Connection) -> None:
        adds(connection, "a")
        raise KeyError("of the work's own")

    async with opened(any_url) as database:
        await database.write(lambda connection: adds(connection, "b", "c"))
        with pytest.raises(KeyError):
            await database.write(fails)
        assert await database.read(names) == ["b", "c"]


async def test_what_the_database_does_not_take_is_told_apart(any_url: str) -> None:
    """A row twice is the row's fault, no table is the database's; neither message has a value of the row in it."""
    async with opened(any_url) as database:
        await database.write(lambda connection: adds(connection, "geheim"))
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.write(lambda connection: adds(connection, "a", "geheim"))
        assert caught.value.data_refused
        assert "geheim" not in caught.value.message
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.read(lambda connection: connection.execute(text("SELECT 'geheim' FROM nix")).all())
        assert not caught.value.data_refused
        assert "nix" in caught.value.message
        assert "geheim" not in caught.value.message
        assert await database.read(names) == ["geheim"]


async def test_value_that_cannot_be_written_is_the_works_fault(tmp_path: Path) -> None:
    """Half a surrogate pair."""
    async with opened(f"sqlite:///{tmp_path}/x") as database:
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.write(lambda connection: adds(connection, "\ud800"))
        assert caught.value.data_refused


async def test_reading_does_not_wait_for_writing(any_url: str) -> None:
    """While a transaction is open in the writer's thread, what was there before can be read."""
    begun, go = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        adds(connection, "b")
        begun.set()
        assert go.wait(10)

    async with opened(any_url) as database:
        await database.write(lambda connection: adds(connection, "a"))
        writing = asyncio.create_task(database.write(slow))
        try:
            assert await asyncio.to_thread(begun.wait, 10)
            assert await database.read(names) == ["a"]
        finally:
            go.set()
            await writing
        assert await database.read(names) == ["a", "b"]


async def test_closed_database_says_so(any_url: str) -> None:
    """To close it twice does nothing."""
    database = Database(any_url)
    await database.write(lambda connection: adds(connection, "a"))
    await database.aclose()
    await database.aclose()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await database.read(names)


# ---------------------------------------------------------------------- SQLite


async def test_file_is_ours_alone_and_written_ahead(tmp_path: Path) -> None:
    """In a folder that is made when needed, whatever its name; only we may read it."""
    folder = tmp_path / "new" / "100%41?x=1#"
    async with opened(database_url("", {}, folder)) as database:
        mode = await database.write(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
        sync = await database.write(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
        assert (mode, sync) == ("wal", 1)
        files = list(folder.iterdir())
        assert {file.name for file in files} >= {"ledger.sqlite3", "ledger.sqlite3-wal"}
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert [file.name for file in folder.iterdir()] == ["ledger.sqlite3"]


async def test_locked_by_another_program_is_unavailable_until_it_is_free(tmp_path: Path) -> None:
    """After a short wait; the next try succeeds."""
    async with opened(f"sqlite:///{tmp_path}/x") as database:
        await database.write(lambda connection: adds(connection, "a"))
        with closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(DatabaseUnavailable, match="locked"):
                await database.write(lambda connection: adds(connection, "b"))
            assert await database.read(names) == ["a"]
        await database.write(lambda connection: adds(connection, "b"))
        assert await database.read(names) == ["a", "b"]


async def test_file_that_is_none_is_unavailable_until_it_is_one(tmp_path: Path) -> None:
    """Opening is tried again with each work."""
    path = tmp_path / "x"
    path.write_bytes(b"no database at all" * 100)
    async with opened(f"sqlite:///{path}") as database:
        with pytest.raises(DatabaseUnavailable, match="not a database"):
            await database.read(names)
        path.unlink()
        assert await database.read(names) == []


async def test_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A file is where it should be."""
    (tmp_path / "x").touch()
    async with opened(f"sqlite:///{tmp_path}/x/y.db") as database:
        with pytest.raises(DatabaseUnavailable, match="cannot be used now"):
            await database.read(names)


# ---------------------------------------------------------------------- PostgreSQL


@pytest.mark.slow
async def test_server_that_nobody_answers_for_is_unavailable(dead_port: int) -> None:
    """The password is not in the message."""
    async with opened(f"postgresql://me:geheim@127.0.0.1:{dead_port}/db") as database:
        with pytest.raises(DatabaseUnavailable, match="refused") as caught:
            await database.read(names)
        assert "geheim" not in caught.value.message


# ---------------------------------------------------------------------- migrations


async def test_migrated_database_is_what_the_tables_say(any_url: str) -> None:
    """Columns, which may be null, and primary keys; nothing else is in it."""

    def forms(connection: Connection) -> dict[str, tuple[list[tuple[str, bool]], list[str]]]:
        found = inspect(connection)
        return {
            name: (
                [(column["name"], column["nullable"]) for column in found.get_columns(name)],
                found.get_pk_constraint(name)["constrained_columns"],
            )
            for name in found.get_table_names()
        }

    said = {
        table.name: (
            [(column.name, bool(column.nullable)) for column in table.columns],
            [column.name for column in table.primary_key.columns],
        )
        for table in metadata.sorted_tables
    }
    async with opened(any_url) as database:
        found = await database.read(forms)
        del found["roundhouse_schema_version"]
        assert found == said


async def test_opened_again_and_by_two_at_once_it_stays_what_it_is(any_url: str) -> None:
    """Each migration is noted once."""
    noted = text("SELECT version FROM roundhouse_schema_version ORDER BY version")
    async with opened(any_url) as first, opened(any_url) as second:
        found = await asyncio.gather(
            *(each.read(lambda connection: connection.execute(noted).scalars().all()) for each in (first, second))
        )
    async with opened(any_url) as again:
        found.append(await again.read(lambda connection: connection.execute(noted).scalars().all()))
    assert found == [[migration.version for migration in MIGRATIONS]] * 3


async def test_newer_database_is_refused_and_left_alone(any_url: str) -> None:
    """It says which number it has, and what to do."""
    newer = text("INSERT INTO roundhouse_schema_version (version, what, at_us) VALUES (99, 'of tomorrow', 1)")
    async with opened(any_url) as database:
        await database.write(lambda connection: connection.execute(newer))
    async with opened(any_url) as database:
        with pytest.raises(DatabaseUnavailable, match=r"newer Roundhouse.*99.*\[ledger\] url"):
            await database.read(names)


async def test_migration_that_fails_leaves_nothing_and_can_be_tried_again(any_url: str) -> None:
    """Those before it and its own first statements are undone with it, being one transaction; then it goes forward."""
    bad = Migration(100, "breaks off", ("CREATE TABLE half (a BIGINT)", "CREATE TABLE half (a BIGINT)"))
    good = Migration(100, "whole", ("CREATE TABLE half (a BIGINT)",))

    def versions(connection: Connection) -> tuple[int, bool]:
        number = connection.execute(text("SELECT max(version) FROM roundhouse_schema_version")).scalar_one()
        return number, inspect(connection).has_table("half")

    async with opened(any_url) as database:
        with pytest.raises(DatabaseUnavailable, match="already exists"):
            await database.write(lambda connection: migrate(connection, [*MIGRATIONS, bad]))
        assert await database.read(versions) == (MIGRATIONS[-1].version, False)
        await database.write(lambda connection: migrate(connection, [*MIGRATIONS, good]))
        assert await database.read(versions) == (100, True)


def test_numbers_of_migrations_only_grow() -> None:
    """From 1, without a gap."""
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
