"""Members of a JSON object changed in its bytes: what is not changed stays byte for byte what it was. Pure.

The law: order, white space, escapes, digits and unknown members are the caller's. A key is known however it is escaped, and edited
wherever it stands, so that it does not matter which of several a parser takes. One pass for any number of edits.

Why it is quick: msgspec passes over megabytes much faster than Python can, but does not say where a value stands. So it is
asked for the text of those values that may be long, and that text is then recognised at the place where the value begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypedDict, cast

import msgspec


class Put(msgspec.Struct, frozen=True):
    """The key has this value, whatever the caller said."""

    value: bytes  # JSON


class Default(msgspec.Struct, frozen=True):
    """The key has this value where the caller says none: it is absent, or null, and so are those of `unless`."""

    value: bytes  # JSON
    unless: tuple[str, ...] = ()  # other names of the same thing


class Drop(msgspec.Struct, frozen=True):
    """The key is not there."""


class Amend(msgspec.Struct, frozen=True):
    """The key has the value that is made of its present one.

    Args:
        change: takes the value as it is written, None where the key is absent; gives the new one, None to leave all as it is.
    """

    change: Callable[[bytes | None], bytes | None]


Edit = Put | Default | Drop | Amend
Member = tuple[str, int, int, int]  # its key; where it begins, where its value begins, where that ends
_Splice = tuple[int, int, bytes]  # from, to, what stands there instead


class _Long(TypedDict, total=False):
    """The members that are ever long, in the requests of any API. One that is missing here is passed over slowly."""

    content: msgspec.Raw
    contents: msgspec.Raw
    data: msgspec.Raw
    documents: msgspec.Raw
    file: msgspec.Raw
    functions: msgspec.Raw
    image: msgspec.Raw
    images: msgspec.Raw
    input: msgspec.Raw
    instructions: msgspec.Raw
    messages: msgspec.Raw
    metadata: msgspec.Raw
    prompt: msgspec.Raw
    response_format: msgspec.Raw
    suffix: msgspec.Raw
    system: msgspec.Raw
    text: msgspec.Raw
    tools: msgspec.Raw


_decode = msgspec.json.Decoder(_Long).decode
# Possessive throughout, so that a string of megabytes (a picture) is one pass without a stack.
# The comma before it, the key, the colon, and the value where it is short and has no parts.
_MEMBER = re.compile(
    rb'[ \t\r\n,]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]{0,64}+"|[^"\[{,} \t\r\n]++)?', re.DOTALL
)
_OPENINGS = (b'"', b"[", b"{")
_MARK = re.compile(rb'["{}\[\]]')
_STRING_END = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FINDS_MAX = 1000  # a string of nothing but escaped quotes must not take seconds


def edited(body: bytes, edits: Mapping[str, Edit]) -> bytes:
    """The object with these members changed. New ones come first, in the order of `edits`, right after the opening brace.

    Args:
        body: a JSON object that `peek` has accepted, or a part of one.
    """
    if not edits:
        return body
    found: list[tuple[str, int, int]] = []  # members that stay, and matter: key, where the value begins and ends
    splices: list[_Splice] = []
    matter = edits.keys() | _others(edits)
    end = kept_end = -1  # of the last member, of the last one that stays
    dropped = -1  # where a run of members begins that go
    for key, start, value, end in members(body):
        if key in matter:
            if isinstance(edits.get(key), Drop):
                dropped = start if dropped < 0 else dropped
                continue
            found.append((key, value, end))
        if dropped >= 0:  # the next that stays comes to where they began
            splices.append((dropped, start, b""))
            dropped = -1
        kept_end = end
    if dropped >= 0:  # nothing stays behind them: the comma before them goes, too
        splices.append((kept_end if kept_end >= 0 else dropped, end, b""))
    null = {key: body.startswith(b"null", value) for key, value, _ in found}  # of several the last one counts
    said = {key for key, is_null in null.items() if not is_null}
    for key, value, value_end in found:
        if (edit := edits.get(key)) is not None:
            written = body[value:value_end]
            if (new := _value(edit, written, said)) is not None and new != written:
                splices.append((value, value_end, new))
    added = [(key, _value(edit, None, said)) for key, edit in edits.items() if key not in null]
    inserted = b",".join(msgspec.json.encode(key) + b":" + value for key, value in added if value is not None)
    if inserted:
        place = body.index(b"{") + 1
        splices.append((place, place, inserted + b"," if kept_end >= 0 else inserted))
    return _spliced(body, splices) if splices else body


def _others(edits: Mapping[str, Edit]) -> set[str]:
    return {name for edit in edits.values() if isinstance(edit, Default) for name in edit.unless}


def _value(edit: Edit, written: bytes | None, said: set[str]) -> bytes | None:
    """What the key is to have, None: what it has. `said`: the keys that matter and have a value."""
    match edit:  # by keyword: by place Python makes a string for each look, and remembers thousands of them
        case Put(value=value):
            return value
        case Default(value=value, unless=unless):
            return value if written in (None, b"null") and said.isdisjoint(unless) else None
        case Amend(change=change):
            return change(written)
        case Drop():
            return None


def _spliced(body: bytes, splices: list[_Splice]) -> bytes:
    pieces: list[bytes] = []
    done = 0
    for start, end, new in sorted(splices):
        pieces += (body[done:start], new)
        done = end
    pieces.append(body[done:])
    return b"".join(pieces)


def members(body: bytes) -> Iterator[Member]:
    """The members of a JSON object, in order, duplicates too.

    Args:
        body: as `edited` takes it.
    """
    long = _long_values(body)
    at = body.index(b"{") + 1
    while match := _MEMBER.match(body, at):
        name = match[1]
        key: str = name.decode() if b"\\" not in name else msgspec.json.decode(b'"%b"' % name)
        value = match.start(2)
        if value >= 0:
            at = match.end()
        else:
            value = match.end()
            # Lists, objects and strings say themselves where they end, so none is the beginning of another. What is asked for
            # and not found here is another duplicate's.
            known = long.get(key)
            text = b"" if known is None else bytes(known)
            at = value + len(text) if text[:1] in _OPENINGS and body.startswith(text, value) else value_end(body, value)
        yield key, match.start(1) - 1, value, at


def _long_values(body: bytes) -> Mapping[str, msgspec.Raw]:
    try:
        return cast("Mapping[str, msgspec.Raw]", _decode(body))
    except RecursionError:  # we may stand nearer to the interpreter's limit than `peek` did
        return {}


def value_end(body: bytes, start: int) -> int:
    """Where the list, object or string ends that begins there. Mark by mark: for what has few."""
    depth, at = 0, start
    while match := _MARK.search(body, at):
        at = match.end()
        char = body[at - 1]
        if char == 0x22:  # a string
            at = _string_end(body, at)
        elif char in b"{[":
            depth += 1
        else:
            depth -= 1
        if depth == 0:
            return at
    raise ValueError("the JSON has no end")  # peek accepts none such


def _string_end(body: bytes, at: int) -> int:
    """`at`: after the opening quote. Looking for quotes is quickest by far where few of them are escaped."""
    for _ in range(_FINDS_MAX):
        at = body.index(b'"', at) + 1
        if body[at - 2] != 0x5C:
            return at
        before = at - 3
        while body[before] == 0x5C:
            before -= 1
        if (at - before) % 2 == 0:  # an even number of backslashes: they escape each other, not the quote
            return at
    match = _STRING_END.match(body, at)
    if match is None:
        raise ValueError("the JSON has no end")
    return match.end()
