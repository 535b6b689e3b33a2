"""The gallery and an event's detail as plain values: which pictures, and what is told of each.

Owns the words; the pictures come by their own addresses (pictures.py), the whole frame by detail.py.
"""

from typing import Any, Final
from urllib.parse import quote

import numpy as np

from streamer.dashboard.board import View
from streamer.dashboard.numbers import plain
from streamer.dashboard.state import Shot

PER_CLASS: Final = 5  # as many as stand in one line of half a screen
NOVEL: Final = 5
MAX_ROWS: Final = 16  # classes shown; a bundle has some ten


def gallery(view: View) -> dict[str, Any]:
    """Rows of pictures: the most novel, then the newest of each class."""
    source = view.state.gallery
    rows = [_row("most novel of the last minutes", source.most_novel(NOVEL), view, True)]
    rows += [
        _row(f"newest {label or 'events'}", source.newest(label, PER_CLASS), view)
        for label in source.labels[:MAX_ROWS]
    ]
    rows = [row for row in rows if row["shots"]]
    note = (
        "Choose one to see it whole."
        if rows
        else "No picture yet: they are taken now and then from passing frames."
    )
    return {"note": note, "rows": rows}


def _row(name: str, shots: list[Shot], view: View, mixed: bool = False) -> dict[str, Any]:
    """`mixed`: of several classes, so that each says its own; else each says its verdict."""
    return {"name": name, "shots": [_shot(shot, view, mixed) for shot in shots]}


def _shot(shot: Shot, view: View, mixed: bool) -> dict[str, Any]:
    words = f"{shot.label or 'event'}, train {shot.train_id}, pulse {shot.pulse_id}, {shot.verdict}"
    novelty = "" if shot.novelty is None else f", novelty {plain(shot.novelty)}"
    return {
        "src": f"/shot/{quote(view.stream)}/{shot.train_id}/{shot.pulse_id}",
        "train": str(shot.train_id),
        "pulse": str(shot.pulse_id),
        "form": "line" if shot.picture.ndim == 1 else "frame",
        "text": words + novelty,
        "caption": shot.label if mixed and shot.label else shot.verdict.removeprefix("keep:"),
    }


def facts(shot: Shot, view: View) -> list[dict[str, Any]]:
    """What is known of an event: tables of a title and rows."""
    labels = {column.name: column.labels for column in view.state.spec.columns}
    ids = [
        ("train", str(shot.train_id)),
        ("pulse", str(shot.pulse_id)),
        ("verdict", shot.verdict),
        ("shown as", shot.label or "–"),
        ("novelty", "–" if shot.novelty is None else plain(shot.novelty)),
    ]
    parts = [{"title": "Event", "rows": [_fact(*pair) for pair in ids]}]
    scalars = []
    for name, value in shot.columns.items():
        values = np.atleast_1d(np.asarray(value, float))
        if labels.get(name):
            parts.append(_vector(name, labels[name], values))
        else:
            scalars.append(_fact(name, plain(float(values[0]))))
    return [*parts, {"title": "Numbers", "rows": scalars}]


def _vector(name: str, labels: tuple[str, ...], values: Any) -> dict[str, Any]:
    title = "Probabilities" if name == "p" else name
    order = np.argsort(-values) if name == "p" else np.arange(len(values))
    words = _probability if name == "p" else plain
    pairs = [(labels[i], words(float(values[i]))) for i in order.tolist() if i < len(labels)]
    return {"title": title, "rows": [_fact(*pair) for pair in pairs]}


def _probability(value: float) -> str:
    return "no number" if np.isnan(value) else f"{value:.3f}"


def _fact(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "cells": [value], "kind": ""}
