"""`roundhouse ps`: what is in memory, who waits for room, and what is broken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from . import show
from .answers import Device, Residency, Resident
from .reach import gateway_at, with_gateway
from .remote import Remote
from .words import bar, footprint_text, printable, seconds_text, size_text

EVERY_S = 1.0  # a reading costs the gateway well under a millisecond; a person sees no more than this
_BAR_COLUMNS = 20  # with the figures it fits 80 columns
_ASCII, _BLOCKS = "#.x", "█░▒"  # committed, free, strangers


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The API's own JSON; with --watch one document a line.")
@click.option("--watch", is_flag=True, help="Every second anew, until Ctrl-C.")
@with_gateway
def ps(as_json: bool, watch: bool, url: str | None, config_path: Path | None) -> None:
    """Show what is in memory, who waits, and what is broken.

    A device's bar shows what is committed to models, what is free of the budget, and what strangers (other programs)
    hold. SIZE says how it is known: learned (measured at an earlier load), declared (your word), or estimated (from the
    weights). LEASES counts the requests that hold a model now: only without any is it evicted at once.
    """
    with gateway_at(url, config_path) as gateway:
        if as_json:
            for body in _readings(gateway, watch=watch):
                click.echo(body)
            return
        console, shades = show.console(), _BLOCKS if show.draws_blocks() else _ASCII
        pages = (_page(gateway.decoded(body, Residency), shades) for body in _readings(gateway, watch=watch))
        if watch and console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for page in pages:
                    live.update(page, refresh=True)
        else:
            for number, page in enumerate(pages):
                if number:
                    click.echo()
                show.put(page)


def _readings(gateway: Remote, *, watch: bool) -> Iterator[bytes]:
    yield gateway.get("/admin/residency")
    while watch:
        time.sleep(EVERY_S)
        yield gateway.get("/admin/residency")


def _page(residency: Residency, shades: str) -> RenderableType:
    columns = ("DEVICE", "", ">COMMITTED", ">BUDGET", ">MEASURED", ">STRANGERS")
    rows = (_device_row(name, device, shades) for name, device in residency.devices.items())
    parts: list[RenderableType] = [show.table(columns, rows), Text()]
    if residency.residents:
        columns = ("MODEL", "PHASE", "SIZE", ">LEASES", ">IDLE", ">RESIDENT", "PINNED", "WHY")
        parts.append(show.table(columns, map(_resident_row, residency.residents)))
    else:
        parts.append(
            Text("nothing is in memory: a model is loaded when it is asked for, or by `roundhouse load MODEL`")
        )
    if residency.queue:
        rows = ((str(w.position), w.target, seconds_text(w.waiting_s)) for w in residency.queue)
        parts += [Text(), show.table((">QUEUE", "TARGET", ">WAITING"), rows)]
    if residency.cooling_down:
        parts += [Text(), Text("cooling down, not tried again yet (`roundhouse load` tries at once):")]
        parts += [Text(f"  {printable(target)}: {printable(why)}") for target, why in residency.cooling_down.items()]
    return Group(*parts)


def _device_row(name: str, device: Device, shades: str) -> tuple[str, ...]:
    committed, free, strangers = shades
    parts = {
        committed: device.committed_bytes,
        free: max(0, device.budget_bytes - device.committed_bytes),
        strangers: device.strangers_bytes,
    }
    sizes = (device.committed_bytes, device.budget_bytes, device.measured_bytes, device.strangers_bytes)
    return (name, bar(parts, _BAR_COLUMNS), *map(size_text, sizes))


def _resident_row(resident: Resident) -> tuple[str, ...]:
    return (
        resident.model,
        resident.phase,
        f"{footprint_text(resident.footprint)} ({resident.footprint_source})",
        str(resident.leases),
        "-" if resident.leases else seconds_text(resident.idle_s),
        seconds_text(resident.resident_s),
        "yes" if resident.pinned else "-",
        resident.why,
    )
