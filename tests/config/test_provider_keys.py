"""What may be said of a provider: its preset, its key, header fields, prices, its memory, and who is looked for without a word."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from config.forms import Secret
from config.load import ConfigError, load
from config.schema import KINDS, PRESETS, Config

HOME = {"HOME": "/home/someone"}


def read(folder: Path, toml: str, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration these lines give."""
    path = folder / "roundhouse.toml"
    path.write_text(toml)
    return load(path, {**HOME, **(environ or {})})


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_gives_the_address(tmp_path: Path, preset: str) -> None:
    """Every preset can be used without an address of the operator's."""
    config = read(tmp_path, f'[providers.x]\nkind = "openai"\npreset = "{preset}"')
    assert config.providers["x"].base_url.startswith(("http://127.0.0.1:", "https://"))


@pytest.mark.parametrize("kind", ["ollama", "lmstudio", "openrouter", "anthropic"])
def test_kind_that_knows_its_address_needs_none(tmp_path: Path, kind: str) -> None:
    """These kinds are always at the same place unless told otherwise."""
    assert read(tmp_path, f'[providers.x]\nkind = "{kind}"').providers["x"].base_url


def test_key_of_the_environment_is_taken_for_the_presets_own_address(tmp_path: Path) -> None:
    """The usual variable is read, and kept from the engines' environment."""
    config = read(tmp_path, '[providers.x]\nkind = "openai"\npreset = "groq"', {"GROQ_API_KEY": "gsk-1"})
    assert config.providers["x"].api_key == Secret("gsk-1")
    assert config.secret_env == {"GROQ_API_KEY"}


def test_key_of_the_environment_goes_nowhere_else(tmp_path: Path) -> None:
    """Another address with the same preset is somebody else: it does not get the key."""
    toml = '[providers.x]\nkind = "openai"\npreset = "openai"\nbase_url = "https://elsewhere.example/v1"'
    config = read(tmp_path, toml, {"OPENAI_API_KEY": "sk-1"})
    assert config.providers["x"].api_key is None


def test_written_key_wins_over_the_environments(tmp_path: Path) -> None:
    """What the operator wrote holds."""
    toml = '[providers.x]\nkind = "openrouter"\napi_key = "sk-written"'
    config = read(tmp_path, toml, {"OPENROUTER_API_KEY": "sk-environment"})
    assert config.providers["x"].api_key == Secret("sk-written")


def test_prices_are_exact(tmp_path: Path) -> None:
    """As strings, as TOML's numbers, as whole numbers: the digits that were written."""
    toml = """
    [providers.x]
    kind = "openai"
    base_url = "http://x"
    prices.a = { prompt = "0.00000025", completion = 2.5e-7, request = 0 }
    prices.b = { prompt = 0.1, completion = "1E-9" }
    """
    prices = read(tmp_path, toml).providers["x"].prices
    assert prices["a"] == {"prompt": Decimal("2.5e-7"), "completion": Decimal("2.5e-7"), "request": Decimal(0)}
    assert prices["b"] == {"prompt": Decimal("0.1"), "completion": Decimal("1e-9")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('preset = "nobody"', r"providers\.x\.preset: expected "),
        ('prices.a = { prompt = "1" }', r'providers\.x\.prices\.a: expected a table with "prompt" and "completion"'),
        ("prices.a = { prompt = -1, completion = 0 }", r"prices\.a: expected prompt as USD per token"),
        ('prices.a = { prompt = "NaN", completion = 0 }', r"prices\.a: expected prompt as USD per token"),
        ("prices.a = { prompt = true, completion = 0 }", r"prices\.a: expected prompt as USD per token"),
        ("prices.a = { prompt = 1, completion = 0, tip = 1 }", r"prices\.a: expected a table of prompt, completion"),
        ("prices = 3", r"prices: expected a table"),
        ("max_cost_per_token = -1", r"max_cost_per_token: expected USD per token"),
        ('headers = { "bad name" = "x" }', r'headers\."bad name": expected a header field\'s name'),
        ('headers = { Authorization = "x" }', r"headers\.Authorization: expected a header field's name"),
        ('headers = { X-Team = "a\\nb" }', r"headers\.X-Team: expected a non-empty string without line breaks"),
        ("headers = 1", r"headers: expected a table of strings"),
        ('proxy = "socks5://p:1"', r'proxy: expected "auto", "none" or an http:// address'),
        ('proxy = "http://p:99999"', r"proxy: expected"),
        ("memory = 0", r"memory: expected a size"),
        ("max_concurrent = -1", r"max_concurrent: expected a whole number ≥ 0"),
        ("total_s = 0", r"total_s: expected a number of seconds > 0"),
        ('device = ""', r"device: expected 'ram'"),
        (
            'routes = ["v1/chat"]',
            r"routes\[0\]: expected a path that begins with '/', without a query, got \"v1/chat\"",
        ),
        ('routes = ["/v1/a", "/v1/b?c"]', r"routes\[1\]: expected a path that begins with '/'"),
        ('routes = "/v1/a"', r"routes: expected a list of paths that begin with '/'"),
        ('stream_usage = "yes"', r'stream_usage: expected true, false or "auto"'),
    ],
)
def test_wrong_value_is_told_with_its_key(tmp_path: Path, line: str, words: str) -> None:
    """One line: file, key, what was expected."""
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, f'[providers.x]\nkind = "openai"\nbase_url = "http://x"\n{line}')


