"""`roundhouse serve`, as a process: what it says, how it fails, how it ends."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli.gateways import ADMIN_KEY, API_KEY, MODELS, Served, call, run, served
from tests.fakes.processes import ROOT, alive

OPEN = "[server]\nport = 0\n"


def test_hint_names_the_address_and_a_request_that_works(gateway: Served) -> None:
    """What a shell makes of the line is a request that the default model answers, once the caller's key is set."""
    assert gateway.hint[0] == f"Roundhouse takes requests at {gateway.url}/v1 (5 models)"
    words = shlex.split(gateway.hint[1])
    assert words[:2] == ["Try:", "curl"]
    fields = [words[at + 1].replace("$ROUNDHOUSE_KEY", API_KEY) for at, word in enumerate(words) if word == "-H"]
    headers = dict(field.split(": ") for field in fields)
    body = words[words.index("-d") + 1].encode()
    answer = httpx.post(words[2], headers=headers, content=body, timeout=20)
    assert "token0" in answer.json()["choices"][0]["message"]["content"]


def test_keys_are_neither_printed_nor_logged(gateway: Served) -> None:
    """Not by the hint, and not by requests that carry them."""
    assert call(gateway.config.parent, "ps", "--url", gateway.url).exit_code == 0
    told = "".join(gateway.hint) + gateway.log.read_text()
    assert "Authorization: Bearer $" in told
    assert ADMIN_KEY not in told
    assert API_KEY not in told


def test_hint_does_not_offer_a_model_whose_weights_are_absent(tmp_path: Path) -> None:
    """A configured model that is not fetched is told as that."""
    with served(tmp_path, OPEN + '[models.small]\nsource = "embedded"\n') as gateway:
        assert gateway.hint[1].startswith("the weights of 'small' are not there: run `roundhouse pull`")


def test_term_ends_it_within_two_seconds_and_leaves_no_process(tmp_path: Path) -> None:
    """Engines, their warden and itself are gone, and the exit code is 0."""
    with served(tmp_path, OPEN + MODELS) as gateway:
        httpx.post(f"{gateway.url}/admin/models/tiny/load", timeout=20).raise_for_status()
        children = [child.pid for child in psutil.Process(gateway.process.pid).children(recursive=True)]
        assert children
        started_s = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - started_s < 2
        assert not [pid for pid in children if alive(pid)]
        log = gateway.log.read_text()
    assert "loaded rig/tiny" in log
    assert all(line[:4].isdigit() for line in log.splitlines()), "one line for each event"


def test_interrupt_ends_it_like_term(tmp_path: Path) -> None:
    """Ctrl-C is a graceful end too."""
    with served(tmp_path, OPEN + MODELS, "--log-level", "error") as gateway:
        assert gateway.stop(signal.SIGINT) == 0
        assert gateway.log.read_text() == ""


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[server]\nprot = 1\n", "server.prot"),
        ('[server]\nhost = "0.0.0.0"\n', "api_keys"),
        ("[server\n", "line 1"),
    ],
)
def test_wrong_configuration_is_one_line_and_exit_code_two(tmp_path: Path, toml: str, said: str) -> None:
    """No traceback, no half started gateway."""
    (tmp_path / "roundhouse.toml").write_text(toml)
    result = call(tmp_path, "serve")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


def test_source_that_is_none_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    """What is noticed only when the parts are built ends as early and as clearly."""
    (tmp_path / "roundhouse.toml").write_text('[models.x]\nsource = "pypi:bad"\n')
    done = run(tmp_path, "serve", "--config", str(tmp_path / "roundhouse.toml"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is no source" in done.stderr


def test_taken_port_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    """It says which address, and how to choose another."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, "serve", "--port", port)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_serving_imports_nothing_that_only_other_commands_need() -> None:
    """Starting stays fast: tables and the control client cost a quarter of it; the list of commands costs nothing."""
    code = (
        "import sys, gateway.cli.commands; print(*{'litestar', 'uvicorn', 'rich', 'httpx'} & set(sys.modules));"
        "import gateway.cli.serve; print(*{'rich', 'httpx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "\n\n"
