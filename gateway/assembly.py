"""From the configuration to the parts: which models there are, how each is loaded, what each provider is. Starts nothing."""

from __future__ import annotations

import ipaddress
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec.structs import replace

from config.load import ConfigError
from config.presets import is_loopback
from config.schema import ENGINE_KINDS, LOCAL, SERVER_KINDS, Config, ModelConfig, ProviderConfig, split_target
from gateway.proxy.guard import Guard
from gateway.proxy.pipeline import Upstream
from gateway.proxy.policy import Policy
from gateway.residency.footprints import footprint_key
from gateway.residency.lease import Managed
from gateway.residency.memory import DeviceBudget
from gateway.routing.catalog import Catalog, Listing, Model, Target
from gateway.routing.health import Health
from gateway.routing.listings import FAR_EVERY_S, NEAR_EVERY_S, Shelf
from providers import ENGINES, REMOTES
from providers.contract import EngineSpec, Footprint, Offer, Provider, Server
from providers.fetch import EMBEDDED, source_path
from providers.hosted import HostedServer
from providers.ollama_names import canonical
from providers.remote import Site
from providers.warden import Warden

log = logging.getLogger("roundhouse")

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_ALIASES = ("smollm2", "default")
EMBEDDED_CONTEXT = 2048  # its training context is 8,192; a quarter keeps a first start small
# Presets whose API refuses parameters that it does not know, `stream_options` among them; they tell the usage of streams unasked.
_NO_USAGE_OPTION = ("mistral",)
# Parts after the first of a split file, and projectors that belong to another file: no models by themselves.
_NOT_A_MODEL = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$|^mmproj", re.IGNORECASE)


def models_of(config: Config) -> Mapping[str, ModelConfig]:
    """The configured models; where none is, the embedded one and every GGUF in the models folder."""
    if config.models:
        return config.models
    found: dict[str, ModelConfig] = {}
    folder = config.server.models_dir
    embedded = source_path(EMBEDDED, folder)
    if embedded.is_file():
        found[EMBEDDED_NAME] = ModelConfig(
            targets=(f"{LOCAL}/{EMBEDDED_NAME}",),
            aliases=EMBEDDED_ALIASES,
            source=str(embedded),
            context=EMBEDDED_CONTEXT,
        )
    for path in sorted(folder.glob("*.gguf")) if folder.is_dir() else ():
        if path != embedded and not _NOT_A_MODEL.search(path.name):
            found.setdefault(path.stem, ModelConfig(targets=(f"{LOCAL}/{path.stem}",), source=str(path)))
    return found


def specs_of(config: Config, models: Mapping[str, ModelConfig]) -> Mapping[str, Mapping[str, EngineSpec]]:
    """Provider → target → how to start it, for the providers that start engines."""
    specs: dict[str, dict[str, EngineSpec]] = {
        name: {} for name, provider in config.providers.items() if provider.kind in ENGINE_KINDS
    }
    for target, model_name in _definitions(config, models).items():
        provider_name, _ = split_target(target)
        provider = config.providers[provider_name]
        specs[provider_name][target] = _spec(config, target, model_name, models[model_name], provider)
    return specs


def _definitions(config: Config, models: Mapping[str, ModelConfig]) -> Mapping[str, str]:
    if config.models:
        return config.engines
    return {model.targets[0]: name for name, model in models.items()}


def _spec(config: Config, target: str, name: str, model: ModelConfig, provider: ProviderConfig) -> EngineSpec:
    limits = config.residency
    return EngineSpec(
        target=target,
        alias=name,
        source=source_path(model.source, config.server.models_dir) if model.source else None,
        command=model.command or provider.command,
        args=(*provider.args, *model.args),
        env={key: secret.reveal() for key, secret in provider.env.items()},
        context=model.context,
        slots=model.slots,
        threads=model.threads,
        device=model.device,
        declared=model.memory,
        health=provider.health,
        load_timeout_s=limits.load_timeout_s if model.load_timeout_s is None else model.load_timeout_s,
        stop_timeout_s=limits.stop_timeout_s,
    )


def hosted_of(
    config: Config, warden: Warden, clock: Callable[[], float], jitter: Callable[[], float]
) -> Mapping[str, HostedServer]:
    """The servers that we start ourselves. Raises: ConfigError: a command, its placeholders or the address cannot be used."""
    hosted: dict[str, HostedServer] = {}
    for name, provider in config.providers.items():
        if provider.kind in SERVER_KINDS and provider.command:
            try:
                hosted[name] = HostedServer(name, provider, warden, config.secret_env, clock=clock, jitter=jitter)
            except ValueError as error:
                where = config.path or Path("(no configuration file)")
                raise ConfigError(where, f"providers.{name}.command", "what can be started", str(error)) from None
    return hosted


