"""The gallery: newest first, bounded in number and bytes, and nothing novel for ever."""

import numpy as np
import pytest

from streamer.dashboard import gallery as module
from streamer.dashboard.gallery import MAX_LABELS, NOVEL_WINDOW_S, PER_LABEL, Gallery, Shot
from streamer.dashboard.labels import Labeller, novelties
from streamer.dashboard.thumbnail import MAX_BINS, MAX_SIDE_PX, thumbnail


def shot(
    train_id: int, label: str = "Streak", novelty: float | None = None, side: int = 4, full: int = 0
) -> Shot:
    return Shot(
        train_id=train_id,
        pulse_id=train_id % 7,
        received_at_s=float(train_id),
        verdict="veto",
        label=label,
        columns={"cluster": train_id % 3},
        picture=np.zeros((side, side), np.float32),
        novelty=novelty,
        full=np.zeros((full, full), np.uint16) if full else None,
    )


def test_the_newest_of_a_class_come_first() -> None:
    gallery = Gallery(("Streak", "Ring"))
    for train in range(100):
        gallery.add(shot(train, "Ring" if train % 10 == 0 else "Streak"), 0.0)
    assert [s.train_id for s in gallery.newest("Streak", 3)] == [99, 98, 97]
    assert [s.train_id for s in gallery.newest("Ring", 3)] == [90, 80, 70]
    assert len(gallery.newest("Streak", 1000)) == PER_LABEL
    assert gallery.newest("unknown", 3) == []
    assert gallery.labels == ("Streak", "Ring")


def test_an_event_is_found_by_its_ids() -> None:
    gallery = Gallery(("Streak",))
    gallery.add(shot(8), 0.0)
    gallery.add(shot(9), 0.0, ())
    found = gallery.of(9, 2)
    assert found is not None
    assert found.train_id == 9
    assert gallery.of(9, 3) is None
    assert gallery.ids() == {(8, 1), (9, 2)}
    assert [s.train_id for s in gallery.newest("Streak", 9)] == [8]


def test_what_is_novel_leaves_after_some_minutes() -> None:
    gallery = Gallery()
    gallery.add(shot(1, novelty=1000.0), 0.0)
    gallery.add(shot(2, novelty=5.0), NOVEL_WINDOW_S - 1)
    gallery.add(shot(3, novelty=7.0), NOVEL_WINDOW_S - 1)
    gallery.add(shot(4), NOVEL_WINDOW_S - 1)
    assert [s.train_id for s in gallery.most_novel(9)] == [1, 3, 2]
    gallery.tick(NOVEL_WINDOW_S + 1)
    assert [s.train_id for s in gallery.most_novel(9)] == [3, 2]
    assert [s.train_id for s in gallery.most_novel(1)] == [3]


def test_a_replayed_event_is_novel_once() -> None:
    gallery = Gallery()
    for train in range(10):
        gallery.add(shot(train, novelty=3.0 + train % 2), 0.0)
    assert [s.train_id for s in gallery.most_novel(9)] == [9, 8]


def test_an_event_may_be_of_several_classes() -> None:
    p = np.array([[0.9, 0.6, 0.1], [0.2, 0.8, 0.1], [np.nan] * 3, [0.1, 0.2, 0.3]], np.float32)
    labeller, events = Labeller(("A", "B", "C")), {"train_id": np.arange(4), "p": p}
    assert labeller.newest(events, labeller(events)) == {"A": 0, "B": 0, "": 2, "C": 3}
    gallery = Gallery(("A", "B", "C"))
    gallery.add(shot(1, "A"), 0.0, ("A", "B"))
    assert gallery.newest("A", 9) == gallery.newest("B", 9) != []


def test_only_the_most_novel_are_kept() -> None:
    gallery = Gallery()
    for train in range(3 * PER_LABEL):
        gallery.add(shot(train, novelty=float(train)), 0.0)
    assert len(gallery.most_novel(1000)) == PER_LABEL
    assert gallery.is_novel(2.0 * PER_LABEL + 1)
    assert not gallery.is_novel(2.0 * PER_LABEL - 1)


