"""The state of the path at a scale mu when it is known which samples lie on the margin.

For the active samples A, with the multipliers of all others fixed, beta = mu h_D(w), w = X^T lambda must satisfy

    X_A beta = 1,        w - f in the row space of X_A     (f: the part of w that the fixed multipliers make).

With as many coordinates B (the basis) as there are active samples, chosen where h' is largest, and R the rest, this is
the tableau of the simplex method,

    beta_B + T beta_R = X_AB^(-1) 1,     w_R = T^T w_B + g,     T = X_AB^(-1) X_AR,     g = f_R - T^T f_B,

solved for w_B by Newton's method. No difference of large numbers occurs in it: near the poles of depth > 2 the basis
carries 1 - |w|, and lambda is computed at the end. With v = h'_B^(1/2) dw_B the Newton matrix is I + K K^T,
K = h'_B^(-1/2) T h'_R^(1/2), whose entries are of order 1 by the choice of the basis, whatever mu.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_solve, cholesky

from . import coordinates
from .active_set import Stuck
from .exact import exact_tableau, ExactTableau
from .reduced import Reduced

EPS = np.finfo(float).eps
CANCELS = 1e-9  # of differences relative to their terms: what is worth exact arithmetic
NEAR = 1e-6  # the same for 1 - |w|, of which beta is a high power,
GRADED = np.log(30.0)  # provided that the weights (mu h')^(1/2) span so much,
DEEP = 1e-3  # or that some 1 - |w| is below this


@dataclass(frozen=True, eq=False)
class Problem:
    """Reduced data, a depth, and targets scaled so that the solutions are of order 1."""

    data: Reduced
    targets: Float[np.ndarray, " n"]
    depth: int

    @cached_property
    def log_copies(self) -> Float[np.ndarray, " k"]:
        return np.log(self.data.copies)

    @cached_property
    def _exact(self) -> dict[tuple[bytes, bytes], ExactTableau]:
        return {}

    def exact(self, active: np.ndarray, B: np.ndarray, R: np.ndarray) -> ExactTableau:
        key = active.tobytes(), B.tobytes()
        if key not in self._exact:
            rows = self.data.rows[active]
            self._exact[key] = exact_tableau(rows[:, B], rows[:, R], self.targets[active])
        return self._exact[key]


@dataclass(frozen=True, eq=False)
class Place:
    """Some w = X^T lambda with its complement c = 1 - |w|."""

    w: Float[np.ndarray, " k"]
    c: Float[np.ndarray, " k"]

    def towards(self, other: "Place", part: float) -> "Place":
        w = self.w + part * (other.w - self.w)
        # c is linear too where the sign stays, and there it must not be read from a rounded w.
        stays = self.w * other.w > 0
        return Place(w, np.where(stays, self.c + part * (other.c - self.c), 1 - np.abs(w)))


class Basis:
    """The tableau of the active samples for one choice of the basis.

    Ties, such as w_i = w_j for all lambda, are usual for data of -1 and +1. Where a difference of terms is small enough
    to decide, it is had in exact arithmetic.
    """

    def __init__(self, problem: Problem, active: np.ndarray, shift: np.ndarray, log_weight: np.ndarray):
        rows, targets = problem.data.rows[active], problem.targets[active]
        self.B = _heaviest_basis(rows, log_weight)
        self.R = np.setdiff1d(np.arange(rows.shape[1]), self.B)
        self.exact = lambda: problem.exact(active, self.B, self.R)
        self.inverse = np.linalg.inv(rows[:, self.B])
        self.T, self.sums = self.inverse @ rows[:, self.R], self.inverse @ targets
        size = np.abs(self.inverse)
        self.terms = size @ np.abs(rows[:, self.R])
        if np.ptp(log_weight) > GRADED and (_cancels(self.T, self.terms) or _cancels(self.sums, size @ targets)):
            exact = self.exact()
            self.T, self.sums, self.inverse = map(exact.floats, (exact.T, exact.sums, exact.inverse))
        self.shift, self.g = shift, shift[self.R] - self.T.T @ shift[self.B]
        self.free = not np.any(shift)
        self.poles = problem.depth > 2
        self.stretch = problem.depth / max(problem.depth - 2, 1)  # d log beta / d log c
        self._corner: tuple[bytes, Corner] | None = None

    def scaled(self, log_weight: np.ndarray) -> np.ndarray:
        """K of the module's head."""
        return self.T * np.exp(np.minimum(log_weight[self.R] - log_weight[self.B][:, None], 300.0))

    def split(self, w: np.ndarray, c: np.ndarray) -> "tuple[Corner, np.ndarray]":
        """w_B as corner + rest: -1 or 1 and 1 - |w| near a pole of depth > 2, and 0 and w elsewhere."""
        near = self.poles & (np.abs(w) > 0.5)
        sign = np.sign(w)
        corner = np.where(near, sign, 0.0)
        deep = bool(np.any(near & (c < DEEP)))
        key = corner.tobytes() + bytes([deep])
        if self._corner is None or self._corner[0] != key:
            self._corner = key, Corner(self, corner, deep)
        return self._corner[1], np.where(near, -sign * c, w)

    def others(self, w: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """w_R and c_R from w_B and c_B."""
        corner, rest = self.split(w, c)
        move = self.T.T @ rest
        w = corner.w + move
        same = np.sign(corner.w) * np.sign(w) > 0
        return w, np.where(same, corner.gap - np.sign(corner.w) * move, 1 - np.abs(w))

    def multipliers(self, w: np.ndarray, c: np.ndarray) -> np.ndarray:
        """lambda_A from w_B and c_B."""
        corner, rest = self.split(w, c)
        return corner.multipliers + self.inverse.T @ rest

    def blur(self, place: Place, share: np.ndarray) -> float:
        """The error of b by that of 1 - |w| off the basis, with `share` the part of each coordinate in b."""
        corner, _ = self.split(place.w[self.B], place.c[self.B])
        relative = self.stretch * corner.noise / place.c[self.R]
        return float(np.max(relative * share[self.R], initial=0.0))


class Corner:
    """w_R, its 1 - |w_R| (`gap`), what rounding leaves of that (`noise`), and lambda_A, at w_B = corner."""

    def __init__(self, basis: Basis, corner: np.ndarray, deep: bool):
        base = basis.T.T @ corner
        self.w, self.gap = base + basis.g, 1 - np.abs(base + basis.g)
        self.noise = 4 * EPS * (basis.terms.T @ np.abs(corner) + np.abs(basis.g) + 1)
        left = corner - basis.shift[basis.B]
        self.multipliers = basis.inverse.T @ left
        if not (deep and basis.poles):
            return
        size = np.abs(basis.inverse).T @ (np.abs(corner) + np.abs(basis.shift[basis.B]))
        if basis.free:
            if _cancels(self.gap, self.noise / EPS, NEAR) or _cancels(self.multipliers, size):
                self.w, self.gap, self.multipliers = basis.exact().at_corner(corner)
                self.noise = 4 * EPS * np.abs(self.gap)
            return
        # Fixed multipliers are rounded themselves: what is 0 to rounding is a tie where they have no part in it.
        tie = (np.abs(self.gap) <= self.noise) & (np.abs(basis.g) <= self.noise)
        self.gap, self.noise = np.where(tie, 0.0, self.gap), np.where(tie, 0.0, self.noise)
        lost = np.abs(self.multipliers) <= 8 * EPS * len(corner) * size
        self.multipliers = np.where(lost, 0.0, self.multipliers)


def _cancels(values: np.ndarray, terms: np.ndarray, part: float = CANCELS) -> bool:
    return bool(np.any((np.abs(values) < part * terms) & (terms > 0)))


def _heaviest_basis(rows: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Independent columns, by QR with column pivoting of rows * e^log_weight. The weights span hundreds of decades:
    a column that depends on heavier ones must be told by its own size, or its rounding outweighs the light ones."""
    rest = rows.copy()
    size = np.linalg.norm(rows, axis=0)
    chosen = []
    for _ in range(len(rows)):
        left = np.linalg.norm(rest, axis=0)
        left[chosen] = 0.0
        eligible = left > 1e-11 * size
        if not np.any(eligible):
            raise Stuck
        column = int(np.argmax(np.where(eligible, np.log(np.where(eligible, left, 1.0)) + log_weight, -np.inf)))
        chosen.append(column)
        direction = rest[:, column] / left[column]
        rest -= np.outer(direction, direction @ rest)
    return np.array(chosen)


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
