"""The Q_mu max-margin problem."""

import mpmath as mp
import numpy as np
import pytest
from certificates import certify, mp_h, relative_error, sep
from hypothesis import given, settings, strategies as st

from gflow.limits import excess_l1, l1_max_margin, l2_max_margin, q_max_margin
from gflow.limits.potentials import h_inverse, q

DEPTHS = (2, 3, 4, 5, 6, 10)
WIDE = (1e300, 1e20, 1e2, 1.0, 0.03, 1e-3, 1e-8, 1e-30, 1e-100, 1e-300)


def violation(X, mu, depth, solution):
    """Of the optimality conditions, from beta and the multipliers alone, relative to the terms of the sums."""
    beta, multipliers = solution.beta, solution.multipliers
    margins = (beta @ X.T - 1) / (np.abs(beta) @ np.abs(X).T + 1)
    w, terms = multipliers @ X, multipliers @ np.abs(X) + np.finfo(float).tiny
    stationarity = (h_inverse(beta / np.asarray(mu)[..., None], depth) - w) / terms
    assert np.all(multipliers >= 0)
    return max(np.max(-margins), np.max(np.abs(margins) * (multipliers > 0)), np.max(np.abs(stationarity)))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("mu", [1e200, 1e3, 1.0, 1e-2, 1e-40, 1e-250])
def test_one_sample(depth, mu):
    """N = 1: one equation for lambda, solved by bisection in high precision."""
    x = np.array([1.5, -2.0, 0.25])
    solution = q_max_margin([x], [1], mu=mu, depth=depth)
    with mp.workdps(300):
        top = mp.mpf(10) ** 4 if depth == 2 else 1 / mp.mpf(2)
        excess = lambda v: mp.fsum(mp.mpf(t) * mu * mp_h(v * mp.mpf(t), depth) for t in x) - 1
        # Bisect log lambda, or log (1/2 - lambda) near the pole at lambda = 1/2.
        near_pole = depth > 2 and mu <= 1
        at = lambda t: top - mp.e**-t if near_pole else top * mp.e**-t
        low, high = mp.mpf(0.7 if depth > 2 else 0), mp.mpf(600)
        rising = excess(at(high)) > 0
        for _ in range(120):
            middle = (low + high) / 2
            low, high = (low, middle) if (excess(at(middle)) > 0) == rising else (middle, high)
        exact = [mu * mp_h(at(low) * mp.mpf(t), depth) for t in x]
        assert relative_error(solution.beta, exact) < 1e-14
        assert abs(solution.multipliers[0] / at(low) - 1) < 1e-13
    assert solution.beta.shape == (3,) and solution.multipliers.shape == (1,)
    assert solution.residual < 1e-12 and not solution.degenerate


@pytest.mark.parametrize("depth", [2, 3, 6, 10])
@pytest.mark.parametrize(("seed", "N", "d"), [(33, 4, 6), (7, 3, 2), (5, 8, 6)])
def test_high_precision(seed, N, d, depth):
    X = sep(seed, N, d)
    mus = [1e300, 1e2, 0.1, 1e-3, 1e-30, 1e-300]
    solution = q_max_margin(X, np.ones(N), mu=mus, depth=depth)
    for k, mu in enumerate(mus):
        beta, multipliers = certify(X, mu, depth, solution.beta[k], solution.multipliers[k])
        assert relative_error(solution.beta[k], beta) < 1e-13
        assert relative_error(solution.multipliers[k], multipliers) < 5e-13
        nonzero = [i for i in range(d) if abs(beta[i]) > 1e-290]
        assert max(abs(mp.mpf(float(solution.beta[k, i])) / beta[i] - 1) for i in nonzero) < 2e-12


