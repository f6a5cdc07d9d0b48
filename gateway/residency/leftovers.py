"""What we have loaded into other people's servers, kept on disk: after a crash the next start takes it out of their memory again.

Such a model was loaded to stay until told otherwise, and nobody else would ever tell it. (Engines of our own die with us.)
The law: what cannot be read or written stops nobody; the file is written when the set has changed, off the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from .footprints import replace_whole
from .journal import Happening

log = logging.getLogger("roundhouse.residency")


class Leftovers:
    """Listens to the journal.

    Args:
        path: the file; its folder is made when needed.
        in_server: whether a target lives in somebody else's server.
    """

    def __init__(self, path: Path, in_server: Callable[[str], bool]) -> None:
        self._path = path
        self._in_server = in_server
        self._targets: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self._dirty = False

    async def open(self) -> frozenset[str]:
        """What an earlier run left there. Never fails."""
        return await asyncio.to_thread(_read, self._path)

    def heed(self, happening: Happening) -> None:
        """One entry of the journal."""
        before = len(self._targets)
        if happening.what == "loaded" and self._in_server(happening.target):
            self._targets.add(happening.target)
        elif happening.what in ("gone", "vanished"):
            self._targets.discard(happening.target)
        if len(self._targets) != before:
            self._dirty = True
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write(), name="write leftovers")

    async def aclose(self) -> None:
        """Everything is written."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._dirty:
            self._dirty = False
            try:
                await asyncio.to_thread(replace_whole, self._path, msgspec.json.encode(sorted(self._targets)))
            except OSError as error:
                log.warning("what is loaded in servers is not kept: %s: %s", self._path, error.strerror)
        self._writing = None


def _read(path: Path) -> frozenset[str]:
    try:
        return frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return frozenset()
