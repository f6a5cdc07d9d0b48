"""What a request may take, before anybody knows: from the bytes of its body and the ceiling it sets itself. Pure.

Coarse on purpose: it is settled with the real count when that is known. Four bytes are a token of English and of code; what is in
a body and is no text (pictures) is bounded by what the model can read at all.
"""

from __future__ import annotations

import msgspec

BYTES_PER_TOKEN = 4
ANSWERS_MAX = 128  # of `n`; OpenAI takes no more


class Estimate(msgspec.Struct, frozen=True):
    """Tokens."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class _Options(msgspec.Struct):
    num_predict: object = None  # Ollama's


class _Ceilings(msgspec.Struct):
    max_tokens: object = None  # chat, completions, messages
    max_completion_tokens: object = None  # chat
    max_output_tokens: object = None  # responses
    n: object = None
    options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Ceilings).decode
_decode_options = msgspec.json.Decoder(_Options).decode


def estimate(body: bytes, context_length: int | None) -> Estimate:
    """Of a body that is a JSON object. Without a ceiling of its own nothing is presumed of the answer."""
    prompt = _within(-(-len(body) // BYTES_PER_TOKEN), context_length)
    try:
        said = _decode(body)
        ceiling = 0 if said.options is msgspec.UNSET else _whole(_decode_options(said.options).num_predict)
    except msgspec.MsgspecError:  # an upstream will say what is wrong with it
        return Estimate(prompt)
    for written in (said.max_tokens, said.max_completion_tokens, said.max_output_tokens):
        if written is not None:
            ceiling = max(ceiling, _whole(written))
    answers = 1 if said.n is None else max(1, min(_whole(said.n), ANSWERS_MAX))
    return Estimate(prompt, _within(ceiling, context_length) * answers)


def _whole(written: object) -> int:
    return written if isinstance(written, int) and not isinstance(written, bool) and written > 0 else 0


def _within(tokens: int, context_length: int | None) -> int:
    return min(tokens, context_length) if context_length else tokens
