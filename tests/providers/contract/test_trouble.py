"""The contract: upstreams that are dead, slow or broken, and callers who leave. Each has its own error; nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from providers.errors import ProviderError, UpstreamBroke, UpstreamTimeout, UpstreamUnreachable
from tests.providers.contract.reading import Reading, fair, whole
from tests.providers.contract.subjects import WITHIN_S, Remoted, Subject
from tests.providers.contract.wires import Trouble

pytestmark = pytest.mark.asyncio(loop_scope="package")

SHORT_S = 0.05  # a limit that is to run out
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@STREAMED
async def test_nobody_there(remote: Remoted, stream: bool) -> None:
    """Unreachable: nothing was sent, another target may be tried."""
    provider = remote.to_nobody()
    sender = provider.server.adopt(remote.spec()) if provider.server is not None else provider
    with pytest.raises(UpstreamUnreachable) as caught:
        await sender.send(remote.request(stream=stream))
    fair(caught.value)


@STREAMED
async def test_no_answer_in_time(subject: Subject, stream: bool) -> None:
    """Sent, and silence: a timeout after `first_byte_s`; the upstream sees that nobody waits any more."""
    if stream and subject.id == "llama_cpp":
        subject.cannot("a real engine begins its streams at once")
    await subject.ready(Trouble.SILENT)
    with pytest.raises(UpstreamTimeout) as caught:
        async with asyncio.timeout(WITHIN_S):
            await subject.send(subject.request(stream=stream, first_byte_s=SHORT_S))
    fair(caught.value)
    await subject.left()


async def test_silence_in_the_middle(subject: Subject) -> None:
    """A stream that stops without an end: a timeout after `idle_s`, after all that had come."""
    await subject.ready(Trouble.PAUSE)
    reading = Reading(subject, subject.request(stream=True, idle_s=SHORT_S))
    with pytest.raises(UpstreamTimeout) as caught:
        await reading.end()
    assert len(reading.words()) == 1
    fair(caught.value)
    await subject.left()


@pytest.mark.parametrize("trouble", [Trouble.CUT, Trouble.RESET, Trouble.GARBAGE], ids=lambda trouble: trouble.name)
async def test_broken_before_the_answer(subject: Subject, trouble: Trouble) -> None:
    """It took the request, and what came is no answer."""
    await subject.ready(trouble)
    with pytest.raises(UpstreamBroke) as caught:
        async with asyncio.timeout(WITHIN_S):
            await subject.send(subject.request())
    assert caught.value.nothing_received is (trouble is not Trouble.GARBAGE)
    fair(caught.value)


@pytest.mark.parametrize(
    "trouble", [Trouble.CUT_BODY, Trouble.RESET_BODY, Trouble.GARBAGE_BODY], ids=lambda trouble: trouble.name
)
async def test_broken_in_the_middle_of_a_stream(subject: Subject, trouble: Trouble) -> None:
    """What had come was handed on; the end is an error, never an end."""
    await subject.ready(trouble)
    reading = Reading(subject, subject.request(stream=True))
    with pytest.raises(UpstreamBroke) as caught:
        await reading.end()
    assert len(reading.words()) == 1 or trouble is Trouble.RESET_BODY  # an RST may overtake what was sent
    assert not caught.value.nothing_received
    fair(caught.value)


async def test_broken_in_the_middle_of_a_plain_answer(subject: Subject) -> None:
    """Half an answer is none."""
    await subject.ready(Trouble.CUT_PLAIN)
    with pytest.raises(UpstreamBroke) as caught:
        await whole(subject, subject.request())
    fair(caught.value)


async def test_header_fields_without_end(subject: Subject) -> None:
    """They are bounded by bytes, whatever the time."""
    await subject.ready(Trouble.ENDLESS_HEAD)
    with pytest.raises(UpstreamBroke) as caught:
        async with asyncio.timeout(WITHIN_S):
            await subject.send(subject.request(first_byte_s=None))
    fair(caught.value)
    await subject.left()


@STREAMED
async def test_a_caller_leaves_before_the_answer(subject: Subject, stream: bool) -> None:
    """The connection is cut at once, and the upstream knows."""
    if stream and subject.id == "llama_cpp":
        subject.cannot("a real engine begins its streams at once")
    await subject.ready(Trouble.SILENT)
    waiting = asyncio.create_task(subject.send(subject.request(stream=stream)))
    await subject.arrived()
    waiting.cancel()
    async with asyncio.timeout(WITHIN_S):
        await asyncio.wait({waiting})
    assert waiting.cancelled()
    await subject.left()


async def test_a_caller_leaves_in_the_middle_of_a_stream(subject: Subject) -> None:
    """So too while it is read."""
    await subject.ready(Trouble.LONG)
    reading = Reading(subject, subject.request(stream=True))
    await reading.first()
    await reading.leave()
    await subject.left()


async def test_a_caller_closes_in_the_middle_of_a_stream(subject: Subject) -> None:
    """`close` alone cuts what is not complete; again, it is nothing."""
    await subject.ready(Trouble.LONG)
    response = await subject.send(subject.request(stream=True))
    assert response.whole() is None
    response.close()
    response.close()
    await subject.left()


async def test_one_in_trouble_is_not_the_others_trouble(subject: Subject) -> None:
    """While one answer hangs, others are given, and after it is over, too."""
    await subject.ready(Trouble.SILENT)
    if subject.id in ("process", "llama_cpp"):
        subject.cannot("all answers of this engine are the same")
    hanging = asyncio.create_task(subject.send(subject.request()))
    await subject.arrived()
    response, _ = await whole(subject, subject.request())
    assert response.status == 200
    hanging.cancel()
    await asyncio.wait({hanging})
    response, _ = await whole(subject, subject.request())
    assert response.status == 200
    await subject.left()


async def test_closing_ends_what_is_under_way(remote: Remoted) -> None:
    """Who waits while the provider is closed hears of it as an error of the contract."""
    await remote.ready(Trouble.SILENT)
    waiting = asyncio.create_task(remote.send(remote.request()))
    await remote.arrived()
    async with asyncio.timeout(WITHIN_S):
        await remote.provider.aclose()
        with pytest.raises(ProviderError) as caught:
            await waiting
    fair(caught.value)
    await remote.left()
