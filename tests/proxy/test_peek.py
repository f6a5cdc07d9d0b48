"""The two fields that decide where a body goes, and the one that may change: every bad body, and bytes that stay bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.proxy.peek import Peek, peek, with_model, with_usage

DEEP = 3_000


def refused(body: bytes) -> InvalidRequest:
    """The error for a body that must not pass."""
    with pytest.raises(InvalidRequest) as caught:
        peek(body)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"model":"a"',
        b'{"model":"a",}',
        b'{"model":"a"} x',
        b"model=a",
        b'{"model":"a","x":[1,]}',
        b'{"model":"a","x":NaN}',
        b'{"model":"a","x":01}',
        b'{"model":"a","x":"\\q"}',
        b'{"model":"a","x":"\n"}',
        b"{'model':'a'}",
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        b'{"model":"\\ud800"}',
    ],
)
def test_peek_says_invalid_json_when_the_body_is_none(body: bytes) -> None:
    """Whatever is not JSON gets one code, and a message that says so."""
    error = refused(body)
    assert error.code == "invalid_json"
    assert "not valid JSON" in error.message


@pytest.mark.parametrize("body", [b"[]", b'[{"model":"a"}]', b'"a"', b"null", b"1", b"true"])
def test_peek_asks_for_an_object_when_the_body_is_another_json_value(body: bytes) -> None:
    """An array or a bare value is JSON, but no request."""
    error = refused(body)
    assert (error.code, error.message) == ("invalid_json", "The body must be a JSON object")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"\xff"}',
        b'{"model":"a","messages":"\xff"}',
        b'{"model":"a","messages":[{"content":"caf\xe9"}]}',
        b'{"\xff":1,"model":"a"}',
        b'{"model":"a","x":"\xed\xa0\x80"}',
    ],
)
def test_peek_refuses_invalid_utf8_when_it_stands_in_a_skipped_field(body: bytes) -> None:
    """Fields that are only skipped are looked at too: an engine behind must not meet bytes that are no text."""
    error = refused(body)
    assert error.code == "invalid_json"
    assert "UTF-8" in error.message


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("levels", [DEEP, 1_000_000])
def test_peek_refuses_the_body_when_it_is_nested_too_deeply(opening: bytes, levels: int) -> None:
    """Thousands of levels are an answer 400, neither a crash nor a RecursionError."""
    closing = b"]" if opening == b"[" else b"}"
    inner = b"1" if opening != b"[" else b""
    nested = opening * levels + inner + closing * levels
    assert refused(b'{"model":"a","x":' + nested + b"}").message == "The body is nested too deeply"
    assert refused(b'{"model":' + nested + b"}").message == "The body is nested too deeply"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", "missing_model"),
        (b'{"model":null}', "missing_model"),
        (b'{"Model":"a"}', "missing_model"),
        (b'{"x":{"model":"a"}}', "missing_model"),
        (b'{"model":""}', "invalid_model"),
        (b'{"model":5}', "invalid_model"),
        (b'{"model":["a"]}', "invalid_model"),
        (b'{"model":{"a":1}}', "invalid_model"),
        (b'{"model":true}', "invalid_model"),
    ],
)
def test_peek_names_the_field_when_the_model_is_missing_or_no_name(body: bytes, code: str) -> None:
    """The error carries `param`, as OpenAI's does."""
    error = refused(body)
    assert (error.code, error.param) == (code, "model")


@pytest.mark.parametrize("body", [b'{"model":1e999}', b'{"model":"a","stream":1e999}'])
def test_peek_does_not_ask_for_an_object_when_a_number_is_out_of_range(body: bytes) -> None:
    """The message fits the body: it is an object."""
    assert refused(body).message == "A number in the body is out of range"


def test_peek_takes_what_clients_really_send() -> None:
    """Unknown fields, nulls, integers of any length, escapes, any order, white space."""
    long = b"9" * 5_000
    assert peek(b'{"x":null,"seed":' + long + b',"stream":true,"model":"a/b:c"}') == Peek("a/b:c", True)
    assert peek(b' \n{ "model" : "\\u0061" } \r\n') == Peek("a", False)
    assert peek(b'{"model":"a","x":1e999}') == Peek("a", False)


@pytest.mark.parametrize(
    ("value", "expected"), [(b"true", True), (b"false", False), (b"null", False), (b"1", False), (b'"true"', False)]
)
def test_peek_says_stream_only_when_it_is_true(value: bytes, expected: bool) -> None:
    """Engines stream for `true` alone; a guess would promise an event stream that does not come."""
    assert peek(b'{"model":"a","stream":' + value + b"}").stream is expected


