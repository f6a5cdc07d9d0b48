"""LM Studio: loading and unloading, given up half-way, and by its older API that cannot unload."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from providers.contract import Request
from providers.errors import LoadFailed, ProviderError, UpstreamRefused, UpstreamTimeout
from providers.lmstudio import TTL_S, LmStudioProvider
from tests.fakes.lmstudio import FakeLmStudio
from tests.fakes.upstream import RESET, Exchange
from tests.providers.test_lmstudio import chat, spec, studio_with

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
LOAD, UNLOAD = "/api/v1/models/load", "/api/v1/models/unload"
MODEL = "qwen/qwen3-4b"


def never(_: object) -> None:
    raise AssertionError("a model in somebody else's server has no process that could end")


async def begun(studio: FakeLmStudio, provider: LmStudioProvider, **fields: Any) -> asyncio.Task[Any]:
    """A load that waits at the gate."""
    studio.load_gate = asyncio.Event()
    task = asyncio.create_task(provider.load(spec(**fields), never))
    await studio.until(lambda: studio.loads == [MODEL])
    return task


# ------------------------------------------------------------ loading


async def test_load_returns_when_the_model_is_in_memory() -> None:
    """Not before LM Studio says so; the engine then serves, and has no process of ours."""
    async with studio_with() as (studio, provider):
        task = await begun(studio, provider)
        assert not task.done()
        assert studio.load_gate is not None
        studio.load_gate.set()
        engine = await task

        assert studio.loaded(MODEL) == [MODEL]
        assert (engine.pid, engine.log_lines()) == (None, ())
        response = await engine.send(chat(MODEL))
        assert response.status == 200
        response.close()
        assert studio.loads == [MODEL]  # the request loaded nothing more


async def test_a_load_asks_for_the_model_and_nothing_else() -> None:
    """The context is LM Studio's own setting: our default for engines of ours is nobody's word. REST v1 refuses a TTL."""
    async with studio_with() as (studio, provider):
        await provider.load(spec(context=4096), never)

        assert studio.asked(LOAD) == [{"model": MODEL}]


async def test_what_is_loaded_already_is_not_loaded_twice() -> None:
    """Each load makes another copy, so none is asked for while one is there, whoever loaded it."""
    async with studio_with() as (studio, provider):
        studio.load_behind(MODEL, name="my own name")
        await provider.load(spec(), never)

        assert studio.loads == []
        assert studio.loaded(MODEL) == ["my own name"]


async def test_a_copy_that_the_list_hides_does_not_become_two() -> None:
    """Should its list not show what we loaded, the next load first unloads that; so does stop."""

    async def blind(exchange: Exchange) -> None:
        entry: dict[str, object] = {"key": MODEL, "type": "llm", "loaded_instances": []}
        await exchange.answer(200, {"models": [entry]})

    async with studio_with() as (studio, provider):
        studio.lies["/api/v1/models"] = blind
        await provider.load(spec(), never)
        engine = await provider.load(spec(), never)
        assert studio.loaded(MODEL) == [MODEL]
        assert studio.asked(UNLOAD) == [{"instance_id": MODEL}]

        await engine.stop()
        assert studio.loaded(MODEL) == []


async def test_an_embedding_model_loads_too() -> None:
    """REST v1 has one way for both."""
    async with studio_with() as (studio, provider):
        await provider.load(spec("nomic-embed"), never)

        assert studio.loaded("nomic-embed") == ["nomic-embed"]


@pytest.mark.parametrize("status", [400, 500])
async def test_a_load_that_fails_says_why_in_its_own_words(status: int) -> None:
    """What LM Studio gives as the reason stands in the message."""
    async with studio_with() as (studio, provider):
        studio.load_error = (status, "Model loading was stopped due to insufficient system resources")
        with pytest.raises(LoadFailed, match=f"studio could not load '{MODEL}': Model loading was stopped") as raised:
            await provider.load(spec(), never)

        assert raised.value.source == "studio"
        assert studio.asked(UNLOAD) == []


async def test_an_error_with_status_200_is_an_error() -> None:
    """LM Studio's way on paths that it does not have; also where the body has no words at all."""
    async with studio_with() as (studio, provider):
        for said, want in (
            ("Unexpected endpoint or method. (POST /api/v1/models/load)", "could not load .*Unexpected endpoint"),
            ("", "could not load .*an error without words"),
        ):
            await provider.catalogue()

            async def refuse(exchange: Exchange, said: str = said) -> None:
                await exchange.answer(200, {"error": {"message": said}})

            studio.lies[LOAD] = refuse
            with pytest.raises(LoadFailed, match=want):
                await provider.load(spec(), never)


