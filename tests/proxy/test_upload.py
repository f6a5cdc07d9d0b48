"""An upload that streams through: forwarded while it comes, sent again from its beginning, little held, everything freed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import tempfile
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, repeat
from pathlib import Path

import openai
import pytest

from gateway.errors import BodyTooLarge, CallerLeft, GatewayError, InvalidRequest, UploadNotKept, UploadTimedOut
from gateway.proxy.upload import MEMORY_BYTES, PIECE_BYTES, Upload
from providers.contract import Body, Request
from providers.transport import Endpoint
from tests.fakes.upstream import FakeUpstream

MIB = 1 << 20
LIMIT = 100 * MIB
TYPE = (b"content-type", b"multipart/form-data; boundary=xYz-1")
MODEL = b'--xYz-1\r\ncontent-disposition: form-data; name="model"\r\n\r\n'
FILE = b'--xYz-1\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
END = b"\r\n--xYz-1--\r\n"
PLAIN = MODEL + b"ours\r\n" + FILE + b"RIFF" + END


class Sender:
    """A caller: what it has said so far, in ASGI's messages."""

    def __init__(self) -> None:
        self.asked = 0
        self._messages: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def receive(self) -> object:
        """ASGI's."""
        self.asked += 1
        return await self._messages.get()

    def send(self, *pieces: bytes, more: bool = True) -> None:
        """Each as a message; with `more=False` the last is the last."""
        for place, piece in enumerate(pieces, 1):
            message: dict[str, object] = {
                "type": "http.request",
                "body": piece,
                "more_body": more or place < len(pieces),
            }
            self._messages.put_nowait(message)

    def leave(self) -> None:
        """Close the connection."""
        self._messages.put_nowait({"type": "http.disconnect"})


def opened(
    sender: Sender, declared: int | None = None, limit_bytes: int = LIMIT, silence_s: float | None = 5.0
) -> Upload:
    """An upload, not yet entered."""
    headers = [TYPE] if declared is None else [TYPE, (b"content-length", b"%d" % declared)]
    return Upload(sender.receive, headers, limit_bytes=limit_bytes, silence_s=silence_s)


async def whole(body: Body) -> bytes:
    """All its pieces."""
    return b"".join([piece async for piece in body.pieces()])


async def turns(count: int = 10) -> None:
    """Let everything that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def deleted_files() -> list[str]:
    """Files of this process that have no name any more."""
    names: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except OSError:
            continue  # the folder's own number, closed by now
    return [name for name in names if name.startswith(tempfile.gettempdir()) and "(deleted)" in name]


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Generator[None]:
    """A folder of each test's own for temporary files; no test leaves one open."""
    before, tempfile.tempdir = tempfile.gettempdir(), str(tmp_path)
    yield
    left = deleted_files()
    tempfile.tempdir = before
    assert left == []


# --- the way through


async def test_fields_are_there_while_the_file_still_comes() -> None:
    """And what has come is handed on, piece after piece, as it comes."""
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE)
        fields = await upload.fields()
        assert (fields.model, fields.stream) == ("ours", False)
        pieces = aiter(upload.body().pieces())
        assert await anext(pieces) == MODEL + b"ours\r\n" + FILE
        for piece in (b"one", b"two"):
            waiting = asyncio.ensure_future(anext(pieces))
            await turns()
            assert not waiting.done()
            sender.send(piece)
            assert await waiting == piece
        sender.send(END, more=False)
        assert await anext(pieces) == END
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", [None, "ours", "a-longer/name:größe", "x"])
async def test_model_is_replaced_and_nothing_else(name: str | None, size: int) -> None:
    """The announced length follows; again and again from the beginning."""
    sender = Sender()
    async with opened(sender, declared=len(PLAIN)) as upload:
        sender.send(*(PLAIN[at : at + size] for at in range(0, len(PLAIN), size)), more=False)
        await upload.fields()
        expected = PLAIN.replace(b"ours", (name or "ours").encode())
        body = upload.body(name)
        assert body.length == len(expected)
        for _ in range(2):
            assert await whole(body) == expected
        assert upload.body("other").length == len(PLAIN) + 1
        assert await whole(upload.body("other")) == PLAIN.replace(b"ours", b"other")


