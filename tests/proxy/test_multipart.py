"""The form that is looked at while it passes by: the same fields however it is cut, nothing that two readers read differently."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email import message_from_bytes
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.proxy.multipart import HEADER_MAX_BYTES, PARTS_MAX, VALUE_MAX_BYTES, Scanner, boundary_of

B = b"xYz-1"
MODEL = b'content-disposition: form-data; name="model"'
FILE = b'content-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav'

Seen = tuple[str | None, int, int, bool | None] | str


def form(*parts: tuple[bytes, bytes], boundary: bytes = B) -> bytes:
    """Parts: header fields, data."""
    written = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, header, data) for header, data in parts]
    return b"".join(written) + b"--%b--\r\n" % boundary


def field(name: str, value: bytes) -> tuple[bytes, bytes]:
    """A plain field."""
    return b'Content-Disposition: form-data; name="%b"' % name.encode(), value


def scanned(pieces: Iterable[bytes], boundary: bytes = B) -> Scanner:
    """After the whole form."""
    scanner = Scanner(boundary)
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()
    return scanner


def seen(pieces: Iterable[bytes], boundary: bytes = B) -> Seen:
    """What was found, or the code of the refusal."""
    try:
        scanner = scanned(pieces, boundary)
    except InvalidRequest as error:
        return error.code
    return scanner.model, scanner.model_at, scanner.model_length, scanner.stream


def refused(body: bytes, boundary: bytes = B) -> InvalidRequest:
    """The error for a form that must not pass, however it is cut."""
    with pytest.raises(InvalidRequest) as caught:
        scanned([body], boundary)
    assert seen((body[at : at + 1] for at in range(len(body))), boundary) == caught.value.code
    return caught.value


PLAIN = form(field("model", b"whisper-1"), field("stream", b"true"), (FILE, b"\0\r\n--xYz\r\n-"))
FILE_FIRST = form((FILE, b"RIFF\r\n\r\n--" + bytes(100)), field("prompt", b""), field("model", "größe".encode()))


@pytest.mark.parametrize("body", [PLAIN, FILE_FIRST, b"a preamble\r\n" + PLAIN + b"\r\nan epilogue --xYz-1"])
def test_scanner_finds_the_same_when_the_form_is_cut_anywhere(body: bytes) -> None:
    """Every cut in two, and byte by byte."""
    whole = scanned([body])
    assert whole.model is not None
    value = body[whole.model_at : whole.model_at + whole.model_length]
    assert value == whole.model.encode()
    assert body[: whole.model_at].endswith(b'name="model"\r\n\r\n')
    expected = seen([body])
    assert all(seen([body[:at], body[at:]]) == expected for at in range(len(body) + 1))
    assert seen(body[at : at + 1] for at in range(len(body))) == expected
    assert seen(body[at : at + 7] for at in range(0, len(body), 7)) == expected


# --- forms as clients write them


def test_scanner_reads_what_httpx_writes() -> None:
    """And so what openai-python sends: fields first, then the file."""
    data: dict[str, Any] = {"model": "whisper-1", "language": "de", "stream": True}
    asked = httpx.Request("POST", "http://x/", data=data, files={"file": ('a"b\\.wav', bytes(999), "audio/wav")})
    body = asked.read()
    scanner = scanned([body], boundary_of(asked.headers["content-type"].encode()))
    assert (scanner.model, scanner.stream, scanner.settled) == ("whisper-1", True, True)
    assert body[scanner.model_at :].startswith(b"whisper-1\r\n--")


def test_scanner_reads_what_node_writes() -> None:
    """Bytes of undici's FormData (Node 20), in the order in which the caller appended them: the file first."""
    boundary = boundary_of(b"multipart/form-data; boundary=----formdata-undici-040450930079")
    body = form(
        (
            b'Content-Disposition: form-data; name="file"; filename="a %22b%22\\.wav"\r\nContent-Type: audio/wav',
            b"\0\r\n--\xff",
        ),
        field("model", b"whisper-1"),
        field("stream", b"true"),
        boundary=boundary,
    )
    assert seen([body], boundary) == ("whisper-1", body.index(b"whisper-1"), 9, True)


