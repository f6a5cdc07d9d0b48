"""Connections: made, kept, used again, and cut whenever somebody leaves."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from providers.errors import UpstreamBroke, UpstreamUnreachable
from providers.transport import Endpoint
from tests.fakes.upstream import CUT, HOLD, RESET, Exchange, FakeUpstream
from tests.providers.wire import CHUNKED, MIB, OK, SHORT, Flood, chunk, collect, connected, fetch, nowhere, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


# --- connecting


@asynccontextmanager
async def mute_port() -> AsyncGenerator[tuple[int, asyncio.Queue[asyncio.StreamReader]]]:
    """Accepts connections and says nothing."""
    readers: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        readers.put_nowait(reader)
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], readers
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def test_send_raises_unreachable_when_nothing_listens() -> None:
    """Nothing was sent, and the message names the provider but no address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}", source="fake")
        with pytest.raises(UpstreamUnreachable, match="nothing listens") as caught:
            await endpoint.send(request())
    assert "127.0.0.1" not in caught.value.message
    assert "127.0.0.1" in caught.value.detail
    assert endpoint.in_flight == 0


async def test_send_raises_unreachable_when_the_name_is_none() -> None:
    """A label of 70 letters is no host name (RFC 1035: 63)."""
    endpoint = Endpoint(f"http://{'a' * 70}.test", source="fake")
    with pytest.raises(UpstreamUnreachable):
        await endpoint.send(request())
    await endpoint.aclose()


async def test_connecting_gives_up_when_it_takes_too_long() -> None:
    """`connect_timeout_s` covers TLS; the socket is closed."""
    async with mute_port() as (port, readers):
        endpoint = Endpoint(f"https://127.0.0.1:{port}", source="fake", connect_timeout_s=0.1)
        with pytest.raises(UpstreamUnreachable, match="in time"):
            await endpoint.send(request())
        await asyncio.wait_for(_drain(await readers.get()), 5)
        assert endpoint.in_flight == 0
        await endpoint.aclose()