async def test_body_has_no_length_when_the_caller_says_none_and_no_name_with_a_line_break() -> None:
    """Then it goes out in chunks; such a name could end the field and begin another."""
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(PLAIN, more=False)
        await upload.fields()
        assert upload.body("x").length is None
        with pytest.raises(ValueError, match="line break"):
            upload.body("a\r\nb")


async def test_upload_waits_for_its_end_when_the_model_comes_after_the_file() -> None:
    """3 MB before the model: kept, then sent from the first byte."""
    sender = Sender()
    data = bytes(range(256)) * 4096 * 3
    async with opened(sender) as upload:
        asked = asyncio.ensure_future(upload.fields())
        sender.send(FILE, *(data[at : at + 50_000] for at in range(0, len(data), 50_000)))
        await turns(1000)
        assert not asked.done()
        sender.send(b"\r\n" + MODEL + b"ours" + END, more=False)
        assert (await asked).model == "ours"
        assert await whole(upload.body("theirs")) == FILE + data + b"\r\n" + MODEL + b"theirs" + END


async def test_what_openai_python_sends_passes() -> None:
    """Its own bytes, on the way to a target whose name differs."""
    sender = Sender()
    async with FakeUpstream() as origin, openai.AsyncOpenAI(base_url=origin.base_url, api_key="k") as client:
        origin.queue(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"text": "h"}')
        await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF"), language="de")
        sent = origin.requests[-1]
    headers = [(b"content-type", (sent.header("content-type") or "").encode())]
    async with Upload(sender.receive, headers, limit_bytes=LIMIT) as upload:
        sender.send(sent.body, more=False)
        assert (await upload.fields()).model == "whisper-1"
        assert await whole(upload.body("large")) == sent.body.replace(b"whisper-1", b"large")


# --- what is held


async def test_little_is_held_when_much_passes_through() -> None:
    """64 MiB, forwarded while they come and once more from the file: what is read is what was sent, memory stays small."""
    said = hashlib.sha256()
    filler = os.urandom(65_000)
    parts = chain([MODEL + b"ours\r\n" + FILE], repeat(filler, 1000), [END])

    async def receive() -> object:
        piece = next(parts, None)
        if piece is None:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        said.update(piece or b"")
        return {"type": "http.request", "body": piece, "more_body": piece != END}

    tracemalloc.start()
    try:
        async with Upload(receive, [TYPE], limit_bytes=LIMIT) as upload:
            await upload.fields()
            for _ in range(2):
                heard = hashlib.sha256()
                async for piece in upload.body().pieces():
                    assert len(piece) <= PIECE_BYTES
                    heard.update(piece)
                    await asyncio.sleep(0)
                assert heard.digest() == said.digest()
                assert len(deleted_files()) == 1
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


async def test_no_file_is_made_for_what_fits_in_memory() -> None:
    """Most recordings are small."""
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE, bytes(MEMORY_BYTES), END, more=False)
        await upload.arrived()
        assert len(await whole(upload.body())) == len(MODEL + FILE + END) + 6 + MEMORY_BYTES
        assert deleted_files() == []


async def test_body_begins_again_while_the_upload_still_comes() -> None:
    """A second target reads from the file and then follows the first's end, both at once."""
    sender = Sender()
    data = os.urandom(5 * MIB)
    async with opened(sender) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE, data[: 4 * MIB])
        await upload.fields()
        first = aiter(upload.body("a").pieces())
        begun = b"".join([await anext(first) for _ in range(8)])
        second = asyncio.ensure_future(whole(upload.body("b")))
        await turns()
        sender.send(data[4 * MIB :], END, more=False)
        rest = b"".join([piece async for piece in first])
        expected = MODEL + b"a\r\n" + FILE + data + END
        assert begun + rest == expected
        assert await second == expected.replace(b"\r\n\r\na\r\n", b"\r\n\r\nb\r\n", 1)


# --- refusals


