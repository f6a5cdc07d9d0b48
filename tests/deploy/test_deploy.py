"""What lies in deploy/: read by the programs it is for, and about series that there are."""

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

from gateway.api.health import build_info, ledger_series, provider_series, residency_gauges
from gateway.metering.ledger_questions import LedgerState
from gateway.metering.metrics import Metrics
from gateway.routing.listings import Listings
from tests.metering.entries import entry
from tests.residency.shell import World

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "roundhouse.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
_NAME = re.compile(r"\b(?:roundhouse|process)_[a-z0-9_]+")
_OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")
# Told for those who ask, and left out of the dashboard: it would not be read there.
NOT_SHOWN = {"roundhouse_provider_models"}

Json = dict[str, Any]


async def _told() -> str:
    world = World()
    listings = Listings({}, {}, lambda: None, lambda: 0.0, lambda: 0.0)
    state = LedgerState(ok=True, error="", since_s=0.0, buffered=0, written=0, dropped=0)
    metrics = Metrics(
        lambda: (
            *residency_gauges(world.manager, metrics.residency),
            *provider_series(listings, {}, lambda: 0.0),
            *ledger_series(state),
            build_info(),
        )
    )
    metrics.ended(entry(target="up/m"), 80)
    return metrics.text().decode()


def exposition() -> str:
    """All that the gateway can tell."""
    return asyncio.run(_told())


@pytest.fixture(scope="module")
def families() -> dict[str, str]:
    """Name → type, as told."""
    return {line.split(" ")[2]: line.split(" ")[3] for line in exposition().splitlines() if line.startswith("# TYPE")}


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


def family_of(name: str, families: dict[str, str]) -> str | None:
    """The family that a series of this name belongs to."""
    if name in families:
        return name
    for suffix in _OF_A_HISTOGRAM:
        if name.endswith(suffix) and families.get(name.removesuffix(suffix)) == "histogram":
            return name.removesuffix(suffix)
    return None


def test_every_series_that_is_asked_for_is_there(families: dict[str, str]) -> None:
    """By its full name."""
    unknown = [
        f"{where}: {name}"
        for where, asked in expressions()
        for name in _NAME.findall(asked)
        if family_of(name, families) is None
    ]
    assert unknown == []


def test_every_series_of_ours_is_shown_somewhere(families: dict[str, str]) -> None:
    """Or is known to be left out."""
    asked = {family_of(name, families) for _, text in expressions() for name in _NAME.findall(text)}
    ours = {name for name in families if name.startswith("roundhouse_")}
    assert ours - asked == NOT_SHOWN


def test_a_label_that_is_asked_for_is_there() -> None:
    """In the series that there are; a misspelt one would show nothing, silently."""
    known = {"job", "instance", "le"} | set(re.findall(r'[{,]([a-z_]+)="', exposition()))
    known |= {"device", "phase", "provider", "outcome", "target", "source", "reason", "result", "code"}
    for where, asked in expressions():
        for labels in re.findall(r"by \(([^)]*)\)", asked):
            assert set(re.split(r",\s*", labels)) <= known, where
        for label in re.findall(r"[{,]([a-z_]+)[=!]", asked):
            assert label in known, where


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


def test_the_service_ends_after_the_gateway_has() -> None:
    """The gateway needs its 20 s for answers, and some for its engines."""
    lines = (DEPLOY / "systemd" / "roundhouse.service").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert int(settings["TimeoutStopSec"]) >= 30
    assert settings["KillMode"] == "mixed"
    assert settings["ExecStart"].endswith("roundhouse serve")


def test_promtool_takes_all_of_it() -> None:
    """Where it is installed: the rules' own language has no other reader here."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules = subprocess.run([promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert rules.returncode == 0, rules.stdout + rules.stderr
    told = subprocess.run(
        [promtool, "check", "metrics"], input=exposition(), capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")
