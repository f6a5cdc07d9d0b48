"""The two fields of a body that decide where it goes, found without a full parse; and the one that may change. Pure.

The body stays the caller's bytes. Only a differing model name is written anew, in its place.
"""

from __future__ import annotations

import re
from itertools import accumulate

import msgspec

from gateway.errors import InvalidRequest


class Peek(msgspec.Struct, frozen=True):
    """What the way of a request depends on."""

    model: str
    stream: bool


class _Fields(msgspec.Struct):
    model: object = None
    stream: object = None


# Newer Pythons let a decoder go down 10,000 levels; engines behind us may have no limit at all. Nothing real is a tenth as deep.
DEPTH_MAX = 2000
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STEP = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}  # [ { ] }
_NO_BRACKETS = bytes(set(range(256)) - _STEP.keys())
_decode = msgspec.json.Decoder(_Fields).decode
# Possessive, so that a string of megabytes (a picture) is one pass without a stack.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)


def peek(body: bytes) -> Peek:
    """Raises: InvalidRequest, saying what is wrong with the body."""
    try:
        fields = _decode(body)
        if not body.isascii():
            body.decode()  # fields that were skipped have not been looked at
        if body.count(b"[") + body.count(b"{") > DEPTH_MAX and _depth(body) > DEPTH_MAX:
            raise RecursionError
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid UTF-8 at byte {error.start}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply", code="invalid_json") from None
    except msgspec.ValidationError:
        what = "A number in the body is out of range" if body.lstrip()[:1] == b"{" else "The body must be a JSON object"
        raise InvalidRequest(what, code="invalid_json") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    model = fields.model
    if model is None:
        raise InvalidRequest("'model' is missing", param="model", code="missing_model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a non-empty string", param="model", code="invalid_model")
    return Peek(model, fields.stream is True)


def _depth(body: bytes) -> int:
    """Of valid JSON."""
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)))


def with_model(body: bytes, name: str) -> bytes:
    """The same bytes with the top-level value of `model` replaced by `name`, wherever it stands, however often.

    Args:
        body: a JSON object that `peek` has accepted.
    """
    value = msgspec.json.encode(name)
    pieces: list[bytes] = []
    done = depth = 0
    key_next = False  # at the top level, just after "{" or ","
    pending = False  # the key "model" has been read, its value comes next
    for token in _TOKEN.finditer(body):
        char = body[token.start()]
        if char == 0x22:  # a string
            if depth == 1 and pending:
                pieces += (body[done : token.start()], value)
                done = token.end()
                pending = False
            elif depth == 1 and key_next:
                pending = _is_model(token.group())
                key_next = False
        elif char in b"{[":
            depth += 1
            key_next = depth == 1 and char == 0x7B
        elif char in b"}]":
            depth -= 1
        elif char == 0x2C and depth == 1:  # a comma
            key_next, pending = True, False
    pieces.append(body[done:])
    return b"".join(pieces)


def _is_model(key: bytes) -> bool:
    """Whether a key reads "model", however it is escaped."""
    return key == b'"model"' or (b"\\" in key and msgspec.json.decode(key) == "model")
