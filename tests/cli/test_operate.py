"""`models`, `ps`, `load`, `unload`, `pin`, `unpin` against a running gateway."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import Result

from tests.cli.gateways import API_KEY, Served, call, command, environment, on_terminal, served
from tests.fakes.processes import ROOT

SLASHED = "org/name:7b"


def ask(gateway: Served, *arguments: str, **env: str) -> Result:
    """With the gateway's own configuration, which holds the key."""
    return call(gateway.config.parent, *arguments, "--url", gateway.url, env=env)


def forget(gateway: Served) -> None:
    """Empty memory again."""
    for model in ("tiny", SLASHED):
        assert ask(gateway, "unpin", model).exit_code == 0
        assert ask(gateway, "unload", model).exit_code == 0
    deadline_s = time.monotonic() + 10
    while "nothing is in memory" not in ask(gateway, "ps").stdout:
        assert time.monotonic() < deadline_s


def test_models_lists_names_aliases_and_state(gateway: Served) -> None:
    """A table whose every line ends without blanks, and nothing is loaded by it."""
    result = ask(gateway, "models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["MODEL", "ALIASES", "STATE", "SIZE", "CONTEXT", "PINNED", "TARGETS"]
    assert lines[1].split() == ["tiny", "default", "cold", "-", "4096", "-", "rig/tiny"]
    assert [line.split()[0] for line in lines[1:]] == ["tiny", SLASHED, "broken", "huge", "größe"]
    assert all(line == line.rstrip() for line in lines)


def test_json_is_the_answer_of_the_api_itself(gateway: Served) -> None:
    """Nothing added, nothing left out."""
    told = msgspec.json.decode(ask(gateway, "models", "--json").stdout)
    assert told["object"] == "list"
    assert told["data"][0]["roundhouse"]["targets"] == ["rig/tiny"]
    residency = msgspec.json.decode(ask(gateway, "ps", "--json").stdout)
    assert residency["devices"]["ram"]["budget_bytes"] == 300 << 20


def test_load_says_what_it_evicts_before_it_does(gateway: Served) -> None:
    """The second model takes the first one's room; --plan alone changes nothing."""
    forget(gateway)
    first = ask(gateway, "load", "default")
    assert first.exit_code == 0
    assert "nobody is evicted for it" in first.stdout
    assert "default is ready after " in first.stdout
    assert ask(gateway, "load", "tiny").stdout.splitlines() == ["tiny is in memory already", "tiny is ready"]
    planned = ask(gateway, "load", "--plan", SLASHED)
    assert planned.exit_code == 0
    assert planned.stdout.splitlines()[0].endswith("ram 100.0 MiB is free: evicts rig/tiny")
    assert "tiny " in ask(gateway, "ps").stdout
    assert ask(gateway, "load", SLASHED).stdout.splitlines()[-1].startswith(f"{SLASHED} is ready after ")
    shown = ask(gateway, "ps").stdout
    assert f"{SLASHED}  ready" in shown
    assert "ram 200.0 MiB (declared)" in shown
    assert "tiny" not in shown


def test_ps_shows_devices_and_says_when_memory_is_empty(gateway: Served) -> None:
    """The budget in words and as a bar, in ASCII where there is no terminal."""
    forget(gateway)
    lines = ask(gateway, "ps").stdout.splitlines()
    assert lines[0].split() == ["DEVICE", "COMMITTED", "BUDGET", "MEASURED", "STRANGERS"]
    assert lines[1].split()[0] == "ram"
    assert set(lines[1].split()[1]) <= set("#.x")
    assert "300.0 MiB" in lines[1]
    assert lines[3].startswith("nothing is in memory: ")


def test_failed_load_shows_the_engines_last_lines(gateway: Served) -> None:
    """Exit code 1, and `ps` tells the reason afterwards."""
    result = ask(gateway, "load", "broken")
    assert result.exit_code == 1
    assert "code 3" in result.stderr
    assert "  | out of luck" in result.stderr.splitlines()
    assert "rig/broken: " in ask(gateway, "ps").stdout.partition("cooling down")[2]


def test_load_of_what_never_fits_is_refused(gateway: Served) -> None:
    """The plan says so first, the gateway's own words follow."""
    result = ask(gateway, "load", "huge")
    assert result.exit_code == 1
    assert "a request would be refused" in result.stdout
    assert "raise the memory budget" in result.stderr


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin"])
def test_unknown_model_is_named_with_those_like_it(gateway: Served, verb: str) -> None:
    """Exit code 1, also for a name that needs escaping in an address."""
    result = ask(gateway, verb, "tinny")
    assert result.exit_code == 1
    assert "'tinny' does not exist; did you mean 'tiny'" in result.stderr
    assert "'a/b?c#d%2F:é' does not exist" in ask(gateway, verb, "a/b?c#d%2F:é").stderr


def test_pin_is_told_and_shown_until_unpinned(gateway: Served) -> None:
    """Pinning does not load, and says how to."""
    forget(gateway)
    assert ask(gateway, "pin", SLASHED).stdout == (
        f"{SLASHED} is pinned (cold; `roundhouse load {SLASHED}` brings it into memory)\n"
    )
    line = next(line for line in ask(gateway, "models").stdout.splitlines() if line.startswith(SLASHED))
    assert line.split()[5] == "yes"
    assert ask(gateway, "unpin", SLASHED).stdout == f"{SLASHED} is not pinned (cold)\n"


def test_unload_of_what_is_not_there_is_no_error(gateway: Served) -> None:
    """It is as it was wished."""
    forget(gateway)
    result = ask(gateway, "unload", "tiny")
    assert (result.exit_code, result.stdout) == (0, "tiny is not in memory\n")


def test_wrong_key_says_what_to_set_and_shows_no_key(gateway: Served) -> None:
    """Unknown: 401; known, but no admin's: 403. Both end with exit code 1."""
    unknown = ask(gateway, "ps", ROUNDHOUSE_ADMIN_KEY="a-wrong-key")
    assert unknown.exit_code == 1
    assert "set ROUNDHOUSE_ADMIN_KEY to another key" in unknown.stderr
    lesser = ask(gateway, "ps", ROUNDHOUSE_ADMIN_KEY=API_KEY)
    assert lesser.exit_code == 1
    assert "admin key" in lesser.stderr
    assert "a-wrong-key" not in unknown.output
    assert API_KEY not in lesser.output
    assert ask(gateway, "models", ROUNDHOUSE_ADMIN_KEY=API_KEY).exit_code == 0


def test_watched_ps_goes_on_until_interrupted(gateway: Served) -> None:
    """Page after page where there is no terminal; Ctrl-C leaves quietly with 130."""
    folder = gateway.config.parent
    argv = command("ps", "--watch", "--json", "--url", gateway.url, "--config", str(gateway.config))
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pages = [msgspec.json.decode(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read().strip() == ""
    assert all("devices" in page for page in pages)


def test_on_a_terminal_a_load_is_drawn_and_cleared(gateway: Served) -> None:
    """Colours and a spinner appear there, and only there."""
    forget(gateway)
    code, written = on_terminal(
        gateway.config.parent, "load", "tiny", "--url", gateway.url, "--config", str(gateway.config)
    )
    assert code == 0
    assert "\x1b[" in written
    assert "loading tiny" in written
    assert "tiny is ready after" in written


def test_terminal_that_cannot_show_a_name_gets_it_spelt_out(gateway: Served) -> None:
    """An old locale ends no command."""
    arguments = ("models", "--url", gateway.url, "--config", str(gateway.config))
    code, written = on_terminal(gateway.config.parent, *arguments, PYTHONIOENCODING="ascii")
    assert code == 0
    assert "gr\\xf6\\xdfe" in written


def test_empty_gateway_says_how_to_get_a_model(tmp_path: Path) -> None:
    """An empty table would teach nothing."""
    with served(tmp_path, "[server]\nport = 0\n") as gateway:
        assert "(0 models)" in gateway.hint[0]
        assert "roundhouse pull" in gateway.hint[1]
        result = call(tmp_path, "models", "--url", gateway.url)
    assert result.exit_code == 0
    assert "roundhouse pull" in result.stdout
