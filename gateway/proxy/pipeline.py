"""The request's way, on one screen: resolve → order → lease → forward.

It all nests in the one coroutine that answers the caller, so whatever ends it (last byte, error, the caller leaving while queued,
loading, before the first token or mid-stream) releases the lease and cuts the upstream on the way out; an exit stack would do the
same for more. The first content byte commits: after it no other target is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from gateway.access.principal import Principal, unknown_here
from gateway.dialects.spoken import Spoken
from gateway.dialects.talk import Stamp
from gateway.dialects.translation import Translation
from gateway.errors import CapacityError, NotTranslatable, RouteNotServed, UnknownModel
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Model, Target
from gateway.routing.resolve import resolve
from gateway.routing.select import order
from providers.contract import Body, Engine, Provider, Request
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
from .forward import Passage, SendUpstream, forward
from .guard import Guard, Judge
from .headers import Head, query_to_upstream, translated_to_upstream
from .peek import Peek, with_model
from .policy import Policy
from .routes import Route
from .toll import Toll
from .upload import Upload
from .ways import ABSENT_S, GUESSED_S, Ways, says_absent, says_no_usage
from .wording import Wish, Worded, worded

# The kernel still takes connections for a process that is being torn down, and resets them: an engine that is gone so soon after
# a request was sent had been killed before.
DEAD_ALREADY_S = 1.0
_LONG_BYTES = 1 << 20  # a body that takes so long to translate (100 ms) that all other callers would notice
_LEFT_OUT_MAX = 32  # names in a header field
_NAME_MAX = 64  # characters of each: some are the caller's own
_CONTROLS = bytes((*range(32), 127))
_OLLAMA = Spoken.OLLAMA  # an enumeration looks its own names up slowly
_AS_IT_CAME = Worded(b"")
# What another target may mend: nothing has reached an upstream, or the upstream said that it did nothing. Not an upstream that
# fell silent or broke off: it may have done the work, and done it at a price.
_NEXT_TARGET = (
    NotTranslatable,
    RouteNotServed,
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
    route: Route
    query: bytes  # b"" or b"beta=true"
    head: Head
    body: bytes | Upload
    seen: Peek


class Upstream(msgspec.Struct, frozen=True):
    """One provider as the data path sees it.

    `first_byte_s`, `idle_s`: how long it is waited for, None: for ever. `guard` is None for engines of ours. `routes`: what it
    serves, None: that turns out. `stream_usage`: its streams are asked for their usage also where the caller does not ask;
    `usage_option`: they may be asked at all.
    """

    provider: Provider
    first_byte_s: float | None
    idle_s: float | None
    guard: Guard | None
    routes: frozenset[bytes] | None = None
    stream_usage: bool = True
    usage_option: bool = True


class _Trip(msgspec.Struct, frozen=True):
    """One call on its way to one target. `more`: another target comes after this one; `ways`: as of now, (): to be asked for."""

    call: Call
    client: Client
    policy: Policy | None
    target: Target
    upstream: Upstream
    more: bool
    ways: Sequence[Route] = ()


class _Again(Exception):
    """The upstream refused how it was asked, not what. `lacks`: a route that it has not; None: it takes no stream_options."""

    def __init__(self, lacks: Route | None) -> None:
        super().__init__()
        self.lacks = lacks


class Pipeline:
    """Serves calls.

    Args:
        catalog: gives the present snapshot.
        look_again: has the catalogue brought up to date for a name that is not in it; bounded.
        upstreams: by provider name.
        policies: by public model name.
        patience_s: how long a caller waits for its model to be in memory.
        stamp: a fresh one for an answer that is translated.
        toll: who may ask for what, and how much.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        look_again: Callable[[], Awaitable[None]],
        residency: ResidencyManager,
        upstreams: Mapping[str, Upstream],
        patience_s: float,
        policies: Mapping[str, Policy],
        stamp: Callable[[], Stamp],
        toll: Toll,
    ) -> None:
        self._toll = toll
        self._catalog = catalog
        self._look_again = look_again
        self._residency = residency
        self._upstreams = upstreams
        self._patience_s = patience_s
        self._policies = policies
        self._stamp = stamp
        self._ways = Ways()

    async def serve(self, call: Call, client: Client) -> None:
        """Answers the caller, or raises while `client.committed` is still False, or breaks off after.

        Raises: GatewayError, ProviderError.
        """
        client.asked = call.seen.model
        client.watch(stream=call.seen.stream)
        try:
            model = resolve(self._catalog(), call.seen.model)
        except UnknownModel:
            model = await self._look_anew(call)
        client.model = model.name
        self._toll.admit(call.principal, model, call.seen.model)
        now_s = client.now_s()
        targets: Sequence[Target] = model.targets
        ways = self._ways_to(targets[0], call.route, now_s) if len(targets) == 1 else ()
        if not ways:
            targets = self._order(model, call.route, now_s)
        held = self._toll.take(call.principal, call.body, model, targets[0].key, client)
        if held is None:
            await self._try(call, client, model, targets, ways)
            return
        try:
            await self._try(call, client, model, targets, ways)
        except BaseException as error:
            self._toll.settle(held, client, error)
            raise
        self._toll.settle(held, client, None)

    def _try(
        self, call: Call, client: Client, model: Model, targets: Sequence[Target], ways: Sequence[Route]
    ) -> Coroutine[Any, Any, None]:
        policy = self._policies.get(model.name) if self._policies else None
        if len(targets) == 1:
            target = targets[0]
            return self._attempt(_Trip(call, client, policy, target, self._upstreams[target.provider], False, ways))
        return self._try_each(call, client, policy, targets)

    async def _try_each(self, call: Call, client: Client, policy: Policy | None, targets: Sequence[Target]) -> None:
        """One target after the other."""
        last = len(targets) - 1
        for place, target in enumerate(targets):
            try:
                await self._attempt(_Trip(call, client, policy, target, self._upstreams[target.provider], place < last))
                return
            except _NEXT_TARGET:
                if place == last or client.committed:
                    raise
                client.resume()

    async def bring(self, call: Call, client: Client, *, load: bool = True) -> None:
        """Returns when the model is in memory (or needs none of ours), without `load` when it is known; raises as `serve`."""
        client.asked = call.seen.model
        client.watch(stream=False)
        try:
            model = resolve(self._catalog(), call.seen.model)
        except UnknownModel:
            model = await self._look_anew(call)
        self._toll.admit(call.principal, model, call.seen.model)
        target = self._order(model, call.route, client.now_s())[0]
        client.target = target.key
        if load:
            asked_s = client.now_s()
            try:
                async with self._residency.lease(target.key, self._patience_s):
                    client.leased_s = client.now_s()
            finally:
                client.queued_s += client.now_s() - asked_s

    async def _look_anew(self, call: Call) -> Model:
        """A name that was not known is looked for once more. Raises: UnknownModel."""
        await self._look_again()
        try:
            return resolve(self._catalog(), call.seen.model)
        except UnknownModel:
            if call.principal.sees_all:
                raise
            raise unknown_here(call.seen.model) from None

    def _order(self, model: Model, route: Route, now_s: float) -> Sequence[Target]:
        """The targets that serve this route, the one to be tried first first. Raises: RouteNotServed: there is none."""
        targets: Sequence[Target] = [target for target in model.targets if self._ways_to(target, route, now_s)]
        if not targets:
            raise _not_served(model.name, model.targets, route)
        if len(targets) == 1:
            return targets
        return order(
            msgspec.structs.replace(model, targets=tuple(targets)),
            warm=self._residency.is_warm,
            local=self._residency.managed.__contains__,
            resting_s=self._resting_s,
        )

    def _ways_to(self, target: Target, route: Route, now_s: float) -> Sequence[Route]:
        upstream = self._upstreams[target.provider]
        return self._ways.of(route, upstream.routes, _who(target, upstream), now_s)

    def _resting_s(self, target: Target) -> float:
        guard = self._upstreams[target.provider].guard
        return 0.0 if guard is None else guard.resting_s(target.key)

    async def _attempt(self, trip: _Trip) -> None:
        """One target; an engine of ours that was dead already when the request came to it is loaded anew, once.

        A request that takes its time and then kills the engine is not repeated: it would do so again.
        """
        client, key = trip.client, trip.target.key
        client.target = key
        for again in (True, False):
            engine: Engine | None = None
            sent_s = 0.0
            asked_s = client.now_s()
            lease = self._residency.lease(key, self._patience_s)
            try:
                if not lease.at_once():
                    trip = msgspec.structs.replace(trip, ways=())  # what has turned out by then
                    if again:
                        await self._try_wording(trip)
                    await lease.wait()
                engine = lease.engine
                client.leased_s = sent_s = client.now_s()
                client.queued_s += sent_s - asked_s
                await self._ask(trip, engine)
                return
            except (UpstreamUnreachable, UpstreamBroke) as error:
                dead = isinstance(error, UpstreamUnreachable) or (
                    error.nothing_received and client.now_s() - sent_s < DEAD_ALREADY_S
                )
                lease.release()
                if engine is None or not (again and dead) or not await self._residency.has_left(key, engine):
                    raise
            finally:
                lease.release()
                if not sent_s:  # a wait that ended without the model is none of our own time
                    client.queued_s += client.now_s() - asked_s

    async def _try_wording(self, trip: _Trip) -> None:
        """Nothing is loaded, and nobody evicted, for what cannot be translated. Raises: InvalidRequest, NotTranslatable."""
        call = trip.call
        ways = self._ways_to(trip.target, call.route, trip.client.now_s())
        if isinstance(call.body, bytes) and ways and ways[0] is not call.route:
            wish = self._wish(trip, ways[0], held=True, takes_option=True)
            await asyncio.to_thread(worded, call.body, wish, self._stamp)

    async def _ask(self, trip: _Trip, engine: Engine | None) -> None:
        """By one way after the other, until one is known to the upstream.

        One refusal may be the caller's own doing, or that of a proxy whose backend restarts. So it counts for this request; it is
        believed for all when another way has worked, and for a moment where there is none.
        """
        call, target, client = trip.call, trip.target, trip.client
        who = _who(target, trip.upstream)
        refused: list[Route | None] = []
        while True:
            now_s = client.leased_s
            ways = trip.ways or self._ways_to(target, call.route, now_s)
            if refused:
                now_s = client.now_s()
                ways = [way for way in self._ways_to(target, call.route, now_s) if way not in refused]
            if not ways:
                self._believe(who, refused, now_s, GUESSED_S)
                raise _not_served(call.seen.model, (target,), call.route)
            way = ways[0]
            unsure = self._ways.may_lack(who, way, now_s)
            said = _AS_IT_CAME
            if not _is_plain(trip, way):
                said = await self._worded(trip, way, held=engine is not None, takes_option=None not in refused)
            try:
                await self._forward(trip, engine, way, said, unsure=unsure)
            except _Again as again:
                client.resume()
                refused.append(again.lacks)
                continue
            finally:
                if (unsure or refused) and client.committed and client.status < 400:
                    self._ways.served(who, way, client.now_s())
                    self._believe(who, refused, client.now_s(), ABSENT_S)
            return

    def _believe(self, who: str, refused: Sequence[Route | None], now_s: float, for_s: float) -> None:
        for lacks in refused:
            if lacks is not None:
                self._ways.lacks(who, lacks, now_s, for_s)
            elif for_s == ABSENT_S:
                self._ways.no_usage(who, now_s)

    async def _worded(self, trip: _Trip, way: Route, *, held: bool, takes_option: bool) -> Worded:
        call = trip.call
        if not isinstance(call.body, bytes):
            return _AS_IT_CAME  # a form is reworded as it passes
        wish = self._wish(trip, way, held=held, takes_option=takes_option)
        if way is call.route or len(call.body) < _LONG_BYTES:
            return worded(call.body, wish, self._stamp)
        return await asyncio.to_thread(worded, call.body, wish, self._stamp)

    def _forward(
        self, trip: _Trip, engine: Engine | None, way: Route, said: Worded, *, unsure: bool
    ) -> Coroutine[Any, Any, None]:
        """Not a coroutine of its own, but the one to wait for."""
        call, target, upstream, client = trip.call, trip.target, trip.upstream, trip.client
        body: bytes | Body
        name = target.upstream_name
        if not isinstance(call.body, bytes):
            body = call.body.body(name)
        elif said is _AS_IT_CAME:
            body = call.body if name is None or name == call.seen.model else with_model(call.body, name)
            client.tell()
        else:
            body = said.body
            client.tell(*_about(call.route, way, said.translation))
        path, head, as_it_is = way.path, call.head, said.translation is None
        request = Request(
            b"POST",
            path + query_to_upstream(call.query) if call.query and as_it_is else path,
            head.to_upstream if as_it_is else translated_to_upstream(head.fields),
            body,
            upstream.first_byte_s,
            upstream.idle_s,
            head.made if as_it_is else None,
        )
        excuse = None
        if unsure or said.asks:
            asked = call.body if isinstance(call.body, bytes) else b""
            excuse = partial(_excuse, way if unsure else None, said.asks, asked)
        passage = Passage(target.provider, call.route.spoken, said.hides, said.translation, excuse)
        send = upstream.provider.send if engine is None else engine.send
        if upstream.guard is None:
            return forward(send, request, client, passage)
        return _guarded(upstream.guard, send, request, trip, passage)

    def _wish(self, trip: _Trip, way: Route, *, held: bool, takes_option: bool) -> Wish:
        call, upstream, target = trip.call, trip.upstream, trip.target
        if takes_option:
            takes_option = upstream.usage_option and self._ways.tells_usage(_who(target, upstream), trip.client.now_s())
        return Wish(
            route=call.route,
            way=way,
            seen=call.seen,
            name=target.upstream_name,
            held=held,
            may_ask=upstream.stream_usage,
            takes_option=takes_option,
            policy=trip.policy,
        )


