"""Keys in a database: what is kept of them, what another gateway changes, what a revocation does when the database is away."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.access.keystore import DatabaseTable, Held, KeyStore
from gateway.access.secret import Digester
from gateway.access.terms import KeyRecord, TenantRecord, Terms
from gateway.errors import InvalidRequest
from gateway.storage.database import Database, DatabaseUnavailable
from tests.access.doors import SECRET, Clock, door, make


class Away:
    """A table whose database can go away: as long as `away`, nothing is done."""

    def __init__(self) -> None:
        self.away = False
        self.held: dict[str, Held] = {}
        self.tenants: dict[str, TenantRecord] = {}
        self.pause: asyncio.Event | None = None  # `all` answers what it read before, once this is set

    def _look(self) -> None:
        if self.away:
            raise DatabaseUnavailable("The database cannot be used now: gone")

    async def all(self) -> tuple[Sequence[Held], Sequence[TenantRecord]]:
        self._look()
        found = list(self.held.values()), list(self.tenants.values())
        if self.pause is not None:
            await self.pause.wait()
        return found

    async def add_key(self, digest: bytes, record: KeyRecord) -> None:
        self._look()
        self.held[record.id] = (digest, record)

    async def set_digest(self, key_id: str, digest: bytes, prefix: str) -> None:
        self._look()
        self.held[key_id] = (digest, self.held[key_id][1])

    async def revoke(self, key_ids: Sequence[str], at_s: float) -> None:
        self._look()
        for key_id in key_ids:
            self.held.pop(key_id)

    async def add_tenant(self, record: TenantRecord) -> None:
        self._look()

    async def drop_tenant(self, tenant_id: str) -> None:
        self._look()


async def made(store: KeyStore, name: str = "n") -> tuple[KeyRecord, str]:
    """Any key."""
    return await store.create(name, tenant="", admin=False, terms=Terms(), expires_s=None)


async def test_database_holds_no_key(tmp_path: Path) -> None:
    """Nor anything it could be found out by: a keyed digest, and four characters of 43."""
    async with door(tmp_path) as access:
        _, key = await make(access)
        await access.create_tenant("abc", "", Terms())
        session = access.login(key, "127.0.0.1")
    kept = (tmp_path / "keys.sqlite3").read_bytes()  # closed, so nothing is beside it
    assert key[:7].encode() in kept
    assert key.encode() not in kept
    assert key[7:20].encode() not in kept
    assert session.encode() not in kept


async def test_create_writes_nothing_to_memory_when_the_database_is_away() -> None:
    """A key that would be gone after a restart is not given out."""
    table = Away()
    store = KeyStore(table, Digester(SECRET), Clock())
    await made(store, "first")
    table.away = True
    with pytest.raises(DatabaseUnavailable):
        await made(store, "second")
    assert [record.name for record in store.records()] == ["first"]


async def test_revoked_key_stays_out_while_the_database_is_away() -> None:
    """The operator is told; the database is told when it is back, without anybody's doing."""
    table = Away()
    store = KeyStore(table, Digester(SECRET), Clock())
    record, _ = await made(store)
    table.away = True
    with pytest.raises(DatabaseUnavailable):
        await store.revoke([record.id])
    assert store.live() == []
    with pytest.raises(DatabaseUnavailable):
        await store.refresh()
    assert store.live() == []
    assert store.error
    table.away = False
    async with asyncio.timeout(5):
        await store.until_next()
    await store.refresh()
    assert table.held == {}
    assert store.live() == []


async def test_reading_that_began_before_a_revocation_does_not_undo_it() -> None:
    """It is read once more."""
    table = Away()
    store = KeyStore(table, Digester(SECRET), Clock())
    record, _ = await made(store)
    table.pause = asyncio.Event()
    reading = asyncio.create_task(store.refresh())
    await asyncio.sleep(0)
    await store.revoke([record.id])
    table.pause.set()
    await reading
    assert store.live() == []


async def test_other_gateway_s_keys_are_seen_and_its_revocations(tmp_path: Path) -> None:
    """On the same database, after the next reading; each change is told once."""
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    one, two = Database(url), Database(url)
    first = KeyStore(DatabaseTable(one), Digester(SECRET), Clock(), shared=True, refresh_s=0.001)
    second = KeyStore(DatabaseTable(two), Digester(SECRET), Clock())
    changes: list[int] = []
    first.changed = lambda: changes.append(len(first.live()))
    record, _ = await made(second)
    await second.add_tenant("abc", "Abc", Terms(rpm=3))
    await first.refresh()
    assert [held[1] for held in first.live()] == [record]
    assert first.tenants() == second.tenants()
    await second.revoke([record.id])
    await first.until_next()
    await first.refresh()
    await first.refresh()
    assert changes == [1, 0]
    assert first.records()[0].revoked_s is not None
    await one.aclose()
    await two.aclose()


async def test_row_that_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without its limits it might do anything; the others are let in."""
    async with door(tmp_path) as access:
        record, broken = await make(access, "broken")
        _, whole = await make(access, "whole")
    with sqlite3.connect(tmp_path / "keys.sqlite3") as connection:
        connection.execute('UPDATE roundhouse_keys SET terms = \'{"rpm": "many"}\' WHERE id = ?', (record.id,))
    connection.close()
    async with door(tmp_path) as access:
        assert access.holder(whole).name == "whole"
        assert [record.name for record in access.all_keys()] == ["whole"]
        with pytest.raises(Exception, match="not known here"):
            access.holder(broken)
    assert record.id in caplog.text


async def test_number_of_keys_is_bounded() -> None:
    """They are all held in memory; revoked ones make room."""
    store = KeyStore(Away(), Digester(SECRET), Clock(), keys_max=2)
    record, _ = await made(store)
    await made(store)
    with pytest.raises(InvalidRequest, match="revoke some first"):
        await made(store)
    await store.revoke([record.id])
    await made(store)


async def test_table_that_is_empty_is_not_read() -> None:
    """Not even when the database is away: there is nothing to wait for."""
    table = Away()
    table.away = True
    digest = Digester(SECRET)
    assert KeyStore(table, digest, Clock(), empty=True).read
    assert not KeyStore(table, digest, Clock()).read
