"""What `streamer status` tells of a pipeline; that it fits the terminal, and outlives the pipeline."""

import copy
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from core_support import config_text
from rich.console import Console
from typer.testing import CliRunner

from streamer import cli, foreground, sockets, status_view
from streamer.config import parse
from streamer.control import ControlServer
from streamer.ledger import quantile
from streamer.pipeline import Pipeline
from streamer.status_facts import action_line
from streamer.status_numbers import WINDOW_S, History
from streamer.status_view import State, render

NOW_S = 1_700_000_000.0
ROUTES = """
[[stream.route]]
name = "late"
when = "pulse_id > 3"
[[stream.route]]
name = "sample"
one_in = 1000
"""
STORED = {"clusters": {"rings": 3}, "store": True}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a pipeline that has not been started answers."""
    with Pipeline(parse(config_text(routes=ROUTES), "test")) as pipeline:
        return foreground.status(pipeline)


@pytest.fixture
def report(told: dict[str, Any]) -> dict[str, Any]:
    """The same, as if it ran and stored; a test changes what it looks at."""
    running = copy.deepcopy(told) | {"duration_s": 100.0}
    for stage in running["stages"]["s"].values():
        stage |= {"up": True, "pid": 77}
    running["streams"]["s"] |= {
        "messages": 100,
        "received": 1000,
        "vetoed": 700,
        "in_flight": 5,
        "kept": {"late": 295, "sample": 0},
    }
    running["steering"]["s"] |= STORED
    running["dashboard"] = {"up": True, "pid": 78, "restarts": 0}
    return running


def later(report: dict[str, Any], seconds: float, received: int = 0, **more: Any) -> dict[str, Any]:
    """The answer that comes `seconds` after, with so many events received and vetoed."""
    after = copy.deepcopy(report)
    after["duration_s"] += seconds
    stream = after["streams"]["s"]
    stream |= {key: stream[key] + received for key in ("messages", "received", "vetoed")} | more
    return after


def shown(*reports: dict[str, Any], width: int = 80, height: int | None = None, entries: Any = ()) -> str:
    state = State("ipc:///run/control")
    for report in reports:
        state.take(report, entries, NOW_S)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(state, NOW_S, None if height is None else (width, height)))
    return console.file.getvalue()


def flat(text: str) -> str:
    """The same on one line, whatever was broken or aligned."""
    return re.sub(r"\s+", " ", text)


# Numbers of two answers


def test_rates_are_differences_of_two_answers(report: dict[str, Any]) -> None:
    history = History()
    history.add(report)
    assert history.recent("s").whole_run
    assert history.recent("s").received_per_s == 10
    history.add(later(report, 2, received=64))
    recent = history.recent("s")
    assert (recent.received_per_s, recent.vetoed_per_s, recent.kept_per_s, recent.span_s) == (32, 32, 0, 2)


def test_rates_look_back_a_few_seconds_only(report: dict[str, Any]) -> None:
    history = History()
    for second in range(60):
        history.add(later(report, second, received=10 * max(0, second - 30)))
    assert history.recent("s").span_s == WINDOW_S
    assert history.recent("s").received_per_s == 10


@pytest.mark.parametrize(
    "change",
    [{"duration_s": 3.0}, {"run": 8}, {"started_at": 5.0}],
)
def test_a_pipeline_that_began_anew_is_not_compared_with_the_old_one(
    report: dict[str, Any], change: dict[str, Any]
) -> None:
    history = History()
    history.add(later(report, 0, received=10**6))
    history.add(later(report, 5) | change)
    assert history.recent("s").whole_run


def test_latency_and_batches_are_of_the_last_seconds(report: dict[str, Any]) -> None:
    edges, sizes = (
        report["streams"]["s"]["latency"]["edges_s"],
        report["streams"]["s"]["batch_events"]["edges"],
    )
    slow, quick = [0] * (len(edges) + 1), [0] * (len(edges) + 1)
    slow[20] = 1000
    quick[20], quick[3] = 1000, 10
    batches = [0] * (len(sizes) + 1)
    batches[2] = 7

    def with_latency(counts: list[int]) -> dict[str, Any]:
        return {"latency": {"edges_s": edges, "counts": counts}}

    before = later(report, 0, **with_latency(slow))
    after = later(report, 1, **with_latency(quick), batch_events={"edges": sizes, "counts": batches})
    history = History()
    history.add(before)
    assert history.recent("s").p50_s == edges[20]
    history.add(after)
    assert history.recent("s").p99_s == edges[3]
    assert history.recent("s").batch_events == sizes[2]


def test_a_pipeline_that_tells_less_is_shown_too(report: dict[str, Any]) -> None:
    old = copy.deepcopy(report)
    for key in ("steering", "run", "proposal", "started_at", "stopping", "dashboard", "endpoints"):
        del old[key]
    for key in ("latency", "batch_events", "ring", "not_stored"):
        del old["streams"]["s"][key]
    old["streams"]["s"]["verdict_latency_s"] = {"p50": 0.004, "p99": 0.011}
    text = shown(old, later(old, 1, received=8))
    assert "median 4 ms, 99 % within 11 ms" in text
    assert "8 events/s" in text.replace("8.0", "8")
    assert "storing" not in text.lower()


def test_quantile() -> None:
    assert quantile([1, 2, 3], [0, 0, 0, 0], 0.5) is None
    assert quantile([1, 2, 3], [1, 1, 1, 1], 0.5) == 2
    assert quantile([1, 2, 3], [0, 0, 0, 9], 0.99) == 3


# Words


def test_a_pipeline_at_work(report: dict[str, Any]) -> None:
    text = flat(shown(report, later(report, 1, received=50)))
    for part in (
        *("run 1", "up 0:01:41", "ingest up (pid 77)", "50 events/s, 0 kept, 50 vetoed, in the last 1 s"),
        *("1,050 received = 295 kept + 750 vetoed + 5 in flight", "0 of"),
        *("late 295 28.1 %", "pulse_id > 3", "one in 1,000", "storing on", "rings = 3"),
    ):
        assert part in text
    for word in ("DOWN", "IMBALANCE", "SHED", "NOTHING", "NOT", "unclassified", "rejected"):
        assert word not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"imbalance": -3}, "IMBALANCE of -3: the ledger DOES NOT ADD UP"),
        (
            {"failopen": {"timeout": 12}},
            "UNCLASSIFIED kept unclassified (failopen): timeout 12; 12 in the last 1 s",
        ),
        ({"rejected": {"bad_header": 2}}, "REJECTED messages refused: bad_header 2; 2 in the last 1 s"),
        ({"shed": {"ring_full": 7}}, "SHED data GONE: ring_full 7"),
        (
            {"missing_upstream": 160, "missing_upstream_trains": 10},
            "UPSTREAM 160 events of 10 trains did not come; 160 in the last 1 s",
        ),
        ({"duplicates": 4, "id_jumps": 1}, "duplicates 4, id jumps 1"),
        ({"store_errors": 1, "unrecorded": 8}, "1 error; results of 8 events NOT written"),
        ({"not_stored": 9}, "storing on; it was off for 9 kept events"),
    ],
)
def test_what_went_wrong_is_told_in_words(report: dict[str, Any], change: dict[str, Any], words: str) -> None:
    assert words in flat(shown(report, later(report, 1, **change)))


def test_what_went_wrong_long_ago_is_told_without_alarm(report: dict[str, Any]) -> None:
    before = later(report, 0, failopen={"timeout": 12})
    text = shown(before, later(before, 5, received=1))
    assert "unclassified" in text
    assert "timeout 12; none in the last 5 s" in text
    assert "UNCLASSIFIED" not in text


def test_stages_that_are_down_and_silence(report: dict[str, Any]) -> None:
    after = later(report, 10)
    after["stages"]["s"]["sink"] |= {"up": False, "restarts": 1}
    text = shown(report, after)
    assert "sink DOWN (1 restart)" in text
    assert "NOTHING CAME for 10 s" in text


def test_a_slow_source_is_no_alarm_and_a_silent_one_is(report: dict[str, Any]) -> None:
    history = History()
    for second in range(5):
        history.add(later(report, second, messages=100 + max(0, second - 1) // 3))  # the third is the last
    assert history.recent("s").silent_s == 0
    came = {"messages": 101}
    assert "NOTHING" not in shown(later(report, 0, **came), later(report, 1, **came))
    assert "NOTHING" not in shown(*(later(report, second, **came) for second in (0, 1, 2, 3)))
    assert "NOTHING CAME for 4 s" in shown(*(later(report, second, **came) for second in (0, 1, 2, 3, 4)))
    old = [later(report, second, **came) for second in range(4)]
    assert "NOTHING" not in shown(*old, later(report, 4, messages=102))


def test_a_source_that_never_sent_is_silent_from_the_start(report: dict[str, Any]) -> None:
    assert "NOTHING CAME for 100 s" in shown(later(report, 0, messages=0))


def test_a_single_look_waits_until_a_silence_is_told_from_a_slow_source(
    folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_view, "GAP_S", 0.01)
    endpoint = f"ipc://{folder}/control"
    for last, told in ((10**6, True), (3, False)):
        console = Console(file=io.StringIO(), width=80, color_system=None)
        with answering(endpoint, report, silent_until=last):
            status_view.once(endpoint, console)
        assert ("NOTHING CAME" in console.file.getvalue()) == told


def test_where_the_run_can_be_reached_is_a_line_each(report: dict[str, Any]) -> None:
    results = report["endpoints"]["results"]["s"]
    report["endpoints"] |= {"page": None, "pid": 17, "directory": "/data/\x1b[2J"}
    text = shown(report)
    assert results.startswith("tcp://")
    assert re.search(rf"^  results +s {re.escape(results)} *$", text, re.MULTILINE)
    assert re.search(r"^  pid +17 *$", text, re.MULTILINE)
    assert re.search(r"^  directory +/data/\?\[2J *$", text, re.MULTILINE)
    assert "page" not in text.replace("live page", "")


def test_a_pipeline_that_starts_is_no_alarm(told: dict[str, Any]) -> None:
    text = shown(told)
    assert "ingest starting" in text
    assert "waiting until every stage is ready" in text
    assert "DOWN" not in text.replace("live page DOWN", "")


def test_storing_that_is_off_is_loud(report: dict[str, Any]) -> None:
    after = later(report, 1, received=3, not_stored=1234)
    after["steering"]["s"]["store"] = False
    assert "STORING IS OFF: kept events are NOT written, 1,234 until now" in flat(shown(after))


def test_a_route_that_is_switched_off_says_so(report: dict[str, Any]) -> None:
    report["steering"]["s"]["routes"][0]["enabled"] = False
    assert "SWITCHED OFF: pulse_id > 3" in shown(report)


def test_actions_tell_from_what_to_what(report: dict[str, Any]) -> None:
    steering = report["steering"]["s"]
    entry = {"at_s": NOW_S, "by": "dashboard", "stream": "s", "before": steering, "after": steering}
    raised = action_line(entry | {"action": {"change": {"route": "late", "when": "pulse_id > 5"}}})
    assert raised.endswith("dashboard: s late when pulse_id > 3 -> pulse_id > 5")
    assert action_line(entry | {"action": {"change": {"store": False}}}).endswith("store True -> False")
    named = action_line(entry | {"action": {"change": {"cluster": "rings", "number": 4}}})
    assert named.endswith("rings number 3 -> 4")
    refused = {
        "at_s": NOW_S,
        "by": "command line",
        "stream": "s",
        "action": {"bundle": "x"},
        "refused": "no \x1b x",
    }
    assert action_line(refused).endswith("s bundle -> x  REFUSED: no ? x")
    assert "bundle -> x" in shown(report, entries=[refused])


def test_names_do_not_command_the_terminal(report: dict[str, Any]) -> None:
    hostile = "\x1b[2J[red]x"
    report["steering"]["s"]["clusters"] = {hostile: 1}
    report["steering"]["s"]["routes"][0]["when"] = hostile
    report["streams"]["s"]["bundles"] = [{"name": hostile, "sha256": "\x1b" * 64}]
    text = shown(report, entries=[{"by": hostile, "stream": hostile, "action": {hostile: hostile}}])
    assert "\x1b" not in text
    assert text.count("?[2J[red]x") >= 4


@pytest.mark.parametrize("height", [90, 36, 24, 10])
def test_a_low_terminal_keeps_what_needs_attention(report: dict[str, Any], height: int) -> None:
    for index in range(3):
        for part in ("streams", "stages", "steering"):
            report[part][f"s{index}"] = copy.deepcopy(report[part]["s"])
    report["streams"]["s1"]["shed"] = {"disk_full": 5}
    report["stages"]["s2"]["sink"]["restarts"] = 2
    text = shown(report, later(report, 1, received=5), height=height)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "data GONE: disk_full 5" in text
    assert ("pulse_id > 3" in text) == (height >= 36)
    assert ("slots in use" in text) == (height == 90)
    assert ("sink up (pid 77, 2 restarts)" in flat(text)) == (height >= 36)
    assert "kept/s" in text or height >= 36
    assert len(text.splitlines()) < height or height == 10


def test_no_color_and_pipes_get_no_escapes(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    state = State("ipc:///run/control")
    state.take(later(report, 1, shed={"disk_full": 5}), (), NOW_S)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(render(state, NOW_S))
    assert "\x1b[31m" not in console.file.getvalue()
    assert "SHED" in console.file.getvalue()


# Asking


@contextmanager
def answering(endpoint: str, report: dict[str, Any], silent_until: int = 0) -> Iterator[None]:
    """A control socket that tells `report`, each time a second later, and messages from then on."""
    calls = iter(range(10**6))

    def told() -> dict[str, Any]:
        second = next(calls)
        return later(report, second, received=second, messages=100 + max(0, second - silent_until))

    commands = {
        "status": lambda _: {"report": told()},
        "journal": lambda _: {"entries": []},
    }
    with ControlServer(endpoint, commands):
        yield


def test_a_pipeline_that_ends_is_taken_up_again(folder: Path, report: dict[str, Any]) -> None:
    endpoint = f"ipc://{folder}/control"
    state, console = State(endpoint), Console(file=io.StringIO(), width=80, color_system=None)

    def look() -> str:
        status_view._look(state, lambda at: status_view.ask(at, 0.2))
        console.file.seek(0)
        console.file.truncate()
        console.print(render(state, NOW_S))
        return console.file.getvalue()

    assert "NO PIPELINE ANSWERS" in look()
    assert "ledger" not in look()
    with answering(endpoint, report):
        assert "NO PIPELINE" not in look()
    ended = look()
    assert "NO PIPELINE ANSWERS" in ended
    assert "ledger" in ended, "what was known last"
    with answering(endpoint, report):
        assert "NO PIPELINE" not in look()


def test_the_live_page_draws_until_it_is_stopped(
    folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_view, "PERIOD_S", 0.01)
    stop, console = threading.Event(), Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    endpoint = f"ipc://{folder}/control"
    with answering(endpoint, report):
        thread = threading.Thread(target=status_view.live, args=(endpoint, console, stop))
        thread.start()
        while thread.is_alive() and console.file.getvalue().count("as of") < 3:
            stop.wait(0.01)
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert "events/s" in console.file.getvalue()


def test_the_command_prints_words_or_json(
    folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_view, "GAP_S", 0.0)
    endpoint = f"ipc://{folder}/control"
    with answering(endpoint, report):
        words = CliRunner().invoke(cli.app, ["status", "--socket", endpoint])
        raw = CliRunner().invoke(cli.app, ["status", "--socket", endpoint, "--json"])
    assert words.exit_code == 0, words.output
    assert "received = 295 kept" in words.output
    assert "\x1b" not in words.output
    assert json.loads(raw.output)["streams"]["s"]["kept"] == {"late": 295, "sample": 0}


def test_a_single_look_needs_a_pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = sockets.ask
    monkeypatch.setattr(sockets, "ask", lambda context, at, request, *_: ask(context, at, request, 0.05))
    result = CliRunner().invoke(cli.app, ["status", "--once", "--socket", f"ipc://{folder}/none"])
    assert "no running pipeline answers" in str(result.exception)
