"""The subjects whose upstream is a fake of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar, Self

from tests.fakes.anthropic import FakeAnthropic, model
from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.ollama import FakeModel, FakeOllama
from tests.fakes.openrouter import FakeOpenRouter, entry
from tests.fakes.upstream import CUT, HOLD, RESET, AnswerStep, Exchange, FakeUpstream, speak_openai
from tests.providers.contract.subjects import FIRST, KEY, SECOND, WITHIN_S, Remoted
from tests.providers.contract.wires import ANTHROPIC, STREAM_HEAD, Trouble
from tests.providers.wire import OK, chunk

_FIELD = b"x-more: " + b"y" * 1000 + b"\r\n"


async def _endless_head(exchange: Exchange) -> None:
    await exchange.write(OK)
    while True:
        await exchange.write(_FIELD)
        await asyncio.sleep(0)


class Faked(Remoted):
    """What all of them share: the fake is a `FakeUpstream`, or has one."""

    upstream: FakeUpstream

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            await self.open_fake(stack)
            self.connect()
            try:
                yield self
            finally:
                await self.closed()
                await self.upstream.until(lambda: self.upstream.open_connections == 0)

    async def open_fake(self, stack: AsyncExitStack) -> None:
        """Sets `upstream` and `base_url`."""
        raise NotImplementedError

    async def ready(self, trouble: Trouble | None = None) -> asyncio.Event | None:
        if self.provider.server is not None and self.engine is None:
            self.engine = await self.load()
        if trouble is None:
            return None
        gate = asyncio.Event()
        if trouble is Trouble.ENDLESS_HEAD:
            self.upstream.queue_handler(_endless_head)
            return None
        first = STREAM_HEAD + chunk(self.wire.event(FIRST))
        rest = chunk(self.wire.event(SECOND)) + chunk(self.wire.last) + b"0\r\n\r\n"
        steps: dict[Trouble, Sequence[AnswerStep]] = {
            Trouble.SILENT: (HOLD,),
            Trouble.LONG: (first, HOLD),
            Trouble.PAUSE: (first, gate, rest),
            Trouble.CUT: (CUT,),
            Trouble.RESET: (RESET,),
            Trouble.CUT_BODY: (first, CUT),
            Trouble.RESET_BODY: (first, RESET),
            Trouble.CUT_PLAIN: (OK + b"content-length: 5000\r\n\r\n{", CUT),
            Trouble.GARBAGE: (b"\x00\xff this is no HTTP\r\n\r\n",),
            Trouble.GARBAGE_BODY: (first, b"no length\r\n"),
        }
        self.upstream.queue(*steps[trouble])
        if trouble in (Trouble.CUT, Trouble.RESET):  # once more: a kept connection that ends unused is no answer yet
            self.upstream.queue(*steps[trouble])
        return gate if trouble is Trouble.PAUSE else None

    async def answers(self, status: int, body: bytes, retry_after: str = "") -> None:
        extra = f"retry-after: {retry_after}\r\n".encode() if retry_after else b""
        self.upstream.queue(
            b"HTTP/1.1 %d Said\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, extra, len(body), body)
        )

    async def arrived(self) -> None:
        await self.upstream.until(lambda: self.upstream.in_flight > 0, WITHIN_S)

    async def left(self) -> None:
        await self.upstream.until(
            lambda: self.upstream.aborted == 1 and self.upstream.in_flight == 0 and self.remote.endpoint.in_flight == 0,
            WITHIN_S,
        )

    async def seen(self) -> Sequence[tuple[str, str]]:
        return next(one.headers for one in reversed(self.upstream.requests) if one.path.endswith(self.path.decode()))

    async def lists(self, answer: bytes, *, hold: bool = False) -> None:
        """Whatever is asked for from now on is answered with these bytes; `hold`: and then with silence."""

        async def lie(exchange: Exchange) -> None:
            await exchange.body()
            await exchange.write(answer)
            if b"connection: close" in answer:
                exchange.cut()
            if hold:
                await asyncio.Event().wait()

        self.upstream.script(lie)


class OpenAI(Faked):
    """Any OpenAI-compatible API: one that asks for a key, and has two models."""

    id = kind = "openai"

    async def open_fake(self, stack: AsyncExitStack) -> None:
        self.upstream = await stack.enter_async_context(FakeUpstream(model=self.model))
        self.upstream.script(self._speak)
        self.base_url = f"{self.upstream.base_url}/v1"

    async def _speak(self, exchange: Exchange) -> None:
        await exchange.body()
        names = (self.model, "other")
        if exchange.request.header("authorization") != f"Bearer {KEY}":
            await exchange.answer(401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})
        elif exchange.request.path == "/v1/models":
            await exchange.answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
        elif exchange.request.json().get("model") not in names:
            await exchange.answer(404, {"error": {"message": "no such model", "code": "model_not_found"}})
        else:
            await speak_openai(exchange)


class Anthropic(Faked):
    """Anthropic's."""

    id = kind = "anthropic"
    wire = ANTHROPIC
    model = "claude-one"

    async def open_fake(self, stack: AsyncExitStack) -> None:
        fake = FakeAnthropic(key=KEY, models=(model(self.model), model("claude-two")))
        self.upstream = await stack.enter_async_context(fake)
        self.base_url = self.upstream.base_url


