"""The l1 max-margin solution, the end of the Q_mu path at mu = 0, with what tells how slowly the path gets there.

    min ||beta||_1 such that y_n x_n . beta >= 1;    dual: max sum_n lambda_n such that |X^T lambda| <= 1, lambda >= 0.

For generic data the solution is a vertex, and along the Q_mu path a coordinate off the support vanishes like
mu^(1 - rho_i) for depth 2, with rho_i = |X^T lambda|_i < 1, and like mu for depth > 2.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from .checks import check_data
from .l2 import separable, solve_l2
from .reduced import Reduced
from .result import L1MaxMargin

SHARP = 1e-7  # the tolerance of HiGHS, relative to a solution and rows of order 1


def l1_max_margin(X: ArrayLike, y: ArrayLike) -> L1MaxMargin:
    """The beta of least ||beta||_1 with all margins y_n x_n . beta >= 1.

    **Arguments:**

    - `X` (N, d): the samples. There is no intercept; add a column of ones for one.
    - `y` (N,): their labels, -1 or +1.

    **Returns:** an `L1MaxMargin`. Where the solution is not unique it is one of them, flagged `degenerate`; so are
    solutions with more samples on the margin than coordinates in the support, whose multipliers are not unique.

    **Raises:** ValueError for wrong shapes, labels or values, and for data that no beta separates.

    Source: linear programming by HiGHS (Huangfu & Hall 2018), with the vertex solved for again to full precision.

    !!! example

        ```python
        >>> from gflow.limits import l1_max_margin
        >>> solution = l1_max_margin([[3.0, 4.0]], [1])
        >>> solution.beta, solution.rho
        (array([0.  , 0.25]), array([0.75, 1.  ]))

        ```
    """
    rows = check_data(X, y)
    data = separable(rows)
    # In units of the l2 solution, b is of order 1 and so are the sums of the multipliers.
    unit = float(np.abs(solve_l2(data)[0].b).max())
    targets = data.targets / unit
    b, weights = _linear_program(data.rows, targets)
    b, weights = _polish(data.rows, targets, b, weights)
    slope = data.rows.T @ weights
    support, used = b != 0, weights > SHARP * weights.max()
    tight = _tight(data.rows, targets, b)
    steep = np.abs(slope) >= 1 - SHARP
    degenerate = not (support.sum() == used.sum() == tight.sum() == steep.sum()) or bool(np.any(data.copies[support] > 1))
    beta, multipliers = data.beta(b * unit), data.multipliers(weights)
    beta = beta / (rows @ beta).min()
    return L1MaxMargin(
        beta, multipliers, np.array(_residual(rows, np.ones(len(rows)), beta, multipliers)), np.array(degenerate), np.abs(rows.T @ multipliers)
    )


def _linear_program(rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = rows.shape[1]
    answer = linprog(np.ones(2 * k), A_ub=np.hstack([-rows, rows]), b_ub=-targets, bounds=(0, None), method="highs-ds")
    if answer.x is None:
        raise RuntimeError(f"HiGHS could not solve the l1 max-margin problem: {answer.message}")
    return answer.x[:k] - answer.x[k:], np.maximum(-answer.ineqlin.marginals, 0.0)


def _polish(
    rows: np.ndarray, targets: np.ndarray, b: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve again for the vertex of the samples and coordinates that the linear program found."""
    support = np.abs(b) > SHARP * np.abs(b).max()
    tight, used = _tight(rows, targets, b), weights > SHARP * weights.max()
    slope = rows.T @ weights
    steep = support | (np.abs(slope) > 1 - SHARP)
    sign = np.where(support, np.sign(b), np.sign(slope))
    primal, dual = np.zeros_like(b), np.zeros_like(weights)
    primal[support] = np.linalg.lstsq(rows[np.ix_(tight, support)], targets[tight], rcond=None)[0]
    dual[used] = np.linalg.lstsq(rows[np.ix_(used, steep)].T, sign[steep], rcond=None)[0]
    return min(
        [(primal, dual), (primal, weights), (b, dual), (b, weights)], key=lambda pair: _residual(rows, targets, *pair)
    )


def _tight(rows: np.ndarray, targets: np.ndarray, b: np.ndarray) -> np.ndarray:
    return rows @ b - targets <= SHARP * (np.abs(rows) @ np.abs(b) + targets)


def _residual(rows: np.ndarray, targets: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Violations of the margins, of lambda >= 0, of |X^T lambda| <= 1, and the duality gap."""
    margins, slope = rows @ b - targets, rows.T @ weights
    return float(
        max(
            np.max(-margins / (np.abs(rows) @ np.abs(b) + targets)),
            np.max(-weights) / np.max(np.abs(weights)),
            np.max((np.abs(slope) - 1) / (np.abs(rows).T @ np.abs(weights) + 1)),
            abs(np.abs(b).sum() - targets @ weights) / np.abs(b).sum(),
            0.0,
        )
    )
