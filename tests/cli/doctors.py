"""`roundhouse doctor` as the tests call it: one provider configured, its findings by check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from click.testing import Result

from tests.cli.gateways import call

SECRET = "sk-sesame-0123456789"


def configured(folder: Path, name: str, kind: str, base_url: str, more: str = "") -> None:
    """One provider; more of its keys, and more tables."""
    toml = f'[providers.{name}]\nkind = "{kind}"\nbase_url = "{base_url}"\n{more}'
    (folder / "roundhouse.toml").write_text(toml, encoding="utf-8")


def examined(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[dict[str, Any], Result]:
    """The findings of one provider by check, and the whole result; the two outputs agree."""
    result = call(folder, "doctor", *arguments, "--json", env=env)
    found = cast("list[dict[str, Any]]", json.loads(result.stdout))
    problems = [finding for finding in found if finding["state"] == "problem"]
    assert result.exit_code == (1 if problems else 0)
    assert all(finding["advice"] for finding in problems)
    assert all(not finding["advice"] for finding in found if finding["state"] != "problem")
    assert SECRET not in result.output
    return {finding["check"]: finding for finding in found}, result
