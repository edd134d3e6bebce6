"""Radau IIA collocation at any precision.

The nodes are the roots of P_s - P_(s-1) on [-1, 1] (P_k: Legendre polynomials), the last of which is 1. With the
weights w of Radau's quadrature, exact to degree 2s - 2, the Legendre coefficients of the polynomial through values f_i
at the nodes are

    c_k = (2k + 1)/2 sum_i w_i P_k(t_i) f_i,    w_i = (1 + t_i) / (s P_(s-1)(t_i))^2,

and integrals follow from (2k + 1) P_k = P'_(k+1) - P'_(k-1).

Source: Hairer & Wanner, Solving Ordinary Differential Equations II (1996), sections IV.5 and IV.8.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from flint import arb, arb_mat, ctx
from scipy.special import roots_jacobi

from .exact import working_precision


@dataclass(frozen=True, eq=False)
class Tableau:
    """s-stage Radau IIA on [0, 1].

    - `nodes`: c_i in (0, 1], the last is 1.
    - `integrals` (s, s): A, the integrals of the Lagrange polynomials from 0 to c_i.
    - `coefficients` (s, s): from values at the nodes to Legendre coefficients on [-1, 1].
    - `integrals_float`: A in float64. `barycentric`: weights of the barycentric interpolation formula.
    - `leading`, `recurrence`: P_k = leading_k p_k, where p_(k+1) = t p_k - recurrence_k p_(k-1).
    """

    nodes: list[arb]
    integrals: arb_mat
    coefficients: arb_mat
    integrals_float: np.ndarray
    barycentric: list[arb]
    leading: list[arb]
    recurrence: list[arb]

    def monic_legendre(self, count: int, t: arb) -> list[arb]:
        """p_0(t), ..., p_count(t), as cheap as can be."""
        values = [arb(1), t]
        for b in self.recurrence[1:count]:
            values.append(t * values[-1] - b * values[-2])
        return values[: count + 1]

    def interpolation(self, positions: list[arb]) -> arb_mat:
        """Rows that take values at the nodes to values at positions in [0, 1]."""
        rows = []
        for p in positions:
            gaps = [(p - c).mid() for c in self.nodes]
            if any(g == 0 for g in gaps):
                rows.append([arb(1) if g == 0 else arb(0) for g in gaps])
                continue
            row = [w / g for w, g in zip(self.barycentric, gaps, strict=True)]
            total = sum(row[1:], row[0])
            rows.append([v / total for v in row])
        return arb_mat(rows)

    @property
    def stages(self) -> int:
        return len(self.nodes)


def legendre(count: int, t: arb) -> list[arb]:
    """P_0(t), ..., P_count(t)."""
    values = [arb(1), t]
    for k in range(1, count):
        values.append(((2 * k + 1) * t * values[k] - k * values[k - 1]) / (k + 1))
    return values[: count + 1]


def radau(stages: int, bits: int) -> Tableau:
    """The tableau to at least `bits` bits; kept for a few sizes of precision."""
    rounded = 64
    while rounded < bits:
        rounded = int(rounded * 1.25) + 1
    return _radau(stages, rounded)


@functools.lru_cache(maxsize=64)
def _radau(s: int, bits: int) -> Tableau:
    with working_precision(bits + 2 * s + 30):
        nodes = [_polish(s, float(guess)) for guess in roots_jacobi(s - 1, 1.0, 0.0)[0]] + [arb(1)]
        values = [legendre(s, t) for t in nodes]
        weights = [(1 + t) / (s * p[s - 1]) ** 2 for t, p in zip(nodes, values, strict=True)]
        toward = arb_mat([[weights[i] * values[i][k] * (2 * k + 1) / 2 for i in range(s)] for k in range(s)])
        integrated = arb_mat(
            [[(t + 1) / 2 if k == 0 else (p[k + 1] - p[k - 1]) / (2 * (2 * k + 1)) for k in range(s)]
             for t, p in zip(nodes, values, strict=True)]
        )  # fmt: skip
        integrals = (integrated * toward).mid()
        barycentric = [1 / math.prod((4 * (t - u) for u in nodes if u is not t), start=arb(1)) for t in nodes]
        recurrence = [(arb(k * k) / (4 * k * k - 1)).mid() for k in range(s)]
        leading = [arb(1)]
        for k in range(s - 1):
            leading.append((leading[-1] * (2 * k + 1) / (k + 1)).mid())
        largest = max(abs(w) for w in barycentric)
        barycentric = [(w / largest).mid() for w in barycentric]
    with working_precision(bits):
        rounded = lambda matrix: (matrix * arb(1)).mid()
        integrals, toward = rounded(integrals), rounded(toward.mid())
        floats = np.array([[float(v) for v in row] for row in integrals.tolist()])
        places = [((1 + t) / 2).mid() for t in nodes]
        return Tableau(places, integrals, toward, floats, barycentric, leading, recurrence)


def _polish(s: int, guess: float) -> arb:
    """Newton's method on P_s - P_(s-1), doubling digits from a float."""
    target, t, bits = ctx.prec, arb(guess), 40
    while bits < 2 * target:
        bits *= 2
        with working_precision(min(target, bits + 2 * s + 30)):
            p = legendre(s, t)
            slope = (s * (t * p[s] - p[s - 1]) - (s - 1) * (t * p[s - 1] - p[s - 2])) / (t * t - 1)
            t = (t - (p[s] - p[s - 1]) / slope).mid()
    return t


def legendre_floats(count: int, x: float) -> list[float]:
    """P_0(x), ..., P_(count-1)(x) for x >= 1, with inf where they overflow."""
    values = [1.0, x]
    for k in range(1, count - 1):
        following = ((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1)
        values.append(following if math.isfinite(following) else math.inf)
    return values[:count]
