"""What requests are called in OpenTelemetry's generative-AI terms: operations, providers, errors. Pure.

The names are written here, not imported: the released package of conventions still has their former ones.
Source: semantic conventions for generative AI (open-telemetry/semantic-conventions-genai, read in November 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from config.presets import preset_of
from config.schema import Config, ProviderConfig

from .counts import CALLER_LEFT

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai/1.42.0"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
STREAM = "gen_ai.request.stream"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
ERROR = "error.type"
STATUS = "http.response.status_code"
ADDRESS = "server.address"
PORT = "server.port"

DURATION = "gen_ai.server.request.duration"
FIRST_TOKEN = "gen_ai.server.time_to_first_token"  # noqa: S105 - the name of a metric
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - the name of a metric
# The bounds that the conventions ask for.
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

GATEWAY = "roundhouse"  # where no provider was reached
# By path without its version. Where the conventions have no word, the last one of the path is as good as any.
_OPERATIONS: Mapping[str, str] = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/messages": "chat",
    "/api/chat": "chat",
    "/completions": "text_completion",
    "/api/generate": "text_completion",
    "/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/messages/count_tokens": "count_tokens",
    "/rerank": "rerank",
    "/moderations": "moderation",
    "/audio/transcriptions": "transcription",
    "/audio/translations": "translation",
    "/audio/speech": "speech",
    "/images/generations": "generate_content",
    "/images/edits": "generate_content",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
# Ours that are others in the conventions' list of providers.
_KNOWN_AS: Mapping[str, str] = {"mistral": "mistral_ai"}


def operation_of(route: str) -> str:
    """The operation of a path of ours, with or without its version."""
    path = route[3:] if route.startswith(("/v1/", "/v2/")) else route
    return _OPERATIONS.get(path) or path.rpartition("/")[2] or "unknown"


def error_of(status: int, code: str, *, left: bool) -> str:
    """A class of errors; "": there was none."""
    if left:
        return CALLER_LEFT
    return code or (str(status) if status >= 400 else "")


class Peer(msgspec.Struct, frozen=True):
    """An upstream: what kind of provider it is, and where. An engine of ours has no lasting address."""

    name: str
    address: str = ""
    port: int = 0


def peers_of(config: Config) -> dict[str, Peer]:
    """By the name that its provider has in the configuration."""
    return {name: _peer(name, provider) for name, provider in config.providers.items()}


def _peer(name: str, provider: ProviderConfig) -> Peer:
    kind = provider.preset or (name if provider.kind == "openai" else provider.kind)
    preset = preset_of(provider)
    url = urlsplit(provider.base_url or ("" if preset is None else preset.base_url))
    port = (url.port or (443 if url.scheme == "https" else 80)) if url.hostname else 0
    return Peer(_KNOWN_AS.get(kind, kind), url.hostname or "", port)
