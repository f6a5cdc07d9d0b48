"""From the configuration to the parts: which models there are, how each is loaded, what each provider is. Starts nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from config.load import ConfigError
from config.schema import ENGINE_KINDS, LOCAL, Config, ModelConfig, ProviderConfig, split_target
from gateway.proxy.pipeline import Limits
from gateway.residency.footprints import footprint_key
from gateway.residency.manager import Managed
from gateway.routing.catalog import Catalog, Model, Target
from providers import ENGINES, REMOTES
from providers.contract import EngineSpec, Provider
from providers.fetch import EMBEDDED, source_path
from providers.remote import Site
from providers.warden import Warden

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_ALIASES = ("smollm2", "default")
EMBEDDED_CONTEXT = 2048  # its training context is 8,192; a quarter keeps a first start small
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


def providers_of(
    config: Config, specs: Mapping[str, Mapping[str, EngineSpec]], warden: Warden, site: Site
) -> Mapping[str, Provider]:
    """Every configured provider, built."""
    built: dict[str, Provider] = {}
    for name, provider in config.providers.items():
        if provider.kind in ENGINES:
            engines = ENGINES[provider.kind]
            built[name] = engines(name, specs[name], warden, config.secret_env, provider.binary or None)
        else:
            built[name] = REMOTES[provider.kind](name, provider, site)
    return built


def limits_of(config: Config) -> Mapping[str, Limits]:
    """Provider → how long its upstreams are waited for."""
    return {name: Limits(provider.first_byte_s, provider.idle_s) for name, provider in config.providers.items()}


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


def catalog_of(config: Config, models: Mapping[str, ModelConfig], created: int) -> Catalog:
    """What may be asked for. Raises: ConfigError: a name is given twice."""
    try:
        return Catalog(
            [
                *(
                    Model(
                        name,
                        tuple(_target(config, key) for key in model.targets),
                        model.aliases,
                        model.context,
                        created,
                    )
                    for name, model in models.items()
                ),
                *(Model(key, (_target(config, key),), created=created) for key in _offered(config, models)),
            ]
        )
    except ValueError as error:
        raise ConfigError(config.path or Path("the models folder"), "models", f"unique names; {error}", "") from None


def _offered(config: Config, models: Mapping[str, ModelConfig]) -> Iterator[str]:
    """`provider/model` for each name that a remote provider is configured to offer, unless a model has that name."""
    for name, provider in config.providers.items():
        if provider.kind not in ENGINE_KINDS:
            yield from (key for key in (f"{name}/{model}" for model in provider.models) if key not in models)


def _target(config: Config, key: str) -> Target:
    """llama.cpp's server has one model and takes any name; every other upstream must be told its own."""
    provider_name, upstream_name = split_target(key)
    kind = config.providers[provider_name].kind
    if kind == "llama_cpp":
        return Target(key, provider_name, None)
    if kind == "vllm":
        return Target(key, provider_name, config.engines.get(key, upstream_name))
    return Target(key, provider_name, upstream_name)
