"""What `promtool check metrics` says of an exposition, for where there is no promtool; and what a scrape refuses.

Source: Prometheus, client_golang's promlint (help, counters, units, types in names, reserved suffixes and labels, snake case,
abbreviations) and its text format 0.0.4 (one TYPE and one HELP for each family, before its samples; no series twice).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import msgspec

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
TYPES = ("counter", "gauge", "summary", "untyped", "histogram")
OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")
BASE_UNITS = ("amperes", "bytes", "celsius", "grams", "joules", "kelvin", "meters", "metres", "seconds", "volts")
OTHER_UNITS = (
    *("minutes", "hours", "days", "weeks", "kelvins", "fahrenheit", "rankine"),
    *("inches", "yards", "miles", "bits", "calories", "pounds", "ounces"),
)
UNIT = re.compile(
    "(pico|nano|micro|milli|centi|deci|deca|hecto|kilo|kibi|mega|mibi|giga|gibi|tera|tebi|peta|pebi)?"
    f"({'|'.join((*BASE_UNITS, *OTHER_UNITS))})"
)
ABBREVIATIONS = ("s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d")
# Ours: a histogram tells what it counts.
HISTOGRAM_UNITS = ("_seconds", "_bytes", "_tokens")


class Series(msgspec.Struct, frozen=True):
    """One sample."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct):
    """What is declared together."""

    kind: str = "untyped"
    text: str = ""
    series: list[Series] = msgspec.field(default_factory=list[Series])


def families(text: str) -> dict[str, Family]:
    """By name. Raises: ValueError: what a scrape would refuse."""
    found: dict[str, Family] = {}
    declared: set[tuple[str, str]] = set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, *rest = line.split(" ", 3)
            family = found.setdefault(name, Family())
            if (what, name) in declared or family.series:
                raise ValueError(f"{name}: {what} more than once, or behind its samples")
            declared.add((what, name))
            if what == "TYPE":
                family.kind = rest[0]
            else:
                family.text = rest[0].strip() if rest else ""
        elif line:
            series = _series(line)
            found.setdefault(_family_of(series.name, found), Family()).series.append(series)
    for name, family in found.items():
        times = Counter((each.name, *sorted(each.labels.items())) for each in family.series)
        if more := [key for key, count in times.items() if count > 1]:
            raise ValueError(f"{name}: {more[0]} more than once")
    return found


def _series(line: str) -> Series:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"no sample: {line}")
    labels = _LABEL.findall(match[2] or "")
    if _LABEL.sub("", match[2] or "") or len(dict(labels)) < len(labels):
        raise ValueError(f"labels that are none: {line}")
    return Series(match[1], dict(labels), float(match[3]))


def _family_of(name: str, found: dict[str, Family]) -> str:
    for suffix in OF_A_HISTOGRAM:
        stem = name.removesuffix(suffix)
        if stem != name and stem in found and found[stem].kind in ("histogram", "summary"):
            return stem
    return name


def faults(text: str) -> list[str]:
    """None of them: it is as it should be. Raises: ValueError: as `families`."""
    return [f"{name}: {fault}" for name, family in families(text).items() for fault in _faults(name, family)]


def _faults(name: str, family: Family) -> Iterator[str]:
    kind = family.kind
    labels = {label for series in family.series for label in series.labels}
    if not family.text:
        yield "no help text"
    if kind not in TYPES:
        yield f"of no type: {kind}"
    if (kind == "counter") is not name.endswith("_total") and kind != "untyped":
        yield f"a {kind}, by its name none"
    if kind not in ("histogram", "untyped"):
        if "le" in labels:
            yield "a histogram's label"
        if name.endswith("_bucket") or (kind != "summary" and name.endswith(("_sum", "_count"))):
            yield "a histogram's suffix"
    if kind not in ("summary", "untyped") and "quantile" in labels:
        yield "a summary's label"
    if kind == "histogram" and not name.endswith(HISTOGRAM_UNITS):
        yield "without its unit"
    if ":" in name:
        yield "a colon is for rules"
    if any(re.search("[a-z][A-Z]", each) for each in (name, *labels)):
        yield "not in snake case"
    parts = name.lower().split("_")
    for part in parts[1:]:
        if part in TYPES and part != "untyped":
            yield f"its type is in its name: {part}"
        if part in ABBREVIATIONS:
            yield f"an abbreviated unit: {part}"
    unit = next((part for part in parts if UNIT.fullmatch(part)), "seconds")
    if unit not in BASE_UNITS:
        yield f"not in a base unit: {unit}"
    yield from _of_buckets(family) if kind == "histogram" else ()


def _of_buckets(family: Family) -> Iterator[str]:
    """Cumulative, up to +Inf, which is the count."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for series in family.series:
        rest = tuple(sorted((label, value) for label, value in series.labels.items() if label != "le"))
        what = series.labels.get("le") or series.name.rpartition("_")[2]
        rows.setdefault(rest, {})[what] = series.value
    for rest, told in rows.items():
        buckets = sorted((float(le), value) for le, value in told.items() if le not in ("sum", "count"))
        values = [value for _, value in buckets]
        if (
            "sum" not in told
            or not buckets
            or values != sorted(values)
            or (float("inf"), told.get("count")) != buckets[-1]
        ):
            yield f"buckets that do not add up: {rest}"
