"""What a caller is told when the core rejects its ticket: the error's class, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import (
    GatewayError,
    LargerThanBudget,
    LoadStopped,
    NoRoomBesidePins,
    QueueFull,
    ShuttingDown,
    WaitTimedOut,
)
from providers.errors import LoadFailed

from .events import Refusal, Reject

_REFUSALS: Mapping[Refusal, type[GatewayError]] = {
    Refusal.QUEUE_FULL: QueueFull,
    Refusal.WAIT_TIMED_OUT: WaitTimedOut,
    Refusal.LARGER_THAN_BUDGET: LargerThanBudget,
    Refusal.NO_ROOM_BESIDE_PINS: NoRoomBesidePins,
    Refusal.UNLOADED: LoadStopped,
    Refusal.SHUTTING_DOWN: ShuttingDown,
}
_ADVICE: Mapping[Refusal, str] = {
    Refusal.QUEUE_FULL: "try again later, or raise residency.queue_max",
    Refusal.WAIT_TIMED_OUT: "try again later, or raise residency.patience_s",
    Refusal.LARGER_THAN_BUDGET: "use a smaller model or context, or raise the memory budget",
    Refusal.NO_ROOM_BESIDE_PINS: "unpin or unload a model, or raise the memory budget",
    Refusal.UNLOADED: "ask again to load it anew",
    Refusal.SHUTTING_DOWN: "try again when it is back",
}


def refusal_error(decision: Reject, last: LoadFailed | None) -> GatewayError | LoadFailed:
    """The error to raise to the caller.

    Args:
        last: why the target's last load failed, where it did: its exit code and log lines go along.
    """
    kind = _REFUSALS.get(decision.refusal)
    if kind is not None:
        message = f"'{decision.target}': {decision.detail}; {_ADVICE[decision.refusal]}"
        return kind(message, retry_after_s=decision.retry_after_s, param="model")
    return LoadFailed(
        f"'{decision.target}' cannot be loaded: {decision.detail}",
        source="gateway" if last is None else last.source,
        exit_code=None if last is None else last.exit_code,
        log_lines=() if last is None else last.log_lines,
        retry_after_s=decision.retry_after_s,
    )
