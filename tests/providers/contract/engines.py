"""The subjects that start engines: the fake engine by a command (kind `process`), a real small model by llama.cpp.

Law: bringing an engine up is the dear part, so one serves all cases that want the same of it; a case that kills it says so.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from providers import ENGINES
from providers.contract import Engine, EngineSpec, ProcessExit, Provider, Request
from providers.sweep import OWNER, find_marked, mark
from providers.warden import Warden
from tests.fakes.processes import ENGINE
from tests.providers.contract.subjects import NAME, WITHIN_S, Place, Subject
from tests.providers.contract.wires import Trouble

_LONG = "3600"  # seconds; nobody waits so long
_LOOK_AGAIN_S = 0.01
_FLAGS: dict[Trouble | None, tuple[str, ...]] = {
    None: ("--tokens", "3"),
    Trouble.SILENT: ("--first-s", _LONG),
    Trouble.LONG: ("--gap-s", _LONG),
    Trouble.PAUSE: ("--gap-s", _LONG),
    Trouble.CUT: ("--tokens", "3"),
    Trouble.CUT_BODY: ("--die-mid-stream", "1"),
}
_LETHAL = frozenset((Trouble.CUT, Trouble.CUT_BODY))


class Engines:
    """Engines that are up, by what they are."""

    def __init__(self) -> None:
        self.warden = Warden()
        self._up: dict[tuple[str, Trouble | None], Engine] = {}

    async def get(self, provider: Provider, spec: EngineSpec, trouble: Trouble | None, *, keep: bool = True) -> Engine:
        """One that nobody has killed; `keep`: for the next case, too."""
        key = (provider.kind, trouble)
        engine = self._up.get(key)
        if engine is None:
            assert provider.loader is not None
            engine = await provider.loader.load(spec, ignore)
            if keep:
                self._up[key] = engine
        return engine

    async def aclose(self) -> None:
        """Stop them all."""
        await asyncio.gather(*(engine.stop() for engine in self._up.values()))
        await self.warden.aclose()


def ignore(exited: ProcessExit) -> None:
    """Of no interest."""


class Started(Subject):
    """What both share."""

    engine: Engine

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.warden = place.engines.warden

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Self]:
        self.provider = self.another()
        yield self
        await self.provider.aclose()

    def another(self, **config: Any) -> Provider:
        spec = self.spec()
        return ENGINES[self.kind](NAME, {spec.target: spec}, self.warden, frozenset(), None)

    def to_nobody(self) -> Provider:
        return self.cannot("it has no address but its engines'")

    def spec(self, trouble: Trouble | None = None) -> EngineSpec:
        """How its one model is started."""
        raise NotImplementedError

    async def load(self, on_exit: Callable[[ProcessExit], None]) -> Engine:
        """One of its own for this case."""
        assert self.provider.loader is not None
        return await self.provider.loader.load(self.spec(), on_exit)

    async def sender(self) -> Engine:
        return self.engine

    async def memory(self) -> set[str]:
        return {str(pid) for pid in find_marked(mark(OWNER, self.warden.owner))}

    async def ask(self, path: bytes) -> Any:
        """A GET of its engine."""
        response = await self.engine.send(Request(method=b"GET", path=path, headers=(), body=b""))
        try:
            return json.loads(await response.read(1 << 20))
        finally:
            response.close()


class Process(Started):
    """The operator's own command."""

    id = kind = "process"
    words: ClassVar[Sequence[str]] = ("token0 ", "token1 ", "token2 ")
    model = "tiny"

    def spec(self, trouble: Trouble | None = None) -> EngineSpec:
        return EngineSpec(
            target=f"{NAME}/{self.model}",
            alias=self.model,
            command=(*ENGINE, "--port", "${port}", "--model", "${alias}", *_FLAGS[trouble]),
            load_timeout_s=WITHIN_S,
        )

    async def ready(self, trouble: Trouble | None = None) -> asyncio.Event | None:
        if trouble not in _FLAGS:
            self.cannot("the fake engine has no such fault")
        alike = Trouble.LONG if trouble is Trouble.PAUSE else trouble
        self.engine = await self.place.engines.get(
            self.provider, self.spec(trouble), alike, keep=trouble not in _LETHAL
        )
        if trouble is Trouble.CUT:  # over a new connection: one that is kept and ends unused is no answer yet
            self.path = b"/die"
        else:
            self.aborted_before = (await self.ask(b"/stats"))["aborted"]
        return None

    async def arrived(self) -> None:
        await self._until(lambda stats: stats["in_flight"] == 1)

    async def left(self) -> None:
        await self._until(lambda stats: stats["aborted"] == self.aborted_before + 1 and stats["in_flight"] == 0)

    async def _until(self, condition: Callable[[Any], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition(await self.ask(b"/stats")):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def seen(self) -> Sequence[tuple[str, str]]:
        return self.cannot("its engine has no key, and does not tell what it was sent")


class LlamaCpp(Started):
    """The embedded engine with a real model."""

    id = kind = "llama_cpp"
    marks = (pytest.mark.engine,)
    words: ClassVar[Sequence[str]] = ()
    at_once = 4  # it has one slot, and thinks
    model = "small"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.source = a_model()
        self.more = {"max_tokens": 4, "ignore_eos": True}

    def spec(self, trouble: Trouble | None = None) -> EngineSpec:
        return EngineSpec(
            target=f"{NAME}/{self.model}", alias=self.model, source=self.source, context=512, load_timeout_s=60.0
        )

    async def ready(self, trouble: Trouble | None = None) -> asyncio.Event | None:
        if trouble not in (None, Trouble.SILENT, Trouble.LONG):
            self.cannot("a real engine has no such fault")
        if trouble is Trouble.LONG:
            self.more["max_tokens"] = 400
        elif trouble is Trouble.SILENT:  # it goes on with a plain answer for a caller who has left: not too long a one
            self.more["max_tokens"] = 60
        self.engine = await self.place.engines.get(self.provider, self.spec(), None)
        return None

    async def arrived(self) -> None:
        await self._until(processing=True)

    async def left(self) -> None:
        await self._until(processing=False)

    async def _until(self, *, processing: bool) -> None:
        async with asyncio.timeout(WITHIN_S):
            while (await self.ask(b"/slots"))[0]["is_processing"] is not processing:  # noqa: ASYNC110 - as above
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def seen(self) -> Sequence[tuple[str, str]]:
        return self.cannot("a real engine does not tell what it was sent")


def a_model() -> Path:
    """A small real model; skips without one."""
    named = os.environ.get("ROUNDHOUSE_TEST_GGUF")
    if named:
        return Path(named)
    folder = Path("~/.local/share/roundhouse/models").expanduser()
    found = sorted(folder.glob("*.gguf"), key=lambda path: path.stat().st_size)
    if not found:
        pytest.skip("no model to load: `roundhouse pull` fetches one, or set ROUNDHOUSE_TEST_GGUF to a GGUF file")
    return found[0]


STARTED: Sequence[type[Started]] = (LlamaCpp, Process)
