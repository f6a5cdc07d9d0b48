"""`roundhouse check`, the version and the help."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli.commands import COMMANDS, roundhouse
from tests.cli.gateways import KEYS, MODELS, call, run


def test_check_counts_what_is_configured(tmp_path: Path) -> None:
    """One line on stdout, with the file."""
    (tmp_path / "roundhouse.toml").write_text(KEYS + MODELS, encoding="utf-8")
    result = call(tmp_path, "check")
    assert result.exit_code == 0
    assert result.stdout == f"ok: {tmp_path}/roundhouse.toml: 5 models, 2 providers, budget ram 300.0 MiB\n"


def test_check_says_what_is_served_without_a_file(tmp_path: Path) -> None:
    """The defaults are a configuration too: what lies in the models folder."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "a.gguf").touch()
    env = {"ROUNDHOUSE_CONFIG": "", "ROUNDHOUSE_MODELS_DIR": str(models)}
    result = call(tmp_path, "check", env=env)
    assert result.exit_code == 0
    assert f"1 model found in {models}, 1 provider, budget auto" in result.stdout


def test_check_refuses_two_files_of_one_name(tmp_path: Path) -> None:
    """What only the assembly can see is said as well."""
    for name in ("SmolLM2-135M-Instruct.Q4_1.gguf", "default.gguf"):
        (tmp_path / name).touch()
    result = call(tmp_path, "check", env={"ROUNDHOUSE_CONFIG": "", "ROUNDHOUSE_MODELS_DIR": str(tmp_path)})
    assert result.exit_code == 2
    assert "'default' is given twice" in result.stderr


def test_check_names_file_key_and_what_was_expected(tmp_path: Path) -> None:
    """Exit code 2, one line, nothing on stdout."""
    (tmp_path / "roundhouse.toml").write_text('[memory]\nbudget = "much"\n')
    result = call(tmp_path, "check")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"{tmp_path}/roundhouse.toml: memory.budget: expected" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_check_says_that_a_named_file_is_absent(tmp_path: Path) -> None:
    """A file that was asked for is not replaced by defaults."""
    result = call(tmp_path, "check", "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "none.toml" in result.stderr


def test_version_is_printed_by_the_module_too(tmp_path: Path) -> None:
    """`python -m gateway` is the same command."""
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"roundhouse {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_begins_with_its_summary(tmp_path: Path, name: str) -> None:
    """The list, which imports no command, cannot drift from what the commands say."""
    result = call(tmp_path, name, "--help")
    assert result.exit_code == 0
    assert COMMANDS[name].summary.rstrip(".") in " ".join(result.stdout.split())
    assert COMMANDS[name].summary in " ".join(call(tmp_path, "--help").stdout.split())


def test_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    """Exit code 2, and where to look."""
    done = run(tmp_path, "lode")
    assert done.returncode == 2
    assert "--help" in done.stderr
    assert roundhouse.name == "roundhouse"
