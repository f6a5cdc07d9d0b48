"""One target that lives in memory of ours, and the right to use it until a stream ends."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from providers.contract import Engine, EngineSpec, Loader, Server


class Managed:
    """One target that lives in our memory: who loads it and what is known of it before."""

    __slots__ = ("idle_s", "key", "loader", "pinned", "server", "spec")

    def __init__(
        self,
        loader: Loader,
        spec: EngineSpec,
        key: str,
        *,
        idle_s: float,
        pinned: bool,
        server: Server | None = None,
    ) -> None:
        self.loader = loader
        self.server = server  # the loader again, where the engine lives in somebody else's server
        self.spec = spec
        self.key = key  # of its learned sizes
        self.idle_s = idle_s  # math.inf: never
        self.pinned = pinned


class Landlord(Protocol):
    """Who grants leases: the shell of residency."""

    managed: Mapping[str, Managed]

    def next_ticket(self) -> int: ...

    def granted_at_once(self, ticket: int, target: str) -> Engine | None: ...

    async def wait_for(self, ticket: int, target: str, patience_s: float, *, explicit: bool) -> Engine: ...

    def release(self, ticket: int) -> None: ...


class Lease:
    """The right to use a target until the stream ends. `engine` is None for a target that needs no memory of ours."""

    __slots__ = ("_explicit", "_manager", "_patience_s", "_target", "_ticket", "engine")

    def __init__(self, manager: Landlord, target: str, patience_s: float, *, explicit: bool = False) -> None:
        self._manager = manager
        self._target = target
        self._patience_s = patience_s
        self._explicit = explicit
        self._ticket = 0
        self.engine: Engine | None = None

    def at_once(self) -> bool:
        """Have it, if that needs no waiting: without a coroutine, since nearly every request comes this way."""
        manager = self._manager
        if self._target not in manager.managed:
            return True
        self._ticket = manager.next_ticket()
        self.engine = manager.granted_at_once(self._ticket, self._target)
        return self.engine is not None

    async def wait(self) -> None:
        """Where it was not to be had at once. Raises: as `ResidencyManager.lease`; then there is nothing to release."""
        self.engine = await self._manager.wait_for(
            self._ticket, self._target, self._patience_s, explicit=self._explicit
        )

    def release(self) -> None:
        """Done with it. Idempotent."""
        ticket, self._ticket = self._ticket, 0
        if ticket:
            self._manager.release(ticket)

    async def __aenter__(self) -> Self:
        if not self.at_once():
            await self.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
