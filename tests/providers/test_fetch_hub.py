"""Weights of a model hub: what is asked for, what is believed, going on after every kind of interruption, and clear refusals."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from providers.fetch import FetchError, Progress, fetch_source
from providers.fetch_hub import fetch_hub_file
from providers.sources import HubFile, parse_source
from tests.fakes.certificates import self_signed
from tests.fakes.hub import FakeHub, Kept
from tests.fakes.upstream import Exchange, FakeUpstream

CONTENT = b"GGUF" + os.urandom(5 << 19)  # two chunks and a half
KEY = "org/tiny@main/q4/tiny.gguf"
SOURCE = "hf:org/tiny/q4/tiny.gguf"
FILE = HubFile(org="org", repo="tiny", file="q4/tiny.gguf")
TARGET = "org--tiny/q4/tiny.gguf"
COMPLETE = {TARGET, f"{TARGET}.sha256"}
NOTHING: dict[str, str] = {}
WORK = ".fetch/org--tiny/q4%2Ftiny.gguf"


@pytest.fixture
async def hub() -> AsyncGenerator[FakeHub]:
    """One repository with one file."""
    async with FakeHub({KEY: Kept(CONTENT)}) as started:
        yield started


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder that is not there yet."""
    return tmp_path / "models"


def left(models: Path) -> set[str]:
    """Every file below the models folder but the locks."""
    return {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file() and path.name != "lock"}


def only(stages: list[str]) -> Progress:
    """Notes the stages, not the sizes."""

    def tell(stage: str, _done: int, _total: int) -> None:
        stages.append(stage)

    return tell


# the whole way


async def test_file_is_fetched_and_verified(hub: FakeHub, models: Path) -> None:
    """By the hub's own checksum; only the file and its note are left, and a second time nobody is asked."""
    told: list[tuple[str, int, int]] = []
    path = await fetch_source(SOURCE, models, lambda stage, done, total: told.append((stage, done, total)), hub.environ)
    assert path == models / TARGET
    assert path.read_bytes() == CONTENT
    assert left(models) == COMPLETE
    assert (models / f"{TARGET}.sha256").read_text() == f"{hub.files[KEY].sha256}  tiny.gguf\n"
    assert told[-1] == ("done", len(CONTENT), len(CONTENT))
    assert {stage for stage, _, _ in told} == {"download", "done"}
    downloaded = [done for stage, done, _ in told if stage == "download"]
    assert downloaded == sorted(downloaded)
    assert downloaded[-1] == len(CONTENT)
    assert await fetch_source(SOURCE, models, None, hub.environ) == path
    assert len(hub.host.requests) == 1
    assert hub.host.requests[0].header("accept-encoding") == "identity"


async def test_revision_is_asked_for_encoded_and_has_its_own_place(hub: FakeHub, models: Path) -> None:
    """A branch's slash must not become a part of the path; two revisions never share a file."""
    hub.files["org/tiny@refs/pr/1/q4/tiny.gguf"] = Kept(b"GGUF of a pull request")
    path = await fetch_source(f"{SOURCE}@refs/pr/1", models, None, hub.environ)
    assert hub.host.requests[-1].path == "/org/tiny/resolve/refs%2Fpr%2F1/q4/tiny.gguf"
    assert path == models / "org--tiny@refs%2Fpr%2F1" / "q4" / "tiny.gguf"
    assert path != await fetch_source(SOURCE, models, None, hub.environ)


async def test_all_parts_are_fetched_when_the_first_is_named(hub: FakeHub, models: Path) -> None:
    """Each with its own checksum and its own stage."""
    for number in (1, 2, 3):
        hub.files[f"org/big@main/big-0000{number}-of-00003.gguf"] = Kept(b"GGUF" + bytes([number]) * 100)
    stages: list[str] = []
    path = await fetch_source("hf:org/big/big-00001-of-00003.gguf", models, only(stages), hub.environ)
    assert path == models / "org--big" / "big-00001-of-00003.gguf"
    assert [(path.parent / f"big-0000{n}-of-00003.gguf").read_bytes()[-1] for n in (1, 2, 3)] == [1, 2, 3]
    assert [stage for stage in stages if stage != "done"] == ["download 1/3", "download 2/3", "download 3/3"]


