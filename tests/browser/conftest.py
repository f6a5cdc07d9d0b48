"""One Chromium for all; a gateway for each test."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.dashboard.fake_admin import Admin, serving
from tests.dashboard.fake_world import World
from tests.fakes.background import in_background

from .devtools import Browser, chromium, find
from .house import House, configuration, house


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    """Where there is none, these tests are left out."""
    path = find()
    if path is None:
        pytest.skip(
            "Chromium is not installed (on Debian: apt-get install chromium): the dashboard is not walked through here"
        )
    with chromium(path, tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def gateway(browser: Browser, tmp_path: Path) -> Generator[House]:
    """A real one, with fake engines."""
    with house(tmp_path, configuration()) as found:
        yield found


@pytest.fixture(scope="session")
def pretended(browser: Browser) -> Generator[str]:
    """The address of a pretended gateway with 500 models and 2,000 requests, in which something always happens."""
    with in_background(serving(Admin(World(models=500, rows=2000)))) as address:
        yield address
