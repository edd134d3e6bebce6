"""The velocity of a neuron on kinks: of least norm over pulls in a box."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..lapack import solve


class Decision(NamedTuple):
    """How one neuron goes on from kinks."""

    v: Float[Array, " r"]
    sides: Int[Array, " k"]
    holds: Float[Array, "k r"]
    unique: Bool[Array, ""]
    dependent: Bool[Array, ""]


def inverse(E: Array, which: Array) -> Array:
    """Inverse of the Gram matrix of the chosen directions; zero beside it."""
    both = which[:, None] & which[None]
    gram = jnp.where(both, E @ E.T, 0.0) + jnp.diag(jnp.where(which, 0.0, 1.0))
    return jnp.where(both, solve(gram, jnp.eye(len(gram))), 0.0)


def least_norm(E: Array, a: Array, sides: Array, box: Array, p: Array, n: Array) -> tuple[Array, Array]:
    """Sides at which |G| is least over mu_k in [p_k, n_k], k in `box`: principal pivoting by least index, which ends
    because the Gram matrix is positive definite (Murty 1974). Sides 0 outside of the box stay."""
    toward, scale = jnp.sign(p - n), jnp.sqrt(jnp.sum(p**2 + n**2))

    def wrong(sides):
        slides = sides == 0
        G = jnp.where(sides > 0, p, jnp.where(sides < 0, n, 0.0)) @ E
        back = inverse(E, slides)
        mu = -(back @ (E @ G))
        speed = jnp.sign(a) * (E @ (G + mu @ E))
        small = 1e-13 * scale
        above, below = slides & ((p - mu) * toward < -small), slides & ((mu - n) * toward < -small)
        inward = ((sides > 0) & (speed < -small)) | ((sides < 0) & (speed > small))
        to = jnp.where(above, 1, jnp.where(below, -1, 0))
        bad = box & (above | below | inward)
        first = jnp.argmax(bad)
        return jnp.where((jnp.arange(sides.size) == first) & bad, to, sides), back @ E, jnp.any(bad)

    def pivot(carry):
        sides, _, _, count = carry
        return *wrong(sides), count + 1

    # The last pass changes nothing, and its inverse belongs to the sides that are left.
    unfinished = lambda carry: carry[2] & (carry[3] < 20 + 10 * sides.size)
    start = (sides, jnp.zeros_like(E), jnp.asarray(True), 0)
    sides, holds, _, _ = jax.lax.while_loop(unfinished, pivot, start)
    return sides, holds
