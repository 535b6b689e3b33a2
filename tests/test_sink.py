"""The sink in one thread: published, stored, counted once, and the slot given back."""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import zmq
from core_support import (
    KEY,
    Line,
    config_text,
    drain,
    events,
    killed_at,
    line,
    make_bundle,
    message,
    take,
    until,
)

from streamer.archive import FAILOPEN
from streamer.errors import StoreError
from streamer.results import decode
from streamer.ring import DONE, FREE
from streamer.sink import Sink

ROUTES = """
[[stream.route]]
name = "low"
when = "pulse_id < 2"
[[stream.route]]
name = "third"
when = "pulse_id == 3"
"""


def text(folder: Path, store: bool = True, top: str = "", stream: str = "") -> str:
    made = config_text((), ROUTES, stream)
    if store:
        output = f'store = true\ndirectory = "{folder}/out"\nsegment_bytes = 65536\nreserve_bytes = 0'
        made = made.replace("store = false", output)
    return made + top


@pytest.fixture
def stream(folder: Path) -> Iterator[Line]:
    with line(folder, text(folder)) as made:
        yield made


def stored(folder: Path, series: str = "") -> list[tuple[int, int]]:
    """(train, pulse) of every event of a series, sorted; the results of all events without a name."""
    found: list[tuple[int, int]] = []
    run = folder / "out" / "r0001"
    for path in (run / "s" / series if series else run).glob("*.h5"):
        with h5py.File(path) as file:
            data = file["INSTRUMENT/s/STREAMER/RESULTS:output/data"]
            ids = zip(data["trainId"][:].tolist(), data["pulseId"][:].tolist(), strict=True)
            found += [(train, pulse) for train, pulse in ids if train]
    return sorted(found)


def test_every_event_gets_its_one_outcome(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 6), message(2, 5))
    drain(ingest, stream.inference(), stream.sink())
    ledger = stream.ledger()
    assert (ledger.kept, ledger.vetoed) == ({"low": 4, "third": 2}, 5)
    assert (ledger.outcomes, ledger.received, ledger.closed) == (11, 11, True)
    assert set(stream.states()) == {FREE}


def test_what_is_kept_lies_under_its_route_and_all_results_together(stream: Line, folder: Path) -> None:
    ingest, sink = stream.ingest(), stream.sink()
    frames = events(5, seed=2)
    take(ingest, message(7, 5, frames))
    drain(ingest, stream.inference(), sink)
    sink._close()
    assert stored(folder) == [(7, p) for p in range(5)]
    assert stored(folder, "low") == [(7, 0), (7, 1)]
    assert stored(folder, "third") == [(7, 3)]
    (path,) = (folder / "out/r0001/s/third").glob("*.h5")
    with h5py.File(path) as file:
        group, _, key = KEY.partition(".")
        assert np.array_equal(file["INSTRUMENT/SIM_DET/DET/SPEC:output"][group][key][0], frames[3])


def test_results_are_published_whole_with_their_version(folder: Path) -> None:
    bundle = make_bundle(folder / "tiny")
    with line(folder, config_text([bundle])) as stream, zmq.Context() as context:
        ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
        with context.socket(zmq.SUB) as reader:
            reader.set(zmq.LINGER, 0)
            reader.set(zmq.SUBSCRIBE, b"results.s")
            reader.connect(stream.spec.settings.publish.results or "")
            train = 0

            def came() -> bool:  # a subscription takes its time
                nonlocal train
                train += 1
                take(ingest, message(train, 3))
                drain(ingest, inference, sink)
                return bool(reader.poll(10))

            until(came)
            block = decode(reader.recv_multipart())
    assert block.columns["pulse_id"].tolist() == [0, 1, 2]
    assert block.columns["target"].shape == (3, 3)
    assert block.header.bundles[0].name == "tiny"
    assert block.header.routes == ("all",)


class Full(Sink):
    """A sink whose disk takes nothing for one series."""

    failing: dict[str, str]

    def _store(self, *_: object) -> dict[str, str]:
        return self.failing


