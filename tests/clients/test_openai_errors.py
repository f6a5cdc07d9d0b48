"""openai-python: each refusal as the exception that its users catch; and a caller who leaves."""

from __future__ import annotations

import asyncio
import io

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.gateways import API_KEY

SAID = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(v1: str) -> OpenAI:
    """With its usual retries: none of these may be tried again in vain, which would take seconds."""
    return OpenAI(base_url=v1, api_key=API_KEY)


def test_an_unknown_model(client: OpenAI) -> None:
    """On every route the same."""
    calls = (
        lambda: client.chat.completions.create(model="nobody", messages=SAID),
        lambda: client.chat.completions.create(model="nobody", messages=SAID, stream=True),
        lambda: client.responses.create(model="nobody", input="hello"),
        lambda: client.embeddings.create(model="nobody", input="hello"),
        lambda: client.audio.transcriptions.create(model="nobody", file=("a.wav", io.BytesIO(b"x"))),
        lambda: client.images.generate(model="nobody", prompt="a cat"),
        lambda: client.models.retrieve("nobody"),
    )
    for call in calls:
        with pytest.raises(openai.NotFoundError, match="nobody") as caught:
            call()
        assert caught.value.code == "model_not_found"


def test_a_body_that_is_none(client: OpenAI) -> None:
    """The upstream's own refusal, and ours."""
    with pytest.raises(openai.BadRequestError, match="messages") as caught:
        client.chat.completions.create(model="talker", messages=[])
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="model"):
        client.post("/chat/completions", cast_to=object, body={"messages": SAID})


def test_a_wrong_key(v1: str) -> None:
    """Is never tried again."""
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=v1, api_key="wrong").chat.completions.create(model="talker", messages=SAID)


def test_what_cannot_be_translated(client: OpenAI) -> None:
    """Is said so, once: 501, which the client would else repeat."""
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="claude", messages=SAID, n=2)
    assert caught.value.status_code == 501
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="talker", input="hello", previous_response_id="resp_1")
    assert caught.value.status_code == 501
    assert caught.value.param == "previous_response_id"


def test_what_is_not_served(client: OpenAI) -> None:
    """A model that cannot do what is asked."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="claude", input="hello")
    assert caught.value.status_code == 501


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (409, openai.ConflictError), (422, openai.UnprocessableEntityError)],
)
def test_the_upstreams_own_words(client: OpenAI, status: int, error: type[openai.APIStatusError]) -> None:
    """Passed through: status, message, code; streamed or not."""
    said = [{"role": "user", "content": f"refuse with {status}"}]
    for stream in (False, True):
        with pytest.raises(error, match="as you wished") as caught:
            client.with_options(max_retries=0).chat.completions.create(model="talker", messages=said, stream=stream)
        assert caught.value.code == "as_wished"


def test_ids_of_answers_and_errors(client: OpenAI) -> None:
    """The caller's own is kept, and every answer has one."""
    raw = client.chat.completions.with_raw_response.create(
        model="talker", messages=SAID, extra_headers={"X-Request-Id": "from-the-caller"}
    )
    assert raw.headers["x-request-id"] == "from-the-caller"
    assert raw.parse().choices[0].message.content == "You said: hello"
    parsed = client.chat.completions.create(model="talker", messages=SAID)
    assert parsed._request_id
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=SAID)
    assert caught.value.request_id


async def journal(upstreams: dict[str, str]) -> dict[str, int]:
    """How many requests the upstream is answering, and of how many the caller has left."""
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{upstreams['openai']}/journal")).json()


async def until(upstreams: dict[str, str], in_flight: int) -> None:
    """Raises: TimeoutError: the upstream is not answering so many in time."""
    async with asyncio.timeout(10):
        while (await journal(upstreams))["in_flight"] != in_flight:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)


async def test_a_caller_who_leaves(v1: str, upstreams: dict[str, str]) -> None:
    """Midway: the upstream's answer is cut, too."""
    before = (await journal(upstreams))["aborted"]
    async with AsyncOpenAI(base_url=v1, api_key=API_KEY) as client:
        stream = await client.chat.completions.create(
            model="talker", messages=[{"role": "user", "content": "go on"}], stream=True
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await until(upstreams, 1)
        await stream.close()
        await until(upstreams, 0)

    assert (await journal(upstreams))["aborted"] == before + 1


async def test_a_caller_who_is_cancelled(v1: str, upstreams: dict[str, str]) -> None:
    """While it reads an answer that is translated and never ends."""
    before = (await journal(upstreams))["aborted"]
    async with AsyncOpenAI(base_url=v1, api_key=API_KEY) as client:

        async def read() -> None:
            async for _ in await client.responses.create(model="talker", input="go on", stream=True):
                pass

        task = asyncio.ensure_future(read())
        await until(upstreams, 1)
        task.cancel()
        await until(upstreams, 0)

    assert task.cancelled()
    assert (await journal(upstreams))["aborted"] == before + 1
