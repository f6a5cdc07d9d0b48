"""Every table and key of the configuration, with its form, its default and the reason for that default. Pure.

The law: what stands here is what `load` gives after reading, ready to use; `forms.py` says how each value is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec

from .forms import (
    AMOUNT,
    ARGV,
    AUTO_FLAG,
    BUDGET,
    DATABASE_URL,
    DEVICE,
    DEVICE_SIZES,
    ENVIRONMENT,
    FLAG,
    FOOTPRINT,
    HEADERS,
    LIMIT,
    MOMENT,
    NEVER,
    NEVER_LIMIT,
    NEVER_OK,
    PARAMETER_NAMES,
    PARAMETERS,
    PLAIN,
    PRICES,
    PROXY,
    SECRET,
    SECRETS,
    SIZE_FORM,
    STRINGS,
    TENANT,
    TENANTS,
    TEXT,
    URL,
    URL_PATH,
    URL_PATHS,
    Secret,
    auto_size,
    choice,
    positive_size,
    read_size,
    seconds,
    whole,
)

ENGINE_KINDS = ("llama_cpp", "vllm", "process")  # these start engines; a target of theirs occupies memory of ours
SERVER_KINDS = ("ollama", "lmstudio")  # these tell a server what to hold in memory; residency decides for them, too
REMOTE_KINDS = ("openrouter", "openai", "anthropic")  # these only forward
KINDS = (*ENGINE_KINDS, *SERVER_KINDS, *REMOTE_KINDS)  # a new kind is added here and in providers/__init__.py
# Kind `openai`: who is meant, so that address and key need not be written. The addresses stand in providers/presets.py.
PRESETS = ("openai", "groq", "together", "mistral", "deepseek", "vllm", "sglang", "llama_server", "tabbyapi")
# Keys of [providers.NAME] that mean something to some kinds only; on another they are refused, not silently without effect.
ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("command", "args", "env", "health", "device"), (*ENGINE_KINDS, *SERVER_KINDS)),
    **dict.fromkeys(("base_url", "api_key", "headers", "ca_file", "proxy", "models"), (*SERVER_KINDS, *REMOTE_KINDS)),
    **dict.fromkeys(
        ("prices", "refresh_s", "max_concurrent", "queue_s", "connect_timeout_s", "total_s"),
        (*SERVER_KINDS, *REMOTE_KINDS),
    ),
    **dict.fromkeys(("show_free_only", "prefer_free_models", "max_cost_per_token"), ("openrouter",)),
    "binary": ("llama_cpp", "vllm"),
    "memory": SERVER_KINDS,
    "preset": ("openai",),
    "pull": ("ollama",),
}
LOCAL = "local"  # the provider of kind llama_cpp that is always there


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[server]: where we listen, who may come in, and where our own files lie."""

    host: Annotated[str, PLAIN] = "127.0.0.1"  # loopback: nobody else may spend this machine's memory unless asked for
    port: Annotated[int, whole(0, 65535)] = 8080  # llama-server's port, so its clients find us; 0: any free port
    api_keys: Annotated[tuple[Secret, ...], SECRETS] = ()  # none: anyone on this machine; demanded for other hosts
    admin_keys: Annotated[tuple[Secret, ...], SECRETS] = ()  # none: whoever may ask may also administrate
    # Long contexts with pictures inline come to tens of MB; a body is held in memory while its model loads.
    max_body_bytes: Annotated[int, SIZE_FORM] = 64 * 1024**2
    # Audio and pictures stream through and are not held: an hour of 16-bit speech, one channel at 16 kHz, is 115 MB.
    max_upload_bytes: Annotated[int, SIZE_FORM] = 512 * 1024**2
    # None ("auto"): look for Ollama, LM Studio and others on this machine, and for keys, only when there is no configuration file
    discover: Annotated[bool | None, AUTO_FLAG] = None
    log: Annotated[str, choice("console", "json")] = "console"  # for people; programs that collect logs want json
    # Empty here; `load` always puts an absolute path: the key, the environment, or the XDG base directory.
    models_dir: Annotated[Path, TEXT] = Path()
    state_dir: Annotated[Path, TEXT] = Path()


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[memory]: how much of the machine engines may hold. None stands for "auto": measured, see residency/memory.py."""

    budget: Annotated[int | None, auto_size(positive_size)] = None  # bytes of RAM (GPUs: see devices)
    headroom: Annotated[int | None, auto_size(read_size)] = None  # bytes kept free on each device under an auto budget
    devices: Annotated[Mapping[str, int], DEVICE_SIZES] = {}  # bytes per device; 0: do not use it


class ResidencyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[residency]: how long models stay, and how long requests wait for them."""

    policy: Annotated[str, choice("lru")] = "lru"  # the only one; a key so that a second needs no new word
    idle_s: Annotated[float, NEVER_OK] = 600.0  # a pause for coffee keeps the model; a lunch frees the memory
    # None ("auto"): as long as the model's own load took, at most 30 s. Swapping then costs at most half the time.
    min_residency_s: Annotated[float | None, seconds({"auto": None})] = None
    queue_max: Annotated[int, whole(1)] = 512  # bodies wait in memory; farther back nobody is answered in time
    patience_s: Annotated[float, seconds()] = 600.0  # the default timeout of OpenAI's own clients is 600 s
    load_timeout_s: Annotated[float, LIMIT] = 300.0  # 100 GB from a disk of 500 MB/s needs 200 s
    stop_timeout_s: Annotated[float, LIMIT] = 10.0  # engines end in under a second; one that hangs is killed
    keepalive_s: Annotated[float, NEVER_OK] = 15.0  # below the 30–60 s after which proxies cut a silent connection


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[providers.NAME]: one upstream, or one way of starting engines."""

    kind: Annotated[str, choice(*KINDS)]
    preset: Annotated[str, choice("", *PRESETS)] = ""  # openai: whose API it is; gives address and quirks
    base_url: Annotated[str, URL] = ""  # without a trailing slash; needed where neither kind nor preset knows one
    api_key: Annotated[Secret | None, SECRET] = None
    headers: Annotated[Mapping[str, Secret], HEADERS] = {}  # sent with every request to it; may be tokens
    ca_file: Annotated[str, TEXT] = ""  # certificates to trust, PEM, in place of the system's
    # "auto": HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, never for loopback; "none": no proxy. May hold a password.
    proxy: Annotated[Secret | None, PROXY] = Secret("auto")
    command: Annotated[tuple[str, ...], ARGV] = ()  # argv of the engine, or of the server; empty: the kind's own
    args: Annotated[tuple[str, ...], ARGV] = ()  # appended to the argv
    env: Annotated[Mapping[str, Secret], ENVIRONMENT] = {}  # added to the engine's environment; may be tokens
    health: Annotated[str, URL_PATH] = "/health"  # what llama-server and vLLM both answer when ready
    binary: Annotated[str, TEXT] = ""  # llama_cpp: the operator's llama-server; empty: the embedded one
    models: Annotated[tuple[str, ...], STRINGS] = ()  # upstream names offered as NAME/model; empty: what it lists
    pull: Annotated[tuple[str, ...], STRINGS] = ()  # ollama: fetched at the start where they are missing
    # None: RAM for engines of ours; for servers on this machine gpu0 where there is one, else RAM.
    device: Annotated[str | None, DEVICE] = None
    # None: a server on loopback shares this machine's budget, another one's memory is not counted. A size: it has memory of
    # its own, of that size (also behind a tunnel that ends on loopback), counted as the device called like the provider.
    memory: Annotated[int | None, SIZE_FORM] = None
    prices: Annotated[Mapping[str, Mapping[str, Decimal]], PRICES] = {}  # USD per token, where the upstream tells none
    show_free_only: Annotated[bool | None, FLAG] = None  # openrouter: hide what costs; None: environment, else false
    prefer_free_models: Annotated[bool | None, FLAG] = None  # openrouter: free first; None: environment, else true
    max_cost_per_token: Annotated[Decimal | None, AMOUNT] = None  # openrouter, USD; None: environment, else 0.001
    routes: Annotated[tuple[str, ...], URL_PATHS] = ()  # paths that this upstream serves; empty: its kind's
    # Whether streams are asked for their usage also where the caller does not ask. None ("auto"): the kind's own habit.
    stream_usage: Annotated[bool | None, AUTO_FLAG] = None
    refresh_s: Annotated[float | None, LIMIT] = None  # None: 10 s on this machine's network, 300 s elsewhere
    max_concurrent: Annotated[int, whole(0)] = 0  # requests at once; 0: no limit, upstreams have their own
    queue_s: Annotated[float, LIMIT] = 60.0  # for a place under max_concurrent: longer than one usual answer
    connect_timeout_s: Annotated[float, LIMIT] = 5.0  # three SYN retries (1, 3, 7 s) would outlast a caller's interest
    first_byte_s: Annotated[float, LIMIT] = 600.0  # a long prompt on a slow machine is silent for minutes
    idle_s: Annotated[float, LIMIT] = 300.0  # between two pieces of an answer; reasoning models pause for minutes
    total_s: Annotated[float, NEVER_LIMIT] = NEVER  # a whole answer; agents' answers may run for an hour


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[models.NAME]: a name clients ask for, its route, and how its engine is started."""

    targets: Annotated[tuple[str, ...], STRINGS] = ()  # "provider/upstream-name"; `load` puts ("local/NAME",) for none
    aliases: Annotated[tuple[str, ...], STRINGS] = ()
    pinned: Annotated[bool, FLAG] = False
    idle_s: Annotated[float | None, NEVER_OK] = None  # None: as [residency] says
    memory: Annotated[Mapping[str, int] | None, FOOTPRINT] = None  # {device: bytes}; None: estimated, then learned
    source: Annotated[str, TEXT] = ""  # "embedded", "pypi:…", or (after `load`) an absolute path
    context: Annotated[int, whole(1)] = 4096  # tokens per slot: holds a chat, and a cache that fits small machines
    slots: Annotated[int, whole(1)] = 1  # a cache per slot: more cost memory, and one user needs one
    threads: Annotated[int, whole(0)] = 0  # 0: the cores are split between the residents
    device: Annotated[str, DEVICE] = "ram"  # `load` puts the provider's where the model names none
    command: Annotated[tuple[str, ...], ARGV] = ()  # instead of the provider's
    args: Annotated[tuple[str, ...], ARGV] = ()  # appended to the provider's
    load_timeout_s: Annotated[float | None, LIMIT] = None  # None: as [residency] says
    # Of requests for this model, name → JSON; see gateway/proxy/policy.py. A name stands in one of the three.
    defaults: Annotated[Mapping[str, bytes], PARAMETERS] = {}  # where the caller says nothing
    forced: Annotated[Mapping[str, bytes], PARAMETERS] = {}  # whatever the caller says
    dropped: Annotated[tuple[str, ...], PARAMETER_NAMES] = ()  # taken out: what the upstream would refuse
    system_prompt: Annotated[str, TEXT] = ""  # before the caller's own


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What [keys.NAME] and [tenants.NAME] have in common: how much may be used, and of which models. Nothing: all there is."""

    models: Annotated[tuple[str, ...], STRINGS] = ()  # patterns of public names, "*" and "?"; none: all
    rpm: Annotated[int, whole(0)] = 0  # requests in any 60 s; 0: no limit
    tpm: Annotated[int, whole(0)] = 0  # tokens in any 60 s, prompt and answer together; 0: no limit
    concurrent: Annotated[int, whole(0)] = 0  # requests at once; 0: no limit
    budget_usd_day: Annotated[Decimal | None, BUDGET] = None  # per UTC day
    budget_usd_month: Annotated[Decimal | None, BUDGET] = None  # per calendar month, UTC


class KeyConfig(LimitsConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[keys.NAME]: a key with a name, and what it may. Where there is one, nobody comes in without a key."""

    key: Annotated[Secret, SECRET]
    admin: Annotated[bool, FLAG] = False  # a key with limits that could lift them itself would have none
    tenant: Annotated[str, TENANT] = ""  # to whom all of its use belongs
    tenants: Annotated[tuple[str, ...], TENANTS] = ()  # whom it has to name in X-Tenant-ID; "*": any
    expires: Annotated[float | None, MOMENT] = None  # seconds since the epoch
    capture: Annotated[bool, FLAG] = False  # what people write is nobody's business unless the operator says so


