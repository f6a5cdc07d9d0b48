"""Keys and tenants that were made at run time: kept in the database, held whole in memory.

The law: on the way of a request nobody asks the database. What is revoked is gone from memory before the database is told, what is
made is in the database before it is in memory; so whatever fails, fails to the safe side. Until the table has been read once
nothing is known, which is not the same as nothing being there: `read` says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from gateway.errors import InvalidRequest, UnknownModel
from gateway.storage.database import Database, DatabaseUnavailable

from .secret import Digester, is_key, new_key, prefix_of
from .terms import KeyRecord, TenantRecord, Terms

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger("roundhouse.access")

# All of them are held in memory, some 2 kB each.
KEYS_MAX = 10_000
TENANTS_MAX = 10_000
# Another gateway on the same database may have made or revoked some: what it revokes is refused here after so long at most.
REFRESH_S = 10.0

Held = tuple[bytes, KeyRecord]


class KeyTable(Protocol):
    """Where keys and tenants outlive a restart. Raises: DatabaseUnavailable, all of them."""

    async def all(self) -> tuple[Sequence[Held], Sequence[TenantRecord]]: ...
    async def add_key(self, digest: bytes, record: KeyRecord) -> None: ...
    async def set_digest(
        self, key_id: str, digest: bytes, prefix: str
    ) -> bool: ...  # False: it is revoked, or not there
    async def revoke(self, key_ids: Sequence[str], at_s: float) -> None: ...
    async def add_tenant(self, record: TenantRecord) -> None: ...
    async def set_tenant(self, record: TenantRecord) -> bool: ...  # False: it is not there
    async def drop_tenant(self, tenant_id: str) -> None: ...


class DatabaseTable:
    """The tables of `storage.tables`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> tuple[Sequence[Held], Sequence[TenantRecord]]:
        return await self._database.read(_all)

    async def add_key(self, digest: bytes, record: KeyRecord) -> None:
        def work(connection: Connection) -> None:
            from gateway.storage.tables import keys  # noqa: PLC0415 - imports SQLAlchemy, which only the database's thread may

            row = {
                "id": record.id,
                "name": record.name,
                "prefix": record.prefix,
                "digest": digest,
                "tenant": record.tenant,
                "admin": record.admin,
                "terms": msgspec.json.encode(record.terms).decode(),
                "created_us": _us(record.created_s) or 0,
                "expires_us": _us(record.expires_s),
                "revoked_us": None,
            }
            connection.execute(keys.insert().values(row))

        await self._database.write(work)

    async def set_digest(self, key_id: str, digest: bytes, prefix: str) -> bool:
        def work(connection: Connection) -> bool:
            from gateway.storage.tables import keys  # noqa: PLC0415 - as above

            in_use = (keys.c.id == key_id) & keys.c.revoked_us.is_(None)
            return connection.execute(keys.update().where(in_use).values(digest=digest, prefix=prefix)).rowcount > 0

        return await self._database.write(work)

    async def revoke(self, key_ids: Sequence[str], at_s: float) -> None:
        def work(connection: Connection) -> None:
            from gateway.storage.tables import keys  # noqa: PLC0415 - as above

            connection.execute(keys.update().where(keys.c.id.in_(key_ids)).values(revoked_us=_us(at_s)))

        await self._database.write(work)

    async def add_tenant(self, record: TenantRecord) -> None:
        def work(connection: Connection) -> None:
            from gateway.storage.tables import tenants  # noqa: PLC0415 - as above

            row = {"id": record.id, "name": record.display_name, "created_us": _us(record.created_s) or 0}
            connection.execute(tenants.insert().values(row | {"terms": msgspec.json.encode(record.terms).decode()}))

        await self._database.write(work)

    async def set_tenant(self, record: TenantRecord) -> bool:
        def work(connection: Connection) -> bool:
            from gateway.storage.tables import tenants  # noqa: PLC0415 - as above

            values = {"name": record.display_name, "terms": msgspec.json.encode(record.terms).decode()}
            return connection.execute(tenants.update().where(tenants.c.id == record.id).values(values)).rowcount > 0

        return await self._database.write(work)

    async def drop_tenant(self, tenant_id: str) -> None:
        def work(connection: Connection) -> None:
            from gateway.storage.tables import tenants  # noqa: PLC0415 - as above

            connection.execute(tenants.delete().where(tenants.c.id == tenant_id))

        await self._database.write(work)


def _all(connection: Connection) -> tuple[Sequence[Held], Sequence[TenantRecord]]:
    from gateway.storage.tables import keys, tenants  # noqa: PLC0415 - as above

    held: list[Held] = []
    for row in connection.execute(keys.select().order_by(keys.c.created_us, keys.c.id)).mappings():
        if (terms := _terms(row["id"], row["terms"])) is not None:
            record = KeyRecord(
                id=row["id"],
                name=row["name"],
                prefix=row["prefix"],
                tenant=row["tenant"],
                admin=row["admin"],
                terms=terms,
                source="database",
                created_s=_seconds(row["created_us"]),
                expires_s=_seconds(row["expires_us"]),
                revoked_s=_seconds(row["revoked_us"]),
            )
            held.append((bytes(row["digest"]), record))
    found: list[TenantRecord] = []
    for row in connection.execute(tenants.select().order_by(tenants.c.created_us, tenants.c.id)).mappings():
        if (terms := _terms(row["id"], row["terms"])) is not None:
            created_s = _seconds(row["created_us"])
            record = TenantRecord(
                id=row["id"], display_name=row["name"], terms=terms, source="database", created_s=created_s
            )
            found.append(record)
    return held, found


