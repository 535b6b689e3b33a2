"""Tables of results: exact values, words for codes, and refusals that say what to do."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from streamer import tables
from streamer.results import Block, BundleRef, ResultHeader, decode, encode
from streamer.routing import REASONS

N = 6
HEADER = ResultHeader(
    run=7,
    stream="droplets",
    received_at=1.7e9,
    bundles=(BundleRef("cnn", "a" * 64),),
    rules_sha256="b" * 64,
    routes=("streaks", "sample"),
    labels={"p": ("Streak", "Empty")},
)


def columns(**extra):
    return {
        "train_id": np.full(N, 2**63 + 10, np.uint64),
        "pulse_id": np.arange(N, dtype=np.uint64),
        "verdict": np.array([0, 1, 1, 1, 0, 1], np.uint8),
        "route": np.array([-1, 0, 1, -1, -1, 0], np.int16),
        "reason": np.array([0, 1, 2, 3, 0, 1], np.uint8),
        "log_likelihood": np.linspace(-3, 3, N).astype(np.float32),
        "p": np.arange(2 * N, dtype=np.float32).reshape(N, 2) / 7,
        "mu": np.arange(3 * N, dtype=np.float64).reshape(N, 3),
    } | extra


def block(header=HEADER, **extra) -> Block:
    given = {name: values for name, values in columns(**extra).items() if values is not None}
    return decode(encode(header, given))


def test_a_dataframe_has_exact_values_under_readable_names():
    frame = tables.dataframe([block(), block()], N + 2)
    assert frame.index.names == ["train_id", "pulse_id"]
    assert [str(level.dtype) for level in frame.index.levels] == ["uint64", "uint64"]
    assert frame.index[1] == (2**63 + 10, 1)
    assert len(frame) == N + 2
    assert list(frame) == [
        *("verdict", "route", "reason", "log_likelihood"),
        *("p.Streak", "p.Empty", "mu.0", "mu.1", "mu.2"),
    ]
    assert frame["p.Streak"].dtype == np.float32
    assert frame["mu.1"].dtype == np.float64
    np.testing.assert_array_equal(frame["p.Empty"].iloc[:N], columns()["p"][:, 1])


def test_codes_become_words():
    frame = tables.dataframe([block()], N)
    assert frame["verdict"].tolist() == ["veto", "keep", "keep", "keep", "veto", "keep"]
    assert frame["route"].isna().tolist() == [True, False, False, True, True, False]
    assert frame["route"].dropna().tolist() == ["streaks", "sample", "streaks"]
    assert list(frame["route"].cat.categories) == ["streaks", "sample"]
    assert frame["reason"].tolist()[3] == REASONS[3]
    assert frame.groupby("route", observed=False).size().to_dict() == {"streaks": 2, "sample": 1}


def test_who_answered_stands_in_the_attributes():
    swapped = block(replace(HEADER, bundles=(BundleRef("cnn", "c" * 64),)))
    for table in (tables.dataframe([block(), swapped], N), tables.dataset([block(), swapped], N)):
        assert table.attrs["run"] == 7
        assert table.attrs["stream"] == "droplets"
        assert table.attrs["bundles"] == ["cnn " + "a" * 64, "cnn " + "c" * 64]
        assert table.attrs["rules_sha256"] == ["b" * 64]


def test_a_dataset_has_labelled_axes():
    data = tables.dataset([block(), block()], N + 2)
    assert dict(data.sizes) == {"event": N + 2, "p_label": 2, "mu_label": 3}
    assert set(data.coords) == {"train_id", "pulse_id", "p_label"}
    streak = data.p.sel(p_label="Streak")
    np.testing.assert_array_equal(streak[:N], columns()["p"][:, 0])
    assert streak.dtype == np.float32
    assert int(data.train_id[0]) == 2**63 + 10
    assert data.route.values.tolist()[:N] == ["", "streaks", "sample", "", "", "streaks"]
    assert (data.verdict == "keep").sum() == 5


def test_images_are_for_a_dataset():
    image = block(map=np.zeros((N, 70, 70), np.uint8))
    assert tables.dataset([image], N)["map"].dims == ("event", "map_0", "map_1")
    with pytest.raises(ValueError, match=r"4900 numbers per event, at most 4096 .* use to_dataset"):
        tables.dataframe([image], N)
    small = tables.dataframe([block(map=np.zeros((N, 2, 2), np.uint8))], N)
    assert list(small)[-4:] == ["map.0.0", "map.0.1", "map.1.0", "map.1.1"]


def test_codes_of_a_newer_sender_are_told_apart():
    odd = block(reason=np.full(N, 200, np.uint8), route=np.array([9, -7, -1, 0, 1, 2], np.int16))
    frame = tables.dataframe([odd], N)
    assert set(frame["reason"]) == {"?"}
    assert frame["route"].astype(object).fillna("").tolist() == ["?", "", "", "streaks", "sample", "?"]
    assert tables.dataset([odd], N).route.values.tolist() == ["?", "", "", "streaks", "sample", "?"]


def test_codes_of_another_shape_stay_numbers():
    odd = block(reason=np.zeros((N, 2), np.float32), route=np.zeros(N, np.float32))
    frame = tables.dataframe([odd], N)
    assert frame["route"].dtype == np.float32
    assert "reason.1" in frame


def test_names_that_repeat_are_refused():
    with pytest.raises(ValueError, match=r"two columns would be called 'p\.Streak'"):
        tables.dataframe([block(replace(HEADER, labels={"p": ("Streak", "Streak")}))], N)
    with pytest.raises(ValueError, match="words of column 'route' repeat"):
        tables.dataframe([block(replace(HEADER, routes=("a", "a")))], N)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (block(mu=None), "columns changed"),
        (block(mu=np.zeros((N, 4))), "shapes changed"),
        (block(replace(HEADER, labels={"p": ("Empty", "Streak")})), "labels changed"),
        (block(replace(HEADER, routes=("sample", "streaks"))), "routes changed"),
    ],
)
def test_blocks_that_are_no_one_table_are_refused(other, what):
    with pytest.raises(ValueError, match=what):
        tables.check_alike(block(), other)


def test_a_column_without_blocks_is_an_empty_table():
    assert tables.arrays([], 0) == {}
    assert len(tables.dataframe([], 0)) == 0
    assert tables.dataset([], 0).sizes["event"] == 0


@pytest.mark.parametrize(("package", "method"), [("pandas", "dataframe"), ("xarray", "dataset")])
def test_a_missing_package_is_named(monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}.* pip install {package}") as refused:
        getattr(tables, method)([block()], N)
    assert refused.value.name == package


def test_neither_package_is_imported_unless_asked_for():
    code = "import sys, streamer.client; sys.exit(bool({'pandas', 'xarray'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
