"""What the clients' suite shares: fake upstreams and a gateway before them, once for all tests; and where it is left out.

`make clients` runs it, in environments that have the libraries. Without them, and in `make test`, only `test_setup.py` is
collected.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.clients import gateways

HERE = Path(__file__).parent
# beginning of a file's name → what it imports
NEEDS = {
    "test_openai": "openai",
    "test_anthropic": "anthropic",
    "test_ollama": "ollama",
    "test_langchain": "langchain_tests",
    "test_llama_index": "llama_index",
    "test_pydantic_ai": "pydantic_ai",
    "test_instructor": "instructor",
    "test_node": "langchain_tests",  # it needs no Python library: once, in the first environment, is enough
    "test_embedded": "pydantic_ai",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what cannot be imported, and everything where the settings are not this folder's."""
    if collection_path.parent != HERE or not collection_path.name.startswith("test_"):
        return None
    need = next((name for start, name in NEEDS.items() if collection_path.name.startswith(start)), None)
    if need is None:
        return None
    return not settings_are_ours(config) or importlib.util.find_spec(need) is None or None


def settings_are_ours(config: pytest.Config) -> bool:
    """Whether this folder was asked for, and not just all tests."""
    return config.inipath is not None and config.inipath.parent == HERE


@pytest.fixture(scope="session")
def upstreams() -> Generator[dict[str, str]]:
    """The fake upstreams' addresses by kind."""
    with gateways.upstreams() as addresses:
        yield addresses


@pytest.fixture(scope="session")
def gateway(upstreams: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The address of a gateway over them that asks for `gateways.API_KEY`."""
    with gateways.served(tmp_path_factory.mktemp("gateway"), gateways.over_fakes(upstreams)) as address:
        yield address


@pytest.fixture(scope="session")
def v1(gateway: str) -> str:
    """Where OpenAI's clients begin."""
    return f"{gateway}/v1"
