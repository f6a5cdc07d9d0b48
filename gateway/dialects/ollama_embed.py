"""Ollama's embedding requests as OpenAI's, and OpenAI's answers as Ollama's; also in Ollama's older form. Pure.

The law: vectors come back in the order of their inputs, each as numbers. What is only about a server's own runner is left out and
named. `truncate` is, too: whether a text that is too long is cut or refused is the upstream's way; OpenAI's is to refuse.

Source: Ollama, docs/api.md ("Generate Embeddings", "Generate Embedding"); OpenAI's API reference, embeddings.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any, cast

import msgspec

from gateway.errors import InvalidRequest

from .ollama_answer import NOT_MEASURED, Durations, encoded
from .ollama_request import Fields, model_of
from .talk import Json, Unreadable, Usage


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


# ------------------------------------------------------------------ requests


def read_embed(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """POST /api/embed as the body of POST /v1/embeddings, and the names of what was left out. Raises: InvalidRequest."""
    fields = Fields(body)
    model = model_of(fields)
    given = fields.look("input")
    texts = cast("list[Json]", given if isinstance(given, list) else [given])
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("input must be a text or an array of texts", param="input")
    said: dict[str, Any] = {"model": model, "input": given, "encoding_format": "float"}
    dimensions = fields.take("dimensions", int)
    if dimensions:  # 0 is Go's way of saying nothing
        said["dimensions"] = dimensions
    return msgspec.json.encode(said), _left_out(fields)


def read_embeddings(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """POST /api/embeddings, the older form with one text, likewise. Raises: InvalidRequest."""
    fields = Fields(body)
    model = model_of(fields)
    prompt = fields.take("prompt", str)
    if not prompt:
        raise InvalidRequest("prompt must be a text", param="prompt")
    said = {"model": model, "input": prompt, "encoding_format": "float"}
    return msgspec.json.encode(said), _left_out(fields)


def _left_out(fields: Fields) -> tuple[str, ...]:
    options = fields.raw("options")
    return (*(Fields(options, "options").rest() if options else ()), *fields.rest())


# ------------------------------------------------------------------ answers


def write_embed(answer: bytes, model: str, durations: Durations = NOT_MEASURED) -> bytes:
    """OpenAI's answer as that of POST /api/embed. Raises: Unreadable."""
    told = _read(answer)
    written: dict[str, Any] = {"model": model, "embeddings": _in_order(told)}
    if durations.total:
        written["total_duration"] = durations.total
    if durations.load:
        written["load_duration"] = durations.load
    usage = _usage(told)
    if usage is not None:
        written["prompt_eval_count"] = usage.input
    return encoded(written)


def write_embeddings(answer: bytes) -> bytes:
    """OpenAI's answer as that of POST /api/embeddings. Raises: Unreadable."""
    vectors = _in_order(_read(answer))
    if not vectors:
        raise Unreadable("an answer without a vector")
    return encoded({"embedding": vectors[0]})


def write_nothing(model: str, *, legacy: bool) -> bytes:
    """The answer to who sends no text, and so wants the model in memory only."""
    return encoded({"embedding": []} if legacy else {"model": model, "embeddings": []})


def read_usage(answer: bytes) -> Usage | None:
    """What OpenAI's answer took. Raises: Unreadable."""
    return _usage(_read(answer))


def _read(answer: bytes) -> _Vectors:
    try:
        return msgspec.json.decode(answer, type=_Vectors)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no list of embeddings: {error}") from None


def _usage(told: _Vectors) -> Usage | None:
    tokens = None if told.usage is None else told.usage.prompt_tokens
    return None if tokens is None else Usage(input=tokens)


def _in_order(told: _Vectors) -> list[list[float]]:
    """Where every vector says its place, by that."""
    data = told.data
    if all(vector.index is not None for vector in data):
        data = sorted(data, key=lambda vector: vector.index or 0)
    return [_numbers(vector.embedding) for vector in data]


def _numbers(embedding: list[float] | str) -> list[float]:
    """Some give base64 of 32-bit floats whatever was asked for. Raises: Unreadable."""
    if isinstance(embedding, list):
        return embedding
    try:
        packed = binascii.a2b_base64(embedding, strict_mode=True)
        return [number for (number,) in struct.iter_unpack("<f", packed)]
    except (binascii.Error, ValueError, struct.error) as error:
        raise Unreadable(f"an embedding that is neither numbers nor base64 of them: {error}") from None
