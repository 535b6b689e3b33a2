"""Where the files of deploy/ name each other: compose, Prometheus, Grafana, alerts, runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer import config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
METRICS_PORT = config.load(DEPLOY / "config/compose.toml").metrics.port


def anchors() -> set[str]:
    """Of the runbook's headings, as GitHub makes them."""
    lines = (ROOT / "docs/runbook.md").read_text().splitlines()
    headings = [line[3:].lower() for line in lines if line.startswith("## ")]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", SERVICES)
def test_every_mounted_path_exists(name: str) -> None:
    paths = [entry.split(":")[0] for entry in SERVICES[name].get("volumes", ()) if entry.startswith(".")]
    assert all((DEPLOY / path).exists() for path in paths), paths


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (f"streamer:{METRICS_PORT}", "prometheus/prometheus.yml"),
        ("prometheus:9090", "grafana/provisioning/datasources"),
    ],
)
def test_the_names_are_those_of_the_services(target: str, where: str) -> None:
    path = DEPLOY / where
    files = [path] if path.is_file() else sorted(path.glob("*.y*ml"))
    assert target.partition(":")[0] in SERVICES
    assert any(target in file.read_text() for file in files), f"{where}: {files}"


def test_grafana_finds_its_boards() -> None:
    providers = sorted((DEPLOY / "grafana/provisioning/dashboards").glob("*.y*ml"))
    paths = [
        p["options"]["path"] for file in providers for p in yaml.safe_load(file.read_text())["providers"]
    ]
    assert paths
    assert set(paths) <= {entry.split(":")[1] for entry in SERVICES["grafana"]["volumes"]}
    assert len(list((DEPLOY / "grafana/boards").glob("*.json"))) >= 4


def test_the_runbook_urls_of_the_alerts_arrive() -> None:
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text()).get("groups", ())]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"].partition("runbook.md#")[2] in anchors(), alert["alert"]
