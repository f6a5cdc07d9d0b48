"""`roundhouse usage`: who used what, and what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import click
import msgspec

from gateway.access.secret import is_key

from . import show
from .reach import gateway_at, with_gateway
from .remote import Remote

_GROUPS = ("day", "key", "tenant", "model", "target")
_COUNTS = ("requests", "errors", "prompt", "completion", "cached", "reasoning", "cost_usd")


class UsageSum(msgspec.Struct, frozen=True):
    """One row of /admin/usage."""

    requests: int
    errors: int
    prompt: int
    completion: int
    cached: int
    reasoning: int
    cost_usd: str | None  # None: of no request is it known
    priced: int = 0  # requests whose cost is known
    day: str | None = None
    key: str | None = None
    tenant: str | None = None
    model: str | None = None
    target: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """/admin/usage."""

    by: tuple[str, ...]
    rows: tuple[UsageSum, ...]


@click.command()
@click.option("--by", default="day,model", metavar="WORDS", help=f"Any of {','.join(_GROUPS)}. Default: day,model.")
@click.option("--since", default="", metavar="DAY", help="The first day that counts, YYYY-MM-DD in UTC.")
@click.option("--until", default="", metavar="DAY", help="The last day that counts.")
@click.option("--key", default="", metavar="ID", help="Only of this key (its id, or whose it is).")
@click.option("--tenant", default="", metavar="NAME", help="Only of this tenant.")
@click.option("--model", default="", metavar="NAME", help="Only of this model.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "jsonl"]), default="table", show_default=True)
@click.option("--requests", "each", is_flag=True, help="Every request by itself, not sums: with --format csv or jsonl.")
@with_gateway
def usage(
    by: str,
    since: str,
    until: str,
    key: str,
    tenant: str,
    model: str,
    form: str,
    each: bool,
    url: str | None,
    config_path: Path | None,
) -> None:
    """Show who used what, and what it cost.

    PROMPT and ANSWER are tokens as the upstreams told them; COST is in USD and exact, with a ~ where it is not known of every
    request, and a - where it is known of none. A request belongs to the day, in UTC, on which it came in.
    """
    if each and form == "table":
        raise click.UsageError("--requests goes with --format csv or --format jsonl")
    if is_key(key):  # it would stand in addresses and logs
        raise click.UsageError("--key takes a key's id, not the key itself; `roundhouse keys list` shows the ids")
    span = {name: value for name, value in (("since", since), ("until", until)) if value}
    chosen = {name: value for name, value in (("key", key), ("tenant", tenant), ("model", model)) if value}
    with gateway_at(url, config_path) as gateway:
        if each:
            _export(gateway, form, span, chosen)
            return
        found = gateway.decoded(gateway.get("/admin/usage", by=by, **span, **chosen), Usage)
    _WAYS[form](found)


def _export(gateway: Remote, form: str, span: Mapping[str, str], chosen: Mapping[str, str]) -> None:
    """Day by day, so that neither of us has to hold more than that."""
    days = gateway.decoded(gateway.get("/admin/usage", by="day", **span, **chosen), Usage)
    for number, row in enumerate(days.rows):
        day = row.day or ""
        body = gateway.get("/admin/usage/export", format=form, since=day, until=day, **chosen)
        if number and form == "csv":  # one heading is enough
            body = body.partition(b"\r\n")[2]
        click.echo(body, nl=False)


def _table(found: Usage) -> None:
    if not any(row.requests for row in found.rows):
        click.echo("no request was kept in that time")
        return
    columns = (*(word.upper() for word in found.by), ">REQUESTS", ">ERRORS", ">PROMPT", ">CACHED", ">ANSWER", ">COST")
    rows = [_cells(found.by, row) for row in found.rows]
    if found.by and len(rows) > 1:
        rows.append(_in_all(found))
    show.put(show.table(columns, rows))


def _cells(by: Sequence[str], row: UsageSum) -> tuple[str, ...]:
    known = msgspec.structs.asdict(row)
    counts = (row.requests, row.errors, row.prompt, row.cached, row.completion)
    return (*(known[word] or "-" for word in by), *(f"{count:,}" for count in counts), _cost(row.cost_usd, row))


def _in_all(found: Usage) -> tuple[str, ...]:
    counts = [
        sum(getattr(row, name) for row in found.rows)
        for name in ("requests", "errors", "prompt", "cached", "completion")
    ]
    return ("in all", *("" for _ in found.by[1:]), *(f"{count:,}" for count in counts), _sum(found))


def _cost(cost: str | None, row: UsageSum) -> str:
    return "-" if cost is None else cost if row.priced >= row.requests else f"~{cost}"


def _sum(found: Usage) -> str:
    """Exact: of decimals, not of floats."""
    known = [Decimal(row.cost_usd) for row in found.rows if row.cost_usd is not None]
    if not known:
        return "-"
    whole = all(row.priced >= row.requests for row in found.rows)
    return ("" if whole else "~") + format(sum(known, Decimal(0)), "f")


def _csv(found: Usage) -> None:
    page = io.StringIO()
    table = csv.writer(page)
    table.writerow((*found.by, *_COUNTS))
    for row in found.rows:
        known = msgspec.structs.asdict(row)
        table.writerow(["" if known[word] is None else known[word] for word in (*found.by, *_COUNTS)])
    click.echo(page.getvalue(), nl=False)


def _jsonl(found: Usage) -> None:
    for row in found.rows:
        known = msgspec.structs.asdict(row)
        click.echo(msgspec.json.encode({word: known[word] for word in (*found.by, *_COUNTS)}))


_WAYS: Mapping[str, Callable[[Usage], None]] = {"table": _table, "csv": _csv, "jsonl": _jsonl}
