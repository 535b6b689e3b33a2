"""Inference in one thread: answers, fail-open with the right reason, tokens, and the exchange of bundles."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import zmq
from core_support import (
    POINTS,
    Line,
    config_text,
    drain,
    events,
    line,
    make_bundle,
    message,
    take,
    until,
)

from models.bundle import load_bundle, run_bundle
from models.manifest import Calibrated, Column
from streamer.device import Finished, Pending, Runner
from streamer.errors import ConfigError, StageError
from streamer.inference import Inference
from streamer.ring import DONE, FREE, READY, TAKEN
from streamer.routing import KEEP, REASONS, VETO, failopen_code
from streamer.versions import version

ROUTES = '[[stream.route]]\nname = "high"\nwhen = "latent.a > 0"'


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`first` and `second` differ in their weights."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: make_bundle(folder / name, seed) for seed, name in enumerate(("first", "second"))}


@pytest.fixture
def stream(folder: Path, bundles: dict[str, Path]) -> Iterator[Line]:
    with line(folder, config_text([bundles["first"]], ROUTES)) as made:
        yield made


def serve(inference: Inference, stream: Line) -> None:
    """Turn until no block is before or with inference."""
    until(lambda: inference.step() or not stream.shared.ring.left_in(READY, TAKEN))


def answers(stream: Line) -> dict[int, list[str]]:
    """Reasons of the finished events by train."""
    ring, found = stream.shared.ring, {}
    for slot, _ in ring.left_in(DONE):
        for row in range(int(ring.n[slot])):
            found.setdefault(int(ring.train_id[slot, row]), []).append(REASONS[ring.reason[slot, row]])
    return found


def expected(bundle: Path, frames: np.ndarray) -> np.ndarray:
    return run_bundle(load_bundle(bundle), torch.from_numpy(frames)).numpy()


def test_a_block_gets_the_networks_answer_and_its_verdict(stream: Line, bundles: dict[str, Path]) -> None:
    frames = events(6, seed=3)
    take(stream.ingest(), message(1, 6, frames))
    serve(stream.inference(), stream)
    ring, want = stream.shared.ring, expected(bundles["first"], frames)
    ((slot, _),) = ring.left_in(DONE)
    assert np.allclose(ring.packed[slot, :6], want, rtol=0.05, atol=0.05 * np.abs(want).max())
    kept = ring.packed[slot, :6, 0] > 0
    assert ring.verdict[slot, :6].tolist() == [KEEP if k else VETO for k in kept]
    assert ring.route[slot, :6].tolist() == [0 if k else -1 for k in kept]
    assert ring.version[slot] == 1
    assert stream.get("inference", "events") == 6
    assert sum(stream.ledger().latency_counts) == 6


def test_what_waits_goes_in_one_batch(stream: Line) -> None:
    ingest, inference = stream.ingest(), stream.inference()
    for train in (1, 2, 3):
        take(ingest, message(train, 4))
    until(lambda: len(inference.batcher) == 3 or inference._receive(0))
    inference.step()
    assert (stream.get("inference", "batches"), stream.get("inference", "blocks")) == (1, 3)
    reader = stream.reader("inference")
    sizes = reader.read()[reader.layout.span("batch_events")]
    assert sizes.tolist() == [0, 0, 0, 0, 1, *[0] * (len(sizes) - 5)], "12 events are in the bucket up to 16"


def test_verdicts_leave_on_their_own_socket(stream: Line) -> None:
    from streamer.results import decode

    ingest, inference = stream.ingest(), stream.inference()
    with zmq.Context() as context, context.socket(zmq.SUB) as reader:
        reader.set(zmq.LINGER, 0)
        reader.set(zmq.SUBSCRIBE, b"verdicts.s")
        reader.connect(stream.spec.settings.publish.verdicts or "")
        train = 0

        def came() -> bool:  # a subscription takes its time
            nonlocal train
            train += 1
            take(ingest, message(train, 2))
            serve(inference, stream)
            return bool(reader.poll(10))

        until(came)
        block = decode(reader.recv_multipart())
    assert block.columns["pulse_id"].tolist() == [0, 1]
    assert set(block.columns) == {"train_id", "pulse_id", "verdict", "route", "reason"}


# --- fail-open ----------------------------------------------------------------------------------------


def test_a_nan_in_an_event_keeps_that_event_and_leaves_its_neighbours_as_they_were(stream: Line) -> None:
    frames = events(5, seed=4)
    dirty = frames.copy()
    dirty[2, 3] = np.nan
    ingest, inference = stream.ingest(), stream.inference()
    take(ingest, message(1, 5, frames))
    serve(inference, stream)
    take(ingest, message(2, 5, dirty))
    serve(inference, stream)
    ring = stream.shared.ring
    (clean, _), (spoilt, _) = ring.left_in(DONE)
    others = [0, 1, 3, 4]
    assert ring.reason[spoilt, 2] == failopen_code("nonfinite")
    assert ring.verdict[spoilt, 2] == KEEP
    assert np.array_equal(ring.packed[clean, others], ring.packed[spoilt, others])
    assert np.array_equal(ring.reason[clean, others], ring.reason[spoilt, others])


def test_a_block_that_waited_too_long_is_kept_unclassified(folder: Path, bundles: dict[str, Path]) -> None:
    text = config_text([bundles["first"]], ROUTES).replace("deadline_s = 0", "deadline_s = 5")
    with line(folder, text) as stream:
        ingest = stream.ingest()
        take(ingest, message(1, 2))
        ((slot, _),) = stream.shared.ring.left_in(READY)
        stream.shared.ring.header["received_ns"][slot] -= 5_000_000_000
        take(ingest, message(2, 2))
        serve(stream.inference(), stream)
        found = answers(stream)
        assert found[1] == ["failopen:timeout"] * 2
        assert "failopen:timeout" not in found[2]
        assert np.isnan(stream.shared.ring.packed[slot, :2]).all()
        assert int(stream.shared.ring.version[slot]) == 0


@dataclass
class Picky:
    """A device that cannot stand one value, as a kernel with a bug: everything else it passes on."""

    inner: Runner
    evil: float = -12345.0
    late: bool = False
    depth: int = 1

    def submit(self, blocks: Sequence[np.ndarray]) -> Pending:
        bad = any((block == self.evil).any() for block in blocks)
        if bad and not self.late:
            raise ValueError("illegal value")
        return Late(self.inner.submit(blocks), bad)


@dataclass
class Late:
    inner: Pending
    bad: bool

    def done(self) -> bool:
        return self.inner.done()

    def wait(self) -> np.ndarray:
        if self.bad:
            raise RuntimeError("reported at the end")
        return self.inner.wait()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_network_that_raises_costs_its_own_block_only(stream: Line, late: bool, depth: int) -> None:
    ingest, inference = stream.ingest(), stream.inference()
    inference.loaded = replace(
        inference.loaded, runner=Picky(inference.loaded.runner, late=late, depth=depth)
    )
    for train in range(1, 6):
        frames = events(2, train)
        if train == 3:
            frames[1, 0] = -12345.0
        take(ingest, message(train, 2, frames))
    serve(inference, stream)
    found = answers(stream)
    assert found[3] == ["failopen:model_error"] * 2
    assert all(reason in ("route", "veto") for train in (1, 2, 4, 5) for reason in found[train])
    assert stream.get("inference", "model_errors") == 1
    drain(ingest, inference, stream.sink())
    assert stream.ledger().closed
    assert stream.ledger().failopen["model_error"] == 2


class Lost(torch.AcceleratorError):
    """After most CUDA errors the context is dead."""


def test_a_lost_device_ends_the_stage(stream: Line) -> None:
    ingest, inference = stream.ingest(), stream.inference()

    class Dead:
        depth = 1

        def submit(self, blocks: Sequence[np.ndarray]) -> Pending:
            raise Lost(f"an illegal memory access was encountered ({len(blocks)})")

    inference.loaded = replace(inference.loaded, runner=Dead())
    take(ingest, message(1, 2))
    with pytest.raises(StageError, match="the device is lost"):
        until(lambda: inference.step() or False)
    assert stream.shared.ring.left_in(TAKEN), "its successor finds the block"


class Killer(BaseException):
    """What a block does to the process that touches it."""


def test_a_block_that_kills_its_worker_is_given_up_and_its_neighbours_are_not(stream: Line) -> None:
    ingest = stream.ingest()
    for train in range(1, 5):
        frames = events(2, train)
        frames[0, 0] = -1.0 if train == 2 else 1.0
        take(ingest, message(train, 2, frames))

    def attempt() -> bool:
        inference = stream.inference()
        submit = inference.loaded.runner.submit

        class Fatal:
            depth = 1

            def submit(self, blocks: Sequence[np.ndarray]) -> Pending:
                if any(block[0, 0] == -1.0 for block in blocks):
                    raise Killer
                return submit(blocks)

        inference.loaded = replace(inference.loaded, runner=Fatal())
        try:
            serve(inference, stream)
        except Killer:
            stream.kill(inference)
            return False
        return True

    deaths = 0
    while not attempt():
        deaths += 1
        assert deaths <= 3
    found = answers(stream)
    assert found[2] == ["failopen:worker_lost"] * 2
    assert all(reason in ("route", "veto") for train in (1, 3, 4) for reason in found[train])
    assert deaths == 2, "once with others, once alone"


# --- tokens -------------------------------------------------------------------------------------------


def test_a_token_that_never_came_is_found_when_there_is_nothing_to_do(stream: Line) -> None:
    inference, ingest = stream.inference(), stream.ingest()
    take(ingest, message(1, 2))
    assert len(inference.tokens.receive()) == 1  # and is lost
    serve(inference, stream)
    assert answers(stream)[1]


def test_tokens_that_come_twice_or_lie_are_ignored(stream: Line) -> None:
    ingest, inference = stream.ingest(), stream.inference()
    take(ingest, message(1, 2))
    ((slot, seq),) = stream.shared.ring.left_in(READY)
    with stream.spec.tokens("inference") as other:
        other.send((slot, seq), (slot, seq), (slot, seq + 1), (4095, 1), (0, 0))
        serve(inference, stream)
        for _ in range(20):
            inference.step()
    assert (stream.get("inference", "blocks"), stream.get("inference", "events")) == (1, 2)


def test_what_a_dead_predecessor_had_in_hand_is_done(stream: Line) -> None:
    ingest, inference = stream.ingest(), stream.inference()
    for train in (1, 2, 3):
        take(ingest, message(train, 2))
    until(lambda: len(inference.batcher) == 3 or inference._receive(0))
    stream.kill(inference)
    assert len(stream.shared.ring.left_in(TAKEN)) == 3
    drain(ingest, stream.inference(), stream.sink())
    assert stream.ledger().closed
    assert set(stream.states()) == {FREE}


# --- swap ---------------------------------------------------------------------------------------------


class Asker:
    """A client of the stage's control socket."""

    def __init__(self, stream: Line, bundle: Any) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REQ)
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(stream.spec.address("control"))
        self.socket.send(msgpack.packb(bundle))

    def answer(self, turn: Any) -> dict[str, Any]:
        until(lambda: turn() or self.socket.poll(0))
        answer: dict[str, Any] = msgpack.unpackb(self.socket.recv())
        self.context.destroy(linger=0)
        return answer


