"""What the dashboard's `state` and `load` events say: memory, queue, providers, rates and the ledger, at this moment.

The law: reading changes nothing, and costs well under a millisecond with hundreds of models: it is done five times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import psutil

from gateway.metering.activity import Activity
from gateway.metering.rates import Rates
from gateway.proxy.pipeline import Upstream
from gateway.residency.events import WaitingView
from gateway.residency.manager import ResidencyManager
from gateway.residency.progress import Board, Progress, Stage
from gateway.routing.catalog import Catalog
from gateway.routing.health import State
from gateway.routing.listings import Listings

from .admin import snapshot

# A provider's health is worked out from its last thousand requests, which need not be done for each state.
PROVIDERS_EVERY_S = 1.0
_NO_LEDGER: Mapping[str, Any] = {"on": False, "ok": True, "error": "", "buffered": 0, "dropped": 0}


class LedgerWords(Protocol):
    """How the ledger stands."""

    @property
    def ok(self) -> bool: ...

    @property
    def error(self) -> str: ...

    @property
    def buffered(self) -> int: ...

    @property
    def dropped(self) -> int: ...


class Standing:
    """Reads it.

    Args:
        ledger: how it stands; None: it is off.
        clock: monotonic seconds, the residency's.
        wall_clock: seconds since the epoch, which requests begin by; a browser's own clock may be another.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        residency: ResidencyManager,
        listings: Listings,
        upstreams: Mapping[str, Upstream],
        activity: Activity,
        rates: Rates,
        ledger: Callable[[], LedgerWords | None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._residency = residency
        self._listings = listings
        self._upstreams = upstreams
        self._activity = activity
        self._rates = rates
        self._ledger = ledger
        self._clock = clock
        self._wall_clock = wall_clock
        self._board = Board(residency)
        self._process = psutil.Process()
        self._providers: list[Mapping[str, Any]] = []
        self._providers_s = float("-inf")

    def name_of(self, target: str) -> str:
        """The name that people ask for."""
        model = self._catalog().by_target.get(target)
        return target if model is None else model.name

    def state(self) -> Mapping[str, Any]:
        """As GET /admin/residency, and more."""
        shown = dict(snapshot(self._catalog(), self._residency))
        shown["queue"] = [self._queued(waiting) for waiting in self._residency.waiting()]
        return shown | {
            "providers": self._providers_now(),
            "rates": self._rates_now(),
            "ledger": self._ledger_now(),
            "closing": self._residency.closing,
            "at_s": self._wall_clock(),
        }

    def _queued(self, waiting: WaitingView) -> Mapping[str, Any]:
        """With how long its loads take, once it is its turn; when that will be nobody knows."""
        target = waiting.target
        return {
            "ticket": waiting.ticket,
            "target": target,
            "model": self.name_of(target),
            "waiting_s": waiting.waiting_s,
            "position": waiting.position,
            "expected_s": self._residency.load_s(target) if target in self._residency.managed else None,
        }

    def _providers_now(self) -> list[Mapping[str, Any]]:
        now_s = self._clock()
        if now_s - self._providers_s >= PROVIDERS_EVERY_S:
            self._providers_s = now_s
            names = (name for name, shelf in self._listings.shelves.items() if shelf.shown)
            self._providers = [self._provider(name, now_s) for name in names]
        return self._providers

    def _provider(self, name: str, now_s: float) -> Mapping[str, Any]:
        shelf, guard = self._listings.shelves[name], self._upstreams[name].guard
        state = State.UNKNOWN if guard is None else guard.health.view(now_s).state
        healthy = state in (State.UNKNOWN, State.UP)
        reason = "" if healthy else shelf.error or ("" if guard is None else guard.health.reason)
        return {"name": name, "kind": shelf.provider.kind, "healthy": healthy, "state": state, "reason": reason}

    def _rates_now(self) -> Mapping[str, Any]:
        requests, tokens = self._rates.per_s(self._clock())
        return {
            "requests_per_s": round(requests, 2),
            "tokens_per_s": round(tokens, 1),
            "in_flight": len(self._activity.running),
            "rss_bytes": self._process.memory_info().rss,
        }

    def _ledger_now(self) -> Mapping[str, Any]:
        words = self._ledger()
        if words is None:
            return _NO_LEDGER
        return {
            "on": True,
            "ok": words.ok,
            "error": words.error,
            "buffered": words.buffered,
            "dropped": words.dropped,
        }

    def loads(self) -> Mapping[str, Mapping[str, Any]]:
        """Target → how far its load is."""
        if not any(resident.phase == "loading" for resident in self._residency.residents()):
            return {}
        loading: dict[str, Mapping[str, Any]] = {}
        for target in {resident.target for resident in self._residency.residents() if resident.phase == "loading"}:
            progress = self._board.progress(target)
            if progress is not None and progress.stage is not Stage.WAITING:
                loading[target] = self._load(target, progress)
        return loading

    def _load(self, target: str, progress: Progress) -> Mapping[str, Any]:
        percent = None if progress.fraction is None else round(progress.fraction * 100, 1)
        return {
            "model": self.name_of(target),
            "target": target,
            "percent": percent,
            "eta_s": progress.eta_s,
            "elapsed_s": progress.elapsed_s,
        }
