"""The l1 max-margin solution, the end of the Q_mu path at mu = 0, with what tells how slowly the path gets there.

    min ||beta||_1 such that y_n x_n . beta >= 1;    dual: max sum_n lambda_n such that |X^T lambda| <= 1, lambda >= 0.

For generic data the solution is a vertex, and along the Q_mu path a coordinate off the support vanishes like
mu^(1 - rho_i) for depth 2, with rho_i = |X^T lambda|_i < 1, and like mu for depth > 2.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from .active_set import Stuck
from .checks import check_data
from .l2 import separable
from .q_path import Follower, Start, start
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
    first = start(data, 6)
    targets = first.problem.targets
    b, weights = _polish(data.rows, targets, *_linear_program(data.rows, targets))
    if _residual(data.rows, targets, b, weights) > 1e-12:
        # Rows of very different size make the tolerances of the linear program coarse. The Q_mu path has none.
        ends = [(b, weights), *_end_of_path(first)]
        b, weights = min(ends, key=lambda pair: _residual(data.rows, targets, *pair))
    beta, multipliers = data.beta(b * first.unit) + 0.0, data.multipliers(weights)
    counts = {int(np.sum(mask)) for mask in _vertex(data.rows, targets, b, weights)}
    degenerate = len(counts) > 1 or bool(np.any(data.copies[b != 0] > 1))
    residual = _residual(rows, np.ones(len(rows)), beta, multipliers)
    return L1MaxMargin(beta, multipliers, residual, degenerate, np.abs(rows.T @ multipliers))


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
    support, steep, tight, used = _vertex(rows, targets, b, weights)
    slope = rows.T @ weights
    sign = np.where(support, np.sign(b), np.sign(slope))
    primal, dual = np.zeros_like(b), np.zeros_like(weights)
    primal[support] = np.linalg.lstsq(rows[np.ix_(tight, support)], targets[tight], rcond=None)[0]
    dual[used] = np.linalg.lstsq(rows[np.ix_(used, steep)].T, sign[steep], rcond=None)[0]
    return min(
        [(primal, dual), (primal, weights), (b, dual), (b, weights)], key=lambda pair: _residual(rows, targets, *pair)
    )


def _vertex(rows: np.ndarray, targets: np.ndarray, b: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coordinates with b_i != 0 and with |X^T lambda|_i = 1, samples on the margin and with lambda_n > 0; of a vertex
    that is not degenerate, all of one number."""
    support = np.abs(b) > SHARP * np.abs(b).max()
    steep = support | (np.abs(rows.T @ weights) > 1 - SHARP)
    used = weights > SHARP * weights.max()
    tight = used | (rows @ b - targets <= SHARP * (np.abs(rows) @ np.abs(b) + targets))
    return support, steep, tight, used


def _end_of_path(first: Start) -> list[tuple[np.ndarray, np.ndarray]]:
    follower = Follower(first, first.log_top)
    try:
        state = follower.move(np.log(1e-290))
    except Stuck:
        return []
    return [(np.where(np.abs(state.b) > 1e-100 * np.abs(state.b).max(), state.b, 0.0), follower.multipliers)]


def _residual(rows: np.ndarray, targets: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Violations of the margins, of lambda >= 0, of |X^T lambda| <= 1, and the duality gap."""
    margins, slope = rows @ b - targets, rows.T @ weights
    return float(
        max(
            0.0,
            np.max(-margins / (np.abs(rows) @ np.abs(b) + targets)),
            np.max(-weights) / np.max(np.abs(weights)),
            np.max((np.abs(slope) - 1) / (np.abs(rows).T @ np.abs(weights) + 1)),
            abs(np.abs(b).sum() - targets @ weights) / np.abs(b).sum(),
        )
    )
