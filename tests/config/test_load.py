"""Reading the configuration: what is accepted, what it becomes, and the one line an operator gets for a mistake."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import msgspec
import pytest

from config.forms import NEVER, Secret
from config.load import ConfigError, find_config, is_loopback, load
from config.schema import ENGINE_KINDS, KINDS, Config, ProviderConfig, split_target

ENVIRON = {"HOME": "/home/someone"}


def read(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    """`text` as roundhouse.toml, loaded."""
    path = folder / "roundhouse.toml"
    path.write_text(text)
    return load(path, ENVIRON | (environ or {}))


def refusal(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    """The line an operator gets for `text`, without the folder."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, environ)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{folder}/")


# where the file is


def test_find_config_prefers_in_order_when_several_exist(tmp_path: Path) -> None:
    """--config, then $ROUNDHOUSE_CONFIG, then the working folder, then the home folder, then none."""
    cwd, home = tmp_path / "cwd", tmp_path / "home"
    (home / ".config/roundhouse").mkdir(parents=True)
    cwd.mkdir()
    assert find_config(None, {}, cwd, home) is None
    (at_home := home / ".config/roundhouse/roundhouse.toml").touch()
    assert find_config(None, {}, cwd, home) == at_home
    (here := cwd / "roundhouse.toml").touch()
    assert find_config(None, {}, cwd, home) == here
    assert find_config(None, {"ROUNDHOUSE_CONFIG": ""}, cwd, home) == here
    assert find_config(None, {"ROUNDHOUSE_CONFIG": "/x.toml"}, cwd, home) == Path("/x.toml")
    assert find_config(Path("/y.toml"), {"ROUNDHOUSE_CONFIG": "/x.toml"}, cwd, home) == Path("/y.toml")


def test_load_refuses_when_the_file_asked_for_is_absent(tmp_path: Path) -> None:
    """A file that was named and is not there is no reason to start with defaults."""
    with pytest.raises(ConfigError, match=r"none\.toml: expected a readable file, got No such file"):
        load(tmp_path / "none.toml", ENVIRON)


def test_load_gives_defaults_when_there_is_no_file() -> None:
    """No file: loopback, no models, the local provider, and what is looked for on this machine."""
    config = load(None, ENVIRON)
    assert config.server.host == "127.0.0.1"
    assert config.models == {}
    written = {name: provider for name, provider in config.providers.items() if name not in config.discovered}
    assert written == {"local": ProviderConfig(kind="llama_cpp")}
    assert config.server.models_dir == Path("/home/someone/.local/share/roundhouse/models")
    assert config.server.state_dir == Path("/home/someone/.local/state/roundhouse")


# values


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ('"16GiB"', 16 * 1024**3),
        ('"500MB"', 500_000_000),
        ('"1.5GiB"', 3 * 512 * 1024**2),
        ('"0.1 GB"', 100_000_000),
        ('"7B"', 7),
        ('"123"', 123),
        ("4096", 4096),
        ('"2gib"', 2 * 1024**3),
    ],
)
def test_size_becomes_bytes_when_written_in_any_unit(tmp_path: Path, size: str, expected: int) -> None:
    """Binary and decimal units are told apart, fractions are exact."""
    assert read(tmp_path, f"[memory]\nbudget = {size}").memory.budget == expected


@pytest.mark.parametrize("size", ['"16G"', '"lots"', '"-1GiB"', "-1", "1.5", "true", '"1e3"', '""', "0", '"٣GiB"'])
def test_size_is_refused_when_it_is_none(tmp_path: Path, size: str) -> None:
    """A size without a whole unit, negative, or of another type is no size."""
    expected = 'memory.budget: expected "auto" or a size such as "16GiB", "500MB" or bytes, got '
    assert expected in refusal(tmp_path, f"[memory]\nbudget = {size}")


