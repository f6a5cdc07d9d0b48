"""A run as a table for people, with what is to be thought of it."""

from __future__ import annotations

import statistics

from . import machine
from .measure import LARGE_BYTES, Result, Turn

GOALS = {"cpu_us_request": 5.0, "cpu_us_event": 2.0}  # times nginx
SWAP_GOAL_MS = 30.0

_ROWS: tuple[tuple[str, str, int], ...] = (
    ("cpu_us_request", "CPU µs / request, 16 connections", 1),
    ("cpu_us_request_1", "CPU µs / request, 1 connection", 1),
    ("cpu_us_request_64", "CPU µs / request, 64 connections", 1),
    ("cpu_us_large", f"CPU µs / request of {LARGE_BYTES // 1000} KB", 1),
    ("requests_per_s", "requests / s, 16 connections", 0),
    ("cpu_us_event", "CPU µs / event, 100 streams", 1),
    ("cpu_us_event_1000", "CPU µs / event, 1,000 streams", 1),
    ("events_per_s", "events / s, 100 streams", 0),
    ("delay_p50_us", "event delay p50, µs", 0),
    ("delay_p99_us", "event delay p99, µs", 0),
    ("added_p50_us", "added latency p50, µs", 0),
    ("added_p99_us", "added latency p99, µs", 0),
)
_BEST_ROWS = ("cpu_us_request", "cpu_us_event")
_MEMORY_ROWS = (
    ("streams", "streams opened for the memory", 0),
    ("idle_mb", "RSS idle, MB", 1),
    ("open_mb", "RSS with them open, MB", 1),
    ("after_mb", "RSS after them, MB", 1),
    ("stream_kb", "per open stream, kB", 1),
)
_WIDE, _CELL = 36, 20


def table(result: Result) -> str:
    """All figures, and the remarks."""
    names = list(result.turns)
    lines = [f"{key:9} {value}" for key, value in result.machine.items()]
    lines += [
        f"run       {result.seconds:.0f} s, {len(next(iter(result.turns.values())))} rounds, medians; load average before "
        f"{result.load_average_before:.1f}; others used {result.neighbours_share:.0%} of the machine meanwhile",
        "",
        f"{'':{_WIDE}}" + "".join(f"{name:>{_CELL}}" for name in names),
    ]
    for field, title, digits in _ROWS:
        lines.append(f"{title:{_WIDE}}" + "".join(f"{_cell(result, name, field, digits):>{_CELL}}" for name in names))
    for field, title, _ in (row for row in _ROWS if row[0] in _BEST_ROWS):
        cells = "".join(f"{_best_cell(result, name, field):>{_CELL}}" for name in names)
        lines.append(f"{'best: ' + title:{_WIDE}}{cells}")
    for field, title, digits in _MEMORY_ROWS:
        cells = "".join(f"{getattr(result.memory[name], field):>{_CELL},.{digits}f}" for name in names)
        lines.append(f"{title:{_WIDE}}{cells}")
    if result.swap_ms:
        worst = f"worst of {len(result.swap_ms)}: {max(result.swap_ms):.1f}; goal {SWAP_GOAL_MS:g}"
        lines.append(f"{'swap overhead, ms':{_WIDE}}{statistics.median(result.swap_ms):.1f} ({worst})")
    return "\n".join([*lines, "", *remarks(result)])


def values(result: Result, name: str, field: str) -> list[float]:
    """One figure of one proxy in every round."""
    return [float(getattr(turn, field)) for turn in result.turns[name]]


def failed(result: Result, name: str) -> int:
    """Answers that were none."""
    turns: list[Turn] = result.turns[name]
    return sum(turn.failures for turn in turns) + result.memory[name].failures


def yardstick(result: Result) -> str:
    """What the ratios are of."""
    return next(iter(result.turns))


def _cell(result: Result, name: str, field: str, digits: int) -> str:
    seen = values(result, name, field)
    text = f"{statistics.median(seen):,.{digits}f}"
    base = values(result, yardstick(result), field)
    if name == yardstick(result) or field.startswith("added") or not all(base):
        return text
    ratio = statistics.median(value / of for value, of in zip(seen, base, strict=True))
    return f"{text} ({ratio:.2f}×)"


def _best_cell(result: Result, name: str, field: str) -> str:
    """The least disturbed round of each: on a busy machine the nearest to the truth."""
    first = yardstick(result)
    best, base = min(values(result, name, field)), min(values(result, first, field))
    return f"{best:,.1f}" if name == first or not base else f"{best:,.1f} ({best / base:.2f}×)"


def remarks(result: Result) -> list[str]:
    """What makes the figures worth less, and what they were to be."""
    said: list[str] = []
    names = list(result.turns)
    if names[0] == "nginx":
        said += [
            f"× is times nginx; goals: {GOALS['cpu_us_request']:g}× per request, {GOALS['cpu_us_event']:g}× per event"
        ]
    if result.neighbours_share > machine.BUSY_SHARE:
        said.append(
            f"WARNING: the machine was busy with something else ({result.neighbours_share:.0%}): "
            "believe the CPU ratios, not the rates, delays and latencies"
        )
    if machine.cores().shared:
        said.append("WARNING: one core only: proxy, load and upstream shared it")
    for name in names:
        if failures := failed(result, name):
            said.append(f"WARNING: {failures} answers of {name} were not 200 or not whole: its figures mean nothing")
    return said
