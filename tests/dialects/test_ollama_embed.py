"""Ollama's embeddings, there and back."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.ollama_answer import Durations
from gateway.dialects.ollama_embed import (
    read_embed,
    read_embeddings,
    read_usage,
    write_embed,
    write_embeddings,
    write_nothing,
)
from gateway.dialects.talk import Unreadable, Usage
from gateway.errors import InvalidRequest


def body(**fields: Any) -> bytes:
    """A request."""
    return json.dumps({"model": "m", **fields}).encode()


def answer(*vectors: Any, **more: Any) -> bytes:
    """OpenAI's answer with these vectors."""
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, "model": "theirs", **more}).encode()


@pytest.mark.parametrize("given", ["why?", ["why?", "é"]])
def test_a_request_becomes_openais(given: str | list[str]) -> None:
    """One text or several, as numbers; dimensions are known there, the rest is named."""
    written, left_out = read_embed(
        body(input=given, dimensions=8, truncate=False, keep_alive="5m", options={"num_ctx": 1, "seed": None})
    )
    assert json.loads(written) == {"model": "m", "input": given, "encoding_format": "float", "dimensions": 8}
    assert left_out == ("options.num_ctx", "truncate", "keep_alive")
    assert "dimensions" not in json.loads(read_embed(body(input="x", dimensions=0))[0])


def test_the_older_request_has_one_text() -> None:
    """Under another name."""
    written, left_out = read_embeddings(body(prompt="why?", options=None, keep_alive=0))
    assert json.loads(written) == {"model": "m", "input": "why?", "encoding_format": "float"}
    assert left_out == ("keep_alive",)


def test_an_answer_comes_back_in_the_order_of_its_inputs() -> None:
    """With the name that was asked for, the count of the input and the times."""
    shuffled = json.loads(answer([0.1, -2e-3], [1, 2], usage={"prompt_tokens": 8, "total_tokens": 8}))
    shuffled["data"].reverse()
    raw = json.dumps(shuffled).encode()
    assert json.loads(write_embed(raw, "m:latest", Durations(total=5, load=2))) == {
        "model": "m:latest",
        "embeddings": [[0.1, -0.002], [1.0, 2.0]],
        "total_duration": 5,
        "load_duration": 2,
        "prompt_eval_count": 8,
    }
    assert read_usage(raw) == Usage(input=8)
    assert json.loads(write_embeddings(answer([0.5]))) == {"embedding": [0.5]}
    assert read_usage(answer([0.5])) is None


def test_base64_is_understood_where_an_upstream_gives_it_all_the_same() -> None:
    """32-bit floats, the smallest byte first."""
    packed = base64.b64encode(struct.pack("<3f", 0.5, -1.25, 3.0)).decode()
    assert json.loads(write_embed(answer(packed), "m"))["embeddings"] == [[0.5, -1.25, 3.0]]


def test_no_text_is_answered_with_no_vector() -> None:
    """Who sends none wants the model in memory."""
    assert json.loads(write_nothing("m", legacy=False)) == {"model": "m", "embeddings": []}
    assert json.loads(write_nothing("m", legacy=True)) == {"embedding": []}


@pytest.mark.parametrize("given", [None, [], 7, [1, 2], ["a", None], {"a": 1}, [["a"]]])
def test_what_is_no_text_is_refused(given: Any) -> None:
    """Tokens, which OpenAI takes, Ollama does not."""
    with pytest.raises(InvalidRequest) as refused:
        read_embed(body(input=given))
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    "wrong", [b"", b"{}", b"[]", b"\xff", answer("!"), answer("AAA="), answer([None]), b'{"data":null}', b"[" * 9000]
)
def test_what_is_no_answer_is_unreadable(wrong: bytes) -> None:
    """Never an empty vector in its place."""
    with pytest.raises(Unreadable):
        write_embed(wrong, "m")
    with pytest.raises(Unreadable):
        write_embeddings(answer())


KEYS = st.sampled_from(["model", "input", "prompt", "dimensions", "options", "data", "embedding", "index", "usage"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    """With errors of ours alone."""
    raw = json.dumps(value).encode()
    for read in (read_embed, read_embeddings):
        with contextlib.suppress(InvalidRequest):
            read(raw)
    with contextlib.suppress(Unreadable):
        write_embed(raw, "m")
    with contextlib.suppress(Unreadable):
        write_embeddings(raw)
