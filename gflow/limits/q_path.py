"""The Q_mu max-margin problem, which the flow may solve in the limit alpha -> infinity, alpha^D / gamma -> mu:

    min over beta of  sum_i q_D(beta_i / mu)   such that   y_n x_n . beta >= 1

(Moroshko et al. 2020, arXiv 2007.06738). It is solved in its dual, smooth and convex in N variables,

    min over lambda >= 0 of  sum_i q_D*((X^T lambda)_i) - sum_n lambda_n / mu,    beta = mu h_D(X^T lambda),

following the solution from large mu, where it is the l2 max-margin solution, to smaller mu.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from . import coordinates
from .active_set import minimise, Stuck
from .checks import check_data, check_depth, check_mu
from .l2 import is_degenerate, separable, solve_l2
from .potentials import h_inverse
from .reduced import Reduced
from .result import margin_violation, MaxMargin, relative_to_terms
from .state import solve, State
from .tableau import Place, Problem

LINEAR = np.log(1e-10)  # of |w|, where h is linear up to rounding: the next term is of order w^3


@dataclass(frozen=True, eq=False)
class Start:
    """The l2 end of the paths, for targets divided by `unit`, which makes b of order 1."""

    problem: Problem
    unit: float
    active: Int[np.ndarray, " m"]
    multipliers: Float[np.ndarray, " n"]  # of the l2 problem
    log_top: float  # log of the mu from which on upwards the path is at the l2 solution, up to rounding

    def at(self, log_mu: float) -> tuple[Float[np.ndarray, " n"], Place]:
        """Multipliers of the path at large mu, and their w: those of the l2 solution up to a factor."""
        weights = self.multipliers * np.exp(-log_mu - _log_h1(self.problem.depth))
        w = self.problem.data.rows.T @ weights
        return weights, Place(w, 1 - np.abs(w))

    def beyond(self, log_mu: float, mu: float) -> float:
        """The factor of the multipliers from this log mu, at most `log_top`, to a larger mu."""
        return float(np.exp(log_mu)) * self.unit / mu if log_mu == self.log_top else 1.0


def start(data: Reduced, depth: int) -> Start:
    solved, multipliers = solve_l2(data)
    unit = float(np.ldexp(1.0, np.frexp(np.abs(solved.b).max())[1]))
    size = np.abs(data.rows.T @ multipliers).max() / unit
    log_top = float(np.log(size)) - _log_h1(depth) - LINEAR
    return Start(Problem(data, data.targets / unit, depth), unit, solved.active, multipliers / unit, log_top)


def _log_h1(depth: int) -> float:
    return float(coordinates.log_slope(np.zeros(1), depth)[0])


class Follower:
    """The solution of the Q_mu problem, moved from one mu to the next smaller one."""

    def __init__(self, first: Start, log_mu: float):
        self.problem, self.active, self.log_mu = first.problem, first.active, log_mu
        self.multipliers, self.place = first.at(log_mu)
        self.state: State | None = None
        self.stride = 1.0

    def move(self, log_mu: float) -> State:
        if self.state is None:
            self.state = self._solve(self.log_mu)
        while self.log_mu > log_mu:
            goal = max(log_mu, self.log_mu - self.stride)
            try:
                self.state, self.log_mu = self._solve(goal), goal
                self.stride *= 2
            except Stuck:
                self.stride = (self.log_mu - goal) / 4
                if self.stride < 1e-6:
                    raise
        return self.state

    def _solve(self, log_mu: float) -> State:
        guess = None if self.state is None else self.state.ahead(log_mu)
        place = self.place

        def solve_on(active: np.ndarray) -> State:
            nonlocal guess
            state = solve(self.problem, active, log_mu, place, guess=guess)
            guess = None
            return state

        def moved(state: State, part: float) -> None:
            nonlocal place
            place = place.towards(state.place, part)

        data, targets = self.problem.data, self.problem.targets
        state, self.multipliers = minimise(data, targets, self.active, self.multipliers, solve_on, moved)
        self.active, self.place = state.active, state.place
        return state


def q_max_margin(X: ArrayLike, y: ArrayLike, *, mu: ArrayLike, depth: int) -> MaxMargin:
    """The beta of least sum_i q_D(beta_i / mu) with all margins y_n x_n . beta >= 1.

    **Arguments:**

    - `X` (N, d): the samples. There is no intercept; add a column of ones for one.
    - `y` (N,): their labels, -1 or +1.
    - `mu`: one scale, or an array (S,) in any order, between 1e-300 and 1e300. It has the units of beta.
    - `depth`: D >= 2.

    **Returns:** a `MaxMargin` with beta = mu h_D(X^T lambda) for the rows y_n x_n, and a leading axis (S,) if `mu` has
    one. For depth > 2 and small mu, beta cannot be had from these multipliers in float64, because h_D has a pole at 1;
    it is computed without this loss. Ties in the data (w_i = w_j for w = X^T lambda) are told from near-ties in exact
    arithmetic for up to 40 samples on the margin; beyond, `residual` shows what is not known.

    **Raises:** ValueError for wrong shapes, labels or values, and for data that no beta separates; RuntimeError if the
    path cannot be followed to this mu.

    Source: Moroshko et al. 2020, arXiv 2007.06738; the potentials are those of Woodworth et al. 2020, arXiv 2002.09277.
    Its multipliers can decrease as mu falls. The flow does not follow then, see `irreversible_path`.

    !!! example

        ```python
        >>> from gflow.limits import q_max_margin
        >>> q_max_margin([[3.0, 4.0]], [1], mu=[1e3, 1e-1, 1e-3, 1e-6], depth=4).beta.round(4)  # from l2 to l1
        array([[0.12  , 0.16  ],
               [0.1121, 0.1659],
               [0.0109, 0.2418],
               [0.    , 0.25  ]])

        ```
    """
    rows, mus, depth = check_data(X, y), check_mu("mu", mu), check_depth(depth)
    data = separable(rows)
    first = start(data, depth)
    flat: Any = mus.reshape(-1)
    logs = np.log(flat) - np.log(first.unit)
    goals = np.minimum(logs, first.log_top)
    follower = Follower(first, min(first.log_top, max(goals.max(), np.log(10.0))))
    beta, multipliers = np.zeros((len(logs), rows.shape[1])), np.zeros((len(logs), len(rows)))
    residual, degenerate = np.zeros(len(logs)), np.zeros(len(logs), dtype=bool)
    for i in np.argsort(-logs, kind="stable"):
        try:
            state = follower.move(goals[i])
        except Stuck:
            raise RuntimeError(
                f"q_max_margin could not follow the path below mu = {np.exp(follower.log_mu) * first.unit:.3g}, where "
                "the data are too close to degenerate for float64; ask for mu above that, or rescale the features."
            ) from None
        beta[i] = data.beta(state.in_units(first.unit))
        multipliers[i] = data.multipliers(follower.multipliers) * first.beyond(goals[i], flat[i])
        on_margin = multipliers[i] > 0
        residual[i] = max(
            state.error, q_violation(rows, beta[i], multipliers[i], on_margin, flat[i], depth)
        )
        degenerate[i] = is_degenerate(data, first.problem.targets, state.b, follower.multipliers)
    shape = mus.shape
    return MaxMargin(
        beta.reshape(*shape, -1),
        multipliers.reshape(*shape, -1),
        residual.reshape(shape)[()],
        degenerate.reshape(shape)[()],
    )


def q_violation(
    rows: np.ndarray, beta: np.ndarray, multipliers: np.ndarray, on_margin: np.ndarray, mu: float, depth: int
) -> float:
    """Violations of the margins and of h_D^(-1)(beta / mu) = X^T lambda, relative to the terms of the sums."""
    with np.errstate(over="ignore"):
        s = beta / mu
    far = np.sign(beta) * (np.log(np.abs(beta) + np.finfo(float).tiny) - np.log(mu) if depth == 2 else 1.0)
    w = np.where(np.isfinite(s), h_inverse(np.where(np.isfinite(s), s, 0.0), depth), far)
    stationarity = w - rows.T @ multipliers
    return max(
        margin_violation(rows, beta, on_margin), relative_to_terms(stationarity, np.abs(rows).T @ multipliers)
    )
