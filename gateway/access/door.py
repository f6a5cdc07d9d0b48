"""The door: who comes in, in whose name, and whether there is room within their limits.

The law: whether a key is needed at all is said by the configuration and never by what is in the database, so that the last
revoked key opens nothing and the first made one locks nobody out. A key that has our own form is known or refused, also where none
is needed. One digest and one dictionary stand between a key and its principal; nothing is awaited on the way of a request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from config.schema import Config
from gateway.errors import Forbidden, InvalidRequest, Unauthenticated
from gateway.storage.database import Database, DatabaseUnavailable

from .keystore import DatabaseTable, KeyStore, stamp_of, tenant_missing, tenant_taken
from .limits import WINDOW_S, Limiter, Reservation, Subjects, Used
from .principal import Limits, Principal
from .secret import KEY_START, Digester, machine_secret, new_secret
from .sessions import Sessions, Throttle
from .tenants import tenant_of
from .terms import KeyRecord, TenantRecord, Terms, terms_of

log = logging.getLogger("roundhouse.access")

_NAMED_MAX = 10_000  # principals that were made of a key and a tenant it named
_DAY_S = 86_400
AGAIN_S = 5.0  # after the database was away


class Spent(msgspec.Struct, frozen=True):
    """What a key, or a tenant, has used in some time."""

    requests: int
    tokens: int
    cost_usd: Decimal


_NOTHING_SPENT = Spent(0, 0, Decimal(0))
# who ("key:ID", "tenant:NAME"), since when, until when (seconds since the epoch) → what the ledger knows
Past = Callable[[str, float, float], Awaitable[Spent]]


class Access:
    """Everything the edge asks about callers.

    Args:
        digest: under this machine's secret; None: under one that ends with this process, which is enough for configured keys.
        store: keys and tenants made at run time; None: there are none.
        clock: UTC, seconds since the epoch.
        ticks: only goes forwards; for sessions.
    """

    def __init__(
        self,
        config: Config,
        digest: Digester | None = None,
        store: KeyStore | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._digest = digest or Digester(new_secret())
        self.store = store or KeyStore(None, self._digest, clock)
        self._clock = clock
        self.limiter = Limiter()
        self.sessions = Sessions(ticks)
        self._throttle = Throttle(ticks)
        self._configured = _configured(config, self._digest)
        self._own_tenants = {
            name: TenantRecord(
                id=name, display_name=tenant.display_name or name, terms=terms_of(tenant), source="config"
            )
            for name, tenant in config.tenants.items()
        }
        has_admin = any(record.admin for _, record in self._configured)
        closed = bool(config.server.api_keys or config.keys)
        self._anybody = None if closed else Principal("local", admin=not has_admin)
        self.needed = bool(self._configured)
        self._held: dict[bytes, Principal] = {}
        self._named: dict[tuple[str, str], Principal] = {}
        self._tenants: dict[str, TenantRecord] = {}
        self._subjects: dict[tuple[str, str], Subjects] = {}
        self._making: set[str] = set()  # names of keys that are being written down
        self._began_s = clock()
        self.edition: object = None  # another one after every change: who remembers what was said before it asks again
        self.restored = self.store.read  # with nothing in a database there is nothing to wait for
        self.ready = asyncio.Event()
        if self.restored:
            self.ready.set()
        self.store.changed = self._rebuild
        self._rebuild()
        _warn_of_expired([record for _, record in self._configured], clock())

    # ------------------------------------------------------------ who

    def principal(self, key: str | None, tenant: str | None = None) -> Principal:
        """Who asks with this key, for the tenant that X-Tenant-ID names.

        Raises: Unauthenticated, Forbidden, InvalidRequest; DatabaseUnavailable: it may be a key of those that are not read yet.
        """
        principal = self.holder(key)
        if not tenant and not principal.may_name and not principal.tenant:
            return principal
        return self.in_name_of(principal, tenant)

    def admin(self, key: str | None) -> Principal:
        """Raises: Unauthenticated, Forbidden, DatabaseUnavailable."""
        principal = self.holder(key)
        if principal is self._anybody and not principal.admin:
            raise _unauthenticated(key)
        return self.as_admin(principal)

    def as_admin(self, principal: Principal) -> Principal:
        """Raises: Forbidden."""
        if not principal.admin:
            raise Forbidden("This needs an admin key (server.admin_keys, or a key with admin = true)")
        return principal

    def holder(self, key: str | None) -> Principal:
        """Whose key it is, whatever tenant. Raises: Unauthenticated, DatabaseUnavailable."""
        if key is not None:
            found = self._held.get(self._digest(key))
            if found is not None:
                return self._in_time(found)
            if key.startswith(KEY_START):
                if not self.restored:
                    raise DatabaseUnavailable("Keys that were made at run time cannot be read yet; try again")
                raise _unauthenticated(key)
        if self._anybody is None:
            raise _unauthenticated(key)
        return self._anybody

    def _in_time(self, principal: Principal) -> Principal:
        if principal.expires_at is not None and self._clock() >= principal.expires_at:
            raise Unauthenticated("This API key has expired: ask for a new one")
        return principal

    def in_name_of(self, principal: Principal, named: str | None) -> Principal:
        """The same for the tenant that it names, or belongs to. Raises: Forbidden, InvalidRequest."""
        if principal is self._anybody:
            return principal
        tenant = tenant_of(principal.tenant, principal.may_name, named, self._tenants)
        known = self._named.get((principal.key_id, tenant))
        if known is None:
            models = self._tenants[tenant].terms.models if tenant else ()
            known = replace(principal, tenant=tenant, tenant_models=models)
            if len(self._named) >= _NAMED_MAX:
                self._named.clear()
            self._named[principal.key_id, tenant] = known
        return known

    # ------------------------------------------------------------ sessions

    def login(self, key: str, address: str) -> str:
        """A session's cookie. Raises: RateLimited, Unauthenticated, DatabaseUnavailable."""
        self._throttle.enter(address)
        digest = self._digest(key)
        try:
            principal = self._held.get(digest)
            if principal is None:
                self.holder(key)  # says what is wrong with it, unless anybody may come in
                raise Unauthenticated("This API key is not known here")
            self._in_time(principal)
        except Unauthenticated:
            self._throttle.failed(address)
            raise
        if principal.admin:  # who has a key of another sort would have its guesses forgiven by it
            self._throttle.succeeded(address)
        return self.sessions.open(digest)

    def session_holder(self, token: str, *, used: bool = True) -> Principal | None:
        """Whose session it is; None: nobody's, or its key is revoked or expired. `used`: see `Sessions.find`."""
        digest = self.sessions.find(token, used=used)
        principal = None if digest is None else self._held.get(digest)
        if principal is None:
            return None
        try:
            return self._in_time(principal)
        except Unauthenticated:
            return None

    # ------------------------------------------------------------ how much

    def subjects(self, principal: Principal) -> Subjects:
        """Whose limits hold for it; none: there are no limits."""
        who = (principal.key_id, principal.tenant)
        found = self._subjects.get(who)
        if found is None:
            limited: list[tuple[str, Limits]] = []
            if principal.limits is not None:
                limited.append((f"key:{principal.key_id}", principal.limits))
            tenant = self._tenants.get(principal.tenant)
            if tenant is not None and (limits := tenant.terms.limits()) is not None:
                limited.append((f"tenant:{tenant.id}", limits))
            found = tuple(limited)
            if len(self._subjects) >= _NAMED_MAX:
                self._subjects.clear()
            self._subjects[who] = found
        return found

    def reserve(self, principal: Principal, *, tokens: int, cost_usd: Decimal | None) -> Reservation | None:
        """Room for one request; None: nothing limits it. See `Limiter.reserve_all`. Raises: RateLimited."""
        subjects = self.subjects(principal)
        if not subjects:
            return None
        return self.limiter.reserve_all(subjects, tokens=tokens, cost_usd=cost_usd, now_s=self._clock())

    def release(self, reservation: Reservation) -> None:
        """It has used nothing."""
        self.limiter.release(reservation, self._clock())

    def limit_fields(self, principal: Principal) -> list[tuple[bytes, bytes]]:
        """The x-ratelimit-* header fields; none where nothing limits it."""
        subjects = self.subjects(principal)
        return self.limiter.headers_all(subjects, self._clock()) if subjects else []

    def used(self, who: str) -> Used:
        return self.limiter.used(who, self._clock())

    @property
    def limited(self) -> bool:
        """Whether the configuration itself limits somebody: then requests should wait for `ready` some seconds."""
        limited = [record.terms.limits() for _, record in self._configured]
        return any(limits is not None for limits in (*limited, *(t.terms.limits() for t in self._own_tenants.values())))

    async def run(self, past: Past | None) -> None:
        """Keeps what is known here and what is in the database together, as long as it runs.

        Args:
            past: what a former run let in; None: nobody wrote it down.
        """
        try:
            while self.store.kept:
                if self.restored:
                    await self.store.until_next()
                await self._look(past)
        finally:
            await self.store.settle()

    async def _look(self, past: Past | None) -> None:
        try:
            await self.store.refresh()
            if not self.restored:
                await self.restore(past)
        except DatabaseUnavailable as error:
            log.warning("keys, tenants and their use cannot be read from the database: %s", error.message)
            await asyncio.sleep(AGAIN_S)

    async def restore(self, past: Past | None) -> None:
        """What a former run let in counts on; from now on keys made at run time are let in. Raises: what `past` raises."""
        limited = {f"key:{record.id}": record.terms.limits() for record in self.all_keys() if record.revoked_s is None}
        limited |= {f"tenant:{tenant.id}": tenant.terms.limits() for tenant in self._named_tenants().values()}
        found = [
            (who, await self._past(who, limits, past)) for who, limits in limited.items() if limits is not None and past
        ]
        now_s = self._clock()
        for who, (minute, day, month) in found:
            self.limiter.restore(
                who,
                at_s=self._began_s,  # only the sum is known: no request of that minute came later
                now_s=now_s,
                requests=minute.requests,
                tokens=minute.tokens,
                usd_day=day.cost_usd,
                usd_month=month.cost_usd,
            )
        self.restored = True
        self._rebuild()
        self.ready.set()

    async def _past(self, who: str, limits: Limits, past: Past) -> tuple[Spent, Spent, Spent]:
        """In the last minute, today, this month; before we began."""
        now_s, until_s = self._clock(), self._began_s
        day_s = now_s - now_s % _DAY_S
        month_s = day_s - (time.gmtime(now_s).tm_mday - 1) * _DAY_S

        async def since(since_s: float, *, wanted: bool) -> Spent:
            return await past(who, since_s, until_s) if wanted and since_s < until_s else _NOTHING_SPENT

        return (
            await since(now_s - WINDOW_S, wanted=bool(limits.rpm or limits.tpm)),
            await since(day_s, wanted=limits.budget_usd_day is not None),
            await since(month_s, wanted=limits.budget_usd_month is not None),
        )

    # ------------------------------------------------------------ the operator's hand

    def all_keys(self) -> list[KeyRecord]:
        """All there are: configured, made at run time, revoked."""
        return [record for _, record in self._configured] + self.store.records()

    def all_tenants(self) -> list[TenantRecord]:
        return list(self._tenants.values())

    async def create_key(
        self, name: str, *, tenant: str, admin: bool, terms: Terms, expires_s: float | None
    ) -> tuple[KeyRecord, str]:
        """Raises: InvalidRequest, DatabaseUnavailable."""
        taken = name in self._making or any(r.name == name and r.revoked_s is None for r in self.all_keys())
        if taken:
            raise InvalidRequest(f"There is a key named '{name}' already", param="name", code="name_taken")
        if tenant and terms.tenants:
            raise InvalidRequest("Give tenant or tenants, not both", param="tenants")
        for named in filter(None, (tenant, *terms.tenants)):
            if named != "*" and named not in self._tenants:
                raise InvalidRequest(f"There is no tenant '{named}'", param="tenant", code="tenant_not_found")
        if expires_s is not None and expires_s <= self._clock():
            raise InvalidRequest("expires is in the past", param="expires")
        self._making.add(name)  # two at once would not see each other's
        try:
            return await self.store.create(name, tenant=tenant, admin=admin, terms=terms, expires_s=expires_s)
        finally:
            self._making.discard(name)

    async def rotate_key(self, key_id: str) -> tuple[KeyRecord, str]:
        """Raises: InvalidRequest, UnknownModel, DatabaseUnavailable."""
        self._refuse_configured(key_id, (record.id for _, record in self._configured), "rotated")
        expired = (r for r in self.store.records() if r.id == key_id and (r.expires_s or math.inf) <= self._clock())
        if any(expired):
            raise InvalidRequest(
                "This key has expired, and so would a new one in its place: create another", param="id"
            )
        return await self.store.rotate(key_id)

    async def revoke_key(self, key_id: str) -> None:
        """Raises: InvalidRequest, UnknownModel, DatabaseUnavailable."""
        self._refuse_configured(key_id, (record.id for _, record in self._configured), "revoked")
        await self.store.revoke((key_id,))

    def tenant(self, tenant_id: str) -> TenantRecord:
        """Raises: UnknownModel."""
        found = self._tenants.get(tenant_id)
        if found is None:
            raise tenant_missing(tenant_id)
        return found

    def keys_of(self, tenant_id: str) -> list[KeyRecord]:
        """The keys in use that belong to it, or have to name it."""
        return [
            record
            for record in self.all_keys()
            if record.revoked_s is None and (record.tenant == tenant_id or tenant_id in record.terms.tenants)
        ]

    async def create_tenant(self, tenant_id: str, display_name: str, terms: Terms) -> TenantRecord:
        """Raises: InvalidRequest, DatabaseUnavailable."""
        if tenant_id in self._tenants:
            raise tenant_taken(tenant_id)
        return await self.store.add_tenant(tenant_id, display_name or tenant_id, terms)

    async def change_tenant(self, tenant_id: str, display_name: str, terms: Terms) -> TenantRecord:
        """What it has used goes on counting. Raises: InvalidRequest, UnknownModel, DatabaseUnavailable."""
        former = self.tenant(tenant_id)
        self._refuse_configured(tenant_id, self._own_tenants, "changed")
        return await self.store.change_tenant(former, display_name or tenant_id, terms)

    async def delete_tenant(self, tenant_id: str, *, force: bool) -> None:
        """`force`: its own keys are revoked first. Raises: InvalidRequest, UnknownModel, DatabaseUnavailable."""
        self.tenant(tenant_id)
        self._refuse_configured(tenant_id, self._own_tenants, "deleted")
        keys = self.keys_of(tenant_id)
        if keys and not force:
            names = ", ".join(repr(record.name) for record in keys[:5])
            raise InvalidRequest(
                f"Tenant '{tenant_id}' has {len(keys)} keys ({names}…): revoke them first, or delete it with force=true",
                param="id",
                code="tenant_has_keys",
            )
        own = [record.id for record in keys if record.tenant == tenant_id and record.source == "database"]
        if own:
            await self.store.revoke(own)
        await self.store.drop_tenant(tenant_id)
        self.limiter.forget(f"tenant:{tenant_id}")

    def _refuse_configured(self, name: str, configured: Iterable[str], what: str) -> None:
        if name in tuple(configured):
            raise InvalidRequest(
                f"'{name}' stands in the configuration and is {what} there", param="id", code="set_in_configuration"
            )

    # ------------------------------------------------------------ the tables of the fast way

    def _rebuild(self) -> None:
        """After every change; thousands of keys take some milliseconds."""
        self._tenants = self._named_tenants() if self.restored else self._own_tenants
        stored = self.store.live() if self.restored else ()
        self._held = {digest: _principal(record) for digest, record in (*stored, *self._configured)}
        self._named.clear()
        self._subjects.clear()
        self.edition = object()

    def _named_tenants(self) -> dict[str, TenantRecord]:
        return {tenant.id: tenant for tenant in self.store.tenants()} | self._own_tenants


