"""Diagonal linear networks, beta = u_+^D - u_-^D, in their logarithmic chart.

Model of Woodworth et al. 2020 (arXiv 2002.09277) and Moroshko et al. 2020 (arXiv 2007.06738). From u(0) = scale > 0 the
parameters never change sign, so the chart is made of log u. It keeps relative accuracy where u itself would hide below
any tolerance (scale 1e-60) and where u_+^D - u_-^D would cancel (scale 1e3).
"""

import functools
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..charts import AbstractChart, Velocity

_LOG_2 = math.log(2.0)


@jax.custom_jvp
def exp_difference(mean: Array, half: Array) -> Array:
    """e^(mean + half) - e^(mean - half), to full relative accuracy also where half is tiny."""
    larger, lost = _larger(mean, half)
    return -jnp.sign(half) * larger * lost


def _larger(mean: Array, half: Array) -> tuple[Array, Array]:
    """The larger of e^(mean +- half), and the other divided by it, minus one."""
    size = jnp.abs(half)
    return jnp.exp(mean + size), jnp.expm1(-2.0 * size)


@exp_difference.defjvp
def _(primals, tangents):
    mean, half = primals
    dmean, dhalf = tangents
    larger, lost = _larger(mean, half)
    value = exp_difference(mean, half)
    return value, value * dmean + larger * (2.0 + lost) * dhalf


# One program: read outside of jit, every operation of it would be compiled by itself.
@functools.partial(jax.jit, static_argnames="depth", inline=True)
def _beta(log_scale: Array, log_ratio: Array, depth: int) -> Array:
    plus, minus = log_ratio[..., 0, :], log_ratio[..., 1, :]
    return exp_difference(depth * (log_scale + (plus + minus) / 2.0), depth * (plus - minus) / 2.0)


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
        if not isinstance(scale, Tracer) and not np.all((np.asarray(scale) > 0) & np.isfinite(scale)):
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
        return _beta(self.log_scale, self.log_ratio, self.depth)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.beta @ x

    def chart(self) -> "LogarithmicChart":
        return LogarithmicChart(self)

    def descent_chart(self) -> "WeightsChart":
        return WeightsChart(self)


class WeightsChart(AbstractChart):
    """log(u / scale), for straight steps in the weights u = (u_+, u_-), which do not keep what the flow keeps.

    d log u_+- / d tau = +-D u_+-^(D-2) (X^T w), w_n = d gamma / d f_n.
    """

    template: DiagonalNetwork
    linear: ClassVar[bool] = True

    def coordinates(self):
        return jnp.ravel(self.template.log_ratio)

    def at(self, a):
        return eqx.tree_at(lambda m: m.log_ratio, self.template, a.reshape(self.template.log_ratio.shape))

    def outputs(self, a, X):
        return X @ self.at(a).beta

    def moved(self, a, d):
        return a + jnp.log1p(d)

    def displacement(self, a, b):
        return -jnp.expm1(b - a)

    def inverse_metric(self, a):
        return jnp.ravel(self.at(a).weights) ** -2.0

    def velocity(self, a, X, c):
        unit, top = self._log_powers(a)
        push = X.T @ c
        direction = jnp.ravel(jnp.stack([push, -push]) * unit)
        log_u = self.template.log_scale[None] + a.reshape(2, -1)
        slope = jnp.sum(self.template.depth * jnp.exp(2.0 * log_u) * unit * push[None] ** 2 * unit) * jnp.exp(top)
        return Velocity(direction, top + jnp.log(float(self.template.depth)), slope)

    def velocities(self, a, X):
        unit, top = self._log_powers(a)
        return jnp.concatenate([X * unit[0], -X * unit[1]], axis=1), top + jnp.log(float(self.template.depth))

    def _log_powers(self, a: Array) -> tuple[Array, Array]:
        """u^(D-2), whose largest value, perhaps outside float64, is apart."""
        powers = (self.template.depth - 2) * (self.template.log_scale[None] + a.reshape(2, -1))
        top = jax.lax.stop_gradient(jnp.max(powers))
        return jnp.exp(powers - top), top

    def length(self, a):
        return jnp.ones((), a.dtype)

    def error(self, e, a0, a1):
        return jnp.sqrt(jnp.mean(e**2))


