"""What `/admin/keys` and `/admin/tenants` read and write: the configuration's own keys and forms, as JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import msgspec
from litestar import Request

from config.forms import Mismatch, is_tenant_id
from config.load import NAME_CHARS_MAX, forms
from config.schema import KeyConfig, LimitsConfig
from gateway.access.door import Access
from gateway.access.terms import KeyRecord, TenantRecord, Terms
from gateway.errors import BodyTooLarge, InvalidRequest

DISPLAY_NAME_MAX = 100
BODY_MAX_BYTES = 1 << 20  # a key with a thousand patterns has some ten thousand
_SHOWN_CHARS = 64  # of a field's name that nobody knows
_AMOUNTS = frozenset(("budget_usd_day", "budget_usd_month"))
_NO_TERMS = Terms()
# a number with a point as it is written: a float would round it
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


async def said(request: Request[Any, Any, Any], bytes_max: int = BODY_MAX_BYTES) -> dict[str, object]:
    """The body, a JSON object; nothing is as good as {}. Raises: InvalidRequest, BodyTooLarge."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise BodyTooLarge(f"The body is larger than {bytes_max} bytes, which is more than there is to say here")
    try:
        return _decode(body) if body else {}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body must be a JSON object: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body must be a JSON object: this is nested too deeply", code="invalid_json") from None


def read(wanted: Mapping[str, object], table: type[LimitsConfig], more: frozenset[str]) -> dict[str, Any]:
    """What is said, ready to use; null is as good as nothing. Raises: InvalidRequest.

    Args:
        table: the configuration's, whose forms hold here, too.
        more: what else may be said.
    """
    known = {name: form for name, form in forms(table).items() if not form.secret}
    found: dict[str, Any] = {}
    for name, value in wanted.items():
        if name not in known and name not in more:
            shown = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "…"
            raise InvalidRequest(f"'{shown}' is not known here: there are {', '.join((*more, *known))}", param=shown)
        if value is None:
            continue
        if name in known:
            try:
                value = known[name].read(str(value) if isinstance(value, Decimal) and name in _AMOUNTS else value)
            except Mismatch as wrong:
                expected = wrong.expected or known[name].expected
                raise InvalidRequest(f"{name}: expected {expected}", param=name) from None
        found[name] = value
    return found


def terms_from(found: Mapping[str, Any]) -> Terms:
    """Of what `read` gave."""
    return Terms(**{name: found[name] for name in Terms.__struct_fields__ if name in found})


def changed_terms(former: Terms, wanted: Mapping[str, object], found: Mapping[str, Any]) -> Terms:
    """What is not said stays; null takes a restriction away. `found`: what `read` gave of `wanted`."""
    said_of = {name: found.get(name, getattr(_NO_TERMS, name)) for name in Terms.__struct_fields__ if name in wanted}
    return msgspec.structs.replace(former, **said_of)


def name_from(found: Mapping[str, Any]) -> str:
    """Raises: InvalidRequest."""
    name = found.get("name")
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= NAME_CHARS_MAX
        or not name.isprintable()
        or name != name.strip()
    ):
        raise InvalidRequest(
            f"name: expected 1 to {NAME_CHARS_MAX} printable characters, no blanks at its ends", param="name"
        )
    return name


def tenant_id_from(found: Mapping[str, Any]) -> str:
    """Raises: InvalidRequest."""
    name = found.get("id")
    if not isinstance(name, str) or not is_tenant_id(name):
        raise InvalidRequest("id: expected 3 to 50 of a-z, 0-9 and -", param="id")
    return name


def display_name_from(found: Mapping[str, Any]) -> str:
    """Raises: InvalidRequest."""
    name = cast("str", found.get("display_name", ""))
    if len(name) > DISPLAY_NAME_MAX or not name.isprintable():
        raise InvalidRequest(
            f"display_name: expected at most {DISPLAY_NAME_MAX} printable characters", param="display_name"
        )
    return name


def shown_key(access: Access, record: KeyRecord) -> dict[str, object]:
    """One key, as the dashboard reads it. What is used is told where something is limited; only there it is counted."""
    limited = record.terms.limits() is not None
    return {
        "id": record.id,
        "name": record.name,
        "prefix": record.prefix,
        "tenant": record.tenant,
        "tenants": record.terms.tenants,
        **_limits(record.terms),
        "expires": when(record.expires_s),
        "admin": record.admin,
        "capture": record.terms.capture,
        "source": record.source,
        "created": when(record.created_s),
        "revoked": when(record.revoked_s),
        "used": _used(access, f"key:{record.id}") if limited else None,
    }


def shown_tenant(access: Access, record: TenantRecord) -> dict[str, object]:
    """One tenant."""
    limited = record.terms.limits() is not None
    return {
        "id": record.id,
        "display_name": record.display_name,
        **_limits(record.terms),
        "source": record.source,
        "created": when(record.created_s),
        "keys": len(access.keys_of(record.id)),
        "used": _used(access, f"tenant:{record.id}") if limited else None,
    }


def when(seconds: float | None) -> str | None:
    """2027-01-31T12:00:00Z. Of a moment beyond what a calendar can say: the last one it can."""
    if seconds is None:
        return None
    moment = datetime.max.replace(tzinfo=UTC)
    with contextlib.suppress(OverflowError, ValueError, OSError):
        moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _limits(terms: Terms) -> dict[str, object]:
    day, month = terms.budget_usd_day, terms.budget_usd_month
    return {
        "models": terms.models,
        "rpm": terms.rpm,
        "tpm": terms.tpm,
        "concurrent": terms.concurrent,
        "budget_usd_day": None if day is None else f"{day:f}",
        "budget_usd_month": None if month is None else f"{month:f}",
    }


def _used(access: Access, who: str) -> dict[str, object]:
    used = access.used(who)
    return {**msgspec.structs.asdict(used), "usd_day": f"{used.usd_day:f}", "usd_month": f"{used.usd_month:f}"}


def key_terms(wanted: Mapping[str, object]) -> dict[str, Any]:
    """Of a new key. Raises: InvalidRequest."""
    return read(wanted, KeyConfig, frozenset(("name",)))
