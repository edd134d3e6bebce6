"""Separability and its certificates."""

import numpy as np
import pytest
from certificates import sep
from hypothesis import given, strategies as st

from gflow.limits import separation


def verify(X, y, answer):
    """The certificate proves the answer, whatever `residual` says."""
    rows = y[:, None] * X
    if answer.separable:
        assert np.all(rows @ answer.beta >= 1 - 1e-12 * (np.abs(rows) @ np.abs(answer.beta) + 1))
        assert not answer.multipliers.any()
    else:
        assert np.all(answer.multipliers >= 0) and answer.multipliers.sum() == pytest.approx(1, rel=1e-12)
        terms = np.abs(rows).T @ answer.multipliers
        assert np.all(np.abs(rows.T @ answer.multipliers) <= 1e-12 * terms)
        assert not answer.beta.any()
    assert 0 <= answer.residual < 1e-12


def test_by_hand():
    answer = separation([[1.0, 0.0], [0.0, 1.0]], [1, -1])
    assert answer.separable
    verify(np.eye(2), np.array([1, -1]), answer)
    # x and 2 x on opposite sides: 2/3 x - 1/3 (2 x) = 0.
    answer = separation([[1.0], [2.0]], [1, -1])
    assert not answer.separable
    np.testing.assert_allclose(answer.multipliers, [2 / 3, 1 / 3], rtol=1e-15)


def test_zero_sample_is_the_certificate():
    X = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    answer = separation(X, np.ones(3))
    assert not answer.separable and answer.residual == 0.0
    assert answer.multipliers.tolist() == [0.0, 1.0, 0.0]


def test_boundary_is_not_separable():
    X = np.array([[1.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    answer = separation(X, np.ones(3))
    assert not answer.separable
    verify(X, np.ones(3), answer)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12])
def test_thin_margin(gap):
    X = np.array([[1.0, 1.0], [-1.0, gap - 1.0]])
    answer = separation(X, np.ones(2))
    assert answer.separable
    verify(X, np.ones(2), answer)


@pytest.mark.parametrize(("N", "d"), [(1, 1), (4, 6), (30, 3), (60, 30), (569, 30)])
def test_random_sets(N, d):
    X = sep(0, N, d)
    answer = separation(X, np.ones(N))
    assert answer.separable
    verify(X, np.ones(N), answer)
    if N > 2 * d:
        y = np.random.default_rng(1).choice([-1.0, 1.0], size=N)
        answer = separation(X, y)
        assert not answer.separable  # by Cover's theorem, but for luck
        verify(X, y, answer)


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 20))
def test_invariant_under_scaling(seed, row_decades, column_decades):
    r = np.random.default_rng(seed)
    N, d = r.integers(1, 12), r.integers(1, 6)
    X, y = r.normal(size=(N, d)), r.choice([-1.0, 1.0], size=N)
    scaled = X * 10.0 ** r.uniform(-row_decades, row_decades, size=(N, 1))
    scaled = scaled * 10.0 ** r.uniform(-column_decades, column_decades, size=d)
    answer = separation(scaled, y)
    assert answer.separable == separation(X, y).separable
    verify(scaled, y, answer)