def test_words_become_values_when_written(tmp_path: Path) -> None:
    """ "never" is an infinite duration, "auto" is None, zero is zero."""
    config = read(
        tmp_path,
        '[memory]\nbudget = "auto"\n[residency]\nidle_s = "never"\nmin_residency_s = "auto"\nkeepalive_s = "never"\n'
        '[models.a]\nsource = "embedded"\nidle_s = 0',
    )
    assert config.memory.budget is None
    assert config.residency.idle_s == NEVER == math.inf
    assert config.residency.min_residency_s is None
    assert config.residency.keepalive_s == NEVER
    assert config.models["a"].idle_s == 0
    assert read(tmp_path, "[residency]\nmin_residency_s = 0").residency.min_residency_s == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[models.big]\nsource="embedded"\ncontext = "many"',
            'roundhouse.toml: models.big.context: expected a whole number ≥ 1, got "many"',
        ),
        ("[models.a]\nslots = 0", "models.a.slots: expected a whole number ≥ 1, got 0"),
        ("[models.a]\npinned = 1", "models.a.pinned: expected true or false, got 1"),
        ("[models.a]\ncontext = true", "models.a.context: expected a whole number ≥ 1, got true"),
        ("[residency]\nidle_s = -1", 'residency.idle_s: expected a number of seconds ≥ 0, or "never", got -1'),
        ("[residency]\nidle_s = inf", 'residency.idle_s: expected a number of seconds ≥ 0, or "never", got inf'),
        ("[residency]\nidle_s = nan", "got nan"),
        ("[residency]\nload_timeout_s = 0", "residency.load_timeout_s: expected a number of seconds > 0, got 0"),
        ('[residency]\npolicy = "fifo"', 'residency.policy: expected "lru", got "fifo"'),
        ("[server]\nport = 65536", "server.port: expected a whole number from 0 to 65535, got 65536"),
        ('[server]\nhost = ""', 'server.host: expected a non-empty string, got ""'),
        ("[memory.devices]\ncpu = 1", "memory.devices.cpu: expected a device's name: 'ram', 'gpu0', 'gpu1', …, got 1"),
        ('[memory.devices]\ngpu0 = "x"', 'memory.devices.gpu0: expected a size such as "16GiB"'),
        ('[models.a]\ndevice = "gpu01"', "models.a.device: expected 'ram', 'gpu0', 'gpu1', …, got \"gpu01\""),
        ('[models.a]\nmemory = {tpu0 = "1GiB"}', "models.a.memory.tpu0: expected a device's name"),
        ('[models.a]\naliases = ["b", 3]', "models.a.aliases[1]: expected a non-empty string, got 3"),
        ('[models.a]\nargs = "it\'s"', "models.a.args: expected a command whose quotes are closed"),
        (
            "[providers.x]\n",
            'providers.x.kind: expected "llama_cpp" or "vllm" or "process" or "ollama" or "lmstudio" or',
        ),
        ('[providers.x]\nkind = "gguf"', 'got "gguf"'),
        ('[providers.x]\nkind = "openai"', "providers.x.base_url: expected the upstream's http:// or https:// address"),
        ('[providers.x]\nkind = "openai"\nbase_url = "ftp://a"', "providers.x.base_url: expected an http:// or"),
        ('[providers.x]\nkind = "openai"\nbase_url = "http://a:b"', "providers.x.base_url: expected an http:// or"),
        ('[providers.x]\nkind = "vllm"\nhealth = "up"', "providers.x.health: expected a path that begins with '/'"),
        ("server = 3", "server: expected a table, got 3"),
        ("models = []", "models: expected a table, got a list"),
        ("[models]\na = 1", "models.a: expected a table, got 1"),
    ],
)
def test_value_is_refused_in_one_line_when_it_is_wrong(tmp_path: Path, text: str, line: str) -> None:
    """File, key, what was expected, what was found."""
    assert line in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[residency]\nidle = 3", "residency.idle: expected a key of [residency] (did you mean 'idle_s'?), got 'idle'"),
        (
            "[models.'a b']\ncontxt = 3",
            'models."a b".contxt: expected a key of [models."a b"] (did you mean \'context\'?)',
        ),
        ("[sever]", "sever: expected a table we know (did you mean 'server'?), got 'sever'"),
        ("[server]\nzzz = 1", "server.zzz: expected a key of [server] (host, port,"),
        ("secret_env = []", "secret_env: expected a table we know"),
    ],
)
def test_unknown_key_names_the_nearest_when_misspelt(tmp_path: Path, text: str, line: str) -> None:
    """A misspelt key is an error, never ignored, and the nearest known one is named."""
    assert line in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nport = \n", "roundhouse.toml: line 2, column 8: expected valid TOML, got an error: Invalid value"),
        ("[server]\nport = 1\nport = 2\n", "roundhouse.toml: line 3, column 9: expected valid TOML"),
        ("a = " + "[" * 3000, "roundhouse.toml: "),
    ],
)
def test_syntax_error_names_the_line_when_it_is_no_toml(tmp_path: Path, text: str, line: str) -> None:
    """The operator finds the place without counting."""
    assert line in refusal(tmp_path, text)


