"""The two fields of a form that decide where it goes, found while it passes by. Pure.

The law: what this scanner accepts, every other reader of forms reads alike. Where readers are known to differ (a second `model`,
lines that end with LF alone, folded header fields, a boundary where none belongs) the form is refused, since the upstream might
take another model than the one the caller was let through for. The bytes stay the caller's; only offsets are told.

Source: RFC 7578 (form-data; 4.2 the name, 4.3 no nesting, 4.7 no transfer encodings), RFC 2046 5.1.1 (boundary, delimiters,
preamble, epilogue).
"""

from __future__ import annotations

import re
from enum import Enum

from gateway.errors import InvalidRequest

HEADER_MAX_BYTES = 16 * 1024
VALUE_MAX_BYTES = 64 * 1024
PARTS_MAX = 1000
# RFC 2046 allows blanks after a boundary and gives no limit; nobody sends any.
_PADDING_MAX_BYTES = 256
_BLANKS = b" \t"

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(?:(" + _TOKEN + rb')[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|' + _TOKEN + rb"))?[ \t]*")
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(.*)", re.DOTALL)
# However a reader takes quotes and backslashes, it must come upon one name only.
_NAME_ANYWHERE = re.compile(rb"(?<![!#$%&'*+.^_`|~0-9A-Za-z-])name\*?[ \t]*=", re.IGNORECASE)
_TRUE = frozenset((b"true", b"1"))
_WANTED = frozenset((b"model", b"stream"))
_PLAIN_ENCODINGS = frozenset((b"", b"7bit", b"8bit", b"binary"))


class _State(Enum):
    BETWEEN = "before the first boundary"
    AFTER = "just after a boundary"
    HEADER = "in a part's header fields"
    DATA = "in a part's data"
    LAST_LINE = "after the two dashes of the closing boundary"
    CLOSED = "after the form's end"


def boundary_of(content_type: bytes | None) -> bytes:
    """The boundary that a Content-Type names.

    Raises: InvalidRequest: it is not multipart/form-data, or has no usable boundary.
    """
    kind, parameters = _value_and_parameters(content_type or b"")
    if kind != b"multipart/form-data":
        raise InvalidRequest(
            "This route takes a form: expected content-type multipart/form-data; boundary=…",
            param="content-type",
            code="unsupported_content_type",
        )
    named = [] if parameters is None else [value for name, value in parameters if name == b"boundary"]
    if len(named) != 1 or _BOUNDARY.fullmatch(named[0]) is None:
        raise InvalidRequest(
            "The content-type multipart/form-data must name one boundary of 1 to 70 letters, digits or '()+_,-./:=?; "
            "let the client's HTTP library set this field",
            param="content-type",
            code="unsupported_content_type",
        )
    return named[0]


