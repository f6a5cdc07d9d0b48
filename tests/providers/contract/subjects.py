"""What the contract is tested on: a provider with its upstream, whatever its kind.

Law: a subject says what its upstream can do; where it cannot, the case is skipped with the reason. What is expected of a provider
stands in the tests alone, and is the same for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import pytest

from config.forms import Secret
from config.schema import ProviderConfig
from providers import REMOTES
from providers.contract import Engine, EngineSpec, ProcessExit, Provider, Request, Response, Server
from providers.remote import Remote, Site
from tests.fakes import openrouter
from tests.providers.contract.wires import OPENAI, Trouble, Wire

if TYPE_CHECKING:
    from tests.providers.contract.engines import Engines
    from tests.providers.contract.rig import Rigs

KEY = openrouter.KEY  # the one that its fake takes; the others take any
CALLERS_KEY = "sk-the-callers-own-0123456789"
NAME = "contract-upstream"
FIRST, SECOND = "one ", "two "
WITHIN_S = 15.0  # a bound for what takes milliseconds: machines are busy


@dataclass(frozen=True)
class Place:
    """What a subject may use beside itself."""

    state_dir: Path
    dead_port: int
    engines: Engines
    rigs: Rigs


class Subject:
    """One provider under test. Made by `opened`."""

    id: ClassVar[str]
    kind: ClassVar[str]
    marks: ClassVar[Sequence[pytest.MarkDecorator]] = ()
    wire: ClassVar[Wire] = OPENAI
    words: ClassVar[Sequence[str]] = ("w0 ", "w1 ", "w2 ")  # the pieces of a streamed answer; (): nobody knows before
    at_once: ClassVar[int] = 20  # requests that it answers together in no time
    model = "fake"
    prompt = "hi"
    provider: Provider

    def __init__(self, place: Place) -> None:
        self.place = place
        self.path = self.wire.path
        self.more: dict[str, Any] = {}

    def opened(self) -> AbstractAsyncContextManager[Self]:
        """With its upstream up; nothing is left open after the block."""
        raise NotImplementedError

    def cannot(self, what: str) -> NoReturn:
        """Skip: this upstream cannot do what the case needs."""
        pytest.skip(f"{self.id}: {what}")

    # what is asked of it

    async def ready(self, trouble: Trouble | None = None) -> asyncio.Event | None:
        """Have the model in memory, and the next answer as `trouble` says.

        Returns: the gate behind which the rest of a PAUSE waits; None: there is none.
        """
        raise NotImplementedError

    async def sender(self) -> Provider | Engine:
        """Whom requests are given to: the engine, where there are engines."""
        return self.provider

    def request(
        self,
        *,
        stream: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
        first_byte_s: float | None = WITHIN_S,
        idle_s: float | None = WITHIN_S,
        model: str = "",
    ) -> Request:
        """A chat."""
        return Request(
            method=b"POST",
            path=self.path,
            headers=((b"content-type", b"application/json"), *headers),
            body=self.wire.body(model or self.model, self.prompt, stream=stream, **self.more),
            first_byte_s=first_byte_s,
            idle_s=idle_s,
        )

    async def send(self, request: Request) -> Response:
        """As residency's caller does."""
        return await (await self.sender()).send(request)

    async def answers(self, status: int, body: bytes, retry_after: str = "") -> None:
        """The next answer is exactly this."""
        self.cannot("its answers cannot be chosen")

    # what its upstream says

    async def arrived(self) -> None:
        """Wait until the upstream has a request."""
        raise NotImplementedError

    async def left(self) -> None:
        """Wait until the upstream has seen its caller leave, and neither side has anything in flight."""
        raise NotImplementedError

    async def seen(self) -> Sequence[tuple[str, str]]:
        """The header fields of the last chat, as the upstream got them."""
        raise NotImplementedError

    async def memory(self) -> set[str]:
        """What the upstream has in memory by its own word; engines of ours where it starts some."""
        return set()

    # other providers to the same upstream, or to none; closed with the subject

    def another(self, **config: Any) -> Provider:
        """With these keys of the configuration."""
        raise NotImplementedError

    def to_nobody(self) -> Provider:
        """To an address at which nobody listens."""
        raise NotImplementedError


class Remoted(Subject):
    """A provider that speaks to one endpoint."""

    unloads: ClassVar[bool] = True
    base_url: str
    remote: Remote

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.made: list[Provider] = []
        self.engine: Engine | None = None

    def another(self, **config: Any) -> Provider:
        keys: dict[str, Any] = {"base_url": self.base_url, "api_key": Secret(KEY), **config}
        site = Site(state_dir=self.place.state_dir / str(len(self.made)))
        made = REMOTES[self.kind](NAME, ProviderConfig(kind=self.kind, **keys), site)
        self.made.append(made)
        return made

    def to_nobody(self) -> Provider:
        return self.another(base_url=f"http://127.0.0.1:{self.place.dead_port}")

    def connect(self) -> None:
        """Make the provider under test."""
        self.provider = self.another()
        assert isinstance(self.provider, Remote)
        self.remote = self.provider

    async def closed(self) -> None:
        """Every provider is; nothing of theirs is in flight."""
        for made in self.made:
            await made.aclose()
            assert isinstance(made, Remote)
            assert made.endpoint.in_flight == 0
            assert made.endpoint.idle == 0

    async def sender(self) -> Provider | Engine:
        return self.engine or self.provider

    # servers only

    @property
    def server(self) -> Server:
        """The provider's."""
        assert self.provider.server is not None
        return self.provider.server

    def spec(self, model: str = "") -> EngineSpec:
        """Of a model there."""
        name = model or self.model
        return EngineSpec(target=f"{NAME}/{name}", alias="public", load_timeout_s=WITHIN_S, stop_timeout_s=WITHIN_S)

    async def load(self, model: str = "") -> Engine:
        """As residency does."""
        return await self.server.load(self.spec(model), never)

    async def load_behind(self) -> None:
        """Somebody else loads the model."""
        raise NotImplementedError

    async def unload_behind(self) -> None:
        """Somebody else unloads it."""
        raise NotImplementedError

    async def hold_loads(self) -> None:
        """Loads take a while from now on."""
        raise NotImplementedError

    async def loading(self) -> None:
        """Wait until it has begun to load."""
        raise NotImplementedError

    async def release_loads(self) -> None:
        """They end."""


def never(exited: ProcessExit) -> None:
    """Nobody calls this for a model in a server."""
    raise AssertionError(f"a model in a server has no process: {exited}")
