"""The fields of a body that decide where it goes, found without a full parse; and those that we may change in it. Pure.

The body stays the caller's bytes. Only a differing model name is written anew, in its place, and a stream's usage asked for.
"""

from __future__ import annotations

import re
from itertools import accumulate

import msgspec

from gateway.errors import InvalidRequest

from .edits import Amend, Put, edited


class Peek(msgspec.Struct, frozen=True):
    """What the way of a request depends on."""

    model: str
    stream: bool
    usage_asked: bool = (
        False  # stream_options.include_usage is true: the caller takes a last chunk that tells the usage
    )


class _Fields(msgspec.Struct):
    model: object = None
    stream: object = None
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # whatever it is: only the upstream may refuse it


class _StreamOptions(msgspec.Struct):
    include_usage: object = None


# Newer Pythons let a decoder go down 10,000 levels; engines behind us may have no limit at all. Nothing real is a tenth as deep.
DEPTH_MAX = 2000
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STEP = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}  # [ { ] }
_NO_BRACKETS = bytes(set(range(256)) - _STEP.keys())
_MODEL = re.compile(rb'"model"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")', re.DOTALL)
_SHORT = 8192  # bytes: above it two searches take longer than the one pass of `edited`
_decode = msgspec.json.Decoder(_Fields).decode
_decode_options = msgspec.json.Decoder(_StreamOptions).decode


def peek(body: bytes) -> Peek:
    """Raises: InvalidRequest, saying what is wrong with the body."""
    try:
        fields = _decode(body)
        if not body.isascii():
            body.decode()  # fields that were skipped have not been looked at
        if len(body) > 2 * DEPTH_MAX and _brackets(body) > DEPTH_MAX and _depth(body) > DEPTH_MAX:
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
    options = fields.stream_options
    return Peek(model, fields.stream is True, options is not msgspec.UNSET and _asks_usage(options))


def _asks_usage(options: msgspec.Raw) -> bool:
    try:
        return _decode_options(options).include_usage is True
    except (msgspec.DecodeError, RecursionError):  # none that is one, or a number out of range
        return False


def _brackets(body: bytes) -> int:
    """How many open; of more than DEPTH_MAX only that. `replace` searches with memchr, `count` byte by byte: 7 times slower."""
    most = DEPTH_MAX + 1
    return 2 * len(body) - len(body.replace(b"[", b"", most)) - len(body.replace(b"{", b"", most))


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
    # `peek` has found the key at the top level. Written plainly it is b'"model"'; an escape in it begins with b"\\u006", as those
    # of all its letters do. So where there is no such escape, the only b'"model"' is the key, and what follows it is its value.
    if len(body) < _SHORT and body.count(b'"model"') == 1 and b"\\u006" not in body:
        match = _MODEL.search(body)
        if match is not None:
            return body[: match.start(1)] + value + body[match.end() :]

    def renamed(written: bytes | None) -> bytes | None:
        return value if written is not None and written[:1] == b'"' else None

    return edited(body, {"model": Amend(renamed)})


def with_usage(body: bytes, seen: Peek) -> bytes:
    """The same bytes, with `stream_options.include_usage` true. Where that is no object, the upstream may refuse it.

    Args:
        body: a JSON object that `peek` has accepted.
        seen: what `peek` said of it.
    """
    return body if seen.usage_asked else edited(body, _USAGE)


def _with_usage_asked(options: bytes | None) -> bytes | None:
    if options is None or options == b"null":
        return b'{"include_usage":true}'
    return edited(options, _INCLUDED) if options[:1] == b"{" else None


_INCLUDED = {"include_usage": Put(b"true")}
_USAGE = {"stream_options": Amend(_with_usage_asked)}