def test_scanner_reads_what_dotnet_and_curl_write() -> None:
    """Names without quotes, fields with a content type, a quoted boundary; a quote escaped in a file's name."""
    boundary = boundary_of(b'multipart/form-data; charset=utf-8; BOUNDARY="5c8-a b"')
    assert boundary == b"5c8-a b"
    plain = b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model"
    file = b"Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav"
    curl = b'Content-Disposition: form-data; name="mask"; filename="a\\"b.png"'
    body = form((file, b"1"), (curl, b"2"), (plain, b"m"), boundary=boundary)
    assert seen([body], boundary) == ("m", body.index(b"\r\n\r\nm\r\n") + 4, 1, None)


@pytest.mark.parametrize(
    "body",
    [
        form(field("model", b"m"))[:-2],  # no line's end after the closing boundary
        form(field("model", b"m"))[:-2] + b" \t",
        form(field("model", b"m"), (FILE, b"")),
        form(field("model", b"m")).replace(b"--xYz-1\r\n", b"--xYz-1 \t\r\n"),
        form(field("model", b"m"), (FILE, b"a --xYz-1\r\n x--xYz-1--")),  # in the middle of a line it is no boundary
        form(field("model", b"m"), (FILE, b"\r\r\n\r\n-\r\n--xYz-\r\n--xyz-1")),
        form(field("model", b"m"), field("model2", b"n"), field("Model", b"n")),
        form((MODEL + b"\r\ncontent-transfer-encoding: binary", b"m")),
        form((MODEL + b" ; ", b"m")),
    ],
)
def test_scanner_takes_what_the_standard_allows(body: bytes) -> None:
    """Padding, empty files, near misses of the boundary."""
    assert scanned([body]).model == "m"


@pytest.mark.parametrize(("value", "stream"), [(b"true", True), (b"True", True), (b"1", True), (b"false", False)])
def test_stream_is_read_as_servers_read_it(value: bytes, stream: bool) -> None:
    """A form knows no booleans; pydantic takes these."""
    assert scanned([form(field("stream", value), field("model", b"m"))]).stream is stream


# --- when it is settled


@pytest.mark.parametrize(
    ("parts", "settled_by"),
    [
        ((field("model", b"m"), (FILE, b"x"), field("stream", b"true")), b"audio/wav\r\n\r\n"),
        ((field("model", b"m"), field("stream", b"true"), (FILE, b"x")), b"true\r\n--xYz-1"),
        ((field("stream", b"true"), field("model", b"m"), (FILE, b"x")), b"\r\n\r\nm\r\n--xYz-1"),
        (((FILE, b"x"), field("model", b"m"), field("prompt", b"p")), b"--xYz-1--"),
    ],
)
def test_scanner_is_settled_as_soon_as_no_field_can_change_it(
    parts: tuple[tuple[bytes, bytes], ...], settled_by: bytes
) -> None:
    """At `stream`, at the first file after the model, or at the end; not a byte later."""
    body = form(*parts)
    end = body.index(settled_by) + len(settled_by)
    scanner = Scanner(B)
    scanner.feed(body[: end - 1])
    assert not scanner.settled
    scanner.feed(body[end - 1 : end])
    assert scanner.settled
    assert scanner.model == "m"


# --- refusals


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"application/json",
        b"multipart/mixed; boundary=a",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b"multipart/form-data; boundary=a; boundary=b",
        b'multipart/form-data; boundary="a\\"b"',
        b'multipart/form-data; boundary="a',
        b'multipart/form-data; boundary="a "',
        b"multipart/form-data; boundary=" + b"a" * 71,
        b"multipart/form-data; boundary=\xc3\xa4",
    ],
)
def test_content_type_is_refused_when_it_names_no_form(content_type: bytes | None) -> None:
    """The message says what is expected."""
    with pytest.raises(InvalidRequest, match="multipart/form-data") as caught:
        boundary_of(content_type)
    assert (caught.value.code, caught.value.param) == ("unsupported_content_type", "content-type")


def test_boundary_is_taken_when_it_is_as_long_as_may_be() -> None:
    """70 characters, any of RFC 2046's."""
    assert boundary_of(b"Multipart/Form-Data;boundary=" + b"a" * 70) == b"a" * 70
    assert boundary_of(b'multipart/form-data; boundary="\'()+_,-./:=? x"') == b"'()+_,-./:=? x"


