"""Keys in a database: what is kept of them, what another gateway changes, what a revocation does when the database is away."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from gateway.access.door import Access
from gateway.access.keystore import DatabaseTable, Held, KeyStore, stamp_of
from gateway.access.secret import Digester
from gateway.access.terms import KeyRecord, TenantRecord, Terms
from gateway.errors import InvalidRequest, UnknownModel
from gateway.storage.database import Database, DatabaseUnavailable
from tests.access.doors import SECRET, Clock, config_of, door, make


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

    async def set_digest(self, key_id: str, digest: bytes, prefix: str) -> bool:
        self._look()
        await asyncio.sleep(0)
        if key_id not in self.held:
            return False
        self.held[key_id] = (digest, self.held[key_id][1])
        return True

    async def revoke(self, key_ids: Sequence[str], at_s: float) -> None:
        self._look()
        for key_id in key_ids:
            self.held.pop(key_id)

    async def add_tenant(self, record: TenantRecord) -> None:
        self._look()

    async def set_tenant(self, record: TenantRecord) -> bool:
        self._look()
        return True

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


async def test_revoked_while_it_is_rotated_stays_revoked() -> None:
    """Nobody is let in with the new key, whichever of the two comes to its end first."""
    table = Away()
    store = KeyStore(table, Digester(SECRET), Clock())
    record, _ = await made(store)
    rotating = asyncio.create_task(store.rotate(record.id))
    await asyncio.sleep(0)
    await store.revoke([record.id])
    with pytest.raises(UnknownModel, match="in use"):
        await rotating
    assert store.live() == []


async def test_key_revoked_through_another_gateway_is_not_rotated(tmp_path: Path) -> None:
    """This one has not read of it yet."""
    async with door(tmp_path) as first:
        record, _ = await make(first)
        async with door(tmp_path) as second:
            await first.revoke_key(record.id)
            with pytest.raises(UnknownModel, match="in use"):
                await second.rotate_key(record.id)
            assert second.store.live() == []


async def test_another_gateways_changes_in_a_file_are_seen(tmp_path: Path) -> None:
    """Within a bounded time; as long as nobody writes, nothing is read."""
    file = tmp_path / "keys.sqlite3"
    assert stamp_of(file) is None
    reading = Database(f"sqlite:///{file}")
    try:
        async with door(tmp_path) as other, asyncio.timeout(10):
            record, key = await make(other)
            store = KeyStore(
                DatabaseTable(reading),
                Digester(SECRET),
                Clock(),
                shared=True,
                refresh_s=0.01,
                stamp=partial(stamp_of, file),
            )
            await store.refresh()
            assert [held[0] for held in store.live()] == [Digester(SECRET)(key)]
            await store.until_next()
            await store.refresh()
            quiet = asyncio.create_task(store.until_next())
            assert not (await asyncio.wait((quiet,), timeout=0.1))[0]
            await other.revoke_key(record.id)
            await quiet
            await store.refresh()
            assert store.live() == []
    finally:
        await reading.aclose()


async def test_tenant_that_another_gateway_has_made_is_taken(tmp_path: Path) -> None:
    """As if it had been known; and two at once are one."""
    async with door(tmp_path) as first, door(tmp_path) as second:
        await first.create_tenant("abc", "", Terms())
        with pytest.raises(InvalidRequest, match="already"):
            await second.create_tenant("abc", "", Terms())
        found = await asyncio.gather(
            *(first.create_tenant("two", "", Terms()) for _ in range(3)), return_exceptions=True
        )
        assert [isinstance(each, InvalidRequest) for each in found].count(True) == 2
        made = await asyncio.gather(*(make(first, "same") for _ in range(3)), return_exceptions=True)
        assert [isinstance(each, InvalidRequest) for each in made].count(True) == 2


async def test_tenant_that_another_gateway_has_deleted_is_not_changed(tmp_path: Path) -> None:
    """It does not come back."""
    async with door(tmp_path) as first:
        await first.create_tenant("abc", "", Terms())
        async with door(tmp_path) as second:
            changed = await second.change_tenant("abc", "A B C", Terms(rpm=5))
            assert (changed.display_name, changed.terms.rpm) == ("A B C", 5)
            await first.delete_tenant("abc", force=False)
            with pytest.raises(UnknownModel, match="no tenant"):
                await second.change_tenant("abc", "", Terms())
            assert second.all_tenants() == []


async def test_revocation_that_is_not_written_down_says_so() -> None:
    """What holds now, and what a restart would undo."""
    table = Away()
    store = KeyStore(table, Digester(SECRET), Clock())
    record, _ = await made(store)
    table.away = True
    with pytest.raises(DatabaseUnavailable, match=r"Refused from now on.*restart.*gone"):
        await store.revoke([record.id])


async def test_revocation_is_written_down_before_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The database is back, and the gateway is stopped before it has looked again; else it is said which keys are meant."""
    clock, digest, table = Clock(), Digester(SECRET), Away()
    for away in (False, True):
        store = KeyStore(table, digest, clock, shared=True, refresh_s=3600)
        access = Access(config_of(tmp_path), digest, store, clock, clock)
        record, _ = await made(store)
        running = asyncio.create_task(access.run(None))
        await access.ready.wait()
        table.away = True
        with pytest.raises(DatabaseUnavailable):
            await access.revoke_key(record.id)
        table.away = away
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (record.id in table.held) is away
        assert (record.id in caplog.text) is away


async def test_expired_key_is_not_rotated(tmp_path: Path) -> None:
    """A new one in its place would be refused as well."""
    clock = Clock()
    async with door(tmp_path, clock=clock) as access:
        terms = Terms()
        record, _ = await access.create_key("n", tenant="", admin=False, terms=terms, expires_s=clock.now_s + 1)
        assert (await access.rotate_key(record.id))[0].id == record.id
        clock.now_s += 1
        with pytest.raises(InvalidRequest, match="expired"):
            await access.rotate_key(record.id)


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