def with_addresses(config: Config, hosted: Mapping[str, HostedServer]) -> Config:
    """With the addresses at which the servers listen that we start ourselves."""
    providers = {
        name: replace(provider, base_url=hosted[name].base_url) if name in hosted else provider
        for name, provider in config.providers.items()
    }
    return replace(config, providers=providers)


def providers_of(
    config: Config, specs: Mapping[str, Mapping[str, EngineSpec]], warden: Warden, site: Site
) -> Mapping[str, Provider]:
    """Every provider, built; one that was only looked for and cannot be built (an odd OLLAMA_HOST) is left out.

    Raises: ConfigError: an address, a proxy or a file of certificates cannot be used.
    """
    built: dict[str, Provider] = {}
    for name, provider in config.providers.items():
        if provider.kind in ENGINES:
            engines = ENGINES[provider.kind]
            built[name] = engines(name, specs[name], warden, config.secret_env, provider.binary or None)
            continue
        try:
            built[name] = REMOTES[provider.kind](name, provider, site)
        except ValueError as error:
            if name not in config.discovered:
                where = config.path or Path("(no configuration file)")
                raise ConfigError(where, f"providers.{name}", "what can be used", str(error)) from None
            log.warning("%s is not looked for: %s", name, error)
    return built


def health_of(providers: Mapping[str, Provider], clock: Callable[[], float]) -> Mapping[str, Health]:
    """A record for each provider that is spoken to over an address of its own."""
    return {name: Health(clock()) for name, provider in providers.items() if provider.kind not in ENGINE_KINDS}


def upstreams_of(
    config: Config,
    providers: Mapping[str, Provider],
    health: Mapping[str, Health],
    clock: Callable[[], float],
    jitter: Callable[[], float],
) -> Mapping[str, Upstream]:
    """Every provider as the data path sees it."""
    upstreams: dict[str, Upstream] = {}
    for name in providers:
        provider = config.providers[name]
        guard = None
        if name in health:
            guard = Guard(
                name,
                health[name],
                max_concurrent=provider.max_concurrent,
                queue_s=provider.queue_s,
                total_s=None if math.isinf(provider.total_s) else provider.total_s,
                clock=clock,
                jitter=jitter,
            )
        upstreams[name] = Upstream(
            providers[name],
            provider.first_byte_s,
            provider.idle_s,
            guard,
            routes=frozenset(path.encode() for path in provider.routes) or providers[name].routes,
            stream_usage=_asks_usage(provider) if provider.stream_usage is None else provider.stream_usage,
            usage_option=provider.preset not in _NO_USAGE_OPTION
            if provider.stream_usage is None
            else provider.stream_usage,
        )
    return upstreams


def _asks_usage(provider: ProviderConfig) -> bool:
    """Not llama.cpp, whose last chunk tells it unasked, with timings that would be hidden with the usage."""
    return provider.kind != "llama_cpp" and provider.preset not in _NO_USAGE_OPTION


def policies_of(models: Mapping[str, ModelConfig]) -> Mapping[str, Policy]:
    """By name, of the models that have one."""
    return {
        name: Policy(
            defaults=model.defaults,
            forced=model.forced,
            dropped=frozenset(model.dropped),
            system_prompt=model.system_prompt,
        )
        for name, model in models.items()
        if model.defaults or model.forced or model.dropped or model.system_prompt
    }


def servers_of(providers: Mapping[str, Provider]) -> Mapping[str, Server]:
    """The providers whose memory residency decides about, though it lies in somebody else's processes."""
    return {name: provider.server for name, provider in providers.items() if provider.server is not None}


def with_servers(config: Config, budgets: Mapping[str, DeviceBudget]) -> dict[str, DeviceBudget]:
    """The budgets of this machine's devices, and of the servers that have memory of their own of a known size."""
    own = {
        name: DeviceBudget(budget_bytes=provider.memory)
        for name, provider in config.providers.items()
        if provider.kind in SERVER_KINDS and provider.memory is not None
    }
    return {**budgets, **own}


