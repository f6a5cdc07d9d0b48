"""LM Studio: its models, what it holds, its sizes, and requests to it; with REST v1 and with REST v0 alone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.forms import Secret
from config.schema import ProviderConfig
from providers import REMOTES
from providers.contract import EngineSpec, Offer, Request
from providers.errors import LoadFailed, UpstreamUnreachable
from providers.lmstudio import LmStudioProvider
from providers.placement import Placement
from providers.pricing import FREE, Price
from providers.remote import Site
from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.upstream import Exchange

REST = pytest.mark.parametrize("rest", ["v1", "v0"])
ELSEWHERE = 9 << 30


def provider_of(base_url: str, *, gpu: str | None = None, **config: Any) -> LmStudioProvider:
    return LmStudioProvider(
        "studio",
        ProviderConfig(kind="lmstudio", base_url=base_url, **config),
        Site(state_dir=Path("/nowhere"), gpus={gpu: 0} if gpu else {}),
    )


@asynccontextmanager
async def studio_with(
    rest: str = "v1", *, config: Mapping[str, Any] | None = None, gpu: str | None = None, **options: Any
) -> AsyncGenerator[tuple[FakeLmStudio, LmStudioProvider]]:
    """An LM Studio with two models, and a provider that knows its address. Nothing is left open after the block."""
    async with FakeLmStudio(rest=rest, **options) as studio:
        studio.add("qwen/qwen3-4b", size_bytes=1000, architecture="qwen3", vision=True, reasoning=True)
        studio.add("nomic-embed", size_bytes=100, kind="embedding", parameters=None, max_context_length=2048)
        provider = provider_of(studio.base_url, gpu=gpu, **(config or {}))
        try:
            yield studio, provider
        finally:
            await provider.aclose()
            await studio.until(lambda: studio.open_connections == 0)


def spec(model: str = "qwen/qwen3-4b", **fields: Any) -> EngineSpec:
    return EngineSpec(target=f"studio/{model}", alias=model, **fields)


def chat(model: str, *, stream: bool = False) -> Request:
    body = b'{"model": "%b", "messages": [{"role": "user", "content": "hi"}], "stream": %b}'
    return Request(
        method=b"POST",
        path=b"/v1/chat/completions",
        headers=((b"content-type", b"application/json"),),
        body=body % (model.encode(), b"true" if stream else b"false"),
    )


def expected(weights_bytes: int, gpu: str | None = None) -> Mapping[str, int]:
    return Placement(None, gpu).expected(weights_bytes)


# ------------------------------------------------------------ catalogue


async def test_the_v1_catalogue_says_all_that_the_server_says() -> None:
    """Sizes, families, parameters, quantisation, context and capabilities come from REST v1, in the contract's words."""
    async with studio_with("v1") as (_, provider):
        offers = await provider.catalogue()

    assert offers == [
        Offer(
            name="qwen/qwen3-4b",
            context_length=8192,
            capabilities=("chat", "completion", "tools", "vision", "reasoning"),
            size_bytes=1000,
            family="qwen3",
            parameters="4B",
            quantization="Q4_K_M",
            price=FREE,
        ),
        Offer(
            name="nomic-embed",
            context_length=2048,
            capabilities=("embedding",),
            size_bytes=100,
            quantization="Q4_K_M",
            price=FREE,
        ),
    ]


async def test_the_v0_catalogue_leaves_open_what_v0_does_not_say() -> None:
    """REST v0 tells neither sizes nor parameters nor reasoning: they stay empty."""
    async with studio_with("v0") as (_, provider):
        offers = await provider.catalogue()

    assert offers == [
        Offer(
            name="qwen/qwen3-4b",
            context_length=8192,
            capabilities=("chat", "completion", "tools", "vision"),
            family="qwen3",
            quantization="Q4_K_M",
            price=FREE,
        ),
        Offer(
            name="nomic-embed",
            context_length=2048,
            capabilities=("embedding",),
            family="llama",
            quantization="Q4_K_M",
            price=FREE,
        ),
    ]


