"""Pictures out of a ring that others write: whole ones only, and nothing is held up."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_support import POINTS, config_text, drain, line, make_bundle, message, place, take

from streamer import memory
from streamer.config import parse
from streamer.dashboard import looks as module
from streamer.dashboard.gallery import Gallery
from streamer.dashboard.labels import Labeller
from streamer.dashboard.looks import CLASS_EVERY_S, COPIED_BYTES_A_S, Looks
from streamer.errors import ConfigError
from streamer.plan import Shared, StageSpec, layouts
from streamer.ring import DONE, FILLING, FREE, Ring

SIDE = 256
COLUMNS = [("p", "float32", ("A", "B")), ("log_likelihood", "float32", ())]

# Plays ingest, inference and sink for all slots, as fast as it can, in the order of writes that they keep.
# Every pixel of a frame, every id and every result is the block's number: a torn copy shows two numbers.
WRITER = """
import sys
from streamer.plan import Shared, StageSpec
from streamer.ring import DONE, FILLING, FREE, READY
spec = StageSpec.model_validate_json(open(sys.argv[1]).read())
ring, seq = Shared(spec).ring, 0
n, free = ring.layout.events, list(range(ring.layout.slots))
print("writing", flush=True)
while True:
    slot = free[seq % 3] if seq % 50 else free[seq % len(free)]  # few slots, used again and again
    seq += 1
    if seq % 7 == 0:  # opened for frames that do not come, and given back
        ring.seq[slot], ring.state[slot] = seq, FILLING
        ring.frames[slot, 0] = 65535
        ring.n[slot] = 0
        ring.state[slot] = FREE
        continue
    ring.seq[slot], ring.state[slot] = seq, FILLING
    for at in range(n):
        ring.frames[slot, at] = seq % 65536
    ring.train_id[slot], ring.pulse_id[slot] = seq, range(n)
    ring.received_at_s[slot] = seq
    ring.n[slot] = n
    ring.state[slot] = READY
    ring.packed[slot], ring.route[slot], ring.reason[slot] = seq % 65536, -1, 0
    ring.state[slot] = DONE
    ring.state[slot] = FREE
