"""What a model name means: the rules of `resolve.py` in their order, their collisions, and what they cost."""

from __future__ import annotations

import contextlib
import statistics
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UnknownModel
from gateway.routing.catalog import Catalog, Listing, Model
from gateway.routing.resolve import COMPARED_MAX, nearest, resolve
from providers.contract import Offer

from .listed import configured, listing, ollama, openrouter, target

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


@settings(deadline=None)
@given(st.text())
def test_resolve_finds_or_says_unknown_whatever_the_name(name: str) -> None:
    """No name brings anything but a route or UnknownModel."""
    if name in CATALOG.by_name or name in CATALOG.by_target:
        assert resolve(CATALOG, name).targets
    else:
        with pytest.raises(UnknownModel):
            resolve(CATALOG, name)


def keys(catalog: Catalog, name: str) -> list[str]:
    """The route that is meant."""
    return [each.key for each in resolve(catalog, name).targets]


def refusal(catalog: Catalog, name: str) -> str:
    """What the caller is told of a name that means nothing."""
    with pytest.raises(UnknownModel) as caught:
        resolve(catalog, name)
    return caught.value.message


def test_bare_name_means_all_providers_that_list_it_in_configured_order() -> None:
    """One route, made once with the snapshot, that may be reordered."""
    catalog = Catalog([], [listing("b", "x", "y"), listing("a", "x"), listing("c", "x")])
    route = resolve(catalog, "x")
    assert [each.key for each in route.targets] == ["b/x", "a/x", "c/x"]
    assert (route.name, route.found) == ("x", True)
    assert resolve(catalog, "x") is route
    assert resolve(catalog, "y") is resolve(catalog, "b/y")


def test_bare_route_is_described_by_the_first_that_lists_it() -> None:
    """Its length is that of the target tried first."""
    offers = [Offer(name="x", context_length=1), Offer(name="x", context_length=2)]
    route = resolve(Catalog([], [Listing("a", offers[:1]), Listing("b", offers[1:])]), "x")
    assert (route.context_length, route.offer) == (1, offers[0])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("openai/gpt-4o", ["openai/gpt-4o"]),  # 1 before 4: what OpenRouter lists under this bare name is not meant
        ("openrouter/openai/gpt-4o", ["openrouter/openai/gpt-4o"]),
        ("gpt-4o", ["local/own"]),  # 1 before 4
        ("fast", ["local/own"]),  # 2 before 4
        ("local/own", ["local/own"]),  # 3
        ("local/hidden", ["local/hidden"]),  # 3 before 4
        ("openai/o3", ["openrouter/openai/o3"]),  # 4
        ("llama3", ["openai/llama3"]),  # 4 before 5
        ("ollama/llama3", ["ollama/llama3:latest"]),  # 5
        ("mine", ["local/mine-target"]),  # 1 before 5
        ("openai/gpt-4o:nitro", ["openrouter/openai/gpt-4o:nitro"]),  # 6: openai itself has no variants
    ],
)
def test_the_first_rule_that_finds_something_decides(name: str, meant: list[str]) -> None:
    """Whoever else could be called so."""
    catalog = Catalog(
        [
            configured("gpt-4o", "local/own", aliases=("fast",)),
            configured("other", "local/hidden"),
            configured("mine", "local/mine-target"),
        ],
        [
            ollama("llama3:latest", "mine:latest", "fast:latest"),
            listing("openai", "gpt-4o", "llama3", "fast"),
            openrouter("openai/gpt-4o", "openai/o3", "local/hidden"),
        ],
    )
    assert keys(catalog, name) == meant