async def test_missing_and_null_facts_stay_empty() -> None:
    """A model of which only the key is told is offered with its name alone; one of unknown type claims no ability."""

    async def few(exchange: Exchange) -> None:
        nulls = dict.fromkeys(("architecture", "quantization", "size_bytes", "params_string", "loaded_instances"))
        nulls |= dict.fromkeys(("max_context_length", "capabilities", "description"))
        decision = {"key": "c", "type": "decision", "quantization": {"name": None}, "capabilities": {"vision": None}}
        await exchange.answer(200, {"models": [{"key": "a"}, {"key": "b", **nulls}, decision]})

    async with studio_with() as (studio, provider):
        studio.lies["/api/v1/models"] = few
        assert await provider.catalogue() == [Offer(name=name, price=FREE) for name in "abc"]
        assert await provider.held() == []


@REST
@pytest.mark.parametrize("unknown_status", [200, 404, 405])
async def test_the_api_is_found_however_an_unknown_path_is_answered(rest: str, unknown_status: int) -> None:
    """LM Studio answers 200 with an error on paths that it does not have; 404 and 405 mean the same."""
    async with studio_with(rest, unknown_status=unknown_status) as (_, provider):
        assert provider.unloads  # nothing is known yet
        assert [offer.name for offer in await provider.catalogue()] == ["qwen/qwen3-4b", "nomic-embed"]
        assert provider.unloads == (rest == "v1")


@REST
async def test_the_api_that_was_found_is_remembered(rest: str) -> None:
    """After the first look each look is one GET."""
    async with studio_with(rest) as (studio, provider):
        await provider.catalogue()
        before = len(studio.requests)
        await provider.held()
        await provider.catalogue()

        assert [one.path for one in studio.requests[before:]] == [f"/api/{rest}/models"] * 2


async def test_the_api_is_looked_for_again_after_an_error() -> None:
    """An LM Studio that was updated and started again is told to unload; one that was exchanged for an older one is not."""
    async with studio_with("v0") as (studio, provider):
        await provider.catalogue()
        assert not provider.unloads
        await studio.stop()
        with pytest.raises(UpstreamUnreachable):
            await provider.held()
        assert not provider.unloads  # an error alone tells nothing

        studio.rest = "v1"
        await studio.__aenter__()
        await provider.held()
        assert provider.unloads

        studio.rest = "v0"  # at once: the list that it had answers no more
        assert [offer.name for offer in await provider.catalogue()] == ["qwen/qwen3-4b", "nomic-embed"]
        assert not provider.unloads


@REST
async def test_looking_loads_nothing(rest: str) -> None:
    """Catalogue and held ask lists only, although any inference request would load."""
    async with studio_with(rest) as (studio, provider):
        await provider.catalogue()
        await provider.held()

        assert studio.loads == []
        assert all(one.method == "GET" for one in studio.requests)


async def test_the_configuration_restricts_what_is_offered() -> None:
    """Of `models` those are offered that are there."""
    async with studio_with(config={"models": ("nomic-embed", "absent")}) as (_, provider):
        assert [offer.name for offer in await provider.catalogue()] == ["nomic-embed"]


async def test_the_operators_price_wins() -> None:
    """What runs on our own machines is free unless the operator has put a price on it."""
    dear = {"qwen/qwen3-4b": {"prompt": Decimal("0.1"), "completion": Decimal("0.2")}}
    async with studio_with(config={"prices": dear}) as (_, provider):
        prices = [offer.price for offer in await provider.catalogue()]

    assert prices == [Price(prompt=Decimal("0.1"), completion=Decimal("0.2")), FREE]


async def test_a_key_listed_once_per_variant_is_one_model() -> None:
    """REST v1 may list a key for each downloaded file of it: offered once, with the copies of all."""

    async def twice(exchange: Exchange) -> None:
        entry: dict[str, object] = {"key": "m", "type": "llm", "size_bytes": 10}
        await exchange.answer(200, {"models": [{**entry, "loaded_instances": [{"id": name}]} for name in ("m", "m:2")]})

    async with studio_with() as (studio, provider):
        studio.lies["/api/v1/models"] = twice
        assert [offer.name for offer in await provider.catalogue()] == ["m"]
        assert [held.footprint for held in await provider.held()] == [expected(20)]


