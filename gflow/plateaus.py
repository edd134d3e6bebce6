"""Whether rounding has a part in when a flow leaves a plateau.

Between two saddles the flow all but rests, while the direction in which it will leave grows, from a size b that it had
when the last fast motion ended. Rounding of coordinates of size one puts eps into that direction as well, which grows
with it: the exit comes earlier or later by eps / b over the rate of growth. A model whose chart keeps small directions
apart does not suffer this (see `gflow.graded`, `gflow.turned`); one that runs in its parameters does, whatever the
tolerance. Only exits that are sharp, faster by a thousand, are seen here.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_EPS = float(jnp.finfo(jnp.float64).eps)
# A flow that has become so much faster has left its plateau; one that rests for good does not, by rounding.
_LEAVES = math.log(1e3)
# The estimate is up to 20 times too large, and errors that add up over a run are a few times rtol anyway.
_SHARE = 5.0


class Plateaus(eqx.Module):
    """What is remembered of a path: times, and rests, the times in which the coordinates move by their own size. All
    are logarithms."""

    # When the fast motion before the first plateau ended, and whether it has.
    begin: Float[Array, ""]
    begun: Bool[Array, ""]
    # Since the last plateau was left: the least rest, the longest after it, and when.
    least: Float[Array, ""]
    longest: Float[Array, ""]
    at: Float[Array, ""]

    @classmethod
    def none(cls) -> "Plateaus":
        start = jnp.full((), -jnp.inf, float)
        return cls(start, jnp.zeros((), bool), -start, start, start)

    def passing(self, before: Array, time: Array, length: Array, rtol: Array) -> tuple["Plateaus", Bool[Array, ""]]:
        """After a step of so many times the size of the coordinates, and log t before and after it; and whether it
        leaves a plateau with a log t that rounding has shifted by more than `rtol`."""
        before, time, length, rtol = jax.lax.stop_gradient((before, time, length, rtol))
        rest = time + jnp.log(-jnp.expm1(before - time)) - jnp.log(length)
        # Beyond log t = 1e9 steps are not much longer than the rounding of log t.
        known = jnp.isfinite(rest) & (time < 1e9)
        faster = rest < self.least
        begun = self.begun | (rest - self.least > _LEAVES)
        leaves = self.longest - rest > _LEAVES
        # At the rate at which it leaves, the direction has grown since `begin`.
        share = -jnp.expm1(self.begin - self.at) / jnp.expm1(time - self.at)
        shift = math.log(_EPS) + self.longest - time + (self.longest - rest) * share
        seeded = known & leaves & (shift > jnp.log(_SHARE * rtol))
        anew = faster | leaves
        later = Plateaus(
            begin=jnp.where((rest < self.least + 1.0) & ~begun, time, self.begin),
            begun=begun,
            least=jnp.where(anew, rest, self.least),
            longest=jnp.where(anew | (rest > self.longest), rest, self.longest),
            at=jnp.where(anew | (rest > self.longest), time, self.at),
        )
        return jax.tree.map(lambda new, old: jnp.where(known, new, old), later, self), seeded
