"""Reads a multipart form, whole and strictly: what the fake upstream was sent must be what the client said, byte for byte.

Source: RFC 7578, RFC 2046 5.1.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(slots=True)
class Part:
    """One field of a form. `filename` None: it is no file."""

    name: str
    data: bytes
    filename: str | None = None

    @property
    def text(self) -> str:
        """Its data as text."""
        return self.data.decode()


class NoForm(Exception):
    """It is none, or not well made."""


def parts_of(content_type: str | None, body: bytes) -> list[Part]:
    """In their order. Raises: NoForm."""
    found = re.fullmatch(r'multipart/form-data; *boundary="?([^";]+)"?', content_type or "")
    if found is None:
        raise NoForm(f"not a form: {content_type}")
    delimiter = b"\r\n--" + found[1].encode()
    preamble, *raw = (b"\r\n" + body).split(delimiter)
    if preamble or not raw or raw[-1].rstrip(b"\r\n") != b"--":
        raise NoForm("the form does not begin or end with its boundary")
    return [_part(piece) for piece in raw[:-1]]


def _part(piece: bytes) -> Part:
    head, blank, data = piece.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n"):
        raise NoForm("a part without a header")
    fields = head.decode()
    name = re.search(r'[ ;]name="([^"]*)"', fields)
    filename = re.search(r'filename="([^"]*)"', fields)
    if name is None:
        raise NoForm("a part without a name")
    return Part(name[1], data, None if filename is None else filename[1])
