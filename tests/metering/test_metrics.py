"""The exposition: text that Prometheus reads, with counts that add up."""

from __future__ import annotations

import re
import timeit
from collections import Counter
from decimal import Decimal

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.access.limits import BUDGET_CODE, CONCURRENCY_CODE, RATE_CODE
from gateway.metering.metrics import LIMIT_CODES, TOKEN_KINDS, Metrics

from .entries import entry

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
CHAT = ("route", "/v1/chat/completions")

# What a series may be counted in. https://prometheus.io/docs/practices/naming/
UNITS = ("seconds", "bytes", "ratio", "info", "rows", "usd", "tokens")


def read(metrics: Metrics) -> tuple[dict[str, Metric], Samples]:
    """What a scrape gives, by family and by sample."""
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
    }
    return families, samples


def used() -> Metrics:
    """With something in every series."""
    metrics = Metrics(lambda: ())
    metrics.in_flight = 3
    metrics.ended(
        entry(target="up/m", prompt=10, completion=5, cached=4, cost_usd=Decimal("0.1"), total_us=200_000), 80
    )
    metrics.ended(
        entry(target="up/m", prompt=1, completion=2, reasoning=2, cost_usd=Decimal("0.2"), streamed=True), 300
    )
    metrics.ended(entry(target="", model="", status=0, left="queued", queued_us=5_000_000, total_us=700_000_000), -1)
    metrics.ended(entry(target="", status=429, code="rate_limit_exceeded"), 50)
    metrics.ended(entry(target="up/m", status=502, code="upstream_unreachable"), 50)
    metrics.ended(entry(target="up/m", status=429), 50)
    metrics.residency.loaded("up/m", 1000.0, 2.0)
    metrics.residency.leaves("up/m", 1001.0, "evicted")
    metrics.rejections["queue_full"] += 4
    metrics.queue_wait_s.add(0.3)
    return metrics


def test_metrics_parse_when_nothing_has_been_counted() -> None:
    """An empty gateway can be scraped, and what will be counted is there from the start."""
    families, samples = read(Metrics(lambda: ()))
    assert {
        "roundhouse_requests",
        "roundhouse_errors",
        "roundhouse_limits_rejected",
        "roundhouse_request_seconds",
        "roundhouse_request_queue_seconds",
        "roundhouse_first_byte_seconds",
        "roundhouse_overhead_seconds",
        "roundhouse_in_flight",
        "roundhouse_disconnects",
        "roundhouse_loads",
        "roundhouse_reloads",
        "roundhouse_thrash_ratio",
        "roundhouse_evictions",
        "roundhouse_rejections",
        "roundhouse_queue_wait_seconds",
        "roundhouse_load_seconds",
        "roundhouse_tokens",
        "roundhouse_cost_usd",
    } <= set(families)
    assert samples["roundhouse_in_flight", ()] == 0
    assert samples["roundhouse_loads_total", (("result", "failed"),)] == 0
    assert samples["roundhouse_limits_rejected_total", (("code", "rate_limit_exceeded"),)] == 0


def test_metrics_tell_what_was_counted() -> None:
    """Requests by route and status, those who left and where, errors by code, and what residency did."""
    families, samples = read(used())
    assert samples["roundhouse_requests_total", (CHAT, ("status", "200"))] == 2
    assert samples["roundhouse_requests_total", (CHAT, ("status", "0"))] == 1
    assert samples["roundhouse_disconnects_total", (("phase", "queued"),)] == 1
    assert samples["roundhouse_in_flight", ()] == 3
    assert samples["roundhouse_errors_total", (("code", "upstream_unreachable"),)] == 1
    assert ("roundhouse_errors_total", (("code", "caller_left"),)) not in samples
    assert samples["roundhouse_loads_total", (("result", "ok"),)] == 1
    assert samples["roundhouse_evictions_total", (("reason", "evicted"),)] == 1
    assert samples["roundhouse_rejections_total", (("reason", "queue_full"),)] == 4
    assert samples["roundhouse_request_seconds_count", (CHAT,)] == 6
    assert samples["roundhouse_request_seconds_sum", (CHAT,)] == pytest.approx(700.20008)
    assert samples["roundhouse_request_queue_seconds_sum", (CHAT,)] == 5.0
    assert samples["roundhouse_request_queue_seconds_count", (CHAT,)] == 6
    assert families["roundhouse_request_seconds"].type == "histogram"


def test_overhead_counts_only_where_it_is_known() -> None:
    """In buckets below a millisecond."""
    _, samples = read(used())
    assert samples["roundhouse_overhead_seconds_count", (CHAT,)] == 5
    assert samples["roundhouse_overhead_seconds_bucket", (("le", "5e-05"), CHAT)] == 3
    assert samples["roundhouse_overhead_seconds_bucket", (("le", "0.0001"), CHAT)] == 4
    assert samples["roundhouse_overhead_seconds_sum", (CHAT,)] == pytest.approx(0.00053)


def test_only_limits_of_ours_are_counted_as_such() -> None:
    """An upstream's own 429 is none; the codes are those of the limiter."""
    _, samples = read(used())
    counted = {dict(labels)["code"]: value for (name, labels), value in samples.items() if "limits_rejected" in name}
    assert counted == {**dict.fromkeys(LIMIT_CODES, 0.0), "rate_limit_exceeded": 1.0}
    assert set(LIMIT_CODES) == {RATE_CODE, CONCURRENCY_CODE, BUDGET_CODE}


