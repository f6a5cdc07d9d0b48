"""What a swap costs beyond the engines themselves: `python -m bench.swap_cost`.

Two models that do not fit together are asked in turn. Overhead = decision to evict → the next engine is in use, minus the time the
old engine took to end once asked and the time the new one took to come up. The gateway's journal and the engines' own notes, all
by the same clock, say where it goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from . import contenders, machine, rig

ROOT = Path(__file__).resolve().parent.parent
GOAL_MS = 30.0
NAMES = ("a", "b")
FIELD_TITLES = {
    "drain": "decision → told to stop",
    "ask": "told to stop → engine asked (memory read, connections closed)",
    "engine_stop": "engine's own stop",
    "gone": "engine ended → seen gone, memory back",
    "spawn": "gone → next engine's first instruction",
    "engine_start": "engine's own start",
    "notice": "engine ready → noticed",
    "answer": "noticed → first byte at the caller",
}


class Happening(msgspec.Struct):
    """An entry of the gateway's journal, as /admin/events has it."""

    seq: int
    at_s: float
    what: str
    target: str = ""
    for_target: str = ""


class Step(msgspec.Struct):
    """A note of an engine about itself."""

    pid: int
    what: str  # started ready asked ended
    at_s: float


class Swap(msgspec.Struct, frozen=True):
    """One swap, in milliseconds; the fields of FIELD_TITLES add up to its length."""

    drain: float
    ask: float
    engine_stop: float
    gone: float
    spawn: float
    engine_start: float
    notice: float
    answer: float

    @property
    def overhead(self) -> float:
        """Ours: until the next engine is noticed to be ready."""
        return self.drain + self.ask + self.gone + self.spawn + self.notice


def config(folder: Path, port: int, cores: machine.Cores, options: argparse.Namespace) -> str:
    """Room for one of two models."""
    command = ", ".join(map(rig.toml_string, rig.engine_command(contenders.FAST)))
    env = {
        "RIG_CPU": str(cores.upstream),
        "RIG_LOG": str(folder / "steps"),
        "RIG_BOOT_MS": str(options.boot_ms),
        "RIG_STOP_MS": str(options.stop_ms),
        "RIG_BALLAST_MIB": str(options.ballast_mib),
    }
    models = "".join(
        f'\n[models.{name}]\ntargets = ["rig/{name}"]\nmemory = "1GiB"\nidle_s = "never"\n' for name in NAMES
    )
    return f"""
[server]
port = {port}
state_dir = {rig.toml_string(str(folder))}
[memory.devices]
ram = "1536MiB"
[residency]
min_residency_s = 0
[providers.rig]
kind = "process"
command = [{command}]
env = {rig.toml_table(env)}
{models}"""


