"""What has just been asked, and what is being asked: the last requests in memory, with those in progress. Pure.

The law: bounded, whatever comes; adding one costs a fraction of a microsecond, and nothing at all while an answer streams. Numbers
only grow, so that who follows knows what was missed. Whether the ledger is on or not, this is what is known of the last moments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Literal, Protocol

import msgspec

from .entry import Entry

KEPT = 1000  # a screenful is 30; with the ledger on older ones come from there. About 0.7 MB.
LIMIT_MAX = 500  # rows on one page
_WORD_CHARS_MAX = 200  # of a search

Outcome = Literal["", "ok", "error", "left"]
Phase = Literal["queued", "answering"]


class Begun(msgspec.Struct, kw_only=True, frozen=True):
    """A request that has not ended: the fields of an Entry that are settled already."""

    id: str
    at_us: int
    principal: str
    key_id: str
    tenant: str
    asked: str
    model: str
    target: str
    route: str
    streamed: bool
    phase: Phase  # queued: until the first byte of its answer


class Ongoing(Protocol):
    """A request that can say how it stands. Asked only while somebody looks."""

    def begun(self) -> Begun: ...


# Words of an entry that are another one's too.
_SHARED = ("principal", "key_id", "tenant", "asked", "model", "target", "route", "code", "left", "user_agent")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows. Empty: whichever."""

    model: str = ""  # as asked, by its public name, or a target
    key: str = ""  # a key's id, or who it belongs to
    tenant: str = ""
    outcome: Outcome = ""
    q: str = ""  # found anywhere in what is written in words, whichever case
    before: tuple[int, str] | None = None  # (at_us, id) of the row after which the page begins

    def holds(self, entry: Entry) -> bool:
        """Whether it is one of them."""
        if self.before is not None and place_of(entry) >= self.before:
            return False
        if self.model and self.model not in (entry.model, entry.asked, entry.target):
            return False
        if self.key and self.key not in (entry.key_id, entry.principal):
            return False
        if self.tenant and self.tenant != entry.tenant:
            return False
        if self.outcome and self.outcome != outcome_of(entry):
            return False
        return not self.q or self.q.lower()[:_WORD_CHARS_MAX] in _words(entry)


def place_of(entry: Entry) -> tuple[int, str]:
    """Where it stands among all: by time, then by id, since two may begin in the same microsecond."""
    return entry.at_us, entry.id


def outcome_of(entry: Entry) -> Outcome:
    """How it ended."""
    if entry.left:
        return "left"
    return "ok" if 0 < entry.status < 400 and not entry.code else "error"


def _words(entry: Entry) -> str:
    texts = (entry.id, entry.asked, entry.model, entry.target, entry.route, entry.code, entry.principal, entry.tenant)
    return "\n".join((*texts, str(entry.status), entry.user_agent)).lower()


class Activity:
    """The last requests, oldest first, and those in progress.

    `ended` counts all that ever ended, `began` all that ever began: who compares them with what they were knows whether to look.
    """

    __slots__ = ("_ring", "began", "ended", "running")

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[Entry] = deque(maxlen=kept)
        self.running: dict[int, Ongoing] = {}
        self.began = 0
        self.ended = 0

    def begin(self, ongoing: Ongoing) -> int:
        """It has come in. Its number is for `end`."""
        self.began = number = self.began + 1
        self.running[number] = ongoing
        return number

    def end(self, number: int, entry: Entry) -> None:
        """It is over, however it ended."""
        self.running.pop(number, None)
        self.ended += 1
        self._ring.append(entry)

    @contextmanager
    def packed(self) -> Generator[None, None, None]:
        """As long as it lasts nothing is kept but one piece of bytes; at its end all is as it was, in memory that lies together.

        An entry lies where its request was answered, among what a crowd has left, and no page is free as long as one is on it.
        """
        try:
            piece = msgspec.msgpack.encode(list(self._ring))
        except (UnicodeEncodeError, OverflowError):  # somebody's joke of a name: then it stays where it is
            yield
            return
        self._ring.clear()
        try:
            yield
        finally:
            words: dict[str, str] = {}
            costs: dict[str, Decimal | None] = {}  # by how they are written: 0.1 is 0.10, but not to a reader
            for entry in msgspec.msgpack.decode(piece, type=list[Entry]):
                for name in _SHARED:
                    word = getattr(entry, name)
                    setattr(entry, name, words.setdefault(word, word))
                entry.cost_usd = costs.setdefault(str(entry.cost_usd), entry.cost_usd)
                self._ring.append(entry)

    def in_progress(self) -> list[tuple[int, Begun]]:
        """By number, oldest first."""
        return [(number, ongoing.begun()) for number, ongoing in self.running.items()]

    @property
    def oldest(self) -> int:
        """The number of the oldest that is kept; numbers are those of `ended`, from 1."""
        return self.ended - len(self._ring) + 1

    def since(self, number: int) -> list[Entry]:
        """Those that ended after the one of this number, as far as they are kept, oldest first."""
        count = min(self.ended - number, len(self._ring))
        if count <= 0:
            return []
        newest = [self._ring[-place] for place in range(1, count + 1)]
        newest.reverse()
        return newest

    def matching(self, wanted: Wanted) -> list[Entry]:
        """All that are kept and wanted."""
        return [entry for entry in self._ring if wanted.holds(entry)]

    def one(self, id: str) -> Entry | None:
        """The last one of that id."""
        return next((entry for entry in reversed(self._ring) if entry.id == id), None)


class Page(msgspec.Struct, frozen=True):
    """Rows, newest first. `next`: says where the following page begins; None: there is none."""

    rows: list[Entry]
    next: str | None


def page_of(rows: Iterable[Entry], limit: int) -> Page:
    """The newest of them, each once. To know whether there are more, `rows` must hold one more than `limit` where there is."""
    once = {place_of(entry): entry for entry in rows}
    newest = sorted(once, reverse=True)
    shown = [once[place] for place in newest[:limit]]
    return Page(shown, cursor_of(shown[-1]) if len(newest) > limit else None)


def cursor_of(entry: Entry) -> str:
    """What `before` takes, to go on after this one."""
    return f"{entry.at_us}.{entry.id}"


def read_cursor(written: str) -> tuple[int, str] | None:
    """The place that a cursor means; None: it is none of ours."""
    at_us, dot, id = written.partition(".")
    return (int(at_us), id) if dot and at_us.isascii() and at_us.isdigit() and len(at_us) <= 18 else None


def row_of(entry: Entry) -> Mapping[str, Any]:
    """For JSON: money in plain digits, never with an exponent."""
    return msgspec.structs.asdict(entry) | {"cost_usd": _plain(entry.cost_usd)}


def _plain(amount: Decimal | None) -> str | None:
    return None if amount is None else format(amount, "f")
