"""What lies in deploy/: read by the programs it is for, and about series that a real gateway tells."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from .promlint import Family, Series, families, faults
from .scraped import scraped

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "roundhouse.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
# What Prometheus adds to every series.
OF_THE_SCRAPE = {"job", "instance"}
UP = Series("up", {}, 1.0)
# Told for those who ask, and left out of the dashboard: it would not be read there.
NOT_SHOWN = {"roundhouse_provider_models"}
_SELECTOR = re.compile(r"\b((?:roundhouse|process)_[a-z0-9_]+|up(?=\{))(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
_BY = re.compile(r"by \(([^)]*)\)")
_AGGREGATION = re.compile(r"\b(sum|max|min|count|histogram_quantile)\b")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a gateway says to which everything has happened, and as what."""
    return asyncio.run(scraped(tmp_path_factory.mktemp("scraped")))


@pytest.fixture(scope="module")
def told(scrape: tuple[str, str]) -> dict[str, Family]:
    """Its families."""
    return families(scrape[0])


@pytest.fixture(scope="module")
def known(told: dict[str, Family]) -> dict[str, list[Series]]:
    """Its series, by their full names."""
    found: dict[str, list[Series]] = {"up": [UP]}
    for family in told.values():
        for series in family.series:
            found.setdefault(series.name, []).append(series)
    return found


def dashboard() -> Json:
    """As Grafana imports it."""
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def alerts() -> list[Json]:
    """All rules."""
    return [rule for group in read(ALERTS)["groups"] for rule in group["rules"]]


def read(path: Path) -> Json:
    """A file of YAML."""
    return cast("Json", yaml.safe_load(path.read_text(encoding="utf-8")))


def expressions() -> Iterator[tuple[str, str]]:
    """Everything that is asked of Prometheus, with the place where."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard()["templating"]["list"]:
        yield f"variable {variable['name']}", variable.get("definition", "")
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]


def by(asked: str) -> set[str]:
    """What it groups by."""
    return {label for labels in _BY.findall(asked) for label in re.split(r",\s*", labels)}


def labels_of(asked: str, known: dict[str, list[Series]]) -> set[str]:
    """Those of all series that it asks for."""
    return {label for name, _ in _SELECTOR.findall(asked) for each in known[name] for label in each.labels}


def result_labels(asked: str, known: dict[str, list[Series]]) -> set[str]:
    """Those that are left in the answer."""
    if _AGGREGATION.search(asked):
        return by(asked) - {"le"}
    return labels_of(asked, known) | OF_THE_SCRAPE


def test_the_exposition_is_what_prometheus_takes(scrape: tuple[str, str]) -> None:
    """By its own client's parser, by the linter's rules."""
    assert faults(scrape[0]) == []
    parsed = {family.name: family for family in text_string_to_metric_families(scrape[0])}
    assert len(parsed) == len(families(scrape[0]))
    assert all(family.samples for family in parsed.values())


def test_it_is_told_as_what_it_is(scrape: tuple[str, str]) -> None:
    """Prometheus refuses a type that it cannot read, as one that says its charset twice."""
    assert scrape[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_every_series_that_is_asked_for_is_there(known: dict[str, list[Series]]) -> None:
    """By its full name, with labels that it has and values that they can have: a misspelt one would show nothing, silently."""
    for where, asked in expressions():
        for name, matchers in _SELECTOR.findall(asked):
            assert name in known, where
            found = known[name]
            for label, operator, value in _MATCHER.findall(matchers):
                if label not in OF_THE_SCRAPE:
                    found = [each for each in found if label in each.labels]
                    wanted = operator in ("=", "=~")
                    found = [each for each in found if bool(re.fullmatch(value, each.labels[label])) is wanted]
            assert found, f"{where}: {name}{{{matchers}}}"
        assert by(asked) <= labels_of(asked, known) | OF_THE_SCRAPE, where


def test_every_label_that_is_shown_is_there(known: dict[str, list[Series]]) -> None:
    """In the legends of the panels, in the words of the alerts."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat") or ""))
            assert shown <= result_labels(target["expr"], known), panel["title"]
    for rule in alerts():
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert shown <= result_labels(rule["expr"], known), rule["alert"]


def test_every_series_of_ours_is_shown_somewhere(told: dict[str, Family]) -> None:
    """Or is known to be left out."""
    asked = " ".join(text for _, text in expressions())
    ours = {name for name in told if name.startswith("roundhouse_")}
    assert {name for name in ours if re.search(rf"\b{name}(_bucket|_sum|_count)?\b", asked) is None} == NOT_SHOWN


