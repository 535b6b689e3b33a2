"""Prometheus' rules: they fire when they must, are silent otherwise, and lead to a section of the runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"
SCENARIOS = RULES / "tests" / "scenarios.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules("alerts.yml")


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fired() -> set[str]:
    """The alerts that some scenario expects."""
    return set(re.findall(r'alertname="(\w+)"', SCENARIOS.read_text()))


@needs_promtool
@pytest.mark.timeout(120)
def test_every_scenario_calls_whom_it_must_and_nobody_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", SCENARIOS)


@needs_promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    found = promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert f"{len(ALERTS)} rules found" in found, "the configuration loads the alerts"


@needs_promtool
def test_a_wrong_expectation_is_found(tmp_path: Path) -> None:
    """The scenarios can fail: with one alert's name changed they do."""
    text = SCENARIOS.read_text().replace("../", f"{RULES}/")
    document = yaml.safe_load(text)
    document["tests"] = [t for t in document["tests"] if t["name"] == "the disk is full"]
    assert document["tests"]
    changed = yaml.safe_dump(document).replace("StreamerDiskFull", "StreamerOther")
    (tmp_path / "wrong.yml").write_text(changed)
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "wrong.yml"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 0


def test_every_alert_has_a_scenario_in_which_it_fires() -> None:
    assert {rule["alert"] for rule in ALERTS} == fired()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_urgent_it_is_and_where_to_look(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "warn"}
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert all(text.strip() == text and "\n" not in text for text in notes.values())
    of_a_stream = "disk" not in rule["expr"] and "up{job" not in rule["expr"]
    assert ("$labels.stream" in notes["summary"]) == of_a_stream


def test_every_runbook_link_leads_to_a_heading() -> None:
    """As GitHub makes anchors: small letters, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
    wanted = {rule["annotations"]["runbook_url"] for rule in ALERTS}
    assert {f"docs/runbook.md#{anchor}" for anchor in anchors} >= wanted
