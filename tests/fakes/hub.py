"""A model hub for tests: /ORG/REPO/resolve/REVISION/FILE leads to a second host that has the bytes, as the real one does.

Law: every header stands here as the hub's documentation and its client's source have it; what a test wants otherwise it says by
an attribute.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from tests.fakes.upstream import Exchange, FakeUpstream


@dataclass(slots=True)
class Kept:
    """One file of a repository."""

    content: bytes = field(repr=False)
    large: bool = True  # LFS: elsewhere, with its checksum
    linked_sha256: str | None = None  # what the hub says; None: the truth
    linked_size: int | None = None  # None: the truth
    etag: str | None = None  # of the host that has the bytes; None: made of the content

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def validator(self) -> str:
        """The bytes' ETag, with its quotes."""
        return f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"' if self.etag is None else self.etag


@dataclass(slots=True)
class FakeHub:
    """The hub and the host its large files lie on. Change its attributes at any time.

    cut_after: the bytes' host closes after so many bytes of each of the coming answers, in order.
    hold_after: it says nothing more after so many.
    ranges: False: it ignores Range. if_range: False: it ignores If-Range.
    """

    files: dict[str, Kept] = field(default_factory=dict[str, Kept])  # "ORG/REPO@REVISION/FILE"
    token: str = ""  # the one that may read; "": everybody may
    cut_after: list[int] = field(default_factory=list[int])
    hold_after: int | None = None
    ranges: bool = True
    if_range: bool = True
    page: bytes | None = None  # a login page in place of every answer of the bytes' host
    sized: bool = True  # False: no length is told
    store_claims: bool = False  # the bytes' host says a checksum, too, which is not its business
    refusal: tuple[int, dict[str, str]] | None = None  # the hub's only answer
    host: FakeUpstream = field(default_factory=FakeUpstream)
    store: FakeUpstream = field(default_factory=FakeUpstream)

    @property
    def environ(self) -> dict[str, str]:
        """For whoever fetches."""
        return {"HF_ENDPOINT": self.host.base_url} | ({"HF_TOKEN": self.token} if self.token else {})

    def ranges_asked(self) -> list[str | None]:
        """Of every request for bytes."""
        return [request.header("range") for request in self.store.requests]

    async def __aenter__(self) -> Self:
        self.host.script(self._resolve)
        self.store.script(self.serve)
        await self.host.__aenter__()
        await self.store.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.store.__aexit__(*exc_info)
        await self.host.__aexit__(*exc_info)

    async def _resolve(self, exchange: Exchange) -> None:
        await exchange.body()
        org, repo, word, revision, *path = exchange.request.path.removeprefix("/").split("/")
        assert word == "resolve"
        key = f"{org}/{repo}@{unquote(revision)}/{unquote('/'.join(path))}"
        allowed = not self.token or exchange.request.header("authorization") == f"Bearer {self.token}"
        if self.refusal is not None:
            await exchange.answer(self.refusal[0], b"<html>", self.refusal[1])
        elif not allowed:
            await exchange.answer(401, b"", {"x-error-code": "RepoNotFound"})
        elif key not in self.files:
            await exchange.answer(404, b"Entry not found", {"x-error-code": self._lacking(key)})
        elif self.files[key].large:
            kept = self.files[key]
            fields = {
                "location": f"{self.store.base_url}/{key}?signature=secret",
                "x-repo-commit": "a" * 40,
                "x-linked-size": str(len(kept.content) if kept.linked_size is None else kept.linked_size),
            }
            if kept.linked_sha256 != "":
                fields["x-linked-etag"] = f'"{kept.linked_sha256 or kept.sha256}"'
            await exchange.answer(302, b"", fields)
        else:
            await self._send(exchange, self.files[key])

    def _lacking(self, key: str) -> str:
        repository, _, rest = key.partition("@")
        revisions = [known for known in self.files if known.startswith(f"{repository}@")]
        if not revisions:
            return "RepoNotFound"
        revision = rest.partition("/")[0]
        return "EntryNotFound" if any(f"@{revision}/" in known for known in revisions) else "RevisionNotFound"

    async def serve(self, exchange: Exchange) -> None:
        await exchange.body()
        if self.page is not None:
            await exchange.answer(200, self.page, {"content-type": "text/html"})
            return
        await self._send(exchange, self.files[exchange.request.path.removeprefix("/").partition("?")[0]])

    async def _send(self, exchange: Exchange, kept: Kept) -> None:
        total, begin = len(kept.content), 0
        asked = exchange.request.header("range")
        same = not self.if_range or exchange.request.header("if-range") in (None, kept.validator)
        fields = {"etag": kept.validator, "accept-ranges": "bytes", "content-type": "application/octet-stream"}
        if self.store_claims:
            fields["x-linked-etag"] = f'"{kept.sha256}"'
        status = 200
        if asked is not None and self.ranges and same:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= total:
                await exchange.answer(416, b"", {"content-range": f"bytes */{total}"})
                return
            status = 206
            fields["content-range"] = f"bytes {begin}-{total - 1}/{total}"
        if self.sized:
            fields["content-length"] = str(total - begin)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await exchange.write(f"HTTP/1.1 {status} Fake\r\n{lines}\r\n".encode())
        await self._body(exchange, kept.content[begin:])

    async def _body(self, exchange: Exchange, body: bytes) -> None:
        if self.hold_after is not None:
            await exchange.write(body[: self.hold_after])
            await asyncio.Event().wait()
        if self.cut_after and (least := self.cut_after.pop(0)) < len(body):
            await exchange.write(body[:least])
            exchange.cut()
            return
        await exchange.write(body)
        if not self.sized:
            exchange.cut()