def test_the_dashboard_can_be_imported() -> None:
    """Every panel has a place, a number of its own, and the data source that is chosen."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert dashboard()["templating"]["list"][0]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_every_alert_says_what_to_do() -> None:
    """With a severity, and names of its own."""
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_compose_names_files_that_are_there() -> None:
    """And no key."""
    compose = read(DEPLOY / "docker-compose.yml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], volume
    job = read(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"][0]
    assert job["static_configs"][0]["targets"] == ["roundhouse:8080"]
    assert 'job="roundhouse"' in alerts()[0]["expr"]
    assert job["job_name"] == "roundhouse"
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yml"):
        assert read(path)["apiVersion"] == 1


def test_the_image_is_made_of_what_is_there() -> None:
    """What is copied exists and is not ignored; what may be added is in the lock that it is taken from."""
    root = DEPLOY.parent
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    let_in = set(re.findall(r"^!(\S+)", (root / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    for copied in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE):
        for name in copied.split():
            assert (root / name).exists(), name
            assert name.partition("/")[0] in let_in, name
    lock = (root / "requirements-dev.lock").read_text(encoding="utf-8")
    for package in re.findall(r'PACKAGES="([^"]+)"', text)[0].split():
        assert f"\n{package.partition('[')[0]}==" in lock, package
    assert "http://127.0.0.1:8080/health/live" in text
    assert "ROUNDHOUSE_STATE_DIR=/data/state" in text
    assert "\nVOLUME /data\n" in text


def test_the_service_ends_after_the_gateway_has() -> None:
    """The gateway needs its 20 s for answers, and some for its engines."""
    lines = (DEPLOY / "systemd" / "roundhouse.service").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert int(settings["TimeoutStopSec"]) >= 30
    assert settings["KillMode"] == "mixed"
    assert settings["ExecStart"].endswith("roundhouse serve")


# ---------------------------------------------------------------- by promtool itself


def promtool(*arguments: str, said: str = "") -> None:
    """Raises: AssertionError: it finds fault with something."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([program, *arguments], input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_exposition(scrape: tuple[str, str]) -> None:
    """With nothing to say about it."""
    promtool("check", "metrics", said=scrape[0])


def test_promtool_takes_rules_and_panels(tmp_path: Path) -> None:
    """The language of both has no other reader here. What Grafana puts in for its variables is put in."""
    promtool("check", "rules", str(ALERTS))
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", ".*", each.replace("$__rate_interval", "5m"))}
        for number, each in enumerate(asked)
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


# A series that goes on so for half an hour: what is well, and what is not.
LIVES = {
    "up": ("1x30", "0x30"),
    'roundhouse_requests_total{status="200"}': ("0+60x30", "0+60x30"),
    'roundhouse_requests_total{status="503"}': ("0+1x30", "0+60x30"),
    "roundhouse_queue_longest_wait_seconds": ("5x30", "100x30"),
    "roundhouse_thrash_ratio": ("0.1x30", "0.9x30"),
    "roundhouse_reloads_total": ("0x30", "0+1x30"),
    'roundhouse_measured_bytes{device="ram"}': ("1000x30", "3000x30"),
    'roundhouse_budget_bytes{device="ram"}': ("2000x30", "2000x30"),
    'roundhouse_loads_total{result="failed"}': ("1x30", "0+1x30"),
    'roundhouse_evictions_total{reason="died"}': ("1x30", "0+1x30"),
    'roundhouse_provider_up{provider="up"}': ("1x30", "0x30"),
    "roundhouse_ledger_dropped_rows_total": ("1x30", "0+1x30"),
    "roundhouse_ledger_ok": ("1x30", "0x30"),
    'roundhouse_overhead_seconds_bucket{le="0.025"}': ("0+60x30", "0+0x30"),
    'roundhouse_overhead_seconds_bucket{le="1.0"}': ("0+60x30", "0+60x30"),
    'roundhouse_overhead_seconds_bucket{le="+Inf"}': ("0+60x30", "0+60x30"),
}


@pytest.mark.parametrize("ill", [False, True])
def test_alerts_come_when_they_should(tmp_path: Path, *, ill: bool) -> None:
    """All of them where nothing is well, none where everything is."""
    at = 'job="roundhouse",instance="a"'
    series = [
        {"series": name.replace("{", f"{{{at},") if "{" in name else f"{name}{{{at}}}", "values": values[ill]}
        for name, values in LIVES.items()
    ]
    fired = [{"labels": f'{{alertname="{rule["alert"]}"}}', "value": 1} for rule in alerts()] if ill else []
    asked = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "29m",
        "exp_samples": fired,
    }
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", str(path))
