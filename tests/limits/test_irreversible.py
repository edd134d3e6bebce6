"""The irreversible path."""

import numpy as np
import pytest
from certificates import certify, relative_error, sep
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize

from gflow.limits import excess_l1, irreversible_path, kkt_residual, l1_max_margin, l2_max_margin, q_max_margin
from gflow.limits.potentials import h, h_inverse, q_conjugate


def violation(X, mus, depth, path):
    """Margins below 1, multipliers that fall, or rise off the margin, and beta = mu h(X^T lambda); `mus` falls."""
    margins = (path.beta @ X.T - 1) / (np.abs(path.beta) @ np.abs(X).T + 1)
    w, terms = path.multipliers @ X, path.multipliers @ np.abs(X) + np.finfo(float).tiny
    stationarity = (h_inverse(path.beta / mus[:, None], depth) - w) / terms
    fall = -np.diff(path.multipliers, axis=0).min(initial=0.0) / path.multipliers.max()
    # Off the margin at both ends of an interval and gone before it, unless the sample came back within it.
    off = (margins[1:] > 1e-9) & (margins[:-1] > 1e-9)
    rise = np.abs(np.diff(path.multipliers, axis=0) * off).max(initial=0.0) / path.multipliers.max()
    return max(-margins.min(), np.abs(stationarity).max(), fall), rise


# The gap between the flow and the Q_mu solution, measured on the flow at alpha^D = 1e5, where it no longer falls.
@pytest.mark.parametrize(("depth", "mu", "gap"), [(2, 0.0562, 9.30e-2), (3, 0.00562, 1.04e-1)])
def test_gap_to_q_path(depth, mu, gap):
    path = irreversible_path(sep(33), np.ones(4), mus=mu, depth=depth)
    q_beta = q_max_margin(sep(33), np.ones(4), mu=mu, depth=depth).beta
    assert np.linalg.norm(path.beta - q_beta) / np.linalg.norm(q_beta) == pytest.approx(gap, rel=5e-3)
    assert path.left.any() and path.beta.shape == (6,) and path.left.shape == (4,)


# Excess l1 norms of flows at alpha^3 = 10, 100, 1000 converge to these numbers.
@pytest.mark.parametrize(
    ("seed", "excess"),
    [(33, (0.0542, 0.0147, 0.0256)), (7, (0.0102, 0.0015, 0.0037)), (37, (0.0178, 0.0190, 0.0352))],
)
def test_known_excess(seed, excess):
    path = irreversible_path(sep(seed), np.ones(4), mus=[1e-2, 1e-3, 1e-4], depth=3)
    assert excess_l1(path.beta, l1_max_margin(sep(seed), np.ones(4))) == pytest.approx(excess, abs=1e-4)


