"""The Gaussian mixture against scikit-learn, on data with known components, and its refusals."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from models.mixture import Array, FitOptions, MixtureHead, fit_mixture, log_sum_exp
from models.scores import cluster_scores


def three_clouds() -> tuple[Array, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 900, p=[0.5, 0.3, 0.2])
    mixing = rng.normal(size=(3, 4, 4)) * 0.5
    centres = rng.normal(size=(3, 4)) * 6
    return centres[truth] + np.einsum("nij,nj->ni", mixing[truth], rng.normal(size=(900, 4))), truth


def test_agrees_with_scikit_learn() -> None:
    x, truth = three_clouds()
    ours = fit_mixture(x, FitOptions(3, regularisation=1e-6))
    theirs = GaussianMixture(3, n_init=5, random_state=0, reg_covar=1e-6, tol=1e-4).fit(x)
    joint = ours.log_joint(x)
    assert log_sum_exp(joint).mean() == pytest.approx(theirs.score(x), abs=1e-3)
    assert cluster_scores(theirs.predict(x), joint.argmax(1))["adjusted_rand"] > 0.99
    assert cluster_scores(truth, joint.argmax(1))["adjusted_rand"] > 0.95
    assert np.sort(np.exp(ours.log_weights)) == pytest.approx(np.sort(theirs.weights_), abs=5e-3)


def test_likelihood_and_posterior_of_the_same_parameters_are_scikit_learns() -> None:
    """Both at 1e-5, given our fit's parameters; and our fit is as likely as theirs."""
    x, _ = three_clouds()
    ours = fit_mixture(x, FitOptions(3, restarts=10, regularisation=1e-6, tolerance=1e-6))
    theirs = GaussianMixture(3, n_init=10, random_state=0, reg_covar=1e-6, tol=1e-6, max_iter=300).fit(x)
    assert log_sum_exp(ours.log_joint(x)).mean() > theirs.score(x) - 1e-3
    theirs.weights_, theirs.means_ = np.exp(ours.log_weights), ours.means
    theirs.precisions_cholesky_ = ours.precision_factors
    joint = ours.log_joint(x)
    total = log_sum_exp(joint)
    assert np.abs(total - theirs.score_samples(x)).max() < 1e-5
    assert np.abs(np.exp(joint - total[:, None]) - theirs.predict_proba(x)).max() < 1e-5
    head = MixtureHead(3, 4).double()
    head.set(ours)
    centred = torch.from_numpy(x)[:, None] - head.get_buffer("means")
    squares = torch.einsum("bkd,kde->bke", centred, head.get_buffer("factors")).square().sum(2)
    exact = torch.logsumexp(head.get_buffer("offsets") - 0.5 * squares, 1).numpy()
    assert np.abs(exact - theirs.score_samples(x)).max() < 1e-5


def test_module_gives_the_same_as_the_fit() -> None:
    x, _ = three_clouds()
    mixture = fit_mixture(x, FitOptions(3))
    head = MixtureHead(3, 4)
    head.set(mixture)
    cluster, log_likelihood = head(torch.from_numpy(x).float())
    joint = mixture.log_joint(x)
    assert np.array_equal(cluster.numpy(), joint.argmax(1))
    assert log_likelihood.numpy() == pytest.approx(log_sum_exp(joint), abs=1e-3)


def test_module_keeps_float32_under_bfloat16_autocast() -> None:
    x, _ = three_clouds()
    head = MixtureHead(3, 4)
    head.set(fit_mixture(x, FitOptions(3)))
    inputs = torch.from_numpy(x).float()
    with torch.autocast("cpu", torch.bfloat16):
        rough = head(inputs)[1]
    assert rough.dtype == torch.float32
    assert torch.equal(rough, head(inputs)[1])


def test_far_away_is_finite_and_unlikely() -> None:
    x, _ = three_clouds()
    head = MixtureHead(3, 4)
    head.set(fit_mixture(x, FitOptions(3)))
    near, far = head(torch.stack([torch.from_numpy(x[0]), torch.full((4,), 1e4)]).float())[1]
    assert torch.isfinite(far)
    assert far < near - 1000


@pytest.mark.parametrize(
    ("x", "components", "message"),
    [
        (np.zeros((3, 2)), 3, "more events or fewer components"),
        (np.array([[0.0, np.nan]] * 9), 2, "9 of 9 events are not; drop"),
        (np.zeros(9), 2, r"\[N, D\] data"),
        (np.zeros((9, 2)), 0, "components and restarts >= 1"),
    ],
)
def test_unusable_data_is_refused(x: Array, components: int, message: str) -> None:
    from models.manifest import ModelError

    with pytest.raises(ModelError, match=message):
        fit_mixture(x, FitOptions(components))


def test_degenerate_data_names_the_remedy() -> None:
    from models.manifest import ModelError

    x = np.random.default_rng(0).normal(size=(50, 1)) @ np.ones((1, 3))
    with pytest.raises(ModelError, match="fewer components or more regularisation"):
        fit_mixture(x, FitOptions(2, regularisation=0.0))


def test_identical_events_are_carried_by_the_regularisation() -> None:
    mixture = fit_mixture(np.ones((20, 2)), FitOptions(2, regularisation=1e-3))
    assert np.isfinite(mixture.log_joint(np.ones((1, 2)))).all()
