"""How to speak to each kind of upstream: one plain dict per way of building them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from config.schema import ProviderConfig

from .anthropic import AnthropicProvider
from .command import CommandProvider
from .contract import EngineSpec, Provider
from .llama_cpp import LlamaCppProvider
from .lmstudio import LmStudioProvider
from .ollama import OllamaProvider
from .openai_compat import OpenAICompat
from .openrouter import OpenRouterProvider
from .remote import Site
from .vllm import VllmProvider
from .warden import Warden

EngineKind = Callable[[str, Mapping[str, EngineSpec], Warden, frozenset[str], str | None], Provider]
RemoteKind = Callable[[str, ProviderConfig, Site], Provider]


def _command(
    name: str, specs: Mapping[str, EngineSpec], warden: Warden, secret_env: frozenset[str], _binary: str | None
) -> Provider:
    return CommandProvider(name, specs, warden, secret_env)


ENGINES: Mapping[str, EngineKind] = {"llama_cpp": LlamaCppProvider, "process": _command, "vllm": VllmProvider}
REMOTES: Mapping[str, RemoteKind] = {
    "anthropic": AnthropicProvider,
    "lmstudio": LmStudioProvider,
    "ollama": OllamaProvider,
    "openai": OpenAICompat,
    "openrouter": OpenRouterProvider,
}
