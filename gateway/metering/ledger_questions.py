"""What may be asked of the ledger, and how it answers. Pure.

Time spans are half-open, [since, until), in UTC; a request belongs to the moment, and the day, in which its header was in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from .activity import Outcome

By = Literal["day", "key", "tenant", "model", "target"]

DAY_US = 86_400_000_000
END_US = 1 << 62  # after every request


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries. What is "" does not choose."""

    limit: int = 100  # of `recent`; `export` has none
    before: tuple[int, str] | None = None  # (at_us, id) of the last one of the page before
    since_us: int = 0
    until_us: int = END_US
    key: str = ""  # a key's id, or who it belongs to
    tenant: str = ""
    model: str = ""  # as asked, by its public name, or a target
    outcome: Outcome = ""  # as `activity.outcome_of` has it
    q: str = ""  # found anywhere in what is written in words, whichever case


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to add up, and by what. What is "" does not choose."""

    by: tuple[By, ...] = ()
    since_us: int = 0
    until_us: int = END_US
    key: str = ""  # these three as `Query` has them
    tenant: str = ""
    model: str = ""


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One sum. What was not asked for in `by` is None."""

    day: str | None = None  # "2026-11-22", UTC
    key: str | None = None
    tenant: str | None = None
    model: str | None = None
    target: str | None = None
    requests: int
    errors: int  # as `Query.outcome` has it
    prompt: int
    completion: int
    cached: int
    reasoning: int
    cost_usd: Decimal | None  # of those whose cost is known; None: of none
    priced: int  # requests whose cost is known


class Spent(msgspec.Struct, frozen=True):
    """What a key or a tenant has used."""

    requests: int
    tokens: int  # prompt and completion
    cost_usd: Decimal  # as far as it is known


class Captured(msgspec.Struct, frozen=True):
    """The bodies of one request, redacted and cut."""

    request: bytes
    request_cut: bool
    response: bytes
    response_cut: bool

    def words(self) -> Mapping[str, object]:
        """As the API tells it; what is no text is shown as far as it is."""
        return {
            "request": self.request.decode("utf-8", "replace"),
            "request_cut": self.request_cut,
            "response": self.response.decode("utf-8", "replace"),
            "response_cut": self.response_cut,
        }


class LedgerState(msgspec.Struct, frozen=True):
    """How the ledger stands."""

    ok: bool
    error: str  # what is wrong and what it means; "": nothing
    since_s: float  # epoch: how long it has been so
    buffered: int  # rows that are not in the database yet, on disk and in memory
    written: int  # rows that came into the database, since the start
    dropped: int  # rows that never will be, since the start


def read_by(words: Iterable[str]) -> Sequence[By] | None:
    """Each once, in the order they were written; None: one of them is no such word."""
    found: list[By] = []
    for word in dict.fromkeys(words):
        by = BY.get(word)
        if by is None:
            return None
        found.append(by)
    return found


BY: Mapping[str, By] = {"day": "day", "key": "key", "tenant": "tenant", "model": "model", "target": "target"}
