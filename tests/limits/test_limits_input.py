"""What bad input gets: one sentence."""

from functools import partial

import numpy as np
import pytest

from gflow.limits import (
    irreversible_path,
    kkt_residual,
    l1_max_margin,
    l2_max_margin,
    q_max_margin,
    separation,
)

X, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 1.0])
RANGE = (
    "must be positive, between 1e-300 and 1e300, but it holds {}; "
    "mu = 0 is l1_max_margin and mu = inf is l2_max_margin."
)
SOLVERS = [
    l1_max_margin,
    l2_max_margin,
    partial(q_max_margin, mu=1.0, depth=2),
    partial(irreversible_path, mus=[1.0], depth=2),
]
TAKE_DATA = [*SOLVERS, separation, lambda X, y: kkt_residual([1.0, 1.0], X, y, depth=2)]
TAKE_DEPTH = [
    lambda depth: q_max_margin(X, y, mu=1.0, depth=depth),
    lambda depth: irreversible_path(X, y, mus=[1.0], depth=depth),
    lambda depth: kkt_residual([1.0, 1.0], X, y, depth=depth),
]


def sentence(function, *args, **kwargs):
    with pytest.raises(ValueError) as error:
        function(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("function", TAKE_DATA)
@pytest.mark.parametrize(
    ("bad_X", "bad_y", "message"),
    [
        (X[0], y, "X must have shape (N, d) and y shape (N,) with the same N, not (2,) and (2,)."),
        (X, y[:, None], "X must have shape (N, d) and y shape (N,) with the same N, not (2, 2) and (2, 1)."),
        (X, y[:1], "X must have shape (N, d) and y shape (N,) with the same N, not (2, 2) and (1,)."),
        (X[:0], y[:0], "X must hold at least one sample and one feature, not shape (0, 2)."),
        (X[:, :0], y, "X must hold at least one sample and one feature, not shape (2, 0)."),
        (X * [np.nan, 1], y, "X must be finite, but it holds NaN or infinite values; remove or impute them."),
        (X + np.inf, y, "X must be finite, but it holds NaN or infinite values; remove or impute them."),
        (X, [1.0, 0.0], "y must hold labels -1 and +1, but it holds 0; map your classes to -1 and +1."),
        (X, [np.nan, 1.0], "y must hold labels -1 and +1, but it holds nan; map your classes to -1 and +1."),
        (X, ["a", "b"], "y must be an array of real numbers, not list."),
        (X * 1j, y, "X must be an array of real numbers, not ndarray."),
    ],
)
def test_data(function, bad_X, bad_y, message):
    assert sentence(function, bad_X, bad_y) == message


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("bad_X", [[[1.0], [-1.0]], [[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [-2.0, -2.0]]])
def test_not_separable(solve, bad_X):
    assert sentence(solve, bad_X, y) == (
        "X and y must be separable by some beta, but no beta has all margins positive (gflow.limits.separation "
        "returns the proof); add features or an intercept, or drop conflicting samples."
    )


@pytest.mark.parametrize("function", TAKE_DEPTH)
@pytest.mark.parametrize("depth", [1, 0, -3, 2.0, 2.5, True, None, "2"])
def test_depth(function, depth):
    assert sentence(function, depth) == (
        f"depth must be an integer >= 2, not {depth!r}; a linear model (depth 1) has no such path."
    )


@pytest.mark.parametrize(
    ("name", "solve"),
    [
        ("mu", lambda mu: q_max_margin(X, y, mu=mu, depth=2)),
        ("mus", lambda mu: irreversible_path(X, y, mus=mu, depth=2)),
    ],
)
@pytest.mark.parametrize(
    ("mu", "message"),
    [
        (0.0, RANGE.format(0)),
        ([1.0, -2.0], RANGE.format(-2)),
        (np.nan, RANGE.format("nan")),
        (1e301, RANGE.format("1e+301")),
        ([], "must not be empty; pass at least one scale mu > 0."),
        ([[1.0]], "must be a number or an array of shape (S,), not of shape (1, 1)."),
        ("1", "must be an array of real numbers, not str."),
    ],
)
def test_mu(name, solve, mu, message):
    assert sentence(solve, mu) == f"{name} {message}"


def test_lists_and_integers_are_welcome():
    assert l2_max_margin([[3, 4]], [1]).beta == pytest.approx([0.12, 0.16])
    assert q_max_margin(np.float32([[3, 4]]), np.array([True]), mu=[1], depth=np.int64(3)).beta.shape == (1, 2)
