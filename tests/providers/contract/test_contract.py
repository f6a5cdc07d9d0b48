"""The contract every provider keeps: what it is, and what it answers where all goes well or its upstream refuses.

The other files hold the rest: `test_catalogue` (looking, health), `test_trouble` (dead, slow and broken upstreams, callers who
leave), `test_memory` (loading). All take the same subjects, see `conftest`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import cast

import pytest

from providers import ENGINES, REMOTES
from providers.contract import Engine, Loader, Provider, Response, Server
from providers.errors import ProviderError
from tests.providers.contract.engines import STARTED
from tests.providers.contract.faked import FAKED
from tests.providers.contract.reading import Reading, whole
from tests.providers.contract.subjects import CALLERS_KEY, KEY, NAME, Remoted, Subject
from tests.providers.contract.wires import Trouble

pytestmark = pytest.mark.asyncio(loop_scope="package")

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
_TAKE_ANY_NAME = frozenset(("llama_cpp", "process", "openrouter", "anthropic"))  # their fakes, and llama.cpp itself


def lacks(thing: object, contract: type) -> list[str]:
    """What of a protocol a thing has not: attributes, and methods that are coroutines where they shall be."""
    words = [word for word in contract.__annotations__ if not hasattr(thing, word)]
    for word, asked in vars(contract).items():
        if word.startswith("_"):
            continue
        given = getattr(thing, word, None)
        if isinstance(asked, property):
            words += [] if hasattr(thing, word) else [word]
        elif inspect.iscoroutinefunction(asked) != inspect.iscoroutinefunction(given) or not callable(given):
            words.append(word)
    return words


async def test_no_kind_is_left_out() -> None:
    """Whoever adds a kind adds it here: all but vLLM, which is `process` with a command of its own."""
    assert {one.kind for one in FAKED} == set(REMOTES)
    assert {one.kind for one in STARTED} == set(ENGINES) - {"vllm"}


async def test_it_is_a_provider(subject: Subject) -> None:
    """All the contract names is there, of the right form, and its parts agree with each other."""
    provider = subject.provider
    assert lacks(provider, Provider) == []
    assert (provider.name, provider.kind) == (NAME, subject.kind)
    assert provider.routes is None or subject.wire.path in provider.routes
    assert isinstance(provider.tagged, bool)
    assert all(suffix.startswith(":") for suffix in provider.variants)
    assert provider.loader is None or lacks(provider.loader, Loader) == []
    assert provider.server is None or lacks(provider.server, Server) == []
    assert provider.server is None or provider.server is provider.loader


async def test_an_engine_is_one(loading: Subject) -> None:
    """What a loader gives back has all that residency uses; it knows what it was made for."""
    await loading.ready()
    engine = cast("Engine", await loading.sender())
    assert lacks(engine, Engine) == []
    assert engine.spec.target == f"{NAME}/{loading.model}"
    assert (engine.pid is None) is (loading.provider.server is not None)
    assert all(isinstance(line, str) for line in engine.log_lines())


async def test_plain_answer(subject: Subject) -> None:
    """One JSON with the text, under the fields that say so."""
    await subject.ready()
    response, body = await whole(subject, subject.request())
    assert response.status == 200
    fields = dict(response.headers)
    assert fields[b"content-type"].startswith(b"application/json")
    assert all(name == name.lower() for name in fields)
    text = subject.wire.text(json.loads(body))
    assert text
    assert "".join(subject.words).strip() in text
    assert response.whole() == body
    assert lacks(response, Response) == []


async def test_streamed_answer(subject: Subject) -> None:
    """Every event in its order, then the API's own end, once."""
    await subject.ready()
    reading = Reading(subject, subject.request(stream=True))
    await reading.end()
    assert reading.response is not None
    assert reading.response.status == 200
    assert dict(reading.response.headers)[b"content-type"].startswith(b"text/event-stream")
    words = reading.words()
    assert words == list(subject.words) if subject.words else len(words) > 1
    assert reading.body.endswith(subject.wire.last)
    assert reading.body.count(subject.wire.last) == 1


