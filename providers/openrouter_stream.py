"""Keeps the comments of an event stream from those who never asked for them. Pure.

OpenRouter writes `: OPENROUTER PROCESSING` lines while nobody has answered it yet; clients that do not know comments break on
them, and they would count as the first byte of an answer. The law: every byte of an event passes, unchanged and at once; a
comment line is dropped, and so is the blank line that ends a block of comments alone.

Source: WHATWG HTML §9.2.6 (lines end with CR LF, LF or CR; a line that begins with a colon is a comment).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

from .contract import Response, Sink

_LINE = re.compile(rb"[^\r\n]+|\r\n|\r|\n")  # what stands in a line, or its end
_EMPTY, _COMMENTS, _CONTENT = range(3)  # what the block has held since the last blank line


class CommentFilter:
    """One stream's way through; pieces may be cut anywhere."""

    __slots__ = ("_block", "_dropping", "_lf_passes", "_line_open")

    def __init__(self) -> None:
        self._block = _EMPTY
        self._line_open = False  # a line has begun and not ended
        self._dropping = False  # and it is a comment
        # After a CR: whether it passed. An LF that follows belongs to it and shares its lot.
        self._lf_passes: bool | None = None

    def feed(self, data: bytes) -> bytes:
        """The piece without its comments; b"" when nothing is left of it. Holds nothing back."""
        if self._is_plain(data):
            return data
        return b"".join([part for part in _LINE.findall(data) if self._passes(part)])

    def _is_plain(self, data: bytes) -> bool:
        """Whether these are whole events without a comment, as nearly all pieces are; the state is the same after them."""
        return (
            self._block == _EMPTY
            and self._lf_passes is None
            and data[-2:] == b"\n\n"
            and data[:1] != b":"
            and b"\n:" not in data
            and b"\r" not in data
        )

    def _passes(self, part: bytes) -> bool:
        lf_passes, self._lf_passes = self._lf_passes, None
        if part == b"\n" and lf_passes is not None:
            return lf_passes
        passes = self._ends_line() if part[0] in b"\r\n" else self._continues(part)
        if part == b"\r":
            self._lf_passes = passes
        return passes

    def _continues(self, part: bytes) -> bool:
        if not self._line_open:
            self._line_open = True
            self._dropping = part[:1] == b":"
            if not self._dropping:
                self._block = _CONTENT
            elif self._block == _EMPTY:
                self._block = _COMMENTS
        return not self._dropping

    def _ends_line(self) -> bool:
        if self._line_open:
            self._line_open = False
            return not self._dropping
        ended, self._block = self._block, _EMPTY
        return ended != _COMMENTS


class CommentFree:
    """An event stream without its comments. Implements `contract.Response`."""

    __slots__ = ("_response", "headers", "made", "status")

    def __init__(self, response: Response) -> None:
        self._response = response
        self.status = response.status
        # a length would be wrong, once something is taken out
        self.headers = [field for field in response.headers if field[0] != b"content-length"]
        self.made: dict[object, Any] | None = None

    def whole(self) -> bytes | None:
        body = self._response.whole()
        return None if body is None else CommentFilter().feed(body)

    async def read(self, max_bytes: int) -> bytes:
        return CommentFilter().feed(await self._response.read(max_bytes))

    async def pump(self, sink: Sink) -> None:
        feed = CommentFilter().feed

        def filtered(piece: bytes) -> Awaitable[None]:
            left = feed(piece)
            return sink(left) if left else _nothing()

        await self._response.pump(filtered)

    def close(self) -> None:
        self._response.close()


def without_comments(response: Response) -> Response:
    """The response itself, unless it is an event stream that can be read: a compressed one passes as it is."""
    kind, coding = b"", b""
    for name, value in response.headers:
        if name == b"content-type":
            kind = value
        elif name == b"content-encoding":
            coding = value
    if kind.partition(b";")[0].strip().lower() != b"text/event-stream" or coding.strip().lower() not in (
        b"",
        b"identity",
    ):
        return response
    return CommentFree(response)


async def _nothing() -> None:
    """Nothing to hand on."""