def test_a_swap_gives_later_blocks_to_the_new_bundle(stream: Line, bundles: dict[str, Path]) -> None:
    ingest, inference, frames = stream.ingest(), stream.inference(), events(4, seed=8)
    take(ingest, message(1, 4, frames))
    serve(inference, stream)
    answer = Asker(stream, {"bundle": str(bundles["second"])}).answer(inference.step)
    assert answer["ok"], answer
    assert [ref["name"] for ref in answer["bundles"]] == ["second"]
    take(ingest, message(2, 4, frames))
    serve(inference, stream)
    ring = stream.shared.ring
    (before, _), (after, _) = ring.left_in(DONE)
    assert (ring.version[before], ring.version[after]) == (1, 2)
    want = expected(bundles["second"], frames)
    assert np.allclose(ring.packed[after, :4], want, rtol=0.05, atol=0.05 * np.abs(want).max())
    assert [version(stream.spec, n).bundles[0].name for n in (1, 2)] == ["first", "second"]
    assert stream.get("inference", "swaps") == 1
    stream.kill(inference)
    assert stream.inference().loaded.refs[0].name == "second", "a restart takes the swap up"


def test_a_change_of_rules_decides_from_the_next_answer_on(stream: Line) -> None:
    ingest, inference = stream.ingest(), stream.inference()
    take(ingest, message(1, 6, events(6, seed=3)))
    serve(inference, stream)
    change = {"route": stream.spec.first_version.routes[0].name, "when": "latent.a > 1e9"}
    answer = Asker(stream, {"changes": [change]}).answer(inference.step)
    assert answer["ok"], answer
    assert (answer["steering"]["version"], answer["steering"]["routes"][0]["when"]) == (2, "latent.a > 1e9")
    take(ingest, message(2, 6, events(6, seed=3)))
    serve(inference, stream)
    ring = stream.shared.ring
    (before, _), (after, _) = ring.left_in(DONE)
    assert (ring.version[before], ring.version[after]) == (1, 2)
    assert KEEP in ring.verdict[before, :6]
    assert KEEP not in ring.verdict[after, :6]
    assert stream.get("inference", "steerings") == 1
    stream.kill(inference)
    restarted = stream.inference()
    assert (restarted.version, restarted.loaded.version.routes[0].when) == (2, "latent.a > 1e9")