class Scanner:
    """Reads one form, in pieces of any size. Keeps a boundary's length of it, or the part header it is in.

    `model` is None until it is known; `model_at` and `model_length` say where its value stands in the form, in bytes.
    `stream`: None: not seen. `settled`: the model is known, and so is `stream`, unless it comes after a file that comes
    after the model.
    """

    def __init__(self, boundary: bytes) -> None:
        self.model: str | None = None
        self.model_at = 0
        self.model_length = 0
        self.stream: bool | None = None
        self.settled = False
        self._needle = b"\n--" + boundary
        # The form's beginning stands for a line's beginning.
        self._buffer = bytearray(b"\r\n")
        self._base = -2  # where in the form the buffer begins
        self._looked = 0  # so far into the buffer nothing was found
        self._state = _State.BETWEEN
        self._parts = 0
        self._wanted = b""  # the field of this part, if it is one of ours
        self._value = bytearray()
        self._data_at = 0

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises: InvalidRequest; the scanner is of no use after that."""
        self._buffer += piece
        while self._step():
            pass

    def finish(self) -> None:
        """There is nothing more. Raises: InvalidRequest: the form is not complete."""
        ended = self._state is _State.LAST_LINE and not self._buffer.strip(_BLANKS)
        if not ended and self._state is not _State.CLOSED:
            raise _invalid("it breaks off before its closing boundary")

    # each step: True: go on with what is left in the buffer; False: more bytes are needed

    def _step(self) -> bool:
        match self._state:
            case _State.HEADER:
                return self._header()
            case _State.AFTER | _State.LAST_LINE:
                return self._rest_of_line()
            case _State.BETWEEN | _State.DATA | _State.CLOSED:
                return self._look_for_boundary()

    def _look_for_boundary(self) -> bool:
        buffer, needle = self._buffer, self._needle
        found = buffer.find(needle, self._looked)
        if found < 0:
            # the beginning of a boundary may be there already, and the CR before it
            self._consume(max(0, len(buffer) - len(needle)))
            self._looked = max(0, len(buffer) - len(needle) + 1)
            return False
        if buffer[found - 1] != 0x0D:
            raise _invalid("its boundary stands on a line after LF alone: lines end with CR LF")
        if self._state is _State.CLOSED:
            raise _invalid("there is a boundary after its closing boundary")
        if self._state is _State.DATA:
            self._consume(found - 1)
            self._end_of_data()
            found = 1
        self._drop(found + len(needle))
        self._state = _State.AFTER
        return True

    def _rest_of_line(self) -> bool:
        """What follows a boundary: two dashes, once; then blanks and a line's end."""
        buffer = self._buffer
        if self._state is _State.AFTER and buffer.startswith(b"-"):
            if len(buffer) < 2:
                return False
            if buffer[1] != 0x2D:
                raise _invalid("something else follows its boundary on the same line")
            self._drop(2)
            self._close()
            return True
        at = 0
        while at < len(buffer) and buffer[at] in _BLANKS:
            at += 1
        if at > _PADDING_MAX_BYTES:
            raise _invalid("there are too many blanks after its boundary")
        if not b"\r\n".startswith(bytes(buffer[at : at + 2])):
            what = "a boundary's line ends with LF alone: lines end with CR LF"
            raise _invalid(what if buffer[at] == 0x0A else "something else follows its boundary on the same line")
        if len(buffer) < at + 2:
            return False
        self._drop(at)  # the line's end stays: the header's end is looked for with it
        self._state = _State.CLOSED if self._state is _State.LAST_LINE else _State.HEADER
        return True

    def _header(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", self._looked)
        if (len(buffer) - 3 if end < 0 else end) > HEADER_MAX_BYTES:
            raise _invalid(f"a part has more than {HEADER_MAX_BYTES // 1024} KiB of header fields")
        if end < 0:
            self._looked = max(0, len(buffer) - 3)
            return False
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise _invalid(f"it has more than {PARTS_MAX} parts")
        name, is_file = _described(bytes(buffer[2:end]))
        self._begin_data(name, is_file)
        self._drop(end + 2)  # the line's end stays, so that a boundary just after it is noticed
        self._data_at = self._base + 2
        self._state = _State.DATA
        return True

    def _begin_data(self, name: bytes, is_file: bool) -> None:
        self._wanted = name if name in _WANTED else b""
        if is_file and self.model is not None:
            self.settled = True
        if not self._wanted:
            return
        field = name.decode()
        if (self.model if field == "model" else self.stream) is not None:
            raise InvalidRequest(f"'{field}' is in the form twice", param=field, code=f"invalid_{field}")
        if is_file:
            raise InvalidRequest(
                f"'{field}' must be a plain field of the form, not a file", param=field, code=f"invalid_{field}"
            )

    def _consume(self, count: int) -> None:
        """Be done with so many bytes of the buffer."""
        if self._wanted and self._state is _State.DATA:
            self._value += self._buffer[max(0, self._data_at - self._base) : count]
            if len(self._value) > VALUE_MAX_BYTES:
                field = self._wanted.decode()
                raise InvalidRequest(
                    f"'{field}' is longer than {VALUE_MAX_BYTES // 1024} KiB", param=field, code=f"invalid_{field}"
                )
        self._drop(count)

    def _end_of_data(self) -> None:
        """The buffer begins with the line's end that belongs to the boundary."""
        if self._base < self._data_at:
            raise _invalid("a part has no empty line between its header fields and its data")
        value = bytes(self._value)
        self._value.clear()
        if self._wanted == b"model":
            self.model = _model(value)
            self.model_at, self.model_length = self._data_at, len(value)
        elif self._wanted == b"stream":
            self.stream = value.strip().lower() in _TRUE
        self._wanted = b""
        self.settled = self.settled or (self.model is not None and self.stream is not None)

    def _close(self) -> None:
        self._state = _State.LAST_LINE
        if self.model is None:
            raise InvalidRequest("'model' is missing", param="model", code="missing_model")
        self.settled = True

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._base += count
        self._looked = 0


def _model(value: bytes) -> str:
    try:
        model = value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("'model' is not valid UTF-8", param="model", code="invalid_model") from None
    if not model:
        raise InvalidRequest("'model' must be a non-empty string", param="model", code="invalid_model")
    return model


def _described(header: bytes) -> tuple[bytes, bool]:
    """A part's name, and whether it is a file."""
    fields: dict[bytes, bytes] = {}
    for line in header.split(b"\r\n"):
        if b"\n" in line or b"\r" in line:
            raise _invalid("a header field ends with LF or CR alone: lines end with CR LF")
        if line[:1] in (b" ", b"\t"):
            raise _invalid("a header field is folded over several lines: write it on one")
        field = _FIELD.fullmatch(line)
        if field is None or b"\0" in line:
            raise _invalid("a part begins with something that is no header field")
        key = field[1].lower()
        if key in fields:
            raise _invalid("a part has the same header field twice")
        fields[key] = field[2]
    name, is_file = _disposed(fields.get(b"content-disposition", b""))
    if fields.get(b"content-type", b"").lstrip()[:10].lower() == b"multipart/":  # the email package goes into these
        raise _invalid("a part is several parts itself: send each file as a part of its own")
    if name in _WANTED and fields.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN_ENCODINGS:
        raise _invalid(f"'{name.decode()}' has a content-transfer-encoding: send it as it is")
    return name, is_file


def _disposed(disposition: bytes) -> tuple[bytes, bool]:
    kind, parameters = _value_and_parameters(disposition)
    names = [] if parameters is None else [value for key, value in parameters if key == b"name"]
    if kind != b"form-data" or parameters is None or len(names) != 1:
        raise _invalid('every part needs a plain header field content-disposition: form-data; name="…"')
    if len(_NAME_ANYWHERE.findall(disposition)) != 1 or b"\\" in names[0]:
        raise _invalid("a part's name can be read in two ways: use one plain name")
    return names[0], any(key in (b"filename", b"filename*") for key, _ in parameters)


def _value_and_parameters(field: bytes) -> tuple[bytes, list[tuple[bytes, bytes]] | None]:
    """`form-data; name="x"`: its value in lower case, its parameters without quotes; None for those that cannot be read."""
    value, semicolon, rest = field.partition(b";")
    parameters: list[tuple[bytes, bytes]] = []
    rest, at = semicolon + rest, 0
    while at < len(rest):
        parameter = _PARAMETER.match(rest, at)
        if parameter is None:
            return value.strip().lower(), None
        if parameter[1] is not None:
            text = parameter[2]
            parameters.append((parameter[1].lower(), text[1:-1] if text[:1] == b'"' else text))
        at = parameter.end()
    return value.strip().lower(), parameters


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not a valid form (multipart/form-data): {what}", code="invalid_multipart")
