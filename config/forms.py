"""How single values of the configuration are written, and read. Pure.

A `Form` says how a written value becomes a value ready to use, and how it is described when it is wrong, so there is one place
for both. Sizes become whole bytes, durations seconds, prices exact decimals, `"never"` math.inf, `"auto"` None, secrets `Secret`.
"""

from __future__ import annotations

import calendar
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import NoReturn, cast
from urllib.parse import urlsplit

import msgspec

DEVICE_PATTERN = re.compile(r"ram|gpu(0|[1-9]\d{0,2})", re.ASCII)
NEVER = math.inf  # a duration that does not end


class Secret:
    """A string that shows itself to nobody: repr, str and format give "***"; msgspec, pickle and copy refuse it.

    A plain class on purpose: msgspec has no encoding for it and raises TypeError.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the one place that sends or compares it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised")


class Mismatch(ValueError):
    """A written value has not the form of its key.

    Args:
        expected: overrides the form's own description where a part of the value is wrong.
        part: which item of the list or table is wrong; None for the whole value.
    """

    def __init__(self, expected: str = "", part: int | str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.part = part


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How one key's value is written, and read. `read` is pure and raises Mismatch."""

    expected: str  # completes "expected …"
    read: Callable[[object], object]
    secret: bool = False  # neither the value nor a part of it may be shown
    withheld: bool = False  # a key of ours: the variables it was made of are kept from the engines
    argv: bool = False  # a command line: one string is split as a shell would
    filled: bool = False  # ${port} and its like stay: they are put in when the engine is started


def _text(value: object) -> str:
    # NUL cannot be passed to a process nor stand in a path; nothing an operator means contains it
    if not isinstance(value, str) or "\0" in value:
        raise Mismatch
    return value


def _plain(value: object) -> str:
    if not (text := _text(value)):
        raise Mismatch
    return text


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Mismatch
    items = cast("list[object]", value)
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item or "\0" in item:
            raise Mismatch("a non-empty string", index)
    return tuple(cast("list[str]", items))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Mismatch
    return value


def split_command(text: str) -> list[str]:
    """One command line as argv, quoted as in a POSIX shell. Raises: Mismatch: a quote is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Mismatch("a command whose quotes are closed") from error


def _argv(value: object) -> tuple[str, ...]:
    # a single string was split before, so that a variable's value with blanks or quotes stays one argument
    if not isinstance(value, list):
        raise Mismatch
    parts = cast("list[object]", value)
    if any(not isinstance(part, str) or "\0" in part for part in parts):
        raise Mismatch
    return tuple(cast("list[str]", parts))


def _secret(value: object) -> Secret:
    if not isinstance(value, str) or not value.strip():
        raise Mismatch
    return Secret(value)


def _secrets(value: object) -> tuple[Secret, ...]:
    return tuple(Secret(item) for item in _strings(value))


def _environment(value: object) -> dict[str, Secret]:
    if not isinstance(value, dict):
        raise Mismatch
    for name, item in cast("dict[str, object]", value).items():
        if not name or "=" in name or "\0" in name or not isinstance(item, str) or "\0" in item:
            raise Mismatch("a name without '=' and a string", name)
    return {name: Secret(item) for name, item in cast("dict[str, str]", value).items()}


def _headers(value: object) -> dict[str, Secret]:
    if not isinstance(value, dict):
        raise Mismatch
    for name, item in cast("dict[str, object]", value).items():
        if not _FIELD_NAME.fullmatch(name) or name.lower() in _FIELDS_OF_OURS:
            raise Mismatch("a header field's name that is not set by us (Host, Content-Length, …)", name)
        if not isinstance(item, str) or not item or any(c in item for c in "\r\n\0"):
            raise Mismatch("a non-empty string without line breaks", name)
    return {name: Secret(item) for name, item in cast("dict[str, str]", value).items()}


def _amount(value: object) -> Decimal:
    """An exact decimal ≥ 0. TOML's floats come with 17 digits at most: `repr` gives back what was written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Mismatch
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except InvalidOperation:
        raise Mismatch from None
    if not amount.is_finite() or amount < 0 or abs(amount.adjusted()) > _AMOUNT_DIGITS:
        raise Mismatch
    return amount


