"""The contract: looking at what a provider offers. It loads nothing, and tells what is wrong when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from config.forms import Secret
from providers.errors import (
    ProviderError,
    UpstreamBroke,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnreachable,
)
from tests.providers.contract.faked import Faked
from tests.providers.contract.reading import Reading, fair, whole
from tests.providers.contract.subjects import WITHIN_S, Remoted, Subject
from tests.providers.contract.wires import Trouble
from tests.providers.wire import OK

pytestmark = pytest.mark.asyncio(loop_scope="package")

VOCABULARY = frozenset(
    (
        "chat",
        "completion",
        "embedding",
        "tools",
        "vision",
        "audio",
        "reasoning",
        "structured_output",
        "insert",
        "rerank",
    )
)  # contract.Offer


def said(status: int, body: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %d Said\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


LIES: Mapping[str, tuple[bytes, type[ProviderError]]] = {
    "a web page": (said(200, b"<!doctype html><title>Login</title>", b"text/html"), UpstreamBroke),
    "a web page called JSON": (said(200, b"\n<html></html>"), UpstreamBroke),
    "truncated JSON": (said(200, b'{"object": "list", "data": [{"id": "on'), UpstreamBroke),
    "another shape": (said(200, b'{"data": {"a": 1}, "models": {"a": 1}}'), UpstreamBroke),
    "a number": (said(200, b"7"), UpstreamBroke),
    "nothing": (said(200, b""), UpstreamBroke),
    "no text": (said(200, b'{"data": "\xff\xfe"}'), UpstreamBroke),
    "deeply nested": (said(200, b"[" * 100_000), UpstreamBroke),
    "a body that ends early": (OK + b"content-length: 500\r\nconnection: close\r\n\r\n{", UpstreamBroke),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", UpstreamBroke),
    "a redirect": (said(302, b""), UpstreamBroke),
    "401": (said(401, b'{"error": {"message": "Incorrect API key"}}'), UpstreamKeyRefused),
    "403": (said(403, b"no"), UpstreamKeyRefused),
    "429": (said(429, b'{"error": "slow down"}'), UpstreamRefused),
    "500": (said(500, b'{"error": {"message": "out of order"}}'), UpstreamRefused),
}


async def test_it_offers_names_and_loads_nothing(subject: Subject) -> None:
    """Its model is among them, each name once, described in the contract's words; nothing came into memory by looking."""
    before = await subject.memory()
    offers = await subject.provider.catalogue()
    names = [offer.name for offer in offers]
    assert subject.model in names
    assert len(set(names)) == len(names)
    assert all(name and name == name.strip() for name in names)
    assert {word for offer in offers for word in offer.capabilities} <= VOCABULARY
    assert all(offer.context_length is None or offer.context_length > 0 for offer in offers)
    assert all(offer.size_bytes is None or offer.size_bytes > 0 for offer in offers)
    assert await subject.memory() == before


async def test_it_says_the_same_twice_and_to_many_at_once(subject: Subject) -> None:
    """Nothing in it depends on who asked before, or beside."""
    first = list(await subject.provider.catalogue())
    again = await asyncio.gather(*(subject.provider.catalogue() for _ in range(5)))
    assert all(list(offers) == first for offers in again)
    fresh = await asyncio.gather(*(subject.another().catalogue() for _ in range(3)))
    assert all(list(offers) == first for offers in fresh)


async def test_it_offers_what_the_operator_names(remote: Remoted) -> None:
    """`models` chooses."""
    assert len(await remote.provider.catalogue()) > 1
    chosen = await remote.another(models=(remote.model,)).catalogue()
    assert [offer.name for offer in chosen] == [remote.model]


async def test_nobody_there(remote: Remoted) -> None:
    """Unreachable, by name, without our key."""
    with pytest.raises(UpstreamUnreachable) as caught:
        await remote.to_nobody().catalogue()
    fair(caught.value)


async def test_it_recovers_by_itself(faked: Faked) -> None:
    """An upstream that was down and is up again is looked at and sent to by the same provider."""
    offered = await faked.provider.catalogue()
    await faked.upstream.stop()
    for _ in range(2):
        if faked.kind == "openrouter":  # its last catalogue stands in
            assert await faked.provider.catalogue() == offered
        else:
            with pytest.raises(UpstreamUnreachable):
                await faked.provider.catalogue()
        with pytest.raises(UpstreamUnreachable):
            await faked.send(faked.request())
    await faked.upstream.__aenter__()
    assert await faked.provider.catalogue() == offered
    response, _ = await whole(faked, faked.request())
    assert response.status == 200


@pytest.mark.parametrize("lie", LIES)
async def test_what_is_no_catalogue_is_an_error_that_says_so(faked: Faked, lie: str) -> None:
    """Each kind of nonsense is an error of its own class that names the provider and never our key; nobody takes it for a list
    without models, nor for an empty memory.
    """
    answer, expected = LIES[lie]
    await faked.lists(answer)
    looks = [faked.provider.catalogue] + ([] if faked.provider.server is None else [faked.provider.server.held])
    for look in looks:
        with pytest.raises(ProviderError) as caught:
            await look()
        assert type(caught.value) is expected
        fair(caught.value)


async def test_an_endless_catalogue_is_bounded(faked: Faked) -> None:
    """It is given up after a bound of bytes, not when the memory is full."""
    await faked.lists(OK + b"content-length: 999999999999\r\n\r\n[" + b" " * (17 << 20))
    with pytest.raises(UpstreamBroke) as caught:
        await faked.provider.catalogue()
    fair(caught.value)
    assert faked.remote.endpoint.in_flight == 0


async def test_a_key_that_it_refuses(remote: Remoted) -> None:
    """Said as the operator's fault, with the key's place in the configuration, and without the key."""
    wrong = "sk-wrong-0123456789"
    if remote.id in ("ollama", "openrouter"):
        remote.cannot("its list needs no key")
    with pytest.raises(UpstreamKeyRefused) as caught:
        await remote.another(api_key=Secret(wrong)).catalogue()
    fair(caught.value)
    assert "api_key" in caught.value.message
    assert wrong not in repr(caught.value) + caught.value.message + caught.value.detail


@pytest.mark.parametrize("said_so_far", [b"", OK + b"content-length: 9\r\n\r\n{"], ids=["silent", "half"])
async def test_looking_can_be_given_up(faked: Faked, said_so_far: bytes) -> None:
    """The upstream sees the connection close, and nothing stays in flight."""
    await faked.lists(said_so_far, hold=True)
    looking = asyncio.create_task(faked.provider.catalogue())
    await faked.arrived()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(WITHIN_S):
            await looking
    await faked.left()


async def test_looking_does_not_wait_for_answers(subject: Subject) -> None:
    """While a stream is under way, the catalogue is there."""
    await subject.ready(Trouble.LONG)
    reading = Reading(subject, subject.request(stream=True))
    await reading.first()
    async with asyncio.timeout(WITHIN_S):
        assert subject.model in [offer.name for offer in await subject.provider.catalogue()]
    assert not reading.task.done()
    await reading.leave()
    await subject.left()
