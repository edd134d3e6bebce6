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
from dataclasses import dataclass, field

import numpy as np
from flint import arb, arb_mat, arb_poly, ctx, fmpq_poly
from scipy.special import roots_jacobi

from .exact import working_precision


@dataclass(frozen=True, eq=False)
class Tableau:
    """s-stage Radau IIA on [0, 1].

    - `nodes`: c_i in (0, 1], the last is 1.
    - `integrals` (s, s): A, the integrals of the Lagrange polynomials from 0 to c_i.
    - `coefficients` (s, s): from values at the nodes to Legendre coefficients on [-1, 1].
    - `integrals_float`: A in float64. `barycentric`: weights of the barycentric interpolation formula.
    - `last` (2, s): the last two rows of `coefficients`. `powers` (s, s): t^j in P_k.
    """

    nodes: list[arb]
    integrals: arb_mat
    coefficients: arb_mat
    integrals_float: np.ndarray
    barycentric: list[arb]
    last: arb_mat
    powers: list[list[arb]]
    rounded: dict[int, arb_mat] = field(default_factory=dict)

    def integrals_to(self, bits: int) -> arb_mat:
        """`integrals` rounded to little more than `bits` bits, so that products with it cost no more than they must."""
        bits = _step_up(bits)
        if bits not in self.rounded:
            with working_precision(bits):
                self.rounded[bits] = (self.integrals * arb(1)).mid()
        return self.rounded[bits]

    def evaluate(self, coefficients: arb_mat, positions: list[arb]) -> list[arb]:
        """Values of Legendre series, one a column, at positions in units of the step; position-major."""
        count, columns = coefficients.nrows(), coefficients.ncols()
        # Powers of t cancel by a factor (1 + sqrt 2)^k.
        with working_precision(ctx.prec + int(1.3 * count) + 10):
            powers = arb_mat([[self.powers[k][j] for k in range(count)] for j in range(count)])
            table = (powers * coefficients).tolist()
            places = [2 * p - 1 for p in positions]
            found = [arb_poly([row[c] for row in table]).evaluate(places, "iter") for c in range(columns)]
        return [v.mid() for row in zip(*found, strict=True) for v in row]

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
    return _radau(stages, _step_up(bits))


def _step_up(bits: int) -> int:
    """The next of a few sizes of precision."""
    size = 64
    while size < bits:
        size = int(size * 1.25) + 1
    return size


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
        largest = max(abs(w) for w in barycentric)
        barycentric = [(w / largest).mid() for w in barycentric]
    with working_precision(bits):
        rounded = lambda matrix: (matrix * arb(1)).mid()
        integrals, toward = rounded(integrals), rounded(toward.mid())
        floats = np.array([[float(v) for v in row] for row in integrals.tolist()])
        places = [((1 + t) / 2).mid() for t in nodes]
        last = arb_mat(toward.tolist()[s - 2 :])
        return Tableau(places, integrals, toward, floats, barycentric, last, _legendre_powers(s))


def _polish(s: int, guess: float) -> arb:
    """Newton's method on P_s - P_(s-1), doubling digits from a float."""
    target, t, bits = ctx.prec, arb(guess), 40
    while bits < 2 * target:
        bits *= 2
        with working_precision(min(target, bits + 2 * s + 30)):
            below, here, after = (t.legendre_p(k) for k in (s - 2, s - 1, s))
            slope = (s * (t * after - here) - (s - 1) * (t * here - below)) / (t * t - 1)
            t = (t - (after - here) / slope).mid()
    return t


def _legendre_powers(count: int) -> list[list[arb]]:
    """The coefficients of P_0, ..., P_(count-1), exactly; each row of length `count`."""
    rows = [fmpq_poly([1]), fmpq_poly([0, 1])]
    for k in range(1, count - 1):
        rows.append((fmpq_poly([0, 2 * k + 1]) * rows[k] - k * rows[k - 1]) / (k + 1))
    with working_precision(1 << 20):
        return [[arb(row[j]).mid() for j in range(count)] for row in rows[:count]]


def legendre_floats(count: int, x: float) -> list[float]:
    """P_0(x), ..., P_(count-1)(x) for x >= 1, with inf where they overflow."""
    values = [1.0, x]
    for k in range(1, count - 1):
        following = ((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1)
        values.append(following if math.isfinite(following) else math.inf)
    return values[:count]


def useful_degree(sizes: list[float], x: float) -> int:
    """The degree at which the terms |c_k| P_k(x) of a continued Legendre series are smallest."""
    growth = legendre_floats(len(sizes), max(x, 1.0))
    terms = [c + (math.log10(p) if math.isfinite(p) else 400.0) for c, p in zip(sizes, growth, strict=True)]
    best = min(range(len(terms)), key=lambda k: (max(terms[k], terms[k - 1] if k else terms[k]), k))
    return max(best, 0)
