"""What the data path costs beside nginx and other gateways: `python -m bench.proxies` (or `make bench`).

Law: what is reported is the median of the rounds, all of it from one run on one machine; what could not be measured is said.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import msgspec

from . import contenders, machine, measure, peers, plot, report, rig, swap_cost
from .contenders import Contender, Upstreams
from .measure import Plan, Starter

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results")


def starters_of(trees: Sequence[Path], *, remote: bool, with_peers: bool) -> list[Starter]:
    """nginx first, then Roundhouse as it lies here, then as it lies in other folders, for a comparison before a commit.

    Args:
        remote: also as it lies here with the upstreams as providers of kind openai.
        with_peers: and every other gateway that is installed.
    """

    def house(
        tree: Path, name: str, folder: Path, cores: machine.Cores, _: Upstreams
    ) -> AbstractContextManager[Contender]:
        return contenders.roundhouse(folder, cores, tree, name)

    def forwarding(folder: Path, cores: machine.Cores, upstreams: Upstreams) -> AbstractContextManager[Contender]:
        return contenders.roundhouse(folder, cores, ROOT, "Roundhouse to an API", upstreams)

    named = [(tree, "Roundhouse" if tree == ROOT else f"Roundhouse {tree.name}") for tree in trees]
    houses = [partial(house, tree, name) for tree, name in named]
    others = peers.ALL if with_peers else ()
    return [contenders.nginx, *houses, *([forwarding] if remote else []), *others]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.proxies", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute; without other gateways")
    parser.add_argument("--rounds", type=int, help="instead of the usual number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds, for a later look")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", default=RESULTS / "proxies.svg", help="the chart (default: %(default)s)"
    )
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
    parser.add_argument("--no-peers", action="store_true", help="leave other gateways out")
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = _options()
    plan: Plan = measure.QUICK if options.quick else measure.FULL
    if options.rounds:
        plan = msgspec.structs.replace(plan, rounds=options.rounds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trees = [ROOT, *(tree.resolve() for tree in options.tree)]
    with_peers = not (options.quick or options.no_peers)
    try:
        starters = starters_of(trees, remote=options.remote, with_peers=with_peers)
        result = measure.run(plan, starters, swap_cost.overheads_ms)
    except (rig.Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report.table(result))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    if not options.quick:
        options.plot.parent.mkdir(exist_ok=True)
        options.plot.write_text(plot.chart(result), encoding="utf-8")
        print(f"chart: {options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
