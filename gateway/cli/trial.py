"""A tiny completion, plain and streamed, to see that an upstream does what it is for.

The law: one model, a few tokens, and the operator is told which and why; what comes back is read within a bound of bytes and time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from config.schema import ProviderConfig
from providers.contract import Held, Offer, Provider, Request
from providers.errors import ProviderError, UpstreamBroke, UpstreamTimeout
from providers.ollama_names import canonical
from providers.remote import words_of

from .words import seconds_text

TRY_WITHIN_S = 120.0  # for each of the two: a server may have to load some GB first
_TOKENS = 16  # the least that OpenAI's newer models accept
_ANSWER_MAX_BYTES = 1 << 20
_CHAT, _MESSAGES = b"/v1/chat/completions", b"/v1/messages"
# Parts of names of models that answer no chat; for upstreams whose catalogue does not say so.
_SILENT = frozenset(
    (
        "embed",
        "rerank",
        "whisper",
        "tts",
        "speech",
        "transcribe",
        "audio",
        "realtime",
        "moderation",
        "dall-e",
        "image",
        "sora",
    )
)


class Choice(msgspec.Struct, frozen=True):
    """The model to try, and why that one."""

    model: str
    why: str


class Failure(Exception):
    """It is no completion.

    Args:
        text: what came instead.
        advice: what to do.
    """

    def __init__(self, text: str, advice: str) -> None:
        super().__init__(text)
        self.text = text
        self.advice = advice


def choose(provider: Provider, offers: Sequence[Offer], held: Sequence[Held]) -> Choice | None:
    """The model that costs least to try: in memory, else free, else the smallest, else the cheapest, else the first.

    None: it offers nothing that chats.
    """
    chatting = [offer for offer in offers if _chats(offer)]
    if not chatting:
        return None
    inside = {item.name for item in held}
    if loaded := next((offer for offer in chatting if offer.name in inside), None):
        return Choice(loaded.name, "in its memory already")
    if provider.server is not None:
        sized = [offer for offer in chatting if offer.size_bytes]
        smallest = min(sized, key=lambda offer: offer.size_bytes or 0, default=chatting[0])
        return Choice(smallest.name, "the smallest; this loads it")
    priced = [(_cost(offer), offer) for offer in chatting if offer.price is not None]
    if priced:
        cost, cheapest = min(priced, key=lambda pair: pair[0])
        return Choice(cheapest.name, "free" if cost == 0 else "the cheapest; this costs a fraction of a cent")
    return Choice(chatting[0].name, "the first it lists; this may load it or cost a fraction of a cent")


def named(provider: Provider, offers: Sequence[Offer], model: str) -> Choice | None:
    """The model somebody asked for, with or without the provider before it. None: it does not offer that."""
    name = model.removeprefix(f"{provider.name}/")
    wanted = {name, canonical(name)} if provider.tagged else {name}
    stems = {name.removesuffix(suffix) for suffix in provider.variants if name.endswith(suffix)}
    if any(offer.name in wanted | stems for offer in offers):
        return Choice(name, "as asked; this may load it or cost something")
    return None


def _chats(offer: Offer) -> bool:
    if offer.output_modalities and "text" not in offer.output_modalities:
        return False
    if offer.capabilities:
        return "chat" in offer.capabilities or "completion" in offer.capabilities
    return not any(part in offer.name.lower() for part in _SILENT)


def _cost(offer: Offer) -> Decimal:
    assert offer.price is not None
    return offer.price.prompt + offer.price.completion + offer.price.request


class _Message(msgspec.Struct):
    content: object = None


class _Choice(msgspec.Struct):
    message: _Message | None = None


class _Completion(msgspec.Struct):
    """OpenAI's, Anthropic's, and either's error in an answer of status 200."""

    choices: tuple[_Choice, ...] = ()
    content: object = None
    type: str = ""
    error: object = None