class TenantConfig(LimitsConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tenants.NAME]: to whom use belongs; its limits hold for all of its keys together."""

    display_name: Annotated[str, TEXT] = ""


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[ledger]: what is kept of every request, and where."""

    enabled: Annotated[bool, FLAG] = True
    # None: $DATABASE_URL where it names a database of a kind we know, else SQLite in state_dir; may hold a password
    url: Annotated[Secret | None, DATABASE_URL] = None
    retention_days: Annotated[int, whole(0)] = 90  # 0: for ever; a quarter's bill can still be explained
    buffer_rows: Annotated[int, whole(1)] = 20_000  # held while the database is away: about 20 MB
    capture_max_bytes: Annotated[int, SIZE_FORM] = 64 * 1024  # of each body, where a key's bodies are kept at all


def _local_provider() -> dict[str, ProviderConfig]:
    return {LOCAL: ProviderConfig(kind="llama_cpp")}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration. The tables are the file's; the fields below them are what `load` found out."""

    server: Server = Server()
    memory: Memory = Memory()
    residency: ResidencyConfig = ResidencyConfig()
    providers: Mapping[str, ProviderConfig] = msgspec.field(default_factory=_local_provider)  # "local" is always there
    models: Mapping[str, ModelConfig] = {}
    keys: Mapping[str, KeyConfig] = {}
    tenants: Mapping[str, TenantConfig] = {}
    ledger: LedgerConfig = LedgerConfig()

    path: Path | None = None  # the file it came from; None: built-in defaults
    # Target of an engine kind → the name of the model whose keys define that engine.
    engines: Mapping[str, str] = {}
    # Environment variables that were put into secrets: engines are started without them.
    secret_env: frozenset[str] = frozenset()
    # Providers that nobody wrote down: looked for, and shown only once they have answered.
    discovered: frozenset[str] = frozenset()
    # Key as TOML writes it → where its value was written: file | environment (a variable in the file) | command line.
    sources: Mapping[str, str] = {}


def split_target(target: str) -> tuple[str, str]:
    """("provider", "upstream-name") of "provider/upstream-name"; the upstream's name may itself hold slashes.

    Raises: ValueError: one of the two is empty or the slash is missing.
    """
    provider, slash, upstream = target.partition("/")
    if not (provider and slash and upstream):
        raise ValueError(target)
    return provider, upstream