async def test_an_unknown_model_is_refused_with_advice() -> None:
    """Without asking LM Studio to load it."""
    async with studio_with() as (studio, provider):
        with pytest.raises(
            LoadFailed, match=r"has no model 'qwen3-4b' \(it has qwen/qwen3-4b\): download it there first$"
        ):
            await provider.load(spec("qwen3-4b"), never)

        assert studio.asked(LOAD) == []


async def test_a_dead_server_fails_the_load() -> None:
    """As a LoadFailed that says so."""
    async with studio_with() as (studio, provider):
        await studio.stop()
        with pytest.raises(LoadFailed, match=f"studio could not load '{MODEL}': .*studio"):
            await provider.load(spec(), never)


# ------------------------------------------------------------ given up


@BOTH_LOOPS
@pytest.mark.parametrize("ends_with_caller", [True, False])
async def test_a_cancelled_load_leaves_nothing(ends_with_caller: bool) -> None:
    """Cut at once; what LM Studio goes on loading for nobody is unloaded as soon as it shows."""
    async with studio_with() as (studio, provider):
        studio.load_ends_with_caller = ends_with_caller
        task = await begun(studio, provider, stop_timeout_s=0.3 if ends_with_caller else 5.0)
        task.cancel()
        await studio.until(lambda: studio.aborted == 1)  # cut
        assert studio.load_gate is not None
        studio.load_gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert studio.loaded(MODEL) == []
        assert len(studio.asked(UNLOAD)) == (0 if ends_with_caller else 1)
        assert studio.in_flight == 0


@BOTH_LOOPS
async def test_cancelled_twice_it_still_cleans_up() -> None:
    """An impatient second cancellation does not cut the clean-up short."""
    async with studio_with() as (studio, provider):
        task = await begun(studio, provider)
        task.cancel()
        await studio.until(lambda: studio.aborted == 1)
        task.cancel()
        looks = len(studio.requests)
        await studio.until(lambda: len(studio.requests) > looks)
        assert not task.done()
        assert studio.load_gate is not None
        studio.load_gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert studio.loaded(MODEL) == []


@BOTH_LOOPS
async def test_a_load_that_takes_too_long_is_given_up() -> None:
    """Bounded by load_timeout_s, and unloaded like a cancelled one; the clean-up is bounded, too."""
    async with studio_with() as (studio, provider):
        task = await begun(studio, provider, load_timeout_s=0.2, stop_timeout_s=0.2)
        with pytest.raises(LoadFailed, match=r"had not loaded 'qwen/qwen3-4b' after 0.2 s; raise load_timeout_s"):
            await task

        assert studio.loaded(MODEL) == []
        assert studio.in_flight == 0


async def test_a_load_whose_answer_is_lost_is_taken_back() -> None:
    """Cut off while loading: a LoadFailed, and nothing stays in memory. So too when the answer tells no instance."""

    async def load_and_drop(exchange: Exchange) -> None:
        studio.load_behind(MODEL)
        exchange.reset()

    async def load_and_mumble(exchange: Exchange) -> None:
        studio.load_behind(MODEL)
        await exchange.answer(200, {"status": "loaded"})

    async with studio_with() as (studio, provider):
        for lie in (load_and_drop, load_and_mumble):
            studio.lies[LOAD] = lie
            with pytest.raises(LoadFailed):
                await provider.load(spec(), never)
            assert studio.loaded(MODEL) == []


async def test_a_clean_up_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The load's own error is told; that its end is unknown stands in the log."""

    async def broken(exchange: Exchange) -> None:
        studio.lies["/api/v1/models"] = refuse
        exchange.reset()

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(500, {"error": "crashed"})

    async with studio_with() as (studio, provider):
        studio.lies[LOAD] = broken
        with pytest.raises(LoadFailed):
            await provider.load(spec(), never)

    assert "whether the abandoned load of 'qwen/qwen3-4b' has ended is unknown" in caplog.text


# ------------------------------------------------------------ unloading


