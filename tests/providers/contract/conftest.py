"""The subjects, one after the other, for every case of the contract. All cases share one event loop: engines are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.providers.contract.engines import STARTED, Engines, Started
from tests.providers.contract.faked import FAKED, Faked
from tests.providers.contract.rig import RIGS, Rigs
from tests.providers.contract.subjects import Place, Remoted, Subject

_REMOTED: Sequence[type[Remoted]] = (*FAKED, *RIGS)
_SERVERS = [kind for kind in _REMOTED if kind.kind in ("ollama", "lmstudio")]


def _params(kinds: Sequence[type[Subject]]) -> list[object]:
    return [pytest.param(kind, id=kind.id, marks=kind.marks) for kind in kinds]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def engines() -> AsyncIterator[Engines]:
    """Engines that are up already."""
    made = Engines()
    yield made
    await made.aclose()


@pytest.fixture(scope="package")
def rigs() -> Iterator[Rigs]:
    """Upstreams given from outside."""
    made = Rigs()
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path, dead_port: int, engines: Engines, rigs: Rigs) -> Place:
    """What subjects use beside themselves."""
    return Place(tmp_path, dead_port, engines, rigs)


@pytest_asyncio.fixture(loop_scope="package", params=_params((*STARTED, *_REMOTED)))
async def subject(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Subject]:
    """Every kind."""
    async with request.param(place).opened() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package", params=_params((*STARTED, *_SERVERS)))
async def loading(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Subject]:
    """Every kind that brings models into memory."""
    async with request.param(place).opened() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package", params=_params(_REMOTED))
async def remote(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Remoted]:
    """Every kind that speaks to one endpoint."""
    async with request.param(place).opened() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package", params=_params(FAKED))
async def faked(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Faked]:
    """Every kind that speaks to one endpoint, with an upstream that says whatever it is told."""
    async with request.param(place).opened() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package", params=_params(_SERVERS))
async def served(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Remoted]:
    """Every kind whose models live in a server."""
    async with request.param(place).opened() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package", params=_params(STARTED))
async def started(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Started]:
    """Every kind that starts engines."""
    async with request.param(place).opened() as opened:
        yield opened
