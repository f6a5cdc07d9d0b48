"""How a caller's request is worded for one upstream: the same bytes with as few changes as there must be, or a translation. Pure.

What may change, in this order: the whole body (a translation), the model's name, what the model's policy says, the question for
the stream's usage, and for Ollama's own routes how long it keeps the model, which is residency's to decide.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.dialects.spoken import Spoken
from gateway.dialects.talk import Stamp
from gateway.dialects.translation import Translation, translate
from gateway.errors import InvalidRequest

from .edits import Drop, Put, edited
from .peek import Peek, with_model, with_usage
from .policy import Policy, apply
from .routes import Route

_KEPT = {"keep_alive": Put(b"-1")}  # for ever: until residency unloads it
_UNASKED = {"stream_options": Drop()}


class Wish(msgspec.Struct, frozen=True):
    """What the wording depends on beside the body.

    Args:
        route: the caller's; `way`: the upstream's.
        seen: what is known of the body; `name`: what the upstream calls the model, None: as the caller does.
        held: in memory by residency's will, which decides how long.
        may_ask: the upstream may be asked for a stream's usage also where the caller does not; `takes_option`: it has not refused.
    """

    route: Route
    way: Route
    seen: Peek
    name: str | None
    held: bool
    may_ask: bool
    takes_option: bool
    policy: Policy | None


class Worded(msgspec.Struct, frozen=True):
    """A body for an upstream.

    `asks`: stream_options are in it by our doing; `hides`: the usage that comes is not for the caller.
    """

    body: bytes
    translation: Translation | None = None
    asks: bool = False
    hides: bool = False


def worded(body: bytes, wish: Wish, stamp: Callable[[], Stamp]) -> Worded:
    """Raises: InvalidRequest, NotTranslatable."""
    try:
        return _worded(body, wish, stamp)
    except RecursionError:  # below the depth that `peek` lets pass, above what can be written again
        raise InvalidRequest("The body is nested too deeply to be translated", code="invalid_json") from None


def _worded(body: bytes, wish: Wish, stamp: Callable[[], Stamp]) -> Worded:
    name = wish.name if wish.name is not None and wish.name != wish.seen.model else None
    way = wish.way
    if way is not wish.route:
        translation = translate(
            wish.route.dialect, way.dialect, body, wish.seen.model, name or wish.seen.model, stamp()
        )
        asks = translation.stream and way.usage_option and wish.takes_option
        said = translation.body if asks else edited(translation.body, _UNASKED)
        if wish.policy is not None:
            said = apply(wish.policy, way.path, said)
        return Worded(said, translation, asks=asks)
    if name is not None:
        body = with_model(body, name)
    seen = wish.seen
    asks = seen.stream and way.usage_option and wish.may_ask and wish.takes_option and not seen.usage_asked
    if asks:
        body = with_usage(body, seen)
    if wish.policy is not None:
        body = apply(wish.policy, way.path, body)
    if wish.held and way.spoken is Spoken.OLLAMA:
        body = edited(body, _KEPT)
    return Worded(body, asks=asks, hides=asks)
