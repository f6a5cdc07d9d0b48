"""`/admin/config`: every key with its value and its source, and no secret, wherever one may stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from config.load import forms, load
from config.schema import Config, Memory, ResidencyConfig, Server
from gateway.api.settings import settings_routes, values_of
from tests.fakes.running import ask

from .small import small

SECRET = "s3cr3t-w0rd"

TOML = f"""
[server]
port = 1234
api_keys = ["${{KEY}}", "{SECRET}-1"]
max_body_bytes = "1MiB"
[residency]
idle_s = "never"
[providers.cloud]
kind = "openai"
base_url = "https://api.example.com/v1"
api_key = "{SECRET}-2"
headers = {{ "x-token" = "{SECRET}-3" }}
prices = {{ "m" = {{ prompt = "0.0000001", completion = "0.0000002" }} }}
[providers.groq]
kind = "openai"
preset = "groq"
[providers.engine]
kind = "process"
command = ["serve", "--api-key", "{SECRET}-4", "--token={SECRET}-5", "HF_TOKEN={SECRET}-6", "--port", "${{port}}", "--password"]
env = {{ TOKEN = "{SECRET}-7" }}
[models.m]
targets = ["engine/m"]
memory = "10MiB"
defaults = {{ temperature = 0.5 }}
"""


def shown(folder: Path, toml: str = TOML, **more: Any) -> Mapping[str, tuple[Any, str, bool]]:
    """Key → (value, source, secret), of a configuration that came the usual way."""
    path = folder / "roundhouse.toml"
    path.write_text(toml)
    environ = {"HOME": str(folder), "KEY": f"{SECRET}-8", "GROQ_API_KEY": f"{SECRET}-9"} | more.pop("environ", {})
    config = load(path, environ, **more)
    return {value.key: (value.value, value.source, value.secret) for value in values_of(config, environ)}


def test_each_value_says_where_it_was_written(tmp_path: Path) -> None:
    """In the file, in a variable that the file names or that we look for, on the command line, or nowhere."""
    values = shown(tmp_path, host="localhost", environ={"ROUNDHOUSE_STATE_DIR": str(tmp_path / "state")})
    assert values["server.host"] == ("localhost", "command line", False)
    assert values["server.port"] == (1234, "file", False)
    assert values["server.max_body_bytes"] == (1 << 20, "file", False)
    assert values["server.max_upload_bytes"] == (512 << 20, "default", False)
    assert values["server.api_keys"] == ("set", "environment", True)
    assert values["server.admin_keys"] == (None, "default", True)
    assert values["server.state_dir"] == (str(tmp_path / "state"), "environment", False)
    assert values["server.models_dir"][1] == "default"
    assert values["residency.idle_s"] == ("never", "file", False)
    assert values["residency.patience_s"] == (600.0, "default", False)
    assert values["providers.cloud.api_key"] == ("set", "file", True)
    assert values["providers.groq.api_key"] == ("set", "environment", True)
    assert values["providers.local.kind"] == ("llama_cpp", "default", False)
    assert values["models.m.memory"] == ({"ram": 10 << 20}, "file", False)
    assert values["models.m.context"] == (4096, "default", False)
    assert values["models.m.defaults"] == ({"temperature": 0.5}, "file", False)
    assert values["providers.cloud.prices"][0]["m"] == {"prompt": "0.0000001", "completion": "0.0000002"}


def test_every_key_of_the_tables_is_there(tmp_path: Path) -> None:
    """And of those with names what is not empty."""
    values = shown(tmp_path)
    for name, table in (("server", Server), ("memory", Memory), ("residency", ResidencyConfig)):
        assert {f"{name}.{key}" for key in forms(table)} <= set(values)
    assert "models.m.system_prompt" not in values
    assert not any(key.startswith(("path", "engines", "secret_env", "sources")) for key in values)


def test_no_secret_is_shown_wherever_it_stands(tmp_path: Path) -> None:
    """Keys, header fields, environments, and what follows a flag named like one on a command line."""
    values = shown(tmp_path)
    assert SECRET not in repr(values)
    command = ["serve", "--api-key", "***", "--token=***", "HF_TOKEN=***", "--port", "${port}", "--password"]
    assert values["providers.engine.command"][0] == command


@pytest.mark.parametrize("config", [Config(), Config(server=Server(port=1))])
async def test_it_is_told_on_the_wire(config: Config) -> None:
    """Without a file `path` is null."""
    async with small(settings_routes(config, {})) as port:
        for _ in range(2):
            answer = (await ask(port, "GET", "/admin/config")).json()
            assert answer["path"] is None
            found = {value["key"]: value for value in answer["values"]}
            assert found["server.port"] == {
                "key": "server.port",
                "value": config.server.port,
                "source": "default",
                "secret": False,
            }


def test_hundreds_of_models_are_told_in_a_moment(tmp_path: Path) -> None:
    """Of each only what says something: a page has to show them all."""
    toml = "\n".join(f'[models.m{number}]\nsource = "m{number}.gguf"' for number in range(500))
    values = shown(tmp_path, toml)
    assert 500 * 4 < len(values) < 500 * 12