def incremental(X, depth, mus):
    """Minimise over lambda >= the previous one, by a quasi-Newton method, on a grid of falling mu."""
    least, betas = np.zeros(len(X)), []
    for mu in mus:

        def objective(v, mu=mu):
            w = X.T @ v / mu
            if depth > 2 and np.any(np.abs(w) >= 1):
                return 1e6, np.zeros(len(v))
            return mu * q_conjugate(w, depth).sum() - v.sum() / mu, (X @ (mu * h(w, depth)) - 1) / mu

        bounds = [(v * mu, None) for v in least]
        options = {"ftol": 0.0, "gtol": 1e-11, "maxiter": 2000, "maxls": 60}
        found = minimize(objective, least * mu, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
        least = np.maximum(found.x / mu, least)
        betas.append(mu * h(X.T @ least, depth))
    return np.array(betas)


@pytest.mark.parametrize(
    ("seed", "depth", "last"), [(33, 2, 1e-1), (33, 3, 1e-2), pytest.param(37, 3, 1e-2, marks=pytest.mark.slow)]
)
def test_incremental_minimisation(seed, depth, last):
    """The definition, on a grid of 100 scales, which moves the events by half a step."""
    mus = np.geomspace(1.0, last, 100)
    path = irreversible_path(sep(seed), np.ones(4), mus=mus, depth=depth)
    assert path.left[-1].any()
    expected = incremental(sep(seed), depth, mus)
    assert np.linalg.norm(path.beta[-1] - expected[-1]) < 2e-4 * np.linalg.norm(expected[-1])
    assert np.abs(path.beta - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("depth", [2, 3, 10])
@pytest.mark.parametrize(("seed", "N", "d"), [(33, 4, 6), (7, 4, 6), (5, 8, 6), (2, 12, 4), (0, 10, 30)])
def test_conditions(seed, N, d, depth):
    X, mus = sep(seed, N, d), np.geomspace(1e4, 1e-9, 60)
    path = irreversible_path(X, np.ones(N), mus=mus, depth=depth)
    wrong, rise = violation(X, mus, depth, path)
    assert wrong < 1e-12 and rise < 1e-10
    assert np.all(path.residual < 1e-10) and np.all(path.error < 1e-11)
    assert np.all(path.left[1:] >= path.left[:-1])


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_high_precision(depth):
    """Given the multipliers of the samples that left, beta is exact to rounding."""
    X = sep(33)
    for mu in (0.05, 1e-3, 1e-8, 1e-60, 1e-250):
        path = irreversible_path(X, np.ones(4), mus=mu, depth=depth)
        on_margin = np.abs(X @ path.beta - 1) < 1e-10
        beta, _ = certify(X, mu, depth, path.beta, path.multipliers, on_margin)
        assert relative_error(path.beta, beta) < 1e-11
        assert path.error < 1e-10 and path.residual < 1e-10


@pytest.mark.parametrize(("seed", "depth"), [(3, 2), (3, 3)])
def test_equals_q_path_where_multipliers_are_monotone(seed, depth):
    mus = np.geomspace(1e4, 1e-200, 60)
    path = irreversible_path(sep(seed), np.ones(4), mus=mus, depth=depth)
    solution = q_max_margin(sep(seed), np.ones(4), mu=mus, depth=depth)
    assert not path.left.any() and np.all(np.diff(solution.multipliers, axis=0) >= 0)
    np.testing.assert_allclose(path.beta, solution.beta, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [2, 3])
def test_left_tells_when_the_paths_part(seed, depth):
    mus = np.geomspace(1e2, 1e-5, 80)
    path = irreversible_path(sep(seed), np.ones(4), mus=mus, depth=depth)
    solution = q_max_margin(sep(seed), np.ones(4), mu=mus, depth=depth)
    together = ~path.left.any(axis=1)
    np.testing.assert_allclose(path.beta[together], solution.beta[together], rtol=1e-9, atol=1e-12)
    monotone = np.all(np.diff(solution.multipliers, axis=0) >= 0)
    assert monotone == together.all()


def test_depth_2_forgets_and_depth_3_does_not():
    X, y = sep(33), np.ones(4)
    l1 = l1_max_margin(X, y)
    for depth, forgets in ((2, True), (3, False)):
        path = irreversible_path(X, y, mus=[1e-4, 1e-300], depth=depth)
        assert path.left[-1].any()
        excess = excess_l1(path.beta, l1)
        assert (excess[1] < 1e-12) if forgets else (excess[1] > excess[0] > 0.02)
        # Either way it ends at a stationary point of the l_(2/D) norm.
        assert kkt_residual(path.beta[1], X, y, depth=depth) < 1e-7


def test_starts_at_l2():
    X, y = sep(5, 8, 6), np.ones(8)
    path = irreversible_path(X, y, mus=[1e300, 1e12, 1e3], depth=3)
    l2 = l2_max_margin(X, y)
    np.testing.assert_allclose(path.beta[:2], [l2.beta] * 2, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(path.multipliers[0] * 1e300 * 6, l2.multipliers, rtol=1e-11)
    assert np.linalg.norm(path.beta[2] - l2.beta) < 1e-5


def test_value_at_one_mu_does_not_depend_on_the_others():
    X, y = sep(5, 8, 6), np.ones(8)
    mus = np.array([1e-3, 7.0, 1e-20, 0.2, 1e-3, 1e5, 0.013])
    together = irreversible_path(X, y, mus=mus, depth=3)
    assert np.array_equal(together.mu, mus)
    for k, mu in enumerate(mus):
        alone = irreversible_path(X, y, mus=[mu], depth=3)
        assert np.array_equal(together.beta[k], alone.beta[0])
        assert np.array_equal(together.multipliers[k], alone.multipliers[0])
        assert np.array_equal(together.left[k], alone.left[0])


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 5]), st.floats(-20, 20))
@settings(max_examples=8)
def test_symmetries(seed, depth, log_factor):
    r = np.random.default_rng(seed)
    mus, factor = np.array([1e2, 0.3, 1e-2, 1e-4]), 2.0 ** np.round(log_factor)
    X, y = sep(seed, 5, 7), r.choice([-1.0, 1.0], size=5)
    samples, features, sign = r.permutation(5), r.permutation(7), r.choice([-1.0, 1.0], size=7)
    one = irreversible_path(X, np.ones(5), mus=mus, depth=depth)
    other = irreversible_path(
        (factor * y[:, None] * X * sign)[samples][:, features], y[samples], mus=mus / factor, depth=depth
    )
    np.testing.assert_allclose(other.beta * factor, (one.beta * sign)[:, features], rtol=1e-8, atol=1e-10)
    assert np.array_equal(other.left, one.left[:, samples])


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 6]), st.sampled_from(["sign", "integer", "sparse", "copies"]))
@settings(max_examples=12)
def test_degenerate_data(seed, depth, kind):
    r = np.random.default_rng(seed)
    shape = r.integers(1, 8), r.integers(1, 10)
    X = {
        "sign": lambda: r.choice([-1.0, 1.0], size=shape),
        "integer": lambda: r.integers(-2, 3, size=shape).astype(float),
        "sparse": lambda: r.normal(size=shape) * (r.random(shape) < 0.4),
        "copies": lambda: r.normal(size=shape)[r.integers(0, shape[0], size=shape[0])],
    }[kind]()
    score = X @ r.normal(size=shape[1])
    X = (X * np.sign(score)[:, None])[score != 0]
    if not len(X):
        return
    mus = np.array([10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-5, 1e-12])
    path = irreversible_path(X, np.ones(len(X)), mus=mus, depth=depth)
    assert violation(X, mus, depth, path)[0] < 1e-11
    assert np.all(path.residual < 1e-10)


def test_many_samples():
    X = sep(0, 100, 30)
    mus = np.geomspace(1e3, 1e-6, 20)
    path = irreversible_path(X, np.ones(100), mus=mus, depth=3)
    assert violation(X, mus, 3, path)[0] < 1e-11 and np.all(path.residual < 1e-10)
    assert path.left[-1].sum() > 5