ONE = form(field("model", b"m"))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "breaks off"),
        (b'{"model": "m"}', "breaks off"),
        (ONE[:-4], "breaks off"),
        (ONE[:-3], "breaks off"),
        (ONE[:-2] + b"\r", "breaks off"),
        (ONE[:-2] + b"x", "something else follows"),
        (ONE + ONE, "after its closing boundary"),
        (b"x\n" + ONE, "LF"),
        (ONE.replace(b"\r\n", b"\n"), "LF"),
        (ONE.replace(b"m\r\n", b"m\n"), "LF"),
        (ONE.replace(b"xYz-1\r\n", b"xYz-1\n"), "LF"),
        (ONE.replace(b"xYz-1\r\n", b"xYz-1-\r\n"), "something else follows"),
        (ONE.replace(b"xYz-1\r\n", b"xYz-12\r\n"), "something else follows"),
        (ONE.replace(b"xYz-1\r\n", b"xYz-1" + b" " * 300 + b"\r\n"), "blanks"),
        (form((MODEL.replace(b"; ", b";\n "), b"m")), "LF or CR alone"),
        (form((MODEL.replace(b"; ", b";\r\n "), b"m")), "folded"),
        (form((b"a:b\r\n c", b"m")), "folded"),
        (form((b"no field", b"m")), "no header field"),
        (form((b"a b: c", b"m")), "no header field"),
        (form((MODEL + b"\r\nx: \0", b"m")), "no header field"),
        (b"--xYz-1\r\n\r\n" + ONE, "no header field"),
        (b"--xYz-1\r\n" + MODEL + b"\r\n" + ONE, "no header field"),
        (b"--xYz-1\r\n" + MODEL + b"\r\n\r\n" + ONE, "no empty line"),
        (form((MODEL + b"\r\n" + MODEL, b"m")), "twice"),
        (form((b"content-type: text/plain", b"m")), "content-disposition"),
        (form((b'content-disposition: attachment; name="model"', b"m")), "content-disposition"),
        (form((b"content-disposition: form-data", b"m")), "content-disposition"),
        (form((b'content-disposition: form-data; name="model', b"m")), "content-disposition"),
        (form((b'content-disposition: form-data; name="model" x', b"m")), "content-disposition"),
        (form((MODEL + b'; name="file"', b"m")), "content-disposition"),
        (form((MODEL + b"; name*=utf-8''file", b"m")), "two ways"),
        (form((b'content-disposition: form-data; name="x"; filename="\\"; name=model; y=\\""', b"m")), "two ways"),
        (form((b'content-disposition: form-data; name="mod\\el"', b"m")), "two ways"),
        (form((MODEL + b"\r\ncontent-transfer-encoding: base64", b"bQ==")), "content-transfer-encoding"),
        (form((field("x", b"")[0] + b"\r\nContent-Type: Multipart/mixed; boundary=b", b"")), "several parts itself"),
        (form((MODEL + b"\r\nx: " + b"a" * HEADER_MAX_BYTES, b"m")), "16 KiB"),
        (form(*[field("x", b"")] * (PARTS_MAX + 1)), "1000 parts"),
    ],
)
def test_form_is_refused_when_readers_could_differ_about_it(body: bytes, word: str) -> None:
    """One code, and a message that says what is wrong."""
    error = refused(body)
    assert error.code == "invalid_multipart"
    assert word in error.message


def test_header_without_end_is_refused_when_it_passes_the_limit() -> None:
    """No more than that is kept of it."""
    scanner = Scanner(B)
    scanner.feed(b"--xYz-1\r\nx: ")
    for _ in range(HEADER_MAX_BYTES // 1024 - 1):
        scanner.feed(b"a" * 1024)
    with pytest.raises(InvalidRequest, match="16 KiB"):
        scanner.feed(b"a" * 1024)


@pytest.mark.parametrize("body", [b"--xYz-1--\r\n", form(field("stream", b"true")), form((FILE, b'"model":"m"'))])
def test_form_is_refused_when_it_has_no_model(body: bytes) -> None:
    """In the words for a JSON body without one."""
    error = refused(body)
    assert (error.code, error.param, error.message) == ("missing_model", "model", "'model' is missing")


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ((field("model", b""),), "non-empty"),
        ((field("model", b"\xff"),), "UTF-8"),
        ((field("model", b"a"), field("model", b"a")), "twice"),
        ((field("model", b"a"), (FILE, b"x"), field("model", b"b")), "twice"),
        (((MODEL + b'; filename="m"', b"m"),), "not a file"),
        ((field("model", b"a"), (MODEL + b'; filename="m"', b"m")), "twice"),
        ((field("model", b"a" * (VALUE_MAX_BYTES + 1)),), "64 KiB"),
    ],
)
def test_model_is_refused_when_it_is_not_one_plain_name(parts: tuple[tuple[bytes, bytes], ...], word: str) -> None:
    """A second one above all: the upstream might take that."""
    error = refused(form(*parts))
    assert (error.code, error.param) == ("invalid_model", "model")
    assert word in error.message


