"""Brings a GGUF file of this machine into the models folder, all parts of it where it is split.

The law: only what is a whole GGUF file comes in, under its own name, and nothing of that name is overwritten. On the same disk
it costs no room: the file has then two names.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import threading
from pathlib import Path

from providers.fetch_files import CHUNK_BYTES, Progress, Stopped, explain, in_thread, locked, make_folders
from providers.gguf import GgufError, read_info
from providers.sources import PART, FetchError


async def fetch_local_file(path: Path, models_dir: Path, progress: Progress | None = None) -> Path:
    """The file in the models folder; as it is where it lies there already. Of a split file the first part, all being there.

    Args:
        progress: called on the event loop.
    Raises: FetchError: it is no GGUF file or a broken one, or another file has its name.
    """
    tell: Progress = progress or (lambda stage, done, total: None)
    try:
        files, inside = await in_thread(lambda _: _checked(path, models_dir))
        if inside:
            return files[0]
        lock = models_dir / ".fetch" / "local" / "lock"
        make_folders(lock.parent)
        async with locked(lock, tell):
            for file in files:
                tell("copy", 0, file.stat().st_size)
                await in_thread(lambda stop, file=file: _bring(file, models_dir / file.name, stop))
    except OSError as error:
        explain(error)
    target = models_dir / path.name
    size = target.stat().st_size
    tell("done", size, size)
    return target


def _checked(path: Path, models_dir: Path) -> tuple[list[Path], bool]:
    """Every file the model consists of, absolute; and whether they lie in the models folder already. Raises: FetchError."""
    try:
        info = read_info(path)
    except GgufError as error:
        raise FetchError(f"'{path}' cannot be used: {error}") from None
    except OSError as error:
        raise FetchError(f"'{path}' cannot be read ({error.strerror})", detail=str(error)) from None
    whole = path.absolute()
    match = PART.fullmatch(path.name)
    names = [path.name]
    if match is not None:
        names = [f"{match['stem']}-{number:05d}-of-{match['parts']}.gguf" for number in range(1, info.parts + 1)]
    inside = whole.parent.resolve().is_relative_to(models_dir.resolve())
    return [whole.with_name(name) for name in names], inside


def _bring(file: Path, target: Path, stop: threading.Event) -> None:
    """A second name, else a copy. Raises: FetchError, OSError, Stopped."""
    if target.exists():
        if target.samefile(file) or filecmp.cmp(file, target, shallow=False):
            return
        raise FetchError(f"another file is called {target.name} in the models folder: rename one of the two")
    try:
        os.link(file.resolve(), target)  # the file itself, where `file` is a symbolic link
        return
    except FileExistsError:
        raise FetchError(f"another file is called {target.name} in the models folder since just now") from None
    except OSError:  # another disk, or one that knows no second names: a copy
        pass
    part = target.with_name(f"{target.name}.part")
    try:
        with file.open("rb") as inside, part.open("wb") as outside:
            while piece := inside.read(CHUNK_BYTES):
                if stop.is_set():
                    raise Stopped
                outside.write(piece)
            outside.flush()
            os.fsync(outside.fileno())
        shutil.copystat(file, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