def read_moment(value: object) -> float:
    """Seconds since the epoch of an ISO date (the end of that day) or date-time, UTC where it names no zone. Raises: Mismatch.

    TOML's own dates and times, which tomllib has as objects, say themselves in this form, too.
    """
    said = getattr(value, "isoformat", None)
    match = _MOMENT.fullmatch(value.strip() if isinstance(value, str) else said() if said is not None else "")
    if match is None:
        raise Mismatch
    year, month, day = (int(match[name]) for name in ("year", "month", "day"))
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]):
        raise Mismatch
    midnight_s = calendar.timegm((year, month, day, 0, 0, 0))
    if match["hour"] is None:
        return float(midnight_s + _DAY_S)
    hour, minute, second = int(match["hour"]), int(match["minute"]), float(match["second"] or 0)
    ahead_h, ahead_m = int(match["ahead_h"] or 0), int(match["ahead_m"] or 0)
    if hour > 23 or minute > 59 or second >= 60 or ahead_h > 23 or ahead_m > 59:
        raise Mismatch
    ahead_s = (ahead_h * 3600 + ahead_m * 60) * (-1 if match["sign"] == "-" else 1)
    return midnight_s + hour * 3600 + minute * 60 + second - ahead_s


def is_tenant_id(text: str) -> bool:
    """Whether a tenant may be called so."""
    return _TENANT_ID.fullmatch(text) is not None


def _tenant(value: object) -> str:
    text = _text(value)
    if text and not is_tenant_id(text):
        raise Mismatch
    return text


def _tenants(value: object) -> tuple[str, ...]:
    names = _strings(value)
    for index, name in enumerate(names):
        if name != ANY_TENANT and not is_tenant_id(name):
            raise Mismatch(f'{_TENANT_WORDS}, or "{ANY_TENANT}"', index)
    return names


def _database_url(value: object) -> Secret:
    text = _text(value)
    if not is_database_url(text):
        raise Mismatch
    return Secret(text)


def is_database_url(text: str) -> bool:
    """Whether it names a database of a kind that we can keep our tables in."""
    scheme, colon, rest = text.partition("://")
    return bool(colon and rest) and scheme in _DATABASES and not any(c.isspace() or c == "\0" for c in text)


def _prices(value: object) -> dict[str, dict[str, Decimal]]:
    if not isinstance(value, dict):
        raise Mismatch
    prices: dict[str, dict[str, Decimal]] = {}
    for model, table in cast("dict[str, object]", value).items():
        if not isinstance(table, dict) or not {"prompt", "completion"} <= set(cast("dict[str, object]", table)):
            raise Mismatch('a table with "prompt" and "completion"', model)
        prices[model] = {}
        for name, written in cast("dict[str, object]", table).items():
            if name not in PRICE_KEYS:
                raise Mismatch(f"a table of {', '.join(PRICE_KEYS)}", model)
            try:
                prices[model][name] = _amount(written)
            except Mismatch:
                raise Mismatch(f"{name} as {_AMOUNT_WORDS}", model) from None
    return prices


def _device(value: object) -> str:
    if not isinstance(value, str) or not DEVICE_PATTERN.fullmatch(value):
        raise Mismatch
    return value


def _url(value: object) -> str:
    text = _text(value)
    if not text:
        return text
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a broken IPv6 address
        raise Mismatch from None
    if not valid or "@" in parts.netloc or parts.query or parts.fragment or any(c.isspace() for c in text):
        raise Mismatch
    return text.rstrip("/")


def _proxy(value: object) -> Secret | None:
    """None: no proxy. Raises: Mismatch."""
    text = _text(value)
    if text == "none":
        return None
    if text == "auto":
        return Secret(text)
    try:
        parts = urlsplit(text)
        valid = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise Mismatch from None
    if not valid or parts.path not in ("", "/") or parts.query or parts.fragment or any(c.isspace() for c in text):
        raise Mismatch
    return Secret(text.rstrip("/"))


