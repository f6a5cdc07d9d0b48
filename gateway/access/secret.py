"""How keys are made and known again: as digests under a secret of this machine. The text of a key is kept nowhere.

Whoever has a copy of the database can try guesses only with the file `secret.key` beside it; of a key with 256 random bits there is
nothing to guess even then.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger("roundhouse.access")

FILE = "secret.key"
KEY_START = "rh-"
_SECRET_BYTES = 32
_BLOCK_BYTES = 64  # of SHA-256; RFC 2104 §2
_SHOWN_CHARS = 4  # of 43: too few to be of use, enough to tell two keys apart


class Digester:
    """HMAC-SHA256 under one secret. Its two beginnings are kept, which is a third of what `hmac.digest` takes."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        padded = secret.ljust(_BLOCK_BYTES, b"\0")
        assert len(padded) == _BLOCK_BYTES
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def __call__(self, key: str) -> bytes:
        inner = self._inner.copy()
        inner.update(key.encode("utf-8", "surrogateescape"))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def new_key() -> str:
    """256 random bits, marked as ours so that scanners of repositories can find one that slipped in."""
    return KEY_START + secrets.token_urlsafe(_SECRET_BYTES)


def is_key(text: str) -> bool:
    """Whether it has the form of a key of ours: then it is not repeated, wherever it stands by mistake."""
    return text.startswith(KEY_START)


def prefix_of(key: str) -> str:
    """What may be shown of it."""
    return key[: len(KEY_START) + _SHOWN_CHARS] + "…"


def new_secret() -> bytes:
    """One that lasts as long as this process."""
    return secrets.token_bytes(_SECRET_BYTES)


def machine_secret(state_dir: Path) -> bytes:
    """This machine's; made at the first use. Blocking.

    Raises: OSError: it cannot be read or written. ValueError: the file holds something else.
    """
    path = state_dir / FILE
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = path.with_name(f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(new_secret())
            file.flush()
            os.fsync(file.fileno())
        # the first one stays, where two gateways start at once: a link never replaces
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()
    return _read(path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        secret = file.read(_SECRET_BYTES + 1)
        mode = os.fstat(file.fileno()).st_mode
    if len(secret) != _SECRET_BYTES:
        raise ValueError(
            f"{path} should hold {_SECRET_BYTES} bytes: put it back from a copy, or delete it (and make new keys)"
        )
    if mode & 0o077:
        log.warning("%s can be read by others: chmod 600 it", path)
    return secret