def test_first_bytes_are_those_of_good_answers_by_target() -> None:
    """Streamed or not; a refusal's first byte is nobody's."""
    _, samples = read(used())
    counts = {
        labels: value for (name, labels), value in samples.items() if name == "roundhouse_first_byte_seconds_count"
    }
    assert counts == {
        (("streamed", "false"), ("target", "up/m")): 1,
        (("streamed", "true"), ("target", "up/m")): 1,
    }


def test_metrics_ask_for_the_state_at_each_scrape() -> None:
    """A gauge is what is, not what was when it was registered."""
    now = [1.0]
    metrics = Metrics(lambda: [GaugeMetricFamily("x", "y", now[0])])
    assert read(metrics)[1]["x", ()] == 1.0
    now[0] = 2.0
    assert read(metrics)[1]["x", ()] == 2.0


def test_metrics_escape_a_label_when_it_holds_quotes() -> None:
    """A hostile route or reason does not break the exposition."""
    metrics = Metrics(lambda: ())
    metrics.rejections['a"b\\c\nd'] += 1
    metrics.ended(entry(target='up/a"\n'), 0)
    samples = read(metrics)[1]
    assert samples["roundhouse_rejections_total", (("reason", 'a"b\\c\nd'),)] == 1
    assert samples["roundhouse_tokens_total", (("kind", "prompt"), ("target", 'up/a"\n'))] == 1


def test_metrics_count_tokens_and_cost_by_target() -> None:
    """Each kind is a sum over the target's answers; money is added exactly."""
    metrics = used()
    metrics.ended(entry(target="openrouter/a/b", prompt=0, completion=7), 0)
    for _ in range(9):
        metrics.ended(entry(target="up/m", prompt=0, completion=0, cost_usd=Decimal("0.1")), 0)
    _, samples = read(metrics)
    counts = {
        (dict(labels)["target"], dict(labels)["kind"]): value
        for (name, labels), value in samples.items()
        if name == "roundhouse_tokens_total"
    }
    assert {kind for _, kind in counts} == set(TOKEN_KINDS)
    # the two refusals have the usual entry's one and two
    assert [counts["up/m", kind] for kind in TOKEN_KINDS] == [13, 11, 4, 2]
    assert [counts["openrouter/a/b", kind] for kind in TOKEN_KINDS] == [0, 7, 0, 0]
    assert samples["roundhouse_cost_usd_total", (("target", "up/m"),)] == 1.2


# ---------------------------------------------------------------- as promtool checks it


def complaints(text: str) -> list[str]:
    """What `promtool check metrics` would say, and what a scrape would refuse.

    Source: Prometheus, promlint's rules: help texts, counters' names, units, reserved suffixes, names of labels.
    """
    found: list[str] = []
    declared: Counter[tuple[str, str]] = Counter()
    series: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, *rest = line.split(" ", 3)
            declared[what, name] += 1
            if what == "HELP" and not (rest and rest[0].strip()):
                found.append(f"{name}: no help text")
            if what == "TYPE":
                kinds[name] = rest[0]
        elif line:
            series[line.rpartition(" ")[0]] += 1
    found += [f"{name}: {what} more than once" for (what, name), times in declared.items() if times > 1]
    found += [f"{name}: more than once" for name, times in series.items() if times > 1]
    for name, kind in kinds.items():
        if ("HELP", name) not in declared:
            found.append(f"{name}: no HELP")
        if (kind == "counter") is not name.endswith("_total"):
            found.append(f"{name}: a {kind}")
        if kind != "histogram" and name.endswith(("_bucket", "_sum", "_count")):
            found.append(f"{name}: a histogram's suffix")
        if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
            found.append(f"{name}: not in snake case")
        if re.search(r"_(ms|us|milliseconds|microseconds|minutes|mb|mib|kb|percent)\b", name):
            found.append(f"{name}: not in a base unit")
        if kind == "histogram" and not name.endswith(UNITS):
            found.append(f"{name}: without its unit")
    return found


def test_the_exposition_is_as_promtool_wants_it() -> None:
    """Empty and full: each family declared once, counters end in _total, no series twice, base units."""
    assert complaints(Metrics(lambda: ()).text().decode()) == []
    assert complaints(used().text().decode()) == []


def test_this_checker_sees_what_is_wrong() -> None:
    """One complaint for each fault."""
    text = "# HELP a \n# TYPE a counter\na 1\na 1\n# HELP b_ms x\n# TYPE b_ms histogram\n# TYPE c_count gauge\n"
    said = complaints(text)
    for fault in (
        "a: no help",
        "a: a counter",
        "a: more than once",
        "b_ms: not in a base",
        "b_ms: without",
        "c_count: no",
    ):
        assert any(each.startswith(fault) for each in said), fault


def test_a_request_pays_about_a_microsecond() -> None:
    """Ten times that is the bound here: machines that run tests are busy."""
    metrics, one = Metrics(lambda: ()), entry(cost_usd=Decimal("0.001"), total_us=1_000_000)
    best_s = min(timeit.repeat(lambda: metrics.ended(one, 80), number=1000, repeat=20)) / 1000
    assert best_s < 10e-6
