"""The dashboard's own files, at `/` and below `/dashboard/`, under a policy that lets nothing run but what lies beside them.

The law: what can be had is settled at the start: the files of one folder, by a table; a path is never put together from what a
caller says. They are read once. A browser asks each time whether they have changed, and most often they have not.

Sources: RFC 9110 §8.8.3, §13.1.2 (ETag, If-None-Match), §12.5.5 (Vary); W3C Content Security Policy Level 3.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litestar import HttpMethod, Request, Response, route
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

FOLDER = Path(__file__).parent.parent / "dashboard"
PREFIX = "/dashboard"
TYPES: Mapping[str, str] = {  # of text the framework adds that it is UTF-8
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
}
SECURITY: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PACKED_MIN_BYTES = 1400  # what fits into one packet anyway
_GZIP_Q0 = re.compile(r"gzip\s*;\s*q=0(\.0*)?\s*(,|$)")
_GET = [HttpMethod.GET, HttpMethod.HEAD]


class File:
    """One of them, held in memory; packed when it is first asked for so."""

    __slots__ = ("_body", "_packed", "_type", "etag")

    def __init__(self, body: bytes, type: str) -> None:
        self._body = body
        self._packed: bytes | None = None
        self._type = type
        # weak: it names the contents, packed or not
        self.etag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'

    def answer(self, headers: Mapping[str, str], *, vary: str = "accept-encoding") -> Response[bytes]:
        """To a request with these header fields."""
        fields = {**SECURITY, "cache-control": "no-cache", "etag": self.etag, "vary": vary}
        if _names(headers.get("if-none-match", ""), self.etag):
            return Response(b"", status_code=304, headers=fields)
        body = self._body
        if len(body) >= _PACKED_MIN_BYTES and _takes_gzip(headers.get("accept-encoding", "")):
            if self._packed is None:
                self._packed = gzip.compress(body, 6, mtime=0)
            body = self._packed
            fields["content-encoding"] = "gzip"
        return Response(body, headers=fields, media_type=self._type)


def _names(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip() for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags or etag.removeprefix("W/") in tags


def _takes_gzip(accepts: str) -> bool:
    return "gzip" in accepts and _GZIP_Q0.search(accepts) is None


def files_in(folder: Path) -> Mapping[str, File]:
    """Path below the folder, with slashes → file. Blocking. Hidden files, links and kinds we do not know are not there."""
    return {
        path.relative_to(folder).as_posix(): File(path.read_bytes(), TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not any(each.is_symlink() for each in (path, *path.parents[: len(path.relative_to(folder).parts) - 1]))
    }


def wants_page(accept: str) -> bool:
    """Whether a page is meant. Programs that look whether we are there say nothing, or that they want JSON."""
    return "text/html" in accept or ("*/*" in accept and "application/json" not in accept)


def dashboard_routes(files: Mapping[str, File], index: Mapping[str, str]) -> list[HTTPRouteHandler]:
    """They need no key: they are the same for everybody, and the login is one of them.

    Args:
        files: from `files_in`; without an index.html there is no page.
        index: what programs are told at `/`.
    """
    page = files.get("index.html")

    @route("/", http_method=_GET, sync_to_thread=False)
    def read_index(request: Request[Any, Any, Any]) -> Response[Any]:
        if page is not None and wants_page(request.headers.get("accept", "")):
            return page.answer(request.headers, vary="accept, accept-encoding")
        return Response(index, headers={**SECURITY, "vary": "accept"}, media_type="application/json")

    @route(PREFIX + "/{path:path}", http_method=_GET, sync_to_thread=False)
    def read_file(path: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
        file = files.get(path.removeprefix("/"))
        if file is None:
            raise NotFoundException("The dashboard has no such file")
        return file.answer(request.headers)

    return [read_index, read_file]