class Trial:
    """One model of one provider."""

    def __init__(self, provider: Provider, config: ProviderConfig, model: str, within_s: float = TRY_WITHIN_S) -> None:
        self._provider = provider
        self._model = model
        self._within_s = within_s
        routes = provider.routes
        self._path = _MESSAGES if routes is not None and _CHAT not in routes and _MESSAGES in routes else _CHAT
        # its newer models refuse the old name; everybody else knows it
        self._limit = "max_completion_tokens" if config.preset == "openai" else "max_tokens"

    async def plain(self) -> str:
        """What to tell. Raises: Failure; ProviderError."""
        began_s = time.monotonic()
        status, _, body = await self._exchange(streamed=False)
        _refuse(status, body, self._provider.name)
        try:
            answer = msgspec.json.decode(body, type=_Completion)
        except (msgspec.MsgspecError, RecursionError):
            raise Failure("answered with something else than a completion", "is base_url right?") from None
        if answer.error:
            raise Failure(f"answered with an error: {words_of(body)}", "see what it says")
        if not (answer.choices and answer.choices[0].message) and answer.content is None:
            raise Failure("answered with JSON that is no completion", "is base_url right?")
        return f"{self._model} answered after {seconds_text(time.monotonic() - began_s)}"

    async def streamed(self) -> str:
        """What to tell. Raises: Failure; ProviderError."""
        began_s = time.monotonic()
        status, kind, body, first_s = await self._stream()
        _refuse(status, body, self._provider.name)
        if kind.partition(b";")[0].strip().lower() != b"text/event-stream":
            raise Failure("does not stream: it answered in one piece", "is something in between that collects answers?")
        events = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
        pieces, ended = 0, b"[DONE]" in events
        for event in events:
            if event == b"[DONE]":
                continue
            try:
                piece = msgspec.json.decode(event, type=_Completion)
            except (msgspec.MsgspecError, RecursionError):
                raise Failure("streams something else than JSON events", "is base_url right?") from None
            if piece.error or piece.type == "error":
                raise Failure(f"broke off its stream with an error: {words_of(event)}", "see what it says")
            ended = ended or piece.type == "message_stop"
            pieces += 1
        if not pieces or not ended:
            raise Failure("ends its stream too early", "is something in between that cuts long answers?")
        return f"{self._model} began after {seconds_text(first_s - began_s)}, {pieces} events"

    def _request(self, *, streamed: bool) -> Request:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "Say OK."}],
            self._limit if self._path == _CHAT else "max_tokens": _TOKENS,
            "stream": streamed,
        }
        headers = ((b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"))
        return Request(
            method=b"POST",
            path=self._path,
            headers=headers,
            body=msgspec.json.encode(body),
            first_byte_s=self._within_s,
        )

    async def _exchange(self, *, streamed: bool) -> tuple[int, bytes, bytes]:
        try:
            async with asyncio.timeout(self._within_s):
                response = await self._provider.send(self._request(streamed=streamed))
                try:
                    kind = next((value for name, value in response.headers if name == b"content-type"), b"")
                    return response.status, kind, await response.read(_ANSWER_MAX_BYTES)
                finally:
                    response.close()
        except TimeoutError:
            raise self._slow() from None

    async def _stream(self) -> tuple[int, bytes, bytes, float]:
        """Status, content type, body, and when its first piece came."""
        body, first_s = bytearray(), 0.0

        async def take(piece: bytes) -> None:
            nonlocal first_s
            first_s = first_s or time.monotonic()
            body.extend(piece)
            if len(body) > _ANSWER_MAX_BYTES:
                raise UpstreamBroke(f"{self._provider.name} does not stop streaming", source=self._provider.name)

        try:
            async with asyncio.timeout(self._within_s):
                response = await self._provider.send(self._request(streamed=True))
                try:
                    kind = next((value for name, value in response.headers if name == b"content-type"), b"")
                    await response.pump(take)
                    return response.status, kind, bytes(body), first_s or time.monotonic()
                finally:
                    response.close()
        except TimeoutError:
            raise self._slow() from None

    def _slow(self) -> ProviderError:
        return UpstreamTimeout(
            f"{self._model} has not answered within {self._within_s:g} s", source=self._provider.name
        )


def _refuse(status: int, body: bytes, name: str) -> None:
    """Raises: Failure: an error status."""
    if status < 400:
        return
    said = words_of(body)
    match status:
        case 401 | 403:
            advice = f"set providers.{name}.api_key to a key that may use this model"
        case 402:
            advice = "there is no credit left there: top it up, or choose a free model with --model"
        case 404:
            advice = "choose another model with --model"
        case 429:
            advice = "its limit is reached: try again later"
        case _:
            advice = "see what it says; its own log may say more"
    raise Failure(f"answered with status {status}{f': {said}' if said else ''}", advice)
