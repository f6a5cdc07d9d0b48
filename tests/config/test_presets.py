"""Where well-known upstreams are, which key is theirs, what is looked for unasked, and which proxy the environment means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from config.forms import URL, Secret
from config.load import load
from config.presets import BY_KIND, BY_PRESET, Preset, candidates, is_loopback, key_from, preset_of, proxy_from
from config.schema import KINDS, PRESETS, ProviderConfig

# --- presets


def test_every_preset_is_known_when_it_can_be_written() -> None:
    """Neither more nor fewer than the schema lets in."""
    assert set(BY_PRESET) == set(PRESETS)
    assert set(BY_KIND) <= set(KINDS)


@pytest.mark.parametrize("preset", [*BY_KIND.values(), *BY_PRESET.values()], ids=[*BY_KIND, *BY_PRESET])
def test_address_is_one_the_configuration_would_take(preset: Preset) -> None:
    """Without a slash at its end; https wherever it is not this machine."""
    assert URL.read(preset.base_url) == preset.base_url
    assert preset.base_url.startswith(("https://", "http://127.0.0.1:"))


@pytest.mark.parametrize("preset", BY_PRESET.values(), ids=BY_PRESET)
def test_address_ends_with_the_version_when_it_is_openai_compatible(preset: Preset) -> None:
    """So that requests take the way without cost."""
    assert preset.base_url.endswith("/v1")


def test_no_two_presets_share_an_address() -> None:
    """A key would go to the wrong one."""
    urls = [preset.base_url for preset in (*BY_KIND.values(), *BY_PRESET.values())]
    assert len(urls) == len(set(urls))


@pytest.mark.parametrize(
    ("config", "preset"),
    [
        (ProviderConfig(kind="openai", preset="groq"), BY_PRESET["groq"]),
        (ProviderConfig(kind="openai"), None),
        (ProviderConfig(kind="anthropic"), BY_KIND["anthropic"]),
        (ProviderConfig(kind="vllm"), None),
    ],
)
def test_preset_of_a_provider_is_that_of_its_preset_or_its_kind(config: ProviderConfig, preset: Preset | None) -> None:
    """A plain OpenAI-compatible API and an engine have none."""
    assert preset_of(config) == preset


# --- keys


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"A": "one", "B": "two"}, ("A", Secret("one"))),
        ({"B": "two"}, ("B", Secret("two"))),
        ({"A": "", "B": "two"}, ("B", Secret("two"))),
        ({"A": "   "}, None),
        ({"A": " one\n"}, ("A", Secret("one"))),
        ({}, None),
    ],
)
def test_key_is_the_first_that_is_set(environ: Mapping[str, str], found: tuple[str, Secret] | None) -> None:
    """Blanks and line ends around it, as files have them, are no part of it."""
    assert key_from(Preset("https://u.test", ("A", "B")), environ) == found


def written(tmp_path: Path, text: str, environ: Mapping[str, str]) -> ProviderConfig:
    path = tmp_path / "roundhouse.toml"
    path.write_text(f"[providers.mine]\n{text}")
    return load(path, {"HOME": str(tmp_path), **environ}).providers["mine"]


def test_key_is_found_when_the_preset_is_written_and_not_when_its_address_is_another(tmp_path: Path) -> None:
    """A key goes only where it belongs; and a key that is written wins."""
    environ = {"GROQ_API_KEY": "gsk"}
    groq = 'kind = "openai"\npreset = "groq"\n'
    found = written(tmp_path, groq, environ)
    assert (found.base_url, found.api_key) == ("https://api.groq.com/openai/v1", Secret("gsk"))
    assert written(tmp_path, f'{groq}base_url = "https://elsewhere.test/v1"', environ).api_key is None
    assert written(tmp_path, f'{groq}api_key = "mine"', environ).api_key == Secret("mine")


def test_address_and_key_are_anthropics_when_only_the_kind_is_written(tmp_path: Path) -> None:
    """One line is a whole provider."""
    found = written(tmp_path, 'kind = "anthropic"', {"ANTHROPIC_API_KEY": "sk-ant"})
    assert (found.base_url, found.api_key) == ("https://api.anthropic.com", Secret("sk-ant"))


# --- what is looked for without being told


def found(environ: Mapping[str, str], port: int = 8080) -> dict[str, str]:
    return {name: config.base_url for name, config in candidates(environ, port)}


def test_servers_on_this_machine_are_looked_for_when_nothing_is_set() -> None:
    """At their usual ports, but not at our own; no API without a key."""
    usual = {
        "ollama": "http://127.0.0.1:11434",
        "lmstudio": "http://127.0.0.1:1234",
        "vllm": "http://127.0.0.1:8000/v1",
    }
    assert found({}) == usual
    assert found({}, port=9000) == {**usual, "llama_server": "http://127.0.0.1:8080/v1"}
    assert "vllm" not in found({}, port=8000)


def test_apis_are_offered_when_their_keys_are_set() -> None:
    """As the kind or the preset they are."""
    environ = {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "OPENROUTER_API_KEY": "c", "MISTRAL_API_KEY": " "}
    configs = dict(candidates(environ, 8080))
    assert set(configs) - {"ollama", "lmstudio", "vllm"} == {"openrouter", "openai", "anthropic"}
    assert (configs["openai"].kind, configs["openai"].preset) == ("openai", "openai")
    assert (configs["anthropic"].kind, configs["anthropic"].preset) == ("anthropic", "")
    assert all(config.api_key is None for config in configs.values())  # `load` reads it, and keeps it from the engines


@pytest.mark.parametrize(
    ("variable", "value", "name", "url"),
    [
        ("OLLAMA_HOST", "10.0.0.5", "ollama", "http://10.0.0.5:11434"),
        ("OLLAMA_HOST", "10.0.0.5:9999", "ollama", "http://10.0.0.5:9999"),
        ("OLLAMA_HOST", "0.0.0.0", "ollama", "http://127.0.0.1:11434"),
        ("OLLAMA_HOST", "0.0.0.0:11500", "ollama", "http://127.0.0.1:11500"),
        ("OLLAMA_HOST", ":11500", "ollama", "http://127.0.0.1:11500"),
        ("OLLAMA_HOST", "[::]:11434", "ollama", "http://[::1]:11434"),
        ("OLLAMA_HOST", "https://ollama.test/", "ollama", "https://ollama.test"),
        ("OLLAMA_BASE_URL", "http://gpu.test:11434/", "ollama", "http://gpu.test:11434"),
        ("LM_STUDIO_BASE_URL", "http://desk.test:1234", "lmstudio", "http://desk.test:1234"),
    ],
)
def test_server_is_looked_for_elsewhere_when_its_variable_says_so(
    variable: str, value: str, name: str, url: str
) -> None:
    """What a server binds is not what one calls."""
    assert found({variable: value})[name] == url


# --- proxies

P = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({"HTTPS_PROXY": P}, "https://u.test/v1", P),
        ({"https_proxy": P}, "https://u.test/v1", P),
        ({"https_proxy": P, "HTTPS_PROXY": "http://other.test"}, "https://u.test", P),
        ({"http_proxy": P}, "http://u.test", P),
        ({"HTTP_PROXY": P}, "http://u.test", None),  # in CGI it would be a request's own header
        ({"http_proxy": P}, "https://u.test", None),
        ({"HTTPS_PROXY": P}, "http://u.test", None),
        ({"ALL_PROXY": P}, "https://u.test", P),
        ({"all_proxy": P}, "http://u.test", P),
        ({"ALL_PROXY": "http://other.test", "HTTPS_PROXY": P}, "https://u.test", P),
        ({"HTTPS_PROXY": "  ", "ALL_PROXY": P}, "https://u.test", P),
        ({"HTTPS_PROXY": "proxy.test:3128/"}, "https://u.test", P),
        ({"HTTPS_PROXY": "http://us:pw@proxy.test"}, "https://u.test", "http://us:pw@proxy.test"),
        ({}, "https://u.test", None),
    ],
)
def test_proxy_is_the_one_the_environment_names(environ: Mapping[str, str], url: str, expected: str | None) -> None:
    """As curl reads it: the scheme's own before the general one, lower case first."""
    found = proxy_from(environ, url)
    assert (found.reveal() if found else None) == expected


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_proxy_is_none_when_the_upstream_is_on_this_machine(host: str) -> None:
    """Never, whatever the environment says."""
    environ = {"all_proxy": P, "http_proxy": P, "HTTPS_PROXY": P}
    assert proxy_from(environ, f"http://{host}:8000/v1") is None
    assert proxy_from(environ, f"https://{host}:8000/v1") is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "u.test", True),
        ("u.test", "u.test", True),
        ("U.Test", "u.test", True),
        ("u.test", "api.u.test", True),
        (".u.test", "api.u.test", True),
        (".u.test", "u.test", True),
        ("*.u.test", "api.u.test", True),
        ("u.test:8443", "u.test", True),
        ("u.test", "mu.test", False),
        ("api.u.test", "u.test", False),
        ("a.test, u.test", "u.test", True),
        ("a.test u.test", "u.test", True),
        (",, ,", "u.test", False),
        (":8080", "u.test", False),
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.0/8", "10.9.9.9", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.5:80", "10.0.0.5", True),
        ("fd00::5", "[fd00::5]", True),
        ("[fd00::5]", "[fd00::5]", True),
        ("fd00::/16", "[fd00::5]", True),
        ("fd00::/16", "10.0.0.5", False),
        ("10.0.0.0/8", "u.test", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_proxy_is_none_when_no_proxy_names_the_host(variable: str, no_proxy: str, host: str, direct: bool) -> None:
    """Names with what is below them, addresses, networks; a port in an entry is not looked at."""
    environ = {"HTTPS_PROXY": P, variable: no_proxy}
    assert (proxy_from(environ, f"https://{host}/v1") is None) == direct


def test_lower_case_wins_when_no_proxy_is_written_twice() -> None:
    """As for the proxies themselves."""
    environ = {"HTTPS_PROXY": P, "no_proxy": "a.test", "NO_PROXY": "u.test"}
    assert proxy_from(environ, "https://u.test") == Secret(P)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", Secret(P)), ('proxy = "none"', None), ('proxy = "http://mine.test:1/"', Secret("http://mine.test:1"))],
)
def test_proxy_is_resolved_when_the_configuration_is_read(tmp_path: Path, text: str, expected: Secret | None) -> None:
    """ "auto" is what the environment says, "none" is none, an address is meant as it stands."""
    provider = written(tmp_path, f'kind = "openai"\nbase_url = "https://u.test/v1"\n{text}', {"HTTPS_PROXY": P})
    assert provider.proxy == expected


@pytest.mark.parametrize(
    ("host", "expected"), [("::1", True), ("127.1.2.3", True), ("localhost", True), ("10.0.0.1", False), ("", False)]
)
def test_loopback_is_what_only_this_machine_can_reach(host: str, expected: bool) -> None:
    """A name that is not localhost is not looked up."""
    assert is_loopback(host) == expected