async def test_first_piece_is_there_before_the_second(subject: Subject) -> None:
    """A piece is handed on when it arrives: nothing waits for more of it, or for the end."""
    gate = await subject.ready(Trouble.LONG if subject.id == "llama_cpp" else Trouble.PAUSE)
    reading = Reading(subject, subject.request(stream=True))
    await reading.first()
    assert not reading.task.done()
    if gate is None:
        await reading.leave()
        return
    first = reading.body
    gate.set()
    await reading.end()
    assert len(first) < len(reading.body)
    assert len(reading.words()) == 2
    assert reading.body.endswith(subject.wire.last)


@STREAMED
@pytest.mark.parametrize(("status", "retry_after"), [(200, ""), (404, ""), (429, "7"), (500, "")])
async def test_its_own_answer_passes_byte_for_byte(
    subject: Subject, status: int, retry_after: str, stream: bool
) -> None:
    """An error is an answer like any other: status, body and retry-after are the upstream's, to the last blank."""
    await subject.ready()
    body = '{ "error": {"message":"n\u00f6,\\u00e9 unknown",\r\n\t"code": 12345678901234567890 }}\n '.encode()
    await subject.answers(status, body, retry_after)
    response, got = await whole(subject, subject.request(stream=stream))
    assert response.status == status
    assert got == body
    assert dict(response.headers).get(b"retry-after", b"").decode() == retry_after


@STREAMED
async def test_unknown_model_is_its_own_answer(subject: Subject, stream: bool) -> None:
    """No exception: the upstream's own 404, whether a stream was asked for or not. One that takes any name answers."""
    await subject.ready()
    response, body = await whole(subject, subject.request(stream=stream, model="missing/model"))
    if subject.id in _TAKE_ANY_NAME:
        assert response.status == 200
    else:
        assert response.status == 404
        assert "error" in json.loads(body)


async def test_only_our_key_reaches_it(subject: Subject) -> None:
    """Whatever a request still carries of its caller's key, the upstream sees ours and nothing else, once."""
    name = b"x-api-key" if subject.kind == "anthropic" else b"authorization"
    await subject.ready()
    response, _ = await whole(subject, subject.request(headers=((name, b"Bearer " + CALLERS_KEY.encode()),)))
    assert response.status == 200
    seen = await subject.seen()
    sent = [value for key, value in seen if key == name.decode()]
    assert sent == [KEY if subject.kind == "anthropic" else f"Bearer {KEY}"]
    assert CALLERS_KEY not in repr(seen)


async def test_many_at_once_are_all_answered(subject: Subject) -> None:
    """Each gets its own answer, whole; nothing is left in flight."""
    await subject.ready()
    plain = [whole(subject, subject.request()) for _ in range(subject.at_once // 2)]
    readings = [Reading(subject, subject.request(stream=True)) for _ in range(subject.at_once // 2)]
    for response, body in await asyncio.gather(*plain):
        assert response.status == 200
        assert subject.wire.text(json.loads(body))
    for reading in readings:
        await reading.end()
        assert reading.words()
        assert reading.body.endswith(subject.wire.last)
    if isinstance(subject, Remoted):
        assert subject.remote.endpoint.in_flight == 0


async def test_closed_twice_it_sends_no_more(subject: Subject) -> None:
    """The second close is nothing; what is sent afterwards is an error of the contract, at once."""
    provider = subject.another()
    if isinstance(subject, Remoted):
        await provider.catalogue()
    await asyncio.gather(provider.aclose(), provider.aclose())
    await provider.aclose()
    with pytest.raises(ProviderError):
        await provider.send(subject.request())


async def test_no_repr_shows_a_key(subject: Subject) -> None:
    """Neither the provider nor what it holds shows ours."""
    await subject.ready()
    sender = await subject.sender()
    shown = [repr(thing) + str(thing) + repr(vars(thing)) for thing in (subject.provider, sender)]
    if isinstance(subject, Remoted):
        shown.append(repr(subject.remote.endpoint) + str(subject.remote.endpoint))
    assert KEY not in "".join(shown)
