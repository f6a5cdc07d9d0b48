"""`roundhouse tenants`: to whom use belongs, in a running gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from . import show
from .keys import not_empty
from .reach import gateway_at, with_gateway
from .words import count_text, printable

_NAMES = "ID is 3 to 50 of a-z, 0-9 and -."


_OPTIONS = (
    click.option("--display-name", metavar="TEXT", help="How it is shown."),
    click.option(
        "--models",
        callback=not_empty,
        metavar="PATTERN,PATTERN",
        help="Which models its keys may ask for. Default: all.",
    ),
    click.option("--rpm", type=click.IntRange(0), help="Requests in any 60 seconds; 0: no limit."),
    click.option("--tpm", type=click.IntRange(0), help="Tokens in any 60 seconds; 0: no limit."),
    click.option("--concurrent", type=click.IntRange(0), help="Requests at once; 0: no limit."),
    click.option("--budget-day", "budget_usd_day", metavar="USD", help="Per UTC day, exact; 'none': no limit."),
    click.option("--budget-month", "budget_usd_month", metavar="USD", help="Per calendar month, UTC, exact; 'none'."),
)


def _with_terms(command: Callable[..., None]) -> Callable[..., None]:
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def _said(wanted: Mapping[str, object]) -> dict[str, object]:
    """As the gateway reads it: null takes a limit away."""
    said = {key: None if value == "none" else value for key, value in wanted.items() if value is not None}
    if isinstance(written := said.get("models"), str):
        said["models"] = [part.strip() for part in written.split(",") if part.strip()]
    return said


class _Tenant(msgspec.Struct, frozen=True):
    """One of /admin/tenants' tenants, as far as it is shown."""

    id: str
    display_name: str = ""
    source: str = ""
    keys: int = 0


class _Tenants(msgspec.Struct, frozen=True):
    tenants: tuple[_Tenant, ...]


@click.group()
def tenants() -> None:
    """Make, list and delete tenants: to whom use belongs, and whose limits hold for all of their keys together."""


@tenants.command(epilog=_NAMES)
@click.argument("tenant_id", metavar="ID")
@_with_terms
@with_gateway
def create(tenant_id: str, url: str | None, config_path: Path | None, **wanted: object) -> None:
    """Make a tenant called ID."""
    body = {"id": tenant_id, **_said(wanted)}
    with gateway_at(url, config_path) as gateway:
        made = gateway.decoded(gateway.send("POST", "/admin/tenants", body), _Tenant)
    click.echo(f"tenant {printable(made.id)} is made")


@tenants.command()
@click.argument("tenant_id", metavar="ID")
@_with_terms
@with_gateway
def change(tenant_id: str, url: str | None, config_path: Path | None, **wanted: object) -> None:
    """Change what is given of a tenant. What is not given stays, and what it has used goes on counting."""
    body = _said(wanted)
    if not body:
        raise click.UsageError("say what is to be changed")
    with gateway_at(url, config_path) as gateway:
        gateway.send("PATCH", f"/admin/tenants/{quote(tenant_id, safe='')}", body)
    click.echo(f"tenant {printable(tenant_id)} is changed")


@tenants.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="The API's own JSON.")
@with_gateway
def list_tenants(as_json: bool, url: str | None, config_path: Path | None) -> None:
    """List tenants."""
    with gateway_at(url, config_path) as gateway:
        body = gateway.get("/admin/tenants")
        if as_json:
            click.echo(body)
            return
        found = gateway.decoded(body, _Tenants).tenants
    if not found:
        click.echo("there are no tenants; make one with `roundhouse tenants create ID`")
        return
    rows = ((it.id, it.display_name, count_text(it.keys, "key"), it.source) for it in found)
    show.put(show.table(("ID", "NAME", ">KEYS", "FROM"), rows))


@tenants.command()
@click.argument("tenant_id", metavar="ID")
@click.option("--force", is_flag=True, help="Revoke its keys, too.")
@with_gateway
def delete(tenant_id: str, force: bool, url: str | None, config_path: Path | None) -> None:
    """Delete a tenant. What it has used stays in the ledger."""
    with gateway_at(url, config_path) as gateway:
        path = f"/admin/tenants/{quote(tenant_id, safe='')}"
        gateway.send("DELETE", path + ("?force=true" if force else ""))
    click.echo(f"tenant {printable(tenant_id)} is deleted")