@pytest.mark.parametrize(
    ("failing", "kept", "shed", "unrecorded"),
    [
        ({"low": "disk_full"}, {"low": 0, "third": 1}, {"disk_full": 2}, 0),
        ({"third": "store_error", "results": "store_error"}, {"low": 2, "third": 0}, {"store_error": 1}, 6),
        ({"results": "disk_full"}, {"low": 2, "third": 1}, {}, 6),
    ],
)
def test_what_the_files_cannot_take_is_shed_by_reason(
    stream: Line, failing: dict[str, str], kept: dict[str, int], shed: dict[str, int], unrecorded: int
) -> None:
    ingest, sink = stream.ingest(), stream.sink(Full)
    sink.failing = failing
    take(ingest, message(1, 6))
    drain(ingest, stream.inference(), sink)
    ledger = stream.ledger()
    assert ledger.kept == kept
    assert {r: n for r, n in ledger.shed.items() if n} == shed
    assert (ledger.vetoed, ledger.unrecorded, ledger.closed) == (3, unrecorded, True)
    assert stream.get("sink", "store_errors") == len(failing)


def test_a_full_disk_is_counted_and_the_stream_goes_on(folder: Path) -> None:
    """No room from the second block on: a reserve larger than the disk."""
    with line(folder, text(folder)) as stream:
        ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
        take(ingest, message(1, 4))
        drain(ingest, inference, sink)
        for series in sink.archive._series:
            series._reserve_bytes = 2**62
        output = sink.stage.spec.config.output.model_copy(update={"reserve_bytes": 2**62})
        config = sink.stage.spec.config.model_copy(update={"output": output})
        sink.archive._spec = sink.stage.spec.model_copy(update={"config": config})
        for train in range(2, 400):
            take(ingest, message(train, 8))
            drain(ingest, inference, sink)
        ledger = stream.ledger()
        assert ledger.closed
        assert ledger.shed["disk_full"] > 0
        assert ledger.shed["store_error"] == 0


def test_unclassified_blocks_go_to_failopen(stream: Line, folder: Path) -> None:
    ingest, sink = stream.ingest(), stream.sink()
    ingest.filling.inference_limit = 0
    take(ingest, message(1, 3))
    assert stream.shared.ring.left_in(DONE)
    until(lambda: sink.step() or stream.ledger().in_flight == 0)
    sink._close()
    assert stream.ledger().failopen["overload"] == 3
    assert sum(stream.ledger().latency_counts) == 3, "their verdict left here"
    assert stored(folder, FAILOPEN) == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("line_of_death", range(1, 130, 9))
def test_killed_at_any_line_it_counts_and_stores_every_event_once(
    stream: Line, folder: Path, line_of_death: int
) -> None:
    ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
    take(ingest, message(1, 4))
    drain(ingest, inference, sink)
    take(ingest, message(2, 4))
    until(lambda: inference.step() or DONE in stream.states())

    def finish() -> None:
        until(lambda: sink.step() or DONE not in stream.states())

    if killed_at(line_of_death, finish):
        stream.kill(sink)
        sink = stream.sink()
    take(ingest, message(3, 4))
    drain(ingest, inference, sink)
    sink._close()
    ledger = stream.ledger()
    assert (ledger.received, ledger.outcomes, ledger.closed) == (12, 12, True)
    assert stored(folder) == [(t, p) for t in (1, 2, 3) for p in range(4)]
    assert stored(folder, "low") == [(t, p) for t in (1, 2, 3) for p in range(2)]
    ingest.filling.slots.look()
    assert not ingest.filling.slots.lent


@pytest.mark.parametrize("line_of_death", range(1, 150, 12))
def test_killed_at_any_line_of_several_blocks_it_counts_and_stores_every_event_once(
    stream: Line, folder: Path, line_of_death: int
) -> None:
    """Three blocks that wait together, their frames in slots that do not follow one another."""
    ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
    take(ingest, message(1, 8), message(2, 8))
    drain(ingest, inference, sink)
    take(ingest, message(3, 8), message(4, 8), message(5, 8))
    until(lambda: inference.step() or stream.states().count(DONE) == 3)

    def finish() -> None:
        until(lambda: sink.step() or DONE not in stream.states())

    if killed_at(line_of_death, finish):
        stream.kill(sink)
        sink = stream.sink()
    take(ingest, message(6, 4))
    drain(ingest, inference, sink)
    sink._close()
    ledger = stream.ledger()
    assert (ledger.received, ledger.outcomes, ledger.closed) == (44, 44, True)
    assert stream.get("sink", "blocks") == 6
    events = [(t, p) for t in range(1, 7) for p in range(8 if t < 6 else 4)]
    assert stored(folder) == events
    assert stored(folder, "low") == [event for event in events if event[1] < 2]
    ingest.filling.slots.look()
    assert not ingest.filling.slots.lent