def _url_path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or any(c.isspace() for c in text):
        raise Mismatch
    return text


def _url_paths(value: object) -> tuple[str, ...]:
    paths = _strings(value)
    for index, path in enumerate(paths):
        if not path.startswith("/") or any(c.isspace() or c in "?#" for c in path):
            raise Mismatch("a path that begins with '/', without a query", index)
    return paths


def _parameters(value: object) -> dict[str, bytes]:
    """Name → JSON. TOML's dates and times, and its nan and inf, have no JSON."""
    if not isinstance(value, dict):
        raise Mismatch
    parameters: dict[str, bytes] = {}
    for name, item in cast("dict[str, object]", value).items():
        if not name or name in _PARAMETERS_OF_OURS:
            raise Mismatch(_PARAMETER_WORDS, name)
        try:
            written = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError):
            raise Mismatch("what JSON can say: no date or time, no nan, no inf", name) from None
        parameters[name] = written.encode()
    return parameters


def _parameter_names(value: object) -> tuple[str, ...]:
    names = _strings(value)
    for index, name in enumerate(names):
        if name in _PARAMETERS_OF_OURS:
            raise Mismatch(_PARAMETER_WORDS, index)
    return names


_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,9})?)\s*(?:([kmgt])(i?))?(b?)", re.IGNORECASE | re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_size(value: object) -> int:
    """Bytes of "16GiB" (powers of 1,024), "500MB" (powers of 1,000), or a whole number. Raises: Mismatch."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise Mismatch
    match = _SIZE.fullmatch(value.strip())
    if match is None or (match[2] and not match[4]):  # "16G" may mean either; ask for the whole unit
        raise Mismatch
    return int(Fraction(match[1]) * (1024 if match[3] else 1000) ** _POWER[(match[2] or "").lower()])


def positive_size(value: object) -> int:
    if (size := read_size(value)) <= 0:
        raise Mismatch
    return size


def _device_sizes(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise Mismatch
    sizes: dict[str, int] = {}
    for device, written in cast("dict[str, object]", value).items():
        if not DEVICE_PATTERN.fullmatch(device):
            raise Mismatch("a device's name: 'ram', 'gpu0', 'gpu1', …", device)
        try:
            sizes[device] = read_size(written)
        except Mismatch:
            raise Mismatch(_SIZE_WORDS, device) from None
    return sizes


def _footprint(value: object) -> dict[str, int]:
    """{device: bytes}; a single size stands under "" until the model's device is known."""
    return _device_sizes(cast("object", value)) if isinstance(value, dict) else {"": positive_size(value)}


def whole(least: int, most: int | None = None) -> Form:
    def read(value: object) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < least
            or (most is not None and value > most)
        ):
            raise Mismatch
        return value

    return Form(expected=f"a whole number {f'≥ {least}' if most is None else f'from {least} to {most}'}", read=read)


def seconds(words: Mapping[str, float | None] | None = None, *, zero: bool = True) -> Form:
    words = words or {}

    def read(value: object) -> float | None:
        if isinstance(value, str) and value in words:
            return words[value]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise Mismatch
        if value < 0 or (value == 0 and not zero):
            raise Mismatch
        return float(value)

    or_words = "".join(f', or "{word}"' for word in words)
    return Form(expected=f"a number of seconds {'≥' if zero else '>'} 0{or_words}", read=read)


def auto_size(read: Callable[[object], int]) -> Form:
    return Form(expected=f'"auto" or {_SIZE_WORDS}', read=lambda value: None if value == "auto" else read(value))


def choice(*options: str) -> Form:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise Mismatch
        return value

    return Form(expected=" or ".join(f'"{option}"' for option in options), read=read)


