"""What a request may take, from its bytes and its own ceilings."""

from __future__ import annotations

import json

import pytest

from gateway.access.estimate import Estimate, estimate


@pytest.mark.parametrize(
    ("said", "completion"),
    [
        ({}, 0),
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_output_tokens": 9}, 9),
        ({"options": {"num_predict": 11}}, 11),
        ({"options": {"num_predict": -1}}, 0),
        ({"options": 5}, 0),
        ({"max_tokens": "many"}, 0),
        ({"max_tokens": True}, 0),
        ({"max_tokens": -5}, 0),
        ({"max_tokens": 1e9}, 0),
        ({"max_tokens": 10**30}, 4096),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "n": "x"}, 10),
    ],
)
def test_completion_is_the_ceiling_that_is_set(said: dict[str, object], completion: int) -> None:
    """In each dialect's word; never more than the model can hold; nonsense is the upstream's to refuse."""
    assert estimate(json.dumps(said).encode(), 4096).completion == completion


def test_prompt_is_a_quarter_of_the_bytes() -> None:
    """Rounded up, and bounded where the model's context is known: a picture is no text."""
    assert estimate(b'{"a":""}x', None) == Estimate(3, 0)
    assert estimate(b'{"a":"' + b"x" * 1_000_000 + b'"}', 4096) == Estimate(4096, 0)
    assert estimate(b"", None) == Estimate()
    assert estimate(b'{"max_tokens": 2}', None).total == 7
