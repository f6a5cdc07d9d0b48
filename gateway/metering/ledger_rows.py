"""From an entry to the values of its row, and back. Pure.

    entry ──(fields_of: one tuple)──▶ spool
                                 └──▶ its kind: what many requests have in common, one row for all of them
                                 └──▶ its own row: the rest, its cost as two whole numbers, and which kind it is of

The law: a row can always be kept. What a database would refuse (a NUL, half a surrogate pair, a number beyond 64 bits) or what
would spoil sums (a count no model can reach) is made smaller or harmless here, once, and nowhere else. It is looked for in many
rows at once (`odd`), since hardly any has it; only where it is found each field is gone through (`sound`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec

from .entry import Entry

Fields = tuple[Any, ...]  # of an entry, in its order
Kind = tuple[Any, ...]  # in the order of KIND
Body = tuple[int, int, bytes, bool, bytes, bool]  # time and id of its request, and as the table of bodies has them
Values = tuple[tuple[Any, ...], tuple[Any, ...], tuple[int, int]]

NAMES = Entry.__struct_fields__
# As `gateway/storage/tables.py` has them; a test compares.
KIND_TEXTS = ("principal", "key_id", "tenant", "asked", "model", "target", "route", "code", "left", "user_agent")
KIND = (*KIND_TEXTS, "status", "streamed")
_OWN = (
    "at_us", "id", "prompt", "completion", "cached", "reasoning",
    "queued_us", "first_byte_us", "total_us", "load_us", "bytes_in", "bytes_out",
)  # fmt: skip
PIECES = (_OWN, ("cost_nano", "cost_atto"), ("kind", "row_id"))
COLUMNS = tuple(name for piece in PIECES for name in piece)
_COST = NAMES.index("cost_usd")
_TOKENS = tuple(NAMES.index(name) for name in ("prompt", "completion", "cached", "reasoning"))
_tokens_of = tuple(map(itemgetter, _TOKENS))

TEXT_MAX = 512  # characters; the name of a model that somebody made up may be as long as a body
TOKENS_MAX = 10**12  # 9 million rows of them can still be added
WHOLE_MAX = (1 << 63) - 1
COST_MAX = 10**9  # USD; more for one request is unknown
DIGEST_BYTES = 16
_NANO = 10**9
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, Emin=-(10**6), Emax=10**6, traps=[])
_FRACTION_DIGITS = 18  # of what is kept
_FRACTIONS = Decimal(10**_FRACTION_DIGITS)  # in a USD
_WHOLE_COST_MAX = COST_MAX * 10**_FRACTION_DIGITS
_COST_DIGITS = Decimal(COST_MAX).adjusted()

fields_of = msgspec.structs.astuple
time_of = itemgetter(NAMES.index("at_us"))
kind_of = itemgetter(*(NAMES.index(name) for name in KIND))
_own_of = itemgetter(*(NAMES.index(name) for name in _OWN))
_id_of = itemgetter(NAMES.index("id"))
_cost_of = itemgetter(_COST)
_encode = msgspec.msgpack.Encoder().encode


def values(row_ids: Iterable[int], rows: Sequence[Fields], kinds: Iterable[int]) -> Iterable[Values]:
    """Of each row, in the order of COLUMNS, but in three pieces: nothing is built that is taken apart again."""
    return zip(map(_own_of, rows), map(split, map(_cost_of, rows)), zip(kinds, row_ids, strict=True), strict=True)


def digest(kind: Kind) -> bytes:
    """What a kind is found by: alike only for what is alike, whatever callers make up."""
    return hashlib.blake2b(_encode(kind), digest_size=DIGEST_BYTES).digest()


def entry_of(row: Mapping[Any, Any]) -> Entry:
    """What the values were made of, by the names of the columns."""
    fields = {name: row[name] for name in NAMES if name != "cost_usd"}
    return Entry(**fields, cost_usd=joined(row["cost_nano"], row["cost_atto"]))


# ---------------------------------------------------------------------- what can be kept


def odd(rows: Sequence[Fields], kinds: Collection[Kind]) -> bool:
    """Whether one of them, or of the kinds that they are of, is not as it can be kept."""
    try:
        ids = list(map(_id_of, rows))
        texts = list(chain.from_iterable(kind[: len(KIND_TEXTS)] for kind in kinds))
        return (
            max(max(map(tokens_of, rows)) for tokens_of in _tokens_of) > TOKENS_MAX
            or max(map(len, ids)) > TEXT_MAX
            or "\0" in "".join(ids)
            or max(map(len, texts), default=0) > TEXT_MAX
            or "\0" in "".join(texts)
        )
    except TypeError:
        return True


def sound(fields: Fields) -> Fields:
    """The same, with every value such that it can be encoded and kept."""
    found = [_sound(value) for value in fields]
    if not isinstance(found[_COST], Decimal):
        found[_COST] = None
    for place in _TOKENS:
        if isinstance(found[place], int):
            found[place] = min(found[place], TOKENS_MAX)
    return tuple(found)


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        # PostgreSQL's TEXT takes no NUL
        return value[:TEXT_MAX].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, min(value, WHOLE_MAX))
    return value


# ---------------------------------------------------------------------- money


def split(cost: Decimal | None) -> tuple[int, int] | tuple[None, None]:
    """Billionths of a USD, and billionths of those; finer than that is rounded. (None, None): no amount."""
    if cost is None:
        return None, None
    if not cost:
        return 0, 0
    if cost.adjusted() > _COST_DIGITS or not cost.is_finite():
        return None, None
    exact = _EXACT.multiply(cost, _FRACTIONS)
    whole = int(exact)
    if whole != exact:
        whole = int(exact.to_integral_value(context=_EXACT))
    return divmod(whole, _NANO) if 0 <= whole <= _WHOLE_COST_MAX else (None, None)


def joined(nano: int | None, atto: int | None) -> Decimal | None:
    """The amount of the two, or of two sums of them."""
    if nano is None or atto is None:
        return None
    amount = Decimal(int(nano) * _NANO + int(atto)).scaleb(-_FRACTION_DIGITS, _EXACT).normalize(_EXACT)
    # 1E+2 means the same, but nobody writes a hundred dollars like that
    return amount.quantize(Decimal(1), context=_EXACT) if amount == amount.to_integral_value() else amount


def plain(amount: Decimal) -> str:
    """Its digits without an exponent: "0.0000001"."""
    return format(amount, "f")
