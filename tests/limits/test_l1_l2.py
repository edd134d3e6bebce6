"""The l2 and l1 max-margin solutions."""

import numpy as np
import pytest
from certificates import sep
from hypothesis import given, settings, strategies as st
from scipy.optimize import linprog, nnls

from gflow.limits import l1_max_margin, l2_max_margin, q_max_margin

SETS = [sep(33), sep(7), sep(5, 8, 6), sep(2, 40, 5), sep(0, 100, 30), sep(1, 10, 30)]


def test_one_sample():
    x = np.array([3.0, -4.0, 0.0, 1.0])
    l2, l1 = l2_max_margin([x], [-1]), l1_max_margin([x], [-1])
    np.testing.assert_allclose(l2.beta, -x / (x @ x), rtol=1e-15)
    np.testing.assert_allclose(l2.multipliers, [1 / (x @ x)], rtol=1e-15)
    np.testing.assert_allclose(l1.beta, [0, 0.25, 0, 0], rtol=1e-15)
    np.testing.assert_allclose(l1.multipliers, [0.25], rtol=1e-15)
    np.testing.assert_allclose(l1.rho, np.abs(x) / 4, rtol=1e-15)
    assert l1.rho_max == 0.75 and not l1.degenerate and not l2.degenerate
    assert l1.residual < 1e-15 and l2.residual < 1e-15


@pytest.mark.parametrize("X", SETS)
def test_l2_conditions(X):
    solution = l2_max_margin(X, np.ones(len(X)))
    margins = X @ solution.beta
    used = solution.multipliers > 0
    np.testing.assert_allclose(margins[used], 1, rtol=1e-12)
    assert np.all(margins >= 1 - 1e-12) and np.all(solution.multipliers >= 0)
    np.testing.assert_allclose(X.T @ solution.multipliers, solution.beta, rtol=1e-11, atol=1e-12)
    assert solution.residual < 1e-13 and not solution.degenerate


@pytest.mark.parametrize("X", SETS)
def test_l2_is_least_distance_programming(X):
    target = np.append(np.zeros(X.shape[1]), 1.0)
    system = np.vstack([X.T, np.ones(len(X))])
    rest = system @ nnls(system, target)[0] - target
    np.testing.assert_allclose(l2_max_margin(X, np.ones(len(X))).beta, -rest[:-1] / rest[-1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("X", SETS)
def test_l1_conditions(X):
    N, d = X.shape
    solution = l1_max_margin(X, np.ones(N))
    margins, slope = X @ solution.beta, X.T @ solution.multipliers
    used, support = solution.multipliers > 0, solution.beta != 0
    assert np.all(margins >= 1 - 1e-12) and np.all(solution.multipliers >= 0)
    np.testing.assert_allclose(margins[used], 1, rtol=1e-12)
    np.testing.assert_allclose(slope[support], np.sign(solution.beta[support]), rtol=1e-12)
    np.testing.assert_array_equal(solution.rho, np.abs(slope))
    assert np.all(solution.rho < 1 + 1e-12) and solution.residual < 1e-12
    assert not solution.degenerate and used.sum() == support.sum()
    program = linprog(np.ones(2 * d), A_ub=np.hstack([-X, X]), b_ub=-np.ones(N))
    assert np.abs(solution.beta).sum() == pytest.approx(program.fun, rel=1e-9)


@given(st.integers(0, 10**6), st.floats(0, 6), st.floats(0, 6))
@settings(max_examples=25)
def test_scales_of_rows_and_columns(seed, row_decades, column_decades):
    r = np.random.default_rng(seed)
    X = sep(seed, r.integers(1, 8), r.integers(1, 8))
    X = X * 10.0 ** r.uniform(-row_decades, row_decades, size=(len(X), 1))
    X = X * 10.0 ** r.uniform(-column_decades, column_decades, size=X.shape[1])
    assert l2_max_margin(X, np.ones(len(X))).residual < 1e-12
    assert l1_max_margin(X, np.ones(len(X))).residual < 1e-12


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
@settings(max_examples=15)
def test_symmetries(seed, factor):
    r = np.random.default_rng(seed)
    X, y = sep(seed, 5, 7), r.choice([-1.0, 1.0], size=5)
    samples, features, sign = r.permutation(5), r.permutation(7), r.choice([-1.0, 1.0], size=7)
    for solve in (l1_max_margin, l2_max_margin):
        one = solve(X, np.ones(5))
        other = solve((factor * y[:, None] * X * sign)[samples][:, features], y[samples])
        np.testing.assert_allclose(other.beta, (one.beta * sign)[features] / factor, rtol=1e-9, atol=1e-11 / factor)
        scale = factor if solve is l1_max_margin else factor**2
        np.testing.assert_allclose(other.multipliers, one.multipliers[samples] / scale, rtol=1e-8, atol=1e-10 / scale)


def test_equal_samples_share_and_equal_features_agree():
    X = sep(33)
    X = np.vstack([X, X[1:3], X[1:2]])
    X = np.hstack([X, -X[:, 2:3], np.zeros((len(X), 1))])
    l2, one = l2_max_margin(X, np.ones(7)), l2_max_margin(sep(33), np.ones(4))
    assert l2.multipliers[1] == l2.multipliers[4] == l2.multipliers[6] and l2.multipliers[2] == l2.multipliers[5]
    assert l2.beta[6] == -l2.beta[2] and l2.beta[7] == 0.0
    l1 = l1_max_margin(X, np.ones(7))
    assert l1.beta[6] == -l1.beta[2] != 0 and l1.beta[7] == 0.0 and l1.residual < 1e-13
    assert l1.degenerate  # beta_2 and beta_6 can be exchanged
    assert not one.degenerate and not l2.degenerate


def test_degenerate_l1():
    # |x|_inf is attained twice: any mixture of the two coordinates is a solution.
    assert l1_max_margin([[1.0, 1.0, 0.5]], [1]).degenerate
    # Both samples are on the margin of the vertex (1, 0), which one multiplier suffices for.
    assert l1_max_margin([[1.0, 0.5], [1.0, -0.5]], [1, 1]).degenerate
    assert not l1_max_margin([[1.0, 0.5], [2.0, -0.5]], [1, 1]).degenerate


def test_degenerate_l2():
    assert l2_max_margin([[1.0, 0.0], [1.0, 1.0]], [1, 1]).degenerate
    assert not l2_max_margin([[1.0, 0.0], [1.5, 1.0]], [1, 1]).degenerate


@pytest.mark.parametrize("seed", range(6))
def test_l1_where_the_solution_is_not_unique(seed):
    r = np.random.default_rng(seed)
    X = r.choice([-1.0, 1.0], size=(5, 9))
    X *= np.sign(X @ r.normal(size=9))[:, None]
    solution = l1_max_margin(X, np.ones(5))
    assert solution.residual < 1e-13
    end = q_max_margin(X, np.ones(5), mu=1e-200, depth=5)
    assert np.abs(end.beta).sum() == pytest.approx(np.abs(solution.beta).sum(), rel=1e-12)
