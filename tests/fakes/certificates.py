"""A certificate for localhost that nobody knows, for tests of what is said about such."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_ARGV = (
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -keyout key -out crt"
)


def self_signed(folder: Path) -> ssl.SSLContext:
    """For a server. Skips the test where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, and Python's ssl module cannot make a certificate")
    subprocess.run([openssl, *_ARGV.split()], check=True, capture_output=True, cwd=folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context
