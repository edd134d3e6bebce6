"""The irreversible path: the limit alpha -> infinity, alpha^D / gamma -> mu of the flow of diagonal networks.

Along the flow beta = alpha^D h_D(w), with w in proportion to X^T nu, where nu_n, the integral over time of the weight
of sample n, never decreases. A sample that leaves the margin keeps its nu_n, and from then on beta differs from the
solution of the Q_mu problem, in which the multiplier would return to 0. The limit is the incremental minimisation of

    sum_i q_D*((X^T lambda)_i) - sum_n lambda_n / mu   over   lambda >= its past values,   as mu falls from infinity.

In terms of theta = 1 / mu and the margins m_n = y_n x_n . beta, beta = mu h_D(X^T lambda), it is the problem

    d lambda_n / d theta >= 0,    m_n >= 1,    (m_n - 1) d lambda_n / d theta = 0.

Between events the samples on the margin stay the same, and the state depends on mu and on the multipliers of the other
samples only. It is solved for and not integrated, so that errors do not add up. Events are rates d lambda_n / d theta
that come to 0 (a sample leaves) and margins that come to 1 (a sample joins); they are found between the steps of a grid
that does not depend on the scales asked for. Where no sample leaves, this is the Q_mu path.

Source: derived from the dual form of the flow (Woodworth et al. 2020, arXiv 2002.09277; Moroshko et al. 2020, arXiv
2007.06738), and compared with the flow at large alpha.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from .active_set import relative_margins, Stuck
from .checks import check_data, check_depth, check_mu
from .l2 import separable
from .q_path import q_violation, Start, start
from .result import IrreversiblePath, TIED
from .state import solve, State

ZERO = 1e-10  # what counts as 0: of rates relative to their sum,
SHARPER = 1e3  # and of margins - 1 relative to their terms, divided by this
FLAT = 1e-9  # of the derivatives of both in log mu
STRIDE = 2.0  # longest step in log mu: a rate or a margin then changes sign once at most


class Walker:
    """Walks down the path from mu = infinity, a step or up to an event at a time."""

    def __init__(self, first: Start):
        self.problem = first.problem
        weights, place = first.at(first.log_top)
        self.frozen = np.zeros_like(weights)  # multipliers off the margin
        self.left = np.zeros(len(weights), dtype=bool)
        self.state = solve(self.problem, first.active, first.log_top, place)
        self.stride = 0.5
        self.events = 0

    def at(self, log_mu: float, near: State) -> State:
        """The state at another mu, with the samples on the margin of `near`."""
        return solve(
            self.problem, near.active, log_mu, near.place, shift=near.basis.shift, guess=near.ahead(log_mu)
        )

    def step(self) -> State:
        """Move on. Returns the lower end of the piece of path whose upper end `state` was."""
        old = self.state
        new, missed = self._try(old)
        while new is None or missed > 0.1:
            self.stride /= 2
            if self.stride < 1e-7:
                raise Stuck
            new, missed = self._try(old)
        if missed < 0.02:
            self.stride = min(1.5 * self.stride, STRIDE)
        new, event = self._up_to_event(old, new)
        self.state = new if event is None else self._pass(new, event)
        return new

    def _try(self, old: State) -> tuple[State | None, float]:
        """A step and the error of its prediction, which says how smooth the path is here."""
        try:
            new = self.at(old.log_mu - self.stride, old)
        except Stuck:
            return None, np.inf
        return new, float(np.max(np.abs(old.ahead(new.log_mu) - new.y)))

    def _up_to_event(self, old: State, new: State) -> tuple[State, int | None]:
        """The first event between two states, if any, or a part of the way that has none."""
        event = None
        for _ in range(100):
            values, falling, first = self._signs(old, new)
            if not np.any(first < np.inf):
                return new, event
            sample = int(np.argmin(first))
            if values[1][sample] >= -ZERO:
                # The interpolant dips below 0 in between: whether the function does is seen there.
                new, event = self.at(old.log_mu + first[sample] * (new.log_mu - old.log_mu), old), None
            elif values[0][sample] <= ZERO and (falling[sample] or first[sample] < 1e-4):
                return old, sample
            elif values[0][sample] <= ZERO:
                # It left 0 upwards before it came back: look at the way up first.
                new, event = self.at(old.log_mu + first[sample] / 2 * (new.log_mu - old.log_mu), old), None
            else:
                target = lambda log_mu, n=sample: _signals(self.at(log_mu, old))[0][n]
                root: Any = brentq(target, new.log_mu, old.log_mu, xtol=1e-14)
                new, event = self.at(float(root), old), sample
        raise Stuck

    def _signs(self, old: State, new: State) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        """Of what must not become negative: the values at both ends, whether it falls at the first, and where between
        0 and 1 it first is."""
        (f0, d0), (f1, d1) = _signals(old), _signals(new)
        length = new.log_mu - old.log_mu
        t = np.linspace(0, 1, 33)[:, None]
        cubic = (
            (1 + 2 * t) * (1 - t) ** 2 * f0
            + t * (1 - t) ** 2 * d0 * length
            + t**2 * (3 - 2 * t) * f1
            + t**2 * (t - 1) * d1 * length
        )
        below = cubic < -ZERO
        below[0], below[-1] = False, f1 < -ZERO
        first = np.where(below.any(axis=0), t[below.argmax(axis=0), 0], np.inf)
        # An interpolant that comes much nearer to 0 than its ends is not trusted with the sign there.
        lowest = cubic.argmin(axis=0)
        close = (np.minimum(f0, f1) > ZERO) & (cubic.min(axis=0) < np.minimum(f0, f1) / 2) & (abs(length) > 0.02)
        return (f0, f1), d0 > FLAT, np.where(close & (first == np.inf), t[lowest, 0], first)

    def _pass(self, state: State, sample: int) -> State:
        """Let a sample leave or join the margin, and find which others leave with it.

        The rates of the multipliers minimise a convex quadratic function over rates >= 0, found as in `active_set`.
        """
        self.events += 1
        if self.events > 100 + 20 * len(self.frozen):
            raise Stuck
        before, active = state.active, state.active
        weights = self.frozen.copy()
        weights[before] = state.multipliers
        rates = np.zeros_like(weights)
        rates[before] = np.maximum(-state.tangent.multipliers, 0.0)
        active = active[active != sample] if sample in active else np.sort(np.append(active, sample))
        for _ in range(2 * len(weights) + 2):
            frozen = weights.copy()
            frozen[active] = 0.0
            shift = self.problem.data.rows.T @ frozen
            state = solve(self.problem, active, state.log_mu, state.place, shift=shift)
            signals, slopes = _signals(state)
            here, there = rates[active], -state.tangent.multipliers
            if signals[active].min() < -ZERO:
                reach = np.where(there < 0, here / np.where(there < 0, here - there, 1.0), np.inf)
                part = reach.min()
                rates[active] = np.where(reach <= part, 0.0, here + part * (there - here))
                active = active[reach > part]
                continue
            rates[active] = there
            falling = np.where(np.abs(signals) <= ZERO, -slopes, 0.0)
            falling[active] = 0.0
            if falling.min() >= -FLAT:
                self.frozen = frozen
                self.left[np.setdiff1d(before, active)] = True
                return state
            active = np.sort(np.append(active, np.argmin(falling)))
        raise Stuck


def _signals(state: State) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What must not become negative, with derivatives in log mu: for samples on the margin their share in the rate of
    the multipliers, for the others m_n - 1."""
    problem, tangent = state.problem, state.tangent
    data, targets = problem.data, problem.targets
    value = SHARPER * relative_margins(data, targets, state.b)
    slope = SHARPER * (data.rows @ tangent.b) / (np.abs(data.rows) @ np.abs(state.b) + targets)
    rate, change = -tangent.multipliers, -tangent.multipliers2
    total, turn = np.abs(rate).sum(), (np.sign(rate) * change).sum()
    value[state.active] = rate / total
    slope[state.active] = (change - rate * turn / total) / total
    return value, slope


