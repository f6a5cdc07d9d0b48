"""The request's way, on one screen: resolve → order → lease → forward.

It all nests in the one coroutine that answers the caller, so whatever ends it (last byte, error, the caller leaving while queued,
loading, before the first token or mid-stream) releases the lease and cuts the upstream on the way out; an exit stack would do the
same for more. The first content byte commits: after it no other target is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from gateway.access.keys import Principal
from gateway.errors import CapacityError, RouteNotServed, UnknownModel
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Model, Target
from gateway.routing.resolve import resolve
from gateway.routing.select import order
from providers.contract import Engine, Provider, Request
from providers.errors import (
    LoadFailed,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamCoolingDown,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)

from .client import Client
from .forward import SendUpstream, forward
from .guard import Guard, Judge
from .headers import to_upstream
from .peek import with_model

# The kernel still takes connections for a process that is being torn down, and resets them: an engine that is gone so soon after
# a request was sent had been killed before.
DEAD_ALREADY_S = 1.0
# What another target may mend: nothing has reached an upstream, or the upstream said that it did nothing. Not an upstream that
# fell silent or broke off: it may have done the work, and done it at a price.
_NEXT_TARGET = (
    UpstreamUnreachable,
    UpstreamCoolingDown,
    UpstreamBusy,
    UpstreamKeyRefused,
    UpstreamRefused,
    LoadFailed,
    CapacityError,
)


class Call(msgspec.Struct, frozen=True):
    """What a caller asks."""

    principal: Principal
    path: bytes  # the upstream's route: b"/v1/chat/completions"
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    model: str
    stream: bool


class Upstream(msgspec.Struct, frozen=True):
    """One provider as the data path sees it.

    `first_byte_s`, `idle_s`: how long it is waited for, None: for ever. `guard` is None for engines of ours.
    """

    provider: Provider
    first_byte_s: float | None
    idle_s: float | None
    guard: Guard | None


class Pipeline:
    """Serves calls.

    Args:
        catalog: gives the present snapshot.
        look_again: has the catalogue brought up to date for a name that is not in it; bounded.
        upstreams: by provider name.
        patience_s: how long a caller waits for its model to be in memory.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        look_again: Callable[[], Awaitable[None]],
        residency: ResidencyManager,
        upstreams: Mapping[str, Upstream],
        patience_s: float,
    ) -> None:
        self._catalog = catalog
        self._look_again = look_again
        self._residency = residency
        self._upstreams = upstreams
        self._patience_s = patience_s

    async def serve(self, call: Call, client: Client) -> None:
        """Answers the caller, or raises while `client.committed` is still False, or breaks off after.

        Raises: GatewayError, ProviderError.
        """
        client.asked = call.model
        client.watch(stream=call.stream)
        targets = self._order(await self._resolve(call.model), call.path)
        last = len(targets) - 1
        for place, target in enumerate(targets):
            try:
                await self._attempt(call, target, client, more=place < last)
                return
            except _NEXT_TARGET:
                if place == last or client.committed:
                    raise

    async def _resolve(self, name: str) -> Model:
        try:
            return resolve(self._catalog(), name)
        except UnknownModel:
            await self._look_again()
            return resolve(self._catalog(), name)

    def _order(self, model: Model, path: bytes) -> Sequence[Target]:
        """The targets that serve this route, the one to be tried first first. Raises: RouteNotServed: there is none."""
        route = path.partition(b"?")[0]
        targets = [target for target in model.targets if self._serves(target, route)]
        if not targets:
            who = ", ".join(target.provider for target in model.targets)
            raise RouteNotServed(
                f"'{model.name}' is served by {who}, which does not serve {route.decode()}", param="model"
            )
        if len(targets) == 1:
            return targets
        return order(
            msgspec.structs.replace(model, targets=tuple(targets)),
            warm=self._residency.is_warm,
            local=self._residency.managed.__contains__,
            resting_s=self._resting_s,
        )

    def _serves(self, target: Target, route: bytes) -> bool:
        routes = self._upstreams[target.provider].provider.routes
        return routes is None or route in routes

    def _resting_s(self, target: Target) -> float:
        guard = self._upstreams[target.provider].guard
        return 0.0 if guard is None else guard.resting_s(target.key)

    async def _attempt(self, call: Call, target: Target, client: Client, *, more: bool) -> None:
        """One target; an engine of ours that was dead already when the request came to it is loaded anew, once.

        A request that takes its time and then kills the engine is not repeated: it would do so again.
        """
        client.target = target.key
        for again in (True, False):
            engine: Engine | None = None
            sent_s = 0.0
            try:
                async with self._residency.lease(target.key, self._patience_s) as lease:
                    engine = lease.engine
                    sent_s = client.now_s()
                    await self._forward(call, target, engine, client, more=more)
                return
            except (UpstreamUnreachable, UpstreamBroke) as error:
                dead = isinstance(error, UpstreamUnreachable) or (
                    error.nothing_received and client.now_s() - sent_s < DEAD_ALREADY_S
                )
                if engine is None or not (again and dead) or not await self._residency.has_left(target.key, engine):
                    raise

    async def _forward(self, call: Call, target: Target, engine: Engine | None, client: Client, *, more: bool) -> None:
        upstream = self._upstreams[target.provider]
        body = call.body
        if target.upstream_name is not None and target.upstream_name != call.model:
            body = with_model(body, target.upstream_name)
        request = Request(
            method=b"POST",
            path=call.path,
            headers=to_upstream(call.headers),
            body=body,
            first_byte_s=upstream.first_byte_s,
            idle_s=upstream.idle_s,
        )
        send = upstream.provider.send if engine is None else engine.send
        if upstream.guard is None:
            await forward(send, request, client, target.provider)
        else:
            await _guarded(upstream.guard, send, request, client, target, more=more)


async def _guarded(
    guard: Guard, send: SendUpstream, request: Request, client: Client, target: Target, *, more: bool
) -> None:
    """Raises: as `Guard.exchange`; UpstreamTimeout: it took longer than total_s."""

    def through(judge: Judge) -> Awaitable[None]:
        return forward(send, request, client, target.provider, judge)

    if guard.total_s is None:
        await guard.exchange(target.key, through, more=more)
        return
    try:
        async with asyncio.timeout(guard.total_s):
            await guard.exchange(target.key, through, more=more)
    except TimeoutError:
        raise UpstreamTimeout(
            f"{target.provider} took longer than {guard.total_s:g} s for its whole answer (total_s)",
            source=target.provider,
        ) from None