@pytest.mark.parametrize(
    ("headers", "error", "word"),
    [
        ([], InvalidRequest, "multipart/form-data"),
        ([(b"content-type", b"application/json")], InvalidRequest, "multipart/form-data"),
        ([TYPE, TYPE], InvalidRequest, "twice"),
        ([TYPE, (b"content-length", b"1001")], BodyTooLarge, "1000 bytes .server.max_upload_bytes"),
    ],
)
async def test_upload_is_refused_by_its_head_before_anything_is_asked_for(
    headers: list[tuple[bytes, bytes]], error: type[GatewayError], word: str
) -> None:
    """So that no `100 Continue` is sent for it."""
    sender = Sender()
    with pytest.raises(error, match=word):
        Upload(sender.receive, headers, limit_bytes=1000)
    assert sender.asked == 0


async def test_upload_is_refused_when_it_grows_too_large() -> None:
    """Whoever waits hears of it; the caller's leaving is noticed after that too."""
    sender = Sender()
    async with opened(sender, limit_bytes=1000) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE)
        await upload.fields()
        waiting = asyncio.ensure_future(whole(upload.body()))
        await turns()
        sender.send(bytes(1000), bytes(1000))
        with pytest.raises(BodyTooLarge, match="1000 bytes"):
            await waiting
        with pytest.raises(BodyTooLarge):
            await upload.fields()
        sender.leave()
        assert await upload.leaving() == {"type": "http.disconnect"}


async def test_limit_itself_is_allowed() -> None:
    """And no byte more."""
    for limit, fits in ((len(PLAIN), True), (len(PLAIN) - 1, False)):
        sender = Sender()
        async with opened(sender, limit_bytes=limit) as upload:
            sender.send(PLAIN[:50], PLAIN[50:], more=False)
            if fits:
                await upload.fields()
                assert await whole(upload.body()) == PLAIN
            else:
                with pytest.raises(BodyTooLarge):
                    await upload.fields()


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("tail", [b"\r\n" + MODEL + b"theirs" + END, b"\r\n--xYz-1--x", b"", b"\n" + END[2:]])
async def test_form_that_turns_out_wrong_is_never_handed_on_whole(tail: bytes, declared: bool) -> None:
    """A second model, garbage, no end: after the head was forwarded; the last byte is not."""
    sender = Sender()
    begin = MODEL + b"ours\r\n" + FILE + b"RIFF"
    async with opened(sender, declared=len(begin + tail) if declared else None) as upload:
        sender.send(begin)
        await upload.fields()
        came = b""

        async def take() -> None:
            nonlocal came
            async for piece in upload.body().pieces():
                came += piece

        taking = asyncio.ensure_future(take())
        await turns()
        sender.send(tail, more=False)
        with pytest.raises(InvalidRequest):
            await taking
        assert begin.startswith(came)
        if declared:
            assert len(came) < len(begin + tail)


async def test_upload_is_refused_when_it_is_shorter_than_announced() -> None:
    """A server that lets this through must not make us send half a request."""
    sender = Sender()
    async with opened(sender, declared=len(PLAIN) + 1) as upload:
        sender.send(PLAIN, more=False)
        with pytest.raises(InvalidRequest, match="content-length"):
            await upload.fields()


async def test_upload_times_out_when_nothing_more_comes() -> None:
    """The limit is on silence, and over when the upload is complete."""
    sender = Sender()
    async with opened(sender, silence_s=0.05) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE)
        await upload.fields()
        with pytest.raises(UploadTimedOut, match=r"0\.05 s"):
            await whole(upload.body())
        sender.leave()
        await upload.leaving()
    sender = Sender()
    async with opened(sender, silence_s=0.05) as upload:
        sender.send(PLAIN, more=False)
        await upload.arrived()
        await asyncio.wait([asyncio.ensure_future(upload.leaving())], timeout=0.1)
        assert await whole(upload.body()) == PLAIN


# --- the caller leaves


async def test_leaving_ends_whoever_waits() -> None:
    """For the fields, for a piece, for the leaving itself."""
    sender = Sender()
    async with opened(sender) as upload:
        asked = asyncio.ensure_future(upload.fields())
        gone = asyncio.ensure_future(upload.leaving())
        await turns()
        sender.leave()
        with pytest.raises(CallerLeft):
            await asked
        await gone
        await upload.arrived()
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE)
        await upload.fields()
        waiting = asyncio.ensure_future(whole(upload.body()))
        await turns()
        sender.leave()
        with pytest.raises(CallerLeft):
            await waiting


