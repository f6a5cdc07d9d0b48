"""Puts tables and progress on a terminal with rich, and the same words plainly where there is none.

The law: not on a terminal there are no colours, no cursor movements, no cut or wrapped lines, no blanks at a line's end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from .words import printable, seconds_text

# Rows are never broken where no terminal's edge is: wider than any row of ours.
_UNBROKEN_COLUMNS = 10_000
_STYLES = {"ready": "green", "loading": "yellow", "draining": "yellow", "unloading": "yellow", "cold": "dim"}


def console() -> Console:
    """For stdout, as it is now."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, force_terminal=False, color_system=None, width=_UNBROKEN_COLUMNS)


def put(shown: RenderableType) -> None:
    """Print to stdout."""
    printer = console()
    if printer.is_terminal:
        printer.print(shown)
        return
    with printer.capture() as capture:
        printer.print(shown)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def draws_blocks() -> bool:
    """Whether stdout is a terminal that can show more than ASCII."""
    return sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Columns a blank apart, no lines. A column whose name begins with ">" is aligned right."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column.startswith(">")
        shown.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    return shown


@contextmanager
def waiting(what: str, expected_s: float | None) -> Generator[None]:
    """A spinner with the time so far on stderr while the block runs; nothing where stderr is no terminal."""
    expected = "" if expected_s is None else f"of about {seconds_text(expected_s)}"
    with _progress(TimeElapsedColumn(), TextColumn("{task.fields[expected]}", markup=False)) as progress:
        progress.add_task(what, total=None, expected=expected)
        yield


@contextmanager
def fetching() -> Generator[Callable[[str, int, int], None]]:
    """A bar on stderr for (stage, bytes done, bytes in all or 0); where stderr is no terminal, one line for each stage."""
    with _progress(BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()) as progress:
        stages: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                for former in stages.values():
                    progress.remove_task(former)
                stages.clear()
                stages[stage] = progress.add_task(stage, total=None)
                if progress.disable:
                    click.echo(stage, err=True)
            progress.update(stages[stage], completed=done, total=total or None)

        yield tell


def _progress(*columns: ProgressColumn) -> Progress:
    printer = Console(stderr=True, highlight=False)
    spinner = "dots" if "utf" in printer.encoding else "line"
    return Progress(
        SpinnerColumn(spinner),
        TextColumn("{task.description}", markup=False),
        *columns,
        console=printer,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
