"""Models that live in somebody else's server: loaded, used and unloaded behind our back, seen by asking, late answers and all."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import CapacityError
from gateway.residency.watch import EVERY_S, GONE_AFTER
from providers.errors import LoadFailed, ProviderError, UpstreamBroke, UpstreamTimeout, UpstreamUnreachable

from .town import Town, in_town


def test_what_was_there_at_the_start_is_adopted() -> None:
    """A request for it is granted at once, and nothing is loaded."""

    async def story(town: Town) -> None:
        town.server.memory["a"] = 7
        await town.look()
        assert town.phases() == {"a": "ready"}
        assert town.manager.committed_bytes() == {"ram": 7}
        await town.use("a")
        assert town.server.loads == []
        assert town.happened("found") == ["srv/a"]

    in_town(story)


def test_unload_behind_our_back_is_noticed_and_the_next_request_loads_again() -> None:
    """Within two seconds."""

    async def story(town: Town) -> None:
        await town.use("a")
        await town.look()
        started_s = town.manager.clock()
        del town.server.memory["a"]
        await town.until(lambda: not town.phases())
        assert town.manager.clock() - started_s <= 2.0
        assert town.happened("vanished") == ["srv/a"]
        await town.use("a")
        assert town.server.loads == ["a", "a"]
        assert town.phases() == {"a": "ready"}

    in_town(story)


def test_found_models_are_evicted_like_any_other() -> None:
    """One budget: what somebody else loaded is the least recently used here."""

    async def story(town: Town) -> None:
        town.server.memory |= {"a": 10, "b": 10}
        await town.look()
        await town.use("b")
        await town.use("c")
        assert town.server.memory.keys() == {"b", "c"}
        assert town.server.stops == ["a"]

    in_town(story)


def test_use_behind_our_back_counts() -> None:
    """A model whose expiry moves is in use: another one leaves."""

    async def story(town: Town) -> None:
        await town.use("a")
        await asyncio.sleep(5)
        await town.use("b")
        await asyncio.sleep(5)
        town.server.used["a"] = 1
        await town.look()
        await town.use("c")
        assert town.server.stops == ["b"]

    in_town(story)


def test_size_follows_the_servers_word() -> None:
    """Up and down; and it is learned."""

    async def story(town: Town) -> None:
        await town.use("a")
        town.server.memory["a"] = 13
        await town.look()
        assert town.manager.committed_bytes() == {"ram": 13}
        town.server.memory["a"] = 4
        await town.look()
        assert town.manager.committed_bytes() == {"ram": 4}
        assert town.manager.residents()[0].footprint_source == "reported"
        assert town.manager.footprints.best("a", None, {})[0] == {"ram": 13}

    in_town(story)


def test_late_answer_changes_nothing_that_has_moved_since() -> None:
    """An answer from before a load ended does not undo it; one from before an unload does not bring it back."""

    async def story(town: Town) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        town.server.answering = lambda: gate
        await asyncio.sleep(EVERY_S)  # asked: nothing is there
        await town.use("a")
        gate.set_result(None)
        town.server.answering = None
        await asyncio.sleep(0.01)
        assert town.phases() == {"a": "ready"}
        second: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        town.server.answering = lambda: second
        await asyncio.sleep(EVERY_S)  # asked: it is there
        town.manager.unload("srv/a")
        await asyncio.sleep(0.1)
        assert town.phases() == {}
        second.set_result(None)
        town.server.answering = None
        await asyncio.sleep(0.01)
        assert town.phases() == {}
        assert (town.happened("found"), town.happened("vanished")) == ([], [])

    in_town(story)


@pytest.mark.parametrize("error", [UpstreamTimeout("slow", source="srv"), UpstreamBroke("HTML", source="srv")])
def test_server_that_does_not_say_holds_what_it_held(error: ProviderError) -> None:
    """Silence is no news."""

    async def story(town: Town) -> None:
        await town.use("a")
        town.server.error = error
        await asyncio.sleep(10 * EVERY_S)
        assert town.phases() == {"a": "ready"}
        town.server.error = None
        await town.look()
        assert town.phases() == {"a": "ready"}

    in_town(story)


def test_server_that_is_gone_holds_nothing() -> None:
    """After a second refused connection; one may be a restart."""

    async def story(town: Town) -> None:
        await town.use("a")
        town.server.error = UpstreamUnreachable("refused", source="srv")
        asked = town.server.asked
        await town.until(lambda: not town.phases())
        assert town.server.asked - asked == GONE_AFTER
        assert town.happened("vanished") == ["srv/a"]

    in_town(story)


def test_hanging_answer_does_not_stop_the_watch() -> None:
    """It is given up, and the server asked again."""

    async def story(town: Town) -> None:
        town.server.answering = lambda: asyncio.get_running_loop().create_future()
        await asyncio.sleep(10)
        assert town.server.asked >= 3
        town.server.answering = None
        town.server.memory["a"] = 10
        await asyncio.sleep(5)
        assert town.phases() == {"a": "ready"}

    in_town(story)


def test_model_nobody_listed_has_the_catalogue_asked_again() -> None:
    """Somebody has just pulled and loaded it."""

    async def story(town: Town) -> None:
        town.server.memory["new"] = 10
        await town.look()
        assert town.nudged[:1] == ["srv"]
        assert town.phases() == {}

    in_town(story)


def test_model_that_cannot_be_described_waits_for_the_next_look() -> None:
    """The server holds what it says it does not have: no reason to end the watch."""

    async def story(town: Town) -> None:
        town.server.memory["unknown"] = 10
        await town.look()
        assert town.phases() == {}
        town.server.memory["a"] = 10
        await town.look()
        assert town.phases() == {"a": "ready"}

    in_town(story)


def test_what_somebody_else_loaded_is_left_to_its_server() -> None:
    """No idle unload of ours; what we loaded has one."""

    async def story(town: Town) -> None:
        town.server.memory["a"] = 10
        await town.look()
        await town.use("b")
        await asyncio.sleep(60)
        assert town.phases() == {"a": "ready"}
        assert town.server.stops == ["b"]

    in_town(story, idle_s=30.0)


def test_server_that_cannot_unload_is_never_asked_to() -> None:
    """Its models are no victims; who needs their room is told so."""

    async def story(town: Town) -> None:
        town.server.unloads = False
        await town.use("a")
        await town.use("b")
        with pytest.raises(CapacityError, match="cannot be unloaded"):
            await town.use("c")
        await asyncio.sleep(100)
        assert town.server.stops == []
        del town.server.memory["a"]
        await town.look()
        await town.use("c")
        assert town.phases() == {"b": "ready", "c": "ready"}
        del town.server.memory["b"], town.server.memory["c"]
        await town.look()

    in_town(story, idle_s=30.0)


def test_unload_that_somebody_else_prevents_is_seen_again() -> None:
    """It was told to leave and is still there: then it is counted again."""

    async def story(town: Town) -> None:
        await town.use("a")
        town.server.busy.add("a")
        town.manager.unload("srv/a")
        await asyncio.sleep(0.1)
        assert town.phases() == {}
        await town.look()
        assert town.phases() == {"a": "ready"}
        assert town.happened("found") == ["srv/a"]

    in_town(story)


def test_targets_come_and_go() -> None:
    """What leaves the list stays managed until it is out of memory."""

    async def story(town: Town) -> None:
        await town.use("a")
        managed = town.manager.managed
        town.manager.manage({target: one for target, one in managed.items() if target != "srv/a"})
        assert "srv/a" in town.manager.managed
        town.manager.unload("srv/a")
        await asyncio.sleep(0.1)
        town.manager.manage({target: one for target, one in managed.items() if target != "srv/a"})
        assert "srv/a" not in town.manager.managed

    in_town(story)


def test_its_processes_are_ours_to_count() -> None:
    """Their memory is not strangers'."""

    async def story(town: Town) -> None:
        await town.until(lambda: set(town.watch.roots()) == {4711})

    in_town(story)