PRICE_KEYS = ("prompt", "completion", "request", "image", "cache_read", "cache_write", "reasoning")
_AMOUNT_DIGITS = 40  # before or behind the point; 1e-999999 written out would be a megabyte
_AMOUNT_WORDS = 'USD per token ≥ 0, exact: "0.00000025" or 2.5e-7'
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)  # RFC 9110 §5.6.2
_FIELDS_OF_OURS = frozenset(("host", "content-length", "transfer-encoding", "connection", "authorization", "x-api-key"))
_PARAMETERS_OF_OURS = frozenset(("model", "stream"))  # they decide the request's way before these tables are looked at
_PARAMETER_WORDS = "a parameter's name, and neither model nor stream"
_MOMENT = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[Tt ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d{1,9})?))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<ahead_h>\d\d):(?P<ahead_m>\d\d))?)?",
    re.ASCII,
)  # RFC 3339, and ISO 8601 without seconds or zone
_DAY_S = 86_400
_TENANT_ID = re.compile(r"[a-z0-9-]{3,50}", re.ASCII)
_TENANT_WORDS = "a tenant's id: 3 to 50 of a-z, 0-9 and -"
_DATABASES = ("postgresql", "postgres", "sqlite")
ANY_TENANT = "*"
_SIZE_WORDS = 'a size such as "16GiB", "500MB" or bytes'
TEXT = Form(expected="a string", read=_text)
PLAIN = Form(expected="a non-empty string", read=_plain)
STRINGS = Form(expected="a list of strings", read=_strings)
ARGV = Form(expected="a list of strings, or one string split as a shell does", read=_argv, argv=True, filled=True)
FLAG = Form(expected="true or false", read=_flag)
AUTO_FLAG = Form(expected='true, false or "auto"', read=lambda value: None if value == "auto" else _flag(value))
DEVICE = Form(expected="'ram', 'gpu0', 'gpu1', …", read=_device)
SECRET = Form(expected="a non-empty string", read=_secret, secret=True, withheld=True)
SECRETS = Form(expected="a list of non-empty strings", read=_secrets, secret=True, withheld=True)
ENVIRONMENT = Form(expected="a table of strings", read=_environment, secret=True, filled=True)
HEADERS = Form(expected="a table of strings", read=_headers, secret=True, withheld=True)
PROXY = Form(expected='"auto", "none" or an http:// address', read=_proxy, secret=True, withheld=True)
AMOUNT = Form(expected=_AMOUNT_WORDS, read=_amount)
BUDGET = Form(expected='USD ≥ 0, exact: "12.50"', read=_amount)
MOMENT = Form(expected='a date "2027-01-31" (its end, UTC) or a date-time "2027-01-31T12:00:00Z"', read=read_moment)
TENANT = Form(expected=_TENANT_WORDS, read=_tenant)
TENANTS = Form(expected=f'a list of tenants\' ids, or ["{ANY_TENANT}"]', read=_tenants)
DATABASE_URL = Form(expected="postgresql://… or sqlite:///PATH", read=_database_url, secret=True, withheld=True)
PRICES = Form(expected="a table: model = { prompt = …, completion = … }, in USD per token", read=_prices)
URL = Form(expected="an http:// or https:// address without user, query or fragment (keys go into api_key)", read=_url)
URL_PATH = Form(expected="a path that begins with '/'", read=_url_path)
URL_PATHS = Form(expected="a list of paths that begin with '/'", read=_url_paths)
PARAMETERS = Form(expected="a table: parameter = value", read=_parameters)
PARAMETER_NAMES = Form(expected="a list of parameters' names", read=_parameter_names)
SIZE_FORM = Form(expected=_SIZE_WORDS, read=positive_size)
DEVICE_SIZES = Form(expected="a table: device = size", read=_device_sizes)
FOOTPRINT = Form(expected=f"{_SIZE_WORDS}, or a table: device = size", read=_footprint)
LIMIT = seconds(zero=False)
NEVER_OK = seconds({"never": NEVER})
NEVER_LIMIT = seconds({"never": NEVER}, zero=False)