async def test_socket_is_closed_when_connecting_is_cancelled() -> None:
    """Amid the TLS handshake: the other side sees the end."""
    async with mute_port() as (port, readers):
        endpoint = Endpoint(f"https://127.0.0.1:{port}", source="fake")
        task = asyncio.ensure_future(endpoint.send(request()))
        reader = await asyncio.wait_for(readers.get(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(_drain(reader), 5)
        assert endpoint.in_flight == 0
        await endpoint.aclose()


async def test_ipv6_address_works_when_it_stands_in_brackets() -> None:
    """And the Host field has the brackets too."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with FakeUpstream(host="::1") as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        upstream.queue(SHORT)
        assert await fetch(endpoint) == b"hello"
        assert upstream.requests[0].header("host") == f"[::1]:{upstream.port}"
        await endpoint.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, and Python's ssl module cannot make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def test_https_works_when_the_certificate_is_trusted(certificate: Path) -> None:
    """Plain answers, reuse, and streams with a sink that waits."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with FakeUpstream(ssl_context=serving) as upstream:
        trusting = ssl.create_default_context(cafile=str(certificate))
        endpoint = Endpoint(upstream.base_url, source="fake", ssl_context=trusting)
        upstream.queue(SHORT)
        assert await fetch(endpoint) == b"hello"
        flood = Flood(8 * MIB)
        upstream.queue_handler(flood)
        got = 0

        async def sink(piece: bytes) -> None:
            nonlocal got
            await asyncio.sleep(0)
            got += len(piece)

        response = await endpoint.send(request())
        await response.pump(sink)
        response.close()
        assert got == flood.total_bytes
        assert (endpoint.idle, upstream.connections) == (1, 1)
        await endpoint.aclose()
        await upstream.until(lambda: upstream.open_connections == 0)


async def test_https_is_refused_when_the_certificate_is_not_trusted(certificate: Path) -> None:
    """Verification is on by default: nothing is sent."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with FakeUpstream(ssl_context=serving) as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        with pytest.raises(UpstreamUnreachable, match="certificate is not accepted"):
            await endpoint.send(request())
        assert (endpoint.in_flight, len(upstream.requests)) == (0, 0)
        await endpoint.aclose()


# --- keeping connections


@pytest.mark.parametrize("ending", [CUT, RESET])
async def test_request_is_sent_again_when_a_kept_connection_closes_before_the_answer(ending: Any) -> None:
    """The keep-alive race: once, on a fresh connection, for a POST too."""
    async with connected() as it:
        await it.works()
        it.upstream.queue(ending)
        it.upstream.queue(SHORT)
        assert await fetch(it.endpoint, request(b"again")) == b"hello"
        assert [recorded.body for recorded in it.upstream.requests] == [b"{}", b"again", b"again"]
        assert it.upstream.connections == 2
        assert it.endpoint.idle == 1


async def test_request_is_not_sent_a_third_time_when_the_fresh_connection_closes_too() -> None:
    """Once is the limit, and the other kept connections are not tried one by one."""
    async with connected() as it:
        await asyncio.gather(it.works(), it.works())
        it.upstream.queue(CUT)
        it.upstream.queue(CUT)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(it.endpoint)
        assert caught.value.nothing_received
        assert len(it.upstream.requests) == 4
        assert it.endpoint.idle == 1


async def test_request_is_not_sent_again_when_the_connection_was_fresh() -> None:
    """A fresh connection that closes is the upstream's failure, not a race."""
    async with connected() as it:
        it.upstream.queue(CUT)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(it.endpoint)
        assert caught.value.nothing_received
        assert len(it.upstream.requests) == 1


async def test_request_is_not_sent_again_when_one_byte_of_the_answer_came() -> None:
    """Then the upstream has taken it, and may have done the work."""
    async with connected() as it:
        await it.works()
        it.upstream.queue(b"H", CUT)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(it.endpoint)
        assert not caught.value.nothing_received
        assert len(it.upstream.requests) == 2


async def test_kept_connection_is_forgotten_when_the_upstream_closes_it() -> None:
    """Seen at once, without a request."""
    async with connected() as it:
        await it.works()
        it.upstream.cut_connections()
        await it.upstream.until(lambda: it.endpoint.idle == 0)
        await it.works()
        assert len(it.upstream.requests) == 2


async def test_kept_connection_is_closed_when_it_was_not_used_for_long() -> None:
    """So that the upstream, which closes it a little later, never wins the race."""
    async with connected(idle_keep_s=0.05) as it:
        await asyncio.gather(it.works(), it.works())
        await it.upstream.until(lambda: it.endpoint.idle == 0 and it.upstream.open_connections == 0)
        await it.works()
        assert it.upstream.connections == 3


async def test_no_more_connections_are_kept_when_the_limit_is_reached() -> None:
    """`idle_max` bounds what a burst leaves behind."""
    async with connected(idle_max=2) as it:
        await asyncio.gather(*(it.works() for _ in range(5)))
        assert it.endpoint.idle == 2
        await it.upstream.until(lambda: it.upstream.open_connections == 2)


async def test_many_answers_stay_apart_when_they_run_at_once() -> None:
    """Fifty streams side by side, each its own bytes, and everything is given back."""

    async def echo(exchange: Exchange) -> None:
        body = await exchange.body()
        await exchange.start_stream()
        for _ in range(5):
            await exchange.chunk(body)
            await asyncio.sleep(0)
        await exchange.end()

    async with connected() as it:
        it.upstream.script(echo)
        names = [b"<%d>" % number for number in range(50)]
        for _ in range(2):
            answers = await asyncio.gather(*(collect(it.endpoint, request(name)) for name in names))
            assert [b"".join(pieces) for pieces in answers] == [name * 5 for name in names]
        assert (it.endpoint.in_flight, it.endpoint.idle, it.upstream.connections) == (0, 50, 50)


async def test_close_does_nothing_when_the_connection_serves_another_by_now() -> None:
    """Closing twice must not cut the next request's answer."""
    gate = asyncio.Event()
    async with connected() as it:
        it.upstream.queue(SHORT)
        first = await it.endpoint.send(request())
        first.close()
        it.upstream.queue(OK + b"Content-Length: 2\r\n\r\n", gate, b"hi")
        second = await it.endpoint.send(request())
        first.close()
        assert it.endpoint.in_flight == 1
        gate.set()
        assert await second.read(2) == b"hi"
        second.close()
        assert it.upstream.connections == 1


# --- leaving


async def test_upstream_sees_it_at_once_when_an_answer_is_closed_early() -> None:
    """This is how a leaving client frees the engine's slot."""
    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"a"), HOLD)
        response = await it.endpoint.send(request())
        response.close()
        response.close()
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        assert (it.endpoint.in_flight, it.endpoint.idle) == (0, 0)


