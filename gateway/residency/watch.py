"""Asks every server what it holds, once a second, and tells residency what was loaded, used or unloaded behind its back.

The law: an answer tells what was so when the server was asked. So phase and epoch are noted before, and a target that has moved
since is left for the next look. A server that does not answer holds what it held; one at whose port nobody listens holds nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from providers.contract import Held, Server
from providers.errors import ProviderError, UpstreamUnreachable

from .events import Phase
from .manager import ResidencyManager

log = logging.getLogger("roundhouse.residency")

# What happens behind our back is to be noticed within 2 s: a look each second, and a second for the answer.
EVERY_S = 1.0
ANSWER_S = 2.0  # a busy server may be slow; then the next look is later, too
# One refused connection may be a server that restarts; after so many in a row its memory is free for sure.
GONE_AFTER = 2
ROOT_EVERY_S = 10.0  # finding a server's processes is a scan of /proc

_Standing = tuple[Phase | None, int]


class Watch:
    """Runs for the life of the gateway; `look` may also be called by itself.

    Args:
        servers: provider's name → server.
        unknown: called with a provider's name when it holds a model that is not managed: its catalogue is old.
    """

    def __init__(
        self, manager: ResidencyManager, servers: Mapping[str, Server], unknown: Callable[[str], None] | None = None
    ) -> None:
        self._manager = manager
        self._servers = servers
        self._unknown = unknown
        self._used: dict[str, str] = {}
        self._refused = dict.fromkeys(servers, 0)
        self._roots: dict[str, int] = {}

    def roots(self) -> Collection[int]:
        """Pids of the servers on this machine, as far as they could be found."""
        return set(self._roots.values())

    async def run(self) -> None:
        """For ever; each server at its own pace."""
        async with asyncio.TaskGroup() as group:
            for name, server in self._servers.items():
                group.create_task(self._follow(name), name=f"watch {name}")
                group.create_task(self._find_root(name, server), name=f"find {name}")

    async def _follow(self, name: str) -> None:
        while True:
            await self.look(name)
            await asyncio.sleep(EVERY_S)

    async def _find_root(self, name: str, server: Server) -> None:
        while True:
            pid = await asyncio.to_thread(server.root_pid)
            if pid is None:
                self._roots.pop(name, None)
            else:
                self._roots[name] = pid
            await asyncio.sleep(ROOT_EVERY_S)

    async def look(self, name: str) -> None:
        """Ask one server, and report."""
        manager, server = self._manager, self._servers[name]
        before = {
            target: manager.standing(target) for target, managed in manager.managed.items() if managed.server is server
        }
        try:
            async with asyncio.timeout(ANSWER_S):
                held = {f"{name}/{item.name}": item for item in await server.held()}
        except UpstreamUnreachable:
            self._refused[name] += 1
            if self._refused[name] < GONE_AFTER:
                return
            held = {}
        except (ProviderError, TimeoutError) as error:
            log.debug("%s does not say what it holds: %s", name, error)
            return
        else:
            if self._refused[name]:
                for target in before:
                    manager.mended(target)
            self._refused[name] = 0
        await self._describe([target for target in held if before.get(target, (Phase.READY, 0))[0] is None])
        for target, standing in before.items():
            self._report(target, standing, held.get(target))
        if self._unknown is not None and not held.keys() <= before.keys():
            self._unknown(name)

    async def _describe(self, found: Collection[str]) -> None:
        for target in found:
            try:
                await self._manager.describe(target)
            except ProviderError as error:  # it holds what it says it does not have: told again with the next look
                log.debug("%s cannot be described: %s", target, error)

    def _report(self, target: str, before: _Standing, held: Held | None) -> None:
        """Three cases: 1 it moved meanwhile: nothing; 2 in its server's memory; 3 not there."""
        manager = self._manager
        if target not in manager.managed or manager.standing(target) != before:
            return
        phase, epoch = before
        if held is not None and phase in (None, Phase.READY, Phase.DRAINING):
            used = self._used.get(target)
            self._used[target] = held.used
            manager.seen(target, epoch, held, used=used is not None and used != held.used)
        elif held is None and phase in (Phase.READY, Phase.DRAINING):
            self._used.pop(target, None)
            manager.vanished(target, epoch)