@pytest.mark.parametrize("name", ["big-00002-of-00003.gguf", "big-00001-of-99999.gguf"])
async def test_another_part_than_the_first_is_refused(hub: FakeHub, models: Path, name: str) -> None:
    """Nobody could load it; and nobody asks for a hundred thousand files."""
    with pytest.raises(FetchError, match="name the first, with -00001-of-"):
        await fetch_source(f"hf:org/big/{name}", models, None, hub.environ)
    assert hub.host.requests == []


async def test_token_goes_to_the_hub_only(hub: FakeHub, models: Path) -> None:
    """Not to the host it leads to, which belongs to somebody else."""
    hub.token = "hf_sesame"
    await fetch_source(SOURCE, models, None, hub.environ)
    assert [request.header("authorization") for request in hub.host.requests] == ["Bearer hf_sesame"]
    assert [request.header("authorization") for request in hub.store.requests] == [None]


async def test_small_file_comes_from_the_hub_itself_and_is_said_to_be_unverified(hub: FakeHub, models: Path) -> None:
    """Not in LFS: its ETag is no checksum of the file; its size was checked."""
    hub.files[KEY].large = False
    stages: list[str] = []
    path = await fetch_source(SOURCE, models, only(stages), hub.environ)
    assert path.read_bytes() == CONTENT
    assert stages[-2:] == ["unverified", "done"]


async def test_pinned_checksum_is_held_where_the_hub_says_none(hub: FakeHub, models: Path) -> None:
    """The operator's word is enough."""
    hub.files[KEY].linked_sha256 = ""
    stages: list[str] = []
    pinned = f"{SOURCE}#sha256={hub.files[KEY].sha256.upper()}"
    await fetch_source(pinned, models, only(stages), hub.environ)
    assert "unverified" not in stages


# going on


async def test_fetch_goes_on_by_itself_when_the_connection_is_cut(hub: FakeHub, models: Path) -> None:
    """As long as each answer brings something; the rest is asked for with the validator of the first."""
    hub.cut_after = [1 << 20, 1 << 19]
    path = await fetch_source(SOURCE, models, None, hub.environ)
    assert path.read_bytes() == CONTENT
    first, second, third = hub.ranges_asked()
    assert first is None
    assert second is not None
    assert third is not None
    assert second != third
    assert hub.store.requests[1].header("if-range") == hub.files[KEY].validator