def test_peek_takes_the_last_model_when_it_is_given_twice() -> None:
    """As every JSON parser behind us does."""
    assert peek(b'{"model":"a","model":"b"}').model == "b"


# ---------------------------------------------------------------- with_model

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NUMBER = (
    st.integers() | st.integers(min_value=2**70, max_value=2**90) | st.floats(allow_nan=False, allow_infinity=False)
)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT | st.sampled_from(["model", '"model"', '{"model": "x"}', "\\", '\\"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("model"), inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(st.sampled_from(" \t\r\n"), max_size=2)
MODEL_KEYS = ('"model"', '"\\u006dodel"', '"mo\\u0064el"', '"\\u006d\\u006f\\u0064\\u0065\\u006c"')


def _escape_all(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'


WRITERS: tuple[Callable[[object], str], ...] = (
    lambda value: json.dumps(value, ensure_ascii=True),
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    lambda value: json.dumps(value, ensure_ascii=False, indent=1),
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]]]:
    """A JSON object with `model` somewhere, maybe often; and where the values of the top-level ones stand."""
    members: list[tuple[str, str, bool]] = []
    for key, value in draw(st.lists(st.tuples(TEXT.filter(lambda key: key != "model"), VALUE), max_size=4)):
        members.append((draw(st.sampled_from(WRITERS))(key), draw(st.sampled_from(WRITERS))(value), False))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(TEXT)
        written = draw(st.sampled_from([json.dumps(name), json.dumps(name, ensure_ascii=False), _escape_all(name)]))
        members.insert(draw(st.integers(0, len(members))), (draw(st.sampled_from(MODEL_KEYS)), written, True))
    body, spans = (draw(SPACE) + "{" + draw(SPACE)).encode(), list[tuple[int, int]]()
    for place, (key, value, is_model) in enumerate(members):
        body += ("," if place else "").encode() + (draw(SPACE) + key + draw(SPACE) + ":" + draw(SPACE)).encode()
        if is_model:
            spans.append((len(body), len(body) + len(value.encode())))
        body += (value + draw(SPACE)).encode()
    return body + b"}" + draw(SPACE).encode(), spans


@settings(max_examples=150, deadline=None)
@given(bodies(), TEXT.filter(bool))
def test_with_model_changes_only_the_models_bytes(generated: tuple[bytes, list[tuple[int, int]]], name: str) -> None:
    """Whatever else stands in the body is byte for byte what it was."""
    body, spans = generated
    changed = with_model(body, name)
    written = with_model(b'{"model":"a"}', name)[len(b'{"model":') : -1]
    assert json.loads(written) == name
    expected, done = b"", 0
    for start, end in spans:
        expected += body[done:start] + written
        done = end
    assert changed == expected + body[done:]
    assert json.loads(changed) == {**json.loads(body), "model": name}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b'{"x":"model","model":"a"}', b'{"x":"model","model":"b"}'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"x":[{"model":"a"},"model"],"model" : "a" }', b'{"x":[{"model":"a"},"model"],"model" : "b" }'),
        (b'{"model":1,"model":"a"}', b'{"model":1,"model":"b"}'),
        (b'{"model":["model","a"],"model":"a"}', b'{"model":["model","a"],"model":"b"}'),
        (b'{"model":{"model":"a"},"model":"a"}', b'{"model":{"model":"a"},"model":"b"}'),
        (b'{"model":null,"model":"a","y":"z"}', b'{"model":null,"model":"b","y":"z"}'),
        (b'{"mod\\u0065l":"\\u0061"}', b'{"mod\\u0065l":"b"}'),
        (b'{"x":{"model":"c"},"mod\\u0065l":"a"}', b'{"x":{"model":"c"},"mod\\u0065l":"b"}'),
        (b'{"\\\\model":"a","model":"a"}', b'{"\\\\model":"a","model":"b"}'),
        (b'{"x":"\\"model\\":\\"a\\"","model":"a"}', b'{"x":"\\"model\\":\\"a\\"","model":"b"}'),
        (b'{"x":"{[,]}\\\\","model":"a"}', b'{"x":"{[,]}\\\\","model":"b"}'),
    ],
)
def test_with_model_finds_the_top_level_model(body: bytes, expected: bytes) -> None:
    """Nested ones, look-alikes in strings, escaped keys and earlier values that are no names."""
    assert with_model(body, "b") == expected


