"""A preview says exactly what the stream's router would."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_support import config_text, line, make_bundle

from streamer.dashboard.preview import named_values, preview
from streamer.dashboard.state import StreamState
from streamer.plan import make_router
from streamer.routing import REASON_ROUTE, failopen_code
from streamer.versions import note_version

ROUTES = """
[[stream.route]]
name = "high"
when = "target.x > 0.5"
[[stream.route]]
name = "some"
one_in = 10
"""


@pytest.fixture
def state(tmp_path: Path) -> StreamState:
    """3000 events, a third of them without an answer; target.x is from 0 to 1."""
    with line(tmp_path, config_text([make_bundle(tmp_path / "tiny")], ROUTES)) as stream:
        state = StreamState(stream.spec)
    rng, n = np.random.default_rng(0), 3000
    events = {
        name: (rng.random((n, width) if width else n)).astype(dtype)
        for name, (dtype, width) in state.columns.items()
    }
    events["pulse_id"] = np.arange(n, dtype=np.uint64)
    events["reason"] = np.where(np.arange(n) % 3 == 0, failopen_code("timeout"), REASON_ROUTE).astype(
        np.uint8
    )
    for column in ("latent", "target"):
        events[column][::3] = np.nan
    for first in range(0, n, 500):
        state.sample.add({name: column[first : first + 500] for name, column in events.items()}, first / 500)
    return state


def test_it_counts_as_the_router_decides(state: StreamState) -> None:
    found = preview(state, {"route": "high", "when": "target.x > 0.9"})
    table = state.sample.table()
    answered = np.isfinite(table["target"]).all(axis=1)
    table = {name: column[answered] for name, column in table.items()}
    router = make_router(state.spec)
    decision = router.decide(table, table["train_id"], table["pulse_id"])
    assert found.problem == ""
    assert found.n == 2000 == answered.sum()
    assert found.now == {"high": (decision.route == 0).sum(), "some": (decision.route == 1).sum()}
    assert found.then["high"] == (table["target"][:, 0] > 0.9).sum()
    assert 0 < sum(found.then.values()) < sum(found.now.values()) < found.n
    assert found.unclear_then == 0


def test_nothing_changed_is_the_same_then_as_now(state: StreamState) -> None:
    found = preview(state, {"route": "high", "when": "target.x > 0.5"})
    assert found.now == found.then
    assert found.enabled == {"high", "some"}


def test_a_disabled_route_keeps_nothing(state: StreamState) -> None:
    found = preview(state, {"route": "high", "enabled": False})
    assert found.enabled == {"some"}
    assert found.then["high"] == 0
    assert found.then["some"] > found.now["some"]


def test_now_is_what_was_steered_to(state: StreamState) -> None:
    steered = state.spec.first_version
    route = steered.routes[0].model_copy(update={"when": "target.x > 0.99"})
    note_version(state.spec, steered.model_copy(update={"routes": (route, steered.routes[1])}))
    found = preview(state, {"route": "high", "when": "target.x > 0.5"})
    assert found.now["high"] < found.then["high"]


def test_a_rule_without_an_answer_is_told(state: StreamState) -> None:
    found = preview(state, {"route": "high", "when": "log(target.x - 0.5) > -1"})
    table = state.sample.table()
    assert found.unclear_then == (table["target"][:, 0] < 0.5).sum() > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"route": "high", "when": "target.y >"}, "not a rule"),
        ({"route": "high", "when": "named.rings == 1"}, "no cluster has this name"),
        ({"route": "high", "when": "target.x > 0 or " * 100}, "at most 1000 characters"),
        ({"route": "more", "when": "target.x > 0"}, "no route 'more'"),
        ({"route": "high"}, "expected a route with"),
    ],
)
def test_what_cannot_be_is_said(state: StreamState, change: dict[str, Any], text: str) -> None:
    found = preview(state, change)
    assert text in found.problem
    assert found.n == 0


def test_the_last_route_stays_on(state: StreamState) -> None:
    steered = state.spec.first_version
    off = steered.routes[1].model_copy(update={"enabled": False})
    note_version(state.spec, steered.model_copy(update={"routes": (steered.routes[0], off)}))
    assert "none is enabled" in preview(state, {"route": "high", "enabled": False}).problem


def test_the_thresholds_of_the_bundles_have_values(tmp_path: Path) -> None:
    with line(tmp_path, config_text([make_bundle(tmp_path / "tiny")], ROUTES)) as stream:
        assert named_values(StreamState(stream.spec)) == {}
