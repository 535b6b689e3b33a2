"""The store when it is killed, repeated, out of space, or finds what another left."""

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import kill_child
import numpy as np
import pytest
from store_support import (
    NOW,
    append,
    ids_of,
    make_info,
    make_spec,
    pairs,
    problems,
    read_events,
    rows_of,
    start,
)

from streamer.errors import ConfigError, StoreError
from streamer.store import exdf
from streamer.store.compact import close_file
from streamer.store.disk import free_bytes
from streamer.store.series import Series

ROOT = Path(__file__).parents[2]


def run_child(directory: Path, cursor_file: Path, stop_at: int, limit_s: float) -> int:
    """Run the child for at most `limit_s`, then kill -9; gives its exit status."""
    command = [sys.executable, kill_child.__file__, str(directory), str(cursor_file), str(stop_at)]
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as child:
        try:
            return child.wait(limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def committed(cursor_file: Path) -> int:
    page = np.fromfile(cursor_file, np.int64)
    return int(page[1:].reshape(2, -1)[page[0], 0])


def events_of(blocks: int) -> list[tuple[int, int]]:
    steps = [kill_child.block(number) for number in range(blocks)]
    return sorted(event for train, first in steps for event in pairs(train, first_pulse=first))


def test_kill_at_random_moments_keeps_every_event_once(tmp_path: Path) -> None:
    directory, cursor_file = tmp_path / "r0056", tmp_path / "cursor"
    directory.mkdir()
    cursor_file.write_bytes(bytes(8 * kill_child.FILE_INTS))
    moment = random.Random(5)
    for turn in range(10):
        assert run_child(directory, cursor_file, 0, moment.uniform(0.6, 0.9)) == -9
        blocks = committed(cursor_file)
        if turn % 3 == 2:  # reading hundreds of files takes longer than writing them
            events = read_events(directory)
            assert len(set(events)) == len(events)
            assert set(events_of(blocks)) <= set(events)  # one more block may be there and not count yet
    blocks = committed(cursor_file) + 20
    assert blocks > 200
    assert run_child(directory, cursor_file, blocks, 30) == 0
    assert sorted(read_events(directory)) == events_of(blocks)
    assert problems(directory) == []
    assert not list(directory.glob("*.part"))


def test_the_same_append_twice_stores_once(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=32)
    append(series, cursor, (1, 20))
    for steps in ([(1, 5)], [(2, 30), (3, 30)], [(1, 9)]):
        old = cursor.copy()
        append(series, cursor, *steps, first_pulse=40)
        series.release()
        cursor = old  # the process died before the cursor was made durable
        series = Series(make_spec(tmp_path, rows=32), make_info())
        series.resume(cursor)
        append(series, cursor, *steps, first_pulse=40)
    series.close(cursor)
    expected = [*pairs((1, 20)), *pairs((1, 5), (2, 30), (3, 30), first_pulse=40)]
    assert sorted(read_events(tmp_path)) == sorted(expected)
    assert read_events(tmp_path / "repeat1") == pairs((1, 9), first_pulse=40)
    assert problems(tmp_path) == []


def test_resume_takes_back_what_did_not_count(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=32)
    append(series, cursor, (1, 20))
    old = cursor.copy()
    append(series, cursor, (1, 4), (2, 30), (3, 30), first_pulse=20)
    series.release()
    (tmp_path / "CORR-R0056-STREAKS01-S00000.h5.part").write_bytes(b"half")
    series = Series(make_spec(tmp_path, rows=32), make_info())
    series.resume(old)
    assert read_events(tmp_path) == pairs((1, 20))
    assert [path.suffix for path in tmp_path.glob("CORR*")] == [".h5"]
    series.close(old)
    assert problems(tmp_path) == []


def test_a_closing_that_stopped_anywhere_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    series, cursor = start(folder, rows=32)
    append(series, cursor, (1, 20), (2, 11))
    series.release()
    (name,) = os.listdir(folder)
    lengths = {path: 2 if path.startswith("INDEX") else 31 for path in exdf.columns(folder / name)}
    for stopped_after in range(0, len(lengths) + 1, 3):
        copy = tmp_path / f"stopped{stopped_after}"
        shutil.copytree(folder, copy)
        columns = exdf.columns(copy / name)
        with open(copy / name, "r+b") as file:
            for path in list(lengths)[:stopped_after]:
                address = exdf.dimension_address(file.fileno(), columns[path])
                os.pwrite(file.fileno(), struct.pack("<Q", lengths[path]), address)
        assert read_events(copy) == pairs((1, 20), (2, 11))
        again, after = Series(make_spec(copy, rows=32), make_info()), cursor.copy()
        again.resume(after)
        append(again, after, (3, 1))
        again.close(after)
        assert read_events(copy) == pairs((1, 20), (2, 11), (3, 1))
        assert problems(copy) == []


def test_closing_a_closed_file_changes_nothing(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (1, 20))
    series.close(cursor)
    (path,) = tmp_path.glob("*.h5")
    before = path.read_bytes()
    close_file(path, sync=True)
    series.resume(cursor)
    series.close(cursor)
    assert path.read_bytes() == before


def test_resume_after_the_layout_changed_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (1, 3))
    series.release()
    wider = make_spec(tmp_path, rows=200)
    series = Series(wider, make_info())
    series.resume(cursor)
    append(series, cursor, (2, 3))
    series.close(cursor)
    assert len(list(tmp_path.glob("*.h5"))) == 2
    assert read_events(tmp_path) == pairs((1, 3), (2, 3))
    assert problems(tmp_path) == []


