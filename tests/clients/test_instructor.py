"""Instructor's ways to an object: tools, JSON, schemas, Responses, Anthropic's tools; whole, in a list, and as it grows."""

from __future__ import annotations

import anthropic
import instructor
import openai
import pytest
from pydantic import BaseModel

from tests.clients.gateways import API_KEY

BOTH = pytest.mark.parametrize("model", ["talker", "claude"])
SAID = [{"role": "user", "content": "'Ann' is 41"}]


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


@BOTH
@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_an_object(v1: str, model: str, mode: instructor.Mode) -> None:
    """By chat."""
    client = instructor.from_openai(openai.OpenAI(base_url=v1, api_key=API_KEY), mode=mode)
    done = client.create(model=model, messages=SAID, response_model=Person, max_retries=0)

    assert (done.name, done.age) == ("Ann", 41)


@BOTH
def test_one_that_grows(v1: str, model: str) -> None:
    """From the pieces of a call's arguments."""
    client = instructor.from_openai(openai.OpenAI(base_url=v1, api_key=API_KEY))
    grown = list(client.create_partial(model=model, messages=SAID, response_model=Person))

    assert len(grown) > 2
    assert (grown[-1].name, grown[-1].age) == ("Ann", 41)


@BOTH
def test_by_responses(v1: str, model: str) -> None:
    """Its tools, translated."""
    client = instructor.from_openai(openai.OpenAI(base_url=v1, api_key=API_KEY), mode=instructor.Mode.RESPONSES_TOOLS)
    done = client.create(model=model, messages=SAID, response_model=Person, max_retries=0)

    assert (done.name, done.age) == ("Ann", 41)


@BOTH
async def test_by_messages(gateway: str, model: str) -> None:
    """Anthropic's tools, asynchronous."""
    client = instructor.from_anthropic(anthropic.AsyncAnthropic(base_url=gateway, api_key=API_KEY))
    done = await client.create(model=model, messages=SAID, response_model=Person, max_tokens=100, max_retries=0)

    assert (done.name, done.age) == ("Ann", 41)