@pytest.mark.parametrize(
    ("listed", "name", "meant"),
    [
        (["x:7b", "x:latest", "x:70b"], "x", "x:latest"),
        (["x:7b", "y:latest"], "x", "x:7b"),
        (["x:7b", "x:latest"], "x:7b", "x:7b"),
        (["ns/x:q4"], "ns/x", "ns/x:q4"),
        (["hf.co/org/x:Q4_K_M"], "hf.co/org/x", "hf.co/org/x:Q4_K_M"),
        (["host:5000/ns/x:q4"], "host:5000/ns/x", "host:5000/ns/x:q4"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "ollama/"])
def test_name_without_tag_means_latest_or_the_only_one(listed: list[str], name: str, meant: str, prefix: str) -> None:
    """Bare, and with the provider's name before it."""
    assert keys(Catalog([], [ollama(*listed)]), prefix + name) == [f"ollama/{meant}"]


def test_name_without_tag_is_not_guessed_among_several() -> None:
    """The refusal says what there is to choose from."""
    catalog = Catalog([], [ollama("x:1b", "x:3b"), ollama("y:1b", "y:3b", "y:latest", provider="attic")])
    assert "say which one: 'x:1b', 'x:3b'" in refusal(catalog, "x")
    assert "say which one: 'ollama/x:1b', 'ollama/x:3b'" in refusal(catalog, "ollama/x")
    many = Catalog([], [ollama(*(f"x:{n}b" for n in range(20)))])
    assert "'x:7b' and 12 more" in refusal(many, "x")


def test_name_without_tag_is_a_route_over_several_servers() -> None:
    """`latest` wherever one has it, and never two different tags in one route."""
    catalog = Catalog(
        [],
        [
            ollama("x:latest", "y:7b", "z:1b", provider="a"),
            ollama("x:7b", "x:latest", "y:7b", "z:2b", provider="b"),
            ollama("x:7b", provider="c"),
        ],
    )
    assert keys(catalog, "x") == ["a/x:latest", "b/x:latest"]
    assert keys(catalog, "y") == ["a/y:7b", "b/y:7b"]
    assert keys(catalog, "c/x") == ["c/x:7b"]
    assert "'z:1b', 'z:2b'" in refusal(catalog, "z")


def test_name_without_tag_means_nothing_where_names_have_none() -> None:
    """A free model is never meant by the name of the paid one, whatever an Ollama beside it has."""
    catalog = Catalog([], [openrouter("v/x:free"), ollama("v/y:free"), listing("lab", "v/y:free")])
    refusal(catalog, "v/x")
    refusal(catalog, "openrouter/v/x")
    assert keys(catalog, "v/x:free") == ["openrouter/v/x:free"]
    assert keys(catalog, "v/y") == ["ollama/v/y:free"]
    assert keys(catalog, "v/y:free") == ["ollama/v/y:free", "lab/v/y:free"]


def test_variant_is_the_same_model_called_with_its_suffix() -> None:
    """Key and upstream name carry it; what is said of the model stays."""
    offer = Offer(name="v/x", context_length=5)
    catalog = Catalog([], [Listing("openrouter", [offer], variants=frozenset({":nitro"})), listing("lab", "v/x")])
    for prefix in ("", "openrouter/"):
        model = resolve(catalog, f"{prefix}v/x:nitro")
        assert model.targets == (target("openrouter/v/x:nitro"),)
        assert (model.offer, model.context_length, model.found) == (offer, 5, True)
    assert resolve(catalog, "openrouter/v/x:nitro").name == "openrouter/v/x:nitro"


def test_variant_means_only_the_providers_that_have_it() -> None:
    """A route over those; one listed with its suffix is an ordinary name."""
    catalog = Catalog(
        [],
        [
            listing("a", "x", variants=frozenset({":fast", ":cheap"})),
            listing("b", "x", "x:cheap"),
            listing("c", "x", variants=frozenset({":fast"})),
        ],
    )
    assert keys(catalog, "x:fast") == ["a/x:fast", "c/x:fast"]
    assert keys(catalog, "x:cheap") == ["b/x:cheap"]
    assert keys(catalog, "a/x:cheap") == ["a/x:cheap"]


def test_variant_of_a_providers_name_comes_before_that_of_a_bare_one() -> None:
    """As without the suffix; where that provider has no such suffix, the bare name is meant."""
    catalog = Catalog([], [openrouter("a/x"), listing("a", "x", variants=frozenset({":nitro"}))])
    assert keys(catalog, "a/x:nitro") == ["a/x:nitro"]
    assert keys(catalog, "a/x:online") == ["openrouter/a/x:online"]


@pytest.mark.parametrize(
    "name",
    ["x:turbo", "x:", ":nitro", "openrouter/x:free", "y:nitro", "x:nitro:nitro", "lab/x:nitro", "m:nitro", "x: nitro"],
)
def test_variant_means_nothing_where_it_is_not_known(name: str) -> None:
    """No unknown suffix, no unknown name, no provider without variants, no model of the operator's."""
    refusal(Catalog([configured("m", "lab/x")], [openrouter("x"), listing("lab", "x")]), name)


@pytest.mark.parametrize("name", ["名前/モデル:八", "é", "a b", "x" * 10_000, "a/b/c/d", "::", "/", "//:", "\0"])
def test_strange_names_are_names(name: str) -> None:
    """Listed, they are found, bare and with the provider's name; not listed, they are refused in few words."""
    catalog = Catalog([], [listing("p", name)])
    assert keys(catalog, name) == keys(catalog, f"p/{name}") == [f"p/{name}"]
    assert len(refusal(Catalog([], [listing("p", "other")]), name)) < COMPARED_MAX + 200


def test_nearest_are_named_three_at_most_and_of_the_provider_that_was_named() -> None:
    """Whatever the case of the letters; nothing longer than a name is repeated."""
    catalog = Catalog(
        [configured("gpt-main", "local/a")],
        [
            openrouter("openai/gpt-4o", "openai/gpt-4o-mini", "openai/gpt-4.1", "z/none"),
            ollama("llama3.2:latest", "x" * 300),
        ],
    )
    assert nearest(catalog, "openrouter/openai/gpt4o")[0] == "openrouter/openai/gpt-4o"
    assert nearest(catalog, "openai/GPT-4o")[0] == "openai/gpt-4o"
    assert nearest(catalog, "lama3.2") == ["llama3.2:latest"]
    assert nearest(catalog, "openai/gpt-4p")[:1] == ["openai/gpt-4o"]
    assert len(nearest(catalog, "openai/gpt-4")) == 3
    assert nearest(catalog, "x" * 299) == nearest(catalog, "") == nearest(catalog, "openrouter/") == []


@settings(deadline=None)
@given(st.text(max_size=300))
def test_nearest_is_found_for_any_text(name: str) -> None:
    """No text breaks it, and what it names can be asked for."""
    catalog = Catalog([configured("m", "p/a")], [ollama("a:1", "b:latest"), openrouter("v/x", "é/名:free")])
    near = nearest(catalog, name)
    assert len(near) <= 3
    for each in near:
        assert resolve(catalog, each)


BIG = Catalog(
    [configured(f"mine-{n}", f"local/engine-{n}", aliases=(f"alias-{n}",)) for n in range(20)],
    [
        ollama(*(f"family{n}:latest" for n in range(50))),
        openrouter(*(f"vendor{n % 40}/model-{n}-instruct" for n in range(600))),
        listing("office", *(f"vendor{n % 40}/model-{n}-instruct" for n in range(600))),
    ],
)


def times_us(name: str, rounds: int) -> list[float]:
    """Of single look-ups, in this thread's own time: other processes' work is not ours."""
    times: list[float] = []
    for _ in range(rounds):
        started_ns = time.thread_time_ns()
        with contextlib.suppress(UnknownModel):
            resolve(BIG, name)
        times.append((time.thread_time_ns() - started_ns) / 1_000)
    return times


@pytest.mark.parametrize(
    "name",
    [
        "mine-7",
        "alias-7",
        "local/engine-7",
        "openrouter/vendor0/model-0-instruct",
        "vendor1/model-1-instruct",
        "family7",
        "ollama/family7",
        "vendor1/model-1-instruct:nitro",
        "openrouter/vendor1/model-1-instruct:nitro",
    ],
)
def test_resolve_is_quick_by_every_rule(name: str) -> None:
    """Two catalogues of 600 and more: 20 µs (typical are 0.2, for a variant 1.6)."""
    assert resolve(BIG, name).targets
    assert statistics.median(times_us(name, 2_000)) < 20


@pytest.mark.parametrize(
    "name",
    [
        "openrouter/vendor3/modle-44-instruct",
        "".join(map(chr, range(300, 556))),
        "openrouter/" + "ab" * 120,
        "z" * 10_000,
    ],
)
def test_refusing_a_name_is_quick(name: str) -> None:
    """Nobody holds the loop up by asking for what is not there: 5 ms (typical are 1)."""
    assert min(times_us(name, 20)) < 5_000


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("llama:latest", "llama"),
        ("small:latest", "llama"),
        ("cloud/other:latest", "cloud/other"),
        ("up/echo:latest", "up/echo"),
        ("echo:latest", "up/echo"),
    ],
)
def test_latest_completes_a_name(name: str, meant: str) -> None:
    """As Ollama's clients do with every name."""
    models = [configured("llama", "local/llama", aliases=("small",)), configured("cloud/other", "cloud/x")]
    catalog = Catalog(models, [listing("up", "echo"), ollama("qwen:4b")])
    assert resolve(catalog, name).name == meant
    with pytest.raises(UnknownModel):
        resolve(catalog, "qwen:latest")
    with pytest.raises(UnknownModel):
        resolve(catalog, "nobody:latest")