class OpenRouter(Faked):
    """OpenRouter."""

    id = kind = "openrouter"
    model = "a/b"
    words = ("Hello", " there")

    async def open_fake(self, stack: AsyncExitStack) -> None:
        router = await stack.enter_async_context(FakeOpenRouter([entry(self.model), entry("a/free:free", "0", "0")]))
        self.upstream = router.upstream
        self.base_url = router.base_url


class Ollama(Faked):
    """Ollama."""

    id = kind = "ollama"
    model = "one:latest"
    fake: FakeOllama

    async def open_fake(self, stack: AsyncExitStack) -> None:
        self.fake = await stack.enter_async_context(FakeOllama(FakeModel(self.model), FakeModel("two:1b")))
        self.upstream = self.fake
        self.base_url = self.fake.base_url

    async def memory(self) -> set[str]:
        return {name for name, loaded in self.fake.loaded.items() if loaded.ready}

    async def load_behind(self) -> None:
        self.fake.load_behind(self.model)

    async def unload_behind(self) -> None:
        self.fake.unload_behind(self.model)

    async def hold_loads(self) -> None:
        self.fake.loading.clear()

    async def loading(self) -> None:
        await self.fake.until(lambda: bool(self.fake.loaded), WITHIN_S)

    async def release_loads(self) -> None:
        self.fake.loading.set()


class LmStudio(Faked):
    """LM Studio with REST v1."""

    id = "lmstudio"
    kind = "lmstudio"
    rest: ClassVar[str] = "v1"
    model = "qwen/one"
    fake: FakeLmStudio

    async def open_fake(self, stack: AsyncExitStack) -> None:
        self.fake = await stack.enter_async_context(FakeLmStudio(rest=self.rest, api_key=KEY))
        self.fake.add(self.model)
        self.fake.add("two")
        self.upstream = self.fake
        self.base_url = self.fake.base_url

    async def memory(self) -> set[str]:
        return {key for key in self.fake.models if self.fake.loaded(key)}

    async def load_behind(self) -> None:
        self.fake.load_behind(self.model)

    async def unload_behind(self) -> None:
        self.fake.unload_behind(self.model)

    async def hold_loads(self) -> None:
        self.fake.load_gate = asyncio.Event()

    async def loading(self) -> None:
        await self.fake.until(lambda: bool(self.fake.loads), WITHIN_S)

    async def release_loads(self) -> None:
        assert self.fake.load_gate is not None
        self.fake.load_gate.set()


class LmStudioV0(LmStudio):
    """LM Studio with REST v0 alone: it cannot be told to unload, and tells no sizes."""

    id = "lmstudio-v0"
    rest = "v0"
    unloads = False


FAKED: Sequence[type[Faked]] = (Ollama, LmStudio, LmStudioV0, OpenRouter, OpenAI, Anthropic)
