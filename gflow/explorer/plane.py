"""The plane in which the solutions and the flow are drawn."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Plane(NamedTuple):
    """`origin` (d,), and `basis` (2, d), orthonormal; one unit of the drawing is `unit`."""

    origin: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "2 d"]
    unit: float

    @classmethod
    def through(cls, origin: np.ndarray, end: np.ndarray, points: Float[np.ndarray, "P d"]) -> "Plane":
        """The plane through two points, with the direction in which other points leave their line most.

        The line is the first axis, and its length the unit. Where both points are the same, the first axis is a
        principal direction of the others too. Directions that do not exist (d = 1, all on one line) are zero.
        """
        length = float(np.linalg.norm(end - origin))
        size = float(np.linalg.norm(origin))
        first = (end - origin) / length if length > 1e-9 * size else np.zeros_like(origin)
        rest = points[np.isfinite(points).all(-1)] - origin
        basis = [first]
        if not first.any():
            basis, length = [_principal(rest, size)], size
        rest = rest - np.outer(rest @ basis[0], basis[0])
        basis.append(_principal(rest, size))
        return cls(origin, np.stack(basis), length)

    def of(self, points: Float[np.ndarray, "*S d"]) -> Float[np.ndarray, "*S 2"]:
        """Coordinates in the plane of the nearest point in it."""
        return (points - self.origin) @ self.basis.T / self.unit

    def off(self, points: Float[np.ndarray, "*S d"]) -> Float[np.ndarray, "*S"]:
        """Distance from the plane over the norm."""
        away = points - self.origin
        away = away - away @ self.basis.T @ self.basis
        return np.linalg.norm(away, axis=-1) / np.linalg.norm(points, axis=-1)


def _principal(points: Float[np.ndarray, "P d"], size: float) -> Float[np.ndarray, " d"]:
    """The direction of largest mean square, towards the farthest point; zero if all are at the origin."""
    if not len(points) or np.abs(points).max() <= 1e-9 * size:
        return np.zeros(points.shape[-1])
    direction = np.linalg.svd(points, full_matrices=False)[2][0]
    along = points @ direction
    return direction * np.sign(along[np.argmax(np.abs(along))])
