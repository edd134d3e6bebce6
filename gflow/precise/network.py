"""Diagonal networks in their dual variables.

With z = integral of c dt, c_n = -dL/df_n, and x = X^T z the flow of beta = u_+^D - u_-^D from u_+ = u_- = alpha is
explicit:

    D = 2:  beta = 2 alpha^2 sinh(4 x),
    D > 2:  u_+-^(2-D) = alpha^(2-D) -+ D (D-2) x,      d beta / d x = D^2 (u_+^(2D-2) + u_-^(2D-2)).

For D > 2 a growing coordinate tends to a pole of beta(x). The distances to both poles, u_+-^(2-D), are carried beside
x and moved by the same increments, so that they keep their own relative accuracy and no digits go to the approach.

Source: Moroshko et al. 2020 (arXiv 2007.06738).
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from flint import arb, arb_mat, fmpq


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

    def beta(self, place: Place, dx: list[arb]) -> tuple[list[arb], list[arb]] | None:
        """beta and d beta / d x at x + dx, for a flat list of increments, d per point; None beyond a pole."""
        return self._exponential(place, dx) if self.depth == 2 else self._power(place, dx)

    def _exponential(self, place: Place, dx: list[arb]) -> tuple[list[arb], list[arb]]:
        values, slopes = [], []
        d = self.inputs
        for i in range(d):
            x, square = place.x[i], self.squares[i]
            four = 4 * square
            for step in dx[i::d]:
                y = 4 * (x + step)
                if abs(y) < 1:
                    sinh, cosh = y.sinh_cosh()
                    values.append(2 * square * sinh)
                    slopes.append(8 * square * cosh)
                else:
                    up = y.exp()
                    down = 1 / up
                    values.append(square * (up - down))
                    slopes.append(four * (up + down))
        return _interleave(values, d), _interleave(slopes, d)

    def _power(self, place: Place, dx: list[arb]) -> tuple[list[arb], list[arb]] | None:
        d, depth, pull = self.inputs, self.depth, self.pull
        values, slopes = [], []
        square = depth * depth
        power = arb(fmpq(depth, depth - 2))
        for i in range(d):
            x, plus, minus, rest = place.x[i], place.plus[i], place.minus[i], self.rest[i]
            for step in dx[i::d]:
                shift = pull * step
                p, m = plus - shift, minus + shift
                if not (p > 0 and m > 0):
                    return None
                # In D = 3 and 4 the difference of powers is a product: no cancellation for small x.
                if depth == 3:
                    p2, m2 = p * p, m * m
                    product = p * m
                    values.append(2 * pull * (x + step) * (m2 + product + p2) / (product * product * product))
                    slopes.append(square * (1 / (p2 * p2) + 1 / (m2 * m2)))
                elif depth == 4:
                    p2, m2 = p * p, m * m
                    values.append(2 * pull * (x + step) * (m + p) / (p2 * m2))
                    slopes.append(square * (1 / (p2 * p) + 1 / (m2 * m)))
                else:
                    w = pull * (x + step) / rest
                    up, down = (-power * p.log()).exp(), (-power * m.log()).exp()
                    if abs(w) < 0.125:
                        values.append(2 * (power * (p * m).log() / -2).exp() * (power * w.atanh()).sinh())
                    else:
                        values.append(up - down)
                    slopes.append(square * (up / p + down / m))
        return _interleave(values, d), _interleave(slopes, d)

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


def _interleave(columns: list[arb], d: int) -> list[arb]:
    """From coordinate-major to point-major order."""
    points = len(columns) // d
    return [columns[i * points + j] for j in range(points) for i in range(d)]
