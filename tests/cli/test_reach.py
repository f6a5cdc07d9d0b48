"""Which gateway is asked, with which key, and what is said when it is none."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gateway.cli.reach import gateway_at
from tests.cli.gateways import ADMIN_KEY, KEYS, call

EMPTY = b'{"object":"list","data":[]}'


class Recorder(BaseHTTPRequestHandler):
    """Answers what it was told to, and notes what it was asked."""

    asked: list[tuple[str, str | None]]
    answer: tuple[int, bytes] = (200, EMPTY)

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("authorization")))
        status, body = self.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@contextmanager
def recorded(status: int = 200, body: bytes = EMPTY) -> Generator[tuple[int, list[tuple[str, str | None]]]]:
    """A server on loopback: its port, and what it has been asked."""
    asked: list[tuple[str, str | None]] = []
    handler = type("Handler", (Recorder,), {"asked": asked, "answer": (status, body)})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def free_port() -> int:
    """Nobody listens there."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return probe.getsockname()[1]


def configured(folder: Path, toml: str) -> None:
    (folder / "roundhouse.toml").write_text(toml)


def test_nobody_there_says_how_to_start_one(tmp_path: Path, free_port: int) -> None:
    """Exit code 1 and the address that was tried: here the configured one."""
    configured(tmp_path, f"[server]\nport = {free_port}\n")
    result = call(tmp_path, "ps")
    assert result.exit_code == 1
    assert result.stderr == (
        f"roundhouse: no gateway answers at http://127.0.0.1:{free_port}; start one with `roundhouse serve`\n"
    )


def test_address_is_the_option_before_the_variable_before_the_configuration(tmp_path: Path, free_port: int) -> None:
    """And the base address that clients are given, with /v1, is understood too."""
    configured(tmp_path, f"[server]\nport = {free_port}\n")
    with recorded() as (port, asked):
        url = f"http://127.0.0.1:{port}/v1/"
        nowhere = f"http://127.0.0.1:{free_port}"
        assert call(tmp_path, "models", env={"ROUNDHOUSE_URL": url}).exit_code == 0
        assert call(tmp_path, "models", "--url", url, env={"ROUNDHOUSE_URL": nowhere}).exit_code == 0
        configured(tmp_path, f"[server]\nport = {port}\n")
        assert call(tmp_path, "models").exit_code == 0
    assert [path for path, _ in asked] == ["/v1/models"] * 3


def test_key_is_the_variables_before_the_configurations(tmp_path: Path) -> None:
    """Sent as a bearer token."""
    configured(tmp_path, KEYS)
    with recorded() as (port, asked):
        url = f"http://127.0.0.1:{port}"
        call(tmp_path, "models", "--url", url)
        call(tmp_path, "models", "--url", url, env={"ROUNDHOUSE_ADMIN_KEY": " another "})
    assert [key for _, key in asked] == [f"Bearer {ADMIN_KEY}", "Bearer another"]


def test_configurations_key_goes_to_no_foreign_host(tmp_path: Path) -> None:
    """An address given by hand may be anybody's; only this machine and the configured host get the key."""
    config = tmp_path / "c.toml"
    config.write_text(KEYS.replace("port = 0", 'port = 80\nhost = "models.example"'))
    for url, expected in (
        ("http://stranger.example", False),
        ("http://models.example:9000", True),
        ("http://localhost", True),
        ("http://localhost.stranger.example", False),
        (None, True),
    ):
        with gateway_at(url, config) as remote:
            assert remote.has_key is expected, url


def test_unusable_configuration_does_not_matter_when_the_address_is_given(tmp_path: Path) -> None:
    """A shell without the server's secrets can still ask; without the address it cannot know whom."""
    configured(tmp_path, '[server]\napi_keys = ["${NOT_SET_HERE}"]\n')
    with recorded() as (port, _):
        assert call(tmp_path, "models", "--url", f"http://127.0.0.1:{port}").exit_code == 0
    result = call(tmp_path, "models")
    assert result.exit_code == 2
    assert "NOT_SET_HERE" in result.stderr


def test_proxy_of_the_environment_is_not_used_for_this_machine(tmp_path: Path, free_port: int) -> None:
    """A proxy cannot reach our loopback."""
    with recorded() as (port, _):
        proxy = f"http://127.0.0.1:{free_port}"
        env = {"http_proxy": proxy, "all_proxy": proxy, "no_proxy": ""}
        configured(tmp_path, "")
        assert call(tmp_path, "models", "--url", f"http://127.0.0.1:{port}", env=env).exit_code == 0


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"<html>"), (404, b'{"error":{"message":"File Not Found"}}'), (302, b""), (200, b"[1]")]
)
def test_another_server_is_told_from_a_gateway(tmp_path: Path, status: int, body: bytes) -> None:
    """Whoever else listens on that port is not quoted as if it were ours."""
    configured(tmp_path, "")
    with recorded(status, body) as (port, _):
        result = call(tmp_path, "models", "--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "Roundhouse gateway" in result.stderr


def test_what_others_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """A gateway's message and an engine's last words are shown with their control characters spelt out."""
    configured(tmp_path, "")
    error = {"message": "a\x1b[2Jb\nc", "source": "gateway", "log_lines": ["out of \x1b[31mluck"]}
    with recorded(503, json.dumps({"error": error}).encode()) as (port, _):
        result = call(tmp_path, "models", "--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.stderr == "roundhouse: a\\x1b[2Jb\\nc\n  | out of \\x1b[31mluck\n"


def test_broken_off_answer_is_said_to_be_one(tmp_path: Path) -> None:
    """A gateway that is stopped meanwhile gives no traceback."""
    configured(tmp_path, "")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        result = call(tmp_path, "ps", "--url", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 1
    assert "broke off" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "--url", "localhost:8080"),
        ("models", "--url", "ftp://localhost"),
        ("models", "--url", "http://user:secret@localhost"),
        ("models", "--url", "http://localhost:99999"),
        ("load", " "),
        ("load",),
    ],
)
def test_wrong_usage_ends_with_two(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """And a key put into an address is not repeated."""
    configured(tmp_path, "")
    result = call(tmp_path, *arguments)
    assert result.exit_code == 2
    assert "secret" not in result.stderr


def test_key_that_cannot_be_sent_is_refused_unseen(tmp_path: Path) -> None:
    """A line break in it is an accident worth a word; the word does not hold the key."""
    configured(tmp_path, "")
    result = call(tmp_path, "models", env={"ROUNDHOUSE_ADMIN_KEY": "sesame\nopen"})
    assert result.exit_code == 2
    assert "ROUNDHOUSE_ADMIN_KEY" in result.stderr
    assert "sesame" not in result.stderr


def test_port_zero_in_the_configuration_asks_for_the_address(tmp_path: Path) -> None:
    """Nobody can know which port the kernel chose."""
    configured(tmp_path, "[server]\nport = 0\n")
    result = call(tmp_path, "models")
    assert result.exit_code == 2
    assert "--url" in result.stderr
