"""The contract: bringing models into memory and out of it, in servers that others use, too, and by starting engines."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest

from providers.contract import ProcessExit
from providers.errors import LoadFailed, ProviderError, UpstreamBroke, UpstreamUnreachable
from tests.fakes.processes import until
from tests.providers.contract.engines import Started
from tests.providers.contract.reading import Reading, fair, whole
from tests.providers.contract.subjects import WITHIN_S, Remoted
from tests.providers.contract.wires import Trouble

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def held(served: Remoted) -> set[str]:
    """What the provider says the server holds."""
    return {one.name for one in await served.server.held()}


# ------------------------------------------------------------ servers


async def test_a_load_really_loads(served: Remoted) -> None:
    """The server itself has it; `held` shows it with its size; it answers."""
    await served.provider.catalogue()
    assert await served.memory() == await held(served) == set()
    served.engine = await served.load()
    assert await served.memory() == {served.model}
    (one,) = await served.server.held()
    assert one.name == served.model
    assert served.id == "lmstudio-v0" or sum(one.footprint.values()) > 0
    assert served.id == "lmstudio-v0" or sum(served.server.estimate(served.spec()).values()) > 0
    response, _ = await whole(served, served.request())
    assert response.status == 200


async def test_a_stop_really_unloads(served: Remoted) -> None:
    """When it returns, the server has it no more; a second one is nothing."""
    engine = await served.load()
    if not served.unloads:
        assert served.server.unloads is False
        with pytest.raises(ProviderError) as caught:
            await engine.stop()
        fair(caught.value)
        return
    assert served.server.unloads is True
    await asyncio.gather(engine.stop(), engine.stop())
    assert await served.memory() == await held(served) == set()
    await engine.stop()


@pytest.mark.parametrize("by_us", [True, False], ids=["by-us", "by-others"])
async def test_loaded_twice_there_is_one(served: Remoted, by_us: bool) -> None:
    """What is in memory already is not brought in again, whoever did it."""
    await (served.load() if by_us else served.load_behind())
    before = await served.server.held()
    served.engine = await served.load()
    after = await served.server.held()
    # LM Studio would make a second copy, of the same name
    assert [(one.name, one.footprint) for one in after] == [(one.name, one.footprint) for one in before]
    if served.unloads:
        await served.engine.stop()
        assert await served.memory() == set()


async def test_a_model_that_it_does_not_have(served: Remoted) -> None:
    """LoadFailed, with its name; nothing was loaded."""
    await served.provider.catalogue()
    spec = msgspec.structs.replace(served.spec("missing/model"), alias="wanted")
    with pytest.raises(LoadFailed) as caught:
        await served.server.load(spec, lambda _: None)
    fair(caught.value)
    assert "missing/model" in caught.value.message
    with pytest.raises(LoadFailed) as caught:
        served.server.estimate(spec)
    fair(caught.value)
    assert await served.memory() == set()


async def test_a_load_given_up_leaves_nothing(served: Remoted) -> None:
    """Cancelled while it loads: in the end the server has nothing of it."""
    if not served.unloads:
        served.cannot("it leaves after its TTL: REST v0 cannot unload")
    await served.provider.catalogue()
    await served.hold_loads()
    loading = asyncio.create_task(served.load())
    await served.loading()
    loading.cancel()
    await served.release_loads()
    async with asyncio.timeout(WITHIN_S):
        await asyncio.wait({loading})
    assert loading.cancelled()
    assert await served.memory() == await held(served) == set()
    served.engine = await served.load()  # and nothing of it is in the way of the next
    assert await held(served) == {served.model}


async def test_what_happens_behind_our_back_is_seen(served: Remoted) -> None:
    """Loaded and unloaded by others: the next look shows it."""
    await served.provider.catalogue()
    await served.load_behind()
    assert await held(served) == {served.model}
    await served.unload_behind()
    assert await held(served) == set()
    await served.load()
    await served.unload_behind()
    assert await held(served) == set()


async def test_what_others_have_loaded_can_be_adopted(served: Remoted) -> None:
    """It answers plain and streamed, and can be told to go."""
    await served.provider.catalogue()
    await served.load_behind()
    served.engine = served.server.adopt(served.spec())
    response, _ = await whole(served, served.request())
    assert response.status == 200
    reading = Reading(served, served.request(stream=True))
    await reading.end()
    assert reading.words() == list(served.words)
    if served.unloads:
        await served.engine.stop()
        assert await served.memory() == set()


async def test_a_server_that_is_gone_has_nothing_to_unload(served: Remoted) -> None:
    """Nobody listens: its memory is free, so a stop is done; a look and a load say that it is gone."""
    provider = served.to_nobody()
    assert provider.server is not None
    await provider.server.adopt(served.spec()).stop()
    with pytest.raises(UpstreamUnreachable):
        await provider.server.held()
    with pytest.raises(LoadFailed) as caught:
        await provider.server.load(served.spec(), lambda _: None)
    fair(caught.value)


async def test_a_server_has_no_specs_of_its_own(served: Remoted) -> None:
    """Its models are known from its catalogue."""
    assert served.server.specs() == {}


# ------------------------------------------------------------ engines of ours


async def test_an_engine_s_life(started: Started) -> None:
    """Loaded, it runs; stopped, no process of it is left, its end is reported once, and it cannot be sent to."""
    before = await started.memory()
    exits: list[ProcessExit] = []
    assert started.provider.loader is not None
    assert set(started.provider.loader.specs()) == {started.spec().target}
    assert sum(started.provider.loader.estimate(started.spec()).values()) > 0
    started.engine = await started.load(exits.append)
    assert str(started.engine.pid) in await started.memory() - before
    response, _ = await whole(started, started.request())
    assert response.status == 200
    assert exits == []
    await asyncio.gather(started.engine.stop(), started.engine.stop())
    assert await started.memory() == before
    await until(lambda: bool(exits))
    await started.engine.stop()
    assert [end.asked for end in exits] == [True]
    with pytest.raises(UpstreamUnreachable) as caught:
        await started.send(started.request())
    assert caught.value.source == started.provider.name


async def test_an_engine_that_is_killed_in_the_middle_of_a_stream(started: Started) -> None:
    """Its caller hears that it broke; its end is reported without anybody having asked for it."""
    exits: list[ProcessExit] = []
    started.engine = await started.load(exits.append)
    started.more |= {"max_tokens": 400} if started.kind == "llama_cpp" else {"max_tokens": 20_000}
    reading = Reading(started, started.request(stream=True))
    await reading.first()
    assert started.engine.pid is not None
    os.kill(started.engine.pid, signal.SIGKILL)
    with pytest.raises(UpstreamBroke):
        await reading.end()
    await until(lambda: bool(exits))
    assert [(end.exit_code, end.asked) for end in exits] == [(-signal.SIGKILL, False)]
    await started.engine.stop()


async def test_an_engine_whose_load_is_given_up_leaves_nothing(started: Started) -> None:
    """No process, no report."""
    before = await started.memory()
    exits: list[ProcessExit] = []
    loading = asyncio.create_task(started.load(exits.append))
    async with asyncio.timeout(WITHIN_S):
        while await started.memory() == before and not loading.done():  # noqa: ASYNC110 - processes have no event
            await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert await started.memory() == before
    assert exits == []


async def test_an_engine_that_cannot_start(started: Started) -> None:
    """LoadFailed, with the provider's name; nothing is left."""
    before = await started.memory()
    assert started.provider.loader is not None
    broken = msgspec.structs.replace(
        started.spec(Trouble.SILENT), command=("/nowhere/at/all", "${port}"), source=None, alias="broken"
    )
    with pytest.raises(LoadFailed) as caught:
        await started.provider.loader.load(broken, lambda _: None)
    assert caught.value.source == started.provider.name
    assert await started.memory() == before
