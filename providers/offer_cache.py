"""A catalogue kept on disk, for the time when its upstream is down. All of it blocks: call it in a thread.

The law: the file is all of one catalogue or all of the one before; one that is corrupt, of another version or of another upstream
is no catalogue, and the next one takes its place. Its time of change says when the upstream last confirmed it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from .contract import Offer
from .pricing import is_sound

log = logging.getLogger("roundhouse.providers")

FILE_MAX_BYTES = 32 << 20  # twice what a catalogue may have on the wire
_FOLDER = "catalogues"
_NAME_CHARS_MAX = 64  # with the digest far below the 255 bytes that file systems allow
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


class Kept(msgspec.Struct, frozen=True):
    """A catalogue, and when its upstream last said so."""

    offers: tuple[Offer, ...]
    at_s: float  # seconds since the epoch


class _File(msgspec.Struct, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    source: str
    offers: tuple[Offer, ...]


class OfferCache:
    """One provider's file.

    Args:
        state_dir: our folder for what outlives a restart; made when needed.
        name: the provider's.
        source: where the catalogue comes from; a file from elsewhere does not count.
        clock: seconds since the epoch.
    """

    def __init__(self, state_dir: Path, name: str, source: str, clock: Callable[[], float] = time.time) -> None:
        self.path = state_dir / _FOLDER / f"{file_stem(name)}.json"
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()  # two threads of ours would write the same temporary file

    def load(self) -> Kept | None:
        """What was kept; None: nothing that can be used. Never fails."""
        try:
            with self.path.open("rb") as file:
                at_s = os.fstat(file.fileno()).st_mtime
                content = file.read(FILE_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the kept catalogue %s cannot be read: %s", self.path, error.strerror)
            return None
        offers = self._read(content)
        return None if offers is None else Kept(offers, at_s)

    def save(self, offers: Sequence[Offer]) -> None:
        """Keep it; where the file says the same already, only its time is set. Raises: OSError."""
        content = msgspec.json.encode(_File(version=1, source=self._source, offers=tuple(offers)))
        with self._lock:
            if not self._says(content):
                _replace(self.path, content)
            now_s = self._clock()
            os.utime(self.path, (now_s, now_s))

    def _says(self, content: bytes) -> bool:
        try:
            return self.path.read_bytes() == content
        except OSError:
            return False

    def _read(self, content: bytes) -> tuple[Offer, ...] | None:
        try:
            if len(content) > FILE_MAX_BYTES:
                raise ValueError("too large")
            kept = msgspec.json.decode(content, type=_File)
            if any(offer.price is not None and not is_sound(offer.price) for offer in kept.offers):
                raise ValueError("a price is none")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.warning("the kept catalogue %s makes no sense (%s) and is not used", self.path, error)
            return None
        return kept.offers if kept.source == self._source else None


def file_stem(name: str) -> str:
    """A provider's name as a file's: itself where that is safe, else with a digest, so that no two names meet."""
    safe = _UNSAFE.sub("_", name)[:_NAME_CHARS_MAX]
    return name if safe == name and name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # what models one may use is nobody else's business
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