def test_file_is_refused_when_it_is_not_utf8(tmp_path: Path) -> None:
    """Bytes that are no text get the same kind of line."""
    path = tmp_path / "roundhouse.toml"
    path.write_bytes(b"[server]\n# \xff\n")
    with pytest.raises(ConfigError, match=r"roundhouse\.toml: byte 12: expected UTF-8 text"):
        load(path, ENVIRON)


# the environment, and secrets


def test_variable_is_put_in_when_a_value_names_it(tmp_path: Path) -> None:
    """Quotes and TOML in a variable's value change nothing but that value; nothing is substituted twice."""
    odd = 'a"b\\c\n[server]\nport = 1 ${HOME}'
    config = read(
        tmp_path,
        '[providers.x]\nkind="openai"\nbase_url="https://${HOST}/v1/"\napi_key="${KEY}"',
        {"HOST": "h", "KEY": odd},
    )
    key = config.providers["x"].api_key
    assert key is not None
    assert key.reveal() == odd
    assert config.providers["x"].base_url == "https://h/v1"
    assert config.server.port == 8080


def test_placeholders_stay_in_commands_when_read(tmp_path: Path) -> None:
    """In command and args the engine's own names are left for the provider; elsewhere they are variables."""
    config = read(
        tmp_path,
        '[providers.x]\nkind="process"\ncommand = "run --port ${port} --dir \'${DIR}\' --raw $${x}"\nargs = ["${source}"]',
        {"DIR": "/a b'c", "port": "1"},
    )
    assert config.providers["x"].command == ("run", "--port", "${port}", "--dir", "/a b'c", "--raw", "${x}")
    assert config.providers["x"].args == ("${source}",)
    assert "the environment variable port to be set" in refusal(tmp_path, '[server]\nmodels_dir = "${port}"')


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[server]\napi_keys = ["a", "${NO_KEY}"]',
            "roundhouse.toml: server.api_keys[1]: expected the environment variable NO_KEY to be set, got no variable",
        ),
        ('[server]\nmodels_dir = "${}"', 'server.models_dir: expected ${NAME}, or $${ for a plain ${, got "${}"'),
        ('[server]\nmodels_dir = "${A"', 'server.models_dir: expected ${NAME}, or $${ for a plain ${, got "${A"'),
    ],
)
def test_variable_is_refused_when_unset_or_malformed(tmp_path: Path, text: str, line: str) -> None:
    """The line names the variable, the file and the key."""
    assert line in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        '[server]\napi_keys = "hunter2"',
        '[server]\nadmin_keys = ["x", {a = "hunter2"}]',
        '[server]\napi_keys = ["hunter2${}"]',
        '[providers.x]\nkind="openai"\napi_key = ["hunter2"]',
        '[providers.x]\nkind="vllm"\nenv = {"A=B" = "hunter2"}',
        '[providers.x]\nkind="openai"\nbase_url = "${KEYED_URL}"',
    ],
)
def test_secret_is_not_shown_when_its_line_is_refused(tmp_path: Path, text: str) -> None:
    """What an operator pastes into a bug report holds no key."""
    line = refusal(tmp_path, text, {"KEYED_URL": "https://user:hunter2@host/"})
    assert "expected" in line
    assert "hunter2" not in line


