"""Bodies that are kept: no key is in them, no picture, and never more than was allowed."""

from __future__ import annotations

import base64
import json

import pytest

from gateway.metering.capture import redacted

KEYS = [
    "sk-proj-abcdefghijklmnop1234",
    "sk-ant-api03-abcdefghijklmnop1234",
    "sk-or-v1-0123456789abcdef0123456789abcdef",
    "rh-abcdefghijklmnopqrstuvwxyz",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "xoxb-1234567890-abcdefghij",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "AKIAIOSFODNN7EXAMPLE",
    "Bearer abcdefgh.ijklmnop",
]


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_masked_wherever_they_stand(key: str) -> None:
    """In words, in JSON, and in JSON in JSON; what is around them stays."""
    secret = key.removeprefix("Bearer ")
    for written in (f"use {key}, please", json.dumps({"content": f"use {key}, please"}), json.dumps(json.dumps([key]))):
        kept, cut = redacted(written.encode(), 10_000)
        assert secret.encode() not in kept
        assert b"***" in kept
        assert not cut
    assert redacted(f"use {key}, please".encode(), 10_000)[0].endswith(b", please")


@pytest.mark.parametrize("name", ["api_key", "apiKey", "API-Key", "password", "client_secret", "Authorization"])
def test_fields_that_are_called_like_secrets_are_masked(name: str) -> None:
    """Whatever is in them."""
    for body in (json.dumps({name: "geheim 1", "x": 1}), json.dumps({"a": json.dumps({name: "geheim 1", "x": 1})})):
        kept, _ = redacted(body.encode(), 10_000)
        assert b"geheim" not in kept
        assert b"x" in kept
        json.loads(kept)


def test_pictures_are_left_out() -> None:
    """Their size is told."""
    picture = base64.b64encode(bytes(range(256)) * 8).decode()
    body = json.dumps({"image_url": {"url": f"data:image/png;base64,{picture}"}, "data": picture, "text": "hello"})
    kept, cut = redacted(body.encode(), 10_000)
    assert picture.encode() not in kept
    assert b"hello" in kept
    assert b"bytes left out" in kept
    assert not cut
    json.loads(kept)


def test_it_is_cut_to_its_size_after_it_was_masked() -> None:
    """So that no half of a key stands at the edge."""
    body = b"x" * 90 + b" sk-abcdefghijklmnopqrstuvwxyz"
    kept, cut = redacted(body, 100)
    assert (kept, cut) == (b"x" * 90 + b" ***", False)
    assert redacted(b"y" * 101, 100) == (b"y" * 100, True)
    assert redacted(b"", 0) == (b"", False)


def test_ordinary_words_stay() -> None:
    """Nothing that only begins like a key."""
    body = b'{"messages":[{"role":"user","content":"ask sk-learn, task-list, the secret of success; rh-factor"}]}'
    assert redacted(body, 1000) == (body, False)