@pytest.mark.parametrize("labels", [(), ("a",), tuple(f"l{i}" for i in range(300))])
def test_memory_is_bounded_whatever_the_labels(
    monkeypatch: pytest.MonkeyPatch, labels: tuple[str, ...]
) -> None:
    """With a small bound; of the real one, 256 MB, the arithmetic is the same."""
    monkeypatch.setattr(module, "MAX_BYTES", 8 << 20)
    gallery = Gallery(labels)
    for train in range(2000):
        gallery.add(shot(train, f"made up {train}" if train % 2 else "a", float(train), 32, 64), 0.0)
    assert len(gallery.labels) <= MAX_LABELS
    assert 4 * 12_288 < gallery.size_bytes <= 8 << 20


def test_naming_a_cluster_sorts_anew() -> None:
    gallery = Gallery()
    labeller = Labeller((), {})
    for train in range(9):
        gallery.add(shot(train, labeller.of_cluster(train % 3), float(train)), 0.0)
    assert gallery.labels == ("0", "1", "2")
    gallery.relabel(Labeller((), {"rings": 1}).of_shot)
    assert gallery.labels == ("0", "2", "rings")
    assert [s.train_id for s in gallery.newest("rings", 9)] == [7, 4, 1]
    assert {s.label for s in gallery.most_novel(9)} == {"0", "2", "rings"}


# Labels


def test_the_most_probable_class_is_the_label() -> None:
    p = np.array([[0.1, 0.9], [0.6, 0.4], [np.nan, 0.4]], np.float32)
    events = {"train_id": np.arange(3), "p": p, "cluster": np.zeros(3, np.int32)}
    assert Labeller(("A", "B"))(events) == ["B", "A", ""]


def test_without_classes_the_cluster_is_the_label() -> None:
    events = {"train_id": np.arange(3), "cluster": np.array([0, 4, -(2**31)], np.int32)}
    assert Labeller((), {"rings": 4})(events) == ["0", "rings", ""]
    assert Labeller(())({"train_id": np.arange(2)}) == ["", ""]


def test_novelty_is_how_unlikely_an_event_is() -> None:
    found = novelties({"log_likelihood": np.array([-3.0, np.nan, -np.inf], np.float32)})
    assert found is not None
    assert found[0] == 3.0
    assert np.isnan(found[1:]).all()
    assert novelties({}) is None


# Pictures


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((128, 128), (128, 128)),
        ((193, 192), (97, 192)),
        ((1000, 30), (167, 30)),
        ((16, 512, 1024), (191, 171)),
        ((4023,), (2012,)),
        ((256,), (256,)),
        ((1,), (1,)),
    ],
)
def test_a_picture_is_small_and_keeps_the_mean(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16)
    picture = thumbnail(frame)
    assert picture.shape == expected
    assert max(picture.shape) <= (MAX_BINS if len(shape) == 1 else MAX_SIDE_PX)
    assert picture.mean() == pytest.approx(frame.mean(), rel=0.02)
    if shape == expected:
        assert picture is frame


def test_bins_are_means_and_the_last_may_be_narrower() -> None:
    frame = np.arange(MAX_BINS + 1, dtype=np.float32)
    picture = thumbnail(frame)
    assert picture[:3].tolist() == [0.5, 2.5, 4.5]
    assert picture[-1] == MAX_BINS


def test_what_is_not_finite_does_not_blot_its_neighbours_out() -> None:
    frame = np.ones((400, 400), np.float32)
    frame[0, 0], frame[9, 9] = np.nan, np.inf
    assert np.isfinite(thumbnail(frame)).all()


@pytest.mark.parametrize("shape", [(), (2, 2, 2, 2), (0,), (3, 0)])
def test_a_shape_that_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 3 axes"):
        thumbnail(np.zeros(shape, np.uint16))