def shelves_of(config: Config, providers: Mapping[str, Provider]) -> Mapping[str, Shelf]:
    """The providers that are asked for their catalogue, in the configured order; names that are configured are there at once."""
    shelves: dict[str, Shelf] = {}
    for name in providers:
        provider = config.providers[name]
        if provider.kind in ENGINE_KINDS:
            continue
        near = _is_near(provider.base_url)
        every_s = (NEAR_EVERY_S if near else FAR_EVERY_S) if provider.refresh_s is None else provider.refresh_s
        written = provider.kind in ("openai", "anthropic") and bool(provider.models)
        offers = [Offer(name=model) for model in provider.models] if written else []
        shelves[name] = Shelf(providers[name], every_s, near, near and name in config.discovered, written, offers)
    return shelves


def _is_near(base_url: str) -> bool:
    """An address of this machine or of its own network."""
    host = urlsplit(base_url).hostname or ""
    try:
        return is_loopback(host) or ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa"))


def managed_of(
    config: Config, models: Mapping[str, ModelConfig], providers: Mapping[str, Provider]
) -> Mapping[str, Managed]:
    """Target → how residency brings it into memory."""
    definitions = _definitions(config, models)
    managed: dict[str, Managed] = {}
    for provider in providers.values():
        loader = provider.loader
        if loader is None:
            continue
        for target, spec in loader.specs().items():
            model = models[definitions[target]]
            idle_s = config.residency.idle_s if model.idle_s is None else model.idle_s
            key = footprint_key(provider.kind, spec)
            managed[target] = Managed(loader, spec, key, idle_s=idle_s, pinned=model.pinned)
    return managed


def managed_in_servers(
    config: Config,
    models: Mapping[str, ModelConfig],
    providers: Mapping[str, Provider],
    listings: Iterable[Listing],
) -> Mapping[str, Managed]:
    """Target → how residency brings it into a server's memory: what the servers list, and what the configuration routes to."""
    limits = config.residency
    wanted: dict[str, ModelConfig] = {}
    for model in models.values():
        for key in model.targets:
            wanted.setdefault(_target(config, key).key, model)
    listed = {f"{listing.provider}/{offer.name}" for listing in listings for offer in listing.offers}
    managed: dict[str, Managed] = {}
    for key in (*wanted, *sorted(listed - wanted.keys())):
        name, upstream_name = split_target(key)
        provider = providers[name]
        if provider.server is not None:
            model = wanted.get(key, ModelConfig())
            spec = EngineSpec(
                target=key,
                alias=upstream_name,
                declared=_declared(model, provider.server),
                load_timeout_s=limits.load_timeout_s if model.load_timeout_s is None else model.load_timeout_s,
                stop_timeout_s=limits.stop_timeout_s,
            )
            managed[key] = Managed(
                provider.server,
                spec,
                footprint_key(provider.kind, spec),
                idle_s=limits.idle_s if model.idle_s is None else model.idle_s,
                pinned=model.pinned,
                server=provider.server,
            )
    return managed


def _declared(model: ModelConfig, server: Server) -> Footprint | None:
    """The operator's word on its size; one size counts where that server's models do."""
    if model.memory is None or "" not in model.memory:
        return model.memory
    return server.place(model.memory[""])


def catalog_of(
    config: Config, models: Mapping[str, ModelConfig], created: int, listings: Sequence[Listing] = ()
) -> Catalog:
    """What may be asked for. Raises: ConfigError: a name is given twice."""
    try:
        return Catalog(
            [
                Model(
                    name,
                    tuple(_target(config, key) for key in model.targets),
                    model.aliases,
                    model.context if any(key in config.engines or not config.models for key in model.targets) else None,
                    created,
                )
                for name, model in models.items()
            ],
            listings,
        )
    except ValueError as error:
        raise ConfigError(config.path or Path("the models folder"), "models", f"unique names; {error}", "") from None


def _target(config: Config, key: str) -> Target:
    """llama.cpp's server has one model and takes any name; every other upstream must be told its own."""
    provider_name, upstream_name = split_target(key)
    kind = config.providers[provider_name].kind
    if kind == "ollama":
        upstream_name = canonical(upstream_name)
        return Target(f"{provider_name}/{upstream_name}", provider_name, upstream_name)
    if kind == "llama_cpp":
        return Target(key, provider_name, None)
    if kind == "vllm":
        return Target(key, provider_name, config.engines.get(key, upstream_name))
    return Target(key, provider_name, upstream_name)