def test_files_of_another_start_are_not_removed(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (1, 3))
    series.close(cursor)
    other = Series(make_spec(tmp_path), replace(make_info(), created="20261121T000000Z"))
    with pytest.raises(ConfigError, match="belongs to another start of run 56"):
        other.resume(np.zeros_like(cursor))
    assert read_events(tmp_path) == pairs((1, 3))


@pytest.mark.parametrize("links", [True, False])
def test_a_file_of_another_run_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    first, cursor = start(tmp_path)
    second, other_cursor = start(tmp_path)  # both found the folder empty
    append(first, cursor, (1, 3))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"S00000.h5: a file of this name .* choose another run number"):
            append(second, other_cursor, (1, 5))
    assert not other_cursor.any()
    append(first, cursor, (2, 3))
    first.close(cursor)
    assert read_events(tmp_path) == pairs((1, 3), (2, 3))
    assert len(list(tmp_path.glob("CORR*"))) == 1


def test_a_kill_between_the_two_names_of_a_file_is_repaired(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    before = cursor.copy()
    append(series, cursor, (1, 3))
    series.release()
    (path,) = tmp_path.glob("*.h5")
    os.link(path, f"{path}{exdf.PART}")
    (tmp_path / exdf.file_name("streaks", 56, 1, 0)).touch()  # where a file system has no links
    series.resume(before)
    assert list(tmp_path.iterdir()) == []
    append(series, before, (1, 3))
    series.close(before)
    assert read_events(tmp_path) == pairs((1, 3))


def test_closed_files_may_be_taken_away(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=10)
    for train in (5, 6, 7, 8):
        append(series, cursor, (train, 9))
    (tmp_path / exdf.file_name("streaks", 56, 0, 0)).unlink()
    append(series, cursor, (5, 1), first_pulse=9)  # late: looks into the files for its train
    series.close(cursor)
    assert sorted(read_events(tmp_path)) == [(5, 9), *pairs((6, 9), (7, 9), (8, 9))]


def test_a_file_taken_away_does_not_stop_the_rest(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (1, 3))
    series.release()
    (path,) = tmp_path.glob("*.h5")
    path.unlink()
    series.resume(cursor)
    with pytest.raises(StoreError, match=r"S00000.h5 was removed or moved away"):
        append(series, cursor, (2, 3))
    append(series, cursor, (2, 3))
    series.close(cursor)
    assert read_events(tmp_path) == pairs((2, 3))


@pytest.mark.parametrize("folder", ["file", "directory", "parent"])
def test_what_is_removed_during_a_run_is_told_once_and_the_rest_is_stored(
    tmp_path: Path, folder: str
) -> None:
    directory = tmp_path / "out" / "r0056"
    series, cursor = start(directory)
    append(series, cursor, (1, 3))
    if folder == "file":
        next(directory.glob("*.h5")).unlink()
    else:
        shutil.rmtree(directory if folder == "directory" else directory.parent)
    with pytest.raises(StoreError, match=r"S00000.h5 was removed or moved away during the run"):
        append(series, cursor, (2, 3))
    append(series, cursor, (3, 3))
    series.close(cursor)
    assert read_events(directory) == pairs((3, 3))
    assert problems(directory) == []


def test_as_long_as_the_directory_cannot_be_made_again_every_append_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    series, cursor = start(directory)
    append(series, cursor, (1, 3))
    shutil.rmtree(directory)
    directory.touch()  # no directory can be made here, also by root
    for message in ("was removed or moved away", "creating the directory", "creating the directory"):
        with pytest.raises(StoreError, match=message):
            append(series, cursor, (2, 3))
    directory.unlink()
    append(series, cursor, (2, 3))
    series.close(cursor)
    assert read_events(directory) == pairs((2, 3))


def test_a_series_without_events_makes_its_removed_directory_again(tmp_path: Path) -> None:
    series, cursor = start(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    series.close(cursor)
    assert problems(tmp_path / "out") == []


def test_a_directory_is_not_made_again_on_another_disk(tmp_path: Path, monkeypatch) -> None:
    series, cursor = start(tmp_path / "out")
    append(series, cursor, (1, 3))
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(StoreError, match="was removed"):
        append(series, cursor, (2, 3))
    monkeypatch.setattr("streamer.store.series._device", lambda _: -1)
    with pytest.raises(StoreError, match="lies on another disk than at the start; mount it again"):
        append(series, cursor, (2, 3))
    assert not (tmp_path / "out").exists()


def test_a_closing_that_fails_late_is_no_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    series, cursor = start(tmp_path)
    append(series, cursor, (1, 3))
    with monkeypatch.context() as patch:
        patch.setattr("streamer.store.compact.sync_directory", fail)
        patch.setattr("streamer.store.compact._shorten", fail)
        with pytest.raises(StoreError, match="closing"):
            series.close(cursor)
    series.close(cursor)
    assert read_events(tmp_path) == pairs((1, 3))


def test_closing_tells_of_a_file_removed_and_closes_the_others(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (10, 3))
    append(series, cursor, (9, 3))
    (tmp_path / exdf.file_name("streaks", 56, 0, 0)).unlink()
    (tmp_path / exdf.file_name("streaks", 56, 0, 0)).write_bytes(b"of someone else")
    with pytest.raises(StoreError, match=r"STREAKS00-S00000.h5 was removed or moved away"):
        series.close(cursor)
    (tmp_path / exdf.file_name("streaks", 56, 0, 0)).unlink()
    series.close(cursor)
    assert read_events(tmp_path) == pairs((9, 3))
    assert problems(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system to fill")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_refuses_the_next_segment_and_keeps_the_old(small_disk: Path) -> None:
    series, cursor = start(small_disk, rows=15_000)  # 3 MB a segment, of 8
    stored = [(train, 1000) for train in range(1, 31)]
    for step in stored:
        append(series, cursor, step)
    before = cursor.copy()
    with pytest.raises(StoreError, match=r"needs \d+ bytes .* only \d+ bytes are free; free space there"):
        append(series, cursor, (31, 1000))
    assert np.array_equal(cursor, before)
    series.close(cursor)
    assert read_events(small_disk) == pairs(*stored)
    assert problems(small_disk) == []
    assert not list(small_disk.glob("*.part"))


def test_space_that_vanishes_while_a_segment_is_made_leaves_nothing(small_disk: Path, monkeypatch) -> None:
    monkeypatch.setattr("streamer.store.segment.free_bytes", lambda _: 1 << 40)
    series, cursor = start(small_disk, rows=100_000)
    with pytest.raises(StoreError, match=r"creating .*No space left.* bytes are needed, \d+ bytes are free"):
        append(series, cursor, (1, 10))
    assert list(small_disk.iterdir()) == []
    assert not cursor.any()
    assert free_bytes(small_disk) > 7_000_000


def test_closing_on_a_full_disk_shortens_in_place(small_disk: Path) -> None:
    series, cursor = start(small_disk, rows=18_000)
    append(series, cursor, (1, 6000))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free_bytes(small_disk) - 65536))
    series.close(cursor)  # no room for a copy
    filler.unlink()
    assert read_events(small_disk) == pairs((1, 6000))
    assert problems(small_disk) == []


def test_a_failing_write_takes_the_whole_append_back(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=32)
    append(series, cursor, (1, 20))
    (tmp_path / exdf.file_name("streaks", 56, 0, 1)).mkdir()  # the next segment cannot be put here
    before = cursor.copy()
    train_ids, pulse_ids = ids_of((1, 4), (2, 30), first_pulse=20)
    with pytest.raises(StoreError, match="creating"):
        series.append(cursor, train_ids, pulse_ids, rows_of(train_ids, pulse_ids), NOW)
    assert np.array_equal(cursor, before)
    (tmp_path / exdf.file_name("streaks", 56, 0, 1)).rmdir()
    assert read_events(tmp_path) == pairs((1, 20))
    append(series, cursor, (1, 4), (2, 30), first_pulse=20)
    assert read_events(tmp_path) == pairs((1, 20)) + pairs((1, 4), (2, 30), first_pulse=20)
