"""The sample: every event of a slow stream, a fair share of a fast one, always the newest."""

import numpy as np
import pytest

from streamer.dashboard.sample import SAMPLED_HZ, Sample

COLUMNS = {"train_id": ("u8", 0), "p": ("f4", 2)}


def events(first: int, n: int) -> dict[str, np.ndarray]:
    train_id = np.arange(first, first + n, dtype=np.uint64)
    return {"train_id": train_id, "p": np.stack([train_id, -train_id.astype(float)], axis=1).astype("f4")}


def test_every_event_of_a_slow_stream() -> None:
    sample = Sample(COLUMNS, rows=100)
    for block in range(5):
        sample.add(events(10 * block, 10), float(block))
    table = sample.table()
    assert table["train_id"].tolist() == list(range(50))
    assert table["p"][:, 1].tolist() == [-float(i) for i in range(50)]
    assert sample.share == 1.0


def test_only_the_newest_are_held() -> None:
    sample = Sample(COLUMNS, rows=100)
    for block in range(33):
        sample.add(events(7 * block, 7), float(block))
    assert sample.table()["train_id"].tolist() == list(range(131, 231))
    assert sample.share == 1.0


def test_a_block_larger_than_the_sample() -> None:
    sample = Sample(COLUMNS, rows=10)
    sample.add(events(0, 500), 0.0)
    assert sample.table()["train_id"].tolist() == list(range(490, 500))


def test_what_is_new_since_the_last_look() -> None:
    sample = Sample(COLUMNS, rows=100)
    sample.add(events(0, 10), 0.0)
    sequence, first = sample.since(0)
    assert first["train_id"].tolist() == list(range(10))
    assert len(sample.since(sequence)[1]["train_id"]) == 0
    sample.add(events(10, 5), 0.5)
    sequence, second = sample.since(sequence, limit=3)
    assert second["train_id"].tolist() == [12, 13, 14]
    assert sequence == 15
    assert len(sample.since(99)[1]["train_id"]) == 0


def test_who_looks_gets_copies() -> None:
    sample = Sample(COLUMNS, rows=100)
    sample.add(events(0, 10), 0.0)
    sample.table()["p"][:] = 7
    assert sample.table()["p"][3].tolist() == [3, -3]


@pytest.mark.parametrize("block", [1, 40, 4096])
def test_a_fast_stream_is_sampled_and_it_says_how(block: int) -> None:
    """10,000 events/s for some seconds of its clock: half are of one kind, and so is half of the sample."""
    sample = Sample(COLUMNS, seed=1)
    rate_hz = 10_000
    for first in range(0, 4 * rate_hz, block):
        sample.add(events(first, block), first / rate_hz)
    train_id = sample.table()["train_id"]
    assert sample.share == pytest.approx(len(train_id) / (4 * rate_hz), rel=0.11)
    settled = train_id[train_id >= 2 * rate_hz]
    assert 2 * SAMPLED_HZ * 0.8 < len(settled) < 2 * SAMPLED_HZ * 1.3
    assert np.mean(settled % 2 == 0) == pytest.approx(0.5, abs=0.05)
    assert (np.diff(train_id.astype(np.int64)) > 0).all()


def test_when_the_stream_is_slow_again_so_is_every_event_taken() -> None:
    sample = Sample(COLUMNS, rows=50, seed=1)
    sample.add(events(0, 20_000), 0.0)
    sample.add(events(20_000, 20), 1.5)
    for second in range(2, 6):
        sample.add(events(20_000 + 20 * second, 20), second + 0.5)
    assert sample.table()["train_id"][-60:].tolist() == list(range(20_070, 20_120))
    assert sample.share == 1.0
