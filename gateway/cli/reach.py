"""Which gateway a command asks, and with which key.

The law: the configuration's key is sent to this machine or to the configured host, nowhere else, and is never printed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from config.load import is_loopback
from config.schema import Config, Server

from .refusals import BadConfiguration
from .remote import Remote
from .settings import configuration, with_config

KEY_VARIABLE = "ROUNDHOUSE_ADMIN_KEY"
_Command = TypeVar("_Command", bound=Callable[..., Any])

_with_url = click.option(
    "--url",
    envvar="ROUNDHOUSE_URL",
    show_envvar=True,
    metavar="URL",
    help="The gateway to ask. Default: the configured host and port.",
)


def with_gateway(command: _Command) -> _Command:
    """--url and --config; the command's function gets `url` and `config_path`, for `gateway_at`."""
    return _with_url(with_config(command))


def gateway_at(url: str | None, config_path: Path | None) -> Remote:
    """The gateway meant by --url and --config; close it. Raises: click.UsageError, BadConfiguration."""
    key = _key_of_environment()
    if url is None:
        config = configuration(config_path)
        base = _address(config.server)
    else:
        base = _checked(url)
        config = None if key else _configuration_for_key(config_path)
    return Remote(base, key or (_key_of(config, base) if config else ""))


def _configuration_for_key(path: Path | None) -> Config | None:
    """With the address given, a configuration nobody asked for may be unusable from this shell (variables not set)."""
    if path is not None:
        return configuration(path)
    with contextlib.suppress(BadConfiguration):
        return configuration(None)
    return None


def _key_of_environment() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isprintable():  # it would end up, quoted, in the HTTP library's complaint
        raise click.UsageError(f"{KEY_VARIABLE} holds characters that no key has")
    return key


def _key_of(config: Config, base: str) -> str:
    host = urlsplit(base).hostname or ""
    server = config.server
    keys = server.admin_keys or tuple(key.key for key in config.keys.values() if key.admin) or server.api_keys
    return keys[0].reveal() if keys and (is_loopback(host) or host == server.host.lower()) else ""


def _address(server: Server) -> str:
    if server.port == 0:
        raise click.UsageError("server.port is 0 (any free port): say with --url where the gateway listens")
    # "all interfaces" is no address to connect to
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - replaced, not bound
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def _checked(url: str) -> str:
    """Without the /v1 that clients are given. Raises: click.UsageError."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a broken IPv6 address
        valid = False
    if not valid or "@" in url or "?" in url or "#" in url or not url.isprintable() or " " in url:
        raise click.UsageError(
            f"--url: expected an address such as http://127.0.0.1:8080 without user and query (the key goes into "
            f"${KEY_VARIABLE})"
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