def test_stream_is_refused_when_it_comes_twice() -> None:
    """It decides how the answer is given."""
    assert refused(form(field("stream", b"1"), field("stream", b"0"))).code == "invalid_stream"


# --- any form


def reference(body: bytes) -> str | None:
    """The model of a well-formed form, by splitting it as a whole."""
    found = None
    for part in body.split(b"\r\n--" + B)[:-1]:
        header, _, data = part.partition(b"\r\n\r\n")
        if re.search(rb'name="model"', header):
            found = data.decode()
    return found


_DATA = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"-", b"--", b"--xYz-", b"--xYz-1", b"xYz-1", b"\r\n--", b"a", b"\0\xff", b"\r\n\r\n"]
    )
).map(b"".join)
_GOOD_DATA = _DATA.filter(lambda data: b"\n--" + B not in b"\n" + data)
_PARTS = st.lists(st.tuples(st.sampled_from([FILE, field("prompt", b"")[0]]), _GOOD_DATA), max_size=3)
_CUTS = st.lists(st.integers(0, 400), max_size=6)


def cut(body: bytes, places: list[int]) -> list[bytes]:
    """At these places."""
    ends = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(ends)]


@settings(max_examples=150, deadline=None)
@given(_PARTS, _PARTS, st.text("ab/:-\0ä", min_size=1, max_size=5), _CUTS)
def test_scanner_agrees_with_a_whole_split_when_the_form_is_good(
    before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]], model: str, places: list[int]
) -> None:
    """Whatever stands around the model, wherever it is cut."""
    body = form(*before, (MODEL, model.encode()), *after)
    scanner = scanned(cut(body, places))
    assert scanner.model == reference(body) == model
    assert body[scanner.model_at : scanner.model_at + scanner.model_length] == model.encode()


_SCRAPS = st.lists(
    st.sampled_from(
        [
            *(b"--xYz-1", b"\r\n", b"\n", b"\r", b"--", b" ", b"\r\n\r\n", b"\r\n--xYz-1\r\n", b"\r\n--xYz-1--\r\n"),
            *(MODEL, FILE, field("stream", b"")[0], MODEL + b"\r\n\r\nm", b"x: y", b"a"),
            *(head + b"\r\n\r\na\r\n--xYz-1\r\n" for head in (MODEL, MODEL, FILE, field("stream", b"")[0])),
        ]
    ),
    max_size=12,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(_SCRAPS, _CUTS)
def test_scanner_says_the_same_of_any_bytes_wherever_they_are_cut(body: bytes, places: list[int]) -> None:
    """Refusals too; and what it takes, another reader (the standard library's) takes with the same model."""
    body = b"--xYz-1\r\n" + body + FILE + b"\r\n\r\n\r\n--xYz-1--\r\n"
    told = seen([body])
    assert seen(cut(body, places)) == told
    assert seen(body[at : at + 1] for at in range(len(body))) == told
    if isinstance(told, tuple):
        assert theirs(body) == [told[0]]


def theirs(body: bytes) -> list[object]:
    """All models that Python's email package finds in it."""
    message = message_from_bytes(b'content-type: multipart/form-data; boundary="xYz-1"\r\n\r\n' + body)
    parts = [part for part in message.walk() if part.get_param("name", header="content-disposition") == "model"]
    return [part.get_payload() for part in parts]


def test_scanner_takes_time_in_proportion_to_the_form() -> None:
    """Also for data that nearly is a boundary everywhere, and for single bytes."""

    def seconds(body: bytes, size: int) -> float:
        started = time.perf_counter()
        assert scanned(body[at : at + size] for at in range(0, len(body), size)).model == "m"
        return time.perf_counter() - started

    nearly = form((FILE, b"\r\n--xYz-" * 200_000), field("model", b"m"))  # 1.8 MB
    assert seconds(nearly, 65_536) < 1.0
    long_header = form((FILE + b"\r\nx: " + b"a" * 16_000, b""), field("model", b"m"))
    assert seconds(long_header, 1) < 1.0