def test_secret_shows_nothing_when_printed_or_serialised(tmp_path: Path) -> None:
    """repr, str, format, the whole Config: three asterisks; msgspec, pickle and copy refuse."""
    config = read(tmp_path, '[server]\napi_keys = ["hunter2"]\n[providers.x]\nkind="vllm"\nenv={T="hunter2"}')
    secret = config.server.api_keys[0]
    assert f"{secret} {secret!r}" == "*** ***"
    assert "hunter2" not in repr(config)
    assert secret == Secret("hunter2") != Secret("other")
    for refuse in (msgspec.json.encode, msgspec.to_builtins, pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            refuse(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode(config.server)


def test_secret_env_names_variables_when_they_feed_keys(tmp_path: Path) -> None:
    """Engines are started without the variables behind our keys; other variables stay theirs."""
    config = read(
        tmp_path,
        '[server]\napi_keys=["${A}"]\nadmin_keys=["x-${B}"]\nmodels_dir="${D}"\n'
        '[providers.x]\nkind="ollama"\napi_key="${C}"\nenv={PATH="/opt:${E}"}',
        {"A": "1", "B": "2", "C": "3", "D": "/4", "E": "5"},
    )
    assert config.secret_env == {"A", "B", "C"}
    assert config.providers["x"].env["PATH"].reveal() == "/opt:5"


def test_key_is_refused_when_its_variable_is_empty(tmp_path: Path) -> None:
    """An empty key would let everybody in."""
    assert "server.api_keys[0]: expected a non-empty string" in refusal(
        tmp_path, '[server]\napi_keys=["${A}"]', {"A": ""}
    )


# the address, folders


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "127.evil.example"])
def test_host_is_refused_when_no_key_is_set(tmp_path: Path, host: str) -> None:
    """Whoever can reach this machine could use it; the line says what to set."""
    line = refusal(tmp_path, f'[server]\nhost = "{host}"')
    assert "server.host: expected api_keys to be set (api_keys = " in line
    assert read(tmp_path, f'[server]\nhost = "{host}"\napi_keys = ["k"]').server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_host_is_accepted_when_it_is_loopback(tmp_path: Path, host: str) -> None:
    """Nobody but this machine: no key needed."""
    assert is_loopback(host)
    assert read(tmp_path, f'[server]\nhost = "{host}"').server.host == host


def test_command_lines_host_is_checked_when_it_replaces_the_files(tmp_path: Path) -> None:
    """--host and --port stand in for the file's, under the same rules."""
    assert load(None, ENVIRON, port=0).server.port == 0
    with pytest.raises(ConfigError, match="api_keys to be set"):
        load(None, ENVIRON, host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"server\.port: expected a whole number from 0 to 65535"):
        load(None, ENVIRON, port=70000)
    path = tmp_path / "c.toml"
    path.write_text('[server]\nhost="0.0.0.0"\napi_keys=["k"]')
    assert load(path, ENVIRON, host="127.0.0.1").server.host == "127.0.0.1"


def test_folders_come_from_file_then_variable_then_xdg_when_loaded(tmp_path: Path) -> None:
    """A relative folder in the file starts beside it; a relative XDG variable is ignored as its specification asks."""
    environ = {"ROUNDHOUSE_MODELS_DIR": "/m", "XDG_STATE_HOME": "/x", "XDG_DATA_HOME": "rel"}
    config = read(tmp_path, '[server]\nstate_dir = "here"', environ)
    assert config.server.models_dir == Path("/m")
    assert config.server.state_dir == tmp_path / "here"
    config = read(tmp_path, "", {"XDG_STATE_HOME": "/x", "XDG_DATA_HOME": "rel"})
    assert config.server.state_dir == Path("/x/roundhouse")
    assert config.server.models_dir == Path("/home/someone/.local/share/roundhouse/models")
    assert read(tmp_path, '[server]\nmodels_dir = "~/w"').server.models_dir == Path("/home/someone/w")


# names, targets, engines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[models.'']\n", 'models."": expected a name of 1 to 256 printable characters, no blanks at its ends, got ""'),
        ("[models.' a']\n", 'models." a": expected a name of'),
        ('[models."a\\nb"]\n', 'models."a\\nb": expected a name of'),
        (f"[models.{'a' * 257}]\n", "expected a name of"),
        ('[models.a]\naliases = ["a"]', "models.a.aliases[0]: expected a name nobody else has (models.a has it), got"),
        (
            '[models.a]\naliases=["x"]\n[models.b]\naliases=["x"]',
            "models.b.aliases[0]: expected a name nobody else has",
        ),
        ('[models.a]\ntargets = ["a"]', 'models.a.targets[0]: expected "provider/upstream-name", got "a"'),
        ('[models.a]\ntargets = ["/a"]', "models.a.targets[0]: expected"),
        (
            '[models.a]\ntargets = ["nope/a"]',
            "models.a.targets[0]: expected a provider that is configured (local), got",
        ),
        (
            "[models.a]\n",
            'models.a.source: expected "embedded", "hf:ORG/REPO/file.gguf", "pypi:NAME==VERSION/path/in/the/wheel", or',
        ),
        ("[providers.'a/b']\nkind='vllm'", "providers.\"a/b\": expected a provider's name: printable, without '/'"),
        (
            "[providers.p]\nkind='process'\n[models.a]\ntargets=['p/a']",
            "providers.p.command: expected the engine's command",
        ),
        (
            "[providers.p]\nkind='process'\ncommand='run'\n[models.a]\ntargets=['p/a']",
            "providers.p.command: expected ${port} in command, args or env",
        ),
        (
            "[providers.p]\nkind='process'\ncommand='run ${port}'\n[models.a]\ntargets=['p/a']\ncommand='mine'",
            "models.a.command: expected ${port} in command, args or env",
        ),
    ],
)
def test_model_is_refused_when_it_cannot_work(tmp_path: Path, text: str, line: str) -> None:
    """Each mistake in names, targets and engines has a line of its own."""
    assert line in refusal(tmp_path, text)


