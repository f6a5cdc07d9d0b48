"""This machine's secret, and digests under it."""

from __future__ import annotations

import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.secret import Digester, machine_secret, new_key, prefix_of


@given(st.binary(min_size=1, max_size=64), st.text(st.characters(exclude_categories=())))
def test_digest_is_hmac_sha256(secret: bytes, key: str) -> None:
    """Of any text, surrogates too."""
    try:
        raw = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that no byte of a header can become
        return
    assert Digester(secret)(key) == hmac.digest(secret, raw, "sha256")


def test_key_has_256_bits_and_shows_four_characters() -> None:
    """No two are alike."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("rh-") and len(key) == 46 for key in keys)
    key = keys.pop()
    assert prefix_of(key) == f"{key[:7]}…"


def test_secret_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    """Also where several begin at once."""
    folder = tmp_path / "state"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(machine_secret, [folder] * 16))
    assert len(found) == 1
    assert len(found.pop()) == 32
    assert [path.name for path in folder.iterdir()] == ["secret.key"]
    assert (folder / "secret.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_damaged_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is not made anew: all keys would be lost for a slip of somebody's hand."""
    (tmp_path / "secret.key").write_bytes(content)
    with pytest.raises(ValueError, match="should hold 32 bytes"):
        machine_secret(tmp_path)


def test_secret_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With what to do; the secret itself is not said."""
    secret = machine_secret(tmp_path)
    (tmp_path / "secret.key").chmod(0o644)
    assert machine_secret(tmp_path) == secret
    assert "chmod 600" in caplog.text
