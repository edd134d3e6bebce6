"""The flow of one ReLU neuron with the square loss from weights of zero, solved piece by piece.

While the active samples S stay the same, w' = b - A w with A = sum_S x x^T and b = sum_S y x, which eigenvectors
solve. A piece ends at the first root of some w . x_i. With labels of at least zero no kink attracts, so each one that
is met is crossed. The neuron leaves zero with slope 1 there, along the velocity that is active on the samples it
claims.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf
from scipy.optimize import brentq

_MOST_PIECES = 60
# Times at which a piece is looked over, between 1e-5 of its fastest and 45 of its slowest e-folds.
_LOOKS = 240
_RTOL = np.float64(1e-15)


class Path(NamedTuple):
    """Where the flow ends, the time and sample of each crossing in order, and the largest quotient of two rates of a
    piece."""

    end: np.ndarray
    stiffness: float
    times: list[float]
    samples: list[int]


def first_active(X: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """The samples that are active as the neuron leaves zero, (N,); None where that goes round in circles."""
    on = np.ones(len(y), bool)
    for _ in range(20):
        new = X @ (X[on].T @ y[on]) > 0
        if np.array_equal(new, on):
            return on
        on = new
    return None


def follow(X: np.ndarray, y: np.ndarray) -> Path | None:
    """The flow in float64. None where it does not begin in one way, or crosses too many kinks.

    **Arguments:** `X`: (N, d). `y`: (N,), at least zero.

    !!! example

        ```python
        >>> from gflow.studies import relu_square, relu_square_exact
        >>> path = relu_square_exact.follow(*relu_square.impossible_set(0.5, 1.5, 3))
        >>> path.end.round(9).tolist(), path.samples
        ([1.0, 1.5, -0.141958217], [2])

        ```
    """
    on = first_active(X, y)
    if on is None:
        return None
    w, times, samples, clock, stiffness = np.zeros(X.shape[1]), [], [], 0.0, 1.0
    for _ in range(_MOST_PIECES):
        values, vectors = np.linalg.eigh(X[on].T @ X[on])
        moving = values > 1e-13 * max(values[-1], 0.0)
        if not moving.any():
            return Path(w, stiffness, times, samples)
        stiffness = max(stiffness, float(values[-1] / values[moving][0]))
        pull, start = vectors.T @ (X[on].T @ y[on]), vectors.T @ w
        rest = np.where(moving, pull / np.where(moving, values, 1.0), start)
        off, rates = np.where(moving, start - rest, 0.0), np.where(moving, values, 0.0)
        constant, shares = X @ (vectors @ rest), (X @ vectors) * off
        looks = np.geomspace(1e-5 / values[-1], 45.0 / values[moving][0], _LOOKS)
        z = constant[:, None] + shares @ np.exp(-rates[:, None] * looks[None])
        size = 1e-12 * np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(rest)
        wrong = ((z > 0) != on[:, None]) & (np.abs(z) > size)
        if not wrong.any():
            return Path(vectors @ rest, stiffness, times, samples)
        k = int(np.argmax(wrong.any(axis=0)))
        before, after = (0.0 if k == 0 else looks[k - 1]), looks[k]
        at = lambda t, i, constant=constant, shares=shares, rates=rates: constant[i] + shares[i] @ np.exp(-rates * t)
        met = []
        for i in np.flatnonzero(wrong[:, k]):
            changes = at(before, i) * at(after, i) < 0
            met.append((brentq(at, before, after, args=(i,), xtol=1e-300, rtol=_RTOL) if changes else before, i))
        t, i = min(met)
        w, clock, on = vectors @ (rest + off * np.exp(-rates * t)), clock + t, on.copy()
        on[i] = not on[i]
        times.append(float(clock))
        samples.append(int(i))
    return None


def refine(X: Sequence, y: Sequence, times: Sequence[float], samples: Sequence[int], digits: int = 30) -> tuple:
    """Times of the crossings and end of the flow to `digits`, from crossings known approximately: on each piece the
    secant method finds the time at which the pre-activation of the next sample is zero.

    **Arguments:** `X` (N rows of d), `y` (N): numbers of mpmath, or what it takes. `times`, `samples`: of a `Path`, or
    of the events of `gflow.gradient_flow`.

    **Returns:** times and end, two lists of mpmath numbers.
    """
    with mp.workdps(digits + 15):
        fn: Any = mp
        rows, labels = fn.matrix(X), fn.matrix(y)
        d = rows.cols
        active = first_active(np.array(rows.tolist(), float), np.array(labels.tolist(), float)[:, 0])
        assert active is not None
        on, w, clock, found = list(active), fn.zeros(d, 1), mpf(0), []

        def piece(start):
            """w on the present piece after a time t, or at its end (None)."""
            chosen = [i for i in range(rows.rows) if on[i]]
            values, vectors = fn.eigsy(sum((rows[i, :].T * rows[i, :] for i in chosen), fn.zeros(d)))
            pull = vectors.T * sum((rows[i, :].T * labels[i] for i in chosen), fn.zeros(d, 1))
            off, still = vectors.T * start, max(values) * mpf(10) ** (-digits - 5)

            def at(t):
                part = []
                for i in range(d):
                    rest = off[i] if values[i] <= still else pull[i] / values[i]
                    part.append(rest if t is None else rest + (off[i] - rest) * fn.exp(-values[i] * t))
                return vectors * fn.matrix(part)

            return at

        for time, sample in zip(times, samples, strict=True):
            at, near = piece(w), mpf(time) - clock
            z = lambda t, at=at, i=sample: (rows[i, :] * at(t))[0]
            root = fn.findroot(z, (near, near * (1 + mpf(10) ** -12)), tol=mpf(10) ** (-2 * digits))
            w, clock = at(root), clock + root
            on[sample] = not on[sample]
            found.append(clock)
        end = piece(w)(None)
    with mp.workdps(digits):
        return [+v for v in found], [+v for v in end]
