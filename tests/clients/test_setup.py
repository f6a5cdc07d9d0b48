"""The suite's own ground: what `make test` runs of it, everywhere."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from tests.clients.conftest import HERE, NEEDS, settings_are_ours
from tests.clients.forms import NoForm, parts_of
from tests.clients.gateways import ROOT
from tests.clients.mind import Asked, Tool, answer

LOCKS = (*sorted(ROOT.glob("requirements-clients*.lock")), HERE / "package-lock.json")


def test_what_is_left_out_is_told(pytestconfig: pytest.Config) -> None:
    """`make test` has not the libraries, and each of the suite's environments lacks some."""
    if not settings_are_ours(pytestconfig):
        pytest.skip("`make clients` runs the clients' suite, in environments of its own")
    absent = sorted({need for need in NEEDS.values() if importlib.util.find_spec(need) is None})
    if absent:
        pytest.skip(f"left to the other environment of `make clients`: {', '.join(absent)}")


def test_both_environments_have_a_lock() -> None:
    """And the packages of Node.js have one."""
    assert len(LOCKS) == 3


def test_every_file_has_its_needs() -> None:
    """A new file that is not in the table would be collected where it cannot be imported."""
    files = [path.name for path in HERE.glob("test_*.py") if path.name != "test_setup.py"]

    assert [name for name in files if not name.startswith(tuple(NEEDS))] == []


@pytest.mark.parametrize("lock", LOCKS, ids=[path.name for path in LOCKS])
def test_a_lock_names_no_place_to_download_from(lock: Path) -> None:
    """What is installed is held by digests; from where is the user's own setting."""
    text = lock.read_text(encoding="utf-8")

    assert re.findall(r"index-url|find-links|https?:|\"resolved\"", text) == []
    assert "sha256:" in text or '"integrity": "sha512-' in text


def test_a_form_is_read_byte_for_byte() -> None:
    """Data that looks like lines and boundaries stays what it is."""
    data = b"\r\n--b\n\r\n\r\n" + bytes(range(256)) * 4
    head = b'--bb\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

    (part,) = parts_of("multipart/form-data; boundary=bb", head + data + b"\r\n--bb--\r\n")

    assert (part.name, part.filename, part.data) == ("file", "a.wav", data)


@pytest.mark.parametrize("body", [b"", b"--bb\r\n\r\nx\r\n--bb--", b"--bb\r\nx: y\r\n\r\nx\r\n--bb--", b"--bb"])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(NoForm):
        parts_of("multipart/form-data; boundary=bb", body)


def test_the_mind_can_be_foretold() -> None:
    """Prose, a call for each place, and what obeys a schema."""
    weather = Tool("get_weather", {"properties": {"city": {"type": "string"}}})

    said = answer(Asked("the weather in Paris and in New York", tools=[weather]))
    assert [json.loads(call.arguments) for call in said.calls] == [{"city": "Paris"}, {"city": "New York"}]
    assert answer(Asked("the weather", ["sun"], tools=[weather])).text == "The tools say: sun"
    assert answer(Asked("hello", max_tokens=1)).ended == "length"
    schema = {"properties": {"age": {"type": "integer"}, "name": {"anyOf": [{"type": "null"}, {"type": "string"}]}}}
    assert json.loads(answer(Asked("'Ann' is 41", schema=schema)).text) == {"age": 41, "name": "Ann"}
