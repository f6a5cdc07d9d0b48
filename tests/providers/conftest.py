"""Which event loops the tests of this room run on: the standard one, and uvloop too where a test asks for both.

A module asks with `pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_STANDARD: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
_BOTH: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {**_STANDARD, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops to choose from; where a test chooses none, it runs on all that are named here."""
    asked = any("loop_factories" in mark.kwargs for mark in item.iter_markers("asyncio"))
    return _BOTH if asked else _STANDARD
