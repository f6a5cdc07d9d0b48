"""What a caller hears while its stream is silent: when, and which words.

The law: comments only after `keepalive_s` of silence, for a comment commits the status; once they have begun, every 2 s while the
model loads. Who asks for progress (header field `x-roundhouse-progress`) hears of it each second from the first on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

from gateway.residency.progress import Progress

from .progress import chunk, comment
from .sse import KEEP_ALIVE

ASKED_S = 1.0
LOADING_S = 2.0
_HEADER = b"x-roundhouse-progress"


class Wanted(Enum):
    """How a caller wants to hear of a load."""

    USUAL = b""
    COMMENTS = b"comments"
    EVENTS = b"events"  # as chunks of a completion, for clients that read the fields


def wanted(headers: Iterable[tuple[bytes, bytes]]) -> Wanted:
    """By the request's header fields; what is not known is as if it were not there."""
    for name, value in headers:
        if name == _HEADER:
            return _WORDS.get(value.strip().lower(), Wanted.USUAL)
    return Wanted.USUAL


_WORDS = {each.value: each for each in (Wanted.COMMENTS, Wanted.EVENTS)}


class Silence:
    """How one caller's silence is filled; the usual one is shared by all.

    Args:
        keepalive_s: None: never.
        progress: of a target that is being brought into memory; None where it is there, or needs none of ours.
        chat: the form of the events: a chat's chunks, or those of text completions.
        id, created: of the chunks, where events are wanted.
    """

    __slots__ = ("_chat", "_created", "_id", "_keepalive_s", "_progress", "_wanted")

    def __init__(
        self,
        keepalive_s: float | None,
        progress: Callable[[str], Progress | None],
        want: Wanted = Wanted.USUAL,
        *,
        chat: bool = True,
        id: str = "",
        created: int = 0,
    ) -> None:
        self._keepalive_s = keepalive_s
        self._progress = progress
        self._wanted = want
        self._chat = chat
        self._id = id
        self._created = created

    @property
    def first_s(self) -> float | None:
        """After how long to look for the first time; None: not at all."""
        return self._keepalive_s if self._wanted is Wanted.USUAL else ASKED_S

    def progress(self, target: str) -> Progress | None:
        """As far as it has come."""
        return self._progress(target) if target else None

    def gap_s(self, progress: Progress | None, *, begun: bool) -> float | None:
        """How long a silence may be; None: for ever. `begun`: something was said already."""
        if progress is not None:
            if self._wanted is not Wanted.USUAL:
                return ASKED_S
            if begun and self._keepalive_s is not None:
                return min(LOADING_S, self._keepalive_s)
        return self._keepalive_s

    def words(self, asked: str, progress: Progress | None) -> bytes:
        """What is said: of the model that the caller `asked` for."""
        if progress is None:
            return KEEP_ALIVE
        if self._wanted is Wanted.EVENTS:
            return chunk(asked, progress, id=self._id, created=self._created, chat=self._chat)
        return comment(asked, progress)
