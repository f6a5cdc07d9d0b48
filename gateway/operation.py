"""What a gateway is operated with: who may ask, what was asked, and what of it is shown. Built once, by the composition root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import msgspec

from config.load import ConfigError
from config.schema import Config
from gateway.access.door import Access, Spent, access_of
from gateway.api.activity import Archive
from gateway.api.live import Hub
from gateway.api.record import Costs, Recorder
from gateway.api.standing import Standing
from gateway.metering.activity import Activity
from gateway.metering.ledger import Ledger
from gateway.metering.rates import Minutes, Rates
from gateway.metering.usage import Usage
from gateway.proxy.pipeline import Upstream
from gateway.residency.manager import ResidencyManager
from gateway.residency.timeline import Timeline
from gateway.routing.catalog import Catalog
from gateway.routing.listings import Listings
from gateway.storage.database import Database, UnusableUrl, database_url

# How long the start waits to hear what a former run let in, where the configuration limits somebody.
RESTORE_S = 3.0


class Books(msgspec.Struct, frozen=True):
    """What outlives a restart: keys and tenants, and the ledger where there is one."""

    access: Access
    ledger: Ledger | None

    @property
    def archive(self) -> Archive | None:
        """The ledger, as `/admin/activity` asks it."""
        ledger = self.ledger
        return None if ledger is None else Archive(ledger.older, ledger.one, ledger.captured)


class Desk(msgspec.Struct, frozen=True):
    """What the operator sees of the present and of the last hours."""

    activity: Activity
    minutes: Minutes
    timeline: Timeline
    standing: Standing
    recorder: Recorder
    hub: Hub
    cost: Callable[[str, Usage], Decimal | None]  # of an answer of this target in USD; None: unknown


async def open_books(config: Config, stack: AsyncExitStack) -> tuple[Books, Coroutine[Any, Any, None]]:
    """Keys, tenants and ledger; and the work that goes on in the background, to be started and ended by the caller.

    Neither waits for a database: rows and unknown keys do.

    Raises: ConfigError: the database's address cannot be used.
    """
    url = config.ledger.url
    try:
        address = database_url(url.reveal() if url else "", {}, config.server.state_dir)
    except UnusableUrl as error:
        raise ConfigError(
            str(config.path or "DATABASE_URL"), "ledger.url", "a database that can be used", str(error)
        ) from None
    database = Database(address)
    stack.push_async_callback(database.aclose)
    spool_dir = config.server.state_dir / "spool"
    access = await access_of(config, database, spool_dir)
    ledger = None
    if config.ledger.enabled:
        ledger = Ledger(
            database,
            spool_dir,
            buffer_rows=config.ledger.buffer_rows,
            retention_days=config.ledger.retention_days,
            capture_max_bytes=config.ledger.capture_max_bytes,
        )
        await ledger.open()
        stack.push_async_callback(ledger.aclose)
    return Books(access, ledger), access.run(None if ledger is None else _past_of(ledger))


async def restored(access: Access) -> None:
    """Returns when limits know what a former run let in, or after RESTORE_S: a database that is away does not stop the start."""
    if access.limited:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTORE_S):
                await access.ready.wait()


def _past_of(ledger: Ledger) -> Callable[[str, float, float], Coroutine[Any, Any, Spent]]:
    async def past(who: str, since_s: float, until_s: float) -> Spent:
        kind, _, name = who.partition(":")
        spent = await ledger.spent(
            key_id=name if kind == "key" else "",
            tenant=name if kind == "tenant" else "",
            since_us=int(since_s * 1e6),
            until_us=int(until_s * 1e6),
        )
        return Spent(spent.requests, spent.tokens, spent.cost_usd)

    return past


def desk_of(
    books: Books,
    catalog: Callable[[], Catalog],
    residency: ResidencyManager,
    listings: Listings,
    upstreams: Mapping[str, Upstream],
    timeline: Timeline,
) -> Desk:
    """Wired to the parts it tells of."""
    ledger = books.ledger
    clock = asyncio.get_running_loop().time
    costs = Costs(catalog, residency.managed.__contains__)
    activity, rates, minutes = Activity(), Rates(), Minutes()
    recorder = Recorder(
        activity,
        rates,
        minutes,
        costs,
        load_part=timeline.load_part,
        keep=None if ledger is None else ledger.add,
        keep_soon=None if ledger is None else ledger.add_soon,
        keep_bodies=None if ledger is None else ledger.add_capture,
    )
    standing = Standing(
        catalog,
        residency,
        listings,
        upstreams,
        activity,
        rates,
        lambda: None if ledger is None else ledger.state,
        clock,
    )
    hub = Hub(
        residency.journal,
        activity,
        state=standing.state,
        loads=standing.loads,
        name_of=standing.name_of,
        clock=clock,
    )

    def cost(target: str, usage: Usage) -> Decimal | None:
        return costs.of(target, usage, answered=True)

    return Desk(activity, minutes, timeline, standing, recorder, hub, cost)