def test_a_change_that_cannot_be_leaves_the_rules_as_they_are(stream: Line) -> None:
    inference = stream.inference()
    name = stream.spec.first_version.routes[0].name
    for change, why in (
        ({"route": name, "when": "nothing > 1"}, "unknown name 'nothing'"),
        ({"route": "none", "when": "latent.a > 1"}, "no route 'none'"),
        ({"store": "yes"}, "expected a route with"),
    ):
        answer = Asker(stream, {"changes": [change]}).answer(inference.step)
        assert not answer["ok"]
        assert why in answer["error"]
    assert (inference.version, stream.get("inference", "steerings")) == (1, 0)
    both = [{"route": name, "when": "latent.a > 7"}, {"route": "none", "enabled": True}]
    assert not Asker(stream, {"changes": both}).answer(inference.step)["ok"]
    assert inference.loaded.version == stream.spec.first_version, "all of the changes or none"
    same = {"route": name, "enabled": True}
    assert Asker(stream, {"changes": [same]}).answer(inference.step)["steering"]["version"] == 1


def test_a_swap_is_adopted_under_endless_load_on_a_device_with_two_batches_under_way(
    stream: Line, bundles: dict[str, Path]
) -> None:
    ingest, inference = stream.ingest(), stream.inference()
    inference.loaded = replace(inference.loaded, runner=Picky(inference.loaded.runner, depth=2))
    sink, train = stream.sink(), 0

    def turn() -> None:
        nonlocal train
        while ingest.filling.slots.not_back < 40:
            train += 1
            take(ingest, message(train, 8))
        inference.step()
        sink.step()
        ingest.filling.slots.reclaim()

    assert Asker(stream, {"bundle": str(bundles["second"])}).answer(turn)["ok"]


