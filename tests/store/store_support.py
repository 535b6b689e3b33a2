"""A small series whose every value follows from (train, pulse), and how to check it."""

import gc
from pathlib import Path

import numpy as np
from extra_data import RunDirectory
from extra_data.validation import RunValidator

from streamer.store.series import Series
from streamer.store.spec import KeySpec, RunInfo, SeriesSpec, TableSpec

FRAMES, RESULTS = "SPB_EXP/CAM/SIDE:output", "droplets/STREAMER/RESULTS:output"
DEVICE = "droplets/STREAMER/STREAKS"
NOW = 1_763_600_000.0  # any time
LABELS = 11


def make_spec(directory: Path, rows: int = 100, trains: int = 50, side_px: int = 8) -> SeriesSpec:
    """Frames u2 [side, side] under one source, p f4 [11] and label u1 under another."""
    frames = TableSpec(FRAMES, (KeySpec("data.image", np.dtype("u2"), (side_px, side_px)),))
    results = (KeySpec("data.p", np.dtype("f4"), (LABELS,)), KeySpec("data.label", np.dtype("u1")))
    return SeriesSpec("streaks", directory, (frames, TableSpec(RESULTS, results)), rows, trains)


def make_info(**values: str | int | float) -> RunInfo:
    """Run 56 of proposal 700000."""
    return RunInfo(700000, 56, "20261120T110000Z", {DEVICE: values or {"rule": "p.Streak > 0.5"}})


def ids_of(*trains: tuple[int, int], first_pulse: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids of `n` events of each (train, n): u8 trains, u8 pulses from `first_pulse` on."""
    train_ids = np.repeat(np.array([t for t, _ in trains], np.uint64), [n for _, n in trains])
    pulse_ids = np.concatenate([np.arange(first_pulse, first_pulse + n, dtype=np.uint64) for _, n in trains])
    return train_ids, pulse_ids


def rows_of(train_ids: np.ndarray, pulse_ids: np.ndarray, side_px: int = 8) -> list[list[np.ndarray]]:
    """What the tables hold for these events."""
    key = train_ids * np.uint64(1000) + pulse_ids
    pixel = np.arange(side_px * side_px, dtype=np.uint64).reshape(side_px, side_px)
    image = (key[:, None, None] + pixel).astype("u2")
    p = (key[:, None] * np.uint64(LABELS) + np.arange(LABELS, dtype=np.uint64)).astype("f4")
    return [[image], [p, (key % np.uint64(7)).astype("u1")]]


def append(series: Series, cursor: np.ndarray, *trains: tuple[int, int], first_pulse: int = 0) -> None:
    """Append the events of (train, n) as one block."""
    train_ids, pulse_ids = ids_of(*trains, first_pulse=first_pulse)
    series.append(cursor, train_ids, pulse_ids, rows_of(train_ids, pulse_ids), NOW)


def start(directory: Path, **sizes: int) -> tuple[Series, np.ndarray]:
    """A prepared series and its cursor."""
    series = Series(make_spec(directory, **sizes), make_info())
    series.prepare()
    cursor = np.zeros(Series.CURSOR_INTS, np.int64)
    series.resume(cursor)
    return series, cursor


def read_events(directory: Path, side_px: int = 8) -> list[tuple[int, int]]:
    """All (train, pulse) that EXtra-data finds, after checking every value of every event."""
    gc.collect()  # EXtra-data keeps what it knew of a file while anything refers to it
    run = RunDirectory(str(directory))
    events = []
    for source in (FRAMES, RESULTS):
        train_ids = run[source, "data.trainId"].ndarray()
        pulse_ids = run[source, "data.pulseId"].ndarray()
        assert np.array_equal(run[source, "data.trainId"].train_id_coordinates(), train_ids)
        events.append(list(zip(train_ids.tolist(), pulse_ids.tolist(), strict=True)))
    [[image], [p, label]] = rows_of(train_ids, pulse_ids, side_px)
    assert np.array_equal(run[FRAMES, "data.image"].ndarray(), image)
    assert np.array_equal(run[RESULTS, "data.p"].ndarray(), p)
    assert np.array_equal(run[RESULTS, "data.label"].ndarray(), label)
    assert events[0] == events[1]
    return events[0]


def pairs(*trains: tuple[int, int], first_pulse: int = 0) -> list[tuple[int, int]]:
    """The (train, pulse) of `ids_of`."""
    return list(zip(*(a.tolist() for a in ids_of(*trains, first_pulse=first_pulse)), strict=True))


def problems(directory: Path) -> list[dict[str, str]]:
    """What EXtra-data's validator finds."""
    gc.collect()
    found: list[dict[str, str]] = RunValidator(str(directory)).run_checks()
    return found
