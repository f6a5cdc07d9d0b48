"""By which of its routes an upstream can serve a caller's: the same one, or one that the request is translated into. Pure.

What an upstream has is known of some kinds, of others it turns out: an upstream that answers as if it had never heard of a path is
not asked there again for a while. Time is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.dialects.spoken import Spoken

from .routes import CHAT, EMBEDDINGS, STAND_INS, Route

# So long it is believed that an upstream lacks a route; then it is asked again, it may have been brought up to date.
ABSENT_S = 600.0
GUESSED_S = 10.0  # where nothing else has worked either
_KNOWN_MAX = 4096  # such beliefs; one is made by a refusal of an upstream of the operator's choice
_NOT_FOUND = frozenset((404, 405, 501))
_NOT_TAKEN = frozenset((400, 422))


class Ways:
    """What has turned out about upstreams. `who`: a provider, or the target of an engine of ours."""

    def __init__(self) -> None:
        self._absent: dict[tuple[str, bytes], float] = {}  # until when
        self._no_usage: dict[str, float] = {}
        self._served: dict[tuple[str, bytes], float] = {}  # when last
        self._known: dict[tuple[bytes, frozenset[bytes] | None], Sequence[Route]] = {}

    def of(self, route: Route, routes: frozenset[bytes] | None, who: str, now_s: float) -> Sequence[Route]:
        """The upstream's routes to be tried, in this order; () where there is none.

        Args:
            routes: what it serves; None: nobody knows, all of OpenAI's form are tried.
        """
        if self._absent:
            return [way for way in self._all(route, routes) if self._absent.get((who, way.path), 0.0) <= now_s]
        return self._all(route, routes)

    def _all(self, route: Route, routes: frozenset[bytes] | None) -> Sequence[Route]:
        """Whatever has turned out. Worked out once for each pair: there are some dozens."""
        known = self._known.get((route.path, routes))
        if known is None:
            native = (route,) if (_usual(route, routes) if routes is None else route.path in routes) else ()
            known = self._known[route.path, routes] = (*native, *self._stand_ins(route, routes))
        return known

    def _stand_ins(self, route: Route, routes: frozenset[bytes] | None) -> Sequence[Route]:
        found = STAND_INS.get(route.dialect, ())
        if routes is None:
            return [other for other in found if other is CHAT or other is EMBEDDINGS]
        return [other for other in found if other.path in routes]

    def lacks(self, who: str, route: Route, now_s: float, for_s: float = ABSENT_S) -> None:
        """It has turned out not to serve this."""
        if len(self._absent) >= _KNOWN_MAX:
            self._absent.clear()
        self._absent[who, route.path] = now_s + for_s

    def served(self, who: str, route: Route, now_s: float) -> None:
        """It has answered there."""
        if len(self._served) >= _KNOWN_MAX:
            self._served.clear()
        self._served[who, route.path] = now_s

    def may_lack(self, who: str, route: Route, now_s: float) -> bool:
        """Whether it has not answered there lately."""
        return now_s - self._served.get((who, route.path), -ABSENT_S) >= ABSENT_S

    def tells_usage(self, who: str, now_s: float) -> bool:
        """Whether it may be asked for the usage of its streams."""
        return not self._no_usage or self._no_usage.get(who, 0.0) <= now_s

    def no_usage(self, who: str, now_s: float) -> None:
        """It has turned out to refuse that."""
        if len(self._no_usage) >= _KNOWN_MAX:
            self._no_usage.clear()
        self._no_usage[who] = now_s + ABSENT_S


def _usual(route: Route, routes: frozenset[bytes] | None) -> bool:
    """Ollama's own routes are Ollama's only, so whoever does not say that it has them has none."""
    return routes is not None or route.spoken is not Spoken.OLLAMA


# How servers say that they have no such path: FastAPI, Go, llama.cpp, Express, LM Studio, OpenAI, nginx. What is missing otherwise
# (a model, a voice, an earlier response) is called by its name, and is the caller's business.
_ABSENT = re.compile(
    rb'page not found|file not found|"(?:detail|message|error)": ?"(?:not found|method not allowed)\.?"|cannot post'
    rb"|unexpected endpoint|invalid url|<title>\s*40[45]",
    re.IGNORECASE,
)


def says_absent(status: int, body: bytes, path: bytes, asked: bytes = b"") -> bool:
    """Whether a refusal means that there is no such route. What it repeats of what was `asked` says nothing."""
    if status == 200:
        return body.startswith(b'{"error"') and b"Unexpected endpoint or method" in body
    if status not in _NOT_FOUND:
        return False
    if not body.strip() or (path in body and path not in asked):
        return True
    said = _ABSENT.search(body)
    return said is not None and said.group().lower() not in asked.lower()


def says_no_usage(status: int, body: bytes) -> bool:
    """Whether a refusal means that `stream_options` is not taken."""
    return status in _NOT_TAKEN and (b"stream_options" in body or b"include_usage" in body)
