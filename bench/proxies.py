"""What the data path costs beside nginx: `python -m bench.proxies` (or `make bench`).

Law: proxies take turns, round after round, so that the machine's moods meet all of them; ratios are taken within a round, and
what is reported is the median of the rounds. A run in which an answer was not 200 says so in its last lines.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import msgspec

from . import contenders, machine, rig
from .contenders import Contender, Upstreams

ROOT = Path(__file__).resolve().parent.parent
UNARY_CONNECTIONS, STREAMS, OPEN_STREAMS = 16, 100, 1000
GOALS = {"cpu_us_request": 5.0, "cpu_us_event": 2.0}  # times nginx


class Plan(msgspec.Struct, frozen=True):
    """How long everything takes."""

    rounds: int
    unary_s: float
    stream_s: float
    single_s: float
    open_s: float


FULL = Plan(rounds=5, unary_s=4, stream_s=5, single_s=2, open_s=8)
QUICK = Plan(rounds=2, unary_s=1.5, stream_s=2.5, single_s=1, open_s=4)


class Turn(msgspec.Struct, frozen=True):
    """One proxy in one round."""

    cpu_us_request: float
    requests_per_s: float
    cpu_us_event: float
    events_per_s: float
    delay_p50_us: float
    delay_p99_us: float
    added_p50_us: float
    added_p99_us: float
    failures: int


class Memory(msgspec.Struct, frozen=True):
    """Resident sizes, and what an open stream adds."""

    idle_mb: float
    loaded_mb: float  # after unary load and streams, at rest
    open_mb: float  # with OPEN_STREAMS open
    after_mb: float  # when they have ended
    stream_kb: float
    failures: int


class Bench:
    """A run: the plan, who runs where, and what came out."""

    def __init__(self, plan: Plan, cores: machine.Cores, upstreams: Upstreams) -> None:
        self.plan = plan
        self.cores = cores
        self.upstreams = upstreams

    def load(self, contender: Contender, mode: str, connections: int, seconds: float) -> tuple[rig.Load, float]:
        """What the load saw, and what the proxy spent on all of it, in CPU seconds."""
        before_s = contender.cpu_s()
        running = rig.start_load(
            contender.fast.port,
            contender.fast.model,
            mode,
            connections=connections,
            seconds=seconds,
            core=self.cores.load,
            key=contenders.KEY,
        )
        seen = rig.finish(running)
        return seen, contender.cpu_s() - before_s

    def direct(self) -> rig.Load:
        """One connection to the upstream, with nothing between."""
        running = rig.start_load(
            self.upstreams.fast, "echo", "unary", connections=1, seconds=self.plan.single_s, core=self.cores.load
        )
        return rig.finish(running)

    def turn(self, contender: Contender, direct: rig.Load) -> Turn:
        """All of one round for one proxy."""
        plan = self.plan
        unary, unary_cpu_s = self.load(contender, "unary", UNARY_CONNECTIONS, plan.unary_s)
        stream, stream_cpu_s = self.load(contender, "stream", STREAMS, plan.stream_s)
        single, _ = self.load(contender, "unary", 1, plan.single_s)
        return Turn(
            cpu_us_request=1e6 * unary_cpu_s / max(1, unary.requests),
            requests_per_s=unary.requests_per_s,
            cpu_us_event=1e6 * stream_cpu_s / max(1, stream.events),
            events_per_s=stream.events_per_s,
            delay_p50_us=stream.delay_us.p50,
            delay_p99_us=stream.delay_us.p99,
            added_p50_us=single.latency_us.p50 - direct.latency_us.p50,
            added_p99_us=single.latency_us.p99 - direct.latency_us.p99,
            failures=unary.failures + stream.failures + single.failures,
        )

    def memory(self, contender: Contender, idle_bytes: int) -> Memory:
        """A thousand streams, opened and left."""
        loaded = contender.rss_bytes()
        running = rig.start_load(
            contender.slow.port,
            contender.slow.model,
            "stream",
            connections=OPEN_STREAMS,
            seconds=self.plan.open_s,
            core=self.cores.load,
            key=contenders.KEY,
        )
        time.sleep(self.plan.open_s * 0.7)
        opened = contender.rss_bytes()
        failures = rig.finish(running).failures
        time.sleep(0.5)
        return Memory(
            idle_mb=idle_bytes / 1e6,
            loaded_mb=loaded / 1e6,
            open_mb=opened / 1e6,
            after_mb=contender.rss_bytes() / 1e6,
            stream_kb=(opened - loaded) / OPEN_STREAMS / 1000,
            failures=failures,
        )

    def wake(self, contender: Contender) -> int:
        """Both models asked once, so that their engines are up; its resident size then."""
        for route in (contender.fast, contender.slow):
            running = rig.start_load(
                route.port, route.model, "unary", connections=1, seconds=0.2, core=self.cores.load, key=contenders.KEY
            )
            if rig.finish(running).failures:
                raise RuntimeError(f"{contender.name} does not answer: see above")
        return contender.rss_bytes()


class Result(msgspec.Struct, frozen=True):
    """All that is reported."""

    machine: dict[str, str]
    load_average_before: float
    neighbours_share: float
    seconds: float
    turns: dict[str, list[Turn]]
    memory: dict[str, Memory]


def run(plan: Plan, starters: Sequence[Callable[..., AbstractContextManager[Contender]]]) -> Result:
    """Measure whatever can be started. Raises: Missing, RuntimeError."""
    rig.build()
    load_average = os.getloadavg()[0]
    cores = machine.cores()
    neighbours = machine.Neighbours()
    began_s, own_before_s = time.monotonic(), _own_cpu_s()
    turns: dict[str, list[Turn]] = {}
    memory: dict[str, Memory] = {}
    with ExitStack() as stack:
        upstreams = Upstreams(rig.free_port(), rig.free_port())
        stack.enter_context(
            rig.upstream(upstreams.fast, contenders.EVENTS, contenders.INTERVAL_US, core=cores.upstream)
        )
        stack.enter_context(
            rig.upstream(upstreams.slow, contenders.SLOW_EVENTS, contenders.SLOW_INTERVAL_US, core=cores.upstream)
        )
        bench = Bench(plan, cores, upstreams)
        present = _started(stack, starters, cores, upstreams)
        idle_bytes = {contender.name: bench.wake(contender) for contender in present}
        for number in range(plan.rounds):
            direct = bench.direct()
            for contender in present if number % 2 == 0 else reversed(present):
                turn = bench.turn(contender, direct)
                turns.setdefault(contender.name, []).append(turn)
                _progress(
                    f"round {number + 1}/{plan.rounds}  {contender.name:24} {turn.cpu_us_request:7.1f} µs/request"
                )
        for contender in present:
            memory[contender.name] = bench.memory(contender, idle_bytes[contender.name])
    own_s = _own_cpu_s() - own_before_s  # every child has ended, so that all of it is counted
    return Result(
        machine=machine.describe(),
        load_average_before=load_average,
        neighbours_share=neighbours.share(own_s),
        seconds=time.monotonic() - began_s,
        turns=turns,
        memory=memory,
    )


def _started(
    stack: ExitStack,
    starters: Sequence[Callable[..., AbstractContextManager[Contender]]],
    cores: machine.Cores,
    upstreams: Upstreams,
) -> list[Contender]:
    """Whatever this machine has. What it lacks is said in a line."""
    present: list[Contender] = []
    for starter in starters:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-bench-")))
        try:
            present.append(stack.enter_context(starter(folder, cores, upstreams)))
        except rig.Missing as missing:
            _progress(str(missing))
    return present


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ the report

_ROWS: tuple[tuple[str, str, int], ...] = (
    ("cpu_us_request", "CPU µs / request", 1),
    ("requests_per_s", "requests / s", 0),
    ("cpu_us_event", "CPU µs / streamed event", 1),
    ("events_per_s", "events / s", 0),
    ("delay_p50_us", "event delay p50, µs", 0),
    ("delay_p99_us", "event delay p99, µs", 0),
    ("added_p50_us", "added latency p50, µs", 0),
    ("added_p99_us", "added latency p99, µs", 0),
)
_MEMORY_ROWS = (
    ("idle_mb", "RSS idle, MB"),
    ("loaded_mb", "RSS after load, MB"),
    ("open_mb", f"RSS with {OPEN_STREAMS:,} streams, MB"),
    ("after_mb", "RSS after them, MB"),
    ("stream_kb", "per open stream, kB"),
)


def report(result: Result) -> str:
    """The table, for people."""
    names = list(result.turns)
    lines = [f"{key:9} {value}" for key, value in result.machine.items()]
    lines += [
        f"run       {result.seconds:.0f} s, {len(next(iter(result.turns.values())))} rounds, medians; load average before "
        f"{result.load_average_before:.1f}; others used {result.neighbours_share:.0%} of the machine meanwhile",
        "",
        f"{'':36}" + "".join(f"{name:>22}" for name in names),
    ]
    for field, title, digits in _ROWS:
        cells = "".join(f"{_cell(result, name, field, names[0], digits):>22}" for name in names)
        lines.append(f"{title:36}{cells}")
    for field, title, _ in (row for row in _ROWS if row[0].startswith("cpu")):
        cells = "".join(f"{_best_cell(result, name, field, names[0]):>22}" for name in names)
        lines.append(f"{'best round: ' + title:36}{cells}")
    for field, title in _MEMORY_ROWS:
        lines.append(f"{title:36}" + "".join(f"{getattr(result.memory[name], field):>22.1f}" for name in names))
    return "\n".join([*lines, "", *_remarks(result)])


def _cell(result: Result, name: str, field: str, yardstick: str, digits: int) -> str:
    values = [getattr(turn, field) for turn in result.turns[name]]
    text = f"{statistics.median(values):,.{digits}f}"
    base = [getattr(turn, field) for turn in result.turns[yardstick]]
    if name == yardstick or field.startswith("added") or not all(base):
        return text
    ratio = statistics.median(value / of for value, of in zip(values, base, strict=True))
    return f"{text} ({ratio:.2f}×)"


def _best_cell(result: Result, name: str, field: str, yardstick: str) -> str:
    """The least disturbed round of each: on a busy machine the nearest to the truth."""
    best, base = (min(getattr(turn, field) for turn in result.turns[who]) for who in (name, yardstick))
    return f"{best:,.1f}" if name == yardstick or not base else f"{best:,.1f} ({best / base:.2f}×)"


def _remarks(result: Result) -> list[str]:
    remarks: list[str] = []
    names = list(result.turns)
    if names[0] == "nginx":
        remarks += [
            f"× is times nginx; goals: {GOALS['cpu_us_request']:g}× per request, {GOALS['cpu_us_event']:g}× per event"
        ]
    if result.neighbours_share > machine.BUSY_SHARE:
        remarks.append(
            f"WARNING: the machine was busy with something else ({result.neighbours_share:.0%}): "
            "believe the CPU ratios, not the rates, delays and latencies"
        )
    if machine.cores().shared:
        remarks.append("WARNING: one core only: proxy, load and upstream shared it")
    for name in names:
        failures = sum(turn.failures for turn in result.turns[name]) + result.memory[name].failures
        if failures:
            remarks.append(f"WARNING: {failures} answers of {name} were not 200 or not whole: its figures mean nothing")
    return remarks


def starters_of(trees: Sequence[Path], *, remote: bool) -> list[Callable[..., AbstractContextManager[Contender]]]:
    """nginx first, then Roundhouse as it lies here, then as it lies in other folders, for a comparison before a commit.

    Args:
        remote: also as it lies here with the upstreams as providers of kind openai.
    """

    def house(
        tree: Path, name: str, folder: Path, cores: machine.Cores, _: Upstreams
    ) -> AbstractContextManager[Contender]:
        return contenders.roundhouse(folder, cores, tree, name)

    def forwarding(folder: Path, cores: machine.Cores, upstreams: Upstreams) -> AbstractContextManager[Contender]:
        return contenders.roundhouse(folder, cores, ROOT, "Roundhouse to an API", upstreams)

    named = [(tree, "Roundhouse" if tree == ROOT else f"Roundhouse {tree.name}") for tree in trees]
    houses = [partial(house, tree, name) for tree, name in named]
    return [contenders.nginx, *houses, *([forwarding] if remote else [])]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.proxies", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="some 30 s instead of some 3 minutes")
    parser.add_argument("--rounds", type=int, help="instead of the usual number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds, for a later look")
    parser.add_argument(
        "--tree",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="measure that working tree too; may be repeated",
    )
    parser.add_argument(
        "--remote", action="store_true", help="also Roundhouse forwarding to an API, in place of its own engines"
    )
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = msgspec.structs.replace(plan, rounds=options.rounds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        result = run(plan, starters_of([ROOT, *(tree.resolve() for tree in options.tree)], remote=options.remote))
    except (rig.Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report(result))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
