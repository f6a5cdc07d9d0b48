"""openai-python: sound, pictures, moderation, and what has no method of its own. Bytes must arrive as they were sent."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncGenerator, Generator

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.gateways import API_KEY

SPEECH_BYTES = 200_000
SOUND = b"RIFF" + bytes(range(256)) * 4000 + b"\r\n--"
HEARD = f"{len(SOUND)} bytes {hashlib.sha256(SOUND).hexdigest()}"


@pytest.fixture(scope="module")
def client(v1: str) -> Generator[OpenAI]:
    """Without retries."""
    with OpenAI(base_url=v1, api_key=API_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def aclient(v1: str) -> AsyncGenerator[AsyncOpenAI]:
    """The same, asynchronous."""
    async with AsyncOpenAI(base_url=v1, api_key=API_KEY, max_retries=0) as client:
        yield client


def test_speech(client: OpenAI) -> None:
    """Whole, and in pieces as it comes."""
    whole = client.audio.speech.create(model="voice", voice="alloy", input="hello")
    with client.audio.speech.with_streaming_response.create(model="voice", voice="alloy", input="hello") as streamed:
        pieces = list(streamed.iter_bytes(chunk_size=4096))

    assert len(whole.content) == SPEECH_BYTES
    assert b"".join(pieces) == whole.content
    assert whole.response.headers["content-type"] == "audio/mpeg"


def test_speech_as_events(client: OpenAI) -> None:
    """`stream_format` sse: the same sound, in events."""
    with client.audio.speech.with_streaming_response.create(
        model="voice", voice="alloy", input="hello", stream_format="sse"
    ) as streamed:
        lines = list(streamed.iter_lines())

    assert sum(line.startswith("data: ") for line in lines) == 5


def test_transcription(client: OpenAI) -> None:
    """The client puts the fields before the file."""
    done = client.audio.transcriptions.create(model="ears", file=("a.wav", io.BytesIO(SOUND), "audio/wav"))

    assert done.text == HEARD


@pytest.mark.parametrize("first", ["file", "model"])
def test_either_order_of_a_form(v1: str, first: str) -> None:
    """Others put the file before the model's name."""
    parts = {"model": (None, "ears"), "file": ("a.wav", SOUND, "audio/wav")}
    names = sorted(parts, key=lambda name: name != first)
    answer = httpx.post(
        f"{v1}/audio/transcriptions",
        headers={"Authorization": f"Bearer {API_KEY}"},
        files=[(name, parts[name]) for name in names],
    )

    assert answer.json()["text"] == HEARD


def test_formats_of_a_transcription(client: OpenAI) -> None:
    """Text is text, and what is verbose has its segments."""
    text = client.audio.transcriptions.create(model="ears", file=("a.wav", SOUND), response_format="text")
    verbose = client.audio.transcriptions.create(
        model="ears", file=("a.wav", SOUND), response_format="verbose_json", timestamp_granularities=["segment"]
    )

    assert text.strip() == HEARD
    assert (verbose.text, verbose.duration) == (HEARD, 1.5)
    assert verbose.segments is not None
    assert verbose.segments[0].end == 1.5


def test_a_streamed_transcription(client: OpenAI) -> None:
    """Deltas, and the whole at the end."""
    events = list(client.audio.transcriptions.create(model="ears", file=("a.wav", SOUND), stream=True))

    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == HEARD
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == HEARD


async def test_an_asynchronous_transcription(aclient: AsyncOpenAI) -> None:
    """As the other."""
    done = await aclient.audio.transcriptions.create(model="ears", file=("a.wav", SOUND))

    assert done.text == HEARD


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # so the newer client says of the method
def test_translation(client: OpenAI) -> None:
    """Of sound."""
    done = client.audio.translations.create(model="ears", file=("a.wav", SOUND))

    assert done.text == f"In English: {HEARD}"


def test_pictures(client: OpenAI) -> None:
    """Two of them, as base64."""
    done = client.images.generate(model="painter", prompt="a cat", n=2)

    assert done.data is not None
    assert len(done.data) == 2
    assert base64.b64decode(done.data[0].b64_json or "").endswith(b"a cat")


def test_streamed_pictures(client: OpenAI) -> None:
    """A part of one, then the whole."""
    events = list(client.images.generate(model="painter", prompt="a cat", stream=True, partial_images=1))

    assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
    assert base64.b64decode(events[-1].b64_json).endswith(b"a cat")


def test_edited_pictures(client: OpenAI) -> None:
    """Several files in one form."""
    done = client.images.edit(model="painter", image=[("a.png", b"\x89PNG\r\n\x1a\n1"), ("b.png", b"two")], prompt="!")

    assert done.data is not None
    assert base64.b64decode(done.data[0].b64_json or "") == b"\x89PNG\r\n\x1a\n1two!"


def test_moderations(client: OpenAI) -> None:
    """One result for each text."""
    done = client.moderations.create(model="guard", input=["kill the process", "hello"])

    assert [result.flagged for result in done.results] == [True, False]
    assert done.results[0].categories.violence


def test_rerank(client: OpenAI) -> None:
    """Through the client's own door for what it has no method for."""
    body = {"model": "ranker", "query": "red cat", "documents": ["a dog", "a red cat", "a cat"], "top_n": 2}
    done = client.post("/rerank", cast_to=object, body=body)

    assert [result["index"] for result in done["results"]] == [1, 2]


def test_tokens(client: OpenAI, gateway: str) -> None:
    """There, and back again."""
    root = client.with_options(base_url=gateway)
    tokens = root.post("/tokenize", cast_to=object, body={"model": "talker", "content": "Grüße"})["tokens"]

    assert tokens == list("Grüße".encode())
    assert root.post("/detokenize", cast_to=object, body={"model": "talker", "tokens": tokens}) == {"content": "Grüße"}
