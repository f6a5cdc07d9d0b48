"""Through a proxy: tunnels for https, whole addresses for http; its refusals are told as its own, its password never."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.forms import Secret
from config.schema import ProviderConfig
from providers.errors import UpstreamUnreachable
from providers.openai_compat import OpenAICompat
from providers.remote import Site
from providers.transport import Endpoint
from tests.fakes.proxy import FakeProxy
from tests.fakes.upstream import CUT, FakeUpstream
from tests.providers.wire import MIB, SHORT, Flood, fetch, request

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

USER, PASSWORD = "us er", "p@ss:w/rd"
ENCODED = "us%20er:p%40ss%3Aw%2Frd"


@dataclass(frozen=True)
class Pki:
    """Files: an authority's certificate, and a certificate of its making with the key, for localhost or for another host."""

    authority: Path
    localhost: Path
    elsewhere: Path


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """An authority of our own, unknown to the system."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, and Python's ssl module cannot make a certificate")
    folder = tmp_path_factory.mktemp("pki")

    def make(name: str, host: str, *more: str) -> Path:
        command = [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
        ]
        command += ["2", "-subj", f"/CN={host}", "-keyout", f"{name}.key", "-out", f"{name}.crt", *more]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        both = folder / f"{name}.pem"
        both.write_bytes((folder / f"{name}.key").read_bytes() + (folder / f"{name}.crt").read_bytes())
        return both

    make("authority", "Our Own Authority", "-addext", "keyUsage=critical,keyCertSign")
    signed = (
        "-CA",
        "authority.crt",
        "-CAkey",
        "authority.key",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
    )
    localhost = make("localhost", "localhost", *signed, "subjectAltName=DNS:localhost")
    elsewhere = make("elsewhere", "elsewhere.test", *signed, "subjectAltName=DNS:elsewhere.test")
    return Pki(folder / "authority.crt", localhost, elsewhere)


def serving(chain: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


@asynccontextmanager
async def tunnelled(pki: Pki, proxy: FakeProxy, user: str = "") -> AsyncGenerator[tuple[FakeUpstream, Endpoint]]:
    """An https upstream, and an endpoint that reaches it through the proxy and trusts our authority."""
    async with proxy, FakeUpstream(ssl_context=serving(pki.localhost)) as upstream:
        trusting = ssl.create_default_context(cafile=str(pki.authority))
        url = Secret(proxy.url(user))
        endpoint = Endpoint(upstream.base_url, source="fake", ssl_context=trusting, proxy=url, connect_timeout_s=5.0)
        try:
            yield upstream, endpoint
        finally:
            await endpoint.aclose()
            await proxy.until(lambda: proxy.open_connections == 0)
            assert (endpoint.in_flight, endpoint.idle) == (0, 0)


@asynccontextmanager
async def forwarded(proxy: FakeProxy, user: str = "") -> AsyncGenerator[tuple[FakeUpstream, Endpoint]]:
    """A plain http upstream, reached through the proxy."""
    async with proxy, FakeUpstream() as upstream:
        endpoint = Endpoint(f"{upstream.base_url}/base", source="fake", proxy=Secret(proxy.url(user)))
        try:
            yield upstream, endpoint
        finally:
            await endpoint.aclose()
            await proxy.until(lambda: proxy.open_connections == 0)
            assert (endpoint.in_flight, endpoint.idle) == (0, 0)


async def unreachable(endpoint: Endpoint) -> str:
    """The message of the refusal; nothing of it, of its log line and of any repr shows the user or the password."""
    with pytest.raises(UpstreamUnreachable) as caught:
        await fetch(endpoint)
    shown = (
        caught.value.message,
        caught.value.detail,
        repr(caught.value),
        repr(endpoint),
        repr(caught.value.__cause__),
    )
    for secret in (USER, PASSWORD, *ENCODED.split(":"), "Basic "):
        assert not any(secret in text for text in shown)
    assert endpoint.in_flight == 0
    return caught.value.message


# --- tunnels


async def test_https_goes_through_a_tunnel_when_there_is_a_proxy(pki: Pki) -> None:
    """Its TLS is checked end to end; the connection is kept, so that the next request needs no second tunnel."""
    proxy = FakeProxy()
    async with tunnelled(pki, proxy) as (upstream, endpoint):
        for _ in range(2):
            upstream.queue(SHORT)
            assert await fetch(endpoint) == b"hello"
        assert [recorded.path for recorded in upstream.requests] == ["/v1/x", "/v1/x"]
        assert upstream.requests[0].header("host") == f"localhost:{upstream.port}"
        assert (upstream.connections, len(proxy.heads), endpoint.idle) == (1, 1, 1)


async def test_proxy_hears_only_where_to_connect_when_it_tunnels(pki: Pki) -> None:
    """Neither a header nor a path of ours; and the upstream does not see what is the proxy's."""
    proxy = FakeProxy(credentials=f"{USER}:{PASSWORD}")
    async with tunnelled(pki, proxy, ENCODED) as (upstream, endpoint):
        upstream.queue(SHORT)
        asked = request(headers=((b"x-mark", b"ours"), (b"proxy-authorization", b"the caller's")))
        assert await fetch(endpoint, asked) == b"hello"
        target = f"localhost:{upstream.port}"
        [head] = proxy.heads
        assert head.startswith(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nproxy-authorization: Basic ")
        assert "ours" not in head
        assert upstream.requests[0].header("x-mark") == "ours"
        assert upstream.requests[0].header("proxy-authorization") is None


async def test_stream_flows_and_pauses_when_it_comes_through_a_tunnel(pki: Pki) -> None:
    """A slow reader holds the upstream back through TLS and proxy, and gets every byte."""
    async with tunnelled(pki, FakeProxy()) as (upstream, endpoint):
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
        assert endpoint.idle == 1


async def test_request_gets_a_new_tunnel_when_the_kept_one_was_closed(pki: Pki) -> None:
    """The keep-alive race, as without a proxy."""
    proxy = FakeProxy()
    async with tunnelled(pki, proxy) as (upstream, endpoint):
        upstream.queue(SHORT)
        await fetch(endpoint)
        upstream.queue(CUT)
        upstream.queue(SHORT)
        assert await fetch(endpoint) == b"hello"
        assert len(proxy.heads) == 2


REFUSALS = [
    (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno!!", "refused to connect to localhost:{port}: 403"),
    (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>" + b"x" * 50_000, "refused to connect to localhost:{port}: 502"),
    (b"HTTP/1.0 503\r\n\r\n", "refused to connect to localhost:{port}: 503"),
    (b"HTTP/1.1 407 No\r\n\r\n", "407 (it does not take the user and password in its address)"),
    (b"HTTP/1.1 301 Moved\r\nlocation: http://elsewhere\r\n\r\n", "refused to connect to localhost:{port}: 301"),
    (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "answered with something that is not HTTP/1.1"),
    (b"HTTP/1.1 200", "its answer is not a whole one"),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "answered with something that is not HTTP/1.1"),
    (b"", "closed the connection without an answer"),
    (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000, "its answer is not a whole one"),
    (b"HTTP/1.1 200 OK\r\n\r\n<html>", "its answer is not a whole one"),
]


@pytest.mark.parametrize(("says", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
async def test_proxy_is_named_when_it_opens_no_tunnel(pki: Pki, says: bytes, words: str) -> None:
    """Each refusal in words of its own; nothing reached the upstream, and the socket is closed."""
    proxy = FakeProxy(says=says)
    async with tunnelled(pki, proxy, ENCODED) as (upstream, endpoint):
        message = await unreachable(endpoint)
        assert f"the proxy at {proxy.name} " in message
        assert words.format(port=upstream.port) in message
        assert upstream.connections == 0


async def test_refusal_says_what_to_set_when_the_proxy_wants_a_password(pki: Pki) -> None:
    """None was configured."""
    proxy = FakeProxy(credentials="a:b")
    async with tunnelled(pki, proxy) as (_, endpoint):
        assert f"407 (it wants a user and a password: http://user:password@{proxy.name})" in await unreachable(endpoint)


async def test_proxy_is_not_listened_to_for_ever_when_its_answer_has_no_end() -> None:
    """At a limit, not at the end of the time."""
    async with FakeProxy(says=b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000, holds=True) as proxy:
        endpoint = Endpoint("https://u.test", source="fake", proxy=Secret(proxy.url()), connect_timeout_s=60.0)
        assert "its answer is not a whole one" in await asyncio.wait_for(unreachable(endpoint), 5.0)
        await proxy.until(lambda: proxy.open_connections == 0)
        await endpoint.aclose()


async def test_connecting_gives_up_when_the_proxy_says_nothing(pki: Pki) -> None:
    """`connect_timeout_s` covers its answer; the socket is closed."""
    async with FakeProxy(says=b"HTTP/1.1 200 OK\r\n", holds=True) as proxy:
        endpoint = Endpoint("https://u.test", source="fake", proxy=Secret(proxy.url(ENCODED)), connect_timeout_s=0.1)
        assert f"no connection in time through the proxy at {proxy.name}" in await unreachable(endpoint)
        await proxy.until(lambda: proxy.open_connections == 0)
        await endpoint.aclose()


async def test_connecting_gives_up_when_the_upstream_behind_the_tunnel_says_nothing() -> None:
    """`connect_timeout_s` covers TLS in the tunnel, too."""
    async with FakeProxy(says=b"HTTP/1.1 200 OK\r\n\r\n", holds=True) as proxy:
        endpoint = Endpoint("https://u.test", source="fake", proxy=Secret(proxy.url()), connect_timeout_s=0.1)
        assert "no connection in time" in await unreachable(endpoint)
        await proxy.until(lambda: proxy.open_connections == 0)
        await endpoint.aclose()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["waiting for the tunnel", "amid TLS"])
@pytest.mark.parametrize("turns", [0, 20])
async def test_socket_is_closed_when_connecting_through_a_proxy_is_cancelled(says: bytes, turns: int) -> None:
    """The proxy sees the end at once, and nothing is counted any more."""
    async with FakeProxy(says=says, holds=True) as proxy:
        endpoint = Endpoint("https://u.test", source="fake", proxy=Secret(proxy.url()))
        task = asyncio.ensure_future(endpoint.send(request()))
        await proxy.until(lambda: len(proxy.heads) == 1)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await proxy.until(lambda: proxy.open_connections == 0)
        assert endpoint.in_flight == 0
        await endpoint.aclose()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxy_is_named_when_nothing_listens_there(dead_port: int, scheme: str) -> None:
    """Not the upstream, which may be well."""
    endpoint = Endpoint(f"{scheme}://u.test", source="fake", proxy=Secret(f"http://{ENCODED}@127.0.0.1:{dead_port}"))
    message = await unreachable(endpoint)
    assert f"the proxy at 127.0.0.1:{dead_port} cannot be reached: nothing listens at its address" in message
    await endpoint.aclose()


async def test_upstream_is_blamed_when_its_tls_fails_in_the_tunnel() -> None:
    """It speaks plain HTTP where https is expected."""
    async with FakeProxy() as proxy, FakeUpstream() as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        endpoint = Endpoint(url, source="fake", proxy=Secret(proxy.url()))
        upstream.failures.clear()
        message = await unreachable(endpoint)
        assert "proxy" not in message
        upstream.failures.clear()  # of its parser, which does not know TLS
        await endpoint.aclose()


# --- plain http


async def test_request_line_holds_the_whole_address_when_http_goes_through_a_proxy() -> None:
    """With the base's path; Host is the upstream's; the connection is kept; the user and password are shown each time."""
    proxy = FakeProxy(credentials=f"{USER}:{PASSWORD}")
    async with forwarded(proxy, ENCODED) as (upstream, endpoint):
        for _ in range(2):
            upstream.queue(SHORT)
            assert await fetch(endpoint, request(headers=((b"proxy-authorization", b"x"),))) == b"hello"
        assert [recorded.path for recorded in upstream.requests] == [f"{upstream.base_url}/base/v1/x"] * 2
        assert upstream.requests[1].header("host") == f"127.0.0.1:{upstream.port}"
        fields = [value for name, value in upstream.requests[1].headers if name == "proxy-authorization"]
        assert len(fields) == 1
        assert fields[0].startswith("Basic ")
        assert (len(proxy.heads), endpoint.idle) == (1, 1)


async def test_proxy_is_named_when_it_refuses_a_plain_request() -> None:
    """407 can only be its own: the upstream saw nothing."""
    proxy = FakeProxy(credentials="a:b")
    async with forwarded(proxy, ENCODED) as (upstream, endpoint):
        message = await unreachable(endpoint)
        assert f"the proxy at {proxy.name} refused: 407 (it does not take the user and password in its" in message
        await proxy.until(lambda: proxy.open_connections == 0)
        assert upstream.requests == []


async def test_answer_passes_when_a_plain_request_meets_another_error() -> None:
    """403 or 502 may be the upstream's own: its status and body are passed on."""
    async with forwarded(FakeProxy(says=b"HTTP/1.1 502 No\r\ncontent-length: 4\r\n\r\nnope")) as (_, endpoint):
        response = await endpoint.send(request())
        assert (response.status, await response.read(100)) == (502, b"nope")
        response.close()


# --- addresses


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "https", "ftp"])
async def test_proxy_is_refused_when_its_scheme_is_another(scheme: str) -> None:
    """With advice, and without the password."""
    with pytest.raises(ValueError, match=r"must begin with http:// .*socks.*not supported.*proxy = \"none\"") as caught:
        Endpoint("https://u.test", source="fake", proxy=Secret(f"{scheme}://us:secret@p.test:1080"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://us:secret@", "http://us:secret@p.test:port", "http://p.test/secret", "http://[secret"]
)
async def test_proxy_is_refused_when_its_address_is_none(url: str) -> None:
    """Nothing of it is shown: any part may be a password in the wrong place."""
    with pytest.raises(ValueError, match="expected http://host:port") as caught:
        Endpoint("https://u.test", source="fake", proxy=Secret(url))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_provider_is_named_when_its_proxy_cannot_be_used(tmp_path: Path) -> None:
    """The line an operator sees at the start."""
    config = ProviderConfig(kind="openai", base_url="https://u.test/v1", proxy=Secret("socks5://us:secret@p.test"))
    with pytest.raises(ValueError, match=r"^providers\.mine: the proxy's address must begin with http://") as caught:
        OpenAICompat("mine", config, Site(state_dir=tmp_path))
    assert "secret" not in str(caught.value)


# --- certificates


@asynccontextmanager
async def provider(upstream: FakeUpstream, ca_file: str, proxy: str, site: Path) -> AsyncGenerator[OpenAICompat]:
    secret = Secret(proxy) if proxy else None
    config = ProviderConfig(kind="openai", base_url=f"{upstream.base_url}/v1", ca_file=ca_file, proxy=secret)
    built = OpenAICompat("mine", config, Site(state_dir=site))
    try:
        yield built
    finally:
        await built.aclose()


@pytest.mark.parametrize("through", [False, True], ids=["direct", "through a proxy"])
async def test_certificate_is_accepted_when_ca_file_holds_its_issuer(pki: Pki, through: bool, tmp_path: Path) -> None:
    """A company's own authority, direct and in a tunnel."""
    async with FakeProxy() as proxy, FakeUpstream(ssl_context=serving(pki.localhost)) as upstream:
        async with provider(upstream, str(pki.authority), proxy.url() if through else "", tmp_path) as mine:
            assert [offer.name for offer in await mine.catalogue()] == ["fake"]
        assert len(proxy.heads) == through


@pytest.mark.parametrize("through", [False, True], ids=["direct", "through a proxy"])
async def test_refusal_says_to_set_ca_file_when_the_issuer_is_unknown(pki: Pki, through: bool, tmp_path: Path) -> None:
    """The system's certificates do not know our authority."""
    async with FakeProxy() as proxy, FakeUpstream(ssl_context=serving(pki.localhost)) as upstream:
        async with provider(upstream, "", proxy.url() if through else "", tmp_path) as mine:
            with pytest.raises(
                UpstreamUnreachable, match=r"certificate is not accepted \(.*\); if it is right, set ca_file"
            ):
                await mine.catalogue()
        assert upstream.requests == []


@pytest.mark.parametrize("through", [False, True], ids=["direct", "through a proxy"])
async def test_certificate_of_another_host_is_refused_when_its_issuer_is_known(pki: Pki, through: bool) -> None:
    """The name is checked against the upstream's own, in a tunnel too; a file of certificates would not help."""
    trusting = ssl.create_default_context(cafile=str(pki.authority))
    async with FakeProxy() as proxy, FakeUpstream(ssl_context=serving(pki.localhost)) as upstream:
        url = Secret(proxy.url()) if through else None
        endpoint = Endpoint(f"https://127.0.0.1:{upstream.port}", source="fake", ssl_context=trusting, proxy=url)
        message = await unreachable(endpoint)
        assert "certificate is not accepted" in message
        assert "ca_file" not in message
        await endpoint.aclose()


async def test_only_the_file_is_trusted_when_ca_file_is_set(pki: Pki, tmp_path: Path) -> None:
    """Another authority's file does not let ours in."""
    async with (
        FakeUpstream(ssl_context=serving(pki.localhost)) as upstream,
        provider(upstream, str(pki.elsewhere), "", tmp_path) as mine,
    ):
        with pytest.raises(UpstreamUnreachable, match="certificate is not accepted"):
            await mine.catalogue()
