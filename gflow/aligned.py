"""The flow of factors that are multiples of the identity, towards a symmetric target.

They keep the eigenvectors of the target (Chou et al. 2020, arXiv 2011.13772): W_j = V diag(s_j) V^T,
s_j,i' = (lambda_i - p_i) p_i / s_j,i with p_i the product of all s_j,i, up to the constants of the loss. Factors that
begin equal stay so, and of them negative eigenvalues are never learned. In coordinates of all entries rounding would
tell equal factors apart, and turn eigenvectors; where a pull is negative that grows exponentially, and decides.
"""

import itertools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .charts import AbstractChart, Velocity
from .models import MatrixFactorization


class AlignedChart(AbstractChart):
    """Coordinates (s_1, ..., s_K, r): a row s_k for each run of `counts[k]` factors that are equal, and the residuals
    r_i = p_i - lambda_i."""

    template: MatrixFactorization
    # V and lambda
    vectors: Float[Array, "n n"]
    target: Float[Array, " n"]
    # X is this multiple of an orthogonal matrix: outputs are the residual times it.
    gain: Float[Array, ""]
    counts: tuple[int, ...] = eqx.field(static=True)
    graded: ClassVar[bool] = True

    def _split(self, a: Array) -> tuple[Array, Array]:
        n = self.target.size
        return a[:-n].reshape(len(self.counts), n), a[-n:]

    def factors(self, a: Array) -> tuple:
        """s_j, for every factor."""
        s, _ = self._split(a)
        return tuple(row for row, count in zip(s, self.counts, strict=True) for _ in range(count))

    def _powers(self, s: Array) -> Array:
        return jnp.stack([row**count for row, count in zip(s, self.counts, strict=True)])

    def _products(self, s: Array) -> Array:
        return jnp.prod(self._powers(s), axis=0)

    def coordinates(self):
        firsts = np.cumsum([0, *self.counts[:-1]])
        s = jnp.stack([jnp.broadcast_to(self.template.factors[j][0, 0], self.target.shape) for j in firsts])
        return jnp.append(jnp.ravel(s), self._products(s) - self.target)

    def at(self, a):
        W = tuple((self.vectors * s[None]) @ self.vectors.T for s in self.factors(a))
        return eqx.tree_at(lambda m: m.factors, self.template, W)

    def outputs(self, a, X):
        return self.gain * self._split(a)[1]

    def _pulled(self, a: Array) -> tuple[Array, Array]:
        """What a unit of weight moves s and r by."""
        s, _ = self._split(a)
        powers = self._powers(s)
        # The product of all factors but one of run k.
        others = [
            s[k] ** (count - 1) * jnp.prod(jnp.delete(powers, k, axis=0, assume_unique_indices=True), axis=0)
            for k, count in enumerate(self.counts)
        ]
        v = self.gain * jnp.stack(others)
        return v, self._slope(jnp.stack(others) * v)

    def _slope(self, v: Array) -> Array:
        return jnp.asarray(self.counts, float) @ v

    def velocity(self, a, X, c):
        own, push = self._pulled(a)
        v = own * c[None]
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
        slope = top * jnp.sum(self._slope((v / top) ** 2))
        return Velocity(jnp.append(jnp.ravel(v), push * c) / top, jnp.log(top), slope)

    def velocities(self, a, X):
        own, push = self._pulled(a)
        return jnp.concatenate([jnp.diag(v) for v in (*own, push)], axis=1), jnp.zeros(())

    def jacobian(self, a, X):
        n = self.target.size
        return jnp.concatenate([jnp.zeros((n, n * len(self.counts))), self.gain * jnp.eye(n)], axis=1)

    def length(self, a):
        return jnp.sqrt(jnp.sum(self._split(a)[0] ** 2) / a.size)

    def _units(self, a: Array) -> Array:
        """For every eigenvalue the largest of its s: a smaller one is moved in proportion to it."""
        return jnp.max(jnp.abs(self._split(a)[0]), axis=0)

    def extent(self, a):
        sizes = jnp.append(self._units(a), jnp.abs(self._split(a)[1]))
        return jnp.min(jnp.where(sizes > 0, sizes, jnp.inf))

    def error(self, e, a0, a1):
        size = jnp.maximum(self._units(a0), self._units(a1))
        moved = self._split(e)[0]
        ratio = jnp.where(moved == 0, 0.0, moved / jnp.where(size > 0, size, jnp.finfo(e.dtype).tiny)[None])
        return jnp.sqrt(jnp.mean(ratio**2))

    def tidied(self, a, rates):
        """s and r without what their errors add up to: small residuals are right, small s too."""
        s, r = self._split(a)
        learned = jnp.abs(r) < 0.5 * jnp.abs(self.target)
        ratio = jnp.where(learned, (self.target + r) / jnp.where(learned, self._products(s), 1.0), 1.0)
        # Of a product that is all but learned the ratio is near one, whatever the signs.
        s = s * (jnp.abs(ratio) ** (1.0 / sum(self.counts)))[None]
        r = jnp.where(learned, r, self._products(s) - self.target)
        return jnp.append(jnp.ravel(s), r), rates

    def readout(self, a: Array) -> Any:
        return None


def runs_of_multiples(factors: Any) -> tuple[int, ...] | None:
    """How many factors in a row are the same multiple of the identity; None where one is no multiple of it, or zero."""
    arrays = [np.asarray(W) for W in factors]
    if not all(W[0, 0] != 0 and np.array_equal(W, W[0, 0] * np.eye(len(W))) for W in arrays):
        return None
    return tuple(len(list(run)) for _, run in itertools.groupby(W[0, 0] for W in arrays))
