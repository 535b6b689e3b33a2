"""Grafana's boards: as their script writes them, asking only for what is exported, by labels that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from exported import BOARDS, ROOT, alerts, asked, panels, queries, recorded, series
from test_metrics import fresh, scrape

from streamer.metrics import names

EXPORTED = series(scrape({"s": fresh()}))
GRAFANA = ROOT / "deploy" / "grafana"
# Exported and in no rule and on no board; each with its reason.
UNSHOWN = {"streamer_events_vetoed_total": 'the same count as streamer_verdicts_total{verdict="veto"}'}


def metric(name: str) -> str:
    """A series' metric: histograms have three series each."""
    return re.sub(r"(_bucket|_sum|_count)$", "", name)


def everything() -> dict[str, str]:
    """{where it stands: query}, of boards, alerts and recording rules."""
    found = {f"{b.stem} {number}": q for b in BOARDS for number, q in enumerate(queries(b))}
    return found | alerts() | recorded()


def test_the_boards_are_those_that_their_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "boards.py", tmp_path], check=True, timeout=30)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in BOARDS}
    assert set(written) == {"operator.json", "latency.json", "accounting.json", "device.json"}


@pytest.mark.parametrize("where", everything())
def test_a_query_names_only_what_is_exported_and_labels_that_it_has(where: str) -> None:
    found = asked(everything()[where])
    assert found or "up{" in everything()[where], "a query asks for something"
    for name, labels in found:
        assert name in EXPORTED or name in recorded(), f"{where}: {name} is not exported"
        assert labels <= EXPORTED.get(name, {"stream"}), f"{where}: {name} has no label {labels}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_legend_names_only_labels_of_its_query(board: Path) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            has = set().union(*(EXPORTED.get(name, {"stream"}) for name, _ in asked(target["expr"])))
            if summed := re.search(r"sum by \(([^)]*)\)", target["expr"]):
                has = {label.strip() for label in summed[1].split(",")}
            assert wanted <= has, f"{panel['title']}: {target['legendFormat']}"


def test_every_exported_metric_is_shown_or_there_is_a_reason() -> None:
    used = {metric(name) for query in everything().values() for name, _ in asked(query)}
    assert set(names()) - used == set(UNSHOWN)


def test_every_recording_rule_is_used() -> None:
    used = {name for query in everything().values() for name, _ in asked(query)}
    assert set(recorded()) - used == set()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_board_needs_no_plugin_and_explains_itself(board: Path) -> None:
    shown = json.loads(board.read_text())
    assert {panel["type"] for panel in shown["panels"]} <= {"stat", "timeseries", "heatmap"}
    assert all(panel["description"] and panel["title"] for panel in shown["panels"])
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in shown["panels"])
    assert "http" not in board.read_text(), "nothing is loaded from anywhere"
    assert [variable["name"] for variable in shown["templating"]["list"]] == ["stream"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_panels_lie_side_by_side(board: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(board):
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_datasource_is_the_one_that_is_provisioned() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    uids = {panel["datasource"]["uid"] for board in BOARDS for panel in panels(board)}
    assert uids == {source["uid"]}
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
