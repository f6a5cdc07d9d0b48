"""What the README tells a newcomer to do, done: the first call over the real default model, and the configuration it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config.load import load
from providers.fetch import EMBEDDED
from tests.cli.gateways import served
from tests.fakes.processes import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first fenced block in that language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.engine
def test_the_first_call_prints_sensible_answers(tmp_path: Path) -> None:
    """Plain and streamed, with the official client, against a gateway without a configuration of models."""
    named = os.environ.get("ROUNDHOUSE_TEST_GGUF")
    source = Path(named) if named else Path.home() / ".local/share/roundhouse/models" / EMBEDDED.member.split("/")[-1]
    if not source.is_file():
        pytest.skip("no default model: `roundhouse pull` fetches it, or set ROUNDHOUSE_TEST_GGUF")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / EMBEDDED.member.split("/")[-1]).symlink_to(source)
    with served(tmp_path / "gateway", f'[server]\nport = 0\nmodels_dir = "{folder}"\n') as gateway:
        snippet = block("python").replace("http://127.0.0.1:8080", gateway.url)
        printed = subprocess.run(
            [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=True
        )

    assert "Red" in printed.stdout
    assert "Blue" in printed.stdout
    assert "4" in printed.stdout.splitlines()[-1]


def test_the_configuration_it_shows_is_accepted(tmp_path: Path) -> None:
    """Every key of it, with its variable set."""
    path = tmp_path / "roundhouse.toml"
    path.write_text(block("toml"), encoding="utf-8")
    config = load(path, {"HOME": str(tmp_path), "CLOUD_API_KEY": "k", "OPENROUTER_API_KEY": "k"})

    assert list(config.models) == ["coder", "embeddings", "big"]
    assert config.models["coder"].pinned


def test_the_configuration_of_a_team_is_accepted(tmp_path: Path) -> None:
    """The second one it shows."""
    path = tmp_path / "roundhouse.toml"
    path.write_text(README.split("```toml\n")[2].partition("```")[0], encoding="utf-8")
    config = load(path, {"HOME": str(tmp_path), "ALICE_KEY": "alice-key-1", "ADMIN_KEY": "admin-key-1"})

    assert config.keys["alice"].rpm == 60
    assert list(config.tenants) == ["research"]


def test_the_image_has_a_configuration_that_is_accepted(tmp_path: Path) -> None:
    """It listens on every interface, and therefore demands a key."""
    config = load(ROOT / "config" / "docker.toml", {"HOME": str(tmp_path), "ROUNDHOUSE_API_KEY": "k"})

    assert config.server.host == "0.0.0.0"
    assert config.server.api_keys
    assert "ROUNDHOUSE_API_KEY" in config.secret_env
