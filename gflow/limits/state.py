"""The state of the path at a scale mu when it is known which samples lie on the margin.

For the active samples A, with the multipliers of all others fixed, beta = mu h_D(w), w = X^T lambda must satisfy

    X_A beta = 1,        w - f in the row space of X_A     (f: the part of w that the fixed multipliers make).

In the form of `tableau`, with the basis B where h' is largest, this is solved for w_B by Newton's method. Near the
poles of depth > 2 the basis carries 1 - |w|, and lambda is computed at the end, so that no digits are lost in
differences of numbers near 1. With v = (mu h'_B)^(1/2) dw_B the Newton matrix is I + K K^T, where the entries of
K = h'_B^(-1/2) T h'_R^(1/2) are of order 1 by the choice of the basis, whatever mu.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_solve, cholesky

from . import coordinates
from .active_set import Stuck
from .tableau import Basis, Place, Problem


@dataclass(frozen=True, eq=False)
class State:
    """A solution for fixed active samples at one mu."""

    problem: Problem
    active: Int[np.ndarray, " m"]
    basis: Basis
    log_mu: float
    place: Place
    y: Float[np.ndarray, " k"]
    b: Float[np.ndarray, " k"]
    log_weight: Float[np.ndarray, " k"]  # log (mu h')^(1/2)
    factor: Float[np.ndarray, "m m"]  # Cholesky factor of I + K K^T
    correction: float  # of b by the last Newton step, relative to the largest coordinate

    @property
    def multipliers(self) -> Float[np.ndarray, " m"]:
        return self.basis.multipliers(self.place.w[self.basis.B], self.place.c[self.basis.B])

    def in_units(self, unit: float) -> Float[np.ndarray, " k"]:
        """unit * b, where b itself may be too small for float64."""
        log_b = self.log_mu + self.problem.log_copies + coordinates.log_s(self.y, self.problem.depth)
        return np.where(log_b > -500.0, unit * self.b, np.sign(self.y) * np.exp(log_b + np.log(unit)))

    @cached_property
    def tangent(self) -> "Tangent":
        return Tangent(self)

    @cached_property
    def error(self) -> float:
        """An estimate of the relative error of b: the last correction, and rounding of the tableau where a small
        1 - |w_i| off the basis is a difference of terms of order 1."""
        if not self.basis.poles:
            return self.correction
        return max(self.correction, self.basis.blur(self.place, np.abs(self.b) / np.abs(self.b).max()))

    def ahead(self, log_mu: float) -> Float[np.ndarray, " k"]:
        """y expected at another mu."""
        step = log_mu - self.log_mu
        bent = step**2 / 2 * self.tangent.y2
        return self.y + step * self.tangent.y + np.where(np.abs(bent) < 1.0, bent, 0.0)


class Tangent:
    """Derivatives in log mu at constant active samples: of y, b and the multipliers, and the second ones."""

    def __init__(self, state: State):
        basis, depth, y = state.basis, state.problem.depth, state.y
        B, R, T = basis.B, basis.R, basis.T
        root = np.exp(state.log_weight)
        stretch = np.exp(coordinates.log_stretch(y, depth) - state.log_weight)
        solve = lambda r: -cho_solve((state.factor, True), r / root[B])
        v = np.empty_like(y)  # (mu h')^(1/2) dw
        v[B] = solve(basis.sums)
        v[R] = root[R] * (T.T @ (v[B] / root[B]))
        self.b = np.empty_like(y)
        self.b[R] = state.b[R] + root[R] * v[R]
        self.b[B] = -T @ self.b[R]
        self.y = stretch * v
        self.multipliers = basis.inverse.T @ (v[B] / root[B])
        bent = root * v * (1 + coordinates.bend(y, depth) * self.y)
        u = np.empty_like(y)
        u[B] = solve(bent[B] + T @ bent[R])
        u[R] = root[R] * (T.T @ (u[B] / root[B]))
        self.y2 = stretch * u + (0.0 if depth == 2 else 2 * np.tanh(y) * self.y**2)
        self.multipliers2 = basis.inverse.T @ (u[B] / root[B])


def solve(
    problem: Problem,
    active: Int[np.ndarray, " m"],
    log_mu: float,
    start: Place,
    *,
    shift: Float[np.ndarray, " k"] | None = None,
    guess: Float[np.ndarray, " k"] | None = None,
) -> State:
    """Newton's method from `guess`, or if that fails from `start`, which must be w of some multipliers.

    With steps limited to a change of log h' by log(1 + change) it converges from any start, as for every convex
    function whose third derivative is bounded by the second (Sun & Tran-Dinh 2019, arXiv 1703.04599, theorem 2).
    """
    shift = np.zeros(len(start.w)) if shift is None else shift
    if guess is not None:
        try:
            return _newton(problem, active, log_mu, guess, shift, 12)
        except (Stuck, np.linalg.LinAlgError):
            pass
    try:
        return _newton(problem, active, log_mu, coordinates.from_w(start.w, start.c, problem.depth), shift, 200)
    except np.linalg.LinAlgError:
        raise Stuck from None


def _newton(
    problem: Problem, active: np.ndarray, log_mu: float, y: np.ndarray, shift: np.ndarray, rounds: int
) -> State:
    depth, log_mus = problem.depth, log_mu + problem.log_copies
    weights = lambda y: (log_mus + coordinates.log_slope(y, depth)) / 2
    if not np.all(np.isfinite(y)):
        raise Stuck
    basis = Basis(problem, active, shift, weights(y))
    y = _complete(basis, y, depth)
    previous = np.inf
    for _ in range(rounds):
        log_weight = weights(y)
        K = basis.scaled(log_weight)
        if np.abs(K).max(initial=0.0) > 1e3:
            basis = Basis(problem, active, shift, log_weight)
            y = _complete(basis, y, depth)
            log_weight = weights(y)
            K = basis.scaled(log_weight)
        size = log_mus + coordinates.log_s(y, depth)
        if size.max() > 300.0:
            raise Stuck
        B, R, T = basis.B, basis.R, basis.T
        b = np.sign(y) * np.exp(size)
        error = b[B] + T @ b[R] - basis.sums
        factor = cholesky(np.eye(len(B)) + K @ K.T, lower=True)
        root = np.exp(log_weight)
        v = np.empty_like(y)
        v[B] = -cho_solve((factor, True), error / root[B])
        v[R] = root[R] * (T.T @ (v[B] / root[B]))
        dy = v * np.exp(coordinates.log_stretch(y, depth) - log_weight)
        bent = float(np.max(np.abs(dy * coordinates.bend(y, depth))))
        correction = float(np.max(np.abs(root * v)) / np.max(np.abs(b)))
        change = max(bent, correction)
        if change < 1e-13 or (change < 1e-7 and change > 0.3 * previous):
            # w is as exact as it can be; beta_B is had from it with the rounding of log beta, and here without.
            b[B] = np.where(np.abs(error) < 1e-6 * np.abs(b[B]), b[B] - error, b[B])
            place = Place(*coordinates.to_w(y, depth))
            return State(problem, active, basis, log_mu, place, y, b, log_weight, factor, correction)
        previous = change
        y = _move(basis, y, dy, np.log1p(bent) / bent if bent > 1e-3 else 1.0, depth)
    raise Stuck


def _move(basis: Basis, y: np.ndarray, dy: np.ndarray, part: float, depth: int) -> np.ndarray:
    for _ in range(60):
        try:
            return _complete(basis, y + part * dy, depth)
        except Stuck:
            part /= 2
    raise Stuck


def _complete(basis: Basis, y: np.ndarray, depth: int) -> np.ndarray:
    """y_R from y_B."""
    w, c = coordinates.to_w(y[basis.B], depth)
    w, c = basis.others(w, c)
    if depth > 2 and not np.all(c > 0):
        raise Stuck
    y = y.copy()
    y[basis.R] = coordinates.from_w(w, c, depth)
    return y
