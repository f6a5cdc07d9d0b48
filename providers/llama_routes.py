"""What llama.cpp's server serves, as far as its answers can be handed on. Pure.

Without /v1/responses: the events of its stream have neither `output` nor numbers, on which OpenAI's own client fails; ours, which
is made from its chat completions, has both. Source: tools/server/server-task.cpp of llama.cpp.
"""

from __future__ import annotations

LLAMA_SERVER_ROUTES: frozenset[bytes] = frozenset(
    (
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/embeddings",
        b"/v1/messages",
        b"/v1/messages/count_tokens",
        b"/v1/rerank",
        b"/v1/audio/transcriptions",
        b"/tokenize",
        b"/detokenize",
    )
)
