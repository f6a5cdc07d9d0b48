"""What all providers have in common that speak to one HTTP endpoint: its address, its key, and calls that ask it for facts.

The law: an upstream may be dead, slow, lying or deny our key; each is its own clear error within a bound of time and of bytes, and
none of them says our key. The caller's key never goes to an upstream; ours stands only in the endpoint's header fields.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from config.forms import Secret
from config.schema import ProviderConfig

from .contract import Loader, Offer, Request, Response, Server
from .errors import UpstreamBroke, UpstreamKeyRefused, UpstreamRefused, UpstreamTimeout
from .pricing import Price
from .transport import Endpoint

# A catalogue of several hundred models with descriptions is about 1 MB.
ANSWER_MAX_BYTES = 16 << 20
ANSWER_WITHIN_S = 10.0  # for one such call, from connecting to the last byte
_SAID_CHARS = 200  # of an upstream's own words in a message of ours
_UNRESOLVED = Secret("auto")  # `config.load` puts what the environment says in its place; without it there is none

_T = TypeVar("_T")


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider must know of the machine we run on."""

    state_dir: Path  # for what is to outlive a restart
    gpus: Mapping[
        str, int
    ] = {}  # device → all its bytes, the one that servers use first first; {}: none that we can see


class Remote:
    """One upstream. A kind derives from it and says what its catalogue looks like.

    Args:
        config: with `base_url` set.
        base_url: in place of the configuration's, where the kind's API does not begin there.
        headers: sent with every request; the kind's way of showing our key among them. The operator's own come after and win.
    Raises:
        ValueError: the address, the proxy's or the file of certificates cannot be used; names the provider, shows no secret.
    """

    kind = ""
    loader: Loader | None = None
    server: Server | None = None
    routes: frozenset[bytes] | None = None
    tagged = False
    variants: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        config: ProviderConfig,
        *,
        base_url: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.name = name
        self.prices = {model: Price(**price) for model, price in config.prices.items()}
        own = {key.lower().encode(): value.reveal().encode() for key, value in config.headers.items()}
        try:
            self.endpoint = Endpoint(
                config.base_url if base_url is None else base_url,
                source=name,
                headers=tuple({**dict(headers), **own}.items()),
                connect_timeout_s=config.connect_timeout_s,
                ssl_context=ssl_context(config.ca_file) if config.ca_file else None,
                proxy=None if config.proxy == _UNRESOLVED else config.proxy,
            )
        except ValueError as error:
            raise ValueError(f"providers.{name}: {error}") from None

    async def catalogue(self) -> Sequence[Offer]:
        """As `contract.Provider`. Every kind has its own."""
        raise NotImplementedError

    async def send(self, request: Request) -> Response:
        """Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke."""
        return await self.endpoint.send(request)

    async def aclose(self) -> None:
        await self.endpoint.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        shape: type[_T],
        body: object = None,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        within_s: float = ANSWER_WITHIN_S,
    ) -> _T:
        """One call for facts: JSON in, JSON of this shape out.

        Args:
            headers: for this call; the endpoint's own of the same name win.
        Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamKeyRefused (401, 403), UpstreamRefused (any other error status,
            with its own words), UpstreamBroke (no JSON, another shape, too much of it, cut off).
        """
        content = b"" if body is None else msgspec.json.encode(body)
        fields = [(b"accept", b"application/json"), *headers]
        if content:
            fields.append((b"content-type", b"application/json"))
        request = Request(method=method.encode(), path=path.encode(), headers=fields, body=content)
        try:
            async with asyncio.timeout(within_s):
                status, kind, data = await self._exchange(request)
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self.name} did not answer {method} {path} within {within_s:g} s", source=self.name
            ) from None
        if status >= 400:
            raise self._refusal(status, data, f"{method} {path}")
        if not 200 <= status < 300:
            raise UpstreamBroke(
                f"{self.name} answered {method} {path} with status {status}: is base_url right?", source=self.name
            )
        return self._read(data, kind, shape, f"{method} {path}")

    async def _exchange(self, request: Request) -> tuple[int, bytes, bytes]:
        response = await self.endpoint.send(request)
        try:
            kind = next((value for name, value in response.headers if name == b"content-type"), b"")
            return response.status, kind, await response.read(ANSWER_MAX_BYTES)
        finally:
            response.close()

    def _refusal(self, status: int, data: bytes, what: str) -> UpstreamKeyRefused | UpstreamRefused:
        said = words_of(data)
        because = f": {said}" if said else ""
        if status in (401, 403):
            return UpstreamKeyRefused(
                f"{self.name} does not take our key (status {status}): set providers.{self.name}.api_key{because}",
                source=self.name,
            )
        return UpstreamRefused(
            f"{self.name} answered {what} with status {status}{because}", source=self.name, status=status, body=data
        )

    def _read(self, data: bytes, kind: bytes, shape: type[_T], what: str) -> _T:
        try:
            return msgspec.json.decode(data, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if kind.partition(b";")[0].strip().lower() == b"text/html" or data.lstrip()[:1] == b"<":
                text = f"{self.name} answered {what} with a web page instead of JSON: is base_url right?"
            else:
                text = f"{self.name} answered {what} with something else than its API's JSON: {error}"
            raise UpstreamBroke(text, source=self.name, detail=repr(data[:_SAID_CHARS])) from None


def bearer(config: ProviderConfig) -> tuple[tuple[bytes, bytes], ...]:
    """Our key as `Authorization: Bearer …`, nothing without one."""
    key = config.api_key
    return () if key is None else ((b"authorization", b"Bearer " + key.reveal().encode()),)


def ssl_context(ca_file: str) -> ssl.SSLContext:
    """Trust in the certificates of this file (PEM), and in no others. Raises: ValueError: it cannot be read or holds none."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ValueError(f"ca_file {ca_file} holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(f"ca_file {ca_file} cannot be read: {error.strerror}") from None


def words_of(body: bytes) -> str:
    """What an error body says, for people: OpenAI's, Anthropic's and Ollama's envelopes; "" where it is none of them."""
    try:
        said = msgspec.json.decode(body, type=_Said).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    text = said if isinstance(said, str) else said.message
    return " ".join(text.split())[:_SAID_CHARS]


class _Words(msgspec.Struct):
    message: str = ""


class _Said(msgspec.Struct):
    error: str | _Words