class LogarithmicChart(AbstractChart):
    """c = log(u_+ / u_-) / 2, one coordinate for each input.

    Along the flow u_+^(2-D) + u_-^(2-D) (for D = 2: u_+ u_-) stays as it is, so that c says all:
    log u_+- = mean +- c with mean = middle + log(cosh((D-2) c)) / (D-2), where `middle` belongs to c = 0. The metric
    gives dc / d tau = D e^((D-2) middle) cosh((D-2) c)^2 (X^T w), w_n = d gamma / d f_n, and
    beta = 2 e^(D mean) sinh(D c) has d beta / dc = 2 D e^(D middle) cosh((D-2) c)^(2/(D-2)) cosh((2D-2) c).
    """

    template: DiagonalNetwork
    linear: ClassVar[bool] = True

    @property
    def _kappa(self) -> int:
        return self.template.depth - 2

    @property
    def _middle(self) -> Array:
        c = self.coordinates()
        return self.template.log_scale + jnp.mean(self.template.log_ratio, axis=0) - self._lift(c)

    def _lift(self, c: Array) -> Array:
        return _log_cosh(self._kappa * c) / self._kappa if self._kappa else jnp.zeros_like(c)

    def coordinates(self):
        return (self.template.log_ratio[0] - self.template.log_ratio[1]) / 2.0

    def at(self, a):
        mean = self._middle - self.template.log_scale + self._lift(a)
        return eqx.tree_at(lambda m: m.log_ratio, self.template, jnp.stack([mean + a, mean - a]))

    def readout(self, a):
        depth = self.template.depth
        return exp_difference(depth * (self._middle + self._lift(a)), depth * a)

    def outputs(self, a, X):
        return X @ self.readout(a)

    def _log_speed(self, a: Array) -> Array:
        return self._kappa * self._middle + 2.0 * self._kappa * self._lift(a)

    def _log_slope(self, a: Array) -> Array:
        depth = self.template.depth
        lift = depth * self._middle + 2.0 * self._lift(a) + _log_cosh((2 * depth - 2) * a)
        return lift + jnp.log(2.0 * depth)

    def velocity(self, a, X, c):
        push = X.T @ c
        # u^(D-2) may lie outside float64, so its largest value goes to the speed.
        exponent = self._log_speed(a)
        top = jax.lax.stop_gradient(jnp.max(jnp.where(push != 0, exponent, -jnp.inf)))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        direction = push * jnp.exp(jnp.where(push != 0, exponent - top, 0.0))
        slope = jnp.sum(jnp.exp(self._log_slope(a)) * push * direction)
        return Velocity(direction, top + jnp.log(float(self.template.depth)), slope)

    def jacobian(self, a, X):
        return X * jnp.exp(self._log_slope(a))[None]

    def velocities(self, a, X):
        exponent = self._log_speed(a)
        top = jax.lax.stop_gradient(jnp.max(jnp.where(jnp.any(X != 0, axis=0), exponent, -jnp.inf)))
        return X * jnp.exp(exponent - top)[None], top + jnp.log(float(self.template.depth))

    def length(self, a):
        return jnp.ones((), a.dtype)

    def error(self, e, a0, a1):
        return jnp.sqrt(jnp.mean(e**2))


def _log_cosh(x: Array) -> Array:
    # To relative accuracy, or it would hide a c of 1e-16 in log u_+-.
    near = jnp.abs(x) < 1.0
    small, large = jnp.where(near, x, 0.0), jnp.where(near, 1.0, jnp.abs(x))
    near_value = jnp.log1p(2.0 * jnp.sinh(small / 2.0) ** 2)
    return jnp.where(near, near_value, large + jnp.log1p(jnp.exp(-2.0 * large)) - _LOG_2)
