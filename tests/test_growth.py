"""The benchmark of growth: its points are runs that can be, its sums are right, its readers count."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.config import Options
from benchmarks.growth import AXES, BASE, QUICK, Axis, Turn, _line
from benchmarks.growth_picture import draw
from benchmarks.growth_run import NONE_OF, Point
from benchmarks.helper import Helper, wait_until
from benchmarks.running import Window
from benchmarks.table import Line
from streamer.plan import layouts, source_spec
from streamer.publish import ResultsPublisher
from streamer.results import ResultHeader

POINTS = [
    pytest.param(axis, x, point, id=f"{axis.name}-{x:g}") for axis in AXES for x, point in axis.points.items()
]


@pytest.mark.parametrize(("axis", "x", "point"), POINTS)
def test_every_point_is_a_run_that_can_be(axis: Axis, x: float, point: Point, folder: Path) -> None:
    endpoints = [f"tcp://127.0.0.1:{45000 + n}" for n in range(point.streams)]
    config = point.config(endpoints, folder)
    assert [stream.source.endpoint for stream in config.stream] == endpoints
    for stream in config.stream:
        assert source_spec(stream).event_shape == point.load.shape
        # A ring that holds some of the messages, or the source and the stages take turns.
        assert layouts(stream, ()).ring.size_bytes >= 4 * point.load.message_bytes
        assert stream.on_overload == "wait"
    assert config.output.store
    places = {
        "spectra": point.load.pulses,
        "frames": point.load.pulses,
        "size": point.load.shape[0],
        "streams": point.streams,
        "subscribers": point.subscribers,
        "stored": 0 if point.one_in == NONE_OF else 1 / point.one_in,
    }
    assert places[axis.name] == x


def test_axes_meet_in_one_point_and_differ_in_one_thing() -> None:
    assert all(BASE in axis.points.values() for axis in AXES if axis.name != "spectra")
    sizes = next(axis for axis in AXES if axis.name == "size")
    assert {point.load.message_bytes for x, point in sizes.points.items() if x < 1024} == {1 << 20}


def test_a_quick_run_takes_the_ends_of_an_axis() -> None:
    for axis in AXES:
        assert list(axis.of(QUICK).points) == [min(axis.points), max(axis.points)]
        assert axis.of(Options(1, 0.1, 0.1)) == axis


def _turn(rate: float, sink_s: float, delivered: float = 1.0) -> Turn:
    cpu_s = {"ingest": 0.5, "inference": 0.25, "sink": sink_s}
    return Turn(Window(int(rate * 2), 2.0, cpu_s), delivered)


def test_a_line_adds_the_stages_and_keeps_the_worst_delivery() -> None:
    axis = next(axis for axis in AXES if axis.name == "subscribers")
    line = _line(axis, 4, [_turn(1000, 0.25), _turn(1000, 0.75, 0.9), _turn(1000, 1.25)])
    assert line.measured.median == pytest.approx(1e6 * 1.5 / 2000)
    assert line.measured.high == pytest.approx(1e6 * 2.0 / 2000)
    assert line.values["ingest"] == pytest.approx(250)
    assert line.values["sink"] == pytest.approx(375)
    assert line.values["rate"] == 1000
    assert line.values["x"] == 4
    assert "got 90 % of the blocks" in line.note


def test_the_picture_has_a_panel_for_each_axis(folder: Path) -> None:
    lines: list[Line] = [
        _line(axis, x, [_turn(10_000 * (n + 1), 0.1 * (n + 1))])
        for axis in AXES
        for n, x in enumerate(axis.points)
    ]
    path = folder / "new" / "growth.png"
    draw(lines, path, "here, now")
    written = path.read_bytes()
    assert written.startswith(b"\x89PNG")
    assert 10_000 < len(written) < 100_000


@pytest.mark.usefixtures("leaks")
@pytest.mark.parametrize("decodes", [False, True])
def test_readers_count_what_each_socket_got_and_what_was_published(decodes: bool) -> None:
    header = ResultHeader(1, "bench", 0.0, (), "", (), {})
    ids = np.arange(3, dtype=np.uint64)
    blocks = {"train_id": ids, "pulse_id": ids}
    with ResultsPublisher("tcp://127.0.0.1:0") as publisher:
        how = {"endpoint": publisher.endpoint, "sockets": 2, "decode": decodes}
        with Helper("benchmarks.readers", how) as readers:

            def both_got_something() -> bool:
                publisher.send(header, blocks)
                return all(reader["blocks"] for reader in readers.ask({})["readers"])

            wait_until("connections", both_got_something, 10)
            before = readers.ask({})["readers"]
            for _ in range(20):
                publisher.send(header, blocks)
            wait_until("the blocks", lambda: _got(readers) >= sum(r["blocks"] for r in before) + 40, 10)
            for reader in readers.ask({})["readers"]:
                assert reader["blocks"] == reader["published"]


def _got(readers: Helper) -> int:
    return sum(int(reader["blocks"]) for reader in readers.ask({})["readers"])
