"""The tableau in exact arithmetic, for data with ties.

Floats are rational numbers, so X_AB^(-1) X_AR and its like are too. Where entries cancel, as they do for data of -1
and 1, rounding leaves 1e-16 in place of 0, or a number without digits; at small mu such an entry decides. Gauss-Jordan
elimination without fractions (Bareiss 1968, doi 10.1090/S0025-5718-1968-0226829-0) settles it.
"""

from dataclasses import dataclass
from math import lcm

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class ExactTableau:
    """Integers over one common denominator."""

    T: Int[np.ndarray, "m r"]
    sums: Int[np.ndarray, " m"]
    inverse: Int[np.ndarray, "m m"]
    denominator: int

    def floats(self, integers: np.ndarray) -> Float[np.ndarray, "..."]:
        return np.vectorize(lambda n: n / self.denominator, otypes=[float])(integers)

    def at_corner(self, corner: Float[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """T^T corner, 1 - |T^T corner| and inverse^T corner, rounded once, for entries -1, 0, 1."""
        signs = np.array([int(v) for v in corner], dtype=object)
        base = signs @ self.T
        gap = abs(self.denominator) - np.abs(base)
        return self.floats(base), self.floats(gap) * np.sign(self.denominator), self.floats(signs @ self.inverse)


def exact_tableau(
    square: Float[np.ndarray, "m m"], rest: Float[np.ndarray, "m r"], targets: Float[np.ndarray, " m"]
) -> ExactTableau:
    """square^(-1) times rest, targets and the identity, for a square that is not singular."""
    size = len(square)
    matrix = np.empty((size, 2 * size + rest.shape[1] + 1), dtype=object)
    for n in range(size):
        row = [*square[n].tolist(), *rest[n].tolist(), float(targets[n]), *np.eye(size)[n].tolist()]
        ratios = [value.as_integer_ratio() for value in row]
        common = lcm(*(bottom for _, bottom in ratios))
        matrix[n] = [top * (common // bottom) for top, bottom in ratios]
    previous = 1
    for k in range(size):
        pivot = next(n for n in range(k, size) if matrix[n, k] != 0)
        matrix[[k, pivot]] = matrix[[pivot, k]]
        for n in range(size):
            if n != k:
                matrix[n] = (matrix[k, k] * matrix[n] - matrix[n, k] * matrix[k]) // previous
        previous = matrix[k, k]
    r = rest.shape[1]
    return ExactTableau(
        matrix[:, size : size + r], matrix[:, size + r], matrix[:, size + r + 1 :], int(matrix[0, 0])
    )
