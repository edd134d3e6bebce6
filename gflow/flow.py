"""The vector field of model + data + loss, in the model's chart, along its arc length.

With gamma = -log L and d tau = L dt, the gradient flow d theta / dt = -grad L is d theta / d tau = grad gamma. Steps
are taken in the arc length s of the chart, in which the path is regular at saddles (e-folds of growth) and grows like
log gamma late. Physical time rides along as F = t L, which obeys dF / d tau = 1 - F d gamma / d tau and neither
overflows nor loses digits; log t = log F + gamma. Of the square loss gamma drowns in rounding where residuals do, and t
does not: there it is t itself, dt / d tau = 1 / L. Either is kept relative to a constant `gauge`, since its size may
lie outside float64.
"""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .charts import AbstractChart
from .losses import AbstractLoss, MarginLoss, Square

_EPS = float(jnp.finfo(jnp.float64).eps)


class Rate(NamedTuple):
    """Derivatives along the arc length s."""

    coordinates: Float[Array, " P"]
    gamma: Float[Array, ""]
    log_tau: Float[Array, ""]


class Flow(eqx.Module):
    """A gradient flow. Its state is the vector (coordinates, time). `y` has an entry for every observed output."""

    chart: AbstractChart
    X: Array
    y: Float[Array, " N"]
    loss: AbstractLoss
    # Whether only explicit solvers can follow it.
    explicit: ClassVar[bool] = False

    def gamma(self, a: Float[Array, " P"]) -> Float[Array, ""]:
        return self._gamma(self.chart.outputs(a, self.X))

    def _gamma(self, outputs: Array) -> Array:
        return self.loss.neg_log_mean(outputs, self.y) - self.log_terms

    @property
    def log_terms(self) -> float:
        """The log of how many times the mean over all outputs the loss is."""
        # Where a sample has several outputs, y holds them all; the mean is one over the samples.
        return math.log(self.y.size / (self.X.shape[0] if self.loss.reduction == "mean" else 1))

    @property
    def counts_time(self) -> bool:
        """Whether the state holds t, and not F."""
        return isinstance(self.loss, Square)

    def log_unit(self, gamma: Array) -> Array:
        """The log of what the time in the state is to be multiplied by."""
        return jnp.zeros_like(gamma) if self.counts_time else gamma

    def rate(self, a: Float[Array, " P"]) -> Rate:
        c = self.loss.weights(self.chart.outputs(a, self.X), self.y)
        v = self.chart.velocity(a, self.X, c)
        pace = 1.0 / self.chart.speed(a, v.direction)
        return Rate(v.direction * pace, v.slope * pace, jnp.log(pace) - v.log_speed)

    def field(self, s: Any, state: Float[Array, " P+1"], gauge: Float[Array, ""]) -> Float[Array, " P+1"]:
        del s
        return self.rates(state, gauge)[0]

    def rates(self, state: Float[Array, " P+1"], gauge: Float[Array, ""]) -> tuple[Array, Array, Array]:
        """Derivatives of the state, of gamma and of log t along the arc length."""
        a, time = state[:-1], state[-1]
        rate = self.rate(a)
        pace = jnp.exp(self.log_pace(a, rate) - gauge)
        decay = 0.0 if self.counts_time else time * rate.gamma
        return jnp.append(rate.coordinates, pace - decay), rate.gamma, pace / time

    def log_pace(self, a: Float[Array, " P"], rate: Rate) -> Float[Array, ""]:
        """The log of how fast the time in the state grows by itself."""
        return rate.log_tau + (self.gamma(a) if self.counts_time else 0.0)

    def log_time(self, state: Float[Array, " P+1"], gauge: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.log(state[-1]) + gauge + self.log_unit(self.gamma(state[:-1]))

    def sight(self, a: Float[Array, " P"]) -> "Sight":
        """What is read off at `a`, against which errors are measured."""
        outputs = self.chart.outputs(a, self.X)
        beta = self.chart.readout(a)
        return self._sight(outputs, jnp.zeros(()) if beta is None else beta)

    def _sight(self, outputs: Array, beta: Array) -> "Sight":
        gamma = self._gamma(outputs)
        return Sight(
            gamma,
            self.log_unit(gamma),
            self.loss.rounding(outputs, self.y),
            self.loss.output_scale(outputs, self.y),
            jnp.max(jnp.abs(beta)),
        )

    def all_rounding(self, sight: "Sight") -> Bool[Array, ""]:
        """Whether the loss says nothing any more."""
        return jnp.asarray(isinstance(self.loss, Square)) & (sight.rounding > 0.5)

    def at_floor(self, outputs: Float[Array, " N"]) -> Bool[Array, ""]:
        """Whether residuals are at rounding level."""
        if not isinstance(self.loss, Square):
            return jnp.asarray(False)
        size = jnp.linalg.norm(self.y)
        # Where all targets are zero, what remains of the outputs at the start.
        begin = jnp.linalg.norm(self.chart.outputs(self.chart.coordinates(), self.X))
        return jnp.linalg.norm(outputs - self.y) <= 1e-12 * jnp.where(size > 0, size, begin)

    def at_rest(self, a: Float[Array, " P"]) -> Bool[Array, ""]:
        """Whether the velocity is zero, exactly."""
        c = self.loss.weights(self.chart.outputs(a, self.X), self.y)
        return self.chart.velocity(a, self.X, c).log_speed == -jnp.inf

    def outlasts_float64(self, a: Float[Array, " P"], log_time: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether what relaxes fast at `a` has rested for so long that float64 cannot say how the rest moves."""
        return jnp.asarray(False)

    def terms(self, outputs: Float[Array, " N"], beta: Array) -> Float[Array, " N"]:
        """What rounding of the outputs is relative to: of margins whose terms cancel, not to what they leave. Residuals
        are themselves what is left, and all their digits count."""
        cancel = self.chart.linear and isinstance(self.loss, MarginLoss)
        return jnp.abs(self.X) @ jnp.abs(beta) if cancel else jnp.abs(outputs)

    def error(self, e: Float[Array, " P+1"], before: Array, seen: "Sight", after: Array) -> tuple[Array, "Sight"]:
        """Relative size of the error `e` of a step, the largest of what it does to the coordinates, to beta, to the
        outputs on the data and to the time; and what is seen after the step. Nothing has an absolute floor."""
        a1, ea = after[:-1], e[:-1]

        def look(a):
            beta = self.chart.readout(a)
            return self.chart.outputs(a, self.X), jnp.zeros(()) if beta is None else beta

        (outputs, beta), (de, dbeta) = jax.jvp(look, (a1,), (ea,))
        sight = self._sight(outputs, beta)
        # What lies within rounding, of the outputs or of gamma, is no error of the step: near-zero residuals are full
        # of it.
        within = 8 * _EPS * self.terms(outputs, beta)
        noise = jnp.clip(de, -within, within)
        # A step too far blows up the outputs and with them the rounding that it could hide behind.
        rounding = jnp.minimum(sight.rounding, seen.rounding)
        sizes = (
            self.chart.error(ea, before[:-1], a1),
            _rms(_ratio(de - noise, jnp.maximum(sight.output_scale, seen.output_scale))),
            _rms(_ratio(dbeta, jnp.maximum(sight.beta_size, seen.beta_size))),
            jnp.maximum(jnp.abs(_ratio(e[-1], after[-1])) - 8 * rounding, 0.0),
        )
        return jnp.max(jnp.stack(sizes)), sight


class Sight(NamedTuple):
    """Read off a state: gamma, the log of what time is counted in, the rounding error of gamma, and the sizes of
    outputs and beta."""

    gamma: Float[Array, ""]
    log_unit: Float[Array, ""]
    rounding: Float[Array, ""]
    output_scale: Float[Array, " N"]
    beta_size: Float[Array, ""]


def _ratio(e: Array, scale: Array) -> Array:
    return jnp.where(e == 0, 0.0, e / jnp.where(scale == 0, jnp.finfo(e.dtype).tiny, scale))


def _rms(v: Array) -> Array:
    return jnp.sqrt(jnp.mean(v**2))