async def cancelled_after(hub: FakeHub, models: Path, held: int) -> None:
    """A fetch that was given up when so many bytes had come."""
    hub.hold_after = held
    came = asyncio.Event()

    def tell(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("download", held):
            came.set()

    fetching = asyncio.create_task(fetch_source(SOURCE, models, tell, hub.environ))
    async with asyncio.timeout(10):
        await came.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    hub.hold_after = None


async def test_fetch_goes_on_where_a_cancelled_one_was(hub: FakeHub, models: Path) -> None:
    """What had come is kept, its connections are closed, and only the rest is asked for."""
    await cancelled_after(hub, models, 700_000)
    await hub.store.until(lambda: hub.store.open_connections + hub.host.open_connections == 0)
    assert left(models) == {f"{WORK}/part", f"{WORK}/part.json"}
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == CONTENT
    assert hub.ranges_asked() == [None, "bytes=700000-"]
    assert left(models) == COMPLETE


async def test_fetch_begins_anew_when_ranges_are_not_known(hub: FakeHub, models: Path) -> None:
    """A whole answer to a request for the rest replaces what was kept."""
    await cancelled_after(hub, models, 700_000)
    hub.ranges = False
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
async def test_fetch_begins_anew_when_the_file_has_changed(hub: FakeHub, models: Path, if_range: bool) -> None:
    """Two halves of two files are never put together, whoever notices it."""
    await cancelled_after(hub, models, 700_000)
    hub.if_range = if_range
    hub.files[KEY].content = other = b"GGUF" + os.urandom(len(CONTENT) - 4)
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == other


async def test_fetch_begins_anew_when_the_file_has_become_smaller(hub: FakeHub, models: Path) -> None:
    """416: no such range."""
    await cancelled_after(hub, models, 700_000)
    hub.if_range = False
    hub.files[KEY].content = other = b"GGUF" + os.urandom(1000)
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == other
    assert hub.ranges_asked()[1:] == ["bytes=700000-", None]


@pytest.mark.parametrize("damage", ["no mark", "a broken mark", "too much", "nothing", "another checksum"])
async def test_fetch_begins_anew_when_what_was_kept_is_of_no_use(hub: FakeHub, models: Path, damage: str) -> None:
    """Whatever lies there."""
    await cancelled_after(hub, models, 700_000)
    part, note = models / WORK / "part", models / WORK / "part.json"
    source = SOURCE
    if damage == "no mark":
        note.unlink()
    elif damage == "a broken mark":
        note.write_text("{")
    elif damage == "too much":
        part.write_bytes(CONTENT + b"x")
    elif damage == "nothing":
        part.write_bytes(b"")
    else:
        hub.files[KEY].linked_sha256 = ""
        note.write_text(note.read_text().replace(hub.files[KEY].sha256, "0" * 64))
        source = f"{SOURCE}#sha256={hub.files[KEY].sha256}"
    assert (await fetch_source(source, models, None, hub.environ)).read_bytes() == CONTENT
    assert hub.ranges_asked() == [None, None]


async def test_whole_part_is_not_asked_for_again(hub: FakeHub, models: Path) -> None:
    """An earlier fetch was ended between the last byte and the renaming."""
    await cancelled_after(hub, models, 700_000)
    (models / WORK / "part").write_bytes(CONTENT)
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == CONTENT
    assert len(hub.host.requests) == 1


async def test_one_fetches_when_several_ask_at_once(hub: FakeHub, models: Path) -> None:
    """The others wait for it, and find the file."""
    paths = await asyncio.gather(*(fetch_source(SOURCE, models, None, hub.environ) for _ in range(3)))
    assert set(paths) == {models / TARGET}
    assert len(hub.store.requests) == 1


# what is not believed


async def test_fetch_refuses_when_the_checksum_is_wrong(hub: FakeHub, models: Path) -> None:
    """Nothing of it stays, so that the next fetch starts anew."""
    hub.files[KEY].linked_sha256 = "0" * 64
    with pytest.raises(FetchError, match=r"hf:org/tiny/q4/tiny\.gguf has the wrong checksum and was removed"):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert left(models) == set()


async def test_fetch_refuses_before_it_downloads_when_the_hub_has_another_checksum(hub: FakeHub, models: Path) -> None:
    """A pinned source whose branch has moved on."""
    with pytest.raises(FetchError, match=r"another checksum at .* than the source says"):
        await fetch_source(f"{SOURCE}#sha256={'0' * 64}", models, None, hub.environ)
    assert left(models) == set()


async def test_fetch_refuses_a_web_page(hub: FakeHub, models: Path) -> None:
    """A login page of some network in between, with status 200."""
    hub.files[KEY].large = False
    hub.files[KEY].content = b"<!doctype html><title>Log in</title>"
    with pytest.raises(FetchError, match="is a web page and no GGUF file"):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert left(models) == set()


@pytest.mark.parametrize(
    ("kept", "sized", "message"),
    [
        (Kept(CONTENT, linked_size=12), True, "says that .* has 12 bytes, and .* sends one of"),
        (Kept(b"PK" + CONTENT), True, "is something else and no GGUF file"),
        (Kept(b"", large=False), True, "is empty"),
        (Kept(CONTENT, large=False), False, "does not say how large"),
        (Kept(CONTENT, linked_size=1000), False, "sends more than the 1000 bytes"),
        (Kept(CONTENT[:1000], linked_size=2000), False, "sends another .* every time"),
    ],
)
async def test_fetch_refuses_what_cannot_be_right(
    hub: FakeHub, models: Path, kept: Kept, sized: bool, message: str
) -> None:
    """Sizes that disagree, other files, endless and short ones."""
    hub.files[KEY] = kept
    hub.sized = sized
    with pytest.raises(FetchError, match=message):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert not (models / TARGET).exists()


async def test_checksum_of_another_host_counts_for_nothing(hub: FakeHub, models: Path) -> None:
    """Only the hub's own answers vouch for a file."""
    hub.files[KEY].linked_sha256 = ""
    hub.store_claims = True
    stages: list[str] = []
    await fetch_source(SOURCE, models, only(stages), hub.environ)
    assert "unverified" in stages


# who says no


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, {"x-error-code": "GatedRepo"}), "org/tiny is gated: accept its licence .* and set HF_TOKEN"),
        ((403, {"x-error-code": "GatedRepo"}), "org/tiny is gated: accept its licence .* and set HF_TOKEN"),
        ((401, {"x-error-code": "RepoNotFound"}), "does not show org/tiny to everybody .* set HF_TOKEN"),
        (
            (404, {"x-error-code": "RepoNotFound"}),
            "there is no repository org/tiny at .*; for a private one set HF_TOKEN",
        ),
        ((404, {"x-error-code": "RevisionNotFound"}), "org/tiny has no revision 'main'"),
        ((404, {"x-error-code": "EntryNotFound"}), r"org/tiny has no file 'q4/tiny\.gguf' in revision 'main'"),
        ((404, NOTHING), r"has no file 'q4/tiny\.gguf' of org/tiny"),
        ((429, {"retry-after": "30"}), r"asks us to wait 30 s \(status 429\)"),
        ((503, NOTHING), "answered with status 503: run it again"),
        ((302, {"location": "ftp://elsewhere/x"}), "leads nowhere: is HF_ENDPOINT right"),
        ((206, {"content-range": "bytes 5-9/10"}), "sends another hf:org/tiny/.* every time"),
        ((200, {"content-encoding": "gzip"}), "compressed"),
    ],
)
async def test_refusal_says_what_to_do(
    hub: FakeHub, models: Path, refusal: tuple[int, dict[str, str]], message: str
) -> None:
    """One sentence for each."""
    hub.refusal = refusal
    with pytest.raises(FetchError, match=message):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert left(models) == set()


