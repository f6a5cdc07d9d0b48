"""Who asks: a key → a principal. Keys are held as digests only.

Without any key configured everybody is the local operator; the server then binds loopback only (config refuses otherwise).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from config.forms import Secret
from gateway.errors import Forbidden, Unauthenticated


class Principal(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    admin: bool


class Keys:
    """Looks a key up in constant work: one digest, one dictionary.

    Args:
        api_keys: none: anybody may ask.
        admin_keys: none: whoever may ask may also administrate.
    """

    def __init__(self, api_keys: Sequence[Secret], admin_keys: Sequence[Secret]) -> None:
        self._principals: dict[bytes, Principal] = {}
        for number, secret in enumerate(api_keys, 1):
            self._principals[_digest(secret.reveal())] = Principal(f"key-{number}", admin=not admin_keys)
        for number, secret in enumerate(admin_keys, 1):
            self._principals[_digest(secret.reveal())] = Principal(f"admin-{number}", admin=True)
        self._anybody = None if api_keys else Principal("local", admin=not admin_keys)
        self.needed = bool(self._principals)

    def principal(self, key: str | None) -> Principal:
        """Raises: Unauthenticated."""
        known = self._principals.get(_digest(key)) if key is not None and self.needed else None
        principal = known or self._anybody
        if principal is None:
            raise _unauthenticated(key)
        return principal

    def admin(self, key: str | None) -> Principal:
        """Raises: Unauthenticated, Forbidden."""
        principal = self.principal(key)
        if principal.admin:
            return principal
        if principal is self._anybody:
            raise _unauthenticated(key)
        raise Forbidden("This needs an admin key (server.admin_keys)")


def _unauthenticated(key: str | None) -> Unauthenticated:
    if key is None:
        return Unauthenticated("No API key: send it as 'Authorization: Bearer <key>'")
    return Unauthenticated("This API key is not known here")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