@pytest.mark.parametrize("request_", [{"bundle": "no_such_bundle"}, {"bundle": ""}, {}, 7, "x" * 100])
def test_a_swap_to_nothing_is_refused_and_the_old_bundle_serves(stream: Line, request_: Any) -> None:
    inference = stream.inference()
    answer = Asker(stream, request_).answer(inference.step)
    assert not answer["ok"]
    assert "no bundle" in answer["error"]
    take(stream.ingest(), message(1, 2))
    serve(inference, stream)
    assert set(answers(stream)[1]) <= {"route", "veto"}


def test_a_swap_to_other_columns_or_a_broken_bundle_is_refused(
    stream: Line, bundles: dict[str, Path], tmp_path: Path
) -> None:
    from core_support import COLUMNS

    other = make_bundle(tmp_path / "other", 1, columns=(replace(COLUMNS[0], name="z"), COLUMNS[1]))
    broken = tmp_path / "broken"
    shutil.copytree(bundles["second"], broken)
    (broken / "weights.safetensors").write_bytes(b"nothing")
    inference = stream.inference()
    answer = Asker(stream, {"bundle": str(other)}).answer(inference.step)
    assert not answer["ok"]
    assert "a swap needs a running bundle of the same input and columns" in answer["error"]
    answer = Asker(stream, {"bundle": str(broken)}).answer(inference.step)
    assert not answer["ok"]
    assert "sha256" in answer["error"]
    assert stream.get("inference", "swaps") == 0


# --- thresholds of the bundles ------------------------------------------------------------------------

