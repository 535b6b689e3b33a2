"""Packed results to named columns, and what stands for an integer that is missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Column
from streamer.columns import NO_INTEGER, split, typed

COLUMNS = (
    Column("p", "float32", ("a", "b", "c")),
    Column("labels", "uint32"),
    Column("cluster", "int32"),
    Column("ll", "float32"),
)
WIDTH = 6


@given(st.integers(0, 20))
def test_columns_lie_side_by_side(n: int) -> None:
    packed = np.arange(n * WIDTH, dtype=np.float32).reshape(n, WIDTH)
    views = split(packed, COLUMNS)
    assert [views[c.name].shape for c in COLUMNS] == [(n, 3), (n,), (n,), (n,)]
    assert np.array_equal(np.column_stack([views[c.name] for c in COLUMNS]), packed)
    assert all(np.shares_memory(view, packed) for view in views.values() if n), "no copy"


def test_integers_get_their_own_type_exactly() -> None:
    packed = np.zeros((2, WIDTH), np.float32)
    packed[:, 3], packed[:, 4] = [2047, 0], [-1, 7]
    table = typed(split(packed, COLUMNS), COLUMNS)
    assert {c.name: str(table[c.name].dtype) for c in COLUMNS} == {c.name: c.dtype for c in COLUMNS}
    assert (table["labels"].tolist(), table["cluster"].tolist()) == ([2047, 0], [-1, 7])


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_a_missing_integer_has_its_mark_and_its_neighbours_their_value(missing: float) -> None:
    packed = np.full((3, WIDTH), 5, np.float32)
    packed[1] = missing
    table = typed(split(packed, COLUMNS), COLUMNS)
    assert table["labels"].tolist() == [5, int(NO_INTEGER["uint32"]), 5]
    assert table["cluster"].tolist() == [5, int(NO_INTEGER["int32"]), 5]
    assert not np.isfinite(table["ll"][1]), "floats say it themselves"