"""


def spec_of_frames(folder: Path) -> tuple[StageSpec, int]:
    """A stream of frames of 128 kB in a ring of 64 slots; it has columns, and no bundle."""
    text = config_text(stream="", top="").replace(f"shape = [{POINTS}]", f"shape = [{SIDE}, {SIDE}]")
    text = text.replace('"float32"', '"uint16"').replace('"pulse bin"', '"pulse slow fast"')
    text = text.replace("block_events = 8", "block_events = 2").replace("1048576", str(16 << 20))
    spec, fd = place(parse(text, "test"), folder)
    os.close(fd)
    refs = tuple({"name": name, "dtype": dtype, "labels": labels} for name, dtype, labels in COLUMNS)
    spec = StageSpec.model_validate(spec.model_dump() | {"columns": refs})
    fd = memory.create("test", layouts(spec.settings, spec.columns).size_bytes)
    return spec.model_copy(update={"fd": fd}), fd


@pytest.fixture
def frames(tmp_path: Path) -> Iterator[tuple[StageSpec, Ring]]:
    """The stream, and its ring as its stages see it."""
    spec, fd = spec_of_frames(tmp_path)
    ring = Shared(spec).ring
    yield spec.model_copy(update={"fd": os.dup(fd)}), ring
    os.close(fd)


def put(ring: Ring, slot: int, seq: int, p: float = 0.9, likelihood: float = -1.0) -> None:
    ring.seq[slot], ring.state[slot] = seq, FILLING
    ring.frames[slot], ring.n[slot] = seq, ring.layout.events
    ring.train_id[slot], ring.pulse_id[slot] = seq, range(ring.layout.events)
    ring.packed[slot] = p, 1 - p, likelihood
    ring.received_at_s[slot], ring.route[slot], ring.reason[slot] = seq, -1, 0
    ring.state[slot] = DONE


LABELLER = Labeller(("A", "B"))


def test_no_torn_picture_is_ever_shown(frames: tuple[StageSpec, Ring], tmp_path: Path) -> None:
    spec, _ = frames
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-c", WRITER, str(tmp_path / "spec.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[spec.fd]) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            looks, shown = Looks(spec), 0
            end_s = time.monotonic() + 2.0
            for step in range(100_000):
                gallery = Gallery(("A", "B"))
                # A second a look by this clock: as many copies as the ring has events, not as the page wants.
                shown += looks.look(gallery, LABELLER, float(step))
                for ids in gallery.ids():
                    check(gallery.of(*ids))
                if time.monotonic() > end_s:
                    break
        finally:
            writer.kill()
    assert shown > 20
    assert looks.torn > 0, "the writer never met us: nothing was tested"


def check(shot: Any) -> None:
    """Everything in the shot is of one block."""
    number = shot.train_id % 65536
    assert shot.received_at_s == shot.train_id
    assert shot.columns["p"] == (number, number)
    assert shot.full.min() == shot.full.max() == number
    assert shot.pulse_id in (0, 1)


def test_a_slot_in_work_is_not_looked_at(frames: tuple[StageSpec, Ring]) -> None:
    spec, ring = frames
    looks, gallery = Looks(spec), Gallery(("A", "B"))
    for slot, state in enumerate((FREE, FILLING, 2, 3, DONE)):
        put(ring, slot, slot + 1)
        ring.state[slot] = state
    put(ring, 5, 0)  # never used
    put(ring, 6, 9)
    ring.n[6] = 0  # given back unused
    put(ring, 7, 10)
    ring.n[7] = 10_000  # cannot be
    assert looks.look(gallery, LABELLER, 1.0) > 0
    shown = {train for train, _ in gallery.ids()}
    assert shown
    assert shown <= {1, 5}
    assert looks.torn == 0


def test_a_block_is_looked_at_once(frames: tuple[StageSpec, Ring]) -> None:
    spec, ring = frames
    looks, gallery = Looks(spec), Gallery(("A", "B"))
    put(ring, 0, 1)
    assert looks.look(gallery, LABELLER, 1.0) > 0
    assert looks.look(gallery, LABELLER, 2.0) == 0
    put(ring, 0, 2)
    assert looks.look(gallery, LABELLER, 3.0) > 0


def test_the_newest_of_each_class_and_the_most_novel_are_taken(frames: tuple[StageSpec, Ring]) -> None:
    spec, ring = frames
    looks, gallery = Looks(spec, seed=0), Gallery(("A", "B"))
    for slot in range(20):
        put(ring, slot, slot + 1, 0.1 if slot == 3 else 0.9, -50.0 if slot == 7 else -1.0)
    looks.look(gallery, LABELLER, 1.0)
    assert {s.train_id for s in gallery.newest("A", 9)} >= {20}
    assert [s.train_id for s in gallery.newest("B", 9)] == [4]
    assert gallery.most_novel(1)[0].train_id == 8
    assert gallery.most_novel(1)[0].novelty == 50.0
    put(ring, 0, 30, 0.1)
    looks.look(gallery, LABELLER, 1.0 + CLASS_EVERY_S / 2)
    assert [s.train_id for s in gallery.newest("B", 9)] == [4], "a class is not given pictures all the time"


def test_what_is_copied_is_bounded_by_bytes_a_second(frames: tuple[StageSpec, Ring]) -> None:
    spec, ring = frames
    looks, gallery = Looks(spec), Gallery(("A", "B"))
    copied, seq = 0, 0
    for turn in range(200):
        for slot in range(ring.layout.slots):
            seq += 1
            put(ring, slot, seq, likelihood=-float(seq))
        copied += looks.look(gallery, LABELLER, 100 + turn * 0.01)
    assert copied * ring.layout.event_bytes <= 3 * COPIED_BYTES_A_S + ring.layout.event_bytes


def test_a_frame_that_is_too_large_goes_as_a_picture_only(
    frames: tuple[StageSpec, Ring], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, ring = frames
    monkeypatch.setattr(module, "MAX_FULL_BYTES", ring.layout.event_bytes - 1)
    looks, gallery = Looks(spec), Gallery(("A", "B"))
    put(ring, 0, 5)
    looks.look(gallery, LABELLER, 1.0)
    (shown,) = gallery.newest("A", 1)
    assert shown.full is None
    assert shown.picture.shape == (SIDE // 2, SIDE // 2)
    assert shown.picture.min() == shown.picture.max() == 5


def test_verdicts_are_in_words(tmp_path: Path) -> None:
    low = '[[stream.route]]\nname = "low"\nwhen = "pulse_id == 0"\n'
    half = '[[stream.route]]\nname = "half"\none_in = 2\n'
    with line(tmp_path, config_text([make_bundle(tmp_path / "tiny")], low + half)) as stream:
        spec = stream.spec.model_copy(update={"fd": os.dup(stream.spec.fd)})
        stages = stream.ingest(), stream.inference(), stream.sink()
        looks, gallery = Looks(spec, seed=0), Gallery(())
        bad = np.full((3, POINTS), np.nan, np.float32)
        for turn in range(20):
            take(stages[0], message(turn + 1, 3, bad if turn % 4 == 0 else None))
            drain(*stages)
            looks.look(gallery, Labeller(()), 1.0 + turn)
        found = {(gallery.of(*ids) or pytest.fail("gone")).verdict for ids in gallery.ids()}
    assert found == {"keep:failopen:nonfinite", "keep:low", "keep:half", "veto"}


def test_a_descriptor_of_something_else_is_refused(frames: tuple[StageSpec, Ring], tmp_path: Path) -> None:
    spec, _ = frames
    with (tmp_path / "other").open("wb") as other:
        for fd in (other.fileno(), 9999, -1):
            with pytest.raises(ConfigError, match="start the page by the run"):
                Looks(spec.model_copy(update={"fd": fd}))
        os.fstat(other.fileno())  # it was not closed
    os.close(spec.fd)