async def access_of(config: Config, database: Database | None, spool_dir: Path | None = None) -> Access:
    """With this machine's secret, and the database's tables where there is one; `run` it.

    Args:
        spool_dir: where rows of the ledger wait for the database. To be asked before the ledger takes what is in there.
    """
    try:
        digest = Digester(await asyncio.to_thread(machine_secret, config.server.state_dir))
    except (OSError, ValueError) as error:
        # without it those in the database cannot be known again, and new ones would be lost at the end
        log.error("keys cannot be made or known at run time: %s", error)
        return Access(config)
    if database is None:
        return Access(config, digest)
    name = database.url.removeprefix("sqlite:///")
    if name == database.url:
        return Access(config, digest, KeyStore(DatabaseTable(database), digest, time.time, shared=True))
    # a file that is not there need not be opened, which would take a start longer than everything else about keys
    file = Path(name)
    empty = await asyncio.to_thread(_is_first_start, file, spool_dir)
    stamp = partial(stamp_of, file)
    store = KeyStore(DatabaseTable(database), digest, time.time, shared=True, empty=empty, stamp=stamp)
    return Access(config, digest, store)


def _is_first_start(file: Path, spool_dir: Path | None) -> bool:
    """What was killed before it had made the database left in the spool what it had let in."""
    return not file.exists() and (spool_dir is None or next(spool_dir.glob("*.rows"), None) is None)


