"""`roundhouse load`, `unload`, `pin`, `unpin`: the operator's hand on residency."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from . import show
from .answers import Acted, LoadPlan
from .reach import gateway_at, with_gateway
from .remote import Remote
from .words import count_text, footprint_text, printable, seconds_text

_NAMES = "MODEL is a name, an alias or a target, as `roundhouse models` lists them."


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("the model's name is empty")
    return value


_with_model: Callable[[Callable[..., None]], Callable[..., None]] = click.argument("model", callback=_name)


@click.command(epilog=_NAMES)
@_with_model
@click.option("--plan", "plan_only", is_flag=True, help="Only say what would happen; change nothing.")
@with_gateway
def load(model: str, plan_only: bool, url: str | None, config_path: Path | None) -> None:
    """Bring a model into memory, and wait until it is there.

    First says what it needs and who will be evicted for it. A model that failed to load before is tried again at once.
    Ctrl-C stops the waiting, not the load: `roundhouse unload` does that.
    """
    with gateway_at(url, config_path) as gateway:
        plan = gateway.decoded(gateway.get("/admin/plan", model=model), LoadPlan)
        click.echo(_plan_text(plan))
        if plan_only:
            return
        started_s = time.monotonic()
        with show.waiting(f"loading {printable(model)}", plan.expected_load_s):
            acted = gateway.decoded(gateway.act(model, "load", patient=True), Acted)
    took = "" if plan.outcome == "ready" else f" after {seconds_text(time.monotonic() - started_s)}"
    click.echo(f"{printable(model)} is {acted.phase}{took}")


@click.command(epilog=_NAMES)
@_with_model
@with_gateway
def unload(model: str, url: str | None, config_path: Path | None) -> None:
    """Take a model out of memory.

    Requests it is answering may end first; a load under way is stopped at once. Its next request loads it again.
    """
    with gateway_at(url, config_path) as gateway:
        acted = _acted(gateway, model, "unload")
    words = {
        "cold": "is not in memory",
        "draining": "is draining: it leaves memory when the requests it is answering have ended",
        "unloading": "is leaving memory",
    }
    click.echo(f"{printable(model)} {words.get(acted.phase, f'is {acted.phase}')}")


@click.command(epilog=_NAMES)
@_with_model
@with_gateway
def pin(model: str, url: str | None, config_path: Path | None) -> None:
    """Keep a model from being evicted, until it is unpinned or the gateway ends.

    Pinning does not load it. `pinned = true` in the configuration does both at every start.
    """
    with gateway_at(url, config_path) as gateway:
        acted = _acted(gateway, model, "pin")
    hint = f"; `roundhouse load {printable(model)}` brings it into memory" if acted.phase == "cold" else ""
    click.echo(f"{printable(model)} is pinned ({acted.phase}{hint})")


@click.command(epilog=_NAMES)
@_with_model
@with_gateway
def unpin(model: str, url: str | None, config_path: Path | None) -> None:
    """Let a model be evicted again. It stays in memory until another needs its room or it is idle too long."""
    with gateway_at(url, config_path) as gateway:
        acted = _acted(gateway, model, "unpin")
    click.echo(f"{printable(model)} is not pinned ({acted.phase})")


def _acted(gateway: Remote, model: str, verb: str) -> Acted:
    return gateway.decoded(gateway.act(model, verb), Acted)


def _plan_text(plan: LoadPlan) -> str:
    name = printable(plan.model)
    if plan.outcome in ("ready", "loading"):
        return f"{name} is in memory already" if plan.outcome == "ready" else f"{name} is being loaded already"
    needs = f"{name} needs {footprint_text(plan.needed)} ({plan.footprint_source})"
    free = f"{footprint_text(plan.free)} is free"
    detail = printable(plan.detail)
    match plan.outcome:
        case "fits":
            text = f"{needs}; {free}: nobody is evicted for it"
        case "evicts":
            text = f"{needs}; {free}: evicts {printable(', '.join(plan.victims))}"
        case "waits":
            text = f"{needs}; {free}: it has to wait ({detail})"
        case _:
            text = f"{needs}; a request would be refused: {detail}"
    if plan.queue_ahead:
        text += f"\n{count_text(plan.queue_ahead, 'model')} waiting before it"
    if plan.expected_load_s is not None:
        text += f"\nloading it has taken about {seconds_text(plan.expected_load_s)}"
    return text
