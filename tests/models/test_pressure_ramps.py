"""Simulated runs of a pressure ramp: what differs between them, and what is told of them."""

import numpy as np
import pytest

from models.manifest import ModelError
from models.simulation.diffractograms import BOUNDARY, NO_SAMPLE, POINTS, lines_at, measured
from models.simulation.pressure_ramps import PHASES, RampOptions, draw_run, make


def test_single_curves_come_from_runs_of_their_own() -> None:
    made = make(60, 3, {"no_sample_share": 0.3})
    assert made["inputs"].shape == (60, POINTS)
    assert made["inputs"].dtype == np.float32
    assert made["targets"].shape == (60, len(PHASES))
    assert (made["targets"].sum(1) == 1).all()
    assert len(np.unique(made["ramp"])) == 60
    assert (made["boundary"] == -1).all()
    phase = made["targets"].argmax(1)
    assert 0 < (phase == NO_SAMPLE).sum() < 60
    with_sample = phase != NO_SAMPLE
    assert np.array_equal(phase[with_sample] == 1, made["place"][with_sample] >= BOUNDARY)
    assert made["inputs"][~with_sample].max() < 10 < made["inputs"][with_sample].max(1).mean()


def test_whole_runs_in_time_order() -> None:
    made = make(0, 5, {"whole_ramps": 3, "speeds": [1.5, 2.0]})
    for ramp in range(3):
        own = made["ramp"] == ramp
        phase = made["targets"][own].argmax(1)
        assert np.array_equal(made["curve_number"][own], np.arange(own.sum()))
        assert np.array_equal(phase, np.sort(phase))
        assert (made["boundary"][own] == (phase == 0).sum()).all()
        step = np.diff(made["place"][own])
        assert step == pytest.approx(made["speed"][own][0])
        assert 1.5 <= step[0] <= 2.0


def test_runs_differ_from_each_other() -> None:
    rng = np.random.default_rng(0)
    runs = [draw_run(RampOptions(), rng) for _ in range(300)]
    assert np.std([run.shift_deg.mean() for run in runs]) == pytest.approx(0.02, rel=0.2)
    heights = np.stack([run.height / run.height.mean() for run in runs])
    assert heights.std() == pytest.approx(0.1, rel=0.2)
    assert {len(run.shift_deg) for run in runs} == {len(lines_at(0.0).height)}
    assert np.median([run.speed for run in runs]) == pytest.approx(1.0, rel=0.15)


def test_without_strain_all_lines_move_alike() -> None:
    run = draw_run(RampOptions(strain=0.0), np.random.default_rng(1))
    assert np.ptp(run.shift_deg) == 0
    assert run.shift_deg[0] != 0
    assert (run.width == 1).all()
    assert np.ptp(run.height) > 0


def test_same_seed_same_runs_and_progress_is_told() -> None:
    heard: list[int] = []
    first = make(200, 8, {}, heard.append)
    assert heard == [100, 200]
    assert np.array_equal(first["inputs"], make(200, 8, {})["inputs"])
    assert not np.array_equal(first["inputs"], make(200, 9, {})["inputs"])


def test_raw_curves_lie_on_the_background() -> None:
    raw = make(30, 2, {"raw": True, "no_sample_share": 1.0, "spike_share": 0.0})["inputs"]
    at_14_deg = raw[:, 1100:1130].mean(1)
    assert at_14_deg.mean() == pytest.approx(4.4, rel=0.1)
    assert at_14_deg.std() > 0.3  # runs differ in strength


def test_spikes_are_narrow_and_few() -> None:
    options = {"no_sample_share": 1.0}
    spiked = make(40, 2, {**options, "spike_share": 1.0})["inputs"][:, 100:-100]
    calm = make(40, 2, {**options, "spike_share": 0.0})["inputs"][:, 100:-100]
    assert np.median(spiked.max(1)) > 1.5 * np.median(calm.max(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 2.0}, r"got \['speed'\]"),
        ({"speeds": [2.0, 1.0]}, "slow, fast"),
        ({"no_sample_share": 1.5}, "share"),
        ({"whole_ramps": -1}, "negative"),
        ({"strain": -1.0}, "negative"),
    ],
)
def test_refuses_options_that_make_no_runs(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(2, 0, options)


def test_measured_curves() -> None:
    intensity, label = measured()
    assert intensity.shape == (2, POINTS)
    assert intensity.dtype == np.float32
    assert label.tolist() == [0, 1]
