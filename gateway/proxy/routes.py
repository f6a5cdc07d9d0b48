"""The inference routes: what each one is called at an upstream, what it takes, and what may stand in for it. Pure.

The law: one table. A path that is not in it is not served; a twin (the same path without its version, as some clients ask for it)
means exactly what its elder means.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from gateway.dialects.spoken import Spoken


class Takes(Enum):
    """What its body is."""

    JSON = "json"
    FORM = "form"  # multipart/form-data
    EITHER = "either"


class Route(msgspec.Struct, frozen=True):
    """One inference route.

    `path` is the upstream's; `dialect` the name of the translation, "" where there is none; `streams` whether `stream: true` means
    anything; `usage_option` whether `stream_options.include_usage` is part of it.
    """

    path: bytes
    spoken: Spoken = Spoken.OPENAI
    takes: Takes = Takes.JSON
    dialect: str = ""
    streams: bool = False
    usage_option: bool = False


CHAT = Route(b"/v1/chat/completions", dialect="chat", streams=True, usage_option=True)
COMPLETIONS = Route(b"/v1/completions", streams=True, usage_option=True)
EMBEDDINGS = Route(b"/v1/embeddings")
RESPONSES = Route(b"/v1/responses", Spoken.RESPONSES, dialect="responses", streams=True)
MESSAGES = Route(b"/v1/messages", Spoken.ANTHROPIC, dialect="messages", streams=True)
COUNT_TOKENS = Route(b"/v1/messages/count_tokens", Spoken.ANTHROPIC)
OLLAMA_CHAT = Route(b"/api/chat", Spoken.OLLAMA, dialect="ollama_chat", streams=True)
OLLAMA_GENERATE = Route(b"/api/generate", Spoken.OLLAMA, dialect="ollama_generate", streams=True)
OLLAMA_EMBED = Route(b"/api/embed", Spoken.OLLAMA, dialect="ollama_embed")
OLLAMA_EMBEDDINGS = Route(b"/api/embeddings", Spoken.OLLAMA, dialect="ollama_embeddings")
RERANK = Route(b"/v1/rerank")
SPEECH = Route(b"/v1/audio/speech", Spoken.PLAIN, streams=True)  # of bare sound at many servers, which has no comments
_ALL = (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    MESSAGES,
    COUNT_TOKENS,
    RERANK,
    Route(b"/v1/audio/transcriptions", Spoken.PLAIN, Takes.FORM, streams=True),
    Route(b"/v1/audio/translations", Spoken.PLAIN, Takes.FORM),
    SPEECH,
    Route(b"/v1/images/generations", Spoken.PLAIN, streams=True),
    Route(b"/v1/images/edits", Spoken.PLAIN, Takes.EITHER, streams=True),
    Route(b"/v1/moderations"),
)
# llama.cpp, vLLM and SGLang serve these without a version
_UNVERSIONED = (Route(b"/tokenize"), Route(b"/detokenize"))
_OLLAMA = (OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_EMBED, OLLAMA_EMBEDDINGS)
ROUTES: Mapping[str, Route] = {
    **{route.path.decode(): route for route in (*_ALL, *_UNVERSIONED, *_OLLAMA)},
    **{route.path.decode().removeprefix("/v1"): route for route in _ALL},
    **{"/v1" + route.path.decode(): route for route in _UNVERSIONED},
    "/v2/rerank": RERANK,  # Cohere's clients
}
# By dialect of the caller's route: routes that may stand in for it, the closest relative first.
STAND_INS: Mapping[str, tuple[Route, ...]] = {
    "chat": (MESSAGES, RESPONSES),
    "responses": (CHAT, MESSAGES),
    "messages": (CHAT, RESPONSES),
    "ollama_chat": (CHAT, MESSAGES, RESPONSES),
    "ollama_generate": (CHAT, MESSAGES, RESPONSES),
    "ollama_embed": (EMBEDDINGS,),
    "ollama_embeddings": (EMBEDDINGS,),
}


def route_of(path: str) -> Route:
    """Of any path; of one that is not served a route in OpenAI's words."""
    return ROUTES.get(path, _UNKNOWN)


_UNKNOWN = Route(b"")
