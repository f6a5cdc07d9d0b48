"""Who asks: a key → a principal. Keys are held as digests only.

Without any key configured everybody is the local operator; the server then binds loopback only (config refuses otherwise).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from config.schema import Secret
from gateway.errors import Forbidden, Unauthenticated


class Principal(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    admin: bool


_LOCAL = Principal("local", admin=True)


class Keys:
    """Looks a key up in constant work: one digest, one dictionary."""

    def __init__(self, api_keys: Iterable[Secret], admin_keys: Iterable[Secret]) -> None:
        self._principals: dict[bytes, Principal] = {}
        for number, secret in enumerate(api_keys, 1):
            self._principals[_digest(secret.reveal())] = Principal(f"key-{number}", admin=False)
        for number, secret in enumerate(admin_keys, 1):
            self._principals[_digest(secret.reveal())] = Principal(f"admin-{number}", admin=True)
        self.needed = bool(self._principals)

    def principal(self, key: str | None) -> Principal:
        """Raises: Unauthenticated."""
        if not self.needed:
            return _LOCAL
        if key is None:
            raise Unauthenticated("No API key: send it as 'Authorization: Bearer <key>'")
        principal = self._principals.get(_digest(key))
        if principal is None:
            raise Unauthenticated("This API key is not known here")
        return principal

    def admin(self, key: str | None) -> Principal:
        """Raises: Unauthenticated, Forbidden."""
        principal = self.principal(key)
        if not principal.admin:
            raise Forbidden("This needs an admin key (server.admin_keys)")
        return principal


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
