"""`/admin/timeline`: who was in memory when, what happened, and how much was asked, over the last hours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery

from gateway.errors import InvalidRequest
from gateway.metering.rates import Minutes
from gateway.residency.timeline import Timeline
from gateway.residency.words import words

HOURS_MAX = 24.0  # as long as minutes are kept


def shown(
    timeline: Timeline, minutes: Minutes, name_of: Callable[[str], str], from_s: float, to_s: float
) -> Mapping[str, Any]:
    """What lies between two moments, in seconds since the epoch."""
    return {
        "from_s": from_s,
        "to_s": to_s,
        "spans": [
            {
                "target": span.target,
                "model": name_of(span.target),
                "phase": span.phase,
                "from_s": span.from_s,
                "to_s": span.to_s,
                "why": span.why,
            }
            for span in timeline.spans(from_s)
        ],
        "marks": [
            {
                "at_s": mark.at_s,
                "what": mark.what,
                "target": mark.target,
                "model": name_of(mark.target) if mark.target else "",
                "words": words(mark, name_of),
            }
            for mark in timeline.marks_since(from_s)
        ],
        "requests": [{"at_s": at_s, "model": model, "count": count} for at_s, model, count in minutes.since(from_s)],
    }


def timeline_routes(
    timeline: Timeline, minutes: Minutes, name_of: Callable[[str], str], wall_clock: Callable[[], float] = time.time
) -> list[HTTPRouteHandler]:
    """Needs an admin's key where keys are configured."""

    @get("/admin/timeline", sync_to_thread=False)
    def read_timeline(hours: FromQuery[float] = 6.0) -> Response[bytes]:
        if not 0 < hours <= HOURS_MAX:
            raise InvalidRequest(f"'hours' must be more than 0 and at most {HOURS_MAX:g}", param="hours")
        now_s = wall_clock()
        said = shown(timeline, minutes, name_of, now_s - hours * 3600, now_s)
        return Response(msgspec.json.encode(said), media_type="application/json")

    return [read_timeline]