@pytest.mark.parametrize("depth", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_high_precision_with_ties(seed, depth):
    """Data of -1 and 1: several coordinates are largest at once, and the l1 solution is not unique."""
    r = np.random.default_rng(seed)
    X = r.choice([-1.0, 1.0], size=(4, 7))
    X *= np.sign(X @ r.normal(size=7))[:, None]
    X = np.unique(X, axis=0)
    for mu in (0.3, 1e-3, 1e-20, 1e-150):
        solution = q_max_margin(X, np.ones(len(X)), mu=mu, depth=depth)
        beta, _ = certify(X, mu, depth, solution.beta, solution.multipliers)
        assert relative_error(solution.beta, beta) < 1e-12


@pytest.mark.parametrize("depth", DEPTHS)
def test_residual_for_all_mu(depth):
    mus = 10.0 ** np.arange(-300, 301, 40)
    for seed, N, d in [(33, 4, 6), (1, 1, 1), (2, 2, 30), (3, 30, 3), (4, 20, 20)]:
        solution = q_max_margin(sep(seed, N, d), np.ones(N), mu=mus, depth=depth)
        assert np.all(solution.residual < 1e-12)
        assert violation(sep(seed, N, d), mus, depth, solution) < 1e-12


@pytest.mark.parametrize("depth", [2, 3])
def test_many_samples(depth):
    """As many samples and features as the breast-cancer set, correlated features, 60 scales."""
    r = np.random.default_rng(0)
    X = r.normal(size=(569, 30)) @ (r.normal(size=(30, 30)) * 0.7 ** np.arange(30))
    score = X @ r.normal(size=30)
    X = (X + 0.2 * np.sign(score)[:, None] * (X.T @ score / (score @ score))) * np.sign(score)[:, None]
    mus = np.geomspace(1e4, 1e-12, 60)
    solution = q_max_margin(X, np.ones(569), mu=mus, depth=depth)
    assert solution.residual.shape == (60,) and np.all(solution.residual < 1e-11)
    assert violation(X, mus, depth, solution) < 1e-11


@pytest.mark.parametrize("depth", DEPTHS)
def test_large_mu_is_l2(depth):
    X = sep(33)
    l2 = l2_max_margin(X, np.ones(4))
    solution = q_max_margin(X, np.ones(4), mu=[10.0, 1e2, 1e3, 1e250], depth=depth)
    gaps = np.linalg.norm(solution.beta - l2.beta, axis=1)
    np.testing.assert_allclose(gaps[:2] / gaps[1:3], 100, rtol=2e-2)
    assert gaps[3] < 1e-15
    # beta = mu h(X^T lambda) with h = 2 w, or 2 D/(D - 2) w, near 0.
    slope = 2 if depth == 2 else 2 * depth / (depth - 2)
    np.testing.assert_allclose(solution.multipliers[3] * 1e250 * slope, l2.multipliers, rtol=1e-12)


@pytest.mark.parametrize("seed", [3, 33, 37])
def test_small_mu_is_l1(seed):
    X = sep(seed)
    l1 = l1_max_margin(X, np.ones(4))
    assert not l1.degenerate
    for depth in (3, 4, 10):
        excess = excess_l1(q_max_margin(X, np.ones(4), mu=[1e-9, 1e-10], depth=depth).beta, l1)
        assert np.log10(excess[0] / excess[1]) == pytest.approx(1.0, abs=0.03)
    excess = excess_l1(q_max_margin(X, np.ones(4), mu=[1e-30, 1e-40], depth=2).beta, l1)
    if excess[1] > 1e-14:
        assert np.log10(excess[0] / excess[1]) / 10 == pytest.approx(1 - l1.rho_max, abs=0.01)
    for depth in (2, 5):
        end = q_max_margin(X, np.ones(4), mu=1e-300, depth=depth).beta
        np.testing.assert_allclose(end, l1.beta, rtol=1e-9, atol=1e-9)


def test_depth_2_rate():
    """Off the support beta is of order mu^(1 - rho), also where that is slow."""
    X = sep(3, 3, 6)
    l1 = l1_max_margin(X, np.ones(3))
    mus = np.array([1e-100, 1e-110])
    off = (l1.beta == 0) & (l1.rho > 0.1)  # where rho log(1/mu) is large
    beta = np.abs(q_max_margin(X, np.ones(3), mu=mus, depth=2).beta[:, off])
    np.testing.assert_allclose(np.log10(beta[0] / beta[1]) / 10, 1 - l1.rho[off], atol=1e-9)
    assert l1.rho_max == pytest.approx(0.921, abs=1e-3)


def test_value_at_one_mu_does_not_depend_on_the_others():
    X, y = sep(5, 8, 6), np.ones(8)
    mus = np.array([1e-3, 7.0, 1e-40, 0.2, 1e-3, 1e5])
    for depth in (2, 3, 5):
        together = q_max_margin(X, y, mu=mus, depth=depth)
        for k, mu in enumerate(mus):
            alone = q_max_margin(X, y, mu=mu, depth=depth)
            np.testing.assert_allclose(together.beta[k], alone.beta, rtol=1e-11, atol=1e-14)
            np.testing.assert_allclose(together.multipliers[k], alone.multipliers, rtol=1e-10, atol=1e-13)


@given(st.integers(0, 10**6), st.sampled_from(DEPTHS), st.floats(-6, 4), st.floats(-100, 100))
@settings(max_examples=20)
def test_symmetries(seed, depth, log_mu, log_factor):
    r = np.random.default_rng(seed)
    mu, factor = 10.0**log_mu, 2.0 ** np.round(log_factor)
    X, y = sep(seed, 5, 7), r.choice([-1.0, 1.0], size=5)
    samples, features, sign = r.permutation(5), r.permutation(7), r.choice([-1.0, 1.0], size=7)
    one = q_max_margin(X, np.ones(5), mu=mu, depth=depth)
    other = q_max_margin(
        (factor * y[:, None] * X * sign)[samples][:, features], y[samples], mu=mu / factor, depth=depth
    )
    np.testing.assert_allclose(other.beta * factor, (one.beta * sign)[features], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.multipliers * factor, one.multipliers[samples], rtol=1e-8, atol=1e-10)


@given(st.integers(0, 10**6), st.sampled_from(DEPTHS), st.sampled_from(["sign", "integer", "binary", "sparse"]))
@settings(max_examples=35)
def test_degenerate_data(seed, depth, kind):
    r = np.random.default_rng(seed)
    shape = r.integers(1, 9), r.integers(1, 12)
    X = {
        "sign": lambda: r.choice([-1.0, 1.0], size=shape),
        "integer": lambda: r.integers(-2, 3, size=shape).astype(float),
        "binary": lambda: r.integers(0, 2, size=shape).astype(float),
        "sparse": lambda: r.normal(size=shape) * (r.random(shape) < 0.4),
    }[kind]()
    score = X @ r.normal(size=shape[1])
    X = (X * np.sign(score)[:, None])[score != 0]
    if not len(X):
        return
    mus = [10.0, 0.1, 1e-3, 1e-12, 1e-100]
    solution = q_max_margin(X, np.ones(len(X)), mu=mus, depth=depth)
    assert np.all(solution.residual < 1e-11)
    assert violation(X, mus, depth, solution) < 1e-11


@given(st.integers(0, 10**6), st.sampled_from(DEPTHS), st.floats(0, 6), st.floats(0, 6))
@settings(max_examples=20)
def test_scales_of_rows_and_columns(seed, depth, row_decades, column_decades):
    r = np.random.default_rng(seed)
    X = sep(seed, r.integers(1, 8), r.integers(1, 8))
    X = X * 10.0 ** r.uniform(-row_decades, row_decades, size=(len(X), 1))
    X = X * 10.0 ** r.uniform(-column_decades, column_decades, size=X.shape[1])
    mus = [1e3, 1.0, 1e-3, 1e-12, 1e-100]
    assert np.all(q_max_margin(X, np.ones(len(X)), mu=mus, depth=depth).residual < 1e-11)


def test_equal_samples_and_features():
    X = sep(33)
    twice = np.hstack([np.vstack([X, X[1:2]]), np.zeros((5, 1))])
    for depth in (2, 3):
        one, two = (q_max_margin(Z, np.ones(len(Z)), mu=1e-2, depth=depth) for Z in (X, twice))
        np.testing.assert_allclose(two.beta[:6], one.beta, rtol=1e-12)
        assert two.beta[6] == 0 and two.multipliers[1] == two.multipliers[4]
        assert two.multipliers[1] == pytest.approx(one.multipliers[1] / 2, rel=1e-12)
        # Equal features have equal beta, and share as one feature of larger mu would.
        copied = q_max_margin(np.hstack([X, X]), np.ones(4), mu=1e-2, depth=depth).beta
        larger = q_max_margin(X, np.ones(4), mu=2e-2, depth=depth).beta
        np.testing.assert_allclose(copied[:6] + copied[6:], larger, rtol=1e-12)


@given(st.integers(0, 10**6), st.sampled_from(DEPTHS), st.floats(-4, 2))
@settings(max_examples=15)
def test_no_feasible_neighbour_is_better(seed, depth, log_mu):
    r = np.random.default_rng(seed)
    X, mu = sep(seed, 4, 6), 10.0**log_mu
    best = q_max_margin(X, np.ones(4), mu=mu, depth=depth).beta
    for _ in range(5):
        other = best + 0.1 * r.normal(size=6) * np.abs(best).max()
        margin = (X @ other).min()
        if margin > 0:
            assert q(other / margin / mu, depth).sum() >= q(best / mu, depth).sum() * (1 - 1e-12)


def test_degenerate_is_flagged():
    X = [[1.0, 0.0], [1.0, 1.0]]  # the second sample is on the margin, and not needed
    assert q_max_margin(X, [1, 1], mu=1.0, depth=3).degenerate
    assert not q_max_margin([[1.0, 0.0], [1.5, 1.0]], [1, 1], mu=1.0, depth=3).degenerate


@pytest.mark.parametrize("depth", [3, 10])
@pytest.mark.parametrize("gap", [1e-6, 1e-12, 1e-15])
def test_near_ties(depth, gap):
    """Two features that agree to `gap`: at small mu the larger takes all, or both share, whatever rounding says."""
    X = sep(33)
    X = np.hstack([X, X[:, 4:5] * (1 + gap)])
    for mu in (1e-6, 1e-12, 1e-40, 1e-200):
        solution = q_max_margin(X, np.ones(4), mu=mu, depth=depth)
        beta, _ = certify(X, mu, depth, solution.beta, solution.multipliers)
        assert relative_error(solution.beta, beta) < max(1e-12, float(solution.residual))