def test_blocks_that_wait_together_are_one_message_and_keep_their_own_frames(folder: Path) -> None:
    with line(folder, text(folder)) as stream, zmq.Context() as context:
        ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
        with context.socket(zmq.SUB) as reader:
            reader.set(zmq.LINGER, 0)
            reader.set(zmq.SUBSCRIBE, b"results.s")
            reader.connect(stream.spec.settings.publish.results or "")
            train, frames = 0, {}

            def came() -> bool:  # a subscription takes its time
                nonlocal train
                for _ in range(3):
                    train += 1
                    frames[train] = events(8, train)
                    take(ingest, message(train, 8, frames[train]))
                until(lambda: inference.step() or stream.states().count(DONE) == 3)
                drain(ingest, inference, sink)
                return bool(reader.poll(10))

            until(came)
            block = decode(reader.recv_multipart())
        sink._close()
    assert np.array_equal(np.unique(block.columns["train_id"], return_counts=True)[1], [8, 8, 8])
    (path,) = (folder / "out/r0001/s/third").glob("*.h5")
    with h5py.File(path) as file:
        group, _, key = KEY.partition(".")
        kept = file["INSTRUMENT/SIM_DET/DET/SPEC:output"][group][key][:]
        assert np.array_equal(kept, [frames[t][3] for t in sorted(frames)])


def test_a_swap_changes_the_files(folder: Path) -> None:
    first, second = make_bundle(folder / "first", 0), make_bundle(folder / "second", 1)
    config = text(folder).replace("bundles = []", f'bundles = ["{first}"]')
    with line(folder, config) as stream:
        ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
        take(ingest, message(1, 4))
        drain(ingest, inference, sink)
        from streamer.bundles import Swap

        swap = Swap(stream.spec, stream.shared.ring.frames, inference.loaded, str(second))
        until(lambda: swap._thread.join(0.05) or swap.finished())  # type: ignore[func-returns-value]
        assert inference._adopt(swap)["ok"]
        take(ingest, message(2, 4))
        drain(ingest, inference, sink)
        sink._close()
    names = []
    for path in sorted((folder / "out/r0001/s/low").glob("*.h5")):
        with h5py.File(path) as file:
            names.append(file["RUN/s/STREAMER/RULES/bundleNames/value"][0].decode())
    assert names == ["first", "second"]


def test_steering_changes_files_and_storing_at_its_block(folder: Path) -> None:
    with line(folder, text(folder)) as stream:
        ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
        for train, change in enumerate(
            (None, {"route": "low", "when": "train_id > 0"}, {"store": False}, {"store": True}), 1
        ):
            if change is not None:
                answer = inference._steer([change])
                assert answer["ok"], answer
            take(ingest, message(train, 4))
            drain(ingest, inference, sink)
            if train == 2:
                stream.kill(sink)
                sink = stream.sink()
                assert sink.number == 2, "a restart goes on with the version of its files"
        sink._close()
        ledger = stream.ledger()
    assert ledger.kept["low"] >= 12
    assert ledger.not_stored == 4
    assert ledger.closed
    stored = []
    for path in sorted((folder / "out/r0001/s/low").glob("*.h5")):
        with h5py.File(path) as file:
            rules = json.loads(file["RUN/s/STREAMER/RULES/rules/value"][0])
            trains = file["INDEX/trainId"][:]
            stored.append((rules[0]["when"], sorted(set(trains[trains > 0].tolist()))))
    assert stored[-1] == ("train_id > 0", [2, 4])
    assert {when for when, _ in stored[:-1]} <= {stream.spec.settings.route[0].when}


def test_closing_with_a_broken_store_is_logged_and_not_fatal(
    stream: Line, caplog: pytest.LogCaptureFixture
) -> None:
    sink = stream.sink()

    def refuse() -> None:
        raise StoreError("no space")

    sink.archive.close = refuse
    sink._close()
    assert "files that could not be brought to their final size: no space" in caplog.text
