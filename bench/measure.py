"""One run: who is measured, in which turns, and what came out.

Law: proxies take turns, round after round, so that the machine's moods meet all of them; ratios are taken within a round. An answer
that was not 200, or not whole, is counted and said.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import msgspec

from . import contenders, machine, rig
from .contenders import Contender, Upstreams

UNARY_CONNECTIONS, MANY_CONNECTIONS = 16, 64
STREAMS, MANY_STREAMS = 100, 1000
LARGE_BYTES = 100_000
_SETTLED_S = 9.0  # kept connections are closed by then, and memory is given back
_CALM_S, _CALM_WITHIN_S = 0.2, 15.0
_IDLE_S = 3.0  # after its first requests a proxy may still be loading what it needs for them

Starter = Callable[..., AbstractContextManager[Contender]]


class Plan(msgspec.Struct, frozen=True):
    """How long everything takes, in seconds, and how many streams are opened for the memory's sake."""

    rounds: int
    unary_s: float
    stream_s: float
    single_s: float
    other_s: float  # 64 connections, large bodies, 1,000 streams: each
    open_s: float
    open_streams: int
    swaps: int


FULL = Plan(rounds=5, unary_s=3, stream_s=4, single_s=1.5, other_s=2, open_s=9, open_streams=5000, swaps=20)
QUICK = Plan(rounds=2, unary_s=1.2, stream_s=1.5, single_s=0.5, other_s=0.5, open_s=4, open_streams=1000, swaps=5)


class Turn(msgspec.Struct, frozen=True):
    """One proxy in one round."""

    cpu_us_request: float
    cpu_us_request_1: float
    cpu_us_request_64: float
    cpu_us_large: float
    requests_per_s: float
    cpu_us_event: float
    cpu_us_event_1000: float
    events_per_s: float
    delay_p50_us: float
    delay_p99_us: float
    added_p50_us: float
    added_p99_us: float
    failures: int


class Memory(msgspec.Struct, frozen=True):
    """Resident sizes, and what an open stream adds."""

    streams: int
    idle_mb: float
    open_mb: float  # with `streams` open
    after_mb: float  # some seconds after they have ended
    stream_kb: float
    failures: int


class Result(msgspec.Struct, frozen=True):
    """All that is reported."""

    machine: dict[str, str]
    load_average_before: float
    neighbours_share: float
    seconds: float
    turns: dict[str, list[Turn]]
    memory: dict[str, Memory]
    swap_ms: list[float]  # overhead of each


class Peer:
    """Another gateway: one that does not come up, or does not answer, is left out."""

    def __init__(self, start: Starter) -> None:
        self._start = start

    def __call__(self, folder: Path, cores: machine.Cores, upstreams: Upstreams) -> AbstractContextManager[Contender]:
        return self._start(folder, cores, upstreams)


class Bench:
    """A run: the plan, and who runs where."""

    def __init__(self, plan: Plan, cores: machine.Cores, upstreams: Upstreams) -> None:
        self.plan = plan
        self.cores = cores
        self.upstreams = upstreams

    def load(
        self, contender: Contender, mode: str, connections: int, seconds: float, body_bytes: int = 0
    ) -> tuple[rig.Load, float]:
        """What the load saw, and what the proxy spent on each request or event, in CPU microseconds."""
        _until_calm(contender)
        before_s = contender.cpu_s()
        running = rig.start_load(
            contender.fast,
            mode,
            connections=connections,
            seconds=seconds,
            core=self.cores.load,
            key=contenders.KEY,
            body_bytes=body_bytes,
        )
        seen = rig.finish(running)
        spent_s = contender.cpu_s() - before_s
        return seen, 1e6 * spent_s / max(1, seen.events if mode == "stream" else seen.requests)

    def direct(self) -> rig.Load:
        """One connection to the upstream, with nothing between."""
        route = rig.Route(self.upstreams.fast, "echo")
        return rig.finish(
            rig.start_load(route, "unary", connections=1, seconds=self.plan.single_s, core=self.cores.load)
        )

    def turn(self, contender: Contender, direct: rig.Load) -> Turn:
        """All of one round for one proxy."""
        plan = self.plan
        unary, request_us = self.load(contender, "unary", UNARY_CONNECTIONS, plan.unary_s)
        stream, event_us = self.load(contender, "stream", STREAMS, plan.stream_s)
        single, single_us = self.load(contender, "unary", 1, plan.single_s)
        many, many_us = self.load(contender, "unary", MANY_CONNECTIONS, plan.other_s)
        large, large_us = self.load(contender, "unary", UNARY_CONNECTIONS, plan.other_s, LARGE_BYTES)
        crowd, crowd_us = self.load(contender, "stream", MANY_STREAMS, plan.other_s)
        return Turn(
            cpu_us_request=request_us,
            cpu_us_request_1=single_us,
            cpu_us_request_64=many_us,
            cpu_us_large=large_us,
            requests_per_s=unary.requests_per_s,
            cpu_us_event=event_us,
            cpu_us_event_1000=crowd_us,
            events_per_s=stream.events_per_s,
            delay_p50_us=stream.delay_us.p50,
            delay_p99_us=stream.delay_us.p99,
            added_p50_us=single.latency_us.p50 - direct.latency_us.p50,
            added_p99_us=single.latency_us.p99 - direct.latency_us.p99,
            failures=sum(seen.failures for seen in (unary, stream, single, many, large, crowd)),
        )

    def opened(self, contender: Contender, idle_bytes: int) -> Memory:
        """Many streams, opened and left; what is kept after them is not known yet."""
        streams = min(self.plan.open_streams, contender.crowd)
        running = rig.start_load(
            contender.slow,
            "stream",
            connections=streams,
            seconds=self.plan.open_s,
            core=self.cores.load,
            key=contenders.KEY,
        )
        time.sleep(self.plan.open_s * 0.8)
        opened = contender.rss_bytes()
        failures = rig.finish(running).failures
        return Memory(
            streams=streams,
            idle_mb=idle_bytes / 1e6,
            open_mb=opened / 1e6,
            after_mb=0.0,
            stream_kb=(opened - idle_bytes) / streams / 1000,
            failures=failures,
        )

    def memory(self, present: Sequence[Contender], idle_bytes: Mapping[str, int]) -> dict[str, Memory]:
        """Of all of them."""
        found = {contender.name: self.opened(contender, idle_bytes[contender.name]) for contender in present}
        time.sleep(_SETTLED_S)
        return {
            contender.name: msgspec.structs.replace(found[contender.name], after_mb=contender.rss_bytes() / 1e6)
            for contender in present
        }

    def wake(self, contender: Contender) -> None:
        """Both models asked once, so that their engines are up. Raises: RuntimeError."""
        for route in (contender.fast, contender.slow):
            running = rig.start_load(
                route, "unary", connections=1, seconds=0.2, core=self.cores.load, key=contenders.KEY
            )
            if rig.finish(running).failures:
                raise RuntimeError(f"{contender.name} does not answer: see above")


