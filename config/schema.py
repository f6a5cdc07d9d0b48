"""Every table and key of the configuration, with its form, its default and the reason for that default.

The law: what stands here is what `load` gives after reading, ready to use. Sizes are whole bytes, durations seconds,
`"never"` has become `math.inf`, `"auto"` has become None, secrets are `Secret`. A field's `Form` says how the written
value is read and how it is described when it is wrong, so there is one place for both.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, NoReturn, cast
from urllib.parse import urlsplit

import msgspec

ENGINE_KINDS = ("llama_cpp", "vllm", "process")  # these start engines; a target of theirs occupies memory of ours
KINDS = (*ENGINE_KINDS, "openai")  # every kind of provider; a new kind is added here and in providers/__init__.py
LOCAL = "local"  # the provider of kind llama_cpp that is always there
DEVICE_PATTERN = re.compile(r"ram|gpu(0|[1-9]\d{0,2})", re.ASCII)
NEVER = math.inf  # a duration that does not end


class Secret:
    """A string that shows itself to nobody: repr, str and format give "***"; msgspec, pickle and copy refuse it.

    A plain class on purpose: msgspec has no encoding for it and raises TypeError.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the one place that sends or compares it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised")


class Mismatch(ValueError):
    """A written value has not the form of its key.

    Args:
        expected: overrides the form's own description where a part of the value is wrong.
        part: which item of the list or table is wrong; None for the whole value.
    """

    def __init__(self, expected: str = "", part: int | str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.part = part


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How one key's value is written, and read. `read` is pure and raises Mismatch."""

    expected: str  # completes "expected …"
    read: Callable[[object], object]
    secret: bool = False  # neither the value nor a part of it may be shown
    withheld: bool = False  # a key of ours: the variables it was made of are kept from the engines
    argv: bool = False  # a command line: one string is split as a shell would, and the engine's ${port} etc. stay


def _text(value: object) -> str:
    # NUL cannot be passed to a process nor stand in a path; nothing an operator means contains it
    if not isinstance(value, str) or "\0" in value:
        raise Mismatch
    return value


def _plain(value: object) -> str:
    if not (text := _text(value)):
        raise Mismatch
    return text


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Mismatch
    items = cast("list[object]", value)
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item or "\0" in item:
            raise Mismatch("a non-empty string", index)
    return tuple(cast("list[str]", items))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Mismatch
    return value


def split_command(text: str) -> list[str]:
    """One command line as argv, quoted as in a POSIX shell. Raises: Mismatch: a quote is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Mismatch("a command whose quotes are closed") from error


def _argv(value: object) -> tuple[str, ...]:
    # a single string was split before, so that a variable's value with blanks or quotes stays one argument
    if not isinstance(value, list):
        raise Mismatch
    parts = cast("list[object]", value)
    if any(not isinstance(part, str) or "\0" in part for part in parts):
        raise Mismatch
    return tuple(cast("list[str]", parts))


def _secret(value: object) -> Secret:
    if not isinstance(value, str) or not value.strip():
        raise Mismatch
    return Secret(value)


def _secrets(value: object) -> tuple[Secret, ...]:
    return tuple(Secret(item) for item in _strings(value))


def _environment(value: object) -> dict[str, Secret]:
    if not isinstance(value, dict):
        raise Mismatch
    for name, item in cast("dict[str, object]", value).items():
        if not name or "=" in name or "\0" in name or not isinstance(item, str) or "\0" in item:
            raise Mismatch("a name without '=' and a string", name)
    return {name: Secret(item) for name, item in cast("dict[str, str]", value).items()}


def _device(value: object) -> str:
    if not isinstance(value, str) or not DEVICE_PATTERN.fullmatch(value):
        raise Mismatch
    return value


def _url(value: object) -> str:
    text = _text(value)
    if not text:
        return text
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a broken IPv6 address
        raise Mismatch from None
    if not valid or "@" in parts.netloc or parts.query or parts.fragment or any(c.isspace() for c in text):
        raise Mismatch
    return text.rstrip("/")


def _url_path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or any(c.isspace() for c in text):
        raise Mismatch
    return text


_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,9})?)\s*(?:([kmgt])(i?))?(b?)", re.IGNORECASE | re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_size(value: object) -> int:
    """Bytes of "16GiB" (powers of 1,024), "500MB" (powers of 1,000), or a whole number. Raises: Mismatch."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise Mismatch
    match = _SIZE.fullmatch(value.strip())
    if match is None or (match[2] and not match[4]):  # "16G" may mean either; ask for the whole unit
        raise Mismatch
    return int(Fraction(match[1]) * (1024 if match[3] else 1000) ** _POWER[(match[2] or "").lower()])


def _positive_size(value: object) -> int:
    if (size := read_size(value)) <= 0:
        raise Mismatch
    return size


def _device_sizes(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise Mismatch
    sizes: dict[str, int] = {}
    for device, written in cast("dict[str, object]", value).items():
        if not DEVICE_PATTERN.fullmatch(device):
            raise Mismatch("a device's name: 'ram', 'gpu0', 'gpu1', …", device)
        try:
            sizes[device] = read_size(written)
        except Mismatch:
            raise Mismatch(_SIZE_WORDS, device) from None
    return sizes


def _footprint(value: object) -> dict[str, int]:
    """{device: bytes}; a single size stands under "" until `load` knows the model's device."""
    return _device_sizes(cast("object", value)) if isinstance(value, dict) else {"": _positive_size(value)}


def _whole(least: int, most: int | None = None) -> Form:
    def read(value: object) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < least
            or (most is not None and value > most)
        ):
            raise Mismatch
        return value

    return Form(expected=f"a whole number {f'≥ {least}' if most is None else f'from {least} to {most}'}", read=read)


def _seconds(words: Mapping[str, float | None] | None = None, *, zero: bool = True) -> Form:
    words = words or {}

    def read(value: object) -> float | None:
        if isinstance(value, str) and value in words:
            return words[value]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise Mismatch
        if value < 0 or (value == 0 and not zero):
            raise Mismatch
        return float(value)

    or_words = "".join(f', or "{word}"' for word in words)
    return Form(expected=f"a number of seconds {'≥' if zero else '>'} 0{or_words}", read=read)


def _auto_size(read: Callable[[object], int]) -> Form:
    return Form(expected=f'"auto" or {_SIZE_WORDS}', read=lambda value: None if value == "auto" else read(value))


def _choice(*options: str) -> Form:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise Mismatch
        return value

    return Form(expected=" or ".join(f'"{option}"' for option in options), read=read)


_SIZE_WORDS = 'a size such as "16GiB", "500MB" or bytes'
_TEXT = Form(expected="a string", read=_text)
_PLAIN = Form(expected="a non-empty string", read=_plain)
_STRINGS = Form(expected="a list of strings", read=_strings)
_ARGV = Form(expected="a list of strings, or one string split as a shell does", read=_argv, argv=True)
_FLAG = Form(expected="true or false", read=_flag)
_DEVICE = Form(expected="'ram', 'gpu0', 'gpu1', …", read=_device)
_SECRET = Form(expected="a non-empty string", read=_secret, secret=True, withheld=True)
_SECRETS = Form(expected="a list of non-empty strings", read=_secrets, secret=True, withheld=True)
_ENVIRONMENT = Form(expected="a table of strings", read=_environment, secret=True)
_URL = Form(expected="an http:// or https:// address without user, query or fragment (keys go into api_key)", read=_url)
_URL_PATH = Form(expected="a path that begins with '/'", read=_url_path)
_SIZE_FORM = Form(expected=_SIZE_WORDS, read=_positive_size)
_DEVICE_SIZES = Form(expected="a table: device = size", read=_device_sizes)
_FOOTPRINT = Form(expected=f"{_SIZE_WORDS}, or a table: device = size", read=_footprint)
_LIMIT = _seconds(zero=False)
_NEVER_OK = _seconds({"never": NEVER})


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[server]: where we listen, who may come in, and where our own files lie."""

    host: Annotated[str, _PLAIN] = "127.0.0.1"  # loopback: nobody else may spend this machine's memory unless asked for
    port: Annotated[int, _whole(0, 65535)] = 8080  # llama-server's port, so its clients find us; 0: any free port
    api_keys: Annotated[tuple[Secret, ...], _SECRETS] = ()  # none: anyone on this machine; demanded for other hosts
    admin_keys: Annotated[tuple[Secret, ...], _SECRETS] = ()  # none: whoever may ask may also administrate
    # Long contexts with pictures inline come to tens of MB; a body is held in memory while its model loads.
    max_body_bytes: Annotated[int, _SIZE_FORM] = 64 * 1024**2
    # Empty here; `load` always puts an absolute path: the key, the environment, or the XDG base directory.
    models_dir: Annotated[Path, _TEXT] = Path()
    state_dir: Annotated[Path, _TEXT] = Path()


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[memory]: how much of the machine engines may hold. None stands for "auto": measured, see residency/memory.py."""

    budget: Annotated[int | None, _auto_size(_positive_size)] = None  # bytes of RAM (GPUs: see devices)
    headroom: Annotated[int | None, _auto_size(read_size)] = None  # bytes kept free on each device under an auto budget
    devices: Annotated[Mapping[str, int], _DEVICE_SIZES] = {}  # bytes per device; 0: do not use it


class ResidencyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[residency]: how long models stay, and how long requests wait for them."""

    policy: Annotated[str, _choice("lru")] = "lru"  # the only one; a key so that a second needs no new word
    idle_s: Annotated[float, _NEVER_OK] = 600.0  # a pause for coffee keeps the model; a lunch frees the memory
    # None ("auto"): as long as the model's own load took, at most 30 s. Swapping then costs at most half the time.
    min_residency_s: Annotated[float | None, _seconds({"auto": None})] = None
    queue_max: Annotated[int, _whole(1)] = 512  # bodies wait in memory; farther back nobody is answered in time
    patience_s: Annotated[float, _seconds()] = 600.0  # the default timeout of OpenAI's own clients is 600 s
    load_timeout_s: Annotated[float, _LIMIT] = 300.0  # 100 GB from a disk of 500 MB/s needs 200 s
    stop_timeout_s: Annotated[float, _LIMIT] = 10.0  # engines end in under a second; one that hangs is killed
    keepalive_s: Annotated[float, _NEVER_OK] = 15.0  # below the 30–60 s after which proxies cut a silent connection


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[providers.NAME]: one upstream, or one way of starting engines."""

    kind: Annotated[str, _choice(*KINDS)]
    base_url: Annotated[str, _URL] = ""  # without a trailing slash; needed by the kinds that start nothing
    api_key: Annotated[Secret | None, _SECRET] = None
    command: Annotated[tuple[str, ...], _ARGV] = ()  # argv of the engine; empty: the kind's own
    args: Annotated[tuple[str, ...], _ARGV] = ()  # appended to the argv
    env: Annotated[Mapping[str, Secret], _ENVIRONMENT] = {}  # added to the engine's environment; may be tokens
    health: Annotated[str, _URL_PATH] = "/health"  # what llama-server and vLLM both answer when ready
    binary: Annotated[str, _TEXT] = ""  # llama_cpp: the operator's llama-server; empty: the embedded one
    models: Annotated[tuple[str, ...], _STRINGS] = ()  # upstream names offered as NAME/model
    device: Annotated[str, _DEVICE] = "ram"  # for models that name none
    connect_timeout_s: Annotated[float, _LIMIT] = 5.0  # three SYN retries (1, 3, 7 s) would outlast a caller's interest
    first_byte_s: Annotated[float, _LIMIT] = 600.0  # a long prompt on a slow machine is silent for minutes
    idle_s: Annotated[float, _LIMIT] = 300.0  # between two pieces of an answer; reasoning models pause for minutes


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[models.NAME]: a name clients ask for, its route, and how its engine is started."""

    targets: Annotated[tuple[str, ...], _STRINGS] = ()  # "provider/upstream-name"; `load` puts ("local/NAME",) for none
    aliases: Annotated[tuple[str, ...], _STRINGS] = ()
    pinned: Annotated[bool, _FLAG] = False
    idle_s: Annotated[float | None, _NEVER_OK] = None  # None: as [residency] says
    memory: Annotated[Mapping[str, int] | None, _FOOTPRINT] = None  # {device: bytes}; None: estimated, then learned
    source: Annotated[str, _TEXT] = ""  # "embedded", "pypi:…", or (after `load`) an absolute path
    context: Annotated[int, _whole(1)] = 4096  # tokens per slot: holds a chat, and a cache that fits small machines
    slots: Annotated[int, _whole(1)] = 1  # a cache per slot: more cost memory, and one user needs one
    threads: Annotated[int, _whole(0)] = 0  # 0: the cores are split between the residents
    device: Annotated[str, _DEVICE] = "ram"  # `load` puts the provider's where the model names none
    command: Annotated[tuple[str, ...], _ARGV] = ()  # instead of the provider's
    args: Annotated[tuple[str, ...], _ARGV] = ()  # appended to the provider's
    load_timeout_s: Annotated[float | None, _LIMIT] = None  # None: as [residency] says


def _local_provider() -> dict[str, ProviderConfig]:
    return {LOCAL: ProviderConfig(kind="llama_cpp")}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration. The tables are the file's; the fields below them are what `load` found out."""

    server: Server = Server()
    memory: Memory = Memory()
    residency: ResidencyConfig = ResidencyConfig()
    providers: Mapping[str, ProviderConfig] = msgspec.field(default_factory=_local_provider)  # "local" is always there
    models: Mapping[str, ModelConfig] = {}

    path: Path | None = None  # the file it came from; None: built-in defaults
    # Target of an engine kind → the name of the model whose keys define that engine.
    engines: Mapping[str, str] = {}
    # Environment variables that were put into secrets: engines are started without them.
    secret_env: frozenset[str] = frozenset()


def split_target(target: str) -> tuple[str, str]:
    """("provider", "upstream-name") of "provider/upstream-name"; the upstream's name may itself hold slashes.

    Raises: ValueError: one of the two is empty or the slash is missing.
    """
    provider, slash, upstream = target.partition("/")
    if not (provider and slash and upstream):
        raise ValueError(target)
    return provider, upstream
