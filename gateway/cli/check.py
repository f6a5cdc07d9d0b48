"""`roundhouse check`: whether the configuration can be used, without starting anything."""

from __future__ import annotations

import random
import time
from pathlib import Path

import click

from config.load import ConfigError
from config.schema import Config
from gateway import assembly
from providers.errors import ProviderError
from providers.remote import Site
from providers.warden import Warden

from .refusals import BadConfiguration
from .settings import configuration, with_config
from .words import count_text, printable, size_text


@click.command()
@with_config
def check(config_path: Path | None) -> None:
    """Say whether the configuration can be used.

    One line: what is configured, or which file and key is wrong and what was expected there (exit code 2). Secrets
    must be in the environment, as they must be for `serve`. Starts nothing and asks nobody.
    """
    config = configuration(config_path)
    try:
        models = assembly.models_of(config)
        specs = assembly.specs_of(config, models)
        assembly.catalog_of(config, models, 0)
        warden = Warden()
        config = assembly.with_addresses(config, assembly.hosted_of(config, warden, time.monotonic, random.random))
        assembly.providers_of(config, specs, warden, Site(state_dir=config.server.state_dir))
    except (ConfigError, ProviderError) as error:
        raise BadConfiguration(str(error)) from None
    where = printable(str(config.path)) if config.path else "no configuration file, built-in defaults"
    found = "" if config.models else f" found in {printable(str(config.server.models_dir))}"
    written = len(config.providers.keys() - config.discovered)
    counts = f"{count_text(len(models), 'model')}{found}, {count_text(written, 'provider')}"
    click.echo(f"ok: {where}: {counts}, budget {_budget_text(config)}")


def _budget_text(config: Config) -> str:
    sizes = dict(config.memory.devices)
    if config.memory.budget is not None:
        sizes.setdefault("ram", config.memory.budget)
    fixed = [f"{device} {size_text(size)}" for device, size in sizes.items()]
    return ", ".join(fixed if "ram" in sizes else ["auto", *fixed])