def run(plan: Plan, starters: Sequence[Starter], swaps_ms: Callable[[int], list[float]]) -> Result:
    """Measure whatever can be started. Raises: Missing, RuntimeError.

    Args:
        swaps_ms: makes that many swaps and gives their overheads.
    """
    rig.build()
    load_average = os.getloadavg()[0]
    cores = machine.cores()
    neighbours = machine.Neighbours()
    began_s, own_before_s = time.monotonic(), _own_cpu_s()
    turns: dict[str, list[Turn]] = {}
    with ExitStack() as stack:
        upstreams = Upstreams(rig.free_port(), rig.free_port())
        for port, pace in ((upstreams.fast, contenders.FAST), (upstreams.slow, contenders.SLOW)):
            stack.enter_context(rig.upstream(port, pace, contenders.SLOW, core=cores.upstream))
        bench = Bench(plan, cores, upstreams)
        present, idle_bytes = _started(stack, starters, bench)
        others = [contender for contender in present if contender.crowd < contenders.CROWD]
        progress("open streams")
        memory = bench.memory([contender for contender in present if contender not in others], idle_bytes)
        for number in range(plan.rounds):
            direct = bench.direct()
            for contender in present if number % 2 == 0 else reversed(present):
                turn = bench.turn(contender, direct)
                turns.setdefault(contender.name, []).append(turn)
                progress(f"round {number + 1}/{plan.rounds}  {contender.name:24} {turn.cpu_us_request:9.1f} µs/request")
        if others:  # some go on with abandoned streams, so that their turns come first
            memory |= bench.memory(others, idle_bytes)
    progress("swaps")
    swap_ms = swaps_ms(plan.swaps)
    own_s = _own_cpu_s() - own_before_s  # every child has ended, so that all of it is counted
    return Result(
        machine=machine.describe(),
        load_average_before=load_average,
        neighbours_share=neighbours.share(own_s),
        seconds=time.monotonic() - began_s,
        turns={contender.name: turns[contender.name] for contender in present},
        memory=memory,
        swap_ms=swap_ms,
    )


def _started(stack: ExitStack, starters: Sequence[Starter], bench: Bench) -> tuple[list[Contender], dict[str, int]]:
    """Whatever this machine has, and its resident size. What it lacks, or what does not answer, is said in a line."""
    present: list[Contender] = []
    for starter in starters:
        one = stack.enter_context(ExitStack())
        folder = Path(one.enter_context(tempfile.TemporaryDirectory(prefix="rh-bench-")))
        try:
            contender = one.enter_context(starter(folder, bench.cores, bench.upstreams))
            bench.wake(contender)
        except rig.Missing as missing:
            progress(str(missing))
        except RuntimeError as error:
            if not isinstance(starter, Peer):
                raise
            progress(f"{error}; left out")
            one.close()
        else:
            present.append(contender)
    time.sleep(_IDLE_S)
    return present, {contender.name: contender.rss_bytes() for contender in present}


def _until_calm(contender: Contender) -> None:
    """Some go on for long with what was abandoned; that is not the next load's cost."""
    give_up_s = time.monotonic() + _CALM_WITHIN_S
    while time.monotonic() < give_up_s:
        before_s = contender.cpu_s()
        time.sleep(_CALM_S)
        if contender.cpu_s() - before_s < _CALM_S / 10:
            return


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def progress(line: str) -> None:
    """To stderr: the table goes to stdout."""
    print(line, file=sys.stderr, flush=True)