@pytest.mark.parametrize("pumped", [False, True])
async def test_waiting_task_gets_an_error_when_another_closes_the_answer(pumped: bool) -> None:
    """Nobody waits for ever on an answer that was closed."""
    async with connected() as it:
        it.upstream.queue(CHUNKED + chunk(b"a"), HOLD)
        response = await it.endpoint.send(request())
        waiting = asyncio.ensure_future(response.pump(nowhere) if pumped else response.read(100))
        await asyncio.sleep(0)
        response.close()
        with pytest.raises(UpstreamBroke):
            await waiting


async def _send(endpoint: Endpoint) -> None:
    await endpoint.send(request())


async def _read(endpoint: Endpoint) -> None:
    await fetch(endpoint)


async def _pump(endpoint: Endpoint) -> None:
    await collect(endpoint)


async def _pump_slowly(endpoint: Endpoint) -> None:
    async def sink(piece: bytes) -> None:
        await asyncio.Event().wait()

    response = await endpoint.send(request())
    try:
        await response.pump(sink)
    finally:
        response.close()


@pytest.mark.parametrize(
    ("work", "answer"),
    [
        (_send, b""),
        (_send, b"HTTP/1.1 200"),
        (_read, CHUNKED + chunk(b"a")),
        (_pump, CHUNKED + chunk(b"a")),
        (_pump_slowly, CHUNKED + chunk(b"a")),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
async def test_connection_is_cut_when_the_caller_is_cancelled(
    work: Callable[[Endpoint], Any], answer: bytes, kept: bool
) -> None:
    """Waiting for the head, reading, pumping, held up by the sink: the upstream is freed and the counters are right."""
    started = asyncio.Event()

    async def begin(exchange: Exchange) -> None:
        await exchange.body()
        if answer:
            await exchange.write(answer)
        started.set()
        await asyncio.Event().wait()

    async with connected() as it:
        if kept:
            await it.works()
        it.upstream.queue_handler(begin)
        task = asyncio.ensure_future(work(it.endpoint))
        await started.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await it.upstream.until(lambda: it.upstream.aborted == 1)
        assert (it.endpoint.in_flight, it.endpoint.idle, it.upstream.open_connections) == (0, 0, 0)
        await it.works()


async def test_cancellation_reaches_the_sink_when_it_waits() -> None:
    """A sink that was started in the read event cleans up like any other, even by waiting once more."""
    seen: list[str] = []
    waiting = asyncio.Event()
    gate = asyncio.Event()

    async def sink(piece: bytes) -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cancelled")
            raise
        finally:
            seen.append("left")

    async with connected() as it:
        it.upstream.queue(CHUNKED, gate, chunk(b"a"), HOLD)
        response = await it.endpoint.send(request())
        task = asyncio.ensure_future(response.pump(sink))
        await asyncio.sleep(0)
        gate.set()
        await waiting.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "left"]
        response.close()


async def test_cancellation_works_when_it_falls_on_any_step_of_a_request() -> None:
    """Cut after every number of loop turns: the counters are right and no connection stays open half-used."""
    async with connected() as it:
        for turns in range(40):
            task = asyncio.ensure_future(
                collect(it.endpoint, request(b'{"stream":true}', path=b"/v1/chat/completions"))
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            await it.settled()
            await it.upstream.until(lambda: it.upstream.open_connections == it.endpoint.idle)
            if turns % 2:
                it.upstream.cut_connections()
                await it.upstream.until(lambda: it.endpoint.idle == 0)
        assert it.endpoint.in_flight == 0


# --- closing the endpoint


async def test_everything_ends_when_the_endpoint_is_closed() -> None:
    """Idle connections close, busy ones are cut, whoever waits gets an error, and nothing is sent any more."""
    async with FakeUpstream() as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        upstream.queue(SHORT)
        await fetch(endpoint)
        upstream.queue(HOLD)
        upstream.queue(CHUNKED, HOLD)
        sending = asyncio.ensure_future(endpoint.send(request()))
        pumping = asyncio.ensure_future(collect(endpoint))
        await upstream.until(lambda: upstream.in_flight == 2)
        await endpoint.aclose()
        for task in (sending, pumping):
            with pytest.raises(UpstreamBroke):
                await task
        await upstream.until(lambda: upstream.open_connections == 0)
        with pytest.raises(UpstreamUnreachable, match="shut down"):
            await endpoint.send(request())
        await endpoint.aclose()
        assert (endpoint.in_flight, endpoint.idle) == (0, 0)


async def _drain(reader: asyncio.StreamReader) -> None:
    """Returns when the peer has closed."""
    try:
        while await reader.read(65536):
            pass
    except ConnectionResetError:
        pass