def ask(port: int, model: str) -> float:
    """One question; the wall clock's reading at the answer's first byte."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{rig.PATH}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        at_s = time.time()
        response.read()
    return at_s


def journal(port: int, last_what: int) -> list[Happening]:
    """Everything so far: read until as many grants were seen as were asked for."""
    found: list[Happening] = []
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/events", timeout=30) as lines:
        for line in lines:
            if line.startswith(b"data:"):
                found.append(msgspec.json.decode(line[5:], type=Happening))
                if sum(entry.what == "granted" for entry in found) >= last_what:
                    break
    return found


def swap_of(entries: Sequence[Happening], old: Sequence[Step], new: Sequence[Step], first_byte_s: float) -> Swap:
    """Put one swap's entries and both engines' notes in order."""
    at: dict[str, float] = {entry.what: entry.at_s for entry in entries}
    was = {step.what: step.at_s for step in old} | {f"new {step.what}": step.at_s for step in new}
    order = (
        at["draining"],
        at["unload_started"],
        was["asked"],
        was["ended"],
        at["gone"],
        was["new started"],
        was["new ready"],
        at["loaded"],
        first_byte_s,
    )
    return Swap(*(1000 * (later - sooner) for sooner, later in pairwise(order)))


def overheads_ms(swaps: int) -> list[float]:
    """Of so many swaps, with everything else as usual. Raises: Missing, RuntimeError."""
    return [swap.overhead for swap in measure(_parser().parse_args(["--swaps", str(swaps)]))]


def measure(options: argparse.Namespace) -> list[Swap]:
    """N swaps. Raises: Missing, RuntimeError."""
    rig.build()
    cores = machine.cores()
    with tempfile.TemporaryDirectory(prefix="rh-swap-") as name:
        folder = Path(name)
        port = rig.free_port()
        (folder / "roundhouse.toml").write_text(config(folder, port, cores, options))
        argv = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "roundhouse.toml")]
        process = contenders.start(argv, core=cores.proxy, folder=folder, cwd=options.tree)
        try:
            try:
                rig.until_listening(port, process)
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{(folder / 'log').read_text(errors='replace')[-2000:]}") from None
            first_bytes_s = [ask(port, NAMES[number % 2]) for number in range(options.swaps + 1)]
            entries = journal(port, options.swaps + 1)
        finally:
            contenders.stop(process)
        lines = (folder / "steps").read_text().splitlines()
    steps = [msgspec.json.decode(line, type=Step) for line in lines]
    return _swaps(entries, steps, first_bytes_s)


def _swaps(entries: Sequence[Happening], steps: Sequence[Step], first_bytes_s: Sequence[float]) -> list[Swap]:
    """Engines follow one another, so the n-th grant belongs to the n-th engine."""
    pids = list(dict.fromkeys(step.pid for step in steps))
    engines = [[step for step in steps if step.pid == pid] for pid in pids]
    swaps: list[Swap] = []
    present: list[Happening] = []
    for entry in entries:
        present.append(entry)
        if entry.what == "granted":
            number = len(swaps)
            if any(earlier.what == "draining" for earlier in present):
                swaps.append(swap_of(present, engines[number], engines[number + 1], first_bytes_s[number + 1]))
            present = []
    return swaps


def report(swaps: Sequence[Swap], options: argparse.Namespace) -> str:
    """The table, for people."""
    lines = [f"{key:9} {value}" for key, value in machine.describe().items()]
    lines += [
        f"swaps     {len(swaps)}; engines boot in {options.boot_ms} ms, stop in {options.stop_ms} ms, "
        f"hold {options.ballast_mib} MiB",
        "",
        f"{'milliseconds':64}{'median':>8}{'p90':>8}{'worst':>8}",
    ]
    rows: list[tuple[str, list[float]]] = [
        (title, [getattr(swap, field) for swap in swaps]) for field, title in FIELD_TITLES.items()
    ]
    rows.append(("OVERHEAD (all of it but the engine's own and the answer)", [swap.overhead for swap in swaps]))
    for title, values in rows:
        ordered = sorted(values)
        p90 = ordered[int(0.9 * (len(ordered) - 1))]
        lines.append(f"{title:64}{statistics.median(values):>8.1f}{p90:>8.1f}{ordered[-1]:>8.1f}")
    median = statistics.median(swap.overhead for swap in swaps)
    verdict = "met" if median <= GOAL_MS else "MISSED"
    return "\n".join([*lines, "", f"goal: overhead ≤ {GOAL_MS:g} ms: {verdict} ({median:.1f} ms)"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.swap_cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=30)
    parser.add_argument("--boot-ms", type=int, default=50, help="what an engine takes before it listens")
    parser.add_argument("--stop-ms", type=int, default=20, help="what it takes to end once asked")
    parser.add_argument("--ballast-mib", type=int, default=64, help="memory it touches; from 32 on it is waited for")
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="DIR", help="another working tree of Roundhouse")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every swap")
    return parser


def main() -> int:
    """The command line."""
    options = _parser().parse_args()
    try:
        swaps = measure(options)
    except (rig.Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report(swaps, options))
    if options.json:
        result: dict[str, Any] = {"machine": machine.describe(), "swaps": swaps}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
