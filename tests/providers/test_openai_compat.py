"""Kind `openai`: where its paths go, and what the model lists of real servers become."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from config.forms import Secret
from config.load import ConfigError, load
from config.schema import ProviderConfig
from providers.contract import Offer
from providers.errors import UpstreamBroke, UpstreamKeyRefused, UpstreamRefused
from providers.openai_compat import OpenAICompat
from providers.pricing import Price
from providers.remote import Remote, Site
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.providers.wire import SHORT, request

SITE = Site(state_dir=Path("/nowhere"))


@asynccontextmanager
async def provider(upstream: FakeUpstream, path: str = "/v1", **options: Any) -> AsyncGenerator[OpenAICompat]:
    built = OpenAICompat("mine", ProviderConfig(kind="openai", base_url=upstream.base_url + path, **options), SITE)
    try:
        yield built
    finally:
        await built.aclose()


async def offers(body: object, **options: Any) -> list[Offer]:
    """What a list of this body becomes."""

    async def answer(exchange: Exchange) -> None:
        await exchange.answer(200, body)

    async with FakeUpstream() as upstream, provider(upstream, **options) as it:
        upstream.script(answer)
        return list(await it.catalogue())


async def one(entry: dict[str, object]) -> Offer:
    """What one entry of OpenAI's form becomes."""
    [offer] = await offers({"object": "list", "data": [{"id": "m", "object": "model", **entry}]})
    return offer


# --- addresses


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("", "/v1"),
        ("/", "/v1"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/openai/v1", "/openai/v1"),
        ("/api/v1", "/api/v1"),
        ("/v1beta/openai", "/v1beta/openai"),
        ("/openai/v2", "/openai/v2"),
        ("/compatible-mode/v3/", "/compatible-mode/v3"),
    ],
)
async def test_paths_are_neither_doubled_nor_lost_when_base_url_has_any_form(path: str, root: str) -> None:
    """For requests and for the list alike; the query stays."""
    async with FakeUpstream() as upstream, provider(upstream, path) as it:
        upstream.queue(SHORT)
        response = await it.send(request(path=b"/v1/chat/completions?beta=true"))
        response.close()
        await it.catalogue()
        assert [seen.path for seen in upstream.requests] == [f"{root}/chat/completions?beta=true", f"{root}/models"]


@pytest.mark.parametrize(("path", "straight"), [("", True), ("/openai/v1", True), ("/openai/v2", False)])
async def test_usual_addresses_pay_nothing_for_the_unusual(path: str, straight: bool) -> None:
    """Which way a request takes is decided once."""
    async with FakeUpstream() as upstream, provider(upstream, path) as it:
        assert (it.send == Remote.send.__get__(it)) == straight


async def test_body_and_headers_are_untouched_when_the_root_is_another() -> None:
    """Only the path is."""
    async with FakeUpstream() as upstream, provider(upstream, "/openai/v2") as it:
        upstream.queue(SHORT)
        response = await it.send(request(b'{"model": "m",  "n":1}', headers=((b"x-mark", b"1"),)))
        response.close()
        [seen] = upstream.requests
        assert (seen.body, seen.header("x-mark")) == (b'{"model": "m",  "n":1}', "1")


async def test_key_goes_as_bearer_when_there_is_one() -> None:
    """In place of whatever the caller sent; none is sent without one."""
    async with FakeUpstream() as upstream:
        for key, expected in ((Secret("sk-1"), "Bearer sk-1"), (None, None)):
            async with provider(upstream, api_key=key) as it:
                await it.catalogue()
                assert upstream.requests[-1].header("authorization") == expected
                assert "sk-1" not in repr(it.endpoint)


# --- catalogue


async def test_configured_names_are_the_catalogue_when_there_are_some() -> None:
    """With the operator's prices, and without asking."""
    prices = {"b": {"prompt": Decimal("1e-6"), "completion": Decimal("2e-6")}}
    async with FakeUpstream() as upstream, provider(upstream, models=("a", "b"), prices=prices) as it:
        expected = Price(prompt=Decimal("0.000001"), completion=Decimal("0.000002"))
        assert await it.catalogue() == [Offer(name="a"), Offer(name="b", price=expected)]
        assert upstream.requests == []


async def test_offer_has_only_a_name_when_the_upstream_says_no_more() -> None:
    """OpenAI, DeepSeek: nothing is guessed, neither context nor abilities nor prices."""
    assert await one({"created": 1_686_935_002, "owned_by": "openai"}) == Offer(name="m", created=1_686_935_002)
    assert await one({"owned_by": "deepseek"}) == Offer(name="m")


