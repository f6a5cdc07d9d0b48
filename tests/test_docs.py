"""What is documented is there, and what is there is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from config.schema import (
    KeyConfig,
    LedgerConfig,
    Memory,
    ModelConfig,
    ProviderConfig,
    ResidencyConfig,
    Server,
    TenantConfig,
)
from gateway import errors as ours
from gateway.api.errors import TABLE
from gateway.app import DATA_PATHS
from providers import errors as theirs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = README.partition("## Configuration")[2].partition("\n## ")[0]
ERRORS = README.partition("## Errors")[2].partition("\n## ")[0]


def _tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from _tree(child)


ERROR_CLASSES = [
    *_tree(ours.GatewayError),
    *(c for c in _tree(theirs.ProviderError) if c.__module__ == theirs.__name__),
]
# branches of the tree, never raised themselves
BRANCHES = {ours.CallerError, ours.CapacityError}


@pytest.mark.parametrize(
    "table",
    [Server, Memory, ResidencyConfig, ProviderConfig, ModelConfig, KeyConfig, TenantConfig, LedgerConfig],
    ids=lambda t: t.__name__,
)
def test_every_configuration_key_is_in_the_readme(table: type[msgspec.Struct]) -> None:
    """Each field of the schema stands in the configuration table."""
    missing = [field for field in table.__struct_fields__ if f"`{field}`" not in CONFIGURATION]
    assert missing == []


@pytest.mark.parametrize("kind", ERROR_CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_in_both_tables(kind: type[Exception]) -> None:
    """A class has a status in the one table, and its code stands in the README with that status."""
    assert kind in TABLE
    if kind not in BRANCHES:
        code = str(vars(kind)["code"])
        row = next((line for line in ERRORS.splitlines() if f"`{code}`" in line), "")
        assert str(TABLE[kind].status) in row, code


def test_every_code_that_is_raised_is_in_the_readme() -> None:
    """Also the narrower codes that stand only where they are raised."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    codes = set(re.findall(r'code="([a-z_]+)"', sources))
    assert {code for code in codes if f"`{code}`" not in ERRORS} == set()


def test_every_route_is_in_the_readme() -> None:
    """Each path the application answers is named."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway" / "api").glob("*.py"))
    paths = set(re.findall(r'@(?:get|post)\("(/[^"{]*)', sources)) | set(DATA_PATHS)
    assert {path for path in paths if path.rstrip("/") not in README} == set()


def test_the_map_is_short_and_names_every_file() -> None:
    """`gateway/README.md` stays a page, and no file is missing from it."""
    text = (ROOT / "gateway" / "README.md").read_text(encoding="utf-8")
    files = [*(ROOT / "gateway").glob("*/*.py"), *(ROOT / "providers").glob("*.py")]
    missing = [
        path.stem
        for path in files
        if path.stem != "__init__" and path.parent.name != "cli" and f"`{path.stem}`" not in text
    ]

    assert len(text.splitlines()) <= 120
    assert missing == []


def test_no_index_address_and_no_path_of_a_machine() -> None:
    """The locks name no host, and no document a home folder."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")
    for path in ROOT.glob("*.md"):
        assert not re.search(r"/(root|home)/\w", path.read_text(encoding="utf-8"))
