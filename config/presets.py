"""Where well-known upstreams are, and in which environment variable their key usually stands. Pure.

Sources: each project's own documentation, read in November 2026; for servers the port it listens on unless told otherwise.
No variable stands where a project's documentation names none for its key (SGLang, TabbyAPI).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from .forms import Secret
from .schema import ProviderConfig


class Preset(msgspec.Struct, frozen=True):
    """One upstream's address as OpenAI's clients take it, the variables of its key, and those that give another address."""

    base_url: str
    key_env: tuple[str, ...] = ()
    url_env: tuple[str, ...] = ()


BY_KIND: Mapping[str, Preset] = {
    "ollama": Preset("http://127.0.0.1:11434", url_env=("OLLAMA_BASE_URL", "OLLAMA_HOST")),
    "lmstudio": Preset("http://127.0.0.1:1234", ("LM_API_TOKEN",), ("LM_STUDIO_BASE_URL",)),
    "openrouter": Preset("https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",)),
    "anthropic": Preset("https://api.anthropic.com", ("ANTHROPIC_API_KEY",)),
}
BY_PRESET: Mapping[str, Preset] = {
    "openai": Preset("https://api.openai.com/v1", ("OPENAI_API_KEY",)),
    "groq": Preset("https://api.groq.com/openai/v1", ("GROQ_API_KEY",)),
    "together": Preset("https://api.together.ai/v1", ("TOGETHER_API_KEY",)),
    "mistral": Preset("https://api.mistral.ai/v1", ("MISTRAL_API_KEY",)),
    "deepseek": Preset("https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",)),
    "vllm": Preset("http://127.0.0.1:8000/v1", ("VLLM_API_KEY",)),
    "sglang": Preset("http://127.0.0.1:30000/v1"),
    "llama_server": Preset("http://127.0.0.1:8080/v1", ("LLAMA_API_KEY",)),
    "tabbyapi": Preset("http://127.0.0.1:5000/v1"),
}
# What is looked for without being told, under these names. llama-server's usual port is ours, too: left out when we take it.
_ON_THIS_MACHINE = ("ollama", "lmstudio", "vllm", "llama_server")
_BY_KEY = ("openrouter", "openai", "anthropic", "groq", "together", "mistral", "deepseek")


def preset_of(provider: ProviderConfig) -> Preset | None:
    """What is known of its kind, or of its preset."""
    return BY_PRESET[provider.preset] if provider.preset else BY_KIND.get(provider.kind)


def key_from(preset: Preset, environ: Mapping[str, str]) -> tuple[str, Secret] | None:
    """The first of its variables that is set, and the key in it."""
    return next(
        ((name, Secret(environ[name].strip())) for name in preset.key_env if environ.get(name, "").strip()), None
    )


def candidates(environ: Mapping[str, str], port: int) -> Iterator[tuple[str, ProviderConfig]]:
    """What may be there although nobody wrote it down: servers on loopback, and APIs whose key is in the environment.

    Args:
        port: where we shall listen ourselves.
    """
    for name in _ON_THIS_MACHINE:
        kind, preset = _named(name)
        known = BY_PRESET[preset] if preset else BY_KIND[kind]
        url = next((_as_url(environ[name]) for name in known.url_env if environ.get(name)), known.base_url)
        if url != f"http://127.0.0.1:{port}/v1":
            yield name, ProviderConfig(kind=kind, preset=preset, base_url=url)
    for name in _BY_KEY:
        kind, preset = _named(name)
        known = BY_PRESET[preset] if preset else BY_KIND[kind]
        if key_from(known, environ):
            yield name, ProviderConfig(kind=kind, preset=preset, base_url=known.base_url)


def proxy_from(environ: Mapping[str, str], base_url: str) -> Secret | None:
    """The proxy that the environment names for this address, None for none and for loopback always.

    Read as curl does: lower case before upper case (HTTP_PROXY in upper case could be a request's own header in CGI, and is not
    read); NO_PROXY is a list of hosts and domains, "*" for all.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    if is_loopback(host) or _excepted(host, environ.get("no_proxy") or environ.get("NO_PROXY", "")):
        return None
    names = (f"{parts.scheme}_proxy", "HTTPS_PROXY" if parts.scheme == "https" else "", "all_proxy", "ALL_PROXY")
    url = next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")
    if not url:
        return None
    return Secret((url if "://" in url else f"http://{url}").rstrip("/"))


def _excepted(host: str, no_proxy: str) -> bool:
    return any(entry == "*" or _covers(entry, host) for entry in no_proxy.lower().replace(",", " ").split())


def _covers(entry: str, host: str) -> bool:
    """One entry of NO_PROXY: an address, a network (10.0.0.0/8), or a name that stands for what is below it, too."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # one of the two is a name
        name = entry.partition(":")[0].removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


def is_loopback(host: str) -> bool:
    """True when only this machine can connect to `host`. Another name than localhost is not looked up, and counts as no."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _named(name: str) -> tuple[str, str]:
    return (name, "") if name in BY_KIND else ("openai", name)


def _as_url(text: str) -> str:
    """OLLAMA_HOST may be a host, a host and port, or an address of all interfaces: what a server binds is not what one calls."""
    text = text.strip().rstrip("/")
    if text.startswith(":"):  # ":11434": any interface, as Go's net.Listen takes it
        text = f"127.0.0.1{text}"
    if "://" not in text:
        text = f"http://{text}" if ":" in text else f"http://{text}:11434"
    return text.replace("://0.0.0.0", "://127.0.0.1").replace("://[::]", "://[::1]")
