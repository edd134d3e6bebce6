"""Random sets of the tests, and solutions of the Q_mu problem in high precision."""

import mpmath as mp
import numpy as np


def sep(seed, N=4, d=6):
    """A Gaussian set that some beta separates, labels absorbed."""
    r = np.random.default_rng(seed)
    X = r.normal(size=(N, d))
    b = r.normal(size=d)
    return X * np.sign(X @ b)[:, None]


def certify(X, mu, depth, beta, multipliers, active=None):
    """Newton's method in high precision for the samples on the margin (those with positive multipliers unless given;
    the others keep theirs). Returns beta and multipliers in high precision; raises if they are not optimal."""
    N, d = X.shape
    active = np.flatnonzero(multipliers > 0 if active is None else active)
    mp.mp.dps = int(60 + (2.2 if depth > 2 else 1.1) * abs(np.log10(mu)))
    mu = mp.mpf(float(mu))
    rows = [[mp.mpf(float(v)) for v in row] for row in X]
    fixed = [
        mp.fsum(rows[n][i] * mp.mpf(float(multipliers[n])) for n in range(N) if n not in active) for i in range(d)
    ]
    # Start from w of the largest coordinates: from the multipliers, w would be lost near the poles.
    basis = []
    for i in np.argsort(-np.abs(beta), kind="stable"):
        if np.linalg.matrix_rank(X[np.ix_(active, [*basis, i])]) > len(basis):
            basis.append(int(i))
    lam = mp.lu_solve(
        mp.matrix([[rows[n][i] for n in active] for i in basis]),
        mp.matrix([mp_h_inverse(mp.mpf(float(beta[i])) / mu, depth) - fixed[i] for i in basis]),
    )
    for _ in range(10):
        w = [fixed[i] + mp.fsum(rows[n][i] * lam[a] for a, n in enumerate(active)) for i in range(d)]
        b = [mu * mp_h(v, depth) for v in w]
        error = [mp.fsum(rows[n][i] * b[i] for i in range(d)) - 1 for n in active]
        if max(abs(e) for e in error) < mp.mpf(10) ** -40:
            break
        slope = [mu * mp_slope(v, depth) for v in w]
        matrix = [[mp.fsum(rows[n][i] * rows[m][i] * slope[i] for i in range(d)) for m in active] for n in active]
        lam -= mp.lu_solve(mp.matrix(matrix), mp.matrix(error))
    assert max(abs(e) for e in error) < mp.mpf(10) ** -40
    assert min(lam) > 0
    assert min(mp.fsum(r[i] * b[i] for i in range(d)) for r in rows) > 1 - mp.mpf(10) ** -11
    full = [mp.mpf(float(v)) for v in multipliers]
    for a, n in enumerate(active):
        full[n] = lam[a]
    return b, full


def relative_error(values, exact):
    """Of a vector, relative to its largest coordinate."""
    top = max(abs(v) for v in exact)
    return float(max(abs(mp.mpf(float(v)) - e) for v, e in zip(values, exact, strict=True)) / top)


def mp_h(w, depth):
    if depth == 2:
        return 2 * mp.sinh(w)
    assert abs(w) < 1
    p = mp.mpf(depth) / (depth - 2)
    return (1 - w) ** -p - (1 + w) ** -p


def mp_slope(w, depth):
    if depth == 2:
        return 2 * mp.cosh(w)
    p = mp.mpf(depth) / (depth - 2)
    return p * ((1 - w) ** (-p - 1) + (1 + w) ** (-p - 1))


def mp_h_inverse(s, depth):
    if depth == 2 or s == 0:
        return mp.asinh(s / 2)
    p, size = mp.mpf(depth) / (depth - 2), abs(s)
    y = min(size / (2 * p), mp.log(size + 2) / (2 * p) + 1)
    for _ in range(100):
        gap = mp.log(2) + p * mp.log(mp.cosh(y)) + mp.log(mp.sinh(p * y)) - mp.log(size)
        step = gap / (p * mp.tanh(y) + p / mp.tanh(p * y))
        y = y - step if step < y else y / 2
        if abs(step) < y * mp.mpf(10) ** (5 - mp.mp.dps):
            break
    return mp.sign(s) * mp.tanh(y)
