"""What all tests share: a port at which nobody answers, and an environment that knows of nobody's upstreams and keys."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator

import pytest

from config.presets import BY_KIND, BY_PRESET

# Whoever runs the tests may have keys, databases and collectors of their own: nothing here may use them, or find their servers.
for _name in [name for name in os.environ if name.startswith(("OPENROUTER_", "OTEL_")) or name == "DATABASE_URL"]:
    del os.environ[_name]
for _preset in (*BY_KIND.values(), *BY_PRESET.values()):
    for _name in (*_preset.key_env, *_preset.url_env):
        os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def dead_port() -> Generator[int]:
    """Taken, so that nobody else gets it, and not listened on: connecting is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
