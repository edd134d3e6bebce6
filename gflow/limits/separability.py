"""Whether some beta separates the data, with the proof of the answer.

By Gordan's theorem exactly one of these has a solution, for rows x_n with the labels absorbed:

    X beta >= 1,        or        X^T lambda = 0,  lambda >= 0,  sum_n lambda_n = 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import linprog, nnls

from .checks import check_data


@dataclass(frozen=True, eq=False)
class Separation:
    """The answer of `separation` with its certificate.

    - `separable`: whether some beta has all margins positive.
    - `beta` (d,): if separable, a beta with all margins >= 1; zeros otherwise.
    - `multipliers` (N,): if not separable, lambda >= 0 with sum 1 and X^T lambda = 0; zeros otherwise.
    - `residual`: the largest violation of the certificate, relative to the sums that it is made of.

    !!! example

        ```python
        >>> import gflow, numpy as np
        >>> X, y = np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([1.0, 1.0])
        >>> answer = gflow.limits.separation(X, -y)
        >>> answer.separable, bool(np.all(-y * (X @ answer.beta) >= 1 - 1e-9))
        (True, True)

        ```
    """

    separable: bool
    beta: Float[np.ndarray, " d"]
    multipliers: Float[np.ndarray, " N"]
    residual: float


def separation(X: ArrayLike, y: ArrayLike) -> Separation:
    """Decide whether some beta has y_n x_n . beta > 0 for all n, and prove it.

    **Arguments:**

    - `X` (N, d): the samples. There is no intercept; add a column of ones for one.
    - `y` (N,): their labels, -1 or +1.

    **Returns:** a `Separation`. Data whose best angle to the boundary is below about 1e-13 count as not separable.

    **Raises:** ValueError for wrong shapes, labels or values.

    Source: Gordan's theorem; the search is by non-negative least squares (Lawson & Hanson 1974, chapter 23) and, where
    that fails, by the linear programs of HiGHS.

    !!! example

        ```python
        >>> from gflow.limits import separation
        >>> separation([[2.0, 0.0], [1.0, 3.0]], [1, -1]).separable
        True
        >>> separation([[1.0], [2.0]], [1, -1]).multipliers
        array([0.66666667, 0.33333333])

        ```
    """
    return separate(check_data(X, y))


def separate(rows: Float[np.ndarray, "N d"]) -> Separation:
    scaled, row_scale, column_scale = _equilibrate(rows)
    # The point of the convex hull nearest to 0: its direction separates, or it is 0 and its weights are Gordan's.
    weights, nearest = _hull(scaled)
    candidates = [nearest]
    if not _separates(scaled, nearest):
        best = _largest_margin(scaled)
        candidates += [best] if best is not None else []
    for beta in candidates:
        if _separates(scaled, beta):
            beta = beta / column_scale
            margins = np.einsum("nd,d->n", rows * row_scale[:, None], beta) / row_scale
            beta = beta / margins.min()
            missed = (1 - rows @ beta) / (np.abs(rows) @ np.abs(beta))
            return Separation(True, beta, np.zeros(len(rows)), max(0.0, float(missed.max())))
    support = np.flatnonzero(weights > 0)
    polished = np.linalg.svd(scaled[support].T)[2][-1]
    polished = polished if polished.sum() > 0 else -polished
    options = [weights]
    if np.all(polished >= 0):
        options.append(np.zeros(len(rows)))
        options[-1][support] = polished / polished.sum()
    residuals = [_gordan_residual(scaled, option) for option in options]
    multipliers = options[int(np.argmin(residuals))] * row_scale
    return Separation(False, np.zeros(rows.shape[1]), multipliers / multipliers.sum(), min(residuals))


def _equilibrate(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Powers of 2 that bring the largest entry of each row and column near 1; the entries keep their bits."""
    scaled, row_scale, column_scale = rows, np.ones(len(rows)), np.ones(rows.shape[1])
    for _ in range(3):
        up = power_of_two(np.abs(scaled).max(axis=1))
        scaled, row_scale = scaled / up[:, None], row_scale / up
        up = power_of_two(np.abs(scaled).max(axis=0))
        scaled, column_scale = scaled / up, column_scale * up
    return scaled, row_scale, column_scale


def power_of_two(size: np.ndarray) -> np.ndarray:
    """The power of 2 nearest above `size`; 1 for 0."""
    return np.where(size > 0, np.ldexp(1.0, np.frexp(size)[1]), 1.0)


def _hull(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    system = np.vstack([scaled.T, np.ones(len(scaled))])
    try:
        weights, _ = nnls(system, np.append(np.zeros(scaled.shape[1]), 1.0), maxiter=50 * max(system.shape))
    except RuntimeError:
        weights = np.full(len(scaled), 1 / len(scaled))
    return weights / weights.sum(), scaled.T @ weights


def _largest_margin(scaled: np.ndarray) -> np.ndarray | None:
    """max t such that X beta >= t, |beta_i| <= 1."""
    n, d = scaled.shape
    answer = linprog(
        np.append(np.zeros(d), -1.0),
        A_ub=np.hstack([-scaled, np.ones((n, 1))]),
        b_ub=np.zeros(n),
        bounds=[(-1, 1)] * d + [(0, None)],
    )
    return answer.x[:d] if answer.x is not None else None


def _separates(scaled: np.ndarray, beta: np.ndarray) -> bool:
    rounding = 4e-16 * (scaled.shape[1] + 1) * (np.abs(scaled) @ np.abs(beta))
    return bool(np.all(scaled @ beta > rounding))


def _gordan_residual(scaled: np.ndarray, weights: np.ndarray) -> float:
    terms = np.abs(scaled).T @ weights
    return float(np.max(np.abs(scaled.T @ weights) / np.where(terms > 0, terms, 1.0)))
