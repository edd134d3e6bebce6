"""The l2 max-margin solution, where all paths start at mu = infinity."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve

from .active_set import minimise, relative_margins, Stuck
from .checks import check_data
from .reduced import reduce, Reduced
from .result import margin_violation, MaxMargin, relative_to_terms, TIED
from .separability import separate
from .tableau import Basis, Problem


def l2_max_margin(X: ArrayLike, y: ArrayLike) -> MaxMargin:
    """The beta of least ||beta||_2 with all margins y_n x_n . beta >= 1.

    **Arguments:**

    - `X` (N, d): the samples. There is no intercept; add a column of ones for one.
    - `y` (N,): their labels, -1 or +1.

    **Returns:** a `MaxMargin` with beta = sum_n lambda_n y_n x_n.

    **Raises:** ValueError for wrong shapes, labels or values, and for data that no beta separates; RuntimeError if the
    data are too close to degenerate for float64.

    Source: least distance programming, Lawson & Hanson 1974, chapter 23.

    !!! example

        ```python
        >>> from gflow.limits import l2_max_margin
        >>> l2_max_margin([[3.0, 4.0]], [1]).beta  # x / |x|^2
        array([0.12, 0.16])

        ```
    """
    rows = check_data(X, y)
    data = separable(rows)
    solved, weights = solve_l2(data)
    beta, multipliers = data.beta(solved.b), data.multipliers(weights)
    stationarity = relative_to_terms(beta - rows.T @ multipliers, np.abs(rows).T @ multipliers)
    residual = max(margin_violation(rows, beta, multipliers > 0), stationarity)
    return MaxMargin(beta, multipliers, residual, is_degenerate(data, data.targets, solved.b, weights))


def separable(rows: Float[np.ndarray, "N d"]) -> Reduced:
    if not separate(rows).separable:
        raise ValueError(
            "X and y must be separable by some beta, but no beta has all margins positive (gflow.limits.separation "
            "returns the proof); add features or an intercept, or drop conflicting samples."
        )
    return reduce(rows)


@dataclass(frozen=True, eq=False)
class Solved:
    active: Int[np.ndarray, " m"]
    multipliers: Float[np.ndarray, " m"]
    b: Float[np.ndarray, " k"]


def solve_l2(data: Reduced) -> tuple[Solved, Float[np.ndarray, " n"]]:
    """The active samples with their multipliers, and all multipliers."""
    problem, root = Problem(data, data.targets, 2), np.sqrt(data.copies)

    def solve(active: np.ndarray) -> Solved:
        if not len(active):
            return Solved(active, np.zeros(0), np.zeros(len(root)))
        # The tableau at h' = 1, which features of very different size do not make ill-conditioned.
        basis = Basis(problem, active, np.zeros(len(root)), np.log(root))
        B, R = basis.B, basis.R
        K = basis.scaled(np.log(root))
        w = cho_solve(cho_factor(np.eye(len(B)) + K @ K.T), basis.sums / root[B]) / root[B]
        b = np.empty(len(root))
        b[R] = data.copies[R] * (basis.T.T @ w)
        b[B] = basis.sums - basis.T @ b[R]
        return Solved(active, basis.inverse.T @ w, b)

    nobody = np.zeros(0, dtype=int)
    try:
        return minimise(data, data.targets, nobody, np.zeros(len(data.targets)), solve, lambda solved, part: None)
    except Stuck:
        raise RuntimeError(
            "The l2 max-margin problem could not be solved in float64, where some samples on the margin depend on each "
            "other but for rounding; drop near-duplicates, or rescale the features."
        ) from None


def is_degenerate(data: Reduced, targets: np.ndarray, b: np.ndarray, weights: np.ndarray) -> bool:
    """Whether some sample is on the margin with multiplier 0, nearly."""
    margins = relative_margins(data, targets, b)
    return bool(np.any((margins < TIED) & (weights < TIED * weights.max())))