def test_with_model_escapes_the_name_when_it_would_break_the_body() -> None:
    """A configured name may hold quotes."""
    assert json.loads(with_model(b'{"model":"a"}', 'q"\\\n'))["model"] == 'q"\\\n'


def test_with_model_is_quick_when_a_picture_of_megabytes_is_inline() -> None:
    """One pass: 8 MB of one string take no longer than some passes of the UTF-8 check over it (it once took 5 s)."""
    body = b'{"messages":[{"content":"' + b"A" * (8 << 20) + b'"}],"model":"a"}'
    started_s = time.perf_counter()
    for _ in range(10):
        body.decode()
        json.loads(body)
    reference_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    assert with_model(body, "b").endswith(b'"model":"b"}')
    assert time.perf_counter() - started_s < max(reference_s * 5, 1.0)


@pytest.mark.parametrize(("levels", "accepted"), [(100, True), (900, True), (2001, False), (100_000, False)])
def test_depth_is_limited_on_every_python(levels: int, accepted: bool) -> None:
    """Brackets in strings are none; a body with many that are not nested is no deep one."""
    wide = ", ".join(["{}"] * 3000)
    deep = "[" * levels + "]" * levels
    body = f'{{"model": "m", "a": {deep}, "b": "{"[{" * 3000}", "c": [{wide}]}}'.encode()
    if accepted:
        assert peek(body).model == "m"
    else:
        with pytest.raises(InvalidRequest, match="nested too deeply"):
            peek(body)


# ---------------------------------------------------------------- usage of streams


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (b'{"include_usage":true}', True),
        (b'{"x":[1e999],"include_\\u0075sage" : true}', True),
        (b'{"include_usage":false,"include_usage":true}', True),
        (b'{"include_usage":false}', False),
        (b'{"include_usage":1}', False),
        (b'{"include_usage":"true"}', False),
        (b'{"include_usage":1e999}', False),
        (b'{"include_usage":null}', False),
        (b'{"x":{"include_usage":true}}', False),
        (b"{}", False),
        (b"null", False),
        (b"true", False),
        (b'["include_usage",true]', False),
        (b"1e999", False),
    ],
)
def test_peek_says_whether_the_usage_is_asked_for(options: bytes, asked: bool) -> None:
    """What is malformed there is the upstream's to refuse, and asks for nothing."""
    assert peek(b'{"model":"a","stream_options":' + options + b',"stream":true}') == Peek("a", True, asked)


def test_peek_says_usage_is_not_asked_for_when_nothing_is_said() -> None:
    """Only the top-level field counts."""
    assert peek(b'{"model":"a","x":{"stream_options":{"include_usage":true}}}').usage_asked is False


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"stream_options":{"include_usage":true},"model":"a"}'),
        (b'{ "model":"a","stream_options" : null}', b'{ "model":"a","stream_options" : {"include_usage":true}}'),
        (b'{"stream_options":{},"model":"a"}', b'{"stream_options":{"include_usage":true},"model":"a"}'),
        (
            b'{"model":"a","stream_options":{ "x":1.0, "include_usage": false}}',
            b'{"model":"a","stream_options":{ "x":1.0, "include_usage": true}}',
        ),
        (
            b'{"model":"a","stream_options":{"include_obfuscation":false}}',
            b'{"model":"a","stream_options":{"include_usage":true,"include_obfuscation":false}}',
        ),
        (b'{"model":"a","stream_options":"x"}', b'{"model":"a","stream_options":"x"}'),
        (
            b'{"model":"a","stream_options":{"include_usage":true}}',
            b'{"model":"a","stream_options":{"include_usage":true}}',
        ),
    ],
)
def test_with_usage_asks_for_the_usage_and_keeps_the_rest(body: bytes, expected: bytes) -> None:
    """Other options of the stream stay as they came."""
    assert with_usage(body, peek(body)) == expected
    assert with_usage(expected, peek(expected)) == expected


def test_with_model_gives_the_same_in_short_and_in_long_bodies() -> None:
    """The way that is quick for short ones and the one that is quick for long ones."""
    for members in (b'"model" : "a"', b'"say \\"model":"model","model":"a"', b'"model":"\\u0061\\"b","x":"model"'):
        body, end = b"{" + members + b"}", b',"x":"' + b"y" * 20_000 + b'"}'
        changed = with_model(body, "b")
        assert json.loads(changed)["model"] == "b"
        assert with_model(body[:-1] + end, "b") == changed[:-1] + end
