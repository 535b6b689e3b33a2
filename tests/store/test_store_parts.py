"""The pure parts of the store: where events go, and how bytes get to the disk."""

import errno
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import StoreError
from streamer.store.disk import copy_range, runs, store_errors, write_all
from streamer.store.lanes import CURSOR_INTS, MAIN_LANES, Capacity, State, plan, trains_of
from streamer.store.rows import buffers
from streamer.store.seen import Seen, contains

blocks = st.lists(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=4),
    min_size=1,
    max_size=25,
)


def place(
    appends: list[list[tuple[int, int]]], capacity: Capacity
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Plan all appends; gives {(lane, sequence): [(train, count)]} as the files' indices would say."""
    cursor = np.zeros(CURSOR_INTS, np.int64)
    files: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for append in appends:
        append = sorted(append)
        ids = np.repeat(np.array([t for t, _ in append], np.uint64), [n for _, n in append])
        trains = trains_of(ids)
        main = {t for (lane, _), index in files.items() for t, _ in index if lane < MAIN_LANES}
        pieces, state = plan(State.read(cursor), capacity, trains, np.isin(trains.ids, list(main)))
        state.write(cursor)
        assert State.read(cursor) == state
        assert [p.start for p in pieces] + [len(ids)] == [0] + [p.stop for p in pieces]
        for piece in pieces:
            index = files.setdefault((piece.lane, piece.sequence), [])
            assert piece.row == sum(n for _, n in index)
            assert piece.entry == len(index)
            if piece.extended_count:
                index[-1] = (index[-1][0], piece.extended_count)
            index += zip(piece.train_ids.tolist(), piece.counts.tolist(), strict=True)
            assert piece.firsts.tolist() == [
                sum(n for _, n in index[:i]) for i in range(piece.entry, len(index))
            ]
    return files


@settings(max_examples=150, deadline=None)
@given(appends=blocks, rows=st.integers(1, 40), trains=st.integers(1, 6))
def test_any_order_of_trains_gives_files_that_open_together(
    appends: list[list[tuple[int, int]]], rows: int, trains: int
) -> None:
    files = place(appends, Capacity(rows, trains))
    for index in files.values():
        ids = [train for train, _ in index]
        assert ids == sorted(set(ids))
        assert sum(n for _, n in index) <= rows
        assert len(index) <= trains
    in_main = [train for (lane, _), index in files.items() if lane < MAIN_LANES for train, _ in index]
    assert len(in_main) == len(set(in_main))
    wanted: Counter[int] = Counter()
    for append in appends:
        for train, n in append:
            wanted[train] += n
    placed: Counter[int] = Counter()
    for index in files.values():
        for train, n in index:
            placed[train] += n
    assert placed == wanted


def test_trains_in_order_fill_one_lane() -> None:
    files = place([[(train, 5)] for train in range(1, 101)], Capacity(50, 20))
    assert sorted(files) == [(0, sequence) for sequence in range(10)]


def test_trains_of_parallel_sources_stay_in_the_main_lanes() -> None:
    order = [train + lag for train in range(1, 200, 4) for lag in (2, 0, 3, 1)]
    files = place([[(train, 5)] for train in order], Capacity(100, 50))
    assert {lane for lane, _ in files} == {0, 1}
    assert len(files) <= 12


def test_one_train_far_ahead_does_not_scatter_the_rest() -> None:
    files = place(
        [[(1, 5)], [(1 << 62, 5)], *([(t, 5), (t + 1, 5)] for t in range(2, 60, 2))], Capacity(500, 90)
    )
    assert {key: len(index) for key, index in files.items()} == {(0, 0): 2, (1, 0): 58}


def test_contains_is_isin() -> None:
    ids = np.array([0, 3, 4, 9, 10, 1 << 62], np.uint64)
    for known in ([], [3], [3, 9, 1 << 62], [1, 2], [11]):
        array = np.array(known, np.uint64)
        assert np.array_equal(contains(array, ids), np.isin(ids, array))


def test_seen_keeps_the_trains_of_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def train_ids(path: Path) -> np.ndarray:
        read.append(path)
        return np.array([1, int(path.name), 1 << 62], np.uint64)

    monkeypatch.setattr("streamer.store.seen._train_ids", train_ids)
    monkeypatch.setattr("streamer.store.seen._KEPT_IDS", 6)
    seen, paths = Seen(), [tmp_path / str(n) for n in (5, 6, 7)]
    ask = np.array([4, 5, 6], np.uint64)
    assert seen.stored(ask, paths[:2]).tolist() == [False, True, True]
    read.clear()
    for _ in range(3):
        assert seen.stored(ask, paths[:2]).tolist() == [False, True, True]
    assert read == []
    seen.stored(ask, paths[2:])  # a third one: the first must go
    read.clear()
    assert seen.stored(ask, paths[1:]).tolist() == [False, False, True]
    assert read == []
    assert seen.stored(ask, paths[:1]).tolist() == [False, True, False]
    assert read == paths[:1]


def test_one_large_train_does_not_make_later_segments_short() -> None:
    files = place([[(1, 64)], *([(train, 1)] for train in range(2, 130))], Capacity(64, 64))
    assert len(files) <= 4


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_buffers_are_the_selected_rows(size: int) -> None:
    block = np.random.default_rng(0).integers(0, 255, (20, 2, size)).astype(np.uint8)
    for rows in (block, block[:, 1], block.transpose(0, 2, 1)):
        for index in (np.arange(20), np.arange(3, 9), np.array([0, 1, 5, 6, 7, 19])):
            got = buffers(rows, index)
            assert all(part.flags.c_contiguous for part in got)
            assert b"".join(part.tobytes() for part in got) == rows[index].tobytes()


def test_large_rows_are_not_copied() -> None:
    block = np.zeros((20, 2, 5000), np.uint8)
    for rows in (block, block[:, 1]):
        got = buffers(rows, np.array([0, 1, 5]))
        assert all(np.shares_memory(part, block) for part in got)
    assert len(buffers(block, np.array([0, 1, 5]))) == 2  # a run and a single


def test_runs() -> None:
    assert list(runs(np.array([0, 1, 2, 5, 7, 8]))) == [slice(0, 3), slice(5, 6), slice(7, 9)]


def test_write_all_passes_the_limit_of_one_call(tmp_path: Path) -> None:
    rows = np.arange(5000, dtype=np.uint32).reshape(2500, 2)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_all(fd, list(rows), 8)
    assert os.pread(fd, 1 << 20, 8) == rows.tobytes()
    os.close(fd)


def test_write_all_goes_on_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pwrite, real_pwritev = os.pwrite, os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: real_pwritev(fd, [memoryview(parts[0])[:1]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_pwrite(fd, data[:3], at))
    rows = np.arange(48, dtype=np.uint16).reshape(6, 8)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_all(fd, [rows[:2], rows[2:3], rows[3:]], 0)
    assert os.pread(fd, 1 << 20, 0) == rows.tobytes()
    os.close(fd)


def test_copy_range_without_help_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "cross-device")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 40)
    source, target = os.open(tmp_path / "a", os.O_RDONLY), os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    copy_range(source, target, 9000, 7, 3)
    assert (tmp_path / "b").read_bytes()[3:] == (tmp_path / "a").read_bytes()[7:9007]
    with pytest.raises(OSError, match="ended early"):
        copy_range(source, target, 10, 1 << 20, 0)
    os.close(source)
    os.close(target)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(
            StoreError, match=r"writing .*f: No space left; 7 bytes are needed, \d+ bytes are free"
        ),
        store_errors(tmp_path / "f", "writing", 7),
    ):
        raise OSError(28, "No space left")
    with (
        pytest.raises(StoreError, match="check that the directory still exists"),
        store_errors(tmp_path / "gone" / "f", "writing"),
    ):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(("number", "remedy"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max")])
def test_too_many_open_files_is_no_matter_of_the_disk(tmp_path: Path, number: int, remedy: str) -> None:
    with (
        pytest.raises(StoreError, match=f"limit of open files is reached.*{remedy}") as caught,
        store_errors(tmp_path / "f", "opening", 7),
    ):
        raise OSError(number, os.strerror(number))
    assert "free space" not in str(caught.value)
