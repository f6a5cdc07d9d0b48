"""Ollama: what it offers, loads, holds and unloads."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest

from providers import REMOTES
from providers.errors import LoadFailed, UpstreamTimeout, UpstreamUnreachable
from providers.ollama import OllamaProvider
from providers.pricing import FREE
from tests.fakes.ollama import FakeModel
from tests.providers.ollamas import MB, connected, never_exits, provider_to, spec
from tests.providers.wire import fetch, request

LLAMA = "llama3.2:1b"
FROM_HUB = "hf.co/x/y:Q4"
EMBEDDER = FakeModel("nomic-embed-text", capabilities=("embedding",), family="nomic-bert", context_length=2048)


llama = functools.partial(FakeModel, LLAMA)


# --- what it offers


async def test_the_catalogue_tells_what_ollama_tells() -> None:
    """Name with its tag, size, family, parameters, quantisation, context, capabilities, date, and that it costs nothing."""
    full = llama(size_bytes=5 * MB, capabilities=("completion", "tools", "vision", "thinking", "insert", "image"))
    async with connected(full, EMBEDDER) as it:
        offered = {offer.name: offer for offer in await it.provider.catalogue()}
    assert list(offered) == [LLAMA, "nomic-embed-text:latest"]
    first = offered[LLAMA]
    assert (first.size_bytes, first.context_length) == (5 * MB, 8192)
    assert (first.family, first.parameters, first.quantization) == ("llama", "1.2B", "Q4_K_M")
    assert first.capabilities == ("chat", "completion", "tools", "vision", "reasoning", "insert")
    assert (first.price, first.created) == (FREE, 1715353608)
    assert offered["nomic-embed-text:latest"].capabilities == ("embedding",)


async def test_looking_loads_nothing_and_asks_for_details_once() -> None:
    """Catalogue, version and what is held; a model's details are asked for again only when its digest has changed."""
    async with connected(llama(), EMBEDDER) as it:
        await it.provider.catalogue()
        again = await it.provider.catalogue()
        assert await it.held() == {}
        assert await it.provider.version() == "0.12.3"
        assert it.ollama.asked("/api/show") == 2
        assert again[0].context_length == 8192
        it.ollama.models[LLAMA] = llama(digest="other", context_length=16384)
        assert (await it.provider.catalogue())[0].context_length == 16384
        assert it.ollama.asked("/api/show") == 3
        assert it.ollama.counts.loads == []


async def test_only_the_configured_names_are_offered() -> None:
    """With their tags, once each, in the operator's spelling and order; also one that is not there: a load tells how to get it."""
    async with connected(llama(), FakeModel(FROM_HUB), models=("HF.co/x/y:q4", "llama3.2", "llama3.2:latest")) as it:
        offers = await it.provider.catalogue()
        assert [offer.name for offer in offers] == ["HF.co/x/y:q4", "llama3.2:latest"]
        assert (offers[0].context_length, offers[1].size_bytes) == (8192, None)
        with pytest.raises(LoadFailed, match=r"has no model llama3\.2:latest: roundhouse pull ollama/llama3\.2:latest"):
            it.provider.estimate(spec("llama3.2:latest"))
        await it.load("HF.co/x/y:q4")
        assert list(await it.held()) == ["HF.co/x/y:q4"]


async def test_a_model_that_runs_in_ollamas_cloud_is_left_out() -> None:
    """It is never in this server's memory, so residency could not hold it."""
    async with connected(llama(), FakeModel("big:cloud", remote_host="https://ollama.com:443")) as it:
        assert [offer.name for offer in await it.provider.catalogue()] == [LLAMA]


async def test_an_old_ollama_does_not_tell_what_a_model_can() -> None:
    """Then nothing is guessed; and a model for embeddings loads all the same, after the refusal to generate."""
    async with connected(llama(capabilities=None)) as it:
        assert (await it.provider.catalogue())[0].capabilities == ()
        await it.load(LLAMA)
        assert it.ollama.asked("/api/embed") == 0


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/api"])
async def test_the_address_may_end_as_other_clients_want_it(end: str) -> None:
    """Ollama's own API and its OpenAI-compatible one are both found."""
    async with connected(llama()) as it:
        provider = provider_to(it.ollama.base_url + end)
        assert [offer.name for offer in await provider.catalogue()] == [LLAMA]
        chat = json.dumps({"model": LLAMA, "messages": []}).encode()
        answer = await fetch(provider.endpoint, request(chat, path=b"/v1/chat/completions"))
        assert json.loads(answer)["object"] == "chat.completion"
        await provider.aclose()


