"""The data in the form in which the problems of this folder are solved.

Equal rows are merged (they share a multiplier), equal and opposite columns are merged (their coordinates are equal up
to sign), zero columns are dropped, and rows are scaled by powers of 2, which keeps exact ties exact. With rows
x_n = scale_n a_n the constraints X beta >= 1 become a_n . b >= t_n, where b holds the sums of merged coordinates.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .separability import power_of_two


@dataclass(frozen=True, eq=False)
class Reduced:
    rows: Float[np.ndarray, "n k"]  # a_n
    targets: Float[np.ndarray, " n"]  # t_n
    copies: Float[np.ndarray, " k"]  # how many coordinates were merged
    row_scale: Float[np.ndarray, " n"]
    row_copies: Float[np.ndarray, " n"]
    row_of: Int[np.ndarray, " N"]
    column_of: Int[np.ndarray, " d"]  # -1 for a dropped column
    sign: Float[np.ndarray, " d"]

    def beta(self, b: Float[np.ndarray, " k"]) -> Float[np.ndarray, " d"]:
        each = np.append(b / self.copies, 0.0)
        return self.sign * each[self.column_of]

    def multipliers(self, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " N"]:
        return (weights / self.row_scale / self.row_copies)[self.row_of]

    def samples(self, mask: np.ndarray) -> np.ndarray:
        return mask[self.row_of]


def reduce(rows: Float[np.ndarray, "N d"]) -> Reduced:
    first = np.argmax(rows != 0, axis=0)
    sign = np.sign(rows[first, np.arange(rows.shape[1])])
    oriented = rows * sign
    kept = np.flatnonzero(sign)
    columns, column_of, copies = _unique(oriented[:, kept].T)
    merged, row_of, row_copies = _unique(columns.T)
    full = np.full(rows.shape[1], -1)
    full[kept] = column_of
    largest = np.abs(merged).max(axis=1)
    scale = power_of_two(np.linalg.norm(merged / largest[:, None], axis=1)) * power_of_two(largest)
    return Reduced(merged / scale[:, None], 1 / scale, copies, scale, row_copies, row_of, full, sign)


def _unique(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows in the order of their first appearance, the row of each, and how often each appears."""
    _, first, inverse, count = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.argsort(order)
    return rows[first[order]], rank[inverse.reshape(-1)], count[order].astype(float)
