"""A real PostgreSQL of a test's own: a cluster in a temporary folder, on a socket there, as a user that may run one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql")
STARTED_S = 20


def missing() -> str:
    """Why there can be none here; "": there can."""
    if _folder() is None:
        return f"no PostgreSQL server is installed (no initdb in PATH or {BINARIES}/*/bin)"
    if os.geteuid() == 0 and (_account() is None or shutil.which("setpriv") is None):
        return "PostgreSQL does not run as root, and there is no account 'postgres' to run it as"
    return ""


def _folder() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next((path.parent for path in sorted(BINARIES.glob("*/bin/initdb"), reverse=True)), None)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class Postgres:
    """One cluster. `url` is its address, as an operator would write it."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._binaries = binaries
        self.url = f"postgresql://tester@/postgres?host={folder}"

    def _run(self, program: str, *arguments: str) -> None:
        account = _account() if os.geteuid() == 0 else None
        become = [] if account is None else ["setpriv", f"--reuid={account.pw_uid}", "--clear-groups"]
        command = [*become, str(self._binaries / program), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def empty(self, name: str) -> str:
        """The URL of a new database."""
        self._run("createdb", "-h", str(self._folder), "-U", "tester", name)
        return f"postgresql://tester@/{name}?host={self._folder}"

    def create(self) -> None:
        """Make the cluster."""
        self._run("initdb", "-D", str(self._data), "-U", "tester", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        """Until it takes connections."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", str(STARTED_S), "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """At once, whoever is connected."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "stop")


@contextmanager
def postgres() -> Generator[Postgres]:
    """A cluster that takes connections. There must be none missing."""
    binaries = _folder()
    assert binaries is not None
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:  # a socket's path may have 107 bytes
        folder = Path(name)
        account = _account() if os.geteuid() == 0 else None
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        cluster = Postgres(folder, binaries)
        cluster.create()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
