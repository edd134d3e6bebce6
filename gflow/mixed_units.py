"""Factors near a saddle, as float64 holds them: what has been learned, and in the same entries what is yet to be.

In what a turn of the hidden space leaves of two rows that agree but for 1e-14, or 1e-17, float64 has lost the digits
that say when the flow leaves the saddle. They are there: differences of float64 numbers are exact in more digits. And
what depends on others exactly is told from what does so to rounding.
"""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

# What of its row is left of a unit that float64 turns well enough.
_SHARE = 1e-5


def _units(below: Any, above: Any) -> Any:
    """A row for each unit of the hidden space between two factors."""
    return np.concatenate([below, above.T], axis=1)


def mixed(factors: Any) -> bool:
    """Whether a hidden unit is a combination of others but for a small part of it."""
    from scipy.linalg import qr

    for pair in itertools.pairwise(np.asarray(W) for W in factors):
        units = _units(*pair)
        size = np.linalg.norm(units, axis=1)
        if not np.all(np.isfinite(size)):
            return False
        # In the order in which they are told apart; those of zero are none.
        found: Any = qr(units.T, mode="economic", pivoting=True)
        left, size = np.abs(np.diagonal(found[-2])), size[np.asarray(found[-1])][: min(units.shape)]
        if np.any(left[size > 0] < _SHARE * size[size > 0]):
            return True
    return False


def apart(factors: Any, signs: Any = None) -> tuple[tuple, tuple]:
    """Hidden spaces turned, W_j = Q_j G_j Q_(j-1)^T, such that every unit has digits of its own: (G, Q), shapes as the
    factors and (m_j, m_j). By Householder's reflections of the largest column first, in as many digits as it takes. If
    there are `signs` of units, those of each sign among themselves."""
    from mpmath import log10, mp, mpf

    exactly = np.vectorize(mpf, otypes=[object])
    sizes = [abs(mpf(v)) for W in factors for v in np.ravel(W) if v != 0]
    spread = float(log10(max(sizes) / min(sizes))) if sizes else 0.0
    with mp.workdps(80 + int(2 * spread)):
        G, Q = [exactly(np.asarray(W)) for W in factors], []
        for j in range(len(G) - 1):
            columns = G[j].shape[1]
            units = _units(G[j], G[j + 1])
            frame = exactly(np.zeros((len(units), len(units))))
            for sign in (1.0, -1.0):
                rows = np.flatnonzero((np.ones(len(units)) if signs is None else signs) == sign)
                if rows.size:
                    part = _triangular(units[rows], mpf(10) ** -(40 + int(2 * spread)))
                    units[rows], frame[np.ix_(rows, rows)] = part
            G[j], G[j + 1] = units[:, :columns], units[:, columns:].T
            Q.append(frame)
        rounded = lambda part: tuple(jnp.asarray(v.astype(float)) for v in part)
        return rounded(G), rounded(Q)


def _triangular(units: Any, nothing: Any) -> tuple[Any, Any]:
    """The units turned to a graded triangle, and the turn back. What is left of a unit below `nothing` is zero."""
    from mpmath import mp, mpf

    h = units.shape[0]
    frame = np.array([[mpf(int(i == j)) for j in range(h)] for i in range(h)], object)
    whole = np.sum(units**2)
    for k in range(min(h - 1, units.shape[1])):
        sizes = np.sum(units[k:] ** 2, axis=0)
        pivot = int(np.argmax(sizes))
        if sizes[pivot] <= nothing**2 * whole:
            break
        v = units[k:, pivot].copy()
        v[0] += mp.sqrt(sizes[pivot]) * (1 if v[0] >= 0 else -1)
        twice = 2 / np.sum(v**2)
        units[k:] = units[k:] - np.outer(v, (twice * v) @ units[k:])
        frame[:, k:] = frame[:, k:] - np.outer(frame[:, k:] @ v, twice * v)
        # What is left below the pivot is rounding.
        units[k + 1 :, pivot] = mpf(0)
    least = nothing**2 * whole
    units[np.sum(units**2, axis=1) <= least] = mpf(0)
    return units, frame
