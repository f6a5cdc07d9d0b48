"""Which request is being served here, for the log.

The law: to say so costs a request a tenth of a microsecond. What a request has begun (a load, a timer) takes its number with it,
but not beyond its end: what happens an hour later is not told as its doing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any

State = dict[str, Any]  # a scope's: "fields" with the id first, "over" once it has ended

_state: ContextVar[State | None] = ContextVar("request", default=None)
# From here on in this task. The variable's own, for every call between costs each request.
begin: Callable[[State], Token[State | None]] = _state.set


def end(state: State) -> None:
    """Its answer is out, or will never be."""
    state["over"] = True


def current() -> str:
    """The id of the request that this is done for; "": none that is in progress."""
    state = _state.get()
    if state is None or "over" in state:
        return ""
    fields: list[tuple[bytes, bytes]] = state.get("fields") or []
    return fields[0][1].decode("latin-1") if fields else ""
