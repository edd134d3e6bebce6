"""Diagonal linear networks, beta = u_+^D - u_-^D, in their logarithmic chart.

Model of Woodworth et al. 2020 (arXiv 2002.09277) and Moroshko et al. 2020 (arXiv 2007.06738). From u(0) = scale > 0 the
parameters never change sign, so the chart is a = log(u / scale). It keeps relative accuracy where u itself would hide
below any tolerance (scale 1e-60) and where u_+^D - u_-^D would cancel (scale 1e3).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..charts import AbstractChart, Velocity


@jax.custom_jvp
def exp_difference(mean: Array, half: Array) -> Array:
    """e^(mean + half) - e^(mean - half), to full relative accuracy also where half is tiny."""
    near = jnp.abs(half) < 1.0
    small = 2.0 * jnp.exp(mean) * jnp.sinh(jnp.where(near, half, 0.0))
    return jnp.where(near, small, jnp.exp(mean + half) - jnp.exp(mean - half))


@exp_difference.defjvp
def _(primals, tangents):
    mean, half = primals
    dmean, dhalf = tangents
    value = exp_difference(mean, half)
    return value, value * dmean + (jnp.exp(mean + half) + jnp.exp(mean - half)) * dhalf


class DiagonalNetwork(eqx.Module):
    """f(x) = beta . x with beta = u_+^depth - u_-^depth, started at u_+ = u_- = scale (so beta = 0).

    **Arguments:**

    - `dim`: number of inputs d.
    - `depth`: D >= 2. For depth 1 see `LinearModel`.
    - `scale`: initial scale alpha > 0, a number or one per coordinate, shape (d,). From 1e-60 to 1e3 beta and log L
      keep their relative accuracy (as far as alpha^depth itself is a float64).

    `log_ratio`, shape (2, d), holds log(u_+ / scale) and log(u_- / scale) and is what the flow moves; `scale` is a
    hyperparameter and stays. Saved networks carry a leading save axis on both, and `beta` follows it.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> model = gflow.models.DiagonalNetwork(dim=4, depth=3, scale=0.1)
        >>> model.beta.shape, float(model(jnp.ones(4)))
        ((4,), 0.0)

        ```
    """

    log_ratio: Float[Array, "*saves 2 d"]
    log_scale: Float[Array, "*saves d"]
    depth: int = eqx.field(static=True)

    def __init__(self, dim: int, depth: int = 2, scale: Float[Array, ""] | Float[Array, " d"] | float = 0.1):
        dim, depth = (int(v) if isinstance(v, np.integer) else v for v in (dim, depth))
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim must be a positive integer, not {dim!r}.")
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 2:
            raise ValueError(
                f"depth must be an integer of at least 2, not {depth!r}; use gflow.models.LinearModel for depth 1."
            )
        try:
            scale = jnp.asarray(scale, float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"scale must be a positive number or an array of them, not {scale!r}.") from error
        if scale.shape not in ((), (dim,)):
            raise ValueError(f"scale must be a number or have shape ({dim},), not shape {scale.shape}.")
        if not isinstance(scale, Tracer) and not bool(jnp.all((scale > 0) & jnp.isfinite(scale))):
            raise ValueError(f"scale must be positive and finite, not {scale}.")
        self.log_ratio = jnp.zeros((2, dim))
        self.log_scale = jnp.broadcast_to(jnp.log(scale), (dim,))
        self.depth = depth

    @property
    def scale(self) -> Float[Array, "*saves d"]:
        """Initial scale of each coordinate."""
        return jnp.exp(self.log_scale)

    @property
    def weights(self) -> Float[Array, "*saves 2 d"]:
        """u_+ and u_-."""
        return jnp.exp(self.log_scale[..., None, :] + self.log_ratio)

    @property
    def beta(self) -> Float[Array, "*saves d"]:
        """The linear predictor u_+^depth - u_-^depth."""
        plus, minus = self.log_ratio[..., 0, :], self.log_ratio[..., 1, :]
        return exp_difference(
            self.depth * (self.log_scale + (plus + minus) / 2.0), self.depth * (plus - minus) / 2.0
        )

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.beta @ x

    def chart(self) -> "LogarithmicChart":
        return LogarithmicChart(self)


class LogarithmicChart(AbstractChart):
    """a = log(u / scale), with metric diag(u^2): da_+- / d tau = +-D u_+-^(D-2) X^T c."""

    template: DiagonalNetwork

    def coordinates(self):
        return self.template.log_ratio.reshape(-1)

    def at(self, a):
        return eqx.tree_at(lambda m: m.log_ratio, self.template, a.reshape(2, -1))

    def outputs(self, a, X):
        return X @ self.at(a).beta

    def _log_u(self, a: Array) -> Array:
        return self.template.log_scale[None] + a.reshape(2, -1)

    def velocity(self, a, X, c):
        depth, log_u = self.template.depth, self._log_u(a)
        g = X.T @ c
        push = jnp.stack([g, -g])
        # u^(D-2) may lie outside float64, so its largest value goes to the speed.
        exponent = (depth - 2) * log_u
        top = jax.lax.stop_gradient(jnp.max(jnp.where(push != 0, exponent, -jnp.inf)))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        direction = push * jnp.exp(jnp.where(push != 0, exponent - top, 0.0))
        slope = jnp.sum(depth * jnp.exp(depth * log_u) * push * direction)
        return Velocity(direction.reshape(-1), top + jnp.log(float(depth)), slope)

    def jacobian(self, a, X):
        depth = self.template.depth
        rate = depth * jnp.exp(depth * self._log_u(a))
        return jnp.concatenate([X * rate[:1], -X * rate[1:]], axis=1)

    def velocities(self, a, X):
        depth = self.template.depth
        exponent = (depth - 2) * self._log_u(a)
        top = jax.lax.stop_gradient(jnp.max(jnp.where(jnp.any(X != 0, axis=0)[None], exponent, -jnp.inf)))
        rate = jnp.exp(exponent - top)
        return jnp.concatenate([X * rate[:1], -X * rate[1:]], axis=1), top + jnp.log(float(depth))

    def length(self, a):
        return jnp.ones((), a.dtype)

    def error(self, e, a0, a1):
        return jnp.sqrt(jnp.mean(e**2))
