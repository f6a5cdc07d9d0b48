"""From an entry to the values of its row, and back. Pure.

The law: a row can always be kept. What a database would refuse (a NUL, half a surrogate pair, a number beyond 64 bits) or what
would spoil sums (a count no model can reach) is made smaller or harmless here, once, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import msgspec

from .entry import Entry

# As `gateway/storage/tables.py` has them; a test compares.
COLUMNS = (
    "at_us", "row_id", "id", "principal", "key_id", "tenant", "asked", "model", "target", "route", "status", "code", "streamed",
    "left", "prompt", "completion", "cached", "reasoning", "cost_nano", "cost_atto", "queued_us", "first_byte_us", "total_us",
    "load_us", "bytes_in", "bytes_out", "user_agent",
)  # fmt: skip

TEXT_MAX = 512  # characters; the name of a model that somebody made up may be as long as a body
TOKENS_MAX = 10**12  # 9 million rows of them can still be added
WHOLE_MAX = (1 << 63) - 1
COST_MAX = 10**9  # USD; more for one request is unknown
_NANO = 10**9
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, Emin=-(10**6), Emax=10**6, traps=[])
_FRACTION_DIGITS = 18  # of what is kept

Values = tuple[Any, ...]


def values(row_id: str, entry: Entry) -> Values:
    """In the order of COLUMNS."""
    nano, atto = (None, None) if entry.cost_usd is None else split(entry.cost_usd)
    return (
        entry.at_us,
        row_id,
        _storable(entry.id),
        entry.principal,
        entry.key_id,
        entry.tenant,
        _storable(entry.asked),
        _storable(entry.model),
        _storable(entry.target),
        entry.route,
        entry.status,
        entry.code,
        entry.streamed,
        entry.left,
        entry.prompt if entry.prompt <= TOKENS_MAX else TOKENS_MAX,
        entry.completion if entry.completion <= TOKENS_MAX else TOKENS_MAX,
        entry.cached if entry.cached <= TOKENS_MAX else TOKENS_MAX,
        entry.reasoning if entry.reasoning <= TOKENS_MAX else TOKENS_MAX,
        nano,
        atto,
        entry.queued_us,
        entry.first_byte_us,
        entry.total_us,
        entry.load_us,
        entry.bytes_in,
        entry.bytes_out,
        _storable(entry.user_agent),
    )


def entry_of(row: Sequence[Any]) -> Entry:
    """What `values` was made of."""
    fields = dict(zip(COLUMNS, row, strict=True))
    del fields["row_id"]
    cost = joined(fields.pop("cost_nano"), fields.pop("cost_atto"))
    return Entry(**fields, cost_usd=cost)


def sound(entry: Entry) -> Entry:
    """The same, with every value such that it can be encoded and kept; for one that cannot."""
    fields: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(entry).items():
        if isinstance(value, str):
            fields[name] = value[:TEXT_MAX].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        elif isinstance(value, int) and not isinstance(value, bool):
            fields[name] = max(0, min(value, WHOLE_MAX))
        else:
            fields[name] = value
    return Entry(**fields)


def _storable(text: str) -> str:
    # PostgreSQL's TEXT takes no NUL
    return text.replace("\0", "\ufffd") if "\0" in text else text


# ---------------------------------------------------------------------- money


def split(cost: Decimal) -> tuple[int, int] | tuple[None, None]:
    """Billionths of a USD, and billionths of those; finer than that is rounded. (None, None): no amount."""
    if not cost.is_finite() or not 0 <= cost <= COST_MAX:
        return None, None
    return divmod(int(cost.scaleb(_FRACTION_DIGITS, _EXACT).to_integral_value(context=_EXACT)), _NANO)


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
