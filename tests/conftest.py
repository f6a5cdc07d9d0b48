"""What all tests share: a port at which nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Generator

import pytest


@pytest.fixture(scope="session")
def dead_port() -> Generator[int]:
    """Taken, so that nobody else gets it, and not listened on: connecting is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