def _configured(config: Config, digest: Digester) -> list[tuple[bytes, KeyRecord]]:
    """Of the same key in both lists the wider right wins: it comes later."""
    has_admin = bool(config.server.admin_keys) or any(key.admin for key in config.keys.values())
    plain = [(f"key-{number}", secret, not has_admin) for number, secret in enumerate(config.server.api_keys, 1)]
    plain += [(f"admin-{number}", secret, True) for number, secret in enumerate(config.server.admin_keys, 1)]
    records = [
        (
            digest(secret.reveal()),
            KeyRecord(
                id=f"config:{name}", name=name, prefix="", tenant="", admin=admin, terms=Terms(), source="config"
            ),
        )
        for name, secret, admin in plain
    ]
    for name, key in config.keys.items():
        record = KeyRecord(
            id=f"config:{name}",
            name=name,
            prefix="",
            tenant=key.tenant,
            admin=key.admin,
            terms=terms_of(key, tenants=key.tenants, capture=key.capture),
            source="config",
            expires_s=key.expires,
        )
        records.append((digest(key.key.reveal()), record))
    return records


def _principal(record: KeyRecord) -> Principal:
    return Principal(
        record.name,
        admin=record.admin,
        key_id=record.id,
        tenant=record.tenant,
        may_name=record.terms.tenants,
        models=record.terms.models,
        limits=record.terms.limits(),
        expires_at=record.expires_s,
        capture=record.terms.capture,
    )


def _unauthenticated(key: str | None) -> Unauthenticated:
    if key is None:
        return Unauthenticated("No API key: send it as 'Authorization: Bearer <key>'")
    return Unauthenticated("This API key is not known here")


def _warn_of_expired(records: list[KeyRecord], now_s: float) -> None:
    for record in records:
        if record.expires_s is not None and record.expires_s <= now_s:
            log.warning("[keys] %s has expired: nobody is let in with it", record.name)