def test_secret_parts_are_never_shown(tmp_path: Path) -> None:
    """A header field may be a token, a proxy may hold a password."""
    for line in ('headers = { X-Token = "s3cret\\n" }', 'proxy = "ftp://me:s3cret@p"'):
        with pytest.raises(ConfigError) as refused:
            read(tmp_path, f'[providers.x]\nkind = "openai"\nbase_url = "http://x"\n{line}')
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("ollama", 'preset = "openai"'),
        ("openai", 'command = "serve"'),
        ("openrouter", 'command = "serve"'),
        ("openai", 'pull = ["a"]'),
        ("lmstudio", 'pull = ["a"]'),
        ("openrouter", 'memory = "1GiB"'),
        ("anthropic", "show_free_only = true"),
        ("process", 'base_url = "http://x"'),
        ("llama_cpp", "max_concurrent = 3"),
        ("vllm", 'models = ["a"]'),
        ("ollama", 'binary = "/x"'),
    ],
)
def test_key_that_means_nothing_to_a_kind_is_refused(tmp_path: Path, kind: str, line: str) -> None:
    """It would be silently without effect."""
    key = line.partition(" ")[0]
    with pytest.raises(
        ConfigError, match=rf"providers\.x\.{key}: expected no {key}: it means nothing to kind {kind}, only to"
    ):
        read(tmp_path, f'[providers.x]\nkind = "{kind}"\n{line}')


@pytest.mark.parametrize("line", ["context = 8192", 'source = "a.gguf"', "slots = 2", 'args = ["x"]'])
def test_engines_key_is_refused_where_no_engine_is_started(tmp_path: Path, line: str) -> None:
    """Ollama decides about its context itself."""
    toml = '[providers.o]\nkind = "ollama"\n[models.m]\ntargets = ["o/m"]\n'
    key = line.partition(" ")[0]
    with pytest.raises(ConfigError, match=rf"models\.m\.{key}: expected no {key}: none of its targets is an engine"):
        read(tmp_path, toml + line)
    assert read(tmp_path, toml + 'pinned = true\nidle_s = 5\nmemory = "1GiB"').models["m"].pinned


def test_address_or_preset_is_needed(tmp_path: Path) -> None:
    """Kind openai alone says not whom."""
    with pytest.raises(ConfigError, match=r"base_url: expected .* or a preset"):
        read(tmp_path, '[providers.x]\nkind = "openai"')


def test_nobody_is_looked_for_where_there_is_a_configuration(tmp_path: Path) -> None:
    """Unless it says so."""
    environ = {"OPENROUTER_API_KEY": "sk-or"}
    assert read(tmp_path, "", environ).discovered == frozenset()
    assert read(tmp_path, "[server]\ndiscover = false", environ).discovered == frozenset()
    found = read(tmp_path, "[server]\ndiscover = true", environ)
    assert found.discovered == {"ollama", "lmstudio", "vllm", "openrouter"}  # llama-server's port is ours
    assert found.providers["openrouter"].api_key == Secret("sk-or")


def test_a_written_provider_is_not_looked_for_again(tmp_path: Path) -> None:
    """Its name is taken, and it is shown also while it does not answer."""
    config = read(
        tmp_path, '[server]\ndiscover = true\n[providers.ollama]\nkind = "ollama"\nbase_url = "http://box:11434"'
    )
    assert "ollama" not in config.discovered
    assert config.providers["ollama"].base_url == "http://box:11434"


def test_without_a_configuration_all_are_looked_for() -> None:
    """Servers on loopback, and APIs whose key is there; llama-server's port unless it is ours."""
    assert load(None, HOME).discovered == {"ollama", "lmstudio", "vllm"}
    assert load(None, HOME, port=9000).discovered == {"ollama", "lmstudio", "vllm", "llama_server"}
    assert "anthropic" in load(None, {**HOME, "ANTHROPIC_API_KEY": "sk-ant"}).discovered


def test_file_of_certificates_lies_beside_the_configuration(tmp_path: Path) -> None:
    """A relative path begins where the file is."""
    toml = '[providers.x]\nkind = "openai"\nbase_url = "https://x"\nca_file = "ours.pem"'
    assert read(tmp_path, toml).providers["x"].ca_file == str(tmp_path / "ours.pem")


def test_port_stays_in_the_environment_of_a_server(tmp_path: Path) -> None:
    """It is put in when the server is started, as in its command."""
    toml = '[providers.x]\nkind = "ollama"\ncommand = "ollama serve"\nenv = { OLLAMA_HOST = "127.0.0.1:${port}" }'
    assert read(tmp_path, toml).providers["x"].env == {"OLLAMA_HOST": Secret("127.0.0.1:${port}")}


@pytest.mark.parametrize("kind", KINDS)
def test_routes_and_usage_may_be_said_of_every_kind(tmp_path: Path, kind: str) -> None:
    """Empty and None: as the kind usually does."""
    start = f'[providers.x]\nkind = "{kind}"\n' + ('base_url = "http://x"\n' if kind == "openai" else "")
    usual = read(tmp_path, start).providers["x"]
    assert (usual.routes, usual.stream_usage) == ((), None)
    assert read(tmp_path, start + 'stream_usage = "auto"').providers["x"].stream_usage is None
    said = read(tmp_path, start + 'stream_usage = false\nroutes = ["/v1/chat/completions", "/v1/x"]').providers["x"]
    assert (said.routes, said.stream_usage) == (("/v1/chat/completions", "/v1/x"), False)