def irreversible_path(X: ArrayLike, y: ArrayLike, *, mus: ArrayLike, depth: int) -> IrreversiblePath:
    """The limit of beta / gamma for alpha -> infinity at alpha^D / gamma = mu, with its history.

    **Arguments:**

    - `X` (N, d): the samples. There is no intercept; add a column of ones for one.
    - `y` (N,): their labels, -1 or +1.
    - `mus`: an array (S,) of scales in any order, or one scale, between 1e-300 and 1e300.
    - `depth`: D >= 2.

    **Returns:** an `IrreversiblePath` in the order of `mus`, with beta = mu h_D(X^T lambda) for the rows y_n x_n. The
    result at one scale does not depend on the others that are asked for.

    **Raises:** ValueError for wrong shapes, labels or values, and for data that no beta separates; RuntimeError if the
    path cannot be followed to these scales.

    Source: the head of this module.

    !!! example

        ```python
        >>> from gflow.limits import irreversible_path, q_max_margin
        >>> X, y = [[4.0, -2.0], [3.0, 4.0]], [1, 1]
        >>> path = irreversible_path(X, y, mus=[1.0, 1e-2, 1e-4], depth=3)
        >>> path.left[:, 0]  # the first sample is gone at the second scale: no longer the path of Q_mu
        array([False,  True,  True])
        >>> path.beta.round(3)
        array([[0.273, 0.045],
               [0.276, 0.043],
               [0.325, 0.006]])
        >>> q_max_margin(X, y, mu=[1.0, 1e-2, 1e-4], depth=3).beta.round(3)
        array([[0.273, 0.045],
               [0.273, 0.045],
               [0.273, 0.045]])

        ```
    """
    rows, scales, depth = check_data(X, y), check_mu("mus", mus), check_depth(depth)
    data = separable(rows)
    first = start(data, depth)
    flat: Any = scales.reshape(-1)
    logs = np.log(flat) - np.log(first.unit)
    goals = np.minimum(logs, first.log_top)
    S, N = len(logs), len(rows)
    beta, multipliers, left = np.zeros((S, rows.shape[1])), np.zeros((S, N)), np.zeros((S, N), dtype=bool)
    residual, error, degenerate = np.zeros(S), np.zeros(S), np.zeros(S, dtype=bool)
    todo = np.argsort(-logs, kind="stable").tolist()
    walker = None
    try:
        walker = Walker(first)
        while todo:
            upper, frozen, gone = walker.state, walker.frozen, walker.left.copy()
            lower = walker.step()
            while todo and goals[todo[0]] >= lower.log_mu:
                i = todo.pop(0)
                state = walker.at(goals[i], upper)
                weights = frozen.copy()
                weights[state.active] = state.multipliers
                beta[i] = data.beta(state.in_units(first.unit))
                multipliers[i] = data.multipliers(weights) * first.beyond(goals[i], flat[i])
                left[i] = data.samples(gone)
                on_margin = data.samples(np.isin(np.arange(len(weights)), state.active))
                violation = q_violation(rows, beta[i], multipliers[i], on_margin, flat[i], depth)
                signals = _signals(state)[0]
                error[i] = state.error
                residual[i] = max(violation, state.error, -float(signals[state.active].min()))
                degenerate[i] = np.sum(signals < TIED) > 0
    except Stuck:
        reached = np.inf if walker is None else np.exp(walker.state.log_mu) * first.unit
        raise RuntimeError(
            f"irreversible_path could not follow the path below mu = {reached:.3g}, where the data are too close to "
            "degenerate for float64; ask for scales above that."
        ) from None
    shape = scales.shape
    return IrreversiblePath(
        beta.reshape(*shape, -1),
        multipliers.reshape(*shape, -1),
        residual.reshape(shape)[()],
        degenerate.reshape(shape)[()],
        scales,
        left.reshape(*shape, -1),
        error.reshape(shape)[()],
    )