def test_the_kind_is_registered() -> None:
    """And says what it can."""
    provider = provider_to("http://127.0.0.1:11434")
    assert REMOTES["ollama"] is OllamaProvider
    assert (provider.kind, provider.tagged, provider.unloads, provider.specs()) == ("ollama", True, True, {})
    assert provider.loader is provider
    assert provider.server is provider


# --- sizes


async def test_the_estimate_is_the_size_of_the_weights_and_a_fifth_then_what_was_measured() -> None:
    """On the GPU where there is one; as soon as the model has been seen in memory, the server's word."""
    async with connected(llama(size_bytes=10 * MB, memory_bytes=15 * MB, vram_bytes=9 * MB), gpu="gpu0") as it:
        await it.provider.catalogue()
        assert it.provider.estimate(spec(LLAMA)) == {"gpu0": 12 * MB}
        it.ollama.load_behind(LLAMA)
        assert await it.held() == {LLAMA: {"ram": 6 * MB, "gpu0": 9 * MB}}
        assert it.provider.estimate(spec(LLAMA)) == {"ram": 6 * MB, "gpu0": 9 * MB}


async def test_without_a_catalogue_the_operators_word_counts() -> None:
    """And without that the load is refused; nothing is asked."""
    async with connected(llama()) as it:
        assert it.provider.estimate(spec(LLAMA, declared={"ram": 7})) == {"ram": 7}
        with pytest.raises(LoadFailed, match="not told yet"):
            it.provider.estimate(spec(LLAMA))
        assert it.ollama.requests == []


async def test_a_server_elsewhere_is_counted_only_where_its_memory_is_told() -> None:
    """As a device of its own, called like the provider."""
    async with connected(llama(size_bytes=10 * MB), name="attic", memory=64 * MB) as it:
        await it.provider.catalogue()
        assert it.provider.estimate(spec(LLAMA, provider="attic")) == {"attic": 12 * MB}
        await it.load(LLAMA, provider="attic")
        assert await it.held() == {LLAMA: {"attic": 10 * MB}}


# --- loading


@pytest.mark.parametrize("name", [LLAMA, FROM_HUB, "llama3.2", "reg:5000/x"])
async def test_load_really_loads_the_very_model_and_it_stays(name: str) -> None:
    """W1: it is in Ollama's memory afterwards, under its exact name, with no end and no options of ours."""
    async with connected(llama(), FakeModel(FROM_HUB), FakeModel("llama3.2"), FakeModel("reg:5000/x")) as it:
        await it.provider.catalogue()
        engine = await it.load(name)
        asked = next(one.json() for one in it.ollama.requests if one.path == "/api/generate")
        assert asked == {"model": asked["model"], "keep_alive": -1, "stream": False}
        assert it.ollama.counts.loads == [asked["model"]] == list(await it.held())
        assert asked["model"].removesuffix(":latest") == name
        assert (engine.pid, engine.log_lines()) == (None, ())
        held = (await it.provider.held())[0]
        assert (held.exact, held.context_length, held.used[:2]) == (True, 4096, "23")


@pytest.mark.parametrize("known", [True, False])
async def test_a_model_for_embeddings_is_loaded_by_an_empty_embedding(known: bool) -> None:
    """It refuses to generate; where the catalogue has told so it is not asked to."""
    async with connected(EMBEDDER) as it:
        if known:
            await it.provider.catalogue()
        engine = await it.load("nomic-embed-text")
        assert it.ollama.asked("/api/generate") == (0 if known else 1)
        assert next(one.json() for one in it.ollama.requests if one.path == "/api/embed")["keep_alive"] == -1
        assert list(await it.held()) == ["nomic-embed-text:latest"]
        await engine.stop()
        assert await it.held() == {}


async def test_an_engine_sends_to_ollama() -> None:
    """To its OpenAI-compatible side; using it is seen, and does not change how long it stays."""
    clock = [1e9]
    async with connected(llama(), fake={"clock": lambda: clock[0]}) as it:
        engine = await it.load(LLAMA)
        before = (await it.provider.held())[0].used
        clock[0] += 1000
        body = json.dumps({"model": LLAMA, "stream": True}).encode()
        response = await engine.send(request(body, path=b"/v1/chat/completions"))
        assert (await response.read(MB)).endswith(b"data: [DONE]\n\n")
        response.close()
        assert (await it.provider.held())[0].used != before
        clock[0] += 10**6
        assert list(await it.held()) == [LLAMA]
        assert it.ollama.counts.loads == [LLAMA]


