"""Files of this machine brought into the models folder: a second name or a copy, never over another file."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from providers.fetch import FetchError, Progress
from providers.fetch_local import fetch_local_file
from tests.providers.test_gguf import gguf

CONTENT = gguf({"general.architecture": "llama", "llama.block_count": 1})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder that is not there yet."""
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file, whole."""
    path = tmp_path / "elsewhere" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def brought(path: Path, models: Path, progress: Progress | None = None) -> Path:
    """Where it lies afterwards."""
    return asyncio.run(fetch_local_file(path, models, progress))


def test_file_has_two_names_on_the_same_disk(file: Path, models: Path) -> None:
    """No byte is copied; a second time it is there already."""
    assert brought(file, models) == models / "tiny.gguf"
    assert (models / "tiny.gguf").samefile(file)
    assert brought(file, models) == models / "tiny.gguf"


def test_file_is_copied_from_another_disk(models: Path) -> None:
    """Whole or not at all, and nothing else is left."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == models.parent.stat().st_dev:
        pytest.skip("no second disk here")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        file = Path(folder) / "tiny.gguf"
        file.write_bytes(CONTENT)
        told: list[str] = []
        path = brought(file, models, lambda stage, done, total: told.append(stage))
        assert not path.samefile(file)
    assert path.read_bytes() == CONTENT
    assert sorted(entry.name for entry in models.iterdir()) == [".fetch", "tiny.gguf"]
    assert told == ["copy", "done"]


def test_symbolic_link_brings_the_file_under_its_own_name(file: Path, models: Path) -> None:
    """Caches of other programs are made of links to files that are called after their checksums."""
    blob = file.rename(file.with_name("b179c9"))
    file.symlink_to(blob)
    path = brought(file, models)
    assert path == models / "tiny.gguf"
    assert not path.is_symlink()
    assert path.samefile(blob)


def test_all_parts_come_with_the_first(tmp_path: Path, models: Path) -> None:
    """And nothing comes while one is missing."""
    names = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    (tmp_path / names[0]).write_bytes(CONTENT)
    with pytest.raises(FetchError, match=r"parts of the model are missing: big-00002-of-00002\.gguf"):
        brought(tmp_path / names[0], models)
    assert not models.exists()
    (tmp_path / names[1]).write_bytes(CONTENT)
    assert brought(tmp_path / names[0], models) == models / names[0]
    assert sorted(path.name for path in models.glob("*.gguf")) == names


def test_file_of_the_models_folder_stays_where_it_is(models: Path) -> None:
    """However it is written."""
    (models / "sub").mkdir(parents=True)
    path = models / "sub" / "tiny.gguf"
    path.write_bytes(CONTENT)
    assert brought(path, models) == path
    relative = Path(os.path.relpath(path))
    assert brought(relative, models).samefile(path)
    assert not (models / "tiny.gguf").exists()


def test_other_file_of_the_name_is_not_overwritten(file: Path, models: Path) -> None:
    """An equal one is fine."""
    models.mkdir()
    (models / "tiny.gguf").write_bytes(CONTENT)
    assert brought(file, models) == models / "tiny.gguf"
    (models / "tiny.gguf").write_bytes(b"another")
    with pytest.raises(FetchError, match=r"another file is called tiny\.gguf in the models folder: rename one"):
        brought(file, models)
    assert (models / "tiny.gguf").read_bytes() == b"another"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be used"),
        (b"<html>" + bytes(100), "does not begin as a GGUF file does"),
        (gguf({"general.architecture": "llama"}, [("t", (32,), 0, 0)], 0), "truncated"),
    ],
)
def test_what_is_no_whole_gguf_file_is_refused(file: Path, models: Path, content: bytes, message: str) -> None:
    """Before it comes anywhere."""
    file.write_bytes(content)
    with pytest.raises(FetchError, match=message):
        brought(file, models)
    assert not models.exists()


def test_what_is_no_file_is_refused(tmp_path: Path, models: Path) -> None:
    """A folder, or nothing."""
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(FetchError, match="cannot be read"):
            brought(path, models)


def test_folder_that_cannot_be_made_is_told(file: Path, tmp_path: Path) -> None:
    """A file where the models folder should be."""
    (tmp_path / "models").touch()
    with pytest.raises(FetchError, match="models folder cannot be used"):
        brought(file, tmp_path / "models")


def test_several_may_bring_the_same_file(file: Path, models: Path) -> None:
    """One does, the others find it."""

    async def several() -> list[Path]:
        return await asyncio.gather(*(fetch_local_file(file, models) for _ in range(3)))

    assert set(asyncio.run(several())) == {models / "tiny.gguf"}
