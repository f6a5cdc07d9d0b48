"""The exposition: text that Prometheus reads, with counts that add up."""

from __future__ import annotations

import shutil
import subprocess
import timeit
from decimal import Decimal

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.access.limits import BUDGET_CODE, CONCURRENCY_CODE, RATE_CODE
from gateway.metering.metrics import LIMIT_CODES, TOKEN_KINDS, Metrics
from tests.deploy.promlint import faults

from .entries import entry

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
CHAT = ("route", "/v1/chat/completions")


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


def test_the_exposition_is_as_promtool_wants_it() -> None:
    """Empty and full: each family declared once, counters end in _total, no series twice, base units."""
    assert faults(Metrics(lambda: ()).text().decode()) == []
    assert faults(used().text().decode()) == []


FAULTY = {
    "no help text": "# TYPE a gauge\na 1\n",
    "a counter, by its name none": "# HELP a x\n# TYPE a counter\na 1\n",
    "a gauge, by its name none": "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n",
    "a histogram's suffix": "# HELP a_count x\n# TYPE a_count gauge\na_count 1\n",
    "a histogram's label": '# HELP a x\n# TYPE a gauge\na{le="1"} 1\n',
    "a summary's label": '# HELP a x\n# TYPE a gauge\na{quantile="1"} 1\n',
    "a colon is for rules": "# HELP a:b x\n# TYPE a:b gauge\na:b 1\n",
    "not in snake case": '# HELP a x\n# TYPE a gauge\na{aB="1"} 1\n',
    "its type is in its name: gauge": "# HELP a_gauge x\n# TYPE a_gauge gauge\na_gauge 1\n",
    "an abbreviated unit: ms": "# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n",
    "not in a base unit: milliseconds": "# HELP a_milliseconds x\n# TYPE a_milliseconds gauge\na_milliseconds 1\n",
    "not in a base unit: minutes": "# HELP a_minutes x\n# TYPE a_minutes gauge\na_minutes 1\n",
}
TORN = {
    "a series twice": "# HELP a x\n# TYPE a gauge\na 1\na 2\n",
    "a type twice": "# HELP a x\n# TYPE a gauge\n# TYPE a gauge\na 1\n",
    "a type behind": "# HELP a x\na 1\n# TYPE a gauge\n",
    "a label without quotes": "# HELP a x\n# TYPE a gauge\na{b=c} 1\n",
    "no value": "# HELP a x\n# TYPE a gauge\na much\n",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_this_checker_sees_what_is_wrong(fault: str) -> None:
    """One fault for each."""
    name = FAULTY[fault].splitlines()[-1].partition(" ")[0].partition("{")[0]
    assert faults(FAULTY[fault]) == [f"{name}: {fault}"]


@pytest.mark.parametrize("fault", TORN)
def test_this_checker_refuses_what_a_scrape_refuses(fault: str) -> None:
    """What cannot be read at all."""
    with pytest.raises(ValueError, match=r"\w"):
        faults(TORN[fault])


def test_buckets_have_to_add_up() -> None:
    """Neither promtool nor a scrape would see that."""
    lines = "# HELP a_seconds x\n# TYPE a_seconds histogram\n"
    right = 'a_seconds_bucket{le="1"} 1\na_seconds_bucket{le="+Inf"} 2\na_seconds_sum 3\na_seconds_count 2\n'
    assert faults(lines + right) == []
    assert faults(lines + right.replace("count 2", "count 3")) != []
    assert faults(lines + right.replace('"1"} 1', '"1"} 9')) != []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("text", [*FAULTY.values(), *list(TORN.values())[1:]], ids=[*FAULTY, *list(TORN)[1:]])
def test_promtool_says_the_same(text: str) -> None:
    """Of everything that our checker finds fault with, but for a series that is there twice: a scrape refuses that."""
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)  # noqa: S607
    assert said.returncode != 0


def test_a_request_pays_about_a_microsecond() -> None:
    """Ten times that is the bound here: machines that run tests are busy."""
    metrics, one = Metrics(lambda: ()), entry(cost_usd=Decimal("0.001"), total_us=1_000_000)
    best_s = min(timeit.repeat(lambda: metrics.ended(one, 80), number=1000, repeat=20)) / 1000
    assert best_s < 10e-6