async def test_stop_returns_when_the_list_shows_it_no_more() -> None:
    """LM Studio's answer alone is not enough: memory counts as free only when the model is gone."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(), never)
        studio.unload_gate = asyncio.Event()
        stopping = asyncio.create_task(engine.stop())
        await studio.until(lambda: len(studio.asked(UNLOAD)) == 1)
        looks = len(studio.requests)
        await studio.until(lambda: len(studio.requests) >= looks + 2)
        assert not stopping.done()
        studio.unload_gate.set()
        await stopping

        assert studio.loaded(MODEL) == []
        assert len(studio.asked(UNLOAD)) == 1  # told once


async def test_stop_unloads_every_copy() -> None:
    """Ours and those that others have loaded beside it, under whatever name; another model stays."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(), never)
        studio.load_behind(MODEL)
        studio.load_behind(MODEL, name="my own name")
        studio.load_behind("nomic-embed")
        await engine.stop()

        assert studio.loaded(MODEL) == []
        assert studio.loaded("nomic-embed") == ["nomic-embed"]
        assert {one["instance_id"] for one in studio.asked(UNLOAD)} == {MODEL, f"{MODEL}:2", "my own name"}


async def test_an_adopted_model_is_unloaded_as_ours() -> None:
    """One that somebody else loaded serves, and goes when told."""
    async with studio_with() as (studio, provider):
        studio.load_behind(MODEL)
        engine = provider.adopt(spec())
        response = await engine.send(chat(MODEL))
        assert response.status == 200
        response.close()
        await engine.stop()

        assert studio.loaded(MODEL) == []


async def test_stopping_what_is_gone_is_fine() -> None:
    """Twice, after somebody else has ejected it, after it was deleted, and when LM Studio has ended."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(), never)
        await engine.stop()
        await engine.stop()
        engine = await provider.load(spec(), never)
        studio.unload_behind(MODEL)
        await engine.stop()
        engine = await provider.load(spec(), never)
        del studio.models[MODEL]
        await engine.stop()
        engine = provider.adopt(spec())
        await studio.stop()
        await engine.stop()


@BOTH_LOOPS
async def test_a_cancelled_stop_goes_on_to_its_end() -> None:
    """Whoever asked may leave; the model leaves all the same."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(), never)
        studio.unload_gate = asyncio.Event()
        stopping = asyncio.create_task(engine.stop())
        await studio.until(lambda: len(studio.asked(UNLOAD)) == 1)
        stopping.cancel()
        studio.unload_gate.set()
        with pytest.raises(asyncio.CancelledError):
            await stopping

        assert studio.loaded(MODEL) == []


async def test_a_stop_that_takes_too_long_says_so() -> None:
    """Bounded by stop_timeout_s; tried again it succeeds once LM Studio obeys."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(stop_timeout_s=0.2), never)
        studio.unload_gate = asyncio.Event()
        with pytest.raises(UpstreamTimeout, match=r"studio still has 'qwen/qwen3-4b' in memory 0.2 s after"):
            await engine.stop()
        studio.unload_gate.set()
        await engine.stop()

        assert studio.loaded(MODEL) == []


async def test_a_server_that_will_not_unload_is_quoted() -> None:
    """A refusal for good is raised at once; one that blames the request only when the model stays."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(stop_timeout_s=0.2), never)
        studio.unload_error = (500, "the engine hangs")
        with pytest.raises(UpstreamRefused, match="the engine hangs"):
            await engine.stop()
        studio.unload_error = (409, "it is busy")
        with pytest.raises(UpstreamTimeout, match="it is busy"):
            await engine.stop()

        assert studio.loaded(MODEL) == [MODEL]


async def test_unloaded_behind_our_back_it_loads_again() -> None:
    """An ejected model is not held any more, and the next load brings it back."""
    async with studio_with() as (studio, provider):
        await provider.load(spec(), never)
        studio.unload_behind(MODEL)
        assert await provider.held() == []
        await provider.load(spec(), never)

        assert studio.loaded(MODEL) == [MODEL]
        assert [held.name for held in await provider.held()] == [MODEL]


# ------------------------------------------------------------ REST v0


async def test_v0_loads_by_a_first_tiny_request_with_a_ttl() -> None:
    """One token of chat for a language model, one vector for an embedding model."""
    async with studio_with("v0") as (studio, provider):
        engine = await provider.load(spec(), never)
        await provider.load(spec("nomic-embed"), never)

        (asked,) = studio.asked("/api/v0/chat/completions")
        assert (asked["model"], asked["max_tokens"], asked["ttl"]) == (MODEL, 1, TTL_S)
        assert studio.asked("/v1/embeddings") == [{"model": "nomic-embed", "input": ".", "ttl": TTL_S}]
        assert [studio.models[key].copies[key].ttl_s for key in (MODEL, "nomic-embed")] == [TTL_S, TTL_S]
        response = await engine.send(chat(MODEL))
        assert response.status == 200
        response.close()