@pytest.mark.parametrize("path", ["", "/v1", "/api/v1", "/api/v0"])
async def test_the_address_may_name_one_of_its_apis(path: str) -> None:
    """What people paste as LM Studio's address works."""
    async with studio_with() as (studio, _):
        provider = provider_of(studio.base_url + path)
        assert len(await provider.catalogue()) == 2
        await provider.aclose()


def test_it_is_one_of_the_kinds() -> None:
    """The configuration's kind `lmstudio` makes this provider."""
    assert REMOTES["lmstudio"] is LmStudioProvider


# ------------------------------------------------------------ held


@REST
async def test_held_shows_what_anybody_has_loaded(rest: str) -> None:
    """A model loaded, and ejected, in the application is seen at the next look."""
    async with studio_with(rest) as (studio, provider):
        assert await provider.held() == []
        studio.load_behind("qwen/qwen3-4b", context_length=4096)
        (held,) = await provider.held()
        assert (held.name, held.exact, held.context_length) == ("qwen/qwen3-4b", False, 4096)
        studio.unload_behind("qwen/qwen3-4b")
        assert await provider.held() == []


@REST
async def test_copies_of_one_model_are_one_held(rest: str) -> None:
    """ "model:2" is the same model: its memory adds up; the smaller context is what any copy takes."""
    async with studio_with(rest) as (studio, provider):
        studio.load_behind("qwen/qwen3-4b", context_length=8192)
        studio.load_behind("qwen/qwen3-4b", context_length=2048)
        (held,) = await provider.held()

        assert (held.name, held.context_length) == ("qwen/qwen3-4b", 2048)
        assert held.footprint == (expected(2000) if rest == "v1" else {})
        assert [offer.name for offer in await provider.catalogue()] == ["qwen/qwen3-4b", "nomic-embed"]


async def test_a_copy_whose_model_is_not_listed_is_a_model() -> None:
    """With JIT off REST v0 lists what is loaded only: "m:2" alone is called so, and "m:x" is no copy at all."""

    async def alone(exchange: Exchange) -> None:
        entry = {"object": "model", "type": "llm", "state": "loaded"}
        await exchange.answer(200, {"object": "list", "data": [{**entry, "id": name} for name in ("m:2", "n", "n:x")]})

    async with studio_with("v0") as (studio, provider):
        studio.lies["/api/v0/models"] = alone
        assert [held.name for held in await provider.held()] == ["m:2", "n", "n:x"]


async def test_sizes_go_where_the_server_puts_models() -> None:
    """On this machine they count on its GPU, or in RAM; in memory of its own there; elsewhere nowhere."""
    for gpu, own, want in (
        (None, None, expected(1000)),
        ("gpu0", None, expected(1000, "gpu0")),
        ("gpu0", ELSEWHERE, {"studio": expected(1000)["ram"]}),
    ):
        async with studio_with(gpu=gpu, config={"memory": own}) as (studio, provider):
            studio.load_behind("qwen/qwen3-4b")
            (held,) = await provider.held()
            assert held.footprint == want
            assert provider.estimate(spec()) == want


# ------------------------------------------------------------ estimate


async def test_the_estimate_comes_from_the_list() -> None:
    """The size of the weights, as last seen, with what a runner needs beside them."""
    async with studio_with() as (_, provider):
        await provider.catalogue()
        assert provider.estimate(spec()) == expected(1000)
        assert provider.estimate(spec("nomic-embed")) == expected(100)
        assert provider.specs() == {}


async def test_without_a_size_the_operators_word_counts() -> None:
    """REST v0 tells no size: what is declared, else nothing; a size seen before an exchange of versions is kept."""
    async with studio_with("v0") as (studio, provider):
        await provider.catalogue()
        assert provider.estimate(spec()) == {}
        assert provider.estimate(spec(declared={"ram": 7})) == {"ram": 7}
        studio.load_behind("qwen/qwen3-4b")
        assert [held.footprint for held in await provider.held()] == [{}]

    async with studio_with("v1") as (studio, provider):
        await provider.catalogue()
        studio.rest = "v0"
        studio.load_behind("qwen/qwen3-4b")
        assert [held.footprint for held in await provider.held()] == [expected(1000)]
        assert provider.estimate(spec()) == expected(1000)


