"""config/example.toml is complete, is accepted as it stands, and tells the truth about every default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import cast

import msgspec
import pytest

import config
from config.load import forms, load
from config.schema import (
    Config,
    KeyConfig,
    LedgerConfig,
    Memory,
    ModelConfig,
    ProviderConfig,
    ResidencyConfig,
    Server,
    TenantConfig,
)

EXAMPLE = Path(config.__file__).parent / "example.toml"
TABLES: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "memory": Memory,
    "residency": ResidencyConfig,
    "providers": ProviderConfig,
    "models": ModelConfig,
    "keys": KeyConfig,
    "tenants": TenantConfig,
    "ledger": LedgerConfig,
}
SECRETS = {
    "CLOUD_API_KEY": "sk-cloud",
    "NOTEBOOK_KEY": "rh-notebook",
    "PLATFORM_KEY": "rh-platform",
    "DATABASE_URL": "postgresql://ledger:pw@db.example.com/ledger",
}
ENVIRON = SECRETS | {"HOME": "/home/someone"}


def written() -> dict[str, dict[str, object]]:
    """Key → value per table; the tables of all providers, and of all models, taken together."""
    raw = tomllib.loads(EXAMPLE.read_text())
    for several in ("providers", "models", "keys", "tenants"):
        raw[several] = {key: value for table in raw[several].values() for key, value in table.items()}
    return raw


def stated_defaults() -> dict[tuple[str, str], str]:
    """(table, key) → what the comment above the key says after "Default:"."""
    found: dict[tuple[str, str], str] = {}
    table, stated = "", ""
    for line in EXAMPLE.read_text().splitlines():
        if match := re.match(r"# Default: (.+)$", line):
            stated = match[1]
        elif match := re.match(r"\[(\w+)(?:\.(\w+))?\]$", line):
            table = match[1]
            if line == "[memory.devices]":
                found[table, "devices"] = stated
            stated = ""
        elif (match := re.match(r"(\w+) = ", line)) and stated:
            found[table, match[1]] = stated
            stated = ""
    return found


def test_example_is_accepted_when_loaded_as_it_stands() -> None:
    """Every line of it is live, and the result is what it says."""
    loaded = load(EXAMPLE, ENVIRON)
    assert isinstance(loaded, Config)
    assert set(loaded.models) == {"smollm2", "big"}
    assert loaded.engines == {"local/smollm2": "smollm2", "mine/big": "big"}
    assert loaded.secret_env == set(SECRETS)


@pytest.mark.parametrize("table", TABLES)
def test_example_shows_every_key_when_compared_with_the_schema(table: str) -> None:
    """No key of the schema is missing from the example, and the example has no other."""
    assert set(written()[table]) == set(TABLES[table].__struct_fields__)


@pytest.mark.parametrize("table", ["server", "memory", "residency"])
def test_example_changes_nothing_when_a_key_is_not_about_one_machine(table: str) -> None:
    """Who starts with a copy of the example starts with the defaults."""
    fields = {field.name: field.default for field in msgspec.structs.fields(TABLES[table])}
    for key, value in written()[table].items():
        if (table, key) != ("memory", "devices"):
            read = forms(TABLES[table])[key].read(value)
            assert (Path(cast("str", read)) if key.endswith("_dir") else read) == fields[key], key


@pytest.mark.parametrize("table", TABLES)
def test_stated_default_is_the_schemas_when_compared(table: str) -> None:
    """What stands after "Default:" above a key is what the schema has."""
    stated = stated_defaults()
    for field in msgspec.structs.fields(TABLES[table]):
        if field.required:
            continue
        default = field.default if field.default is not msgspec.NODEFAULT else cast("object", field.default_factory())  # pyright: ignore[reportCallIssue]  # msgspec: one of the two is set where a field is not required
        said = stated[table, field.name]
        if said == "none" or re.fullmatch(r"\[residency\] \w+", said):
            assert default is None, field.name
            continue
        read = forms(TABLES[table])[field.name].read(tomllib.loads(f"value = {said}")["value"])
        assert (Path(cast("str", read)) if field.name.endswith("_dir") else read) == default, field.name
