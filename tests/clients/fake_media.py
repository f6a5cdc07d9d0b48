"""The fake upstream's sound and pictures, and its lesser routes. What it is sent, it tells back as length and digest.

Source: OpenAI's API reference (audio, images, moderations); llama.cpp, tools/server/README.md (rerank, tokenize, detokenize).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tests.clients.forms import NoForm, Part, parts_of
from tests.clients.mind import Json, pieces
from tests.fakes.upstream import Exchange

SPEECH_BYTES = 200_000


class NotTaken(Exception):
    """A request it does not take; str() says why."""


class Form:
    """The fields of one. Raises NotTaken where one that is needed is missing."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def text(self, name: str, default: str = "") -> str:
        """A field that is no file."""
        return next((part.text for part in self.parts if part.name == name and part.filename is None), default)

    def files(self, name: str) -> list[Part]:
        """Those of that name, or of that list."""
        found = [part for part in self.parts if part.name in (name, f"{name}[]") and part.filename is not None]
        if not found:
            raise NotTaken(f"{name} is missing")
        return found


def form_of(content_type: str | None, body: bytes) -> Form:
    """Raises: NotTaken."""
    try:
        form = Form(parts_of(content_type, body))
    except NoForm as error:
        raise NotTaken(str(error)) from None
    if form.text("model") not in ("listen-1", "paint-1"):
        raise NotTaken(f"no such model here: {form.text('model')!r}")
    return form


def told(data: bytes) -> str:
    """What a test compares: how much came, and what."""
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()}"


def noise(count: int) -> bytes:
    """The same every time, and no two places alike for long."""
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(count // 32 + 1))[:count]


async def transcriptions(exchange: Exchange, form: Form) -> None:
    """POST /v1/audio/transcriptions, in any of its formats and streamed."""
    (file,) = form.files("file")
    heard = told(file.data)
    if form.text("stream") == "true":
        await exchange.start_stream()
        for piece in pieces(heard):
            await exchange.event({"type": "transcript.text.delta", "delta": piece})
        await exchange.event({"type": "transcript.text.done", "text": heard})
        await exchange.event("[DONE]")
        await exchange.end()
        return
    match form.text("response_format", "json"):
        case "text":
            await exchange.answer(200, heard.encode() + b"\n", {"content-type": "text/plain; charset=utf-8"})
        case "verbose_json":
            segment: Json = {
                "id": 0,
                "seek": 0,
                "start": 0.0,
                "end": 1.5,
                "text": heard,
                "tokens": [1],
                "temperature": 0.0,
            }
            segment |= {"avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.01}
            verbose = {"task": "transcribe", "language": form.text("language", "english"), "duration": 1.5}
            await exchange.answer(200, {**verbose, "text": heard, "segments": [segment]})
        case _:
            await exchange.answer(200, {"text": heard, "usage": {"type": "duration", "seconds": 2}})


async def translations(exchange: Exchange, form: Form) -> None:
    """POST /v1/audio/translations."""
    (file,) = form.files("file")
    await exchange.answer(200, {"text": "In English: " + told(file.data)})


async def edits(exchange: Exchange, form: Form) -> None:
    """POST /v1/images/edits: the pictures it was given, one after the other, as the new one."""
    drawn = b"".join(file.data for file in form.files("image")) + form.text("prompt").encode()
    await exchange.answer(200, {"created": 1_700_000_000, "data": [{"b64_json": base64.b64encode(drawn).decode()}]})


FORMS: Mapping[str, Callable[[Exchange, Form], Awaitable[None]]] = {
    "/v1/audio/transcriptions": transcriptions,
    "/v1/audio/translations": translations,
    "/v1/images/edits": edits,
}


async def speech(exchange: Exchange, body: Json) -> None:
    """POST /v1/audio/speech: a good deal of noise, in pieces; or as events."""
    if not body.get("input") or not body.get("voice"):
        raise NotTaken("input and voice are needed")
    sound = noise(SPEECH_BYTES)
    if body.get("stream_format") == "sse":
        await exchange.start_stream()
        for at in range(0, len(sound), 50_000):
            audio = base64.b64encode(sound[at : at + 50_000]).decode()
            await exchange.event({"type": "speech.audio.delta", "audio": audio})
        await exchange.event(
            {"type": "speech.audio.done", "usage": {"input_tokens": 1, "output_tokens": 4, "total_tokens": 5}}
        )
        await exchange.end()
        return
    await exchange.start_stream({"content-type": "audio/mpeg"})
    for at in range(0, len(sound), 30_000):
        await exchange.chunk(sound[at : at + 30_000])
    await exchange.end()


async def generations(exchange: Exchange, body: Json) -> None:
    """POST /v1/images/generations, also streamed."""
    drawn = base64.b64encode(noise(1000) + str(body.get("prompt")).encode()).decode()
    if not body.get("stream"):
        pictures = [{"b64_json": drawn} for _ in range(body.get("n") or 1)]
        usage = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
        usage |= {"input_tokens_details": {"image_tokens": 0, "text_tokens": 3}}
        await exchange.answer(200, {"created": 1_700_000_000, "data": pictures, "usage": usage})
        return
    about = {
        "created_at": 1_700_000_000,
        "size": "1024x1024",
        "quality": "low",
        "background": "opaque",
        "output_format": "png",
    }
    await exchange.start_stream()
    for kind, more in (("partial_image", {"partial_image_index": 0}), ("completed", {"usage": {"total_tokens": 12}})):
        await exchange.event({"type": f"image_generation.{kind}", "b64_json": drawn, **about, **more})
    await exchange.event("[DONE]")
    await exchange.end()


async def moderations(exchange: Exchange, body: Json) -> None:
    """POST /v1/moderations: what has the word "kill" is flagged."""
    given = body["input"]
    results = [
        {
            "flagged": "kill" in text,
            "categories": {"violence": "kill" in text, "hate": False},
            "category_scores": {"violence": 0.9 if "kill" in text else 0.0, "hate": 0.0},
            "category_applied_input_types": {"violence": ["text"], "hate": ["text"]},
        }
        for text in ([given] if isinstance(given, str) else given)
    ]
    await exchange.answer(200, {"id": "modr-1", "model": body["model"], "results": results})


async def rerank(exchange: Exchange, body: Json) -> None:
    """POST /v1/rerank: by the words shared with the query."""
    words = set(str(body["query"]).lower().split())
    scored = [(len(words & set(text.lower().split())), index) for index, text in enumerate(body["documents"])]
    results = [{"index": index, "relevance_score": float(score)} for score, index in sorted(scored, reverse=True)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    await exchange.answer(
        200, {"model": body["model"], "object": "list", "results": results[: body.get("top_n")], "usage": usage}
    )


async def tokenize(exchange: Exchange, body: Json) -> None:
    """POST /tokenize: a token for each byte."""
    await exchange.answer(200, {"tokens": list(str(body["content"]).encode())})


async def detokenize(exchange: Exchange, body: Json) -> None:
    """POST /detokenize."""
    await exchange.answer(200, {"content": bytes(body["tokens"]).decode()})
