"""Diagonal networks in their dual variables.

With z = integral of c dt, c_n = -dL/df_n, and x = X^T z the flow of beta = u_+^D - u_-^D from u_+ = u_- = alpha is
explicit:

    D = 2:  beta = 2 alpha^2 sinh(4 x),
    D > 2:  u_+-^(2-D) = alpha^(2-D) -+ D (D-2) x,      d beta / d x = D^2 (u_+^(2D-2) + u_-^(2D-2)).

For D > 2 a growing coordinate tends to a pole of beta(x). The distances to both poles, u_+-^(2-D), are carried beside
x and moved by the same increments, so that they keep their own relative accuracy and no digits go to the approach.

Source: Moroshko et al. 2020 (arXiv 2007.06738).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from flint import arb, arb_mat, fmpq

from .exact import logs


@dataclass(frozen=True, eq=False)
class Place:
    """x and, for D > 2, the distances u_+^(2-D), u_-^(2-D) to the poles; one entry per coordinate."""

    x: list[arb]
    plus: list[arb]
    minus: list[arb]


class DualNetwork:
    """beta(x) and its derivative at the working precision of the moment.

    **Arguments:** rows of data `X` (labels absorbed), `depth`, one scale per coordinate.
    """

    def __init__(self, X: list[list[fmpq]], depth: int, scales: list[fmpq]):
        self.exact, self.depth, self.scales = X, depth, scales
        self.samples, self.inputs = len(X), len(X[0])
        self.floats = np.array([[float(arb(v)) for v in row] for row in X])
        self.bits = 0

    def refresh(self, bits: int) -> None:
        """Round the constants to the working precision (call after changing it)."""
        if bits == self.bits:
            return
        self.bits = bits
        depth = self.depth
        self.X = arb_mat([[arb(v) for v in row] for row in self.exact])
        self.XT = self.X.transpose()
        self.squares = [arb(a * a) for a in self.scales]
        self.rest = [arb(a ** (2 - depth)) for a in self.scales]
        self.pull = depth * (depth - 2)

    def start(self) -> Place:
        zeros = [arb(0)] * self.inputs
        if self.depth == 2:
            return Place(zeros, [], [])
        return Place(zeros, list(self.rest), list(self.rest))

    def move(self, place: Place, dx: list[arb]) -> Place:
        x = [(a + b).mid() for a, b in zip(place.x, dx, strict=True)]
        if self.depth == 2:
            return Place(x, [], [])
        plus = [(a - self.pull * b).mid() for a, b in zip(place.plus, dx, strict=True)]
        minus = [(a + self.pull * b).mid() for a, b in zip(place.minus, dx, strict=True)]
        return Place(x, plus, minus)

    def beta(self, place: Place, dx: list[arb] | None = None) -> list[arb] | None:
        """beta at x + dx, for a flat list of increments, d per point (at x itself without); None beyond a pole."""
        if self.depth == 2:
            four = arb(4)
            points = zip(self._tile(place.x, dx), self._tile([2 * v for v in self.squares], dx), strict=True)
            if dx is None:
                return [c * (four * x).sinh() for x, c in points]
            return [c * (four * (x + step)).sinh() for (x, c), step in zip(points, dx, strict=True)]
        plus, minus, shift = self._sides(place, dx)
        zero = arb(0)
        if not all(p > zero and m > zero for p, m in zip(plus, minus, strict=True)):
            return None
        rest = self._tile(self.rest, dx)
        middle = self._tile([self.pull * v for v in place.x], dx)
        if shift is not None:
            middle = [a + b for a, b in zip(middle, shift, strict=True)]
        sides = zip(plus, minus, middle, rest, strict=True)
        # w = D (D-2) (x + dx) = (m - p)/2, and p + m = 2 rest. In D = 3 and 4 the difference of powers is a product, so
        # that nothing cancels where x is small.
        if self.depth == 3:
            ends = self._tile([4 * r * r for r in self.rest], dx)
            products = [p * m for p, m in zip(plus, minus, strict=True)]
            return [2 * w * (c - q) / (q * q * q) for w, c, q in zip(middle, ends, products, strict=True)]
        if self.depth == 4:
            return [4 * w * r / (p * m) ** 2 for p, m, w, r in sides]
        power = arb(fmpq(self.depth, self.depth - 2))
        return [_power_gap(p, m, w / r, power) for p, m, w, r in sides]

    def slopes(self, place: Place, dx: list[arb] | None = None) -> list[arb]:
        """d beta / d x at the same points."""
        if self.depth == 2:
            x = place.x if dx is None else [a + b for a, b in zip(self._tile(place.x, dx), dx, strict=True)]
            return [8 * c * (4 * v).cosh() for v, c in zip(x, self._tile(self.squares, dx), strict=True)]
        plus, minus, _ = self._sides(place, dx)
        power, square = arb(fmpq(2 - 2 * self.depth, self.depth - 2)), self.depth**2
        return [square * (p**power + m**power) for p, m in zip(plus, minus, strict=True)]

    def log_slopes(self, place: Place, dx: list[arb]) -> np.ndarray:
        """log of the slopes in float64, shape (points, d)."""
        if self.depth == 2:
            y = np.array([float(4 * (a + b)) for a, b in zip(self._tile(place.x, dx), dx, strict=True)])
            found = np.logaddexp(y, -y).reshape(-1, self.inputs)
            return found + logs([4 * v for v in self.squares])
        plus, minus, _ = self._sides(place, dx)
        power = (2 - 2 * self.depth) / (self.depth - 2)
        found = 2 * math.log(self.depth) + np.logaddexp(power * logs(plus), power * logs(minus))
        return found.reshape(-1, self.inputs)

    def _tile(self, column: list[arb], dx: list[arb] | None) -> list[arb]:
        return column if dx is None else column * (len(dx) // self.inputs)

    def _sides(self, place: Place, dx: list[arb] | None) -> tuple[list[arb], list[arb], list[arb] | None]:
        """The distances to both poles, and D (D - 2) dx."""
        if dx is None:
            return place.plus, place.minus, None
        pull = arb(self.pull)
        shift = [pull * v for v in dx]
        plus = [a - b for a, b in zip(self._tile(place.plus, dx), shift, strict=True)]
        minus = [a + b for a, b in zip(self._tile(place.minus, dx), shift, strict=True)]
        return plus, minus, shift

    def log_ratio(self, place: Place) -> list[arb]:
        """log(u_+ / alpha) for every coordinate, then log(u_- / alpha)."""
        if self.depth == 2:
            return [2 * x for x in place.x] + [-2 * x for x in place.x]
        power = arb(fmpq(-1, self.depth - 2))
        sides = zip(place.plus + place.minus, self.rest + self.rest, strict=True)
        return [power * (p / r).log() for p, r in sides]

    def spread(self, place: Place) -> list[arb]:
        """How far each x may move until beta has changed by about its own size."""
        if self.depth == 2:
            return [arb(1) / 4] * self.inputs
        return [p.min(m) / self.pull for p, m in zip(place.plus, place.minus, strict=True)]

    @property
    def pole_exponent(self) -> Fraction:
        """(D - 2) / D: distances to the pole fall like beta to the minus this."""
        return Fraction(self.depth - 2, self.depth)


def _power_gap(p: arb, m: arb, w: arb, power: arb) -> arb:
    """p^-power - m^-power, for p : m = 1 - w : 1 + w."""
    if abs(w) < 0.125:
        return 2 * (p * m) ** (-power / 2) * (power * w.atanh()).sinh()
    return p**-power - m**-power
