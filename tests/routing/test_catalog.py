"""What a snapshot shows, and that a provider's list never changes what the operator said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.catalog import Catalog, Listing, Model
from gateway.routing.resolve import resolve
from providers.contract import Offer

from .listed import configured, listing, ollama, openrouter, target


def shown(catalog: Catalog) -> list[str]:
    return [model.name for model in catalog.models]


def test_catalog_shows_configured_models_first_then_each_provider_in_order() -> None:
    """The order of OpenAI's list is the configuration's, and within a provider its own."""
    catalog = Catalog([configured("b", "p/x"), configured("a", "p/y")], [listing("z", "2", "1"), listing("c", "1")])
    assert shown(catalog) == ["b", "a", "z/2", "z/1", "c/1"]


def test_catalog_makes_a_model_of_what_is_listed() -> None:
    """Its name, its one target, and what the provider says of it."""
    offer = Offer(name="gpt-4o", context_length=128_000, created=1_700_000_000, capabilities=("chat",))
    model = Catalog([], [Listing("openai", [offer])]).models[0]
    assert model == Model(
        "openai/gpt-4o",
        (target("openai/gpt-4o"),),
        context_length=128_000,
        created=1_700_000_000,
        offer=offer,
        found=True,
    )


@pytest.mark.parametrize(
    "own", [configured("openai/gpt-4o", "local/a"), configured("m", "local/a", aliases=("openai/gpt-4o",))]
)
def test_catalog_does_not_show_a_listed_model_whose_name_the_operator_gave_away(own: Model) -> None:
    """As name or as alias: it means the operator's model, and stands in the list once."""
    catalog = Catalog([own], [listing("openai", "gpt-4o", "o3")])
    assert shown(catalog) == [own.name, "openai/o3"]
    assert resolve(catalog, "openai/gpt-4o").targets == (target("local/a"),)
    bare = resolve(catalog, "gpt-4o")
    assert (bare.name, bare.targets) == ("gpt-4o", (target("openai/gpt-4o"),))


def test_catalog_describes_the_operators_model_by_the_first_of_its_targets_that_is_listed() -> None:
    """What the provider says is known; name, order and length stay the operator's."""
    offers = [Offer(name="x", context_length=7), Offer(name="y", context_length=8)]
    catalog = Catalog([configured("m", "local/a", "cloud/y", "cloud/x")], [Listing("cloud", offers)])
    model = catalog.models[0]
    assert (model.offer, model.found, model.context_length) == (offers[1], False, None)
    assert catalog.by_target["cloud/x"].offer == offers[0]
    assert catalog.offers == {"cloud/x": offers[0], "cloud/y": offers[1]}


def test_catalog_names_a_target_by_the_operators_model_even_if_it_is_listed() -> None:
    """What is in memory is shown under the name the operator gave it."""
    catalog = Catalog([configured("mine", "ollama/llama3:8b")], [ollama("llama3:8b")])
    assert catalog.by_target["ollama/llama3:8b"].name == "mine"
    assert resolve(catalog, "ollama/llama3:8b").name == "ollama/llama3:8b"


def test_catalog_passes_over_what_has_no_name_or_was_listed_before() -> None:
    """A lying list does not make the snapshot fail."""
    catalog = Catalog([], [listing("p", "", "a", "a"), listing("p", "a", "b"), listing("q")])
    assert shown(catalog) == ["p/a", "p/b"]
    assert resolve(catalog, "a").targets == (target("p/a"),)


def test_catalog_refuses_when_a_name_is_given_twice() -> None:
    """As name or as alias: which one is meant could not be told."""
    with pytest.raises(ValueError, match="'a' is given twice"):
        Catalog([configured("a", "p/a"), configured("b", "p/b", aliases=("a",))])


NAMES = st.text(alphabet="ab/:é", max_size=5)


@settings(deadline=None)
@given(st.lists(NAMES, unique=True, max_size=4), st.lists(st.lists(NAMES, max_size=6), min_size=3, max_size=3), NAMES)
def test_catalog_holds_its_word_whatever_is_listed(own: list[str], lists: list[list[str]], name: str) -> None:
    """The operator's names mean the operator's models, what is shown can be asked for, and nothing is called in vain."""
    models = [configured(each, "local/x") for each in own]
    listings = [ollama(*lists[0], provider="a"), openrouter(*lists[1]), listing("b", *lists[2])]
    catalog = Catalog(models, listings)
    for model in catalog.models:
        assert resolve(catalog, model.name) is model
    assert [model.name for model in catalog.models[: len(own)]] == own
    for model in catalog.meant.values():
        assert model.targets
        assert len({each.key for each in model.targets}) == len(model.targets)
    found = catalog.meant.get(name)
    if found is not None and name not in own and found.targets[0].provider == "openrouter":
        upstream = found.targets[0].upstream_name
        assert name in (upstream, f"openrouter/{upstream}"), "only names with tags are meant by less than themselves"