async def test_leaving_is_noticed_after_the_upload_is_complete() -> None:
    """While its model loads, say; nobody else reads from the caller."""
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(PLAIN, more=False)
        await upload.arrived()
        gone = asyncio.ensure_future(upload.leaving())
        await turns()
        assert not gone.done()
        sender.leave()
        await gone


# --- the disk


@contextmanager
def file_limit(limit_bytes: int) -> Generator[None]:
    """No file of this process may grow beyond it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_folder(_: int) -> Generator[None]:
    """Temporary files have no place."""
    before, tempfile.tempdir = tempfile.gettempdir(), "/nowhere/at/all"
    try:
        yield
    finally:
        tempfile.tempdir = before


@pytest.mark.parametrize(("trouble", "why"), [(file_limit, "File too large"), (no_folder, "No such file")])
async def test_upload_fails_clearly_when_the_disk_does_not_take_it(
    trouble: Callable[[int], AbstractContextManager[None]], why: str
) -> None:
    """The message is for the operator; those who follow hear of it; nothing is left."""
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE)
        await upload.fields()
        waiting = asyncio.ensure_future(whole(upload.body()))
        with trouble(MIB):
            sender.send(*[bytes(100_000)] * 40)
            with pytest.raises(UploadNotKept, match=f"{why}.*TMPDIR"):
                await waiting
        sender.leave()
        await upload.leaving()


# --- the end


async def test_close_frees_everything_at_any_moment() -> None:
    """Cancelled after every number of turns, with a file being written and read: no task, no file, nobody waiting."""
    others = asyncio.all_tasks()
    for count in range(0, 60, 3):
        sender = Sender()
        sender.send(MODEL + b"ours\r\n" + FILE, *[bytes(100_000)] * 30)

        async def use(sender: Sender = sender) -> None:
            async with opened(sender) as upload:
                await upload.fields()
                await asyncio.gather(whole(upload.body()), whole(upload.body("x")))

        using = asyncio.ensure_future(use())
        await turns(count)
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        await turns(2)
        assert asyncio.all_tasks() == others
        assert deleted_files() == []


async def test_body_raises_when_the_upload_is_closed() -> None:
    """Nobody waits for ever for what will not come."""
    sender = Sender()
    async with opened(sender) as upload:
        sender.send(MODEL + b"ours\r\n" + FILE)
        await upload.fields()
        waiting = asyncio.ensure_future(whole(upload.body()))
        await turns()
    with pytest.raises(CallerLeft, match="closed"):
        await waiting
    await upload.close()


# --- with the transport


async def test_upload_reaches_a_second_target_when_the_first_refuses_early() -> None:
    """The fallback: 8 MiB, half of it here when the first says no; the second gets every byte, with its own model's name."""
    sender = Sender()
    data = os.urandom(8 * MIB)
    form = MODEL + b"ours\r\n" + FILE + data + END
    async with FakeUpstream() as upstream:
        endpoint = Endpoint(upstream.base_url, source="fake")
        upstream.queue(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", early=True)
        upstream.queue(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        async with opened(sender, declared=len(form)) as upload:
            sender.send(*(form[at : at + 60_000] for at in range(0, 4 * MIB, 60_000)))
            await upload.fields()

            async def ask(model: str) -> int:
                request = Request(method=b"POST", path=b"/v1/x", headers=[TYPE], body=upload.body(model))
                response = await endpoint.send(request)
                response.close()
                return response.status

            assert await ask("first") == 401
            sent = -(-4 * MIB // 60_000) * 60_000
            sender.send(*(form[at : at + 60_000] for at in range(sent, len(form), 60_000)), more=False)
            assert await ask("the-second") == 200
        assert upstream.requests[-1].body == form.replace(b"ours", b"the-second", 1)
        assert upstream.requests[-1].header("content-length") == str(len(form) + 6)
        await endpoint.aclose()
