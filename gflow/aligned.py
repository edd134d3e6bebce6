"""The flow of factors that are all the same multiple of the identity, towards a symmetric target.

They stay equal to each other and keep the eigenvectors of the target (Chou et al. 2020, arXiv 2011.13772):
W_j = V diag(s) V^T, s_i' = s_i^(N-1) (lambda_i - s_i^N), up to the constants of the loss, and negative eigenvalues are
never learned. In coordinates of all factors rounding would tell one factor from another; that grows like
e^(|lambda| t), and they would be.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .charts import AbstractChart, Velocity
from .models import MatrixFactorization


class AlignedChart(AbstractChart):
    """Coordinates (s, r), r_i = s_i^N - lambda_i the residuals."""

    template: MatrixFactorization
    # V and lambda
    vectors: Float[Array, "n n"]
    target: Float[Array, " n"]
    # X is this multiple of an orthogonal matrix: outputs are the residual times it.
    gain: Float[Array, ""]
    graded: ClassVar[bool] = True

    @property
    def _depth(self) -> int:
        return len(self.template.factors)

    def _split(self, a: Array) -> tuple[Array, Array]:
        return a[: self.target.size], a[self.target.size :]

    def factors(self, a: Array) -> tuple:
        """s, for every factor."""
        return (self._split(a)[0],) * self._depth

    def coordinates(self):
        s = jnp.broadcast_to(self.template.factors[0][0, 0], self.target.shape)
        return jnp.append(s, s**self._depth - self.target)

    def at(self, a):
        s, _ = self._split(a)
        W = (self.vectors * s[None]) @ self.vectors.T
        return eqx.tree_at(lambda m: m.factors, self.template, (W,) * self._depth)

    def outputs(self, a, X):
        return self.gain * self._split(a)[1]

    def _pulled(self, a: Array) -> tuple[Array, Array]:
        """What a unit of weight moves s and r by."""
        s, _ = self._split(a)
        v = self.gain * s ** (self._depth - 1)
        return v, self._depth * s ** (self._depth - 1) * v

    def velocity(self, a, X, c):
        own, push = self._pulled(a)
        v = own * c
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
        return Velocity(jnp.append(v, push * c) / top, jnp.log(top), self._depth * top * jnp.sum((v / top) ** 2))

    def velocities(self, a, X):
        return jnp.concatenate([jnp.diag(v) for v in self._pulled(a)], axis=1), jnp.zeros(())

    def jacobian(self, a, X):
        n = self.target.size
        return jnp.concatenate([jnp.zeros((n, n)), self.gain * jnp.eye(n)], axis=1)

    def length(self, a):
        return jnp.sqrt(jnp.sum(self._split(a)[0] ** 2) / a.size)

    def extent(self, a):
        sizes = jnp.abs(a)
        return jnp.min(jnp.where(sizes > 0, sizes, jnp.inf))

    def error(self, e, a0, a1):
        e, before, after = (self._split(v)[0] for v in (e, a0, a1))
        size = jnp.maximum(jnp.abs(before), jnp.abs(after))
        ratio = jnp.where(e == 0, 0.0, e / jnp.where(size > 0, size, jnp.finfo(e.dtype).tiny))
        return jnp.sqrt(jnp.mean(ratio**2))

    def tidied(self, a, rates):
        """s and r without what their errors add up to: small residuals are right, small s too."""
        s, r = self._split(a)
        learned = jnp.abs(r) < 0.5 * jnp.abs(self.target)
        power = s**self._depth
        ratio = jnp.where(learned, (self.target + r) / jnp.where(learned, power, 1.0), 1.0)
        # Of a power that is all but learned the ratio is near one, whatever the signs.
        s = s * jnp.abs(ratio) ** (1.0 / self._depth)
        return jnp.append(s, jnp.where(learned, r, s**self._depth - self.target)), rates

    def readout(self, a: Array) -> Any:
        return None