async def test_v0_cannot_unload_and_says_so() -> None:
    """`unloads` is False and stop raises with the way out; once the model has left by itself stop is content."""
    async with studio_with("v0") as (studio, provider):
        engine = await provider.load(spec(), never)
        assert not provider.unloads
        with pytest.raises(ProviderError, match=r"leaves by itself when unused .*600 s.*LM Studio 0.4.0"):
            await engine.stop()
        assert studio.loaded(MODEL) == [MODEL]
        studio.unload_behind(MODEL)  # its TTL
        await engine.stop()


async def test_v0_does_not_ask_for_what_is_loaded() -> None:
    """A request to a loaded model would only reset its TTL."""
    async with studio_with("v0") as (studio, provider):
        studio.load_behind(MODEL)
        await provider.load(spec(), never)

        assert {one.method for one in studio.requests} == {"GET"}


@pytest.mark.parametrize("model", [MODEL, "nomic-embed"])
async def test_v0_load_failures_are_quoted(model: str) -> None:
    """With an error status, with status 200, and with an answer that is neither."""
    async with studio_with("v0") as (studio, provider):
        for status in (400, 200):
            studio.load_error = (status, "out of memory")
            with pytest.raises(LoadFailed, match=f"could not load '{model}': Failed to load model: out of memory"):
                await provider.load(spec(model), never)
        studio.lies = dict.fromkeys(("/api/v0/chat/completions", "/v1/embeddings"), _mumble)
        with pytest.raises(LoadFailed, match="its answer is neither a completion nor an error"):
            await provider.load(spec(model), never)


async def test_v0_without_jit_advises_to_switch_it_on() -> None:
    """It then lists only what is loaded, so that a model is unknown which is on its disk."""
    async with studio_with("v0", jit=False) as (_, provider):
        with pytest.raises(LoadFailed, match="or switch on just-in-time loading in its server settings"):
            await provider.load(spec(), never)


@BOTH_LOOPS
async def test_a_cancelled_v0_load_leaves_no_connection() -> None:
    """LM Studio cannot be told to unload: the model goes after its TTL. We leave at once."""
    async with studio_with("v0") as (studio, provider):
        task = await begun(studio, provider)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await studio.until(lambda: studio.aborted == 1 and studio.open_connections == 0)
        assert studio.load_gate is not None
        studio.load_gate.set()
        await studio.until(lambda: studio.loaded(MODEL) == [MODEL])

        assert studio.models[MODEL].copies[MODEL].ttl_s == TTL_S


async def _mumble(exchange: Exchange) -> None:
    await exchange.answer(200, {"object": "something else"})


# ------------------------------------------------------------ the fake itself


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (LOAD, b'{"model": "qwen/qwen3-4b", "ttl": 600}', b"unrecognized_keys"),
        (LOAD, b"{}", b"missing_required_parameter"),
        (LOAD, b'{"model": "gemma"}', b"model_not_found"),
        (UNLOAD, b'{"model": "qwen/qwen3-4b"}', b"'instance_id' is required"),
        (UNLOAD, b'{"instance_id": "qwen/qwen3-4b"}', b"is not loaded"),
        ("/v1/embeddings", b'{"model": "qwen/qwen3-4b", "input": "."}', b"is no embedding model"),
    ],
)
async def test_the_fake_is_strict(path: str, body: bytes, said: bytes) -> None:
    """What the documentation does not allow is refused, so that our tests cannot pass with it."""
    async with studio_with() as (_, provider):
        response = await provider.send(Request(method=b"POST", path=path.encode(), headers=(), body=body))
        answer = await response.read(1 << 20)
        response.close()

    assert 400 <= response.status < 500
    assert said in answer


async def test_a_server_that_resets_while_listing_is_broken_not_gone() -> None:
    """Only a server that nobody can reach has surely nothing in memory."""
    async with studio_with() as (studio, provider):
        engine = await provider.load(spec(), never)
        studio.queue(RESET)  # a kept connection may end like this, so it is tried again on a fresh one
        studio.queue(RESET)
        with pytest.raises(ProviderError):
            await engine.stop()
        await engine.stop()

        assert studio.loaded(MODEL) == []