async def test_context_is_known_when_vllm_or_sglang_tells_it() -> None:
    """`max_model_len`: what the server runs with."""
    entry: dict[str, object] = {
        "owned_by": "vllm",
        "root": "m",
        "parent": None,
        "max_model_len": 4096,
        "permission": [],
    }
    assert await one({"created": 1, **entry}) == Offer(name="m", created=1, context_length=4096)


async def test_context_and_size_are_known_when_llama_server_tells_them() -> None:
    """Per slot as it runs, else what the model was trained for."""
    meta = {"vocab_type": 2, "n_ctx": 4096, "n_ctx_train": 131072, "n_params": 8_030_261_312, "size": 4_912_898_304}
    reads = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
    offer = await one({"created": 5, "meta": meta, "architecture": reads})
    assert (offer.context_length, offer.size_bytes) == (4096, 4_912_898_304)
    assert (offer.capabilities, offer.input_modalities, offer.output_modalities) == (
        ("vision",),
        ("text", "image"),
        ("text",),
    )
    assert (await one({"meta": {"n_ctx_train": 8192}})).context_length == 8192
    assert await one({"meta": None}) == Offer(name="m")  # while it still loads


async def test_models_in_any_state_but_downloading_are_offered_when_a_router_lists_them() -> None:
    """llama.cpp's router loads what is asked for; what it has not got yet cannot be asked for."""
    states = ["loaded", "loading", "unloaded", "sleeping", "downloading"]
    data: list[object] = [{"id": state, "status": {"value": state, "args": ["x"]}} for state in states]
    data.append({"id": "failed", "status": {"value": "unloaded", "failed": True, "exit_code": 1}})
    assert [offer.name for offer in await offers({"data": data})] == [*states[:4], "failed"]


async def test_models_switched_off_are_left_out_when_groq_lists_them() -> None:
    """`active`; and `context_window` is the context."""
    data = [
        {"id": "on", "object": "model", "created": 1, "active": True, "context_window": 131072, "public_apps": None},
        {"id": "off", "object": "model", "created": 1, "active": False, "context_window": 8192},
    ]
    assert await offers({"data": data}) == [Offer(name="on", created=1, context_length=131072)]


async def test_bare_list_is_read_when_together_answers() -> None:
    """Types become abilities where we have the word. Its prices have no documented unit and are not read."""
    types = ["chat", "language", "code", "embedding", "rerank", "image", "moderation", "audio"]
    pricing = {"hourly": 0, "input": 0.3, "output": 0.3, "base": 0, "finetune": 0}
    listed = await offers([{"id": kind, "type": kind, "context_length": 8192, "pricing": pricing} for kind in types])
    assert [offer.name for offer in listed] == types
    words = ["chat", "completion", "completion", "embedding", "rerank"]
    assert [offer.capabilities for offer in listed] == [*((word,) for word in words), (), (), ()]
    assert {(offer.context_length, offer.price) for offer in listed} == {(8192, None)}


async def test_abilities_are_known_when_mistral_tells_them() -> None:
    """Those that are true; what we have no word for is left out; the same model listed twice is one."""
    able = {
        "completion_chat": True,
        "completion_fim": False,
        "function_calling": True,
        "vision": True,
        "fine_tuning": True,
    }
    entry = {"id": "m", "capabilities": able, "max_context_length": 32768, "description": "Big", "type": "base"}
    listed = await offers({"object": "list", "data": [entry, entry]})
    expected = Offer(name="m", capabilities=("chat", "tools", "vision"), context_length=32768, description="Big")
    assert listed == [expected]


async def test_context_is_known_when_tabbyapi_tells_it() -> None:
    """Inside `parameters`, which is null for a model that is not loaded."""
    assert (await one({"parameters": {"max_seq_len": 4096, "cache_mode": "FP16"}})).context_length == 4096
    assert (await one({"parameters": None})).context_length is None


@pytest.mark.parametrize(
    "entry",
    [
        {"created": "yesterday", "context_length": "8k", "max_model_len": -1, "context_window": True},
        {"created": None, "meta": [], "parameters": "8B", "architecture": "llama", "status": "ready"},
        {"capabilities": ["chat"], "type": ["chat"], "active": "yes", "description": {"en": "x"}},
        {"max_model_len": 1e300, "architecture": {"input_modalities": [1, None]}, "capabilities": {"vision": "yes"}},
    ],
)
async def test_entry_is_kept_when_its_fields_mean_something_else(entry: dict[str, object]) -> None:
    """One server's habit spoils neither its entry nor the list."""
    assert await one(entry) == Offer(name="m")