def _is_plain(trip: _Trip, way: Route) -> bool:
    """Nothing but the model's name may have to be changed: most requests, and `worded` would cost each some microseconds."""
    call = trip.call
    return way is call.route and not call.seen.stream and trip.policy is None and way.spoken is not _OLLAMA


def _who(target: Target, upstream: Upstream) -> str:
    """About whom something turns out: engines of ours are each their own, of others all of a provider's models are alike."""
    return target.key if upstream.guard is None else target.provider


def _not_served(model: str, targets: Sequence[Target], route: Route) -> RouteNotServed:
    who = ", ".join(target.provider for target in targets)
    return RouteNotServed(f"'{model}' is served by {who}, which does not serve {route.path.decode()}", param="model")


def _excuse(way: Route | None, asks: bool, asked: bytes, status: int, body: bytes) -> Exception | None:
    """What another way of asking may mend.

    Args:
        way: None: it is known to be there.
        asks: stream_options are in the request by our doing.
        asked: the caller's body; what an upstream repeats of it says nothing.
    """
    if way is not None and says_absent(status, body, way.path, asked):
        return _Again(way)
    return _Again(None) if asks and says_no_usage(status, body) else None


def _about(route: Route, way: Route, translation: Translation | None) -> Sequence[tuple[bytes, bytes]]:
    """Header fields for those who wonder where a parameter went."""
    if translation is None:
        return ()
    named = (b"x-roundhouse-translated", b"%b>%b" % (route.dialect.encode(), way.dialect.encode()))
    if not translation.left_out:
        return (named,)
    said = ", ".join(name[:_NAME_MAX] for name in translation.left_out[:_LEFT_OUT_MAX])
    return named, (b"x-roundhouse-left-out", said.encode("ascii", "replace").translate(None, _CONTROLS))


async def _guarded(guard: Guard, send: SendUpstream, request: Request, trip: _Trip, passage: Passage) -> None:
    """Raises: as `Guard.exchange`; UpstreamTimeout: it took longer than total_s."""
    target, more, client = trip.target, trip.more, trip.client
    asked_s = client.now_s()

    def through(judge: Judge) -> Awaitable[None]:
        client.apart_s += client.now_s() - asked_s  # for a place
        return forward(send, request, trip.client, passage, judge)

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
