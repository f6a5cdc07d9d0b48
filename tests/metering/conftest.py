"""Tests that ask for `any_url` run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.fakes.postgres import Postgres, missing, postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cluster() -> Generator[Postgres]:
    """One for all of them."""
    if why := missing():
        pytest.skip(why)
    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/some.sqlite3"
    found: Postgres = request.getfixturevalue("cluster")
    return found.empty(f"test{next(_numbers)}")
