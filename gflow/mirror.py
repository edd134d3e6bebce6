"""Factors that are each other's transposes in reverse order, W_j = W_(N+1-j)^T, up to turns of their hidden spaces.

A hidden space may be turned without a change of W: here by permutations and signs of its units, which float64 does
exactly. So K_j^T W_j K_(j-1) come to be mirrored. With an even number of factors signs remain in the hidden
space in the middle, W_(N/2+1) = W_(N/2)^T D with D = diag(+-1): of W = F^T D F as many eigenvalues are positive, or
negative, as there are such signs, at most.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

from .models import MatrixFactorization


class Mirror(NamedTuple):
    """The factors turned to be mirrored, W_(N/2+1) times D; K_1, ..., K_(N-1); and the diagonal of D of an even number.
    """

    factors: list[np.ndarray]
    frames: list[np.ndarray]
    signs: np.ndarray | None

    @property
    def signed(self) -> bool:
        return self.signs is not None and bool(np.any(self.signs < 0))


def mirror_of(model: Any) -> Mirror | None:
    """What mirrors the factors of a model to the last bit; None where nothing is found."""
    if not isinstance(model, MatrixFactorization) or len(model.factors) < 2:
        return None
    if any(isinstance(W, Tracer) for W in model.factors):
        return None
    W = [np.asarray(factor) for factor in model.factors]
    depth, half = len(W), len(W) // 2
    if any(V.shape != U.T.shape for V, U in zip(W, reversed(W), strict=True)):
        return None
    # R_j W_j = W_(N+1-j)^T R_(j-1)
    turns = [np.eye(W[0].shape[1])]
    for j in range(half):
        turn = _matched(W[j] @ turns[-1].T, W[-1 - j].T)
        if turn is None:
            return None
        turns.append(turn)
    last = turns.pop() if depth % 2 == 0 else None
    frames = [np.eye(V.shape[0]) for V in W[:-1]]
    for j, turn in enumerate(turns[1:], start=1):
        frames[depth - 1 - j] = turn
    signs = None
    if last is not None:
        if not np.array_equal(last, last.T):
            return None
        frames[half - 1], signs = _diagonal(last)
    around = [np.eye(W[0].shape[1]), *frames, np.eye(W[-1].shape[0])]
    turned = [after.T @ V @ before for V, before, after in zip(W, around, around[1:], strict=False)]
    if signs is None and not np.array_equal(turned[half], turned[half].T):
        return None
    for j in range(half):
        turned[-1 - j] = turned[j].T
    if signs is not None:
        turned[half] = turned[half] * signs
    return Mirror(turned, frames, signs)


def _matched(rows: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """The permutation with signs that takes `rows` to `others`, to the last bit."""
    places = defaultdict(list)
    for k, row in enumerate(rows):
        places[_without_sign(row)].append(k)
    turn = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(others):
        left = places[_without_sign(row)]
        if not left:
            return None
        # A unit stays where it is if it can.
        k = left.pop(left.index(i) if i in left else 0)
        turn[i, k] = 1.0 if np.array_equal(rows[k], row) else -1.0
    return turn


def _without_sign(row: np.ndarray) -> bytes:
    first = row[np.flatnonzero(row)[:1]]
    return (row * (-1.0 if first.size and first[0] < 0 else 1.0) + 0.0).tobytes()


def _diagonal(turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K and the signs D of a symmetric permutation with signs, K D K^T."""
    frame, signs = np.eye(len(turn)), np.diagonal(turn).copy()
    for i, k in zip(*np.nonzero(np.triu(turn, 1)), strict=True):
        both, sign = [i, k], turn[i, k]
        frame[np.ix_(both, both)] = np.sqrt(0.5) * np.array([[1.0, 1.0], [sign, -sign]])
        signs[both] = 1.0, -1.0
    return frame, signs
