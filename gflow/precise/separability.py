"""Whether some beta separates rational data, decided in rational arithmetic.

By Gordan's theorem there is a beta with X beta > 0, or there are lambda >= 0, not all 0, with X^T lambda = 0; never
both. A guess in float64 is checked exactly. Where it does not hold, phase 1 of the simplex method with Bland's rule
(1977, doi 10.1287/moor.2.2.103) decides, in exact rational numbers.
"""

import numpy as np
from flint import fmpq

from ..limits.separability import separate


def gordan_weights(rows: list[list[fmpq]]) -> list[fmpq] | None:
    """None if some beta has all margins positive; otherwise lambda (N,) with sum 1 that proves the contrary."""
    floats = np.array([[float(v.p) / float(v.q) if v else 0.0 for v in row] for row in _scaled(rows)])
    if np.all(np.isfinite(floats)):
        guess = [fmpq(*float(b).as_integer_ratio()) for b in separate(floats).beta]
        if all(_dot(row, guess) > 0 for row in _scaled(rows)):
            return None
    return _simplex(rows)


def _scaled(rows: list[list[fmpq]]) -> list[list[fmpq]]:
    """Rows divided by their largest entry, which changes no sign."""
    tops = [max((abs(v) for v in row), default=fmpq(0)) for row in rows]
    return [[v / top for v in row] if top else row for row, top in zip(rows, tops, strict=True)]


def _dot(a: list[fmpq], b: list[fmpq]) -> fmpq:
    return sum((u * v for u, v in zip(a, b, strict=True)), fmpq(0))


def _simplex(rows: list[list[fmpq]]) -> list[fmpq] | None:
    """lambda >= 0 with X^T lambda = 0 and sum lambda = 1, by minimising the sum of artificial variables."""
    count, inputs = len(rows), len(rows[0])
    zero, one = fmpq(0), fmpq(1)
    # One equation per input and one for the sum; columns are lambda, then the right-hand side.
    table = [[rows[n][i] for n in range(count)] + [zero] for i in range(inputs)] + [[one] * count + [one]]
    basis = [count + k for k in range(inputs + 1)]
    cost = [-sum((row[k] for row in table), zero) for k in range(count + 1)]
    while True:
        entering = next((k for k in range(count) if cost[k] < 0 and k not in basis), None)
        if entering is None:
            break
        ratios = [(row[-1] / row[entering], basis[r], r) for r, row in enumerate(table) if row[entering] > 0]
        if not ratios:
            break
        pivot = min(ratios, key=lambda item: (item[0], item[1]))[2]
        scale = table[pivot][entering]
        table[pivot] = [v / scale for v in table[pivot]]
        for line in [*(row for r, row in enumerate(table) if r != pivot), cost]:
            factor = line[entering]
            if factor:
                line[:] = [v - factor * u for v, u in zip(line, table[pivot], strict=True)]
        basis[pivot] = entering
    if cost[-1] != 0:
        return None
    weights = [zero] * count
    for row, k in zip(table, basis, strict=True):
        if k < count:
            weights[k] = row[-1]
    return weights
