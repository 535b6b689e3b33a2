"""What there is to ask for: series that a run exports, those that the rules record, and who asks for them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics_core import Metric

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "deploy" / "grafana" / "boards").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "rules"
# A metric of ours, with the labels that are asked for in braces.
SERIES = re.compile(r"((?:[a-z]+:)?streamer_[a-z0-9_]+(?::\w+)?)(\{[^}]*\})?")
# What Grafana puts into a query, and what a test puts there instead.
VARIABLES = {"$__rate_interval": "30s", "$stream": ".*"}


def series(families: Mapping[str, Metric]) -> dict[str, set[str]]:
    """{name as one asks for it: its labels}."""
    return {s.name: set(s.labels) for family in families.values() for s in family.samples}


def recorded() -> dict[str, str]:
    """{recording rule: its expression}."""
    groups = yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def alerts() -> dict[str, str]:
    """{alert: its expression}."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def panels(board: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(board.read_text())["panels"]
    return found


def queries(board: Path) -> Iterator[str]:
    """Every query of a board, as Prometheus would get it."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield substituted(target["expr"])


def substituted(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


def asked(query: str) -> list[tuple[str, set[str]]]:
    """Metrics of a query, each with the labels that its braces name."""
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))) for name, braces in SERIES.findall(query)
    ]
