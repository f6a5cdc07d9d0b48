"""`roundhouse rm`: deletes models from a provider's own disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from config.schema import Config
from providers.errors import ProviderError
from providers.fetch import FetchError

from . import upstreams
from .refusals import Failed
from .settings import configuration, with_config
from .wanted import File, Upstream, Wanted, understood, written
from .words import printable


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="PROVIDER/MODEL...")
@with_config
def rm(names: tuple[str, ...], config_path: Path | None) -> None:
    """Delete models from a provider's own disk.

    ollama/llama3.2:1b, for example. There is no question first; only fetching it again undoes it. Weights in the
    models folder are plain files: delete those yourself.
    """
    config = configuration(config_path)
    try:
        wanted = [understood(name, config.server.models_dir, lambda: config) for name in names]
    except FetchError as error:
        raise Failed(error.message) from None
    asyncio.run(_all(wanted, config))


async def _all(wanted: list[Wanted], config: Config) -> None:
    """The first that cannot be deleted ends it. Raises: Failed."""
    for item in wanted:
        if not isinstance(item, Upstream):
            where = f": it is {item.path}" if isinstance(item, File) else ""
            raise Failed(f"'{written(item)}' is no provider's model; delete the file yourself{where}")
    for item in wanted:
        assert isinstance(item, Upstream)
        try:
            async with upstreams.puller(config, item.provider) as (_, disk):
                await disk.delete(item.name)
        except ProviderError as error:
            raise Failed(error.message) from None
        click.echo(f"{printable(written(item))} is deleted")