def test_model_found_by_its_waiters_is_stopped_after_them() -> None:
    """Adopted, granted and drained in one breath, since the head of the queue needs its room: it is not lost, and is unloaded."""

    async def story(town: Town) -> None:
        busy = asyncio.ensure_future(town.use("a", hold_s=30.0))
        await asyncio.sleep(1.0)
        head = asyncio.ensure_future(town.use("b"))
        behind = asyncio.ensure_future(town.use("c", hold_s=5.0))
        await asyncio.sleep(0.1)
        assert len(town.manager.waiting()) == 2
        town.server.memory["c"] = 5
        await behind
        await asyncio.sleep(1.0)
        assert "c" in town.server.stops
        assert "c" not in town.server.memory
        await busy
        await head
        assert town.phases() == {"b": "ready"}

    in_town(story, budget=10)


def test_load_that_was_given_up_and_came_up_is_unloaded() -> None:
    """It had asked the server to keep the model for ever; nobody wants it any more."""

    async def story(town: Town) -> None:
        asking = asyncio.ensure_future(town.manager.load("srv/a", 60.0))
        await asyncio.sleep(0.1)
        town.manager.unload("srv/a")
        with pytest.raises(CapacityError):
            await asking
        town.server.memory["a"] = 10  # it went on, whatever we said
        await town.look()
        assert town.server.memory == {}
        assert town.server.stops == ["a"]
        town.server.memory["a"] = 10  # now somebody else wants it
        await town.look()
        assert town.phases() == {"a": "ready"}

    in_town(story)


def test_load_that_failed_and_came_up_serves_who_waits() -> None:
    """It was given up too early; whoever asks for it next has it at once."""

    async def story(town: Town) -> None:
        town.server.error = UpstreamTimeout("slow", source="srv")
        with pytest.raises(LoadFailed):
            await town.use("a")
        town.server.error = None
        busy = asyncio.ensure_future(town.use("b", hold_s=5.0))
        await asyncio.sleep(1.0)
        waiting = asyncio.ensure_future(town.manager.load("srv/a", 60.0))
        await asyncio.sleep(0.1)
        town.server.memory["a"] = 4
        await waiting
        await busy

    in_town(story, budget=10)


def test_server_that_is_back_has_its_models_loaded_at_once() -> None:
    """That they could not be loaded while it was down says nothing about them."""

    async def story(town: Town) -> None:
        town.server.error = UpstreamUnreachable("refused", source="srv")
        await asyncio.sleep(5.0)
        for _ in range(3):
            with pytest.raises(LoadFailed):
                await town.use("a")
            await asyncio.sleep(30.0)
        with pytest.raises(LoadFailed):
            await town.use("a")
        town.server.error = None
        await town.look()
        await town.use("a")

    in_town(story)
