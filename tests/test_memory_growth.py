"""The watch over memory: the line through it is right, a leak is seen, starting up is none."""

import mmap
import os

import numpy as np
import pytest

from benchmarks import memory
from benchmarks.helper import BenchmarkError
from benchmarks.memory import ANONYMOUS, FIELDS, SOURCE, held_kb, leaks, lines_of, one_in, slope, verdict


def test_the_slope_is_that_of_a_line_and_its_error_that_of_the_textbook() -> None:
    times_s = np.arange(0.0, 480.0)
    noise = np.random.default_rng(0).normal(0.0, 5.0, 480)
    growth, error = slope(times_s, 1000 + 0.5 * times_s + noise)
    coefficients, covariance = np.polyfit(times_s / 60, 1000 + 0.5 * times_s + noise, 1, cov=True)
    assert growth == pytest.approx(coefficients[0])
    # Independent points, by chance a little correlated: only that makes the error larger.
    assert 0.999 * covariance[0, 0] ** 0.5 < error < 1.2 * covariance[0, 0] ** 0.5
    assert abs(growth - 30) < 4 * error


@pytest.mark.parametrize("place", [0.05, 0.2, 0.5, 0.7, 0.95])
def test_one_step_of_a_megabyte_is_no_leak_and_steps_that_go_on_are_one(place: float) -> None:
    times_s = np.arange(0.0, 480.0)
    assert not leaks(*slope(times_s, 30_000 + 1024.0 * (times_s > place * 480)))
    assert leaks(*slope(times_s, 30_000 + 1024.0 * np.floor(times_s / 100 + place)))


def test_what_goes_up_and_down_with_the_batches_is_no_leak() -> None:
    times_s = np.arange(0.0, 480.0)
    for seed in range(20):
        batches = np.random.default_rng(seed).choice([0.0, 5e3, 10e3, 15e3], 48).repeat(10)
        assert not leaks(*slope(times_s, 230_000 + batches))
        assert leaks(*slope(times_s, 230_000 + batches + 100.0 * times_s))


def test_what_is_flat_has_no_slope_and_two_points_have_no_error() -> None:
    assert slope(np.arange(10.0), np.full(10, 7.0)) == (0.0, 0.0)
    with pytest.raises(ValueError, match="3 points, got 2"):
        slope(np.arange(2.0), np.arange(2.0))


def test_a_leak_is_large_and_certain() -> None:
    assert leaks(101, 10)
    assert not leaks(99, 1)
    assert not leaks(101, 50)
    assert not leaks(-500, 1)


def test_what_a_process_holds_is_read_in_parts_that_add_up() -> None:
    before = dict(zip(FIELDS, held_kb(os.getpid()), strict=True))
    with mmap.mmap(-1, 32 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as private:
        private.write(b"1" * len(private))
        after = dict(zip(FIELDS, held_kb(os.getpid()), strict=True))
    assert after["RssAnon"] - before["RssAnon"] > 30 * 1024
    parts = after["RssAnon"] + after["RssFile"] + after["RssShmem"]
    assert after["VmRSS"] == pytest.approx(parts, rel=0.02)
    with pytest.raises(BenchmarkError, match="ended while"):
        held_kb(2**30)


def test_the_first_fifth_and_the_source_are_left_out() -> None:
    times_s, held = np.arange(0.0, 100.0), np.zeros((100, 2, len(FIELDS)))
    held[:20, 0, ANONYMOUS] = 50_000 * np.arange(20)  # starting
    held[20:, 0, ANONYMOUS] = 1e6
    held[:, 1, ANONYMOUS] = 1e3 * np.arange(100)  # the source's own growth is not ours
    ours, source, together = lines_of(["sink", SOURCE], times_s, held)
    assert ours.values["RssAnon_kb_per_min"] == pytest.approx(0, abs=1e-6)
    assert source.values["RssAnon_kb_per_min"] == pytest.approx(60_000)
    assert together.values["RssAnon_kb"] == 1e6
    assert verdict([ours, source, together], 10)[0] == 0


def test_a_growing_stage_ends_with_1_and_is_named_but_a_short_run_is_not_judged() -> None:
    times_s, held = np.arange(0.0, 600.0), np.zeros((600, 2, len(FIELDS)))
    held[:, 1, ANONYMOUS] = 5 * times_s  # 300 kB a minute
    lines = list(lines_of(["ingest", "sink"], times_s, held))
    code, sentence = verdict(lines, 10)
    assert code == 1
    assert "sink" in sentence
    assert "ingest" not in sentence
    assert verdict(lines, 0.2)[0] == 0


def test_what_is_stored_stays_bounded_however_long_it_runs() -> None:
    assert one_in(600) == memory.ONE_IN
    for seconds in (600, 36_000, 864_000):
        stored_bytes = memory.FRAMES_PER_S * seconds * 128 * 128 * 2 / one_in(seconds)
        assert stored_bytes <= memory.STORED_BYTES


@pytest.mark.slow
@pytest.mark.usefixtures("leaks")
def test_a_pipeline_is_watched_while_it_runs() -> None:
    names, times_s, held, rate = memory.watch(5)
    assert names[:4] == ["supervisor", "ingest", "inference", "sink"]
    assert held.shape == (len(times_s), len(names), len(FIELDS)) == (5, 7, 5)
    assert not np.isnan(held).any()
    assert held[:, :, ANONYMOUS].min() > 1024, "a Python process holds more than a megabyte"
    assert rate > 0
