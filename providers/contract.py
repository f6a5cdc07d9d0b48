"""What every provider gives, and the values that cross between providers and the gateway.

A provider speaks to one kind of upstream. One that can also bring models into memory has a `loader`;
residency decides when, the loader only carries it out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from providers.errors import ProviderError
from providers.pricing import Price

# device name ("ram", "gpu0", "gpu1", …) → bytes
Footprint = Mapping[str, int]


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How one target is brought into memory. Built from the configuration, never changed."""

    target: str  # "provider/upstream-name"
    alias: str  # the name the engine shall call itself in its answers: the model's public name
    source: Path | None = None  # a weights file, where the kind needs one
    command: tuple[
        str, ...
    ] = ()  # argv of the operator's own engine; may hold ${port}, ${source}, ${alias}, ${context}, ${slots}
    args: tuple[str, ...] = ()  # appended to the argv
    env: Mapping[str, str] = {}
    context: int = 4096  # tokens per slot
    slots: int = 1  # requests served at once
    threads: int = 0  # 0: let the provider split the cores
    device: str = "ram"  # where the weights go
    declared: Footprint | None = None  # the operator's own word on the size
    health: str = "/health"  # answers 200 when ready
    load_timeout_s: float = 300.0
    stop_timeout_s: float = 10.0


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One model an upstream offers, with what it says about it. What it does not say stays empty; nothing is guessed."""

    name: str  # the upstream's own model name
    context_length: int | None = None  # tokens
    # words of one vocabulary: chat, completion, embedding, tools, vision, audio, reasoning, structured_output, insert, rerank
    capabilities: tuple[str, ...] = ()
    size_bytes: int | None = None  # of the weights, on the upstream's disk
    family: str = ""  # "llama"
    parameters: str = ""  # "8.0B", as the upstream writes it
    quantization: str = ""  # "Q4_K_M"
    price: Price | None = None  # None: unknown, or it varies
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    supported_parameters: tuple[str, ...] = ()
    description: str = ""
    created: int = 0  # seconds since the epoch; 0: unknown


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One model in a server's memory, whoever loaded it."""

    name: str  # the upstream's own model name
    footprint: Footprint  # per device of ours; {} where its memory is not ours to count
    exact: bool  # True: the server said so; False: worked out from the size of its weights
    used: str = ""  # changes whenever somebody has used it (Ollama's expiry); "": the server does not tell
    context_length: int | None = None  # tokens, as loaded


