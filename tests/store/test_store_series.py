"""File series as EXtra-data reads them: while they grow, when they are closed, and in odd orders."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from extra_data import H5File, RunDirectory
from extra_data.components import AGIPD1M
from store_support import (
    DEVICE,
    FRAMES,
    NOW,
    RESULTS,
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
from streamer.store.exdf import config_device, file_name, results_source
from streamer.store.series import Series
from streamer.store.spec import KeySpec, RunInfo, SeriesSpec, TableSpec


def h5_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix in (".h5", ".part"))


def test_names() -> None:
    assert file_name("streaks", 56, 0, 3) == "CORR-R0056-STREAKS00-S00003.h5"
    assert file_name("no-hit 2", 1, 1, 0) == "CORR-R0001-NOHIT201-S00000.h5"
    assert results_source("droplets") == RESULTS
    assert config_device("droplets", "streaks") == DEVICE


def test_reads_exactly_what_was_committed_while_it_grows(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    expected = []
    for step in ([(5, 10)], [(6, 20)], [(7, 3), (8, 30)], [(9, 60)]):
        append(series, cursor, *step)
        expected += pairs(*step)
        assert read_events(tmp_path) == expected
    append(series, cursor, (9, 4), first_pulse=60)
    assert read_events(tmp_path) == expected + pairs((9, 4), first_pulse=60)
    series.release()


def test_closed_series_validates_over_several_segments(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=64)
    steps = [(train, 7) for train in range(100, 140)]
    for step in steps:
        append(series, cursor, step)
    series.close(cursor)
    assert len(h5_names(tmp_path)) == 5  # nine trains of seven fit into 64 rows
    assert problems(tmp_path) == []
    assert read_events(tmp_path) == pairs(*steps)


def test_closing_leaves_the_exact_size(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=10_000, trains=1000)
    append(series, cursor, (1, 5))
    path = tmp_path / h5_names(tmp_path)[0]
    assert path.stat().st_blocks * 512 > 1_000_000  # its space was claimed
    series.close(cursor)
    assert path.stat().st_size < 100_000
    with h5py.File(path) as file:
        assert file["INDEX/trainId"].shape == file["INDEX/flag"].shape == (1,)
        assert file[f"INSTRUMENT/{FRAMES}/data/image"].shape == (5, 8, 8)
        assert file["INDEX/origin"][0] == -1
        assert file["INDEX/timestamp"][0] == NOW * 1e9
    assert problems(tmp_path) == []


def test_index_entries_end_a_segment_too(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, trains=4)
    append(series, cursor, *[(train, 1) for train in range(1, 11)])
    series.close(cursor)
    assert len(h5_names(tmp_path)) == 3
    assert problems(tmp_path) == []
    assert read_events(tmp_path) == pairs(*[(train, 1) for train in range(1, 11)])


def test_a_train_begins_in_a_new_segment_if_it_fits_there_whole(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=100)
    append(series, cursor, (1, 60))
    append(series, cursor, (2, 60))
    series.close(cursor)
    names = h5_names(tmp_path)
    assert [H5File(str(tmp_path / name)).train_ids for name in names] == [[1], [2]]


def test_the_rest_of_a_train_that_no_longer_fits_goes_to_a_directory_of_its_own(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=100)
    append(series, cursor, (1, 60))
    append(series, cursor, (1, 60), first_pulse=60)
    append(series, cursor, (2, 5))
    series.close(cursor)
    assert read_events(tmp_path) == pairs((1, 100), (2, 5))
    assert read_events(tmp_path / "repeat1") == pairs((1, 20), first_pulse=100)
    assert problems(tmp_path) == problems(tmp_path / "repeat1") == []


def test_trains_out_of_order_are_all_readable(tmp_path: Path) -> None:
    series, cursor = start(tmp_path, rows=200, trains=100)
    order = np.random.default_rng(1).permutation(40).reshape(4, 10)
    order = np.sort(order, axis=1).T.ravel() + 1  # four sources, each in order, that overtake one another
    for train in order.tolist():
        append(series, cursor, (train, 3))
    series.close(cursor)
    assert sorted(read_events(tmp_path)) == pairs(*[(train, 3) for train in range(1, 41)])
    assert problems(tmp_path) == []
    assert 2 <= len(h5_names(tmp_path)) <= 4


def test_any_order_is_readable(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    order = (np.random.default_rng(2).permutation(30) + 1).tolist()
    for train in order:
        append(series, cursor, (train, 2))
    series.close(cursor)
    assert sorted(read_events(tmp_path)) == pairs(*[(train, 2) for train in range(1, 31)])
    assert problems(tmp_path) == []


def test_the_second_part_of_an_older_train_does_not_spoil_the_run_directory(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (10, 2))
    append(series, cursor, (11, 2))
    append(series, cursor, (10, 2), first_pulse=2)
    append(series, cursor, (9, 1), (12, 1))
    series.close(cursor)
    assert sorted(read_events(tmp_path)) == pairs((9, 1), (10, 2), (11, 2), (12, 1))
    assert read_events(tmp_path / "repeat1") == pairs((10, 2), first_pulse=2)
    assert problems(tmp_path) == []


def test_a_series_without_events_is_one_empty_file(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    series.close(cursor)
    assert h5_names(tmp_path) == [file_name("streaks", 56, 0, 0)]
    assert problems(tmp_path) == []
    run = RunDirectory(str(tmp_path))
    assert run.train_ids == []
    assert run[RESULTS, "data.p"].ndarray().shape == (0, 11)
    assert run.get_run_value(DEVICE, "rule") == "p.Streak > 0.5"


def test_a_single_event(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (2_000_000_000, 1))
    series.close(cursor)
    assert read_events(tmp_path) == [(2_000_000_000, 0)]
    assert problems(tmp_path) == []


def test_run_values_and_metadata(tmp_path: Path) -> None:
    text = '[[stream]]\nname = "tröpfchen"\n' * 1000
    info = make_info(**{"config": text, "route.when": "p > 0.5", "events": 3, "threshold": 0.5})
    series = Series(make_spec(tmp_path), info)
    cursor = np.zeros(Series.CURSOR_INTS, np.int64)
    append(series, cursor, (1, 1))
    series.close(cursor)
    run = RunDirectory(str(tmp_path))
    values = run[DEVICE].run_values(inc_timestamps=False)
    assert values == {"config": text, "route.when": "p > 0.5", "events": 3, "threshold": 0.5}
    assert run.get_run_values(DEVICE)["config.value"] == text
    metadata = run.run_metadata()
    assert (metadata["proposalNumber"], metadata["runNumber"]) == (700000, 56)
    assert (metadata["dataFormatVersion"], metadata["creationDate"]) == ("1.2", "20261120T110000Z")
    assert problems(tmp_path) == []


def test_roll_puts_one_model_version_in_one_file(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (1, 4))
    series.roll(cursor, make_info(rule="p.Streak > 0.9"))
    append(series, cursor, (2, 4))
    series.close(cursor)
    files = [H5File(str(tmp_path / name)) for name in h5_names(tmp_path)]
    assert [file.train_ids for file in files] == [[1], [2]]
    assert [file.get_run_value(DEVICE, "rule") for file in files] == ["p.Streak > 0.5", "p.Streak > 0.9"]
    assert read_events(tmp_path) == pairs((1, 4), (2, 4))


def test_select_stores_scattered_events_of_a_ring_block(tmp_path: Path) -> None:
    series = Series(make_spec(tmp_path, side_px=64), make_info())  # 8 kB a frame: written from where they lie
    cursor = np.zeros(Series.CURSOR_INTS, np.int64)
    train_ids, pulse_ids = ids_of((1, 30), (2, 30))
    select = np.array([0, 1, 2, 10, 29, 30, 31, 59])
    series.append(cursor, train_ids, pulse_ids, rows_of(train_ids, pulse_ids, 64), NOW, select)
    series.append(cursor, train_ids, pulse_ids, rows_of(train_ids, pulse_ids, 64), NOW, select[:0])
    series.close(cursor)
    expected = [(int(train_ids[i]), int(pulse_ids[i])) for i in select]
    assert read_events(tmp_path, side_px=64) == expected


def test_detector_modules_open_as_agipd(tmp_path: Path) -> None:
    keys = (
        KeySpec("image.data", np.dtype("f4"), (512, 128)),
        KeySpec("image.mask", np.dtype("u4"), (512, 128)),
        KeySpec("image.cellId", np.dtype("u2")),
    )
    tables = tuple(TableSpec(f"SPB_DET_AGIPD1M-1/CORR/{module}CH0:output", keys) for module in range(2))
    spec = SeriesSpec("hits", tmp_path, tables, rows=8, trains=4)
    frames = np.random.default_rng(0).random((5, 2, 512, 128), np.float32)  # [event, module, slow, fast]
    mask, cells = np.zeros((5, 512, 128), np.uint32), np.arange(5, dtype=np.uint16)
    series, cursor = Series(spec, make_info()), np.zeros(Series.CURSOR_INTS, np.int64)
    train_ids, pulse_ids = ids_of((1, 3), (2, 2))
    series.append(cursor, train_ids, pulse_ids, [[frames[:, m], mask, cells] for m in range(2)], NOW)
    series.close(cursor)
    detector = AGIPD1M(RunDirectory(str(tmp_path)), min_modules=2)
    data = detector["image.data"].ndarray()  # [module, event, slow, fast]
    assert np.array_equal(data, frames.swapaxes(0, 1))
    assert problems(tmp_path) == []


def test_prepare_refuses_files_of_the_same_run(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    append(series, cursor, (1, 1))
    series.close(cursor)
    with pytest.raises(ConfigError, match="choose another run number or directory"):
        Series(make_spec(tmp_path), make_info()).prepare()
    with pytest.raises(ConfigError, match="cannot be used"):
        Series(make_spec(tmp_path / h5_names(tmp_path)[0]), make_info()).prepare()


def test_a_segment_that_would_leave_too_little_space_is_refused(tmp_path: Path) -> None:
    series = Series(make_spec(tmp_path), make_info(), reserve_bytes=1 << 60)
    cursor = np.zeros(Series.CURSOR_INTS, np.int64)
    with pytest.raises(StoreError, match=r"must leave \d+ bytes free, but only \d+ bytes are free"):
        append(series, cursor, (1, 1))
    assert not cursor.any()
    assert os.listdir(tmp_path) == []
    with pytest.raises(ConfigError, match="cannot be used"):
        series.prepare()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "at least 1 row"),
        ({"name": "-"}, "letter or digit"),
        ({"tables": ()}, "no tables"),
        ({"tables": (TableSpec("A/B/C", ()),)}, "'A/B/C': expected '<device>:<channel>'; .* has no keys"),
        ({"tables": (TableSpec("A/B:c", (KeySpec("x", np.dtype("f4")),)),)}, "expected '<group>.<key>'"),
        ({"tables": (TableSpec("A/B:c", (KeySpec("x.y", np.dtype("O")),)),)}, "cannot be stored"),
    ],
)
def test_a_spec_that_cannot_be_written_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(make_spec(tmp_path), **change)


def test_run_numbers_must_fit_the_file_name() -> None:
    with pytest.raises(ConfigError, match="four digits"):
        RunInfo(1, 10_000, "20261120T110000Z", {})
    with pytest.raises(ConfigError, match="YYYYMMDD"):
        RunInfo(1, 1, "today", {})


def test_rows_that_contradict_the_spec_are_refused(tmp_path: Path) -> None:
    series, cursor = start(tmp_path)
    train_ids, pulse_ids = ids_of((1, 2))
    rows = rows_of(train_ids, pulse_ids)
    with pytest.raises(StoreError, match=r"data.image: expected uint16 \(2, 8, 8\), got float64"):
        series.append(cursor, train_ids, pulse_ids, [[np.zeros((2, 8, 8))], rows[1]], NOW)
    with pytest.raises(StoreError, match=r"expected \[1, 2\] arrays per table, got \[1\]"):
        series.append(cursor, train_ids, pulse_ids, rows[:1], NOW)
    with pytest.raises(StoreError, match="0 marks an empty index entry"):
        series.append(cursor, train_ids * np.uint64(0), pulse_ids, rows, NOW)
    with pytest.raises(StoreError, match="decrease within one append"):
        series.append(cursor, np.array([2, 1], np.uint64), pulse_ids, rows, NOW)
    assert not cursor.any()
