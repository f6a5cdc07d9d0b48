"""What a model name means: exact → alias → provider/name → 404 with the nearest names."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UnknownModel
from gateway.routing.catalog import Catalog, Model, Target
from gateway.routing.resolve import COMPARED_MAX, resolve


def target(key: str) -> Target:
    """A target whose upstream name is the rest of its key."""
    provider, _, name = key.partition("/")
    return Target(key, provider, name)


CATALOG = Catalog(
    [
        Model("llama", (target("local/llama-8b"), target("cloud/meta/llama:free")), ("small", "default")),
        Model("cloud/other", (target("cloud/other-1"),)),
        Model("qwen/Qwen3-8B:latest", (target("cloud/other-1"), target("local/q"))),
    ]
)


@pytest.mark.parametrize(
    ("name", "model", "targets"),
    [
        ("llama", "llama", ["local/llama-8b", "cloud/meta/llama:free"]),
        ("small", "llama", ["local/llama-8b", "cloud/meta/llama:free"]),
        ("default", "llama", ["local/llama-8b", "cloud/meta/llama:free"]),
        ("qwen/Qwen3-8B:latest", "qwen/Qwen3-8B:latest", ["cloud/other-1", "local/q"]),
        ("cloud/meta/llama:free", "llama", ["cloud/meta/llama:free"]),
        ("local/q", "qwen/Qwen3-8B:latest", ["local/q"]),
        ("cloud/other", "cloud/other", ["cloud/other-1"]),
        ("cloud/other-1", "cloud/other", ["cloud/other-1"]),
    ],
)
def test_resolve_finds_the_route(name: str, model: str, targets: list[str]) -> None:
    """A name or an alias means its whole route, a target's key a route of one; the first model that has it names it."""
    found = resolve(CATALOG, name)
    assert (found.name, [t.key for t in found.targets]) == (model, targets)


def test_resolve_prefers_the_name_when_a_target_is_called_the_same() -> None:
    """A public name wins over the key of a target."""
    catalog = Catalog([Model("p/x", (target("q/y"),)), Model("other", (target("p/x"),))])
    assert [t.key for t in resolve(catalog, "p/x").targets] == ["q/y"]


def test_resolve_names_the_nearest_when_it_is_unknown() -> None:
    """A slip of the finger gets a hint, with the code that SDKs know."""
    with pytest.raises(UnknownModel, match="did you mean 'llama'") as caught:
        resolve(CATALOG, "lama")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "'lama'" in caught.value.message


def test_resolve_says_where_to_look_when_nothing_is_near() -> None:
    """No wild guesses."""
    with pytest.raises(UnknownModel, match="GET /v1/models"):
        resolve(CATALOG, "zzzzzz")


def test_resolve_says_so_when_there_is_no_model_at_all() -> None:
    """The first thing a newcomer may meet."""
    with pytest.raises(UnknownModel, match="no model is configured or found"):
        resolve(Catalog([]), "gpt-4")


@pytest.mark.parametrize(
    "name", ["", " llama", "llama ", "LLAMA", "../llama", "llama\0", "%6clama", "local/", "/q", "local"]
)
def test_resolve_does_not_guess_when_the_name_is_only_similar(name: str) -> None:
    """Names are exact; what is near is only named."""
    with pytest.raises(UnknownModel):
        resolve(CATALOG, name)


def test_resolve_is_quick_when_the_name_is_huge() -> None:
    """A megabyte of name is neither compared nor repeated in full."""
    started_s = time.perf_counter()
    with pytest.raises(UnknownModel) as caught:
        resolve(CATALOG, "x" * (1 << 20))
    assert time.perf_counter() - started_s < 0.5
    assert len(caught.value.message) < COMPARED_MAX + 200


@given(st.text())
def test_resolve_finds_or_says_unknown_whatever_the_name(name: str) -> None:
    """No name brings anything but a route or UnknownModel."""
    if name in CATALOG.by_name or name in CATALOG.by_target:
        assert resolve(CATALOG, name).targets
    else:
        with pytest.raises(UnknownModel):
            resolve(CATALOG, name)


def test_catalog_refuses_when_a_name_is_given_twice() -> None:
    """As name or as alias: which one is meant could not be told."""
    with pytest.raises(ValueError, match="'a' is given twice"):
        Catalog([Model("a", (target("p/a"),)), Model("b", (target("p/b"),), ("a",))])
