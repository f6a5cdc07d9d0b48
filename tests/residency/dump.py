"""A comparable copy of a core's whole state, so that "this changes nothing" can be asserted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

# Most of what there is; looked at first, since this copy is made often.
PLAIN = frozenset((type(None), bool, int, float, str))


def dump(value: object) -> object:
    """Everything an object refers to, as lists and pairs."""
    if type(value) in PLAIN or isinstance(value, str):
        return value
    if isinstance(value, msgspec.Struct):
        return repr(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return [(key, held if type(held) in PLAIN else dump(held)) for key, held in items]
    if isinstance(value, list | tuple):
        return [held if type(held) in PLAIN else dump(held) for held in cast("Sequence[object]", value)]
    names = getattr(type(value), "__slots__", None) or list(vars(value))
    fields = [(name, getattr(value, name)) for name in names]
    return [(name, held if type(held) in PLAIN else dump(held)) for name, held in fields]
