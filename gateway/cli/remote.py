"""Speaks to a running gateway, and turns whatever goes wrong into one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from config.load import is_loopback
from gateway import __version__

from .refusals import Failed

CONNECT_S = 5.0
# Answers come from memory at once; only a load may take its time, and the gateway has a limit of its own for that.
ANSWER_S = 30.0

_T = TypeVar("_T")


class _Error(msgspec.Struct):
    message: str = ""
    source: str = ""
    log_lines: tuple[str, ...] = ()


class _Envelope(msgspec.Struct):
    error: _Error


class Remote:
    """One gateway.

    Args:
        url: without a trailing slash.
        key: sent as a bearer token; empty: none.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        headers: list[tuple[bytes, bytes]] = [(b"user-agent", f"roundhouse/{__version__}".encode())]
        if key:
            headers.append((b"authorization", b"Bearer " + key.encode("utf-8", "surrogateescape")))
        self.has_key = bool(key)
        # a proxy of the environment cannot reach this machine's loopback, and some send it there all the same
        environment = not is_loopback(urlsplit(url).hostname or "")
        self._client = httpx.Client(headers=headers, trust_env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> bytes:
        """The body. Raises: Failed."""
        return self._ask("GET", path, ANSWER_S, query)

    def act(self, model: str, verb: str, *, patient: bool = False) -> bytes:
        """POST /admin/models/MODEL/VERB; the body. `patient`: wait as long as the gateway does. Raises: Failed."""
        path = f"/admin/models/{quote(model, safe='')}/{verb}"
        return self._ask("POST", path, None if patient else ANSWER_S, {})

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> bytes:
        """Something that changes something; the body. Raises: Failed."""
        return self._ask(method, path, ANSWER_S, {}, body)

    def decoded(self, body: bytes, form: type[_T]) -> _T:
        """Raises: Failed: whoever answered is no gateway of ours."""
        try:
            return msgspec.json.decode(body, type=form)
        except msgspec.MsgspecError:
            raise Failed(f"what answers at {self.url} is no Roundhouse gateway, or of another version") from None

    def _ask(
        self,
        method: str,
        path: str,
        answer_s: float | None,
        query: dict[str, str],
        body: Mapping[str, object] | None = None,
    ) -> bytes:
        limits = httpx.Timeout(answer_s, connect=CONNECT_S)
        try:
            answer = self._client.request(method, self.url + path, params=query or None, json=body, timeout=limits)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Failed(f"no gateway answers at {self.url}; start one with `roundhouse serve`") from None
        except httpx.TimeoutException:
            raise Failed(f"the gateway at {self.url} did not answer in time; is it overloaded or stopped?") from None
        except httpx.HTTPError:
            raise Failed(f"{self.url} broke off before its answer was whole; was the gateway stopped?") from None
        if not answer.is_success:
            raise self._refused(answer)
        return answer.content

    def _refused(self, answer: httpx.Response) -> Failed:
        try:
            error = msgspec.json.decode(answer.content, type=_Envelope).error
        except msgspec.MsgspecError:
            error = _Error()
        if not error.source:
            return Failed(f"{self.url} answered {answer.status_code}; is it a Roundhouse gateway?")
        hint = ""
        if answer.status_code in (401, 403):
            hint = "; set ROUNDHOUSE_ADMIN_KEY" + (" to another key" if self.has_key else "")
        return Failed(error.message + hint, error.log_lines)
