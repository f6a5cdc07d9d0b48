"""Asks a model hub for one file, whole or from where an earlier answer ended, and says in one sentence what is wrong.

The law: the token goes to the hub's own address and nowhere else (httpx drops it where a redirect leads to another host), and
is never shown; what the hub says of a file (its checksum, its size) counts only from the hub's own answers.

Sources: huggingface_hub (file_download.py, constants.py, utils/_http.py): GET /ORG/REPO/resolve/REVISION/FILE answers with a
redirect whose X-Linked-Etag is the SHA-256 of a large file (LFS) and whose X-Linked-Size is its size; X-Error-Code is one of
RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo. RFC 9110, 14 (ranges) and 13.1.5 (If-Range).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from config.presets import is_loopback
from providers.sources import MAIN, FetchError, HubFile

USUAL = "https://huggingface.co"
IDLE_S = 60.0  # between two pieces: a slow line still sends something every minute
CONNECT_S = 10.0  # name, connection and TLS, over a proxy too
GO_ON = "run it again, it goes on where it was"

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)
_SIZE = re.compile(r"\d{1,18}", re.ASCII)
_ADVICE = "check this machine's connection (HTTPS_PROXY, HF_ENDPOINT), or put a GGUF file into the models folder"


class Cut(FetchError):
    """The answer ended before the file did, for no reason of ours: what has come is good, and the rest may be asked for."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way."""

    starts_at: int  # the first byte's place in the file; the range that was asked for was refused where it is -1
    size_bytes: int  # of the whole file
    sha256: str  # of the whole file; "": the hub does not say
    validator: str  # for a later If-Range; "": none that is strong enough
    pieces: AsyncGenerator[bytes, None]  # raises FetchError


