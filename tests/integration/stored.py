"""What a run has written, read back with plain h5py, and the judge that compares it with what was sent.

Owns the reading of our files for tests and the assertions on them. EXtra-data's own reading is tested beside
(test_official_peers); here every row of every file counts, also of files that it would not open together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.facility.truth import checksums, expected, read_log
from streamer.routing import KEEP, VETO

Array = NDArray[Any]
Ids = set[tuple[int, int]]

DETECTOR, KEY = "SIM_DET_NOISE/DET/CAM:output", "image.data"


def read_file(path: Path, source: str, group: str) -> dict[str, Array]:
    """The committed rows of one source in one file, by key below `group`."""
    with h5py.File(path) as file:
        index = file[f"INDEX/{source}/{group}"]
        trains, first, count = file["INDEX/trainId"][:], index["first"][:], index["count"][:]
        used = (trains[: len(count)] > 0) & (count > 0)
        rows = [np.arange(f, f + c, dtype=np.intp) for f, c in zip(first[used], count[used], strict=True)]
        chosen = np.concatenate([np.zeros(0, np.intp), *rows])
        return {name: data[:][chosen] for name, data in file[f"INSTRUMENT/{source}/{group}"].items()}


def read_source(files: list[Path], source: str, group: str) -> dict[str, Array]:
    """The committed rows of one source in all files, in the order of the files."""
    parts = [read_file(path, source, group) for path in files]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def results_of(run: Path, stream: str) -> dict[str, Array]:
    """The results of every event, kept or not."""
    files = sorted(run.rglob(f"*-{stream.upper()}_RESULTS*.h5"))
    return read_source(files, f"{stream}/STREAMER/RESULTS:output", "data")


def series_of(run: Path, stream: str) -> list[str]:
    """The names of the routes (and failopen) that have a folder."""
    return sorted(path.name for path in (run / stream).iterdir() if path.is_dir())


def kept_by(
    run: Path, stream: str, series: str, source: str, key: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Frames and results of the kept events of one route."""
    files = sorted((run / stream / series).rglob("*.h5"))
    frames = read_source(files, source, key.partition(".")[0])
    return frames, read_source(files, f"{stream}/STREAMER/RESULTS:output", "data")


def ids(columns: Mapping[str, Array]) -> list[tuple[int, int]]:
    return list(zip(columns["trainId"].tolist(), columns["pulseId"].tolist(), strict=True))


def unique(columns: Mapping[str, Array], what: str) -> Ids:
    """The ids; fails if one comes twice."""
    listed = ids(columns)
    found = set(listed)
    assert len(found) == len(listed), f"{what}: {len(listed) - len(found)} events are stored twice"
    return found


def sent_events(log: Path) -> dict[tuple[int, int], int]:
    """(train, pulse) -> crc of every event that a correct receiver accepts as new."""
    rows = expected(read_log(log))
    names = zip(rows["train_id"].tolist(), rows["pulse_id"].tolist(), strict=True)
    return dict(zip(names, rows["crc"].tolist(), strict=True))


def judge(
    run: Path, log: Path, counts: Mapping[str, Any], left_out: int = 0, stream: str = "noise"
) -> dict[str, Array]:
    """Every event sent is recorded once or accounted as lost before us; every kept one is stored once, whole.

    `left_out`: events that the sender skipped on purpose, so that they are missing but were never sent.
    Returns the results. Fails otherwise.
    """
    sent, results = sent_events(log), results_of(run, stream)
    recorded = unique(results, "results")
    shed_unseen = counts["shed"].get("ring_full", 0)
    assert recorded <= sent.keys(), f"never sent: {sorted(recorded - sent.keys())[:5]}"
    assert len(recorded) == counts["received"] - counts["unrecorded"] - shed_unseen
    assert len(sent) == counts["received"] + counts["missing_upstream"] - left_out
    assert_kept(run, stream, results, sent, counts)
    return results


def assert_kept(
    run: Path,
    stream: str,
    results: Mapping[str, Array],
    crcs: Mapping[tuple[int, int], int],
    counts: Mapping[str, Any],
) -> None:
    """The kept events of the results are in their route's files, once, with the bytes that were sent."""
    wanted = dict(zip(ids(results), results["verdict"].tolist(), strict=True))
    stored: Ids = set()
    for series in series_of(run, stream):
        frames, beside = kept_by(run, stream, series, DETECTOR, KEY)
        found = unique(frames, series)
        assert ids(frames) == ids(beside), f"{series}: frames and results have other ids"
        assert not found & stored, f"{series}: events that another route has stored as well"
        counted = sum(counts["failopen"].values()) if series == "failopen" else counts["kept"][series]
        assert len(found) == counted, f"{series}: {len(found)} events in the files, {counted} counted"
        torn = [
            n for n, c in zip(ids(frames), checksums(frames["data"]).tolist(), strict=True) if c != crcs[n]
        ]
        assert not torn, f"{series}: {len(torn)} frames differ from what was sent, e.g. {torn[:3]}"
        stored |= found
    kept = {name for name, verdict in wanted.items() if verdict == KEEP}
    shed = sum(n for reason, n in counts["shed"].items() if reason != "ring_full")
    assert stored <= kept
    assert len(kept - stored) == shed, f"{len(kept - stored)} kept events are not stored, {shed} were shed"
    assert sum(v == VETO for v in wanted.values()) == counts["vetoed"]
