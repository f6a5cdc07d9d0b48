"""One gateway for all commands that only ask."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.cli.gateways import KEYS, MODELS, Served, served


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """With keys, two models of which only one fits, one that is broken, one that is too large."""
    with served(tmp_path_factory.mktemp("gateway"), KEYS + MODELS) as started:
        yield started
