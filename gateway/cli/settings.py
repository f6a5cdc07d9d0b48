"""Which configuration a command works with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from config.load import ConfigError, find_config, load
from config.schema import Config

from .refusals import BadConfiguration

with_config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration. Default: $ROUNDHOUSE_CONFIG, ./roundhouse.toml, ~/.config/roundhouse/roundhouse.toml, or "
    "none: every model in the models folder is served.",
)


def configuration(path: Path | None, *, host: str | None = None, port: int | None = None) -> Config:
    """The configuration in force. Raises: BadConfiguration."""
    try:
        found = find_config(path, os.environ, Path.cwd(), Path.home())
        return load(found, os.environ, host=host, port=port)
    except ConfigError as error:
        raise BadConfiguration(str(error)) from None
