"""Sizes, durations and foreign text as people read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_text(size_bytes: int) -> str:
    """1.5 GiB. Binary units, as memory is counted."""
    value = float(size_bytes)
    unit = 0
    while abs(value) >= 1023.95 and unit < len(_UNITS) - 1:  # 1023.95 would be shown as 1024.0
        value /= 1024
        unit += 1
    return f"{size_bytes} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def footprint_text(footprint: Mapping[str, int]) -> str:
    """ram 1.5 GiB + gpu0 4.0 GiB; "nothing" for an empty one."""
    return " + ".join(f"{device} {size_text(size)}" for device, size in footprint.items()) or "nothing"


def seconds_text(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count_text(count: int, thing: str) -> str:
    """1 model, 2 models."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def printable(text: str) -> str:
    """What others wrote (names, an engine's log), without the power to steer a terminal: control characters are shown."""
    return "".join(char if char.isprintable() or char == "\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "replace").decode() if char != "\n" else "\\n"


def bar(parts: Mapping[str, int], width: int) -> str:
    """`width` characters shared out by size: {"#": 3, ".": 1} and 8 give ######.. ; what is not nothing gets at least one."""
    total = sum(parts.values())
    if total == 0:
        return " " * width
    cells = {char: max(1, round(size * width / total)) if size else 0 for char, size in parts.items()}
    widest = max(cells, key=lambda char: cells[char])
    cells[widest] += width - sum(cells.values())
    return "".join(char * count for char, count in cells.items())
