"""From a request's coming to its end: the Entry that is made of it, and who is told: the activity, the rates and the ledger.

The law: it costs a few microseconds a request and nothing while an answer streams; it never fails a request. What a request took is
what its upstream told; what it cost is exact or unknown, never guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from typing import Any, Protocol, cast

from gateway.access.principal import Principal
from gateway.metering.activity import Activity, Begun
from gateway.metering.capture import Capture
from gateway.metering.entry import USER_AGENT_MAX, Entry, Left
from gateway.metering.rates import Minutes, Rates
from gateway.metering.usage import Usage
from gateway.routing.catalog import Catalog
from providers.pricing import ZERO, Price, is_free

Fields = Sequence[tuple[bytes, bytes]]
# (target, when its wait ended in seconds since the epoch, how long it waited) → how much of that a load of it took, in seconds
LoadPart = Callable[[str, float, float], float]
_EXACT = Context(prec=400)  # as providers/pricing.py has it
_NOBODY = Principal("", admin=False)
_NO_USAGE = Usage()


class Kept(Protocol):
    """Bodies put aside."""

    request: bytes
    response: bytearray
    cut: bool  # the answer is longer


class Exchange(Protocol):
    """What the caller's side of an exchange knows (`proxy/client.py`). Seconds are the loop's; 0.0: not reached."""

    principal: Principal | None  # None until its key was looked at
    asked: str
    model: str  # its public name
    target: str
    status: int
    code: str  # of the error that it was told, or would have been
    left: bool
    streaming: bool
    committed: bool
    usage: Usage | None
    queued_s: float  # how long it waited for its model, over all attempts
    leased_s: float  # when it had it
    first_s: float  # when the first byte of the answer itself was handed on
    bytes_in: int
    bytes_out: int

    @property
    def kept(self) -> Kept | None:
        """Its bodies, where its key has them kept."""
        ...


class Record:
    """One request in progress."""

    __slots__ = ("_scope", "at_us", "exchange", "number", "started_s")

    def __init__(self, scope: Mapping[str, Any], exchange: Exchange, started_s: float) -> None:
        self._scope = scope
        self.exchange = exchange
        self.started_s = started_s
        self.at_us = time.time_ns() // 1000
        self.number = 0

    def id(self) -> str:
        fields = self._scope["state"]["fields"]  # the edge's is the first, wherever there is an edge
        return fields[0][1].decode("latin-1") if fields else ""

    def route(self) -> str:
        return self._scope["path"]

    def user_agent(self) -> str:
        learned: dict[str, Any] | None = self._scope["state"].get("learned")
        if learned is None:
            return _user_agent(self._scope["headers"])
        known = learned.get("user_agent")
        if known is None:
            known = learned["user_agent"] = _user_agent(self._scope["headers"])
        return known

    def begun(self) -> Begun:
        """How it stands."""
        who, exchange = self.exchange.principal or _NOBODY, self.exchange
        return Begun(
            id=self.id(),
            at_us=self.at_us,
            principal=who.name,
            key_id=who.key_id,
            tenant=who.tenant,
            asked=exchange.asked,
            model=exchange.model,
            target=exchange.target,
            route=self.route(),
            streamed=exchange.streaming,
            phase="answering" if exchange.committed else "queued",
        )


def _user_agent(headers: Fields) -> str:
    for name, value in headers:
        if name == b"user-agent":
            return value[:USER_AGENT_MAX].decode("latin-1")
    return ""


class _Scaled:
    """A price as whole numbers of one small unit: adding these up is exact, and costs a tenth of what decimals do."""

    __slots__ = ("_exponent", "_parts")

    def __init__(self, price: Price) -> None:
        parts = (
            price.prompt,
            price.prompt if price.cache_read is None else price.cache_read,
            price.prompt if price.cache_write is None else price.cache_write,
            price.completion,
            price.completion if price.reasoning is None else price.reasoning,
            price.request,
        )
        self._exponent = min(cast("int", part.as_tuple().exponent) for part in parts)
        self._parts = tuple(int(part.scaleb(-self._exponent, _EXACT)) for part in parts)

    def cost(self, usage: Usage) -> Decimal:
        """As `providers.pricing.cost`, of one request without pictures."""
        prompt, read, write, completion, reasoning, request = self._parts
        total = prompt * usage.prompt + completion * usage.completion + request
        if usage.cached or usage.written or usage.reasoning:
            cached = min(usage.cached, usage.prompt)
            written = min(usage.written, usage.prompt - cached)
            thought = min(usage.reasoning, usage.completion)
            total += (read - prompt) * cached + (write - prompt) * written + (reasoning - completion) * thought
        return Decimal(total).scaleb(self._exponent, _EXACT)


class Costs:
    """USD of an answer, by the catalogue's prices; looked up once per target and catalogue.

    Args:
        own: whether a target runs in memory of ours, which costs nothing unless its provider says otherwise.
    """

    __slots__ = ("_catalog", "_known", "_own", "_prices")

    def __init__(self, catalog: Callable[[], Catalog], own: Callable[[str], bool]) -> None:
        self._catalog = catalog
        self._own = own
        self._known: Catalog | None = None  # whose prices these are
        self._prices: dict[str, _Scaled | Decimal | None] = {}

    def of(self, target: str, usage: Usage | None, *, answered: bool) -> Decimal | None:
        """None: nobody knows.

        Args:
            answered: False: refused or failed; without a usage that took nothing.
        """
        if usage is not None and usage.cost is not None:
            return usage.cost
        if usage is None and not answered:
            return ZERO
        price = self._price(target)
        if price is None or price is ZERO:
            return ZERO if price is ZERO else None
        return None if usage is None else cast("_Scaled", price).cost(usage)

    def _price(self, target: str) -> _Scaled | Decimal | None:
        """ZERO itself where it is free, None where it is not known."""
        catalog = self._catalog()
        if catalog is not self._known:
            self._known = catalog
            self._prices = {}
        if target in self._prices:
            return self._prices[target]
        model = catalog.by_target.get(target)
        price = None if model is None or model.offer is None else model.offer.price
        found = (ZERO if self._own(target) else None) if price is None else ZERO if is_free(price) else _Scaled(price)
        self._prices[target] = found
        return found


class Recorder:
    """Begins and ends records.

    Args:
        keep: the ledger's `add`; it never blocks and never raises. None: it is off.
        load_part: from the timeline.
        keep_bodies: the ledger's `add_capture`, for keys that have their bodies kept.
        keep_soon: the ledger's `add_soon`, for whom nothing limits: no limit has to be known again after a kill.
    """

    def __init__(
        self,
        activity: Activity,
        rates: Rates,
        minutes: Minutes,
        costs: Costs,
        keep: Callable[[Entry], None] | None = None,
        load_part: LoadPart | None = None,
        keep_bodies: Callable[[Entry, Capture], None] | None = None,
        keep_soon: Callable[[Entry], None] | None = None,
    ) -> None:
        self._keep_soon = keep_soon or keep
        self._keep_bodies = keep_bodies
        self._activity = activity
        self._rates = rates
        self._minutes = minutes
        self._costs = costs
        self._keep = keep
        self._load_part = load_part

    def begin(self, scope: Mapping[str, Any], exchange: Exchange, started_s: float) -> Record:
        """Its header fields are in. `started_s`: the loop's clock."""
        record = Record(scope, exchange, started_s)
        record.number = self._activity.begin(record)
        return record

    def end(self, record: Record, now_s: float) -> Entry:
        """However it ended."""
        entry = self._entry(record, now_s)
        self._activity.end(record.number, entry)
        self._rates.count(entry.completion)
        if entry.model:  # not what callers make up
            self._minutes.count(entry.at_us, entry.model)
        kept = record.exchange.kept
        if kept is not None and self._keep_bodies is not None:
            bodies = Capture(kept.request, bytes(kept.response), response_cut=kept.cut)
            self._keep_bodies(entry, bodies)
        elif self._keep is not None and self._keep_soon is not None:
            who = record.exchange.principal
            limited = who is not None and (who.limits is not None or who.tenant)
            (self._keep if limited else self._keep_soon)(entry)
        return entry

    def _entry(self, record: Record, now_s: float) -> Entry:
        exchange, started_s, target = record.exchange, record.started_s, record.exchange.target
        who = exchange.principal or _NOBODY
        usage = exchange.usage or _NO_USAGE
        queued_s, first_s = exchange.queued_s, exchange.first_s
        load_us = 0
        if queued_s > 0.001 and self._load_part is not None:
            leased_s = record.at_us / 1e6 + (exchange.leased_s or now_s) - started_s
            load_us = int(self._load_part(target, leased_s, queued_s) * 1e6)
        return Entry(  # by place, see there
            record.id(),
            record.at_us,
            who.name,
            who.key_id,
            who.tenant,
            exchange.asked,
            exchange.model,
            target,
            record.route(),
            exchange.status,
            exchange.code,
            exchange.streaming,
            _left(exchange) if exchange.left else "",
            usage.prompt,
            usage.completion,
            usage.cached,
            usage.reasoning,
            self._costs.of(target, exchange.usage, answered=exchange.status == 200),
            int(queued_s * 1e6),
            int((first_s - started_s) * 1e6) if first_s else 0,
            int((now_s - started_s) * 1e6),
            load_us,
            exchange.bytes_in,
            exchange.bytes_out,
            record.user_agent(),
        )


def _left(exchange: Exchange) -> Left:
    """Where the caller was when it left."""
    if not exchange.asked:
        return "upload"
    if not exchange.leased_s:
        return "queued"
    return "answer" if exchange.committed else "first_byte"
