"""What the server says by itself, before or in place of the application: status lines, and refusals in the house's envelope. Pure.

Source: RFC 9110 §15 (status codes); RFC 6585 §5 (431); OpenAI's error envelope.
"""

from __future__ import annotations

import json
from http import HTTPStatus

STATUS_MAX = 999
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Refused(Exception):
    """This request is not served. str() is told to the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_line(status: int) -> bytes:
    """With the end of the line. Raises: ValueError: it is no final status."""
    if not 200 <= status <= STATUS_MAX:
        raise ValueError(f"{status} is no status that an answer can have")
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))


def whole(status: int, message: str, date: bytes) -> bytes:
    """A refusal as it goes out, after which the connection is closed.

    Args:
        date: the field's line, or nothing.
    """
    kind, code = "invalid_request_error", "bad_request"
    if status >= 500:
        kind, code = ("server_error", "internal_error") if status != 503 else ("capacity_error", "shutting_down")
    error = {"message": message, "type": kind, "param": None, "code": code, "source": "gateway"}
    body = json.dumps({"error": error}, separators=(",", ":")).encode()
    fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return status_line(status) + date + fields + body
