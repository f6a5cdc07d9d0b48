"""The books that tests keep beside the residency core: what exists in their imagined world, and the arithmetic over it.

The law: nothing here is read from the core; entries come from the events that were sent to it and the decisions it gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.residency.events import (
    Acquire,
    Budget,
    Describe,
    Died,
    Event,
    Footprint,
    Gone,
    Loaded,
    LoadFailed,
    Measured,
    Mended,
    Phase,
    Pin,
    Refusal,
    Release,
    Seen,
    Shutdown,
    Unload,
    Vanished,
)

# The protection of a ready model where the operator named none: as long as its load took, and never longer than this.
PROTECTION_MAX_S = 30.0
# An engine that was up for so long has died for the first time, whatever came before.
STEADY_S = 60.0
COOL_DOWN_FIRST_S = 5.0
COOL_DOWN_MAX_S = 300.0


class Engine:
    """A process of the imagined world, or a model in a server's. It exists, with its bytes, from StartLoad or its first Seen
    until Gone, LoadFailed or Vanished.
    """

    def __init__(self, target: str, epoch: int, footprint: Footprint, source: str, now_s: float) -> None:
        self.target = target
        self.epoch = epoch
        self.footprint = dict(footprint)
        self.source = source  # of that size
        self.phase = Phase.LOADING
        self.since_s = now_s
        self.ready_s = now_s
        self.last_used_s = now_s
        self.leases = 0
        self.found = False  # loaded by somebody else
        self.ready_fact = 0  # which fact made it ready

    @property
    def stays(self) -> bool:
        return self.phase is Phase.LOADING or self.phase is Phase.READY


class Model:
    """What the world remembers of a target."""

    def __init__(self, event: Describe) -> None:
        self.footprint = dict(event.footprint)
        self.idle_s = event.idle_s
        self.pinned = event.pinned
        self.evictable = event.evictable
        self.epoch = 0
        self.failures = 0
        self.deaths = 0
        self.retry_at_s = 0.0
        self.left_fact = 0  # which fact last ended an engine of it
        self.evicted: set[str] = set()  # who left for the load that is waited for or under way

    @property
    def keeps_room(self) -> bool:
        return self.pinned or not self.evictable

    @property
    def need(self) -> dict[str, int]:
        """Devices it really takes bytes of."""
        return {device: size for device, size in self.footprint.items() if size > 0}


class Books:
    """Which engines exist, who waits, who holds, and what is known of each model.

    Args:
        min_residency_s: as the core was given.
        queue_max: likewise.
    """

    def __init__(self, budget_bytes: Footprint, *, queue_max: int, min_residency_s: float | None) -> None:
        self.budget = dict(budget_bytes)
        self.queue_max = queue_max
        self.min_residency_s = min_residency_s
        self.now_s = 0.0
        self.facts = 0
        self.closing = False
        self.models: dict[str, Model] = {}
        self.engines: dict[str, Engine] = {}
        self.pending: dict[int, Acquire] = {}  # unanswered, in order of arrival
        self.held: dict[int, Engine] = {}
        self.answered: set[int] = set()
        self.restorable: set[str] = set()  # who left for the load that failed last

    # ------------------------------------------------------------ facts

    def enter(self, event: Event) -> set[str] | None:
        """Enters a fact into the books. For an Acquire that is to be answered by itself: the answers that would be right."""
        self.facts += 1
        match event:
            case Acquire():
                verdict = self.verdict(event)
                self.pending[event.ticket] = event
                return verdict
            case Release():
                self.pending.pop(event.ticket, None)
                engine = self.held.pop(event.ticket, None)
                if engine is not None:
                    engine.leases -= 1
                    engine.last_used_s = self.now_s
                self.forget_victims()
            case Describe():
                model = self.models.setdefault(event.target, Model(event))
                model.footprint, model.idle_s = dict(event.footprint), event.idle_s
                model.evictable = event.evictable
            case Loaded():
                self._is_ready(self.engines[event.target])
            case LoadFailed():
                del self.engines[event.target]
                model = self.models[event.target]
                model.failures += 1
                self.restorable, model.evicted = model.evicted, set()
                self._cool_down(model, model.failures)
            case Died():
                engine = self.engines[event.target]
                self._void_leases(engine)
                model = self.models[event.target]
                model.deaths = 1 if self.now_s - engine.ready_s >= STEADY_S else model.deaths + 1
                if model.deaths > 1:
                    self._cool_down(model, model.deaths - 1)
            case Gone():
                del self.engines[event.target]
                self.models[event.target].left_fact = self.facts
            case Measured():
                held = self.engines[event.target].footprint
                for device, size in event.footprint.items():
                    held[device] = max(size, held.get(device, 0))
            case Seen():
                self._seen(event)
            case Vanished():
                self._void_leases(self.engines.pop(event.target))
                self._forget_victim(event.target)
            case Budget():
                self.budget = dict(event.budget_bytes)
            case Pin():
                self.models[event.target].pinned = event.pinned
            case Mended():
                self._forgive(self.models[event.target])
            case Unload():
                self._forget_victim(event.target)
            case Shutdown():
                self.closing = True
            case _:
                pass
        return None

    def _is_ready(self, engine: Engine) -> None:
        engine.phase = Phase.READY
        engine.ready_s = engine.last_used_s = self.now_s
        engine.ready_fact = self.facts
        model = self.models[engine.target]
        model.failures, model.retry_at_s, model.evicted = 0, 0.0, set()

    def _seen(self, event: Seen) -> None:
        """Somebody else has loaded it, or its server tells what it holds now."""
        engine = self.engines.get(event.target)
        if engine is None:
            model = self.models[event.target]
            model.epoch += 1
            engine = Engine(event.target, model.epoch, event.footprint, "reported", self.now_s)
            engine.found = True
            self.engines[event.target] = engine
            self._is_ready(engine)
            return
        engine.footprint, engine.source = dict(event.footprint), "reported"
        engine.last_used_s = self.now_s if event.used else engine.last_used_s

    def _void_leases(self, engine: Engine) -> None:
        for ticket in [t for t, used in self.held.items() if used is engine]:
            del self.held[ticket]
        engine.leases = 0

    def _forget_victim(self, target: str) -> None:
        """Others wanted it to go, so nobody brings it back."""
        for model in self.models.values():
            model.evicted.discard(target)

    def _forgive(self, model: Model) -> None:
        model.failures = model.deaths = 0
        model.retry_at_s = 0.0

    def _cool_down(self, model: Model, times: int) -> None:
        model.retry_at_s = self.now_s + min(COOL_DOWN_FIRST_S * 2 ** (times - 1), COOL_DOWN_MAX_S)

    def forget_victims(self) -> None:
        """Whose clients have all left has nobody to bring its victims back for."""
        wanted = {asked.target for asked in self.pending.values()}
        for target, model in self.models.items():
            loading = target in self.engines and self.engines[target].phase is Phase.LOADING
            if target not in wanted and not loading:
                model.evicted = set()

    def verdict(self, asked: Acquire) -> set[str] | None:
        """What an Acquire must be answered with at once; None: it takes its place in the queue."""
        engine = self.engines.get(asked.target)
        model = self.models[asked.target]
        if self.closing:
            return {Refusal.SHUTTING_DOWN}
        if engine is not None and engine.phase is Phase.READY:
            return {"grant"}
        if asked.explicit:
            self._forgive(model)
        loading = engine is not None and engine.phase is Phase.LOADING
        if not loading:
            if self.now_s < model.retry_at_s:
                return {Refusal.COOLING_DOWN}
            if never := self.never(asked.target):
                return never
        if len(self.pending) >= self.queue_max:
            return {Refusal.QUEUE_FULL}
        return None

    # ------------------------------------------------------------ room

    def committed(self, device: str) -> int:
        return sum(engine.footprint.get(device, 0) for engine in self.engines.values())

    def staying(self, device: str) -> int:
        return sum(engine.footprint.get(device, 0) for engine in self.engines.values() if engine.stays)

    def cold(self) -> list[str]:
        """The queue of models: first come first, without those whose load is under way. Its first is the head."""
        targets = dict.fromkeys(asked.target for asked in self.pending.values())
        return [t for t in targets if t not in self.engines or self.engines[t].phase is not Phase.LOADING]

    def short(self, target: str) -> dict[str, int]:
        """What is missing for it once all that leaves has left, beside what those before it in the queue need."""
        before: list[str] = []
        for waiting in self.cold():
            if waiting == target:
                break
            before.append(waiting)
        missing: dict[str, int] = {}
        for device, size in self.models[target].need.items():
            claimed = sum(self.models[earlier].footprint.get(device, 0) for earlier in before)
            short = self.staying(device) + claimed + size - self.budget.get(device, 0)
            if short > 0:
                missing[device] = short
        return missing

    def will_fit(self, target: str) -> bool:
        return not self.short(target)

    def never(self, target: str) -> set[str]:
        """The reasons why no eviction could help."""
        reasons: set[str] = set()
        for device, size in self.models[target].need.items():
            budget = self.budget.get(device, 0)
            kept = sum(
                engine.footprint.get(device, 0)
                for engine in self.engines.values()
                if engine.stays and engine.target != target and self.keeps_room(engine)
            )
            if size > budget:
                reasons.add(Refusal.LARGER_THAN_BUDGET)
            elif size + kept > budget:
                reasons.add(Refusal.NO_ROOM_BESIDE_PINS)
        return reasons

    def over_budget(self) -> dict[str, int]:
        devices = {device for engine in self.engines.values() for device in engine.footprint}
        over = {device: self.staying(device) - self.budget.get(device, 0) for device in devices}
        return {device: size for device, size in over.items() if size > 0}

    # ---- candidates

    @staticmethod
    def covers(engines: Iterable[Engine], short: Mapping[str, int]) -> bool:
        chosen = list(engines)
        return all(sum(engine.footprint.get(device, 0) for engine in chosen) >= size for device, size in short.items())

    def keeps_room(self, engine: Engine) -> bool:
        """Pinned, or its server cannot be told to unload it."""
        return self.models[engine.target].keeps_room

    def all_evictable(self) -> bool:
        return all(self.models[target].evictable for target in self.engines)

    def idle_limit_s(self, engine: Engine) -> float | None:
        """How long it may be idle; None: for ever, or as long as its server likes."""
        ours = not self.keeps_room(engine) and not engine.found
        return self.models[engine.target].idle_s if ours else None

    def evictable(self) -> list[Engine]:
        """Ready, may be asked to leave, and no longer protected."""
        return [
            engine
            for engine in self.engines.values()
            if engine.phase is Phase.READY
            and not self.keeps_room(engine)
            and self.protected_until_s(engine) <= self.now_s
        ]

    def protected_until_s(self, engine: Engine) -> float:
        if self.min_residency_s is not None:
            return engine.ready_s + self.min_residency_s
        if engine.found:
            return engine.ready_s + PROTECTION_MAX_S
        return engine.ready_s + min(engine.ready_s - engine.since_s, PROTECTION_MAX_S)
