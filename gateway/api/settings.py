"""`/admin/config`: every key of the configuration, what it is, and where that was written.

The law: no secret leaves, nor a part of one: a key whose form is secret says `set` or nothing, and in command lines what follows a
flag that is named like a secret is hidden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from config.forms import Secret
from config.load import dotted, forms
from config.schema import Config
from gateway.metering.capture import masked
from providers.pricing import plain

HIDDEN = "***"
# `load` fills these in where nobody has written them; where they are more than their default says, a variable was found.
_FOUND = frozenset(("api_key", "proxy", "url"))
_FOLDERS: Mapping[str, str] = {
    "server.models_dir": "ROUNDHOUSE_MODELS_DIR",
    "server.state_dir": "ROUNDHOUSE_STATE_DIR",
}
# These change a model's meaning where they stand as the command line of an engine: a flag that wants something secret.
_SECRET_FLAG = re.compile(
    r"(?i)^-{0,2}([\w.-]*(key|token|secret|password|passwd|credential)[\w.-]*|hft)(?P<value>=.*)?$"
)
_ENVIRONMENT_FLAG = re.compile(r"^-{1,2}")


class Value(msgspec.Struct, frozen=True):
    """One key."""

    key: str
    value: (
        Any  # as JSON can say it; durations in seconds ("never"), sizes in bytes; null: not set, or found out by itself
    )
    source: str  # default | file | environment | command line
    secret: bool


def values_of(config: Config, environ: Mapping[str, str]) -> Iterator[Value]:
    """In the schema's order. Of tables with names ([models.NAME]) empty keys that nobody wrote are left out.

    Args:
        environ: as `load` had it: whether a folder came from there.
    """
    for name in config.__struct_fields__:
        table = getattr(config, name)
        if isinstance(table, msgspec.Struct):
            yield from _table(config, (name,), table, environ)
        elif isinstance(table, Mapping):
            for item, named in cast("Mapping[str, object]", table).items():
                if isinstance(named, msgspec.Struct):
                    values = _table(config, (name, item), named, environ)
                    yield from (value for value in values if value.source != "default" or not _is_empty(value.value))


def _table(config: Config, key: tuple[str, ...], table: msgspec.Struct, environ: Mapping[str, str]) -> Iterator[Value]:
    known = forms(type(table))
    for field in msgspec.structs.fields(type(table)):
        value = getattr(table, field.name)
        where = dotted(*key, field.name)
        form = known[field.name]
        if form.secret:
            said: Any = "set" if value else None
        elif form.argv:
            said = _without_secrets(value)
        else:
            said = _said(value)
        yield Value(where, said, _source(config, where, field, value, environ), form.secret)


def _source(
    config: Config, where: str, field: msgspec.structs.FieldInfo, value: object, environ: Mapping[str, str]
) -> str:
    written = config.sources.get(where)
    if written is not None:
        return written
    if where in _FOLDERS:
        return "environment" if environ.get(_FOLDERS[where]) else "default"
    return "environment" if field.name in _FOUND and value is not None and value != field.default else "default"


def _is_empty(value: object) -> bool:
    return value is None or value == [] or value == {} or value == ""


def _said(value: object) -> Any:
    match value:
        case float() if math.isinf(value):
            return "never"
        case Decimal():
            return plain(value)
        case Path():
            return str(value)
        case Secret():
            return "set"
        case bytes():  # JSON, as [models.NAME.defaults] keeps it
            return msgspec.json.decode(value)
        case Mapping():
            return {str(key): _said(item) for key, item in cast("Mapping[object, object]", value).items()}
        case tuple() | list() | frozenset():
            return [_said(item) for item in cast("Sequence[object]", value)]
        case _:
            return value


def _without_secrets(argv: Sequence[str]) -> list[str]:
    """`--api-key X`, `--token=X` and `HF_TOKEN=X`: without X."""
    shown: list[str] = []
    hides_next = False
    for part in argv:
        flag = _SECRET_FLAG.match(part)
        if hides_next and not _ENVIRONMENT_FLAG.match(part):
            shown.append(HIDDEN)
            hides_next = False
        elif flag is not None and flag["value"] is not None:
            shown.append(f"{part[: flag.start('value')]}={HIDDEN}")
            hides_next = False
        else:
            shown.append(masked(part))
            hides_next = flag is not None and part.startswith("-")
    return shown


def settings_routes(config: Config, environ: Mapping[str, str]) -> list[HTTPRouteHandler]:
    """Needs an admin's key where keys are configured. Written once: the configuration does not change while we run."""
    written: list[bytes] = []

    @get("/admin/config", sync_to_thread=False)
    def read_config() -> Response[bytes]:
        if not written:
            path = None if config.path is None else str(config.path)
            written.append(msgspec.json.encode({"path": path, "values": list(values_of(config, environ))}))
        return Response(written[0], media_type="application/json")

    return [read_config]
