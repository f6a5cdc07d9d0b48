"""How far a model is that a caller waits for, as it is written into its stream. Pure.

The law: a comment is one line, whatever a model is called; who did not ask for more gets comments, which every client skips.

Source: WHATWG HTML §9.2.6: a line that begins with a colon is ignored; any of CR, LF and CRLF ends a line.
"""

from __future__ import annotations

import math

from gateway.residency.progress import Progress, Stage

from .sse import event

NAME_MAX = 100  # characters of a model's name: callers choose it


def comment(model: str, progress: Progress) -> bytes:
    """`: loading smollm2 43% eta 2s`, `: loading smollm2 3s` where no load was timed before, `: waiting for smollm2, place 2`."""
    name = _plain(model)
    if progress.stage is Stage.WAITING:
        place = "" if progress.place is None else f", place {progress.place}"
        return f": waiting for {name}{place}\n\n".encode()
    percent = "" if progress.fraction is None else f" {_percent(progress.fraction)}%"
    time = f"{int(progress.elapsed_s)}s" if progress.eta_s is None else f"eta {math.ceil(progress.eta_s)}s"
    return f": {progress.stage.replace('_', ' ')} {name}{percent} {time}\n\n".encode()


def fields(model: str, progress: Progress) -> dict[str, object]:
    """What a chunk carries for those who asked for events: {"roundhouse": {"load": …}}. None: not known."""
    return {
        "roundhouse": {
            "load": {
                "model": _plain(model),
                "phase": progress.stage.value,
                "percent": None if progress.fraction is None else _percent(progress.fraction),
                "eta_s": None if progress.eta_s is None else round(progress.eta_s, 1),
                "elapsed_s": round(progress.elapsed_s, 1),
                "place": progress.place,
            }
        }
    }


def chunk(model: str, progress: Progress, *, id: str, created: int, chat: bool) -> bytes:
    """The same as an event of a chat or completions stream: a chunk without choices, as the usage's is.

    Args:
        id, created: the same for all of one stream.
    """
    return event(
        {
            "id": id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": model,
            "choices": [],
            **fields(model, progress),
        }
    )


def _percent(fraction: float) -> int:
    return int(fraction * 100 + 1e-9)  # 0.29 * 100 is less than 29


def _plain(model: str) -> str:
    """One line of visible characters, not too many."""
    if len(model) > NAME_MAX:
        model = model[:NAME_MAX]
    return model if model.isprintable() else "".join(char if char.isprintable() else " " for char in model)
