"""The promise: the bound against scipy's distributions, and that it is kept in repeated draws."""

import math

import numpy as np
import pytest
from scipy import stats

from models.manifest import ModelError
from models.promise import (
    LEAST,
    MOST,
    TooFewError,
    binomial,
    interval,
    largest_rank,
    positives_needed,
    promise,
)

PAIRS = [(0.99, 0.95), (0.9, 0.9), (0.5, 0.75), (0.999, 0.99), (0.8, 0.5)]


@pytest.mark.parametrize(("recall", "confidence"), PAIRS)
@pytest.mark.parametrize("n", [1, 2, 22, 23, 298, 299, 1000, 20_000])
def test_the_rank_is_that_of_the_binomial_and_of_the_beta_distribution(
    n: int, recall: float, confidence: float
) -> None:
    rank = largest_rank(n, recall, confidence)
    ranks = np.arange(1, n + 1)
    enough = stats.binom.sf(ranks - 1, n, 1 - recall) >= confidence - 1e-12
    assert rank == enough.sum()
    if rank:  # Bin(n, q) >= r has the chance I_q(r, n - r + 1)
        assert stats.beta.cdf(1 - recall, rank, n - rank + 1) >= confidence - 1e-12
    if rank < n:
        assert stats.beta.cdf(1 - recall, rank + 1, n - rank) < confidence


@pytest.mark.parametrize(("recall", "confidence"), PAIRS)
def test_as_many_positives_as_needed_are_enough_and_one_less_is_not(recall: float, confidence: float) -> None:
    needed = positives_needed(recall, confidence)
    assert largest_rank(needed, recall, confidence) >= 1
    assert largest_rank(needed - 1, recall, confidence) == 0


def test_the_usual_promise_needs_299() -> None:
    assert positives_needed(0.99, 0.95) == 299
    assert positives_needed(0.9, 0.95) == 29


def test_chances_of_many_events_add_up_to_one() -> None:
    chances = binomial(200_000, 0.01)
    assert math.isclose(chances.sum(), 1, abs_tol=1e-9)
    np.testing.assert_allclose(
        chances[1990:2010], stats.binom.pmf(np.arange(1990, 2010), 200_000, 0.01), 1e-8
    )


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 8.0)])
def test_the_promise_is_kept_in_at_least_the_share_of_draws_it_says(low: float, high: float) -> None:
    """Smooth scores, and scores of few values with many ties (rounded to whole numbers)."""
    generator, recall, confidence, draws = np.random.default_rng(5), 0.9, 0.8, 2000
    kept = 0
    for _ in range(draws):
        scores = generator.uniform(low, high, 120)
        if high > 1:
            scores = np.floor(scores)
            true_recall = 1 - promise(scores, recall, confidence).threshold / high
        else:
            true_recall = 1 - promise(scores, recall, confidence).threshold
        kept += true_recall >= recall - 1e-12
    spread = math.sqrt(confidence * (1 - confidence) / draws)
    assert kept / draws >= confidence - 3 * spread
    if high == 1:  # and not by keeping far too much: the next rank would break it
        rank = promise(scores, recall, confidence).rank
        assert stats.binom.sf(rank, 120, 1 - recall) < confidence


def test_a_score_that_is_no_number_counts_as_kept() -> None:
    scores = np.linspace(0, 1, 400)
    spoilt = scores.copy()
    spoilt[-5:] = np.nan
    assert promise(spoilt, 0.95, 0.9).threshold == promise(scores, 0.95, 0.9).threshold
    with pytest.raises(ModelError, match="400 of 400 positive events have no finite score"):
        promise(np.full(400, np.nan), 0.95, 0.9)


def test_too_few_events_say_how_many_are_missing_and_what_can_be_promised() -> None:
    with pytest.raises(TooFewError, match=r"120 have the class, 299 are needed.*179 more.*at most 0\.9753"):
        promise(np.linspace(0, 1, 120), 0.99, 0.95)
    assert promise(np.linspace(0, 1, 120), 0.9753, 0.95).rank == 1
    with pytest.raises(TooFewError, match="0 have the class"):
        promise(np.empty(0), 0.99, 0.95)


@pytest.mark.parametrize(("recall", "confidence"), [(1, 0.9), (0, 0.9), (0.9, 1), (0.9, 0), (math.nan, 0.9)])
def test_shares_outside_0_to_1_are_refused(recall: float, confidence: float) -> None:
    with pytest.raises(ModelError, match="expected a number between 0 and 1"):
        promise(np.linspace(0, 1, 500), recall, confidence)


@pytest.mark.parametrize(
    ("recall", "confidence"), [(1e-17, 0.9), (0.9, 1e-12), (1 - 1e-16, 0.9), (0.9, 1 - 1e-9), (math.inf, 0.9)]
)
def test_shares_that_say_nothing_are_refused(recall: float, confidence: float) -> None:
    with pytest.raises(ModelError, match=r"expected a number between 0 and 1, from 0\.001 to 0\.999999, got"):
        promise(np.linspace(0, 1, 500), recall, confidence)


@pytest.mark.parametrize("recall", [LEAST, 0.5, MOST])
@pytest.mark.parametrize("confidence", [LEAST, 0.5, MOST])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_at_the_limits_the_rank_is_at_most_the_number_of_positives(
    n: int, recall: float, confidence: float
) -> None:
    rank = largest_rank(n, recall, confidence)
    chances = stats.binom.sf(np.arange(n), n, 1 - recall)
    assert rank == np.count_nonzero(chances >= confidence - 1e-12) <= n
    if rank == 0:
        with pytest.raises(TooFewError, match=r"give \d+ more"):
            promise(np.linspace(0, 1, n), recall, confidence)
    assert largest_rank(n, 0.5, 1e-12) == n


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 50), (7, 50), (50, 50), (900, 1000), (3, 9999)])
def test_the_interval_is_clopper_and_pearsons(hits: int, n: int) -> None:
    known = stats.binomtest(hits, n).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose(interval(hits, n, 0.9), (known.low, known.high), rtol=1e-7, atol=1e-12)


def test_what_it_keeps_of_its_own_events() -> None:
    made = promise(np.linspace(0, 1, 1000), 0.95, 0.95)
    assert made.kept_share == np.mean(np.linspace(0, 1, 1000) >= made.threshold)