async def test_one_copy_under_two_names_is_found_under_both() -> None:
    """Ollama lists it by the name that came first; its bytes are counted once, and it goes for both at once."""
    twin = FakeModel("llama3.2:latest", digest="d", size_bytes=4 * MB)
    async with connected(llama(digest="d", size_bytes=4 * MB), twin) as it:
        it.ollama.load_behind(LLAMA)
        second = await it.load("llama3.2")
        assert await it.held() == {"llama3.2:latest": {"ram": 4 * MB}}
        first = await it.load(LLAMA)
        held = await it.held()
        assert sorted(held) == [LLAMA, "llama3.2:latest"]
        assert sum(size.get("ram", 0) for size in held.values()) == 4 * MB
        await second.stop()
        assert await it.held() == {}
        await first.stop()
        assert it.ollama.counts.unloads == [LLAMA]


async def test_a_model_that_is_just_loading_is_held_already() -> None:
    """With what is expected of it while Ollama does not know its size."""
    async with connected(llama(size_bytes=10 * MB)) as it:
        await it.provider.catalogue()
        it.ollama.models[LLAMA].memory_bytes = 0
        load = it.loading(LLAMA)
        await it.ollama.until(lambda: bool(it.ollama.loaded))
        held = (await it.provider.held())[0]
        assert (held.name, held.footprint, held.exact) == (LLAMA, {"ram": 12 * MB}, False)
        it.ollama.loading.set()
        await load


async def test_what_others_do_is_seen() -> None:
    """Loaded and unloaded behind our back, and pushed out by Ollama itself."""
    async with connected(llama(), FakeModel("b:1"), fake={"max_loaded": 1}) as it:
        it.ollama.load_behind("b:1")
        assert list(await it.held()) == ["b:1"]
        await it.load(LLAMA)
        assert list(await it.held()) == [LLAMA]
        it.ollama.unload_behind(LLAMA)
        assert await it.held() == {}


async def test_several_ollamas_know_nothing_of_each_other() -> None:
    """Each its own models and memory."""
    async with connected(llama()) as one, connected(llama(), FakeModel("b:1"), name="other") as other:
        await one.load(LLAMA)
        assert (list(await one.held()), await other.held()) == ([LLAMA], {})
        await other.load("b:1", provider="other")
        assert [offer.name for offer in await one.provider.catalogue()] == [LLAMA]
        assert (one.ollama.counts.loads, other.ollama.counts.loads) == ([LLAMA], ["b:1"])


# --- unloading


async def test_stop_really_unloads() -> None:
    """T48, W7: it is no longer in Ollama's memory when stop returns; twice is as once, also at the same time."""
    async with connected(llama()) as it:
        engine = await it.load(LLAMA)
        await asyncio.gather(engine.stop(), engine.stop())
        assert it.ollama.loaded == {}
        await engine.stop()
        assert it.ollama.counts.unloads == [LLAMA]
        asked = [one.json() for one in it.ollama.requests if one.path == "/api/generate"]
        assert asked[1:] == [{"model": LLAMA, "keep_alive": 0, "stream": False}]


async def test_stop_waits_until_the_last_answer_is_out() -> None:
    """Ollama unloads a model when the requests that use it have ended, and lists it until then."""
    async with connected(llama()) as it:
        engine = await it.load(LLAMA)
        it.ollama.answering.clear()
        chat = asyncio.create_task(
            fetch(it.provider.endpoint, request(json.dumps({"model": LLAMA}).encode(), path=b"/v1/chat/completions"))
        )
        await it.ollama.until(lambda: it.ollama.loaded[LLAMA].users == 1)
        stop = asyncio.create_task(engine.stop())
        await it.ollama.until(lambda: it.ollama.asked("/api/ps") >= 3)
        assert not stop.done()
        it.ollama.answering.set()
        await chat
        await stop
        assert it.ollama.loaded == {}


async def test_stop_gives_up_where_somebody_else_goes_on_using_it() -> None:
    """With a clear error, within its limit; the next try succeeds."""
    async with connected(llama()) as it:
        await it.load(LLAMA)
        engine = it.provider.adopt(spec(LLAMA, limit_s=0.2))
        it.ollama.loaded[LLAMA].users = 1
        with pytest.raises(UpstreamTimeout, match="somebody else uses it"):
            await engine.stop()
        it.ollama.loaded[LLAMA].users = 0
        await engine.stop()
        assert it.ollama.loaded == {}


async def test_stop_is_not_cut_short() -> None:
    """Cancelled, it goes on to its end, and is cancelled then."""
    async with connected(FakeModel(LLAMA)) as it:
        engine = await it.load(LLAMA)
        it.ollama.loaded[LLAMA].users = 1
        stop = asyncio.create_task(engine.stop())
        await it.ollama.until(lambda: it.ollama.asked("/api/ps") == 2)
        stop.cancel()
        await it.ollama.until(lambda: it.ollama.asked("/api/ps") == 4)
        assert not stop.done()
        it.ollama.unload_behind(LLAMA)
        with pytest.raises(asyncio.CancelledError):
            await stop
        await it.settled()


