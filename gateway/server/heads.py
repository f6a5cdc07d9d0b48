"""A head that this connection has sent before: its scope, and what has been made of its header fields. Pure.

How it is known again: `providers/transport_heads.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from providers.transport_heads import Cut, cut

# A connection whose heads all differ (a fresh trace id in each) is not studied for ever.
LESSONS_MAX = 4


class Known(NamedTuple):
    """One head.

    `scope`: as it was made of it, not to be changed; `learned`: what the application has found out about these header fields, the
    length aside, for the next time.
    """

    cut: Cut
    scope: dict[str, Any]
    learned: dict[str, Any]


def study(data: bytes, scope: dict[str, Any]) -> Known | None:
    """What can be known again of a request that is all of `data`. None: it is not, or it has not all that it takes.

    Args:
        scope: of a POST that leaves the connection open, waits for no word before its body, and asks for no upgrade.
    """
    found = cut(data, scope["headers"])
    return None if found is None else Known(found, scope, {})
