"""Who has logged in with a browser: a random cookie on their side, a table on ours.

The law: a session stands for a key and never outlives it: it holds the key's digest, and who asks with it is looked up each time.
The table holds digests of the cookies, so that neither a copy of it nor the time a look takes is of use to anybody.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
from collections.abc import Callable

from gateway.errors import RateLimited

IDLE_S = 12 * 3600.0  # a working day's pauses; a night ends it
ABSOLUTE_S = 7 * 86_400.0
SESSIONS_MAX = 1_000
SESSIONS_OF_ONE_MAX = 50  # of one key: browsers of its holder; who logs in again and again ends no others' sessions
# As many mistakes as a hand makes; then as many guesses a second as a hand makes.
FREE_FAILURES = 5
FORGIVE_S = 900.0
PAUSE_S = 1.0
ADDRESSES_MAX = 10_000


class _Session:
    __slots__ = ("began_s", "digest", "seen_s")

    def __init__(self, digest: bytes, now_s: float) -> None:
        self.digest = digest
        self.began_s = self.seen_s = now_s


class Sessions:
    """Their table. `clock`: any that only goes forwards."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._table: dict[bytes, _Session] = {}

    def __len__(self) -> int:
        return len(self._table)

    def open(self, digest: bytes) -> str:
        """The cookie's value. The one that was not used for longest makes room where there are too many."""
        now_s = self._clock()
        for token in [token for token, session in self._table.items() if _over(session, now_s)]:
            del self._table[token]
        own = [token for token, session in self._table.items() if session.digest == digest]
        if len(own) >= SESSIONS_OF_ONE_MAX:
            del self._table[min(own, key=lambda token: self._table[token].seen_s)]
        elif len(self._table) >= SESSIONS_MAX:
            del self._table[min(self._table, key=lambda token: self._table[token].seen_s)]
        token = secrets.token_urlsafe(32)
        self._table[_of(token)] = _Session(digest, now_s)
        return token

    def find(self, token: str, *, used: bool = True) -> bytes | None:
        """The digest of the key that it stands for; None: there is none, or none any more.

        Args:
            used: somebody does something with it; False: it is only looked at, which does not keep it alive.
        """
        session = self._table.get(_of(token))
        if session is None:
            return None
        now_s = self._clock()
        if _over(session, now_s):
            del self._table[_of(token)]
            return None
        if used:
            session.seen_s = now_s
        return session.digest

    def close(self, token: str) -> None:
        """Idempotent."""
        self._table.pop(_of(token), None)


def _over(session: _Session, now_s: float) -> bool:
    return now_s - session.seen_s >= IDLE_S or now_s - session.began_s >= ABSOLUTE_S


def _of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class _Address:
    __slots__ = ("failed_s", "failures", "next_s")

    def __init__(self) -> None:
        self.failures = 0
        self.failed_s = self.next_s = 0.0


class Throttle:
    """Slows guessing down: after some failures an address gets one try a second.

    A try is counted when it begins, so that a hundred at once are not one.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._table: dict[str, _Address] = {}

    def enter(self, address: str) -> None:
        """Raises: RateLimited."""
        now_s = self._clock()
        found = self._table.get(_network(address))
        if found is None:
            return
        if now_s - found.failed_s >= FORGIVE_S:
            del self._table[_network(address)]
            return
        if found.failures < FREE_FAILURES:
            return
        if now_s < found.next_s:
            wait_s = found.next_s - now_s
            message = f"Too many failed logins from this address: try again in {math.ceil(wait_s)} s"
            raise RateLimited(message, retry_after_s=wait_s, code="login_throttled")
        found.next_s = now_s + PAUSE_S

    def failed(self, address: str) -> None:
        """That one was wrong."""
        network = _network(address)
        if network not in self._table and len(self._table) >= ADDRESSES_MAX:
            del self._table[min(self._table, key=lambda name: self._table[name].failed_s)]
        found = self._table.setdefault(network, _Address())
        found.failures += 1
        found.failed_s = self._clock()
        found.next_s = found.failed_s + PAUSE_S

    def succeeded(self, address: str) -> None:
        """All is forgiven."""
        self._table.pop(_network(address), None)


def _network(address: str) -> str:
    """Of IPv6 the first half: the other one is the caller's own to choose."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
