"""Radau IIA collocation: nodes, matrices, and the polynomial through the stages.

Hairer & Wanner, Solving ODEs II, sec. IV.5: s stages, order 2 s - 1, L-stable. Everything is computed from the Legendre
polynomials, whatever the number of stages.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import legendre

# The power of the highest coefficient that is the error of a step: between the 1 of the plain one (wasteful) and the 2
# of superconvergence (bold by up to 50 where the order is reduced): at 1.75 the observed error of beta stays below rtol
# from 1e-4 to 1e-11.
POWER = 1.75


class Tableau(NamedTuple):
    """Nodes c, matrix A, its inverse, the matrix that maps the integrand at the nodes to its Legendre coefficients, and
    the row of it that belongs to the highest, as a part of the integral, and that which gives the slope at the end."""

    c: np.ndarray
    A: np.ndarray
    inverse: np.ndarray
    legendre: np.ndarray
    top: np.ndarray
    end_slope: np.ndarray


class Panels(NamedTuple):
    """Gauss quadrature in a panel from each stage to the next: the weights; the matrix that interpolates to the points
    of the panels from the stages; and what it gives integrated from each point to the end of its panel."""

    weights: Float[np.ndarray, "s q"]
    values: Float[np.ndarray, "s q s"]
    onward: Float[np.ndarray, "s q q"]


@lru_cache
def panels(stages: int, points: int) -> Panels:
    c = tableau(stages).c
    edges = np.append(0.0, c)
    x, weights = legendre.leggauss(points)
    width = np.diff(edges)[:, None]
    at = edges[:-1, None] + width * (x + 1.0) / 2.0
    values = lambda x, n: legendre.legvander(2.0 * x - 1.0, n - 1)
    # From x to 1, of the polynomial through the points.
    basis = np.linalg.inv(legendre.legvander(x, points - 1))
    whole = [legendre.legint(row) for row in np.eye(points)]
    onward = np.stack([legendre.legval(1.0, row) - legendre.legval(x, row) for row in whole], axis=1) @ basis
    by_stages = values(at, stages) @ np.linalg.inv(values(c, stages))
    return Panels(width * weights / 2.0, by_stages, width[..., None] * onward / 2.0)


@lru_cache
def tableau(stages: int) -> Tableau:
    from scipy.special import eval_legendre, roots_jacobi  # slow to import, and not needed before

    x = np.append(np.sort(roots_jacobi(stages - 1, 1.0, 0.0)[0]), 1.0)
    P = np.stack([eval_legendre(k, x) for k in range(stages + 1)], axis=1)
    integral = np.empty((stages, stages))
    integral[:, 0] = (x + 1.0) / 2.0
    for k in range(1, stages):
        integral[:, k] = (P[:, k + 1] - P[:, k - 1]) / (2.0 * (2 * k + 1))
    inverse = np.linalg.inv(P[:, :stages])
    A = integral @ inverse
    # P_k'(1) = k (k + 1) / 2, and twice that in (0, 1).
    k = np.arange(stages)
    end_slope = k * (k + 1.0) @ inverse
    return Tableau((x + 1.0) / 2.0, A, np.linalg.inv(A), inverse, inverse[-1] / (2.0 * (2 * stages - 1)), end_slope)


def lagrange(nodes: np.ndarray, x: Array) -> Array:
    """The Lagrange polynomials of `nodes` at the points `x`: shape (*x, nodes)."""
    # Barycentric weights, and products over the other nodes.
    gaps = nodes[:, None] - nodes[None, :] + np.eye(nodes.size)
    weights = 1.0 / np.prod(gaps, axis=1)
    others = [jnp.prod(jnp.stack([x - n for j, n in enumerate(nodes) if j != k]), axis=0) for k in range(nodes.size)]
    return jnp.stack([w * v for w, v in zip(weights, others, strict=True)], axis=-1)


class Polynomial(diffrax.AbstractLocalInterpolation):
    """The collocation polynomial through the start and the stages."""

    t0: Any
    t1: Any
    nodes: Float[Array, " s+1"]
    values: Float[Array, "s+1 *y"]

    def evaluate(self, t0, t1=None, left=True):
        del left
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        x = (t0 - self.t0) / (self.t1 - self.t0)
        gaps = self.nodes[:, None] - self.nodes[None, :] + jnp.eye(self.nodes.size)
        factors = jnp.where(jnp.eye(self.nodes.size, dtype=bool), 1.0, (x - self.nodes[None, :]) / gaps)
        return jnp.prod(factors, axis=1) @ self.values
