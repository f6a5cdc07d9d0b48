"""The request's way, on one screen: resolve → lease → forward.

It all nests in the one coroutine that answers the caller, so whatever ends it (last byte, error, the caller leaving while queued,
loading, before the first token or mid-stream) releases the lease and cuts the upstream on the way out; an exit stack would do the
same for more. The first content byte commits: after it no other target is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.access.keys import Principal
from gateway.errors import CapacityError
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Target
from gateway.routing.resolve import resolve
from providers.contract import Engine, Provider, Request
from providers.errors import LoadFailed, UpstreamBroke, UpstreamUnreachable

from .client import Client
from .forward import forward
from .headers import to_upstream
from .peek import with_model

# The kernel still takes connections for a process that is being torn down, and resets them: an engine that is gone so soon after
# a request was sent had been killed before.
DEAD_ALREADY_S = 1.0
# What another target may mend: nothing has reached an upstream.
_NEXT_TARGET = (UpstreamUnreachable, LoadFailed, CapacityError)


class Call(msgspec.Struct, frozen=True):
    """What a caller asks."""

    principal: Principal
    path: bytes  # the upstream's route: b"/v1/chat/completions"
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    model: str
    stream: bool


class Limits(msgspec.Struct, frozen=True):
    """How long one provider's upstreams are waited for; None: for ever."""

    first_byte_s: float | None
    idle_s: float | None


class Pipeline:
    """Serves calls.

    Args:
        catalog: gives the present snapshot.
        limits: by provider name.
        patience_s: how long a caller waits for its model to be in memory.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        residency: ResidencyManager,
        providers: Mapping[str, Provider],
        limits: Mapping[str, Limits],
        patience_s: float,
    ) -> None:
        self._catalog = catalog
        self._residency = residency
        self._providers = providers
        self._limits = limits
        self._patience_s = patience_s

    async def serve(self, call: Call, client: Client) -> None:
        """Answers the caller, or raises while `client.committed` is still False, or breaks off after.

        Raises: GatewayError, ProviderError.
        """
        client.asked = call.model
        model = resolve(self._catalog(), call.model)
        client.watch(stream=call.stream)
        for place, target in enumerate(model.targets, 1):
            try:
                await self._attempt(call, target, client)
                return
            except _NEXT_TARGET:
                if place == len(model.targets) or client.committed:
                    raise

    async def _attempt(self, call: Call, target: Target, client: Client) -> None:
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
                    await self._forward(call, target, engine, client)
                return
            except (UpstreamUnreachable, UpstreamBroke) as error:
                dead = isinstance(error, UpstreamUnreachable) or (
                    error.nothing_received and client.now_s() - sent_s < DEAD_ALREADY_S
                )
                if engine is None or not (again and dead) or not await self._residency.has_left(target.key, engine):
                    raise

    async def _forward(self, call: Call, target: Target, engine: Engine | None, client: Client) -> None:
        provider = self._providers[target.provider]
        limits = self._limits[target.provider]
        body = call.body
        if target.upstream_name is not None and target.upstream_name != call.model:
            body = with_model(body, target.upstream_name)
        request = Request(
            method=b"POST",
            path=call.path,
            headers=to_upstream(call.headers),
            body=body,
            first_byte_s=limits.first_byte_s,
            idle_s=limits.idle_s,
        )
        await forward(provider.send if engine is None else engine.send, request, client, target.provider)