async def test_token_that_may_not_read_is_said_to_be_one_and_not_shown(hub: FakeHub, models: Path) -> None:
    """Wrong, or without the right."""
    hub.refusal = (403, NOTHING)
    with pytest.raises(FetchError, match="does not let HF_TOKEN read org/tiny") as caught:
        await fetch_source(SOURCE, models, None, {**hub.environ, "HF_TOKEN": "hf_sesame"})
    assert "sesame" not in caught.value.message + caught.value.detail


async def test_refusal_of_the_other_host_is_told_as_its_own(hub: FakeHub, models: Path) -> None:
    """A signed address has run out; its signature is not shown."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(403, b"<Error>")

    hub.store.script(refuse)
    with pytest.raises(FetchError, match=r"to which .* leads, answered with status 403") as caught:
        await fetch_source(SOURCE, models, None, hub.environ)
    assert "signature" not in caught.value.message


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HF_ENDPOINT": "hub.example"}, "HF_ENDPOINT is no address"),
        ({"HF_ENDPOINT": "https://user:sesame@hub.example"}, "HF_ENDPOINT is no address"),
        ({"HF_ENDPOINT": "http://hub.example:99999"}, "HF_ENDPOINT is no address"),
        ({"HF_TOKEN": "sesame\nopen"}, "HF_TOKEN holds characters that no token has"),
    ],
)
async def test_unusable_environment_is_named(models: Path, environ: dict[str, str], message: str) -> None:
    """And what stands in it is not shown."""
    with pytest.raises(FetchError, match=message) as caught:
        await fetch_source(SOURCE, models, None, environ)
    assert "sesame" not in caught.value.message


# no connection, no end, no room


async def test_dead_hub_is_said_to_be_unreachable(models: Path, dead_port: int) -> None:
    """With what to look at."""
    with pytest.raises(FetchError, match=r"no connection to 127\.0\.0\.1: check this machine's connection"):
        await fetch_source(SOURCE, models, None, {"HF_ENDPOINT": f"http://127.0.0.1:{dead_port}"})


async def test_foreign_certificate_is_named(tmp_path: Path, models: Path) -> None:
    """With the variable that names another authority."""
    async with FakeUpstream(ssl_context=self_signed(tmp_path)) as upstream:
        with pytest.raises(FetchError, match="the certificate of localhost is not accepted: set SSL_CERT_FILE"):
            await fetch_source(SOURCE, models, None, {"HF_ENDPOINT": upstream.base_url})


async def test_silent_host_is_given_up(hub: FakeHub, models: Path) -> None:
    """What had come is kept."""
    hub.hold_after = 1000
    file = parse_source(SOURCE)
    assert file == FILE
    with pytest.raises(FetchError, match=r"has sent nothing for 0\.2 s: run it again, it goes on where it was"):
        await fetch_hub_file(FILE, models, None, hub.environ, 0.2)
    assert (models / WORK / "part").read_bytes() == CONTENT[:1000]


async def test_hub_that_cuts_every_connection_is_given_up(hub: FakeHub, models: Path) -> None:
    """An answer that brings nothing new ends it; what had come is kept."""
    hub.cut_after = [1000, 0]
    with pytest.raises(FetchError, match="broke off before the file was whole: run it again, it goes on"):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert len(hub.store.requests) == 2
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == CONTENT


async def test_hub_that_is_no_http_server_is_said_to_break_off(models: Path) -> None:
    """Something else listens at that address."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchError, match="broke off"):
            await fetch_source(SOURCE, models, None, {"HF_ENDPOINT": f"http://127.0.0.1:{port}"})