async def test_entries_without_a_name_are_passed_over_when_the_list_has_some() -> None:
    """Missing, null, empty or no text; and a name with slash and colon stays as it is."""
    data = [{}, {"id": None}, {"id": ""}, {"id": 7}, {"id": "org/name:7b"}]
    assert [offer.name for offer in await offers({"data": data})] == ["org/name:7b"]


@pytest.mark.parametrize("body", [{"data": []}, {"data": None, "object": "list"}, []])
async def test_catalogue_is_empty_when_the_upstream_has_none(body: object) -> None:
    """Servers in Go write null."""
    assert await offers(body) == []


@pytest.mark.parametrize("body", [{"models": []}, {"data": {"id": "m"}}, {"data": ["m"]}, ["m"], 7, "ok", None])
async def test_catalogue_fails_when_the_list_is_none(body: object) -> None:
    """Another API answers there."""
    with pytest.raises(UpstreamBroke, match="something else than its API's JSON"):
        await offers(body)


async def test_prices_are_the_operators_when_the_upstream_lists_the_model() -> None:
    """By the upstream's own name."""
    prices = {"m": {"prompt": Decimal("3e-7"), "completion": Decimal("3e-7")}}
    [offer, other] = await offers({"data": [{"id": "m"}, {"id": "n"}]}, prices=prices)
    assert (offer.price, other.price) == (Price(prompt=Decimal("3e-7"), completion=Decimal("3e-7")), None)


async def test_refusal_says_what_to_set_when_there_is_no_list() -> None:
    """An API without /v1/models can be used: its names are written down."""
    async with FakeUpstream() as upstream, provider(upstream, "/other") as it:
        upstream.queue(b'HTTP/1.1 404 No\r\ncontent-length: 25\r\n\r\n{"error": "no such path"}')
        with pytest.raises(
            UpstreamRefused, match=r"no such path: is base_url right\? .* providers\.mine\.models"
        ) as caught:
            await it.catalogue()
        assert caught.value.status == 404
        upstream.queue(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        with pytest.raises(UpstreamRefused, match=r"status 500$"):
            await it.catalogue()


async def test_key_is_refused_clearly_when_the_upstream_does_not_take_it() -> None:
    """The key to set is named, the key itself is not shown."""
    async with FakeUpstream() as upstream, provider(upstream, api_key=Secret("sk-1")) as it:
        upstream.queue(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")
        with pytest.raises(UpstreamKeyRefused, match=r"set providers\.mine\.api_key") as caught:
            await it.catalogue()
        assert "sk-1" not in str(caught.value)


# --- configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[providers.mine]\nkind = "openai"', r"providers\.mine\.base_url: expected .* got nothing"),
        ('[providers.mine]\nkind = "azure"\nbase_url = "https://u.test"', r"providers\.mine\.kind: expected"),
        ('[providers.mine]\nkind = "openai"\npreset = "nobody"', r"providers\.mine\.preset: expected"),
        ('[providers.mine]\nkind = "openai"\nbase_url = "u.test/v1"', r"providers\.mine\.base_url: expected"),
        (
            '[providers.mine]\nkind = "openai"\nbase_url = "https://u.test"\napi_key = ""',
            r"providers\.mine\.api_key: expected",
        ),
        ('[providers.mine]\nkind = "openai"\nbase_url = "https://u.test"\napi_key = "${NO}"', r"variable NO to be set"),
    ],
)
def test_configuration_is_refused_when_address_kind_or_key_is_missing(tmp_path: Path, text: str, words: str) -> None:
    """Nothing runs with silent defaults."""
    path = tmp_path / "roundhouse.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(path, {"HOME": str(tmp_path)})


async def test_roundhouse_at_anothers_port_is_not_taken_for_it() -> None:
    """Looked for as llama-server, found to be one of us: its models would be listed twice. Chained on purpose it is served."""
    async with FakeUpstream() as upstream:

        async def list_ours(exchange: Exchange) -> None:
            await exchange.answer(200, {"data": [{"id": "m", "roundhouse": {"state": "cold"}}]})

        upstream.script(list_ours)
        for preset in ("llama_server", ""):
            config = ProviderConfig(kind="openai", preset=preset, base_url=f"{upstream.base_url}/v1")
            provider = OpenAICompat("up", config, SITE)
            if preset:
                with pytest.raises(UpstreamBroke, match="is a Roundhouse"):
                    await provider.catalogue()
            else:
                assert [offer.name for offer in await provider.catalogue()] == ["m"]
            await provider.aclose()
