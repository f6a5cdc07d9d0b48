"""`roundhouse models`: what may be asked for."""

from __future__ import annotations

from pathlib import Path

import click

from . import show
from .answers import ModelEntry, ModelList
from .reach import gateway_at, with_gateway
from .words import footprint_text


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The API's own JSON.")
@with_gateway
def models(as_json: bool, url: str | None, config_path: Path | None) -> None:
    """List what may be asked for, and where it stands.

    A name, an alias or a target may stand in a request's "model". STATE is "cold" for a model that is loaded when it is
    asked for, "remote" for one that another server holds. SIZE is what it holds in memory now. Listing loads nothing.
    """
    with gateway_at(url, config_path) as gateway:
        body = gateway.get("/v1/models")
        if as_json:
            click.echo(body)
            return
        entries = gateway.decoded(body, ModelList).data
    if not entries:
        click.echo("no model is there yet: `roundhouse pull` fetches one, then start the gateway anew")
        return
    columns = ("MODEL", "ALIASES", "STATE", "SIZE", ">CONTEXT", "PINNED", "TARGETS")
    show.put(show.table(columns, map(_row, entries)))


def _row(entry: ModelEntry) -> tuple[str, ...]:
    stands = entry.roundhouse
    return (
        entry.id,
        ", ".join(stands.aliases) or "-",
        stands.state,
        footprint_text(stands.bytes) if stands.bytes else "-",
        str(stands.context_length or "-"),
        "yes" if stands.pinned else "-",
        ", ".join(stands.targets),
    )
