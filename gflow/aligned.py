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
from .turned import LEAST


class AlignedChart(AbstractChart):
    """Coordinates (s, r): for each eigenvector the s of the factors that begin smallest, and the residual p - lambda.

    All other s follow: the flow keeps s_j^2 - s_k^2 (balancedness). As coordinates of their own they would lose what
    tells them apart where it is small, and with it when negative eigenvalues are learned."""

    template: MatrixFactorization
    # V and lambda
    vectors: Float[Array, "n n"]
    target: Float[Array, " n"]
    # X is this multiple of an orthogonal matrix: outputs are the residual times it.
    gain: Float[Array, ""]
    # How many factors in a row are the same multiple of I.
    counts: tuple[int, ...] = eqx.field(static=True)
    graded: ClassVar[bool] = True

    def _split(self, a: Array) -> tuple[Array, Array]:
        n = self.target.size
        return a[:-n], a[-n:]

    @property
    def _multiples(self) -> Array:
        """That every run of equal factors begins with."""
        firsts = np.cumsum([0, *self.counts[:-1]])
        return jnp.stack([self.template.factors[j][0, 0] for j in firsts])

    @property
    def _least(self) -> Array:
        return jnp.argmin(jnp.abs(self._multiples))

    def _rows(self, s: Array) -> Array:
        """s_k of every run."""
        begin, least = self._multiples, self._multiples[self._least]
        # Differences of float64 numbers that are near each other are exact.
        apart = jnp.sqrt((jnp.abs(begin) - jnp.abs(least)) * (jnp.abs(begin) + jnp.abs(least)))[:, None]
        equal = apart == 0
        larger = jnp.hypot(jnp.where(equal, 1.0, s[None]), apart) * jnp.sign(begin)[:, None]
        return jnp.where(equal, s[None] * (jnp.sign(begin) * jnp.sign(least))[:, None], larger)

    def factors(self, a: Array) -> tuple:
        """s_j, for every factor."""
        rows = self._rows(self._split(a)[0])
        return tuple(row for row, count in zip(rows, self.counts, strict=True) for _ in range(count))

    def _powers(self, rows: Array) -> Array:
        return jnp.stack([row**count for row, count in zip(rows, self.counts, strict=True)])

    def _products(self, s: Array) -> Array:
        return jnp.prod(self._powers(self._rows(s)), axis=0)

    def coordinates(self):
        s = jnp.broadcast_to(self._multiples[self._least], self.target.shape)
        return jnp.append(s, self._products(s) - self.target)

    def at(self, a):
        W = tuple((self.vectors * s[None]) @ self.vectors.T for s in self.factors(a))
        return eqx.tree_at(lambda m: m.factors, self.template, W)

    def outputs(self, a, X):
        return self.gain * self._split(a)[1]

    def _pulled(self, a: Array) -> tuple[Array, Array]:
        """What a unit of weight moves s_k of every run and r by."""
        rows = self._rows(self._split(a)[0])
        powers = self._powers(rows)
        # The product of all factors but one of run k.
        others = [
            rows[k] ** (count - 1) * jnp.prod(jnp.delete(powers, k, axis=0, assume_unique_indices=True), axis=0)
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
        return Velocity(jnp.append(v[self._least], push * c) / top, jnp.log(top), slope)

    def velocities(self, a, X):
        own, push = self._pulled(a)
        return jnp.concatenate([jnp.diag(own[self._least]), jnp.diag(push)], axis=1), jnp.zeros(())

    def jacobian(self, a, X):
        n = self.target.size
        return jnp.concatenate([jnp.zeros((n, n)), self.gain * jnp.eye(n)], axis=1)

    def length(self, a):
        return jnp.sqrt(jnp.sum(self._units(a) ** 2) / a.size)

    def _units(self, a: Array) -> Array:
        """For every eigenvalue the largest of its s: a smaller one is moved in proportion to it."""
        return jnp.max(jnp.abs(self._rows(self._split(a)[0])), axis=0)

    def extent(self, a):
        sizes = jnp.append(self._units(a), jnp.abs(self._split(a)[1]))
        return jnp.min(jnp.where(sizes > 0, sizes, jnp.inf))

    def error(self, e, a0, a1):
        size = jnp.maximum(self._units(a0), self._units(a1))
        moved = self._split(e)[0]
        ratio = jnp.where(moved == 0, 0.0, moved / jnp.where(size > 0, size, jnp.finfo(e.dtype).tiny))
        return jnp.sqrt(jnp.mean(ratio**2))

    def tidied(self, a, rates):
        """s and r without what their errors add up to: small residuals are right, small s too."""
        s, r = self._split(a)
        learned = jnp.abs(r) < 0.5 * jnp.abs(self.target)
        ratio = jnp.where(learned, (self.target + r) / jnp.where(learned, self._products(s), 1.0), 1.0)
        # Of a product that is all but learned the ratio is near one, whatever the signs: a Newton step.
        safe = jnp.where(learned & (s != 0), s, 1.0)
        growth = self._slope((safe[None] / self._rows(safe)) ** 2)
        s = jnp.where(learned & (s != 0), safe * jnp.abs(ratio) ** (1.0 / growth), s)
        # What has died out stays so, and would leave float64.
        died = self._units(jnp.append(s, r)) < LEAST * jnp.abs(self._multiples[self._least])
        s = jnp.where(died, 0.0, s)
        r = jnp.where(learned, r, self._products(s) - self.target)
        r = jnp.where(jnp.abs(r) < LEAST * jnp.max(jnp.abs(r)), 0.0, r)
        return jnp.append(s, r), rates

    def readout(self, a: Array) -> Any:
        return None


def runs_of_multiples(factors: Any) -> tuple[int, ...] | None:
    """How many factors in a row are the same multiple of the identity; None where one is no multiple of it, or zero."""
    arrays = [np.asarray(W) for W in factors]
    if not all(W[0, 0] != 0 and np.array_equal(W, W[0, 0] * np.eye(len(W))) for W in arrays):
        return None
    return tuple(len(list(run)) for _, run in itertools.groupby(W[0, 0] for W in arrays))
