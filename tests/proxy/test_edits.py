"""A body's members changed in its bytes: what is not changed is byte for byte what it was, whatever the body looks like."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.proxy.edits import Amend, Default, Drop, Edit, Put, edited, members, value_end
from gateway.proxy.peek import peek

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NUMBER = (
    st.integers() | st.integers(min_value=2**70, max_value=2**90) | st.floats(allow_nan=False, allow_infinity=False)
)
LOOK_ALIKES = ["temperature", '"temperature":1', '{"messages": []}', "\\", '\\"', ", ", "}]", "x" * 200, '"' * 70]
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT | st.sampled_from(LOOK_ALIKES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("temperature"), inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(st.sampled_from(" \t\r\n"), max_size=2)
KEYS = ("temperature", "messages", "max_tokens", "a", 'q"\\', "clé", "\x7f")


def _escape_all(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'


WRITERS: tuple[Callable[[object], str], ...] = (
    lambda value: json.dumps(value, ensure_ascii=True),
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    lambda value: json.dumps(value, ensure_ascii=False, indent=1),
)


class Piece(NamedTuple):
    """A member as it is written, with the white space around it."""

    key: str
    before: str
    written_key: str
    colon: str
    value: str
    after: str


@st.composite
def pieces(draw: st.DrawFn) -> list[Piece]:
    """Members of an object: few keys, so that some come twice; many nulls; every way of writing."""
    found: list[Piece] = []
    for _ in range(draw(st.integers(0, 6))):
        key = draw(st.sampled_from(KEYS) | TEXT)
        written_key = draw(st.sampled_from([*WRITERS[:2], _escape_all]))(key)
        value = draw(st.sampled_from(WRITERS))(draw(st.none() | VALUE))
        colon = draw(SPACE) + ":" + draw(SPACE)
        found.append(Piece(key, draw(SPACE), written_key, colon, value, draw(SPACE)))
    return found


def written(found: list[Piece], inserted: str = "") -> bytes:
    """The object of these members."""
    inside = ",".join(piece.before + piece.written_key + piece.colon + piece.value + piece.after for piece in found)
    return ("{" + inserted + "," * bool(inserted and found) + inside + "}").encode()


def shortened(value: bytes | None) -> bytes | None:
    """An amendment: strings become one letter, an absent key a number; anything else stays."""
    if value is None:
        return b"0"
    return b'"s"' if value[:1] == b'"' else None


EDIT = (
    st.builds(Put, st.sampled_from([b"1", b'{"x": [1e400]}', '"é\\u00e9"'.encode()]))
    | st.builds(Default, st.just(b"2"), st.sampled_from([(), ("max_tokens",), ("a", "temperature")]))
    | st.just(Drop())
    | st.just(Amend(shortened))
)


def one(edit: Edit, value: str | None, said: set[str]) -> str | None:
    """What becomes of a value, None: it stays."""
    match edit:
        case Put(new):
            return new.decode()
        case Default(new, unless):
            return new.decode() if value in (None, "null") and not said & set(unless) else None
        case Amend(change):
            changed = change(None if value is None else value.encode())
            return None if changed is None else changed.decode()
        case Drop():
            return None


def expected(found: list[Piece], edits: Mapping[str, Edit]) -> bytes:
    """The law, written down over pieces in place of bytes."""
    last = {piece.key: piece.value for piece in found if not isinstance(edits.get(piece.key), Drop)}
    said = {key for key, value in last.items() if value != "null"}
    added = [(key, one(edit, None, said)) for key, edit in edits.items() if key not in last]
    inserted = ",".join(f"{json.dumps(key, ensure_ascii=False)}:{new}" for key, new in added if new is not None)
    kept: list[Piece] = []
    run = False
    before = ""  # of the first of a run of dropped ones: the next that stays comes to its place
    for piece in found:
        edit = edits.get(piece.key)
        if isinstance(edit, Drop):
            before, run = (before if run else piece.before), True
            continue
        new = None if edit is None else one(edit, piece.value, said)
        kept.append(piece._replace(before=before if run else piece.before, value=piece.value if new is None else new))
        run = False
    if run and kept:
        kept[-1] = kept[-1]._replace(after=found[-1].after)
    if run and not kept:
        return ("{" + inserted + before + found[-1].after + "}").encode()
    return written(kept, inserted)


@settings(max_examples=100, deadline=None)
@given(pieces(), st.dictionaries(st.sampled_from(KEYS), EDIT, max_size=4), SPACE, SPACE)
@example([Piece("a", " ", '"a"', ":", "1", "\n")], {"a": Drop(), "max_tokens": Put(b"1")}, "", "")
@example([Piece(key, " ", f'"{key}"', ":", "null", "\n") for key in "abab"], {"a": Drop()}, "", "")
def test_bytes_that_are_not_edited_stay(found: list[Piece], edits: dict[str, Edit], before: str, after: str) -> None:
    """Byte for byte, white space of the dropped included."""
    body = before.encode() + written(found) + after.encode()
    assert edited(body, edits) == before.encode() + expected(found, edits) + after.encode()


@settings(max_examples=100, deadline=None)
@given(pieces(), st.dictionaries(st.sampled_from(KEYS), EDIT, max_size=4))
def test_decoding_what_was_edited_is_editing_what_was_decoded(found: list[Piece], edits: dict[str, Edit]) -> None:
    """As every parser sees it that takes the last of several."""
    decoded = cast("dict[str, Any]", json.loads(written(found)))
    kept = {key: value for key, value in decoded.items() if not isinstance(edits.get(key), Drop)}
    said = {key for key, value in kept.items() if value is not None}
    for key, edit in edits.items():
        match edit:
            case Put(value):
                kept[key] = json.loads(value)
            case Default(value, unless):
                if key not in said and not said & set(unless):
                    kept[key] = json.loads(value)
            case Amend():
                kept[key] = ("s" if isinstance(kept[key], str) else kept[key]) if key in kept else 0
            case Drop():
                pass
    assert json.loads(edited(written(found), edits)) == kept


@settings(max_examples=100, deadline=None)
@given(pieces())
def test_members_are_found_where_they_stand(found: list[Piece]) -> None:
    """All of them, in order, duplicates too."""
    body = written(found)
    assert [(key, body[value:end].decode()) for key, _, value, end in members(body)] == [
        (piece.key, piece.value) for piece in found
    ]
    assert all(body[start : start + 1] == b'"' for _, start, _, _ in members(body))


@pytest.mark.parametrize(
    ("body", "edits", "result"),
    [
        (b'{"model":"m"}', {"a": Put(b"1"), "b": Default(b"{}")}, b'{"a":1,"b":{},"model":"m"}'),
        (b'{ "model":"m"}', {"a": Put(b"1")}, b'{"a":1, "model":"m"}'),
        (b"{}", {"a": Put(b"1")}, b'{"a":1}'),
        (b"{ }", {"a": Put(b"1")}, b'{"a":1 }'),
        (b'{"a":1,"a":2}', {"a": Put(b"3")}, b'{"a":3,"a":3}'),
        (b'{"\\u0061" : 1}', {"a": Put(b"3")}, b'{"\\u0061" : 3}'),
        (b'{"x":{"a":1},"y":["a",{"a":2}]}', {"a": Default(b"3")}, b'{"a":3,"x":{"a":1},"y":["a",{"a":2}]}'),
        (b'{"a":null}', {"a": Default(b"3")}, b'{"a":3}'),
        (b'{"a":false}', {"a": Default(b"3")}, b'{"a":false}'),
        (b'{"b":1}', {"a": Default(b"3", ("b",))}, b'{"b":1}'),
        (b'{"b":null}', {"a": Default(b"3", ("b",))}, b'{"a":3,"b":null}'),
        (b'{"a":null,"b":1}', {"a": Default(b"3", ("b",))}, b'{"a":null,"b":1}'),
        (b'{"a":1,"b":2}', {"a": Drop()}, b'{"b":2}'),
        (b'{"a":1,"b":2}', {"b": Drop()}, b'{"a":1}'),
        (b'{"a":1,"b":2}', {"a": Drop(), "b": Drop()}, b"{}"),
        (b'{\n  "a": 1,\n  "b": 2,\n  "c": 3\n}', {"b": Drop()}, b'{\n  "a": 1,\n  "c": 3\n}'),
        (b'{\n  "a": 1,\n  "b": 2,\n  "c": 3\n}', {"c": Drop(), "a": Drop()}, b'{\n  "b": 2\n}'),
        (b'{"a":1,"b":2,"\\u0061":3}', {"a": Drop()}, b'{"b":2}'),
        (b'{"messages":[1],"messages":[1,2]}', {"messages": Put(b"[]")}, b'{"messages":[],"messages":[]}'),
        (b'{"tools":[[1]],"tools":12,"tools":1}', {"a": Put(b"0")}, b'{"a":0,"tools":[[1]],"tools":12,"tools":1}'),
        (b'{"n":12345678901234567890123,"f":1.10,"a":1}', {"a": Put(b"2")}, b'{"n":12345678901234567890123,"f":1.10,"a":2}'),
    ],
)  # fmt: skip
def test_edit_gives_these_bytes(body: bytes, edits: Mapping[str, Edit], result: bytes) -> None:
    """The cases one would look up."""
    assert edited(body, edits) == result


def test_the_same_object_comes_back_when_nothing_changes() -> None:
    """A caller can tell, and nothing is copied."""
    body = b'{"a":1,"b":null}'
    same: Mapping[str, Edit] = {"a": Default(b"2"), "x": Drop(), "b": Amend(lambda _: None), "y": Amend(lambda _: None)}
    assert edited(body, {}) is body
    assert edited(body, same) is body
    assert edited(body, {"a": Put(b"1")}) is body


def test_depth_that_peek_accepts_is_no_obstacle_when_the_stack_is_nearly_used_up() -> None:
    """Edits may be made deeper in the stack than `peek` was called."""
    body = b'{"model":"m","x":' + b"[" * 900 + b"]" * 900 + b',"messages":[' + b"[" * 900 + b"]" * 900 + b"]}"
    assert peek(body).model == "m"

    def deeper(levels: int) -> bytes:
        return edited(body, {"model": Put(b'"n"')}) if levels == 0 else deeper(levels - 1)

    used = 0
    frame = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        used, frame = used + 1, frame.f_back
    room = sys.getrecursionlimit() - used
    assert deeper(max(room - 60, 0)) == body.replace(b'"m"', b'"n"')


@pytest.mark.parametrize("key", ["messages", "image", "something_new"])
def test_edit_is_quick_when_a_picture_of_megabytes_is_inline(key: str) -> None:
    """One pass: 8 MB of one string take no longer than some full parses of it."""
    body = b'{"' + key.encode() + b'":["' + b"A" * (8 << 20) + b'"],"model":"a"}'
    started_s = time.perf_counter()
    for _ in range(10):
        body.decode()
        json.loads(body)
    reference_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    assert edited(body, {"model": Put(b'"b"')}).endswith(b'"model":"b"}')
    assert time.perf_counter() - started_s < max(reference_s * 5, 1.0)


def test_value_ends_where_its_bracket_closes() -> None:
    """Brackets and quotes in strings are none."""
    text = b'  [{"a":"]}\\"]"},[]] , 1'
    assert text[2 : value_end(text, 2)] == b'[{"a":"]}\\"]"},[]]'
    for string in (
        b'""',
        b'"a\\"b"',
        b'"\\\\"',
        b'"\\\\\\""',
        b'"\\"\\\\"',
        b'"' + b'\\"' * 5000 + b'"',
        b'"' + b"\\\\" * 5000 + b'"',
    ):
        assert value_end(string + b', "x"', 0) == len(string)
        assert value_end(b'{"a":[' + string + b']}, "x"', 0) == len(string) + 8
    with pytest.raises(ValueError, match="no end"):
        value_end(b"[[]", 0)