def test_model_gets_local_target_and_resolved_values_when_it_names_none(tmp_path: Path) -> None:
    """No targets: local/NAME. A path becomes absolute, a single size stands on the model's device."""
    config = read(
        tmp_path,
        '[server]\nmodels_dir="/w"\n[providers.local]\nkind="llama_cpp"\ndevice="gpu1"\n'
        '[models."org/m:4b"]\nsource="sub/x.gguf"\nmemory="1GiB"\n[models.b]\nsource="~/y.gguf"\ndevice="ram"\n'
        '[models.c]\nsource="embedded"',
    )
    model = config.models["org/m:4b"]
    assert model.targets == ("local/org/m:4b",)
    assert split_target(model.targets[0]) == ("local", "org/m:4b")
    assert (model.source, model.device, model.memory) == ("/w/sub/x.gguf", "gpu1", {"gpu1": 1024**3})
    assert (config.models["b"].source, config.models["b"].device) == ("/home/someone/y.gguf", "ram")
    assert (config.models["c"].source, config.models["c"].targets) == ("embedded", ("local/c",))


def test_vllm_source_stays_when_it_may_be_a_repository(tmp_path: Path) -> None:
    """vLLM takes names that look like relative paths."""
    config = read(tmp_path, '[providers.v]\nkind="vllm"\n[models.a]\ntargets=["v/a"]\nsource="org/name"')
    assert config.models["a"].source == "org/name"


def test_engine_is_defined_by_its_own_model_when_routes_share_it(tmp_path: Path) -> None:
    """The model of the target's name defines it, wherever it stands; routes that agree with it may share it."""
    config = read(
        tmp_path,
        '[providers.c]\nkind="openai"\nbase_url="http://h"\n'
        '[models.route]\ntargets=["c/x", "local/small", "local/tiny"]\n'
        '[models.fast]\ntargets=["local/small", "c/y"]\ncontext=2048\n'
        '[models.small]\nsource="embedded"\ncontext=2048\n'
        '[models.other]\ntargets=["local/tiny"]\nsource="t.gguf"',
    )
    assert config.engines == {"local/small": "small", "local/tiny": "other"}


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("source", '"a.gguf"', '"b.gguf"'),
        ("context", "1024", "2048"),
        ("slots", "1", "2"),
        ("device", '"ram"', '"gpu0"'),
        ("args", '["-x"]', '["-y"]'),
        ("command", '["x"]', '["y"]'),
        ("memory", '"1GiB"', '{ram = "2GiB"}'),
    ],
)
def test_engine_is_refused_when_two_models_describe_it_differently(
    tmp_path: Path, key: str, first: str, second: str
) -> None:
    """One target is one engine; two descriptions of it must agree."""
    source = "" if key == "source" else 'source = "embedded"\n'
    same = f"[models.a]\n{source}{key} = {first}\n[models.b]\ntargets = ['local/a']\n{key} = "
    assert read(tmp_path, same + first).engines == {"local/a": "a"}
    line = refusal(tmp_path, same + second)
    assert f"models.b.{key}: expected the same as models.a.{key}: local/a is one engine" in line


def test_every_kind_is_accepted_when_complete(tmp_path: Path) -> None:
    """KINDS is the list; each of them loads."""
    text = "".join(
        f'[providers.{kind}]\nkind="{kind}"\n' + ("" if kind in ENGINE_KINDS else 'base_url="http://h"\n')
        for kind in KINDS
    )
    assert {provider.kind for provider in read(tmp_path, text).providers.values()} == set(KINDS)
