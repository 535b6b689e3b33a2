"""Who may do what: every question of a page, whatever its browser shows."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_support import config_text, line, make_bundle

from streamer.control import ControlServer
from streamer.dashboard import feed as feed_module
from streamer.dashboard.board import Board
from streamer.dashboard.desk import BAD, LOCKED, MAX_SLIDERS, MAX_TEXT, NO_ANSWER, WRONG, Desk
from streamer.dashboard.feed import Feed
from streamer.dashboard.security import Access, Gate
from streamer.dashboard.state import Status
from streamer.errors import ConfigError
from streamer.routing import REASON_ROUTE
from streamer.steering import as_answer

ROUTES = """
[[stream.route]]
name = "high"
when = "target.x > 0.5"
[[stream.route]]
name = "some"
one_in = 10
"""
TOKEN = "the token"
ACTIONS: list[dict[str, Any]] = [
    {"do": "store", "store": False},
    {"do": "enable", "route": "high", "enabled": False},
    {"do": "cluster", "name": "rings", "of": 3},
    {"do": "cluster", "name": "rings", "of": None},
    {"do": "route", "route": "high", "values": {"0": 0.75}},
    {"do": "swap", "bundle": "other"},
]


@dataclass
class Office:
    """A desk, and what the run behind it was asked."""

    desk: Desk
    asked: list[dict[str, Any]]
    folder: Path

    def do(self, **asked: Any) -> dict[str, Any]:
        """The answer to an action, or its refusal."""
        call = self.desk.action({"stream": "s", **asked})
        return {"ok": False, "text": call} if isinstance(call, str) else call()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def office(tmp_path: Path, bundle: Path) -> Iterator[Office]:
    """A locked page of a stream whose control socket notes what it is asked, and refuses to store."""
    asked: list[dict[str, Any]] = []

    def steer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        if request["change"].get("store"):
            raise ConfigError("no \x1b[31mroom")
        return {"steering": {"version": 2}}

    with line(tmp_path, config_text([bundle], ROUTES)) as stream:
        spec = stream.spec.model_copy(update={"fd": os.dup(stream.spec.fd)})
        (tmp_path / "s.json").write_text(spec.model_dump_json())
        settings = {"token": TOKEN, "control": f"ipc://{tmp_path}/control", "address": "x", "port": 0}
        (tmp_path / "dashboard.json").write_text(json.dumps(settings | {"streams": ["s"]}))
        feed = Feed(tmp_path)
        feed.streams["s"].answered(Status(steering=as_answer(1, spec.first_version)))
        commands = {"steer": steer, "swap": lambda request: asked.append(request) or {}}
        with ControlServer(feed.settings.control, commands):
            yield Office(Desk(Board(feed), Gate(TOKEN), Access(), "here"), asked, tmp_path)
        os.close(spec.fd)


def unlock(office: Office) -> None:
    assert office.desk.unlock({"token": TOKEN})["ok"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_locked_page_does_nothing(office: Office, action: dict[str, Any]) -> None:
    assert office.do(**action) == {"ok": False, "text": LOCKED}
    assert office.desk.unlock({"token": "not " + TOKEN}) == {"ok": False, "text": WRONG}
    assert office.do(**action) == {"ok": False, "text": LOCKED}
    assert office.asked == []


def test_an_unlocked_page_asks_the_run(office: Office) -> None:
    unlock(office)
    for action in ACTIONS:
        assert office.do(**action)["ok"], action
    assert [request.get("change", request.get("bundle")) for request in office.asked] == [
        {"store": False},
        {"route": "high", "enabled": False},
        {"cluster": "rings", "number": 3},
        {"cluster": "rings", "number": None},
        {"route": "high", "when": "target.x > 0.75"},
        "other",
    ]
    office.desk.access.lock()
    assert office.do(**ACTIONS[0])["text"] == LOCKED


def test_a_token_that_is_no_text_opens_nothing(office: Office) -> None:
    assert not office.desk.unlock({"token": [TOKEN]})["ok"]
    assert office.do(**ACTIONS[0])["text"] == LOCKED


def test_a_refusal_is_told_without_control_characters(office: Office) -> None:
    unlock(office)
    said = office.do(do="store", store=True)
    assert not said["ok"]
    assert said["text"].startswith("Refused: no ")
    assert "\x1b" not in said["text"]


def test_no_answer_is_no_refusal(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    unlock(office)
    monkeypatch.setattr(feed_module, "CHANGE_S", 0.1)
    feed = office.desk.board.feed
    feed.settings = feed.settings.model_copy(update={"control": f"ipc://{office.folder}/nobody"})
    assert office.do(do="store", store=False) == {"ok": False, "text": NO_ANSWER}
    assert office.do(do="swap", bundle="other") == {"ok": False, "text": NO_ANSWER}


@pytest.mark.parametrize(
    "values",
    [
        *({"0": value} for value in (float("nan"), float("inf"), True, "0.5", None, [1.0], 1e300, 10**400)),
        *({key: 0.5} for key in ("1", "-1", "x", "", "0.0", "9" * 5000)),
        {str(index): 0.5 for index in range(MAX_SLIDERS + 1)},
        *([0.5], "0.5", None, 0.5),
    ],
)
def test_sliders_that_cannot_be_change_nothing(office: Office, values: object) -> None:
    unlock(office)
    for answer in (
        office.do(do="route", route="high", values=values),
        office.desk.preview({"do": "preview", "stream": "s", "route": "high", "values": values}),
    ):
        assert not answer["ok"]
        assert 0 < len(answer["text"]) < 1000
    assert office.asked == []


@pytest.mark.parametrize(
    "action",
    [
        {"do": "route", "route": "none", "values": {"0": 0.5}},
        {"do": "route", "route": "some", "values": {"0": 0.5}},  # it has no rule
        {"do": "route", "route": ["high"], "values": {"0": 0.5}},
        {"do": "store", "store": 1},
        {"do": "enable", "route": "high", "enabled": "yes"},
        {"do": "enable", "route": "x" * (MAX_TEXT + 1), "enabled": True},
        {"do": "swap", "bundle": "x" * (MAX_TEXT + 1)},
        {"do": "swap", "bundle": " "},
        {"do": "swap"},
        {"do": "stop"},
    ],
)
def test_what_cannot_be_is_not_asked_of_the_run(office: Office, action: dict[str, Any]) -> None:
    unlock(office)
    assert office.do(**action) == {"ok": False, "text": BAD}
    assert office.asked == []


@pytest.mark.parametrize(
    "change", [{"name": ""}, {"name": "x" * (MAX_TEXT + 1)}, {"of": -1}, {"of": True}, {"of": 1.0}]
)
def test_a_cluster_needs_a_name_and_a_whole_number(office: Office, change: dict[str, Any]) -> None:
    unlock(office)
    assert office.do(**{"do": "cluster", "name": "rings", "of": 3} | change)["text"].startswith("Give the ")
    assert office.asked == []


@pytest.mark.parametrize("stream", ["t", "", None, 3])
def test_another_stream_is_refused(office: Office, stream: object) -> None:
    unlock(office)
    assert office.do(**ACTIONS[0] | {"stream": stream})["text"].startswith("There is no stream")
    asked = {"do": "preview", "stream": stream, "route": "high", "values": {"0": 0.75}}
    assert office.desk.preview(asked) == {"ok": False, "text": BAD}
    assert office.asked == []


def test_a_locked_page_may_look(office: Office) -> None:
    fill(office, np.linspace(0, 1, 1000, endpoint=False))
    asked = {"do": "preview", "stream": "s", "route": "high", "values": {"0": 0.75}}
    said = office.desk.preview(asked)
    assert said["ok"]
    assert said["text"].startswith("would keep 249 of the newest 1,000 events; now 499")


def test_events_without_an_answer_are_told_in_the_preview(office: Office) -> None:
    fill(office, np.linspace(-1, 1, 1000, endpoint=False))
    state = office.desk.board.feed.streams["s"]
    told = as_answer(1, state.spec.first_version)
    told["routes"][0]["when"] = "log(target.x) > -1"
    state.answered(Status(steering=told))
    said = office.desk.preview({"do": "preview", "stream": "s", "route": "high", "values": {"0": -2}})
    assert "For 500 events a rule has no answer" in said["text"]


def fill(office: Office, x: np.ndarray) -> None:
    """Events with these target.x in the sample."""
    state, n = office.desk.board.feed.streams["s"], len(x)
    events = {
        name: np.zeros((n, width) if width else n, dtype) for name, (dtype, width) in state.columns.items()
    }
    events["pulse_id"] = np.arange(n, dtype=np.uint64)
    events["reason"][:] = REASON_ROUTE
    events["target"][:, 0] = x
    state.sample.add(events, 0.0)
