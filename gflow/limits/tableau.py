"""The tableau of the samples on the margin: what is linear in the problem of a fixed active set.

For active samples A and as many coordinates B (the basis), with R the rest,

    beta_B + T beta_R = X_AB^(-1) 1,     w_R = T^T w_B + g,     T = X_AB^(-1) X_AR,     g = f_R - T^T f_B,

as in the simplex method, where f is the part of w = X^T lambda that fixed multipliers of other samples make.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from .active_set import Stuck
from .exact import exact_tableau, ExactTableau
from .reduced import Reduced

EPS = np.finfo(float).eps
CANCELS = 1e-9  # of differences relative to their terms: what is worth exact arithmetic
NEAR = 1e-6  # the same for 1 - |w|, of which beta is a high power,
GRADED = np.log(30.0)  # provided that the weights (mu h')^(1/2) span so much,
DEEP = 1e-3  # or that some 1 - |w| is below this,
LARGEST = 40  # and that there are no more samples on the margin: its cost is of the fourth power of their number


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
            if len(active) <= LARGEST:
                exact = self.exact()
                self.T, self.sums, self.inverse = map(exact.floats, (exact.T, exact.sums, exact.inverse))
            else:
                self.T, self.sums = _without_noise(self.T, self.terms), _without_noise(self.sums, size @ targets)
        self.shift, self.g = shift, shift[self.R] - self.T.T @ shift[self.B]
        self.free = not np.any(shift)
        self.poles = problem.depth > 2
        self.stretch = problem.depth / max(problem.depth - 2, 1)  # d log beta / d log c
        self._corner: tuple[bytes, Corner] | None = None

    def scaled(self, log_weight: np.ndarray) -> np.ndarray:
        """T with columns times, and rows divided by, e^log_weight."""
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
        if basis.free and len(corner) <= LARGEST:
            if _cancels(self.gap, self.noise / EPS, NEAR) or _cancels(self.multipliers, size):
                self.w, self.gap, self.multipliers = basis.exact().at_corner(corner)
                self.noise = 4 * EPS * np.abs(self.gap)
            return
        # What is 0 to rounding is taken for a tie; no doubt is left where fixed multipliers have no part in it.
        tie = np.abs(self.gap) <= self.noise
        self.gap = np.where(tie, 0.0, self.gap)
        if not basis.free:
            self.noise = np.where(tie & (np.abs(basis.g) <= self.noise), 0.0, self.noise)
        self.multipliers = _without_noise(self.multipliers, size)


def _cancels(values: np.ndarray, terms: np.ndarray, part: float = CANCELS) -> bool:
    return bool(np.any((np.abs(values) < part * terms) & (terms > 0)))


def _without_noise(values: np.ndarray, terms: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) <= 200 * EPS * terms, 0.0, values)


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
