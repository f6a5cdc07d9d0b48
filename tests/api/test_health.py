"""What /metrics tells of residency, the ledger and this build, and how happenings become counts."""

from __future__ import annotations

from functools import partial

from prometheus_client.core import Metric

from gateway.api.health import build_info, count_happenings, ledger_series, residency_gauges
from gateway.metering.ledger_questions import LedgerState
from gateway.metering.metrics import Metrics
from tests.metering.test_metrics import read
from tests.residency.shell import World, on_virtual_time


def told(world: World) -> Metrics:
    """The metrics of its residency, from now on."""
    metrics = Metrics(lambda: residency_gauges(world.manager, metrics.residency), world.manager.clock)
    world.manager.journal.listeners.append(partial(count_happenings, metrics))
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Of one series."""
    return read(metrics)[1][name, tuple(sorted(labels.items()))]


@on_virtual_time
async def test_residency_is_told_as_it_stands() -> None:
    """Phases, bytes, leases, loads."""
    world = World()
    metrics = told(world)
    assert value(metrics, "roundhouse_residents", phase="ready") == 0
    await world.use("a", 1.0)
    assert value(metrics, "roundhouse_residents", phase="ready") == 1
    assert value(metrics, "roundhouse_residents", phase="loading") == 0
    assert value(metrics, "roundhouse_loads_total", result="ok") == 1
    assert value(metrics, "roundhouse_leases", target="a") == 0
    committed = value(metrics, "roundhouse_committed_bytes", device="ram")
    assert committed == value(metrics, "roundhouse_resident_bytes", target="a", device="ram") > 0
    assert value(metrics, "roundhouse_budget_bytes", device="ram") >= committed
    assert value(metrics, "roundhouse_queue_depth") == 0
    assert value(metrics, "roundhouse_queue_longest_wait_seconds") == 0
    await world.close()


@on_virtual_time
async def test_a_model_that_is_pushed_out_and_loaded_again_is_thrash() -> None:
    """One eviction each; the second load of the first is a reload."""
    world = World(budget=10)
    metrics = told(world)
    for target in ("a", "b", "a"):
        await world.use(target)
    assert value(metrics, "roundhouse_evictions_total", reason="evicted") == 2
    assert value(metrics, "roundhouse_loads_total", result="ok") == 3
    assert value(metrics, "roundhouse_reloads_total") == 1
    assert metrics.residency.again == 1
    await world.close()


@on_virtual_time
async def test_the_footprints_error_is_what_was_believed_against_what_was_measured() -> None:
    """Nothing before it is measured; afterwards the share that was too much. It goes with the resident."""
    world = World()
    metrics = told(world)
    await world.use("a", 1.0)
    errors = "roundhouse_footprint_error_ratio"
    assert not [name for name, _ in read(metrics)[1] if name == errors]
    believed, source = metrics.residency.believed["a"]
    world.manager.measured("a", {"ram": believed["ram"] * 2})
    assert value(metrics, errors, target="a", device="ram", source=source) == -0.5
    world.manager.unload("a")
    await world.until(lambda: not world.phases())
    assert not [name for name, _ in read(metrics)[1] if name == errors]
    assert metrics.residency.believed == {}
    await world.close()


def test_the_ledger_is_told_as_it_stands() -> None:
    """Well, and not."""
    state = LedgerState(ok=False, error="disk full", since_s=1.0, buffered=7, written=100, dropped=3)
    _, samples = read(Metrics(lambda: ledger_series(state)))
    found = {name: count for (name, _), count in samples.items() if name.startswith("roundhouse_ledger")}
    assert found == {
        "roundhouse_ledger_ok": 0,
        "roundhouse_ledger_buffered_rows": 7,
        "roundhouse_ledger_written_rows_total": 100,
        "roundhouse_ledger_dropped_rows_total": 3,
    }


def test_the_build_is_named() -> None:
    """As a label of a series that is always 1."""
    made: Metric = build_info()
    (sample,) = made.samples
    assert (sample.name, sample.value) == ("roundhouse_build_info", 1)
    assert sample.labels["version"]