class ProcessExit(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine's process ended."""

    exit_code: int  # negative: minus the signal's number, as subprocess has it
    log_lines: tuple[str, ...]  # the last lines it printed, oldest first
    asked: bool  # True: we stopped it


class Body(Protocol):
    """A request's body that is still coming in, or too large for the memory."""

    @property
    def length(self) -> int | None:
        """In bytes; None: not known, it is sent in chunks."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """From the first byte on, each time it is called; what it raises ends the request and is raised by `send`.

        An iterator that is given up halfway must need nobody to close it.
        """
        ...


class Request(msgspec.Struct, frozen=True):
    """One request on its way to an upstream. Header names are lower-case; hop-by-hop fields and the caller's key are gone."""

    method: bytes
    path: bytes  # below the upstream's base, with its query: b"/v1/chat/completions"
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes | Body
    first_byte_s: float | None = None  # from sent, all of it, to the answer's headers; None: no limit
    idle_s: float | None = None  # between two pieces of the answer, or with nothing of a `Body` taken; None: no limit
    # Where what is made of `headers` may be kept, under a mark of the maker's own: they often come again as the same list.
    made: dict[object, Any] | None = None


Sink = Callable[[bytes], Awaitable[None]]


class Response(Protocol):
    """An upstream's answer, from its headers on. The caller owns it and calls `close`, also when the client leaves."""

    status: int
    headers: list[tuple[bytes, bytes]]  # names in lower case, hop-by-hop fields still there
    # Where what is made of `headers`, the length aside, may be kept: this upstream has said the same before. None: it has not.
    made: dict[object, Any] | None

    def whole(self) -> bytes | None:
        """The body when it has all arrived already, else None; then use `read` or `pump`."""
        ...

    async def read(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamBroke: it ended early, or is larger than max_bytes.
            UpstreamTimeout: no further byte for idle_s.
        """
        ...

    async def pump(self, sink: Sink) -> None:
        """Hand on every piece of the body as it arrives; returns after the last.

        `sink` is driven straight from the socket's read event. It must not wait on anything but the client's own
        write buffer: when it does suspend, reading from the upstream pauses until it is done.

        Raises: as `read`; and whatever `sink` raises.
        """
        ...

    def close(self) -> None:
        """Done with it: the connection goes back to the pool when the message was complete, else it is cut. Idempotent."""
        ...


class Engine(Protocol):
    """Weights in memory, up and answering: a process of ours, or a model in somebody else's server."""

    spec: EngineSpec

    @property
    def pid(self) -> int | None:
        """The root of its process tree, for measuring; None: it lives in a server's processes, which tells its size."""
        ...

    def log_lines(self) -> tuple[str, ...]:
        """The last lines it printed, oldest first."""
        ...

    async def send(self, request: Request) -> Response:
        """Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke."""
        ...

    async def stop(self) -> None:
        """TERM, after the limit KILL; returns when no process of it is left. Safe to call twice; not cut short by cancellation."""
        ...


class Loader(Protocol):
    """Brings engines into memory and out of it."""

    def specs(self) -> Mapping[str, EngineSpec]:
        """Everything it can load that is configured, by target. A server's models are known from its catalogue: {}."""
        ...

    def estimate(self, spec: EngineSpec) -> Footprint:
        """What it will take, from the outside (a weights file's header). Blocking: call it in a thread. A `Server` answers at once
        from what its catalogue said last.

        Raises: LoadFailed: the weights are absent or unreadable.
        """
        ...

    async def load(self, spec: EngineSpec, on_exit: Callable[[ProcessExit], None]) -> Engine:
        """Start it; return once it answers. Cancelled or failing, it leaves no process behind.

        Args:
            on_exit: called at most once, after a successful load only, when the process has ended for whatever reason.
        Raises: LoadFailed, with exit code and last log lines.
        """
        ...


class Server(Loader, Protocol):
    """A loader whose engines live in somebody else's server (Ollama, LM Studio), which others use, load and unload too.

    What `load` gives back has no process: nobody calls its `on_exit`; residency learns of its end from `held`.
    `stop` of such an engine returns when the server no longer has it in memory, or raises ProviderError.
    """

    unloads: bool  # False: this server cannot be told to unload; its models leave by themselves and are never evicted

    async def held(self) -> Sequence[Held]:
        """What is in its memory now, whoever loaded it. One cheap call, made every second; loads nothing.

        Raises: ProviderError: UpstreamUnreachable when nobody listens any more, others when it does not say.
        """
        ...

    def adopt(self, spec: EngineSpec) -> Engine:
        """The engine of a model that is in its memory already."""
        ...

    def place(self, size_bytes: int) -> Footprint:
        """On which devices of ours so many bytes count: an operator's word on a model's size."""
        ...

    def root_pid(self) -> int | None:
        """The root of the server's processes when it runs on this machine and can be found: their memory is ours, too.

        Blocking: a scan of /proc. None: elsewhere, in a container, or not to be seen.
        """
        ...


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream says of our key there. Never the key."""

    label: str = ""
    usage_usd: Decimal | None = None
    limit_usd: Decimal | None = None  # None: no limit
    remaining_usd: Decimal | None = None
    free_tier: bool | None = None


class Pulling(msgspec.Struct, frozen=True, kw_only=True):
    """How far a download has come."""

    stage: str  # the upstream's own word: "pulling manifest", "downloading", "verifying", "success"
    done_bytes: int = 0
    total_bytes: int = 0  # 0: unknown


class Provider(Protocol):
    """One configured upstream, or one way of starting engines."""

    name: str
    kind: str
    loader: Loader | None
    server: Server | None  # the loader again, where it is one
    # paths of ours that it can serve (b"/v1/chat/completions"); None: any, its own answer tells
    routes: frozenset[bytes] | None
    tagged: bool  # its names are NAME:TAG, and NAME alone means NAME:latest (Ollama)
    variants: frozenset[str]  # suffixes that may follow any of its names: ":nitro" (OpenRouter)

    async def catalogue(self) -> Sequence[Offer]:
        """What it offers now. Loads nothing.

        Raises: ProviderError: UpstreamUnreachable, UpstreamTimeout, UpstreamKeyRefused, UpstreamBroke (it is not what it
            should be: a web page, truncated JSON, another API).
        """
        ...

    async def send(self, request: Request) -> Response:
        """To the upstream itself; a provider that starts engines has none and is sent to through its `Engine`.

        Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke.
        """
        ...

    async def aclose(self) -> None:
        """Close its connections. Engines are stopped by residency before."""
        ...


@runtime_checkable
class Puller(Protocol):
    """A provider that can fetch models to its own disk and delete them there."""

    def pull(self, name: str) -> AsyncGenerator[Pulling, None]:
        """Fetch a model; ends when it is there. Abandoned, the upstream stops (and can go on where it was).

        Raises: PullFailed: with the upstream's own words; ProviderError.
        """
        ...

    async def delete(self, name: str) -> None:
        """Raises: ProviderError; UpstreamRefused: it has no such model."""
        ...


@runtime_checkable
class Banker(Protocol):
    """A provider that tells how our key stands there."""

    async def account(self) -> Account:
        """Raises: ProviderError."""
        ...


@runtime_checkable
class Cached(Protocol):
    """A provider whose last catalogue stands in while it does not answer."""

    @property
    def stale(self) -> bool:
        """Whether the catalogue given last is an old one."""
        ...

    @property
    def cached_age_s(self) -> float | None:
        """How old it is then."""
        ...

    @property
    def trouble(self) -> ProviderError | None:
        """Why it is an old one."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A provider whose upstream tells its version."""

    async def version(self) -> str:
        """Raises: ProviderError."""
        ...
