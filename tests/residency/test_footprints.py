"""Learned sizes: how they rise and fall, who has the better word, and what happens to the file."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest

from gateway.residency.footprints import ENTRIES_MAX, Footprints, footprint_key
from providers.contract import EngineSpec

MIB = 1024**2


def learned(footprints: Footprints, key: str = "k") -> dict[str, int]:
    """The sizes that stand for `key` when nobody declares or estimates any."""
    return dict(footprints.best(key, None, {})[0])


@pytest.fixture
def memory_only(tmp_path: Path) -> Footprints:
    """Never opened: no file."""
    return Footprints(tmp_path / "footprints.json")


# learning


def test_learn_keeps_the_highest_when_one_load_is_sampled_often(memory_only: Footprints) -> None:
    """Within one load a mark only rises: engines touch their memory bit by bit, and give nothing back."""
    memory_only.learn_load_s("k", 1)
    for size in (100, 300, 200, 299):
        memory_only.learn("k", {"ram": size * MIB})
    assert learned(memory_only) == {"ram": 300 * MIB}


def test_learn_decays_once_per_load_when_the_mark_is_not_reached(memory_only: Footprints) -> None:
    """2 % per load, however many samples; loads without a sample count as well."""
    memory_only.learn_load_s("k", 1)
    memory_only.learn("k", {"ram": 1000 * MIB})
    for _ in range(2):
        memory_only.learn_load_s("k", 1)
    for _ in range(5):
        memory_only.learn("k", {"ram": 10 * MIB})
    assert learned(memory_only) == {"ram": int(1000 * MIB * 0.98**2)}


def test_learn_ends_at_what_is_really_held_when_a_freak_is_long_past(memory_only: Footprints) -> None:
    """The decayed mark never falls below what is seen."""
    memory_only.learn("k", {"ram": 1000 * MIB})
    for _ in range(200):
        memory_only.learn_load_s("k", 1)
        memory_only.learn("k", {"ram": 100 * MIB})
    assert learned(memory_only) == {"ram": 100 * MIB}


@pytest.mark.parametrize(("sample", "expected"), [(1, 250), (250, 250), (1000, 1000), (4000, 4000), (9000, 4000)])
def test_learn_is_cut_when_far_from_the_estimate(memory_only: Footprints, sample: int, expected: int) -> None:
    """Between a quarter and four times."""
    memory_only.learn("k", {"ram": sample * MIB}, {"ram": 1000 * MIB})
    assert learned(memory_only) == {"ram": expected * MIB}


def test_learn_is_cut_at_the_devices_total_when_that_is_known(memory_only: Footprints) -> None:
    """Nothing holds more than there is."""
    memory_only.totals = {"ram": 500 * MIB}
    memory_only.learn("k", {"ram": 900 * MIB, "gpu0": 7 * MIB}, {"ram": 1000 * MIB})
    assert learned(memory_only) == {"ram": 500 * MIB, "gpu0": 7 * MIB}


def test_learn_ignores_a_sample_when_it_says_nothing(memory_only: Footprints) -> None:
    """Zero or less on a device: the driver did not tell; the earlier mark stands."""
    memory_only.learn("k", {"gpu0": 0, "ram": -5})
    assert memory_only.best("k", None, {"ram": 3}) == ({"ram": 3}, "estimated")
    memory_only.learn("k", {"gpu0": 70, "ram": 5})
    memory_only.learn("k", {"gpu0": 0, "ram": 5}, {"gpu0": 100})
    assert learned(memory_only) == {"gpu0": 70, "ram": 5}


def test_load_s_follows_the_newer_loads_when_they_differ(memory_only: Footprints) -> None:
    """The first is taken whole, the next ones weigh 30 %; nonsense is not taken."""
    assert memory_only.load_s("k") is None
    memory_only.learn_load_s("k", 10)
    assert memory_only.load_s("k") == 10
    memory_only.learn_load_s("k", 20)
    assert memory_only.load_s("k") == pytest.approx(13)
    memory_only.learn_load_s("k", float("nan"))
    memory_only.learn_load_s("k", -1)
    assert memory_only.load_s("k") == pytest.approx(13)


# whose word


def test_best_prefers_learned_then_declared_then_estimated(memory_only: Footprints) -> None:
    """Each with its name."""
    assert memory_only.best("k", None, {"ram": 1}) == ({"ram": 1}, "estimated")
    assert memory_only.best("k", {"ram": 2}, {"ram": 1}) == ({"ram": 2}, "declared")
    memory_only.learn("k", {"ram": 3})
    assert memory_only.best("k", {"ram": 2}, {"ram": 1}) == ({"ram": 3}, "learned")
    assert memory_only.best("other", {"ram": 2}, {"ram": 1}) == ({"ram": 2}, "declared")


def test_best_keeps_a_devices_word_when_it_was_never_measured(memory_only: Footprints) -> None:
    """A GPU whose driver says nothing is not taken for empty."""
    memory_only.learn("k", {"ram": 3})
    assert memory_only.best("k", {"gpu0": 18, "ram": 2}, {}) == ({"gpu0": 18, "ram": 3}, "declared")
    assert memory_only.best("k", None, {"gpu0": 9}) == ({"gpu0": 9, "ram": 3}, "estimated")


def test_entries_longest_unused_go_when_there_are_too_many(memory_only: Footprints) -> None:
    """The list has a limit, and a resident that is sampled stays on it."""
    memory_only.learn("old", {"ram": 1})
    memory_only.learn("kept", {"ram": 2})
    for index in range(ENTRIES_MAX - 1):
        memory_only.learn(f"k{index}", {"ram": 3})
        memory_only.learn("kept", {"ram": 2})
    assert learned(memory_only, "old") == {}
    assert learned(memory_only, "kept") == {"ram": 2}


# keys


def test_key_differs_when_the_size_may(tmp_path: Path) -> None:
    """Kind, file, its length, command, context, slots, device; not the name, nor how long it may take."""
    weights = tmp_path / "w.gguf"
    weights.write_bytes(b"1")
    spec = EngineSpec(target="local/a", alias="a", source=weights)
    change = msgspec.structs.replace
    keys = [
        footprint_key("llama_cpp", spec),
        footprint_key("vllm", spec),
        footprint_key("llama_cpp", change(spec, context=1)),
        footprint_key("llama_cpp", change(spec, slots=2)),
        footprint_key("llama_cpp", change(spec, device="gpu0")),
        footprint_key("llama_cpp", change(spec, command=("x",))),
        footprint_key("llama_cpp", change(spec, args=("x",))),
        footprint_key("llama_cpp", change(spec, source=tmp_path / "absent")),
        footprint_key("vllm", change(spec, source=None)),
        footprint_key("vllm", change(spec, source=None, target="local/b")),
    ]
    assert len(set(keys)) == len(keys)
    assert footprint_key("llama_cpp", change(spec, alias="b", target="local/b", load_timeout_s=1)) == keys[0]
    weights.write_bytes(b"12")
    assert footprint_key("llama_cpp", spec) not in keys


# the file


async def test_sizes_come_back_when_the_gateway_restarts(tmp_path: Path) -> None:
    """Written at the end, in a folder that was not there; and read at the start."""
    path = tmp_path / "state" / "footprints.json"
    first = Footprints(path)
    await first.open()
    first.learn_load_s("k", 2.5)
    first.learn("k", {"ram": 7, "gpu0": 8})
    await first.aclose()
    await first.aclose()
    assert [file.name for file in path.parent.iterdir()] == ["footprints.json"]
    second = Footprints(path)
    second.learn("new", {"ram": 1})
    await second.open()
    assert learned(second) == {"ram": 7, "gpu0": 8}
    assert learned(second, "new") == {"ram": 1}
    assert second.load_s("k") == 2.5
    await second.aclose()


async def test_file_is_written_when_the_gateway_runs_on(tmp_path: Path) -> None:
    """A gateway that is killed has lost only its last seconds."""
    path = tmp_path / "footprints.json"
    footprints = Footprints(path)
    await footprints.open()
    try:
        for size in (1, 2, 3):
            footprints.learn("k", {"ram": size})
        async with asyncio.timeout(10):
            while not path.exists():  # noqa: ASYNC110 - a file appears; there is no event to wait for
                await asyncio.sleep(0.05)
        assert json.loads(path.read_text())["engines"]["k"]["devices"]["ram"]["bytes"] == 3
        before = path.stat().st_mtime_ns
        footprints.learn("k", {"ram": 3})  # nothing new
    finally:
        await footprints.aclose()
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[1, 2]",
        b'{"version": 2, "engines": {}}',
        b'{"engines": {"k": {"devices": {"ram": {"bytes": -4, "load": 0}}}}}',
        b'{"engines": {"k": {"loads": "many"}}}',
        b'{"engines": {"\xff": {}}}',
        b'{"engines": {"k"',
    ],
)
async def test_file_is_set_aside_when_it_makes_no_sense(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The start goes on, the broken file is kept, and learning begins anew."""
    path = tmp_path / "footprints.json"
    path.write_bytes(content)
    footprints = Footprints(path)
    await footprints.open()
    footprints.learn("k", {"ram": 5})
    await footprints.aclose()
    assert (tmp_path / "footprints.json.corrupt").read_bytes() == content
    assert "set aside" in caplog.text
    assert json.loads(path.read_text())["engines"]["k"]["devices"] == {"ram": {"bytes": 5, "load": 0}}


async def test_sizes_stay_in_memory_when_the_folder_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; nothing fails."""
    (tmp_path / "state").write_text("a file where the folder should be")
    footprints = Footprints(tmp_path / "state" / "footprints.json")
    for size in (1, 2):
        await footprints.open()
        footprints.learn("k", {"ram": size})
        await footprints.aclose()
    assert learned(footprints) == {"ram": 2}
    assert caplog.text.count("kept in memory only") == 1


async def test_old_file_stays_whole_when_a_write_fails(tmp_path: Path) -> None:
    """The new content is complete before it takes the old one's place; a failed attempt leaves nothing behind."""
    path = tmp_path / "footprints.json"
    footprints = Footprints(path)
    await footprints.open()
    footprints.learn("k", {"ram": 1})
    await footprints.aclose()
    before = path.read_bytes()
    (tmp_path / f".footprints.json.{os.getpid()}").mkdir()  # where the new content would be written
    await footprints.open()
    footprints.learn("k", {"ram": 2})
    await footprints.aclose()
    assert path.read_bytes() == before
