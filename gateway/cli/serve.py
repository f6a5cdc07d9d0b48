"""`roundhouse serve`: the gateway itself, and the hint that gets a first answer out of it.

The law: whatever keeps it from starting is one line on stderr; a usable line is printed once requests are taken.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path

import click

from config.load import ConfigError
from config.schema import Config
from gateway.app import Gateway
from gateway.routing.catalog import Model
from gateway.serving import PortTaken, run
from providers.errors import ProviderError
from providers.fetch import EMBEDDED, FetchError, source_path

from .logs import FORMS, LEVELS, log_to_stderr
from .refusals import BadConfiguration, Failed
from .settings import configuration, with_config
from .words import count_text

_PREFERRED = "default"


@click.command()
@with_config
@click.option(
    "--host", metavar="HOST", help="In place of server.host. Anything but loopback needs server.api_keys or [keys]."
)
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="In place of server.port. 0: any free port.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What stderr is told.")
@click.option("--log", "form", type=click.Choice(FORMS), envvar="ROUNDHOUSE_LOG", help="In place of server.log.")
@click.option("--pull", "fetch", is_flag=True, help="First fetch the embedded model, where it is wanted and missing.")
def serve(
    config_path: Path | None, host: str | None, port: int | None, log_level: str, form: str | None, fetch: bool
) -> None:
    """Start the gateway and serve until a signal comes.

    Without a configuration every GGUF file in the models folder is served on http://127.0.0.1:8080/v1. The first
    SIGTERM or Ctrl-C lets running answers end and stops the engines; a second one ends at once.
    """
    config = configuration(config_path, host=host, port=port)
    log_to_stderr(log_level, form or config.server.log)
    if fetch:
        _fetch_embedded(config)

    def announce(parts: Gateway, address: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads our stdout: no reason not to serve
            click.echo(_hint(config, parts, address))

    try:
        run(config, announce)
    except (ConfigError, ProviderError) as error:
        raise BadConfiguration(str(error)) from None
    except PortTaken as error:
        raise Failed(str(error)) from None


def _fetch_embedded(config: Config) -> None:
    """Not getting it is no reason not to serve what is there."""
    wanted = not config.models or any(model.source == "embedded" for model in config.models.values())
    folder = config.server.models_dir
    if wanted and not source_path(EMBEDDED, folder).is_file():
        from .pull import fetch_into  # noqa: PLC0415 - its progress bar costs every start a tenth of a second

        try:
            fetch_into(folder, "embedded")
        except FetchError as error:
            click.echo(f"the embedded model could not be fetched: {error.message}", err=True)


def _hint(config: Config, parts: Gateway, address: str) -> str:
    """Two lines: where it is, and what to try."""
    # "all interfaces" is no address to connect to
    base = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:") + "/v1"
    models = parts.directory.catalog.models
    first = f"Roundhouse takes requests at {base} ({count_text(len(models), 'model')})"
    usable = [model for model in models if _is_there(config, parts, model)]
    if not usable:
        lacking = f"the weights of '{models[0].name}' are not there" if models else "no model is there yet"
        folder = config.server.models_dir
        return f"{first}\n{lacking}: run `roundhouse pull`, or put a GGUF file into {folder}; then start anew"
    name = next((_PREFERRED for model in usable if _PREFERRED in (model.name, *model.aliases)), usable[0].name)
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]}, ensure_ascii=False)
    key = (
        ' -H "Authorization: Bearer $ROUNDHOUSE_KEY"'
        if config.server.api_keys or config.server.admin_keys or config.keys
        else ""
    )
    asked = f"curl {base}/chat/completions -H 'content-type: application/json'{key} -d {shlex.quote(body)}"
    return f"{first}\nTry: {asked}"


def _is_there(config: Config, parts: Gateway, model: Model) -> bool:
    """Whether its preferred target can be loaded at all; of a remote one nothing is known."""
    target = model.targets[0]
    managed = parts.residency.managed.get(target.key)
    if managed is None or managed.spec.source is None or config.providers[target.provider].kind != "llama_cpp":
        return True
    return managed.spec.source.exists()