class Hub:
    """One hub and the connections to it; an asynchronous context.

    Args:
        environ: for HF_ENDPOINT and HF_TOKEN. Proxies and certificates are those of this process's environment.
        idle_s: at most, between two pieces of an answer.
    Raises: FetchError: HF_ENDPOINT or HF_TOKEN cannot be used.
    """

    def __init__(self, environ: Mapping[str, str], idle_s: float = IDLE_S) -> None:
        self._url = _checked_url(environ.get("HF_ENDPOINT", "").strip() or USUAL)
        self._headers = {"accept-encoding": "identity", "user-agent": "roundhouse"}
        token = environ.get("HF_TOKEN", "").strip()
        if not (token.isascii() and token.isprintable()):
            raise FetchError("HF_TOKEN holds characters that no token has: set it anew")
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._has_token = bool(token)
        self._idle_s = idle_s
        self.host = httpx.URL(self._url).netloc.decode()
        # a proxy of the environment cannot reach this machine's loopback, and some send it there all the same
        local = is_loopback(urlsplit(self._url).hostname or "")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(idle_s, connect=CONNECT_S), follow_redirects=True, trust_env=not local
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def opened(self, file: HubFile, held: int = 0, validator: str = "") -> AsyncGenerator[Answer, None]:
        """The file from its byte `held` on, or from its beginning where the hub thinks better of it.

        Args:
            validator: of the answer that `held` bytes are of.
        Raises: FetchError; Cut: the connection broke.
        """
        headers = dict(self._headers)
        if held:
            headers["range"] = f"bytes={held}-"
            if validator:
                headers["if-range"] = validator
        try:
            async with self._client.stream("GET", self._address(file), headers=headers) as response:
                if response.status_code not in (200, 206, 416):
                    raise self._refused(response, file)
                yield self._answer(response, file)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(error) from None

    def _address(self, file: HubFile) -> str:
        """A branch's name may hold slashes; the hub takes them encoded only."""
        revision, path = quote(file.revision, safe=""), quote(file.file)
        return f"{self._url}/{file.org}/{file.repo}/resolve/{revision}/{path}"

    def _answer(self, response: httpx.Response, file: HubFile) -> Answer:
        own = [answer for answer in (*response.history, response) if answer.url.netloc.decode() == self.host]
        linked = [(answer.headers.get("x-linked-etag", ""), answer.headers.get("x-linked-size", "")) for answer in own]
        etag = next((_unquoted(etag) for etag, _ in reversed(linked) if etag), "")
        size = next((int(size) for _, size in reversed(linked) if _SIZE.fullmatch(size)), None)
        starts_at, total = _extent(response)
        if starts_at >= 0:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchError(f"{response.url.host} sends {file} compressed, as nobody asked it to: try HF_ENDPOINT")
            if size is not None and total not in (None, size):
                raise FetchError(
                    f"{self.host} says that {file} has {size} bytes, and {response.url.host} sends one of {total}: try again later"
                )
        size = total if size is None else size
        if size is None and starts_at >= 0:
            raise FetchError(f"{response.url.host} does not say how large {file} is: try another HF_ENDPOINT")
        strong = response.headers.get("etag", "")
        return Answer(
            starts_at=starts_at,
            size_bytes=size or 0,
            sha256=etag if _SHA256.fullmatch(etag) else "",
            validator=strong if strong.startswith('"') and strong.isascii() else "",
            pieces=self._pieces(response),
        )

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        except httpx.HTTPError as error:
            raise self._failed(error) from None

    def _refused(self, response: httpx.Response, file: HubFile) -> FetchError:
        """There are five cases: elsewhere, no right, not there, too much, anything else."""
        status, code = response.status_code, response.headers.get("x-error-code", "")
        repository, host = f"{file.org}/{file.repo}", response.url.netloc.decode()
        if host != self.host:
            text = f"{host}, to which {self.host} leads, answered with status {status}: {GO_ON}"
        elif code == "GatedRepo":
            text = f"{repository} is gated: accept its licence on its page at {host}, and set HF_TOKEN to a token of that account"
        elif code == "RevisionNotFound":
            text = f"{repository} has no revision '{file.revision}' at {host}"
        elif code == "EntryNotFound":
            text = f"{repository} has no file '{file.file}' in revision '{file.revision}' at {host}"
        elif status in (401, 403) and self._has_token:
            text = (
                f"{host} does not let HF_TOKEN read {repository} (status {status}): it is wrong, or has no right to it"
            )
        elif status in (401, 403):
            text = (
                f"{host} does not show {repository} to everybody (status {status}), or it is not there: correct the name; for a "
                "private or gated one set HF_TOKEN, and accept its licence where it has one"
            )
        elif code == "RepoNotFound":
            text = f"there is no repository {repository} at {host}; for a private one set HF_TOKEN"
        elif status == 404:
            text = f"{host} has no file '{file.file}' of {repository}" + (
                f" in revision '{file.revision}'" if file.revision != MAIN else ""
            )
        elif status == 429:
            wait = response.headers.get("retry-after", "")
            text = (
                f"{host} asks us to wait{f' {wait} s' if _SIZE.fullmatch(wait) else ''} (status 429): run it again then"
            )
        else:
            text = f"{host} answered with status {status}: {GO_ON} later"
        return FetchError(text)

    def _failed(self, error: httpx.HTTPError | httpx.InvalidURL) -> FetchError:
        """What httpx's errors come to. Their own text may hold a signed address: it is for the log."""
        host, detail = self.host, f"{type(error).__name__}: {error}"
        if isinstance(error, httpx.RequestError):
            with contextlib.suppress(RuntimeError):  # it never came to a request
                host = error.request.url.host
        match error:
            case httpx.ProxyError():
                return FetchError(f"the proxy of this machine's environment does not lead to {host}: {_ADVICE}")
            case httpx.ConnectError() if "CERTIFICATE" in str(error):
                return FetchError(
                    f"the certificate of {host} is not accepted: set SSL_CERT_FILE to your organisation's",
                    detail=detail,
                )
            case httpx.ConnectError() | httpx.ConnectTimeout():
                return FetchError(f"no connection to {host}: {_ADVICE}", detail=detail)
            case httpx.TimeoutException():
                return FetchError(f"{host} has sent nothing for {self._idle_s:g} s: {GO_ON}", detail=detail)
            case httpx.TooManyRedirects() | httpx.InvalidURL() | httpx.UnsupportedProtocol():
                return FetchError(f"{host} leads nowhere: is HF_ENDPOINT right?", detail=detail)
            case _:
                return Cut(f"{host} broke off before the file was whole: {GO_ON}", detail=detail)


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """Where the answer begins in the file, and how large the whole is: None where it does not say. (-1, None): no such range."""
    length = response.headers.get("content-length", "")
    if response.status_code == 200:
        return 0, int(length) if _SIZE.fullmatch(length) else None
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code == 416 or match is None:
        return -1, None
    return int(match[1]), int(match[2])


def _unquoted(etag: str) -> str:
    return etag.removeprefix("W/").strip('"').lower()


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if (
        not valid
        or "@" in text
        or "?" in text
        or "#" in text
        or " " in text
        or not (text.isprintable() and text.isascii())
    ):
        raise FetchError("HF_ENDPOINT is no address: set it to one such as https://hub.example, without user and query")
    return text.rstrip("/")
