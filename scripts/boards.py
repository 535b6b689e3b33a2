"""Writes the Grafana boards of deploy/grafana/boards: `python scripts/boards.py [FOLDER]`.

Owns the form of the boards; what they show is in `board_panels`. Only panels that Grafana itself has.
A state is always a word or a number as well as a colour.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from board_form import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Panel
from board_panels import ACCOUNTING, DEVICE, LATENCY, OPERATOR

DATASOURCE: Final = {"type": "prometheus", "uid": "streamer-prometheus"}
# Grafana's grid is 24 columns wide.
COLUMNS: Final = 24
STAT_HEIGHT, PLOT_HEIGHT = 4, 8
# Of Grafana 11; later versions convert it when they load it.
SCHEMA_VERSION: Final = 39
# Words that end a legend have the same colour wherever they are.
COLOURS: Final = {
    "keep": BLUE,
    "veto": SKY,
    "failopen": ORANGE,
    "p50": SKY,
    "p90": ORANGE,
    "p99": BLUE,
    "p99.9": PURPLE,
    "deadline": RED,
    "reserve": RED,
    "free": BLUE,
    "used": BLUE,
    "all": SKY,
    "ingest": SKY,
    "inference": BLUE,
    "sink": GREEN,
    "again": SKY,
    "late": ORANGE,
    "jumps": RED,
    "swaps": BLUE,
    "refused": RED,
    "steerings": SKY,
    "timeout": ORANGE,
    "overload": SKY,
    "worker_lost": RED,
    "nonfinite": PURPLE,
    "model_error": BLUE,
}


BOARDS: Final = {
    "operator": ("Streamer: operator", OPERATOR),
    "latency": ("Streamer: latency", LATENCY),
    "accounting": ("Streamer: accounting", ACCOUNTING),
    "device": ("Streamer: device", DEVICE),
}


def panel(shown: Panel, number: int, at: tuple[int, int]) -> dict[str, Any]:
    """Grafana's form of a panel, its corner `at` (column, line)."""
    colour = {"mode": "thresholds"} if shown.kind == "stat" else {"mode": "palette-classic-by-name"}
    steps = [{"color": color, "value": value} for color, value in shown.steps]
    custom = {"fillOpacity": 10, "stacking": {"mode": "normal" if shown.stacked else "none"}}
    targets = [
        {
            "datasource": DATASOURCE,
            "format": "heatmap" if shown.kind == "heatmap" else "time_series",
            "expr": query,
            "legendFormat": legend,
            "refId": chr(ord("A") + index),
        }
        for index, (query, legend) in enumerate(shown.queries)
    ]
    defaults = {"unit": shown.unit, "color": colour, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "id": number,
        "type": shown.kind,
        "title": shown.title,
        "description": shown.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": at[0], "y": at[1], "w": shown.width, "h": height(shown)},
        "fieldConfig": {
            "defaults": defaults | ({"custom": custom} if shown.kind == "timeseries" else {}),
            "overrides": [] if shown.kind == "stat" else overrides(),
        },
        "options": options(shown),
        "targets": targets,
    }


def overrides() -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/(^| ){re.escape(word)}$/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for word, colour in COLOURS.items()
    ]


def height(shown: Panel) -> int:
    return STAT_HEIGHT if shown.kind == "stat" else PLOT_HEIGHT


def options(shown: Panel) -> dict[str, Any]:
    if shown.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "value_and_name",
            "reduceOptions": {"calcs": ["lastNotNull"]},
        }
    if shown.kind == "heatmap":
        return {"calculate": False, "color": {"mode": "scheme", "scheme": "Cividis"}, "yAxis": {"unit": "s"}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def laid_out(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Row by row, from the left."""
    found: list[dict[str, Any]] = []
    column = line = row_height = 0
    for number, shown in enumerate(panels, start=1):
        if column + shown.width > COLUMNS:
            column, line, row_height = 0, line + row_height, 0
        found.append(panel(shown, number, (column, line)))
        column, row_height = column + shown.width, max(row_height, height(shown))
    return found


def board(name: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    variable = {
        "name": "stream",
        "label": "Stream",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": "label_values(streamer_messages_total, stream)", "refId": "stream"},
        "refresh": 2,  # when the range of time changes: streams come with runs
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    links = [
        {"title": "Boards", "type": "dashboards", "tags": ["streamer"], "asDropdown": True, "keepTime": True}
    ]
    return {
        "uid": f"streamer-{name}",
        "title": title,
        "tags": ["streamer"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [variable]},
        "links": links,
        "panels": laid_out(panels),
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, panels) in BOARDS.items():
        text = json.dumps(board(name, title, panels), indent=1)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "deploy/grafana/boards")
