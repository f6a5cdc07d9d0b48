"""What befalls a process and its database: ended, killed, restarted, its disk full. No row is lost, none is there twice."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from gateway.metering.ledger_questions import Query, UsageQuery
from gateway.metering.ledger_writer import BATCH_ROWS
from tests.fakes.postgres import Postgres, postgres
from tests.fakes.postgres import missing as no_postgres
from tests.metering.kept import entry, ids, ledger, until

ROOT = Path(__file__).parents[2]
ROWS = 20_000
_MOUNT, _UMOUNT = shutil.which("mount") or "", shutil.which("umount") or ""


@contextmanager
def adding(url: str, spool: Path, first: int, end: int) -> Generator[subprocess.Popen[bytes]]:
    """A process that adds these rows; killed with the block."""
    command = [sys.executable, "-m", "tests.metering.adder", url, str(spool), str(first), str(end)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Where it says how far it is."""
    assert process.stdout is not None
    return process.stdout


def reach(process: subprocess.Popen[bytes], number: int) -> int:
    """Read until it is that far; how far it is."""
    for line in told(process):
        if int(line) >= number:
            return int(line)
    raise AssertionError(f"it ended before {number}")


def rest(process: subprocess.Popen[bytes], number: int) -> int:
    """How far it was in the end; a line that a kill tore does not count."""
    lines = told(process).read().split(b"\n")[:-1]
    return int(lines[-1]) if lines else number


async def all_there(url: str, spool: Path, rows: int) -> None:
    """Each once."""
    found = await ids(url, spool)
    assert len(found) == rows
    assert set(found) == {f"r{number}" for number in range(rows)}


async def test_no_row_is_lost_by_an_end_and_a_lock(tmp_path: Path) -> None:
    """20,000 rows on SQLite, by two processes one after the other; TERM comes in the middle of the first one's work."""
    url, spool = f"sqlite:///{tmp_path}/kept", tmp_path / "spool"
    with adding(url, spool, 0, ROWS) as process:
        reach(process, ROWS // 3)
        process.terminate()
        number = rest(process, 0)
        assert process.wait(10) == 0
    assert ROWS // 3 <= number < ROWS
    assert list(spool.glob("*.rows")) == []
    with adding(url, spool, number, ROWS) as process:
        assert rest(process, 0) >= ROWS
        assert process.wait(10) == 0
    await all_there(url, spool, ROWS)


@pytest.mark.slow
@pytest.mark.skipif(bool(no_postgres()), reason=no_postgres() or "there is one")
async def test_no_row_is_lost_by_an_end_and_a_restart_of_postgresql(tmp_path: Path) -> None:
    """The same on PostgreSQL, which is stopped and started while the second process adds."""
    with postgres() as cluster:
        await _through_a_restart(cluster, tmp_path / "spool")


async def _through_a_restart(cluster: Postgres, spool: Path) -> None:
    with adding(cluster.url, spool, 0, ROWS) as process:
        reach(process, ROWS // 3)
        process.terminate()
        number = rest(process, 0)
        assert process.wait(15) == 0
    with adding(cluster.url, spool, number, ROWS) as process:
        reach(process, ROWS // 2)
        cluster.stop()
        assert rest(process, 0) == ROWS  # nobody waited for it
        cluster.start()
        assert process.wait(15) == 0
    await all_there(cluster.url, spool, ROWS)


@pytest.mark.parametrize("away", [False, True])
async def test_killed_everything_that_was_on_disk_is_found(tmp_path: Path, away: bool) -> None:
    """With the database there, and without."""
    url, spool = f"sqlite:///{tmp_path}/kept", tmp_path / "spool"
    nowhere = f"sqlite:///{tmp_path}/file/kept"
    (tmp_path / "file").touch()
    with adding(nowhere if away else url, spool, 0, ROWS) as process:
        number = reach(process, 3000)
        process.kill()
        number = rest(process, number)
        assert process.wait(10) == -signal.SIGKILL
    found = await ids(url, spool)
    assert len(found) == len(set(found))
    assert set(found) >= {f"r{each}" for each in range(number)}
    assert len(found) <= number + 100  # rows of a turn about which it could not say anything any more


@contextmanager
def small_disk(folder: Path, size: int) -> Generator[Path]:
    """A file system of that size. As root only."""
    folder.mkdir()
    mounted = subprocess.run(
        [_MOUNT, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run([_UMOUNT, "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0 or not (_MOUNT and _UMOUNT), reason="only root mounts a small file system")
async def test_full_disk_of_the_database_is_outlived(tmp_path: Path) -> None:
    """Rows stay in the spool while it is full, and are written once there is room."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        async with ledger(f"sqlite:///{disk}/kept", tmp_path / "spool") as found:
            found.add(entry(0))
            await found.settle()
            (disk / "ballast").write_bytes(bytes(_free(disk)))
            for number in range(1, 1000):
                found.add(entry(number))
            await until(lambda: not found.state.ok)
            assert "full" in found.state.error or "disk" in found.state.error
            assert found.state.dropped == 0
            (disk / "ballast").unlink()
            await until(lambda: found.state.buffered == 0)
            assert found.state.ok
            assert (await found.usage(UsageQuery()))[0].requests == 1000


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


async def test_full_disk_of_spool_and_database_is_outlived_in_memory(tmp_path: Path) -> None:
    """No file can grow: what is in memory is written once they can."""
    url = f"sqlite:///{tmp_path}/kept"
    async with ledger(url, tmp_path / "spool") as found:
        found.add(entry(0))
        await found.settle()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            for number in range(1, BATCH_ROWS + 1):
                found.add(entry(number))
            await until(lambda: not found.state.ok)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert found.state.dropped == 0
        found.add(entry(BATCH_ROWS + 1))
        await until(lambda: found.state.ok and found.state.buffered == 0)
        assert len(await found.recent(Query(limit=10_000))) == BATCH_ROWS + 2


async def test_database_that_may_not_be_written_is_outlived(tmp_path: Path) -> None:
    """Another program made it one that no one may write to."""
    url = f"sqlite:///{tmp_path}/kept"
    async with ledger(url, tmp_path / "spool") as found:
        found.add(entry(0))
        await found.settle()
    (tmp_path / "kept").rename(tmp_path / "aside")
    (tmp_path / "kept").mkdir()
    async with ledger(url, tmp_path / "spool") as found:
        found.add(entry(1))
        await until(lambda: not found.state.ok)
        (tmp_path / "kept").rmdir()
        (tmp_path / "aside").rename(tmp_path / "kept")
        await until(lambda: found.state.ok)
        assert [each.id for each in await found.recent(Query())] == ["r1", "r0"]
