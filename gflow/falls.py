"""Whether rounding decides how a unit of a factorization grows that had to shrink first.

A unit whose factors pull the wrong way shrinks by what they have in common, and grows again by what they have not: of
balanced factors only the sum, or the difference, of a small part of each. When both sides of a unit have fallen to a
share f of their size, what is left differs from what cancelled by f^2 (squares of factors keep their difference), and
eps / f^2 of it is rounding, of the start as of the steps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Rounding of a run, as measured.
_ROUNDING = 4 * float(jnp.finfo(jnp.float64).eps)
# A unit so many times as large as it was at least grows again.
_GROWS = 10.0
# In rtol.
_ALLOWED = 10.0


class Falls(eqx.Module):
    """The largest sizes so far of both sides of each unit, the least share of them since, and which unit it is."""

    largest: Float[Array, "2 cuts k"]
    least: Float[Array, "cuts k"]
    unit: Int[Array, " k"]

    @classmethod
    def begin(cls, sizes: Float[Array, "2 cuts k"], unit: Int[Array, " k"]) -> "Falls":
        return cls(jax.lax.stop_gradient(sizes), jnp.ones(sizes.shape[1:]), unit)

    def passing(
        self, sizes: Float[Array, "2 cuts k"], unit: Int[Array, " k"], rtol: Array
    ) -> tuple["Falls", Bool[Array, ""]]:
        """After a step; and whether a unit grows again of which rounding is more than `rtol` allows."""
        sizes, rtol = jax.lax.stop_gradient((sizes, rtol))
        share = jnp.max(sizes / jnp.where(self.largest > 0, self.largest, jnp.inf), axis=0)
        least = jnp.minimum(self.least, share)
        same = (unit == self.unit)[None]
        seeded = same & (share > _GROWS * least) & (_ROUNDING > _ALLOWED * rtol * least**2)
        largest = jnp.where(same[None], jnp.maximum(self.largest, sizes), sizes)
        return Falls(largest, jnp.where(same & (share < 1.0), least, 1.0), unit), jnp.any(seeded)