P_COLUMNS = (Column("p", "float32", ("a", "b")), Column("target", "float32", ("x", "y", "z")))
# The threshold of a manifest lies in 0..1; the untrained answers of the test lie somewhere in -10..10.
CALIBRATED_ROUTE = '[[stream.route]]\nname = "high"\nwhen = "p.a >= 20 * calibrated.a - 10"'


def calibrated(folder: Path, threshold: float | None) -> Path:
    """The same weights each time, with another threshold of class `a`."""
    entries = (
        () if threshold is None else (Calibrated("a", threshold, 0.9, 0.9, 30, 0.5, "test", "2026-11-20"),)
    )
    return make_bundle(folder, 1, columns=P_COLUMNS, calibrated=entries)


def kept(stream: Line, train: int) -> list[bool]:
    return [reason == "route" for reason in answers(stream)[train]]


def test_a_swap_takes_the_thresholds_of_the_new_bundle_with_it(folder: Path, tmp_path: Path) -> None:
    frames = events(40, seed=9)
    p = expected(calibrated(tmp_path / "probe", None), frames)[:, 0]
    low, high = ((float(np.quantile(p, share)) + 10) / 20 for share in (0.25, 0.75))
    first, second = calibrated(tmp_path / "low", low), calibrated(tmp_path / "high", high)
    with line(folder, config_text([first], CALIBRATED_ROUTE).replace("block_events = 8", "")) as stream:
        ingest, inference = stream.ingest(), stream.inference()
        take(ingest, message(1, 40, frames))
        serve(inference, stream)
        assert Asker(stream, {"bundle": str(second)}).answer(inference.step)["ok"]
        take(ingest, message(2, 40, frames))
        serve(inference, stream)
        stream.kill(inference)
        take(ingest, message(3, 40, frames))
        serve(stream.inference(), stream)
        counts = [sum(kept(stream, train)) for train in (1, 2, 3)]
        assert 25 <= counts[0] <= 35
        assert 5 <= counts[1] <= 15
        assert kept(stream, 3) == kept(stream, 2), "a restart takes the swapped threshold up"
        assert not any(
            after and not before for before, after in zip(kept(stream, 1), kept(stream, 2), strict=True)
        )


def test_a_swap_to_a_bundle_without_the_threshold_is_refused(folder: Path, tmp_path: Path) -> None:
    first, second = calibrated(tmp_path / "with", 0.5), calibrated(tmp_path / "without", None)
    with line(folder, config_text([first], CALIBRATED_ROUTE)) as stream:
        inference = stream.inference()
        answer = Asker(stream, {"bundle": str(second)}).answer(inference.step)
        assert not answer["ok"]
        assert "route 'high'" in answer["error"]
        assert "`streamer calibrate BUNDLE DATA --class a`" in answer["error"]
        assert inference.loaded.refs[0].name == "with"
        take(stream.ingest(), message(1, 2))
        serve(inference, stream)
        assert set(answers(stream)[1]) <= {"route", "veto"}


def test_a_stream_whose_bundle_has_no_threshold_does_not_start(folder: Path, tmp_path: Path) -> None:
    text = config_text([calibrated(tmp_path / "without", None)], CALIBRATED_ROUTE)
    with (
        pytest.raises(ConfigError, match="no bundle of this stream holds this threshold"),
        line(folder, text),
    ):
        pass


def test_a_strange_request_of_several_parts_is_only_refused(stream: Line) -> None:
    inference = stream.inference()
    with zmq.Context() as context, context.socket(zmq.REQ) as asker:
        asker.set(zmq.LINGER, 0)
        asker.connect(stream.spec.address("control"))
        asker.send_multipart([b"\xc1", b"more", b""])
        until(lambda: inference.step() or asker.poll(0))
        assert not msgpack.unpackb(asker.recv())["ok"]


def test_a_stream_without_bundles_routes_on_ids(folder: Path) -> None:
    routes = '[[stream.route]]\nname = "odd"\nwhen = "pulse_id % 2 == 1"'
    with line(folder, config_text((), routes).replace(f"[{POINTS}]", "[7]")) as stream:
        take(stream.ingest(), message(1, 4, np.zeros((4, 7), np.float32)))
        serve(stream.inference(), stream)
        assert answers(stream)[1] == ["veto", "route", "veto", "route"]


def test_finished_is_done_at_once() -> None:
    assert Finished(np.zeros((1, 1), np.float32)).done()
