"""What the max-margin problems return."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class MaxMargin:
    """The solution of a max-margin problem; all arrays have a leading axis (S,) if S scales mu were asked for.

    - `beta` (d,): the solution, with min_n y_n x_n . beta = 1.
    - `multipliers` (N,): lambda >= 0 of the margins; equal samples share theirs equally.
    - `residual`: the largest violation of the optimality conditions, relative to the sums that it is made of, and
      the size of the last correction of beta if that is larger. What float64 cannot resolve shows here.
    - `degenerate`: a sample lies on the margin without a multiplier, or the solution is not unique, so that statements
      about generic data (rates, continuity in the data) need not hold.
    """

    beta: Float[np.ndarray, "*S d"]
    multipliers: Float[np.ndarray, "*S N"]
    residual: Float[np.ndarray, "*S"]
    degenerate: Bool[np.ndarray, "*S"]


@dataclass(frozen=True, eq=False)
class L1MaxMargin(MaxMargin):
    """The l1 solution. In addition

    - `rho` (d,): |X^T lambda|, 1 on the support and at most 1 elsewhere.
    """

    rho: Float[np.ndarray, " d"]

    @property
    def rho_max(self) -> float:
        """The largest rho off the support: for generic data the excess of the depth-2 path is of order
        mu^(1 - rho_max) as mu -> 0."""
        return float(np.max(self.rho, where=self.beta == 0, initial=0.0))


@dataclass(frozen=True, eq=False)
class IrreversiblePath(MaxMargin):
    """Points of the irreversible path. In addition

    - `mu` (S,): the scales.
    - `left` (S, N): samples that left the margin, with their multipliers kept, between mu = inf and here. Where none
      did, the multipliers of the Q_mu path are monotone and the two paths are equal.
    - `error`: an estimate of the relative error of beta.
    """

    mu: Float[np.ndarray, "*S"]
    left: Bool[np.ndarray, "*S N"]
    error: Float[np.ndarray, "*S"]