async def test_fetch_refuses_before_it_downloads_when_there_is_no_room(hub: FakeHub, models: Path) -> None:
    """A file larger than any disk."""
    hub.files[KEY] = Kept(CONTENT, linked_size=10**17)
    hub.sized = False
    with pytest.raises(FetchError, match=r"disk of the models folder is full: make room, or set server\.models_dir"):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert left(models) == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_fetch_says_so_when_the_disk_becomes_full(hub: FakeHub, models: Path) -> None:
    """While it writes; the next fetch, with room, ends well."""
    work = models / WORK
    work.mkdir(parents=True)

    async def fill(exchange: Exchange) -> None:
        (work / "part").symlink_to("/dev/full")
        hub.store.script(hub.serve)
        await hub.serve(exchange)

    hub.store.script(fill)
    with pytest.raises(FetchError, match="disk of the models folder is full"):
        await fetch_source(SOURCE, models, None, hub.environ)
    assert not (models / TARGET).exists()
    assert (await fetch_source(SOURCE, models, None, hub.environ)).read_bytes() == CONTENT


async def test_folder_that_cannot_be_made_is_told(hub: FakeHub, tmp_path: Path) -> None:
    """A file where the models folder should be."""
    (tmp_path / "models").touch()
    with pytest.raises(FetchError, match=r"models folder cannot be used .*set server\.models_dir"):
        await fetch_source(SOURCE, tmp_path / "models" / "below", None, hub.environ)
