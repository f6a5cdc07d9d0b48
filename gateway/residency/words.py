"""A happening in words, for people who look: "evicted B for C: ram 18.2 GiB needed, ram 11.0 GiB free, B idle 340 s". Pure.

The law: models by the names people ask for; nothing is said that the journal does not hold; one line, without a full stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .room import room_text

if TYPE_CHECKING:
    from .journal import Happening

Names = Callable[[str], str]  # target → the name that people ask for

_LEAVES: Mapping[str, str] = {
    "idle": "{name} may leave",
    "admin": "{name} leaves, as an admin wants",
    "over_budget": "{name} leaves: the budget has become too small",
    "shutdown": "{name} leaves: the gateway is shutting down",
    "died": "{name} leaves: its engine ended",
}
_LOADS: Mapping[str, str] = {
    "requested": "loading {name}",
    "restored": "loading {name} again: what it had made room for did not load",
}
_REFUSED: Mapping[str, str] = {
    "queue_full": "refused a request for {name}: the queue is full",
    "wait_timed_out": "a request for {name} was given up",
    "larger_than_budget": "refused {name}: it is larger than the budget",
    "no_room_beside_pins": "refused {name}: there is no room beside what must stay",
    "load_failed": "refused a request for {name}: it did not load",
    "cooling_down": "refused a request for {name}: it did not load, and is not tried again yet",
    "unloaded": "refused a request for {name}: an admin stopped its load",
    "shutting_down": "refused a request for {name}: the gateway is shutting down",
}


def words(happening: Happening, names: Names) -> str:
    """One line."""
    name = names(happening.target) if happening.target else ""
    say = _SAYINGS.get(happening.what)
    if say is None:  # a kind of happening that was added without a saying: better dry than missing
        return " ".join(filter(None, (happening.what.replace("_", " "), name)))
    return say(happening, name, names)


def seconds_text(seconds: float) -> str:
    """0.42 s, 3.1 s, 340 s, 25 min, 3 h."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _draining(happening: Happening, name: str, names: Names) -> str:
    if happening.why == "evicted":
        return _evicted(happening, name, names)
    idle = f" after {seconds_text(happening.seconds)} idle" if happening.seconds and happening.why == "idle" else ""
    said = _LEAVES.get(happening.why, "{name} leaves").format(name=name) + idle
    return f"{said} ({happening.detail})" if happening.why == "over_budget" and happening.detail else said


def _evicted(happening: Happening, name: str, names: Names) -> str:
    """The journal's detail ends with the victim's own part, by its target: said here by its name, without false exactness."""
    idle_s = happening.seconds or 0.0
    figures = happening.detail.removesuffix(f", {happening.target} idle {idle_s:.0f} s")
    other = names(happening.for_target)
    last = f"{name} idle {seconds_text(idle_s)}" if idle_s else f"{name} was in use"
    return f"evicted {name} for {other}: " + ", ".join(filter(None, (figures, last)))


def _load_started(happening: Happening, name: str, _: Names) -> str:
    said = _LOADS.get(happening.why, "loading {name}").format(name=name)
    if not happening.footprint:
        return said
    source = f", {happening.footprint_source}" if happening.footprint_source else ""
    return f"{said} ({room_text(happening.footprint)}{source})"


def _rejected(happening: Happening, name: str, _: Names) -> str:
    said = _REFUSED.get(happening.why, "refused a request for {name}").format(name=name)
    return _with(said, happening.detail)


def _loaded(happening: Happening, name: str, _: Names) -> str:
    return f"loaded {name}" + ("" if happening.seconds is None else f" in {seconds_text(happening.seconds)}")


def _granted(happening: Happening, name: str, _: Names) -> str:
    after = "" if happening.seconds is None else f" after {seconds_text(happening.seconds)}"
    return f"a request for {name} goes on{after}"


def _left(happening: Happening, name: str, _: Names) -> str:
    took = "" if happening.seconds is None else f", which took {seconds_text(happening.seconds)}"
    return f"{name} has left memory{took}"


def _found(happening: Happening, name: str, _: Names) -> str:
    size = f" ({room_text(happening.footprint)})" if happening.footprint else ""
    return f"{name} is in memory: somebody else loaded it{size}"


def _plainly(text: str) -> Callable[[Happening, str, Names], str]:
    def say(happening: Happening, name: str, _: Names) -> str:
        return _with(text.format(name=name), happening.detail)

    return say


def _with(said: str, detail: str) -> str:
    return f"{said}: {detail}" if detail and ":" not in said else f"{said} ({detail})" if detail else said


_SAYINGS: Mapping[str, Callable[[Happening, str, Names], str]] = {
    "queued": _plainly("a request waits for {name}"),
    "granted": _granted,
    "rejected": _rejected,
    "load_started": _load_started,
    "loaded": _loaded,
    "load_failed": _plainly("{name} did not load"),
    "draining": _draining,
    "unload_started": _plainly("unloading {name}"),
    "gone": _left,
    "died": _plainly("{name} died"),
    "pinned": _plainly("pinned {name}"),
    "unpinned": _plainly("unpinned {name}"),
    "found": _found,
    "vanished": _plainly("{name} left its server's memory by itself"),
    "budget": _plainly("the budget changed"),
}
