"""What is loaded in servers is kept on disk, so that the next start can take it out again after a crash."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.residency.journal import Happening
from gateway.residency.leftovers import Leftovers


def happening(what: str, target: str) -> Happening:
    return Happening(seq=1, at_s=0.0, what=what, target=target)


async def kept(path: Path) -> frozenset[str]:
    """As the next start reads it."""
    return await Leftovers(path, lambda _: True).open()


async def test_loads_in_servers_are_kept_until_they_are_gone(tmp_path: Path) -> None:
    """Engines of our own are not among them: they die with us."""
    path = tmp_path / "state" / "in_servers.json"
    leftovers = Leftovers(path, lambda target: target.startswith("ollama/"))
    for what, target in (("loaded", "ollama/a"), ("loaded", "ollama/b"), ("loaded", "local/c"), ("found", "ollama/d")):
        leftovers.heed(happening(what, target))
    await leftovers.aclose()
    assert await kept(path) == {"ollama/a", "ollama/b"}
    leftovers.heed(happening("gone", "ollama/a"))
    leftovers.heed(happening("vanished", "ollama/b"))
    await leftovers.aclose()
    assert await kept(path) == frozenset()


async def test_burst_of_changes_ends_with_the_last_state(tmp_path: Path) -> None:
    """However they fall between two writes."""
    path = tmp_path / "in_servers.json"
    leftovers = Leftovers(path, lambda _: True)
    for round_ in range(50):
        leftovers.heed(happening("loaded", f"ollama/{round_ % 5}"))
        leftovers.heed(happening("gone", f"ollama/{(round_ + 2) % 5}"))
    leftovers.heed(happening("loaded", "ollama/last"))
    await leftovers.aclose()
    assert "ollama/last" in await kept(path)
    assert json.loads(path.read_bytes()) == sorted(await kept(path))


async def test_file_that_is_none_is_nothing(tmp_path: Path) -> None:
    """Absent, broken, of another shape, a folder."""
    assert await kept(tmp_path / "none") == frozenset()
    for content in (b"", b"{", b'{"a": 1}', b"[1]", b"\xff"):
        path = tmp_path / "file"
        path.write_bytes(content)
        assert await kept(path) == frozenset()
    assert await kept(tmp_path) == frozenset()


async def test_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """It is said in the log."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    leftovers = Leftovers(blocked / "in_servers.json", lambda _: True)
    leftovers.heed(happening("loaded", "ollama/a"))
    await leftovers.aclose()
    assert await kept(blocked / "in_servers.json") == frozenset()