async def test_an_unknown_model_has_no_estimate() -> None:
    """Before its list was read nothing is known; after that the message names what is near."""
    async with studio_with() as (_, provider):
        with pytest.raises(LoadFailed, match="studio has not told yet which models it has"):
            provider.estimate(spec())
        await provider.catalogue()
        with pytest.raises(LoadFailed, match=r"has no model 'qwen3-4b' \(it has qwen/qwen3-4b\): download it there"):
            provider.estimate(spec("qwen3-4b"))


# ------------------------------------------------------------ requests


@REST
async def test_a_plain_answer_comes_through(rest: str) -> None:
    """Chat goes over the OpenAI-compatible API."""
    async with studio_with(rest) as (studio, provider):
        response = await provider.send(chat("qwen/qwen3-4b"))
        body = await response.read(1 << 20)
        response.close()

        assert response.status == 200
        assert b'"w0 w1 w2"' in body
        assert studio.requests[-1].path == "/v1/chat/completions"


@REST
async def test_a_streamed_answer_comes_through(rest: str) -> None:
    """Server-sent events pass as they are, to [DONE]."""
    async with studio_with(rest) as (_, provider):
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(piece)

        response = await provider.send(chat("qwen/qwen3-4b", stream=True))
        await response.pump(sink)
        response.close()

    text = b"".join(pieces)
    assert text.count(b"data: ") == 5  # three words, the end, [DONE]
    assert text.endswith(b"data: [DONE]\n\n")


async def test_an_unknown_model_is_the_servers_own_404() -> None:
    """LM Studio's status and words are passed through."""
    async with studio_with() as (_, provider):
        response = await provider.send(chat("gemma"))
        body = await response.read(1 << 20)
        response.close()

    assert response.status == 404
    assert b"Model 'gemma' not found" in body


async def test_only_paths_that_it_has_go_to_it() -> None:
    """Others would be answered with 200 and an error, which looks like success."""
    async with studio_with() as (_, provider):
        assert provider.routes is not None
        assert b"/v1/chat/completions" in provider.routes
        assert b"/v1/audio/speech" not in provider.routes


async def test_a_caller_who_leaves_cuts_the_request() -> None:
    """Cancelled, a request leaves no connection behind."""
    async with studio_with() as (studio, provider):
        studio.load_behind("qwen/qwen3-4b")
        studio.interval_s = 30.0
        task = asyncio.create_task(provider.send(chat("qwen/qwen3-4b", stream=True)))
        response = await task
        reading = asyncio.create_task(response.read(1 << 20))
        await studio.until(lambda: studio.in_flight == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        response.close()
        await studio.until(lambda: studio.aborted == 1 and studio.open_connections == 0)


async def test_our_key_goes_with_everything() -> None:
    """Lists, loads and requests carry the key as a bearer token."""
    async with studio_with(api_key="sk-lm-1", config={"api_key": Secret("sk-lm-1")}) as (studio, provider):
        await provider.catalogue()
        engine = await provider.load(spec(), lambda _: None)
        (await engine.send(chat("qwen/qwen3-4b"))).close()
        await engine.stop()

        assert {one.header("authorization") for one in studio.requests} == {"Bearer sk-lm-1"}


# ------------------------------------------------------------ its process


async def test_the_process_that_listens_is_its_root() -> None:
    """On this machine it is found by its port; never where its memory is not ours, and never ourselves."""
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    url = f"http://127.0.0.1:{int(await child.stdout.readline())}"
    try:
        assert provider_of(url).root_pid() == child.pid
        assert provider_of(url, memory=ELSEWHERE).root_pid() is None
        assert provider_of(url.replace("127.0.0.1", "192.0.2.1")).root_pid() is None
        async with studio_with() as (_, provider):
            assert provider.root_pid() is None  # ourselves
    finally:
        child.kill()
        await child.wait()