def _terms(owner: str, written: str) -> Terms | None:
    """None: not to be read, so its owner is not let in: without its limits it might do anything."""
    try:
        return msgspec.json.decode(written, type=Terms)
    except msgspec.MsgspecError as error:
        log.error("the terms of %s in the database cannot be read, it is left out: %s", owner, error)
        return None


def stamp_of(file: Path) -> tuple[int, ...] | None:
    """Of a SQLite database: when it, or the log beside it, was last written to. None: it is not there. Blocking."""
    found: list[int] = []
    for path in (file, file.with_name(f"{file.name}-wal")):
        with contextlib.suppress(OSError):
            status = path.stat()
            found += (status.st_ino, status.st_mtime_ns, status.st_size)
    return tuple(found) or None


def tenant_taken(tenant_id: str) -> InvalidRequest:
    """For who makes one that is there."""
    return InvalidRequest(f"There is a tenant '{tenant_id}' already", param="id", code="name_taken")


def tenant_missing(tenant_id: str) -> UnknownModel:
    """For who means one that is not there."""
    return UnknownModel(f"There is no tenant '{tenant_id}'", param="id", code="tenant_not_found")


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _seconds(us: int | None) -> float | None:
    return None if us is None else us / 1e6


class KeyStore:
    """What the table holds, in memory.

    Args:
        table: None: keys cannot be made at run time here.
        digest: under this machine's secret.
        shared: another gateway may write to the same table, so that it is read again and again.
        stamp: blocking; another value than before where the table may have been written to. None: that cannot be told cheaply.
        empty: nothing is in the table yet, so that it need not be read.

    `changed` is called after every change.
    """

    def __init__(
        self,
        table: KeyTable | None,
        digest: Digester,
        clock: Callable[[], float],
        *,
        shared: bool = False,
        refresh_s: float = REFRESH_S,
        keys_max: int = KEYS_MAX,
        empty: bool = False,
        stamp: Callable[[], object] | None = None,
    ) -> None:
        self._table = table
        self._digest = digest
        self._clock = clock
        self._shared = shared
        self._refresh_s = refresh_s
        self._stamp = stamp
        self._seen: object = None  # the stamp before the table was last read
        self._keys_max = keys_max
        self._held: dict[str, Held] = {}
        self._tenants: dict[str, TenantRecord] = {}
        # revoked here, and the database does not know it yet: at what time
        self._unsaid: dict[str, float] = {}
        self._behind = asyncio.Event()  # the table has to be told something once more
        self._changes = 0
        self.changed: Callable[[], None] = lambda: None
        self.kept = table is not None
        self.read = table is None or empty  # whether the table has been read once
        self.error = ""  # why it could not be read the last time

    def live(self) -> list[Held]:
        """Those that are not revoked."""
        return [held for held in self._held.values() if held[1].revoked_s is None]

    def records(self) -> list[KeyRecord]:
        """All of them, the revoked ones too."""
        return [record for _, record in self._held.values()]

    def tenants(self) -> list[TenantRecord]:
        return list(self._tenants.values())

    async def refresh(self) -> None:
        """Read the table. Raises: DatabaseUnavailable."""
        table = self._writable()
        while True:
            before = self._changes
            try:
                if self._unsaid:
                    await table.revoke(tuple(self._unsaid), min(self._unsaid.values()))
                held, tenants = await table.all()
            except DatabaseUnavailable as error:
                self.error = error.message
                self._seen = None
                raise
            if before == self._changes:  # else it may have been read before that change
                break
        self._unsaid.clear()
        self.read, self.error = True, ""
        found = {record.id: (digest, record) for digest, record in held}
        named = {tenant.id: tenant for tenant in tenants}
        if (found, named) != (self._held, self._tenants):
            self._held, self._tenants = found, named
            self.changed()

    async def settle(self) -> None:
        """At the end: the table is told once more what it could not be told before. Never fails."""
        if self._unsaid:
            try:
                await self.refresh()
            except DatabaseUnavailable as error:
                revoked = ", ".join(self._unsaid)
                log.error(
                    "these keys are revoked, but could not be written down as such: %s: %s", revoked, error.message
                )

    async def until_next(self) -> None:
        """Returns when the table should be read again: where it is shared some seconds later, else when it has to be told more."""
        if not self._shared:
            await self._behind.wait()
            self._behind.clear()
            return
        while True:
            await asyncio.sleep(self._refresh_s)
            seen = None if self._stamp is None else await asyncio.to_thread(self._stamp)
            if self._stamp is None or self._unsaid or seen != self._seen:
                self._seen = seen
                return

    async def create(
        self, name: str, *, tenant: str, admin: bool, terms: Terms, expires_s: float | None
    ) -> tuple[KeyRecord, str]:
        """The record, and the key itself, which nobody can find out later. Raises: InvalidRequest, DatabaseUnavailable."""
        table = await self._known()
        if len(self.live()) >= self._keys_max:
            raise InvalidRequest(f"There are {self._keys_max} keys, and no more are held: revoke some first")
        key = new_key()
        record = KeyRecord(
            id=f"key_{secrets.token_hex(8)}",
            name=name,
            prefix=prefix_of(key),
            tenant=tenant,
            admin=admin,
            terms=terms,
            source="database",
            created_s=self._clock(),
            expires_s=expires_s,
        )
        digest = self._digest(key)
        await table.add_key(digest, record)
        self._put(digest, record)
        return record, key

    async def rotate(self, key_id: str) -> tuple[KeyRecord, str]:
        """A new key in place of the former, which is refused from now on. Raises: UnknownModel, DatabaseUnavailable."""
        table = await self._known()
        former = self._record(key_id)
        key = new_key()
        digest, record = self._digest(key), replace(former, prefix=prefix_of(key))
        if not await table.set_digest(key_id, digest, record.prefix):
            await self.refresh()  # another gateway has revoked it
        self._record(key_id)  # it may have been revoked meanwhile, and stays so
        self._put(digest, record)
        return record, key

    async def revoke(self, key_ids: Sequence[str]) -> None:
        """Refused from now on. Raises: UnknownModel; DatabaseUnavailable: a restart before it is back would let them in."""
        table = await self._known()
        at_s = self._clock()
        for key_id in key_ids:
            self._record(key_id)
        for key_id in key_ids:
            digest, record = self._held[key_id]
            self._unsaid[key_id] = at_s
            self._put(digest, replace(record, revoked_s=at_s))
        try:
            await table.revoke(tuple(key_ids), at_s)
        except DatabaseUnavailable as error:
            self._behind.set()
            raise DatabaseUnavailable(
                f"Refused from now on, but not written down yet; it will be when the database is back. Until then a restart would "
                f"let the key in again. {error.message}",
                detail=error.detail,
            ) from None
        for key_id in key_ids:
            self._unsaid.pop(key_id, None)

    async def add_tenant(self, tenant_id: str, display_name: str, terms: Terms) -> TenantRecord:
        """Raises: InvalidRequest, DatabaseUnavailable."""
        table = await self._known()
        if len(self._tenants) >= TENANTS_MAX:
            raise InvalidRequest(f"There are {TENANTS_MAX} tenants, and no more are held: delete some first")
        created_s = self._clock()
        record = TenantRecord(
            id=tenant_id, display_name=display_name, terms=terms, source="database", created_s=created_s
        )
        try:
            await table.add_tenant(record)
        except DatabaseUnavailable as error:
            if not error.data_refused:
                raise
            await self.refresh()  # another gateway has made it
            if tenant_id not in self._tenants:
                raise
            raise tenant_taken(tenant_id) from None
        self._tenants[tenant_id] = record
        self._has_changed()
        return record

    async def change_tenant(self, former: TenantRecord, display_name: str, terms: Terms) -> TenantRecord:
        """Raises: UnknownModel: it has been deleted meanwhile, or by another gateway. DatabaseUnavailable."""
        table = await self._known()
        record = replace(former, display_name=display_name, terms=terms)
        if not await table.set_tenant(record):
            await self.refresh()
        if former.id not in self._tenants:
            raise tenant_missing(former.id)
        self._tenants[former.id] = record
        self._has_changed()
        return record

    async def drop_tenant(self, tenant_id: str) -> None:
        """Raises: DatabaseUnavailable."""
        table = await self._known()
        await table.drop_tenant(tenant_id)
        self._tenants.pop(tenant_id, None)
        self._has_changed()

    async def _known(self) -> KeyTable:
        """The table, read once."""
        table = self._writable()
        if not self.read:
            await self.refresh()
        return table

    def _writable(self) -> KeyTable:
        if self._table is None:
            raise InvalidRequest("Keys and tenants cannot be made at run time here: there is no database for them")
        return self._table

    def _record(self, key_id: str) -> KeyRecord:
        held = self._held.get(key_id)
        if held is None or held[1].revoked_s is not None:
            if is_key(key_id):
                message = (
                    "This is a key itself, not its id: GET /admin/keys tells the ids, as `roundhouse keys list` does"
                )
            else:
                message = f"There is no key '{key_id}' that is in use"
            raise UnknownModel(message, param="id", code="key_not_found")
        return held[1]

    def _put(self, digest: bytes, record: KeyRecord) -> None:
        self._held[record.id] = (digest, record)
        self._has_changed()

    def _has_changed(self) -> None:
        self._changes += 1
        self.changed()
