"""A door to try: a configuration from text, a real database in a folder, a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from config.load import load
from config.schema import Config
from gateway.access.door import Access, Past
from gateway.access.keystore import DatabaseTable, KeyStore
from gateway.access.secret import Digester
from gateway.access.terms import KeyRecord, Terms
from gateway.storage.database import Database

SECRET = b"s" * 32
NOON_S = 1_767_268_800.0  # 2026-01-01T12:00:00Z
TENANT = '[tenants.red-team]\n[tenants.blue-team]\nrpm = 2\nmodels = ["gpt-*"]\n'


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


def config_of(folder: Path, toml: str = "") -> Config:
    """`toml`, loaded."""
    path = folder / "roundhouse.toml"
    path.write_text(toml)
    environ = {"HOME": str(folder), "ROUNDHOUSE_STATE_DIR": str(folder / "state")}
    return load(path, environ)


@asynccontextmanager
async def door(
    folder: Path,
    toml: str = "",
    clock: Clock | None = None,
    past: Past | None = None,
    *,
    database: Database | None = None,
) -> AsyncGenerator[Access, None]:
    """With a database in the folder, read once."""
    clock = clock or Clock()
    ours = database or Database(f"sqlite:///{folder / 'keys.sqlite3'}")
    digest = Digester(SECRET)
    access = Access(config_of(folder, toml), digest, KeyStore(DatabaseTable(ours), digest, clock), clock, clock)
    running = asyncio.create_task(access.run(past))
    try:
        async with asyncio.timeout(10):
            await access.ready.wait()
        yield access
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await ours.aclose()


async def make(access: Access, name: str = "notebook", tenant: str = "", **terms: object) -> tuple[KeyRecord, str]:
    """A key made at run time."""
    return await access.create_key(name, tenant=tenant, admin=False, terms=Terms(**terms), expires_s=None)  # pyright: ignore[reportArgumentType] - whatever a test says
