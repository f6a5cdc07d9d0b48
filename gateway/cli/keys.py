"""`roundhouse keys`: make, list, take back the keys of a running gateway.

The law: a key is printed once, alone on stdout, by the command that made it; whatever else is said goes to stderr.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from gateway.access.secret import is_key

from . import show
from .reach import gateway_at, with_gateway
from .remote import Remote
from .words import printable

_BUDGET = "USD, exact: 12.50."


class _Key(msgspec.Struct, frozen=True):
    """One of /admin/keys' keys, as far as it is shown."""

    id: str
    name: str
    prefix: str = ""
    tenant: str = ""
    tenants: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    rpm: int = 0
    tpm: int = 0
    concurrent: int = 0
    budget_usd_day: str | None = None
    budget_usd_month: str | None = None
    expires: str | None = None
    admin: bool = False
    source: str = ""
    revoked: str | None = None


class _Keys(msgspec.Struct, frozen=True):
    keys: tuple[_Key, ...]


class _Made(msgspec.Struct, frozen=True):
    id: str
    name: str
    key: str


def not_empty(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A variable of the shell that is not set would make a key that may do everything."""
    if value is not None and not any(part.strip() for part in value.split(",")):
        raise click.BadParameter("it is empty; leave the option out for no restriction")
    return value


def _id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A key that is taken for its id would stand in addresses and logs."""
    if is_key(value):
        raise click.BadParameter("this is a key itself, not its id; `roundhouse keys list` shows the ids")
    return value


class _Session(msgspec.Struct, frozen=True):
    needed: bool = True


@click.group()
def keys() -> None:
    """Make, list and take back keys for this gateway's callers.

    They are kept in the gateway's database, as digests only. Those in the configuration are listed, too, but changed there.
    """


@keys.command()
@click.argument("name")
@click.option("--tenant", callback=not_empty, metavar="ID", help="To whom all of its use belongs.")
@click.option("--tenants", callback=not_empty, metavar="ID,ID", help="Whom it has to name in X-Tenant-ID; '*' for any.")
@click.option(
    "--models",
    callback=not_empty,
    metavar="PATTERN,PATTERN",
    help="Which models it may ask for: 'smollm2,gpt-*'. Default: all.",
)
@click.option("--rpm", type=click.IntRange(0), help="Requests in any 60 seconds.")
@click.option("--tpm", type=click.IntRange(0), help="Tokens in any 60 seconds, prompt and answer together.")
@click.option("--concurrent", type=click.IntRange(0), help="Requests at once.")
@click.option("--budget-day", "budget_usd_day", metavar="USD", help=f"Per UTC day. {_BUDGET}")
@click.option("--budget-month", "budget_usd_month", metavar="USD", help=f"Per calendar month, UTC. {_BUDGET}")
@click.option("--expires", metavar="DATE", help="Its last day (UTC): 2027-01-31; or a moment: 2027-01-31T12:00:00Z.")
@click.option("--admin", is_flag=True, help="It opens /admin and the dashboard, too.")
@click.option("--capture", is_flag=True, help="Keep the bodies of its requests and answers in the ledger.")
@with_gateway
def create(name: str, url: str | None, config_path: Path | None, **wanted: object) -> None:
    """Make a key called NAME, and print it. It is shown only now."""
    for several in ("tenants", "models"):
        if isinstance(written := wanted[several], str):
            wanted[several] = [part.strip() for part in written.split(",") if part.strip()]
    body = {"name": name, **{key: value for key, value in wanted.items() if value not in (None, False)}}
    with gateway_at(url, config_path) as gateway:
        _tell(gateway, gateway.send("POST", "/admin/keys", body), "made")
        if not gateway.decoded(gateway.get("/admin/session"), _Session).needed:
            click.echo(
                "This gateway asks nobody for a key, and who sends none has no limits: set [server] api_keys or a "
                "[keys.NAME] table to change that.",
                err=True,
            )


@keys.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="The API's own JSON.")
@click.option("--all", "with_revoked", is_flag=True, help="The revoked ones, too.")
@with_gateway
def list_keys(as_json: bool, with_revoked: bool, url: str | None, config_path: Path | None) -> None:
    """List keys, and what each may. The keys themselves are shown to nobody."""
    with gateway_at(url, config_path) as gateway:
        body = gateway.get("/admin/keys")
        if as_json:
            click.echo(body)
            return
        found = [key for key in gateway.decoded(body, _Keys).keys if with_revoked or key.revoked is None]
        if not found:
            click.echo("there are no keys; make one with `roundhouse keys create NAME`")
            return
        columns = ("ID", "NAME", "KEY", "TENANT", "MODELS", "LIMITS", "EXPIRES", "STATE")
        show.put(show.table(columns, map(_row, found)))


@keys.command()
@click.argument("key_id", metavar="ID", callback=_id)
@with_gateway
def revoke(key_id: str, url: str | None, config_path: Path | None) -> None:
    """Take a key back: nobody is let in with it from now on."""
    with gateway_at(url, config_path) as gateway:
        gateway.send("DELETE", _path(key_id))
    click.echo(f"{printable(key_id)} is revoked")


@keys.command()
@click.argument("key_id", metavar="ID", callback=_id)
@with_gateway
def rotate(key_id: str, url: str | None, config_path: Path | None) -> None:
    """Print a new key in place of the former one, which is refused from now on. Everything else about it stays."""
    with gateway_at(url, config_path) as gateway:
        _tell(gateway, gateway.send("POST", _path(key_id) + "/rotate"), "made anew")


def _path(key_id: str) -> str:
    return f"/admin/keys/{quote(key_id, safe='')}"


def _tell(gateway: Remote, body: bytes, what: str) -> None:
    made = gateway.decoded(body, _Made)
    click.echo(f"{printable(made.name)} ({made.id}) is {what}; the key is shown only now:", err=True)
    click.echo(made.key)


def _row(key: _Key) -> tuple[str, ...]:
    tenant = key.tenant or (f"names {', '.join(key.tenants)}" if key.tenants else "-")
    limits = {
        f"{key.rpm}/min": key.rpm,
        f"{key.tpm} tokens/min": key.tpm,
        f"{key.concurrent} at once": key.concurrent,
        f"{key.budget_usd_day} USD/day": key.budget_usd_day,
        f"{key.budget_usd_month} USD/month": key.budget_usd_month,
    }
    state = "revoked" if key.revoked else "admin" if key.admin else "ok"
    return (
        key.id,
        key.name,
        key.prefix or ("configuration" if key.source == "config" else "-"),
        tenant,
        ", ".join(key.models) or "all",
        _said(limits),
        key.expires or "never",
        state,
    )


def _said(limits: Mapping[str, object]) -> str:
    return ", ".join(words for words, value in limits.items() if value) or "none"
