"""The Q_mu max-margin problem, to which the flow with alpha -> infinity, alpha^D / gamma -> mu may converge:

    min over beta of  sum_i q_D(beta_i / mu)   such that   y_n x_n . beta >= 1,

(Moroshko et al. 2020, arXiv 2007.06738). It is solved in its dual, smooth and convex in N variables,

    min over lambda >= 0 of  sum_i q_D*((X^T lambda)_i) - sum_n lambda_n / mu,    beta = mu h_D(X^T lambda),

following the solution from mu = infinity, where it is the l2 max-margin solution, towards smaller mu.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from . import coordinates
from .active_set import Stuck, minimise
from .checks import check_data, check_depth, check_mu
from .l2 import separable, solve_l2
from .reduced import Reduced
from .result import MaxMargin
from .tableau import Place, Problem, State, solve

FAR = np.log(1e-10)  # log |w| from which on h is linear to rounding


@dataclass(frozen=True, eq=False)
class Start:
    """The l2 end of the paths. Solutions are `unit` times those of `problem`, at scales mu / unit."""

    problem: Problem
    unit: float
    active: np.ndarray
    multipliers: np.ndarray  # of the l2 problem
    b: np.ndarray
    log_top: float  # log of the scale above which the paths are at the l2 solution, to rounding

    def at(self, log_mu: float) -> tuple[np.ndarray, Place]:
        """Multipliers and place of the l2 solution, which is close for large mu."""
        log_h1 = coordinates.log_slope(np.zeros(1), self.problem.depth)[0]
        shrink = np.exp(-log_mu - log_h1)
        w = self.problem.data.rows.T @ self.multipliers * shrink
        return self.multipliers * shrink, Place(w, 1 - np.abs(w))


def start(data: Reduced, depth: int) -> Start:
    solved, multipliers = solve_l2(data)
    unit = float(np.ldexp(1.0, np.frexp(np.abs(solved.b).max())[1]))
    problem = Problem(data, data.targets / unit, depth)
    log_h1 = coordinates.log_slope(np.zeros(1), depth)[0]
    w = np.abs(data.rows.T @ multipliers).max() / unit
    return Start(problem, unit, solved.active, multipliers / unit, solved.b / unit, float(np.log(w) - log_h1 - FAR))


class Follower:
    """The solution of the Q_mu problem, moved from one mu to the next smaller one."""

    def __init__(self, first: Start):
        self.problem = first.problem
        self.first = first
        self.log_mu = np.inf
        self.state: State | None = None
        self.stride = 1.0
        self.rounds = 0

    def move(self, log_mu: float) -> tuple[State, np.ndarray]:
        if self.state is None:
            near = min(self.first.log_top, FAR * -0.1)
            self.multipliers, self.place = self.first.at(max(near, log_mu))
            self.active = self.first.active
            self._try(max(near, log_mu))
        while self.log_mu > log_mu:
            goal = max(log_mu, self.log_mu - self.stride)
            try:
                self._try(goal)
                self.stride *= 2
            except Stuck:
                self.stride = (self.log_mu - goal) / 4
                if self.stride < 1e-6:
                    raise
        assert self.state is not None
        return self.state, self.multipliers

    def _try(self, log_mu: float) -> None:
        place, guess = self.place, None
        if self.state is not None:
            step, tangent = log_mu - self.log_mu, self.state.tangent
            guess = self.state.y + step * tangent.y + step**2 / 2 * tangent.y2
            if not np.all(np.abs(step**2 * tangent.y2) < 1.0):
                guess = self.state.y + step * tangent.y

        def solve_on(active: np.ndarray) -> State:
            nonlocal guess
            state = solve(self.problem, active, log_mu, place, guess=guess)
            guess = None
            self.rounds += 1
            return state

        def step_back(state: State, part: float) -> None:
            nonlocal place
            place = place.towards(state.place, part) if part < 1 else state.place

        problem = self.problem
        state, multipliers = minimise(
            problem.data, problem.targets, self.active, self.multipliers, solve_on, step_back
        )
        self.state, self.multipliers, self.place = state, multipliers, place
        self.active, self.log_mu = state.active, log_mu


def q_max_margin(X: ArrayLike, y: ArrayLike, *, mu: ArrayLike, depth: int) -> MaxMargin:
    rows, mus, depth = check_data(X, y), check_mu("mu", mu), check_depth(depth)
    data = separable(rows)
    first = start(data, depth)
    follower = Follower(first)
    logs = np.log(np.atleast_1d(mus)) - np.log(first.unit)
    S = len(logs)
    beta, mult = np.zeros((S, rows.shape[1])), np.zeros((S, rows.shape[0]))
    res = np.zeros(S)
    for i in np.argsort(-logs, kind="stable"):
        goal = min(logs[i], first.log_top)
        state, weights = follower.move(goal)
        beta[i] = data.beta(state.b * first.unit)
        mult[i] = data.multipliers(weights) * np.exp(goal - logs[i])
        res[i] = state.correction
    follower_rounds.append(follower.rounds)
    return MaxMargin(beta, mult, res, np.zeros(S, bool))
follower_rounds = []
