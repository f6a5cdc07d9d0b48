"""A real PostgreSQL of a test's own: a cluster in a temporary folder, on a socket there, as a user that may run one.

The law: nothing of it is left, however its owner ends. A guard holds one end of a pipe; when the other one closes, be it with the
block or with a killed process, it stops the server and deletes the folder. PG* variables, of other servers, do not count here.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

PROGRAMS = ("initdb", "pg_ctl", "postgres")
# Where they are beside PATH: Debian, PGDG's packages for Red Hat, Alpine, Homebrew on both kinds of Mac, Postgres.app.
FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
ACCOUNTS = ("postgres", "nobody")  # PostgreSQL does not run as root
STARTED_S = 20
ENDED_S = 30.0
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
port = 5432
fsync = off
"""
GUARD = 'read -r _; "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2"'


def missing() -> str:
    """Why there can be none here; "": there can."""
    if _folder() is None:
        return f"no PostgreSQL server is installed (no {', '.join(PROGRAMS)} in PATH or its usual folders)"
    if os.geteuid() == 0 and _account() is None:
        return f"PostgreSQL does not run as root, and there is no account to run it as ({' or '.join(ACCOUNTS)})"
    return ""


def _folder() -> Path | None:
    """Where its programs are: PATH first, then the newest of those in the usual folders."""
    return next((path for path in _folders() if all(os.access(path / each, os.X_OK) for each in PROGRAMS)), None)


def _folders() -> Iterator[Path]:
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    for pattern in FOLDERS:
        yield from sorted(Path("/").glob(pattern[1:]), key=_version, reverse=True)


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _account() -> pwd.struct_passwd | None:
    known = {each.pw_name: each for each in pwd.getpwall()}
    return next((known[name] for name in ACCOUNTS if name in known), None)


class Postgres:
    """One cluster. `url` is its address, as an operator would write it."""

    def __init__(self, folder: Path, binaries: Path, account: pwd.struct_passwd | None) -> None:
        self._folder = folder
        self._binaries = binaries
        self._uid = None if account is None else account.pw_uid
        self._gid = None if account is None else account.pw_gid
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        self.url = self._url("postgres")

    def _url(self, name: str) -> str:
        return f"postgresql://tester@/{name}?host={self._folder}&port=5432"

    def _begin(self, *command: str) -> subprocess.Popen[bytes]:
        """As the account that may."""
        return subprocess.Popen(
            command,
            cwd="/",
            env=self._environ | {"LC_ALL": "C"},
            user=self._uid,
            group=self._gid,
            extra_groups=None if self._uid is None else [],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # what ends the tests' group must not end it
        )

    def _run(self, program: str, *arguments: str) -> None:
        with self._begin(str(self._binaries / program), "-D", str(self._folder / "data"), *arguments) as process:
            _, said = process.communicate(timeout=60)
        log = self._folder / "log"
        told = said.decode(errors="replace") + (log.read_text(errors="replace") if log.exists() else "")
        assert process.returncode == 0, f"{program} {' '.join(arguments)}: {told[-2000:]}"

    def empty(self, name: str) -> str:
        """The URL of a new database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name)

    def guard(self) -> subprocess.Popen[bytes]:
        """Who ends it all when its input does."""
        return self._begin("/bin/sh", "-c", GUARD, "guard", str(self._binaries), str(self._folder))

    def create(self) -> None:
        """Make the cluster."""
        self._run("initdb", "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(folder=self._folder))

    def start(self) -> None:
        """Until it takes connections."""
        self._run("pg_ctl", "-w", "-t", str(STARTED_S), "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        """At once, whoever is connected."""
        self._run("pg_ctl", "-w", "-m", "fast", "stop")


@contextmanager
def postgres() -> Generator[Postgres]:
    """A cluster that takes connections. There must be none missing."""
    binaries = _folder()
    assert binaries is not None
    account = _account() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path may have 103 bytes
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    cluster = Postgres(folder, binaries, account)
    with cluster.guard() as guard:
        try:
            cluster.create()
            cluster.start()
            yield cluster
        finally:
            _, said = guard.communicate(timeout=ENDED_S)
    assert not folder.exists(), said.decode(errors="replace")
