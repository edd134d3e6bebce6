"""What the max-margin problems return."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

TIED = 1e-9  # what counts as zero, relatively, when degeneracy is asked for


@dataclass(frozen=True, eq=False)
class MaxMargin:
    """The solution of a max-margin problem. All arrays have a leading axis (S,) if S scales mu were asked for.

    - `beta` (d,): the solution, with min_n y_n x_n . beta = 1 up to the rounding of that sum.
    - `multipliers` (N,): lambda >= 0 of the margins; equal samples share theirs equally.
    - `residual`: the largest violation of the optimality conditions, relative to the sums that it is made of, or the
      error of beta left by the solver, whichever is larger. What float64 cannot resolve shows here.
    - `degenerate`: a sample lies on the margin with multiplier 0, or the solution is not unique, both up to 1e-9, so
      that statements about generic data (rates, continuity) need not hold.

    !!! example

        ```python
        >>> import gflow, numpy as np
        >>> X, y = np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([1.0, 1.0])
        >>> margin = gflow.limits.l2_max_margin(X, y)
        >>> (X @ margin.beta).round(9).tolist(), margin.degenerate
        ([1.0, 1.0], False)

        ```
    """

    beta: Float[np.ndarray, "*S d"]
    multipliers: Float[np.ndarray, "*S N"]
    residual: Float[np.ndarray, " S"] | float
    degenerate: Bool[np.ndarray, " S"] | bool


@dataclass(frozen=True, eq=False)
class L1MaxMargin(MaxMargin):
    """The l1 solution; in addition

    - `rho` (d,): |X^T lambda|, which is 1 on the support and at most 1 elsewhere.

    !!! example

        ```python
        >>> import gflow, numpy as np
        >>> X, y = np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([1.0, 1.0])
        >>> margin = gflow.limits.l1_max_margin(X, y)
        >>> margin.rho.round(9).tolist(), margin.rho_max  # both coordinates are in the support
        ([1.0, 1.0], 0.0)

        ```
    """

    rho: Float[np.ndarray, " d"]

    @property
    def rho_max(self) -> float:
        """The largest rho off the support (0 without such coordinates). For generic data the excess of l1 norm of the
        depth-2 path is of order mu^(1 - rho_max) as mu -> 0."""
        return float(np.max(self.rho, where=self.beta == 0, initial=0.0))


@dataclass(frozen=True, eq=False)
class IrreversiblePath(MaxMargin):
    """Points of the irreversible path; in addition

    - `mu` (S,): the scales.
    - `left` (S, N): which samples had left the margin at least once on the way from mu = infinity. Where none had, the
      multipliers of the Q_mu path are monotone up to there, and the two paths are the same.
    - `error`: an estimate of the relative error of beta.

    !!! example

        ```python
        >>> import gflow, numpy as np
        >>> X, y = np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([1.0, 1.0])
        >>> path = gflow.limits.irreversible_path(X, y, mus=[100.0, 1.0], depth=2)
        >>> path.beta.shape, bool(path.left.any())  # nobody left: the Q_mu path
        ((2, 2), False)

        ```
    """

    mu: Float[np.ndarray, "*S"]
    left: Bool[np.ndarray, "*S N"]
    error: Float[np.ndarray, " S"] | float


def margin_violation(
    rows: Float[np.ndarray, "N d"], beta: Float[np.ndarray, " d"], on_margin: Bool[np.ndarray, " N"]
) -> float:
    """By how much margins are below 1, or differ from 1 where they should not, relative to the terms of their sums."""
    error = (rows @ beta - 1) / (np.abs(rows) @ np.abs(beta) + 1)
    return float(np.max(np.where(on_margin, np.abs(error), -error), initial=0.0))


def relative_to_terms(error: np.ndarray, terms: np.ndarray) -> float:
    return float(np.max(np.abs(error) / np.where(terms > 0, terms, 1.0)))
