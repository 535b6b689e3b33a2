"""The file series of a stream: which there are, what they hold, and what a full disk is called."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from core_support import POINTS, config_text

from streamer.archive import FAILOPEN, Archive, StoredBlock, result_columns
from streamer.config import parse
from streamer.errors import ConfigError, DiskFullError, StoreError
from streamer.pipeline import resolve
from streamer.plan import StageSpec, layouts

ROUTES = '[[stream.route]]\nname = "a"\nwhen = "pulse_id < 2"\n[[stream.route]]\nname = "b"\none_in = 10'


def spec_of(folder: Path, stream: str = "") -> StageSpec:
    output = f'store = true\ndirectory = "{folder}"\nsegment_bytes = 65536\nreserve_bytes = 0'
    config = parse(config_text((), ROUTES, stream).replace("store = false", output), "test")
    return resolve(config, config.stream[0], -1, folder)


def cursor_of(spec: StageSpec) -> np.ndarray:
    return np.zeros(layouts(spec.settings, spec.columns).sink.sizes["cursor"], np.int64)


def block(spec: StageSpec, train_id: int, n: int) -> StoredBlock:
    columns = {name: np.zeros((n, *shape), dtype) for name, dtype, shape in result_columns(spec)}
    frames = np.full((n, POINTS), train_id, np.float32)
    return StoredBlock(np.full(n, train_id, "u8"), np.arange(n, dtype="u8"), frames, columns, 1.7e9)


def opened(spec: StageSpec) -> tuple[Archive, np.ndarray]:
    cursor = cursor_of(spec)
    archive = Archive(spec, cursor)
    archive.resume()
    return archive, cursor


def trains(folder: Path) -> list[int]:
    found: list[int] = []
    for path in folder.glob("*.h5"):
        with h5py.File(path) as file:
            ids = file["INSTRUMENT/s/STREAMER/RESULTS:output/data/trainId"][:]
            found += [int(i) for i in ids if i]
    return sorted(found)


def test_a_series_for_each_route_for_failopen_and_for_all_results(tmp_path: Path) -> None:
    archive, _ = opened(spec_of(tmp_path))
    assert archive.names == ["results", "a", "b", FAILOPEN]
    archive.close()
    assert {p.parent.name for p in (tmp_path / "r0001" / "s").rglob("*.h5")} == {"a", "b", FAILOPEN}
    assert len(list((tmp_path / "r0001").glob("*.h5"))) == 1, "also a series without events has its file"


def test_events_go_where_they_are_sent_and_results_of_all_together(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    archive, _ = opened(spec)
    assert archive.append(block(spec, 5, 6), np.array([1, 1, 2, 0, 3, 0])) == {}
    archive.close()
    run = tmp_path / "r0001"
    assert trains(run) == [5] * 6
    assert [len(trains(run / "s" / name)) for name in ("a", "b", FAILOPEN)] == [2, 1, 1]


def test_a_second_archive_goes_on_at_the_cursor(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    archive, cursor = opened(spec)
    archive.append(block(spec, 5, 3), np.array([1, 1, 0]))
    committed = cursor.copy()
    archive.append(block(spec, 6, 3), np.array([1, 1, 0]))  # and dies before the commit
    for series in archive._series:
        series.release()
    again = Archive(spec, committed)
    again.resume()
    again.append(block(spec, 7, 3), np.array([1, 0, 0]))
    again.close()
    assert trains(tmp_path / "r0001") == [5, 5, 5, 7, 7, 7]
    assert trains(tmp_path / "r0001" / "s" / "a") == [5, 5, 7]


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    archive, _ = opened(spec)
    archive.close()
    with pytest.raises(ConfigError, match="already holds 1 files of run 1"):
        Archive(spec, cursor_of(spec)).prepare()


def test_rules_versions_and_the_whole_configuration_stand_in_every_file(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    archive, _ = opened(spec)
    archive.close()
    (path,) = (tmp_path / "r0001").glob("*.h5")
    with h5py.File(path) as file:
        run = file["RUN/s/STREAMER/RULES"]
        rules = json.loads(run["rules/value"][0])
        assert [rule["name"] for rule in rules] == ["a", "b"]
        assert json.loads(run["configuration/value"][0])["run"] == 1
        assert len(run["rulesSha256/value"][0]) == 64


@pytest.mark.parametrize(("error", "reason"), [(DiskFullError, "disk_full"), (StoreError, "store_error")])
def test_why_a_series_cannot_take_events(tmp_path: Path, error: type[StoreError], reason: str) -> None:
    spec = spec_of(tmp_path)
    archive, _ = opened(spec)

    def refuse(*_: object) -> None:
        raise error("no")

    archive._series[1].append = refuse  # type: ignore[method-assign]
    assert archive.append(block(spec, 5, 2), np.array([1, 2])) == {"a": reason}
    archive.close()
    assert trains(tmp_path / "r0001" / "s" / "b") == [5], "the others are not hurt"


def test_modules_that_came_apart_go_out_apart(tmp_path: Path) -> None:
    output = f'store = true\ndirectory = "{tmp_path}"\nsegment_bytes = 65536\nreserve_bytes = 0'
    text = config_text().replace("store = false", output).replace("pulse bin", "pulse slow fast")
    text = text.replace('"SIM_DET/DET/SPEC:output"', '"D/DET/{0..1}CH0"').replace(f"[{POINTS}]", "[2, 3, 4]")
    config = parse(text, "test")
    spec = resolve(config, config.stream[0], -1, tmp_path)
    archive, _ = opened(spec)
    frames = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    columns = {name: np.zeros((2, *shape), dtype) for name, dtype, shape in result_columns(spec)}
    stored = StoredBlock(np.full(2, 9, "u8"), np.arange(2, dtype="u8"), frames, columns, 1.7e9)
    assert archive.append(stored, np.array([1, 1])) == {}
    archive.close()
    (path,) = (tmp_path / "r0001/s/all").glob("*.h5")
    with h5py.File(path) as file:
        for module in (0, 1):
            data = file[f"INSTRUMENT/D/DET/{module}CH0:output/data/intensity"]
            assert np.array_equal(data[:2], frames[:, module])
