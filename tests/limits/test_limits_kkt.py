"""The residual of the l_(2/D) conditions, and the excesses."""

import numpy as np
import pytest
from certificates import sep
from hypothesis import given, settings, strategies as st

from gflow.limits import (
    excess_l1,
    excess_l2,
    irreversible_path,
    kkt_residual,
    l1_max_margin,
    l2_max_margin,
    q_max_margin,
)

SETS = [sep(33), sep(7), sep(5, 8, 6), sep(1, 10, 30)]


@pytest.mark.parametrize("X", SETS)
def test_l1_solution(X):
    y = np.ones(len(X))
    l1 = l1_max_margin(X, y).beta
    assert kkt_residual(l1, X, y, depth=2) < 1e-12
    # The path comes near as beta off the support vanishes, the square root of which is u.
    path = q_max_margin(X, y, mu=[1e-2, 1e-20, 1e-200], depth=2).beta
    residual = kkt_residual(path, X, y, depth=2)
    assert residual.shape == (3,) and np.all(np.diff(residual) < 0) and residual[2] < 1e-4


@pytest.mark.parametrize("X", SETS)
def test_l2_solution_is_not_stationary(X):
    y = np.ones(len(X))
    for depth in (2, 3, 5):
        assert kkt_residual(l2_max_margin(X, y).beta, X, y, depth=depth) > 0.01


@pytest.mark.parametrize("depth", [3, 4])
def test_sparse_points_are_stationary_beyond_depth_2(depth):
    """One sample, support i: u = D lambda u^(D-1) x_i has a solution. For depth 2 only the largest x_i is one."""
    X, y = [[3.0, 4.0]], [1]
    for beta in ([1.0, 0.0], [0.0, 1.0]):
        assert kkt_residual(beta, X, y, depth=depth) < 1e-15
    assert kkt_residual([0.0, 1.0], X, y, depth=2) < 1e-15
    assert kkt_residual([1.0, 0.0], X, y, depth=2) == pytest.approx(1 / 3)  # 4/3 - 1, the slope at beta_2 = 0
    # Stationary with two coordinates: u_i^(D-2) in proportion to 1 / x_i.
    u = np.array([1 / 3, 1 / 4]) ** (1 / (depth - 2))
    assert kkt_residual(u**depth, X, y, depth=depth) < 1e-15


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("seed", [33, 7, 37])
def test_end_of_irreversible_path(seed, depth):
    X, y = sep(seed), np.ones(4)
    path = irreversible_path(X, y, mus=[1e-2, 1e-6, 1e-200], depth=depth)
    residual = kkt_residual(path.beta, X, y, depth=depth)
    assert residual[0] > residual[1] > residual[2] and residual[2] < 1e-10


def test_samples_off_the_margin():
    """A multiplier off the margin is paid for: the point (1, 1) of margins 1 and 3 needs the second sample."""
    X, y = np.array([[1.0, 0.0], [0.0, 3.0]]), np.ones(2)
    kappa = np.linspace(0, 0.3, 3001)  # of the second sample; U = 2, and the first sample settles u_1
    expected = np.sqrt((1 - 2 * 3 * kappa) ** 2 / 2 + (2 * kappa) ** 2).min()
    assert kkt_residual([1.0, 1.0], X, y, depth=3) == pytest.approx(expected, abs=1e-6)


def test_not_separating_is_infinite():
    X, y = sep(33), np.ones(4)
    beta = np.stack([l1_max_margin(X, y).beta, -X[0], np.zeros(6)])
    assert kkt_residual(beta, X, y, depth=3)[1:].tolist() == [np.inf, np.inf]
    assert kkt_residual(beta[0], X, y, depth=3).shape == ()


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 6]), st.floats(-9, 9), st.floats(-9, 9))
@settings(max_examples=20)
def test_has_no_units(seed, depth, length, units):
    r = np.random.default_rng(seed)
    X, y = sep(seed), r.choice([-1.0, 1.0], size=4)
    beta = l2_max_margin(X, np.ones(4)).beta * r.uniform(0.999, 1.001, size=6)
    one = kkt_residual(beta, X, np.ones(4), depth=depth)
    assert 0 < one < 1.5
    other = kkt_residual(10.0**length * beta, 10.0**units * y[:, None] * X, y, depth=depth)
    assert other == pytest.approx(float(one), rel=1e-9)


def test_excess():
    X, y = sep(33), np.ones(4)
    l1, l2 = l1_max_margin(X, y), l2_max_margin(X, y)
    assert excess_l1(l1.beta, l1) == excess_l2(l2.beta, l2) == 0.0
    assert excess_l1(l2.beta, l1) > 0 and excess_l2(l1.beta, l2) > 0
    batch = np.stack([l1.beta, 2 * l1.beta])[None]
    np.testing.assert_allclose(excess_l1(batch, l1), [[0.0, 1.0]], atol=1e-15)
    assert excess_l2([[3.0, 4.0]], l2_max_margin([[1.0, 0.0]], [1])) == pytest.approx([4.0])


@pytest.mark.parametrize("function", [excess_l1, excess_l2])
def test_excess_bad_input(function):
    right, wrong = l1_max_margin(sep(33), np.ones(4)), l2_max_margin(sep(33), np.ones(4))
    if function is excess_l2:
        right, wrong = wrong, right
    solution = right
    with pytest.raises(ValueError, match=r"^solution must be what l[12]_max_margin returned, not (L1)?MaxMargin\.$"):
        function(np.zeros(6), wrong)
    with pytest.raises(ValueError) as error:
        function(np.zeros((3, 5)), solution)
    assert str(error.value) == "direction must have shape (..., 6) like the beta of solution, not (3, 5)."
    with pytest.raises(ValueError) as error:
        function(np.zeros(6), solution.beta)
    name = "l1" if function is excess_l1 else "l2"
    assert str(error.value) == f"solution must be what {name}_max_margin returned, not ndarray."


def test_kkt_bad_input():
    with pytest.raises(ValueError) as error:
        kkt_residual(np.zeros(5), sep(33), np.ones(4), depth=2)
    assert str(error.value) == "beta must have shape (..., 6) for these data, not (5,)."
    with pytest.raises(ValueError) as error:
        kkt_residual(np.full(6, np.nan), sep(33), np.ones(4), depth=2)
    assert str(error.value) == "beta must be finite, but it holds NaN or infinite values; drop those points."
