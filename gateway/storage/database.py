"""The database behind an async face: SQLite beside the gateway's other state, or PostgreSQL by URL.

The law: nothing of it runs in the event loop. One thread writes, one at a time and each piece of work in one transaction, and one
reads; SQLAlchemy is imported in there, when the first work comes (it takes 0.2 s, which no start has to wait for). Opening is part
of the first work, too, and is tried again with the next one: a database that is away at the start is one that is not back yet.
Whatever goes wrong is a `DatabaseUnavailable`; there is no other way for work to fail but errors that the work itself raises.

Sources: SQLite, "Write-Ahead Logging" and "PRAGMA synchronous" (in WAL mode NORMAL never corrupts; a loss of power may undo the
last commits); SQLAlchemy, "SQLite: enabling non-legacy transactions" (the two events below); libpq, "connection parameters".
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_T = TypeVar("_T")

FILE = "ledger.sqlite3"
# For a lock of another connection: longer than any transaction of ours, shorter than an end of the gateway may take.
BUSY_S = 2.0
_LOOK_AGAIN_S = 0.02
CONNECT_S = 5
STATEMENT_S = 30  # a usage query over millions of rows takes some seconds
UNHEARD_MS = 10_000  # after this long without an answer to what was sent a server is gone
CLOSE_S = 5.0  # for the work that is under way

_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")
_READS = "roundhouse_reads"  # execution option of a connection that will not write


class DatabaseUnavailable(GatewayError):
    """The database cannot be used now: away, locked, its disk full, of a newer program. Trying again later may help.

    Args:
        data_refused: it is there, and what it does not take is this work's own data.
    """

    code = "database_unavailable"

    def __init__(self, message: str, *, detail: str = "", data_refused: bool = False) -> None:
        super().__init__(message, detail=detail, retry_after_s=None if data_refused else 5)
        self.data_refused = data_refused


class UnusableUrl(ValueError):
    """No database can be meant by this URL, or its driver is missing. str() is for the operator and shows no password."""


def database_url(configured: str, environ: Mapping[str, str], state_dir: Path) -> str:
    """Where it is: as configured, else $DATABASE_URL, else a file in the state folder. Raises: UnusableUrl."""
    url = configured or environ.get("DATABASE_URL", "")
    return checked(url) if url else f"sqlite:///{state_dir / FILE}"


def checked(url: str) -> str:
    """The URL as SQLAlchemy wants it. Raises: UnusableUrl."""
    scheme, found, rest = url.partition("://")
    if found and scheme == "sqlite" and rest.startswith("/") and rest.strip("/"):
        return url
    if found and scheme in _POSTGRES:
        if find_spec("psycopg") is None:
            raise UnusableUrl("PostgreSQL needs its driver; install it with: pip install 'roundhouse[postgres]'")
        return f"postgresql+psycopg://{rest}"
    named = f"{scheme}://…" if found else "what has no :// in it"
    raise UnusableUrl(
        f"a database is sqlite:////absolute/path or postgresql://user:password@host:port/name, not {named}"
    )


class Database:
    """One database; opened by its first work, closed by `aclose`.

    Args:
        url: as `database_url` gives it.
        busy_s: how long to wait for a lock of another connection (SQLite).
    """

    def __init__(self, url: str, busy_s: float = BUSY_S) -> None:
        self.url = checked(url)
        self._busy_s = busy_s
        self._writer = ThreadPoolExecutor(1, "roundhouse-database-writer")
        self._reader = ThreadPoolExecutor(1, "roundhouse-database-reader")
        self._opening = threading.Lock()
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        return f"Database({self.url.partition('://')[0]})"

    async def write(self, work: Callable[[Connection], _T]) -> _T:
        """Carry work out in a transaction of its own: all of it is kept, or nothing. Raises: DatabaseUnavailable."""
        return await self._run(self._writer, work, reads=False)

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """The same for work that changes nothing; what is being written meanwhile does not hinder it."""
        return await self._run(self._reader, work, reads=True)

    async def aclose(self) -> None:
        """After the work under way, or some seconds. Idempotent."""
        try:
            closing = asyncio.get_running_loop().run_in_executor(self._writer, self._dispose)
        except RuntimeError:  # closed already
            return
        await asyncio.wait((closing,), timeout=CLOSE_S)
        for lane in (self._writer, self._reader):
            lane.shutdown(wait=False, cancel_futures=True)

    async def _run(self, lane: ThreadPoolExecutor, work: Callable[[Connection], _T], *, reads: bool) -> _T:
        try:
            running = asyncio.get_running_loop().run_in_executor(lane, self._carry_out, work, reads)
        except RuntimeError:
            raise DatabaseUnavailable("The database has been closed: the gateway is ending") from None
        return await running

    # ------------------------------------------------------------ in a thread

    def _carry_out(self, work: Callable[[Connection], _T], reads: bool) -> _T:
        from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError  # noqa: PLC0415 - see the law

        try:
            with self._opened().connect() as connection:
                if reads:
                    connection = connection.execution_options(**{_READS: True})
                with connection.begin():
                    return work(connection)
        except DBAPIError as error:
            # its str() would hold the statement and all its values, PostgreSQL's following lines some of them
            raise _unavailable(
                str(error.orig).partition("\n")[0], isinstance(error, DataError | IntegrityError)
            ) from None
        except SQLAlchemyError as error:
            raise _unavailable(str(error).partition("\n")[0]) from None
        except sqlite3.Error as error:  # from work that speaks to the driver itself
            raise _unavailable(str(error), isinstance(error, sqlite3.DataError | sqlite3.IntegrityError)) from None
        except (UnicodeEncodeError, OverflowError) as error:  # a driver's, of a value that it cannot write
            raise _unavailable(type(error).__name__, data_refused=True) from None
        except OSError as error:
            raise _unavailable(error.strerror or type(error).__name__) from None

    def _opened(self) -> Engine:
        with self._opening:
            if self._engine is None:
                from .migrations import migrate  # noqa: PLC0415 - see the law

                engine = _engine(self.url, self._busy_s)
                try:
                    with engine.begin() as connection:
                        migrate(connection)
                except BaseException:
                    engine.dispose()
                    raise
                self._engine = engine
            return self._engine

    def _dispose(self) -> None:
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None


def _unavailable(why: str, data_refused: bool = False) -> DatabaseUnavailable:
    why = " ".join(why.split()) or "it does not say why"
    what = "The database does not take this" if data_refused else "The database cannot be used now"
    return DatabaseUnavailable(f"{what}: {why}", detail=why, data_refused=data_refused)


def _engine(url: str, busy_s: float) -> Engine:
    from sqlalchemy import URL, create_engine, event  # noqa: PLC0415 - see the law

    if not url.startswith("sqlite:"):
        connect: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": UNHEARD_MS,
            "application_name": "roundhouse",
            "prepare_threshold": None,  # prepared statements do not survive a pooler between us and the server
        }
        engine = create_engine(
            url, connect_args=connect, pool_pre_ping=True, pool_size=2, max_overflow=0, paramstyle="format"
        )
        event.listen(engine, "begin", _begin_postgres)
        return engine
    path = url.removeprefix("sqlite:///")  # taken as it is: a folder's name may hold what a URL would have to encode
    _make_private(Path(path))
    connect = {"timeout": busy_s, "check_same_thread": False}
    engine = create_engine(URL.create("sqlite", database=path), connect_args=connect, pool_size=2)
    event.listen(engine, "connect", _tune)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(path: Path) -> None:
    """Who asked for what is nobody else's business; SQLite gives the files beside it the rights of this one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))


def _tune(connection: Any, _: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins, the driver would begin late and not for every statement
    cursor = connection.cursor()
    _until_free(lambda: cursor.execute("PRAGMA journal_mode = WAL"))
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _until_free(step: Callable[[], object]) -> None:
    """SQLite waits for no other connection that changes the journal's mode, but refuses at once."""
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            step()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(_LOOK_AGAIN_S)  # in a worker thread


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: to wait for another writer at the beginning; in the middle SQLite would refuse at once
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")


def _begin_postgres(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_S * 1000}")
