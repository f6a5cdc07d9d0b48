"""A run as a chart: bars for each figure, in SVG written by hand, readable on light and dark ground.

Law: shorter is better in every panel; where one bar would hide all others the scale is logarithmic, and says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape

import msgspec

from .measure import Result
from .report import failed, values, yardstick

_WIDTH, _LABEL, _VALUE = 760, 150, 90
_BAR, _GAP, _HEAD, _FOOT = 18, 7, 44, 26
_LOG_FROM = 50.0  # times the least
_STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1f2328}
.t{font-weight:600;font-size:14px}.s{fill:#59636e;font-size:12px}.n{text-anchor:end}
.b{fill:#8c959f}.o{fill:#0969da}.g{stroke:#d1d9e0;stroke-width:1}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.b{fill:#656c76}.o{fill:#4493f8}.g{stroke:#3d444d}}
"""


class Panel(msgspec.Struct, frozen=True):
    """One figure of everybody's."""

    title: str
    unit: str
    bars: Sequence[tuple[str, float]]
    digits: int = 0


def panels(result: Result) -> list[Panel]:
    """What the chart shows: of those whose answers were whole."""
    names = [name for name in result.turns if not failed(result, name)]

    def medians(field: str) -> list[tuple[str, float]]:
        return [(name, statistics.median(values(result, name, field))) for name in names]

    memory = [(name, result.memory[name].idle_mb) for name in names]
    per_stream = [(name, max(0.0, result.memory[name].stream_kb)) for name in names]
    return [
        Panel("CPU per request", "µs, 16 connections", medians("cpu_us_request")),
        Panel("CPU per streamed event", "µs, 100 streams, an event each 20 ms", medians("cpu_us_event")),
        Panel("Added latency", "µs at the median, one connection", medians("added_p50_us")),
        Panel("Memory at rest", "MB", memory),
        Panel("Memory per open stream", "kB", per_stream, 1),
    ]


def chart(result: Result) -> str:
    """The whole picture."""
    drawn: list[str] = []
    top = 34
    for panel in panels(result):
        lines, height = _panel(panel, top)
        drawn += lines
        top += height
    about = result.machine
    note = f"{about['date']} · {about['machine']} · commit {about['commit']} · medians of one run · shorter is better"
    title = f"Gateways before the same upstream, on one core each; {yardstick(result)} is the yardstick"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 10}" width="{_WIDTH}" '
            f'height="{top + 10}" role="img" aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            f'<text x="0" y="16" class="t">{escape(title)}</text>',
            *drawn,
            f'<text x="0" y="{top + 2}" class="s">{escape(note)}</text>',
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, top: int) -> tuple[list[str], int]:
    shown = [max(0.0, value) for _, value in panel.bars]
    least, most = min((value for value in shown if value > 0), default=1.0), max(*shown, 1e-9)
    logarithmic = most / least >= _LOG_FROM
    scale = "; logarithmic" if logarithmic else ""
    left, room = _LABEL, _WIDTH - _LABEL - _VALUE
    height = len(shown) * (_BAR + _GAP)
    lines = [
        f'<text x="0" y="{top + 20}" class="t">{escape(panel.title)}'
        f'<tspan class="s" dx="8" font-weight="400">{escape(panel.unit + scale)}</tspan></text>',
        f'<line x1="{left}" x2="{left}" y1="{top + _HEAD - 12}" y2="{top + _HEAD - 12 + height}" class="g"/>',
    ]
    for row, ((name, value), size) in enumerate(zip(panel.bars, shown, strict=True)):
        y = top + _HEAD - 12 + row * (_BAR + _GAP) + _GAP // 2
        share = _share(size, least, most) if logarithmic else size / most
        ours = name.startswith("Roundhouse")
        lines += [
            f'<text x="{left - 8}" y="{y + 13}" class="n">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{max(1.5, share * room):.1f}" height="{_BAR}" rx="3" '
            f'class="{"o" if ours else "b"}"/>',
            f'<text x="{left + max(1.5, share * room) + 6:.1f}" y="{y + 13}">{value:,.{panel.digits}f}</text>',
        ]
    return lines, _HEAD - 12 + height + _FOOT


def _share(size: float, least: float, most: float) -> float:
    """Of the room, from half the least on."""
    if size <= 0:
        return 0.0
    begin = math.log(least / 2)
    return (math.log(size) - begin) / (math.log(most) - begin)