async def test_stop_of_what_is_gone_is_done() -> None:
    """Unloaded behind our back, deleted, or the whole server ended."""
    async with connected(llama(), FakeModel("b:1")) as it:
        engine, deleted = await it.load(LLAMA), await it.load("b:1")
        it.ollama.unload_behind(LLAMA)
        await engine.stop()
        it.ollama.unload_behind("b:1")
        del it.ollama.models["b:1"]
        await deleted.stop()
        left = await it.load(LLAMA)
        await it.ollama.stop()
        await left.stop()
        with pytest.raises(UpstreamUnreachable):
            await it.provider.held()


# --- loads that fail or are given up


async def test_a_load_of_what_is_not_there_tells_how_to_get_it() -> None:
    """404."""
    async with connected() as it:
        with pytest.raises(LoadFailed, match=r"has no model a:latest: roundhouse pull ollama/a:latest") as caught:
            await it.load("a")
        assert "not found" in caught.value.detail
        assert it.ollama.asked("/api/generate") == 1


async def test_a_load_that_ollama_refuses_has_its_words() -> None:
    """And what to do when it is for want of memory."""
    async with connected(llama()) as it:
        it.ollama.trouble.load = 500, "model requires more system memory (8.3 GiB) than is available (4.1 GiB)"
        with pytest.raises(LoadFailed, match=r"could not load .*: model requires .* \(4.1 GiB\); unload something"):
            await it.load(LLAMA)
        it.ollama.trouble.load = 500, "llama runner process has terminated: exit status 2"
        with pytest.raises(LoadFailed, match=r"exit status 2$"):
            await it.load(LLAMA)


async def test_a_load_from_nobody_asks_whether_ollama_runs(dead_port: int) -> None:
    """At once."""
    provider = provider_to(f"http://127.0.0.1:{dead_port}")
    with pytest.raises(LoadFailed, match="is Ollama running there"):
        await provider.load(spec(LLAMA), never_exits)
    with pytest.raises(UpstreamUnreachable):
        await provider.catalogue()


async def test_a_load_that_leaves_nothing_in_memory_has_failed() -> None:
    """Whatever Ollama says: its own limits may push it out at once, or it runs in the cloud."""
    async with connected(llama()) as it:
        it.ollama.trouble.forgets = 2
        with pytest.raises(LoadFailed, match="does not hold it"):
            await it.load(LLAMA)
        assert it.ollama.trouble.forgets == 0


async def test_a_load_that_another_has_pushed_out_is_tried_anew() -> None:
    """Once: two loads at the same time, and its own limit below both."""
    async with connected(llama()) as it:
        it.ollama.trouble.forgets = 1
        await it.load(LLAMA)
        assert list(it.ollama.loaded) == [LLAMA]
        assert it.ollama.counts.loads == [LLAMA, LLAMA]


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancelled_load_leaves_nothing_behind(late: bool) -> None:
    """The connection is cut and the model told to go: also where the cut comes when it has just been loaded."""
    async with connected(llama()) as it:
        it.ollama.trouble.survives_cut = late
        load = it.loading(LLAMA)
        await it.ollama.until(lambda: LLAMA in it.ollama.loaded)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await it.settled()
        assert it.ollama.loaded == {}
        assert it.ollama.counts.abandoned == [LLAMA]
        assert it.ollama.counts.unloads == ([LLAMA] if late else [])
        assert [one.json()["keep_alive"] for one in it.ollama.requests] == [-1, 0]


async def test_a_load_that_takes_too_long_is_given_up_and_leaves_nothing_behind() -> None:
    """Within its own limit."""
    async with connected(llama()) as it:
        it.ollama.trouble.survives_cut = True
        with pytest.raises(LoadFailed, match=r"could not load .* within 0\.2 s"):
            await it.loading(LLAMA, limit_s=0.2)
        await it.settled()
        assert it.ollama.loaded == {}


async def test_one_that_leaves_does_not_take_the_load_from_the_others() -> None:
    """Two specs of the same model at once: Ollama loads it once."""
    async with connected(llama()) as it:
        first, second = it.loading(LLAMA), it.loading(LLAMA)
        await it.ollama.until(lambda: it.ollama.asked("/api/generate") == 2)
        it.ollama.loading.set()
        await asyncio.gather(first, second)
        assert it.ollama.counts.loads == [LLAMA]
