"""Losses in the log domain.

Every loss is read through gamma = -log L and its derivative in the outputs, c_n = d gamma / d f_n. The flow in
rescaled time d tau = L dt is then d theta / d tau = sum_n c_n grad f_n, in which nothing underflows at any loss
(the rescaled flow of Lyu & Li 2020, arXiv 1906.05890, without the step size).
"""

import abc
import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPS = float(jnp.finfo(jnp.float64).eps)


class DualRows(NamedTuple):
    """The equations that tie dual variables to outputs and gamma, and their derivatives: one for every sample, and one
    that normalises."""

    miss: Float[Array, " N"]
    by_output: Float[Array, " N"]
    by_dual: Float[Array, " N"]
    by_gamma: Float[Array, " N"]
    # Of a classification loss: the margin, and what else the row holds but gamma, not scaled.
    margin: Float[Array, " N"]
    apart: Float[Array, " N"]
    sum_miss: Float[Array, ""]
    sum_by_output: Float[Array, " N"]
    sum_by_dual: Float[Array, " N"]


class AbstractLoss(eqx.Module):
    """A loss L = mean or sum over the samples of l(f_n, y_n).

    !!! example

        ```python
        >>> import gflow, jax, jax.numpy as jnp
        >>> loss, f, y = gflow.losses.Square(), jnp.array([0.5, 2.0]), jnp.array([1.0, 1.0])
        >>> bool(jnp.allclose(loss.weights(f, y), jax.grad(loss.neg_log)(f, y)))
        True

        ```
    """

    reduction: eqx.AbstractVar[Literal["mean", "sum"]]

    def __check_init__(self):
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', not {self.reduction!r}.")

    @abc.abstractmethod
    def neg_log_mean(self, f: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, ""]:
        """gamma of the mean loss."""

    def neg_log(self, f: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, ""]:
        """gamma = -log L, in nats, from the outputs `f` and the targets `y`."""
        shift = math.log(f.shape[0]) if self.reduction == "sum" else 0.0
        return self.neg_log_mean(f, y) - shift

    @abc.abstractmethod
    def weights(self, f: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, " N"]:
        """c_n = d gamma / d f_n. The same for mean and sum: they differ by a constant of gamma."""

    @abc.abstractmethod
    def output_scale(self, f: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, " N"]:
        """The size against which an error of the outputs is measured. It has no absolute floor."""

    @abc.abstractmethod
    def rounding(self, f: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, ""]:
        """The size of the rounding errors in gamma."""

    # An implicit step has a dual variable for every sample, which says how hard it pulls: d theta / ds =
    # e^R sum_n c_n grad f_n. Gamma is that of the mean loss here.

    @abc.abstractmethod
    def dual(self, f: Float[Array, " N"], y: Float[Array, " N"]) -> tuple[Float[Array, " N"], Float[Array, ""]]:
        """The dual variables and gamma that belong to the outputs `f`."""

    @abc.abstractmethod
    def pull(self, dual: Float[Array, " N"], y: Float[Array, " N"]) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """c_n and d c_n / d dual_n."""

    @abc.abstractmethod
    def dual_rows(self, f: Array, y: Array, dual: Array, gamma: Array, blur: Array) -> DualRows:
        """What the dual variables miss at outputs `f`; `blur` widens the kinks, for a homotopy."""

    @abc.abstractmethod
    def dual_slope(self, dual: Array, y: Array, gamma: Array) -> tuple[Float[Array, " N"], Float[Array, ""]]:
        """d gamma / d f_n, and the log of d tau / (e^R ds)."""

    @abc.abstractmethod
    def drawn(self, dual: Float[Array, " N"], found: Float[Array, " N"], gamma: Float[Array, ""]) -> Float[Array, " N"]:
        """A first guess from dual variables extrapolated and those `found` at extrapolated outputs, as is `gamma`."""

    @abc.abstractmethod
    def admissible(self, dual: Float[Array, " N"]) -> Float[Array, " N"]:
        """The nearest dual variables that Newton's method may go on from."""


def _log_sum_exp(z: Array) -> tuple[Array, Array]:
    """log sum e^z, and the share of each term in the sum."""
    top = jax.lax.stop_gradient(jnp.max(z))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    terms = jnp.exp(z - top)
    total = jnp.sum(terms)
    return jnp.log(total) + top, terms / total


class MarginLoss(AbstractLoss):
    """A loss l(m) of the margins m_n = y_n f_n, y_n in {-1, +1}, that falls like e^-m.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> log_slope, derivative = gflow.losses.Logistic().log_slope(jnp.array(700.0))
        >>> float(log_slope), float(derivative)
        (-700.0, -1.0)

        ```
    """

    @abc.abstractmethod
    def log_slope(self, m: Array) -> tuple[Array, Array]:
        """log(-l'(m)) and its derivative."""

    @abc.abstractmethod
    def log_ratio(self, m: Array) -> tuple[Array, Array]:
        """log(l(m) / -l'(m)) and its derivative."""

    def output_scale(self, f, y):
        # A margin that passes through zero is compared with the margins that carry the weight.
        c = self.weights(f, y)
        top = jnp.max(jnp.abs(f))
        safe = jnp.where(top > 0, top, 1.0)
        typical = safe * jnp.sqrt(jnp.sum(c**2 * (f / safe) ** 2) / jnp.sum(c**2))
        return jnp.maximum(jnp.abs(f), typical)

    def rounding(self, f, y):
        return _EPS * (1.0 + 2.0 * jnp.max(jnp.abs(f)))

    # The dual variable is the log-weight W_n = log(-l'(m_n)) + gamma - log N. Divided by gamma the rows are well
    # conditioned at any gamma: m + W = gamma is the central path of a complementarity problem with barrier 1 / gamma.

    def dual(self, f, y):
        gamma = self.neg_log_mean(f, y)
        return self.log_slope(y * f)[0] + gamma - math.log(f.shape[0]), gamma

    def pull(self, dual, y):
        c = y * jnp.exp(dual)
        return c, c

    def dual_rows(self, f, y, dual, gamma, blur):
        scale = jnp.maximum(1.0, jnp.abs(gamma))
        width = jnp.maximum(1.0, blur * scale)
        omega, domega = self.log_slope(y * f)
        rho, drho = self.log_ratio(y * f)
        total, p = _log_sum_exp(dual + rho)
        return DualRows(
            miss=(width * dual - omega - gamma + math.log(f.shape[0])) / scale,
            by_output=-y * domega / scale,
            by_dual=jnp.broadcast_to(width / scale, f.shape),
            by_gamma=jnp.broadcast_to(-1.0 / scale, f.shape),
            margin=y * f,
            apart=width * dual - jnp.where(y * f > 40.0, 0.0, omega + y * f) + math.log(f.shape[0]),
            sum_miss=total,
            sum_by_output=p * drho * y,
            sum_by_dual=p,
        )

    def dual_slope(self, dual, y, gamma):
        return y * jnp.exp(dual), jnp.zeros_like(gamma)

    def drawn(self, dual, found, gamma):
        # Of samples without weight whose margins agree with gamma to a part in a million, outputs say nothing.
        outputs_tell = (dual < -jnp.maximum(40.0, 1e-6 * gamma)) & (found < -40.0)
        return jnp.minimum(jnp.where(outputs_tell, found, dual), 0.7)

    def admissible(self, dual):
        return jnp.minimum(dual, 0.7)


class Exponential(MarginLoss):
    """l(f, y) = exp(-y f), y in {-1, +1}.

    **Arguments:**

    - `reduction`: "mean" (default) or "sum" over the samples. The path is the same; gamma is shifted by log N and
      physical time is divided by N.

    !!! example

        ```python
        >>> import jax.numpy as jnp, gflow
        >>> float(gflow.losses.Exponential().neg_log(jnp.array([1e6, 2e6]), jnp.array([1.0, 1.0])))  # log 2 above 1e6
        1000000.6931471806

        ```
    """

    reduction: Literal["mean", "sum"] = eqx.field(default="mean", static=True, kw_only=True)

    def neg_log_mean(self, f, y):
        m = y * f
        # Near m = 0 (small initial scales) the sum of exponentials is 1 up to rounding: keep what differs from 1.
        near = jnp.max(jnp.abs(m)) < 0.5
        fine = -jnp.log1p(jnp.mean(jnp.expm1(-jnp.where(near, m, 0.0))))
        return jnp.where(near, fine, math.log(m.shape[0]) - _log_sum_exp(-m)[0])

    def weights(self, f, y):
        return y * _log_sum_exp(-(y * f))[1]

    def log_slope(self, m):
        return -m, -jnp.ones_like(m)

    def log_ratio(self, m):
        return jnp.zeros_like(m), jnp.zeros_like(m)

    def rounding(self, f, y):
        top = jnp.max(jnp.abs(f))
        return _EPS * jnp.where(top < 0.5, top, 1.0 + 2.0 * top)


def _log_softplus(z: Array) -> Array:
    """log log(1 + e^z), also where e^z underflows."""
    # Below z = -40 the double logarithm equals z - e^z / 2 = z to the last bit.
    far = z < -40.0
    return jnp.where(far, z, jnp.log(jax.nn.softplus(jnp.where(far, 0.0, z))))


class Logistic(MarginLoss):
    """l(f, y) = log(1 + exp(-y f)), y in {-1, +1}.

    **Arguments:**

    - `reduction`: "mean" (default) or "sum" over the samples.

    !!! example

        ```python
        >>> import jax.numpy as jnp, gflow
        >>> float(gflow.losses.Logistic().neg_log(jnp.array([1e6]), jnp.array([1.0])))
        1000000.0

        ```
    """

    reduction: Literal["mean", "sum"] = eqx.field(default="mean", static=True, kw_only=True)

    def neg_log_mean(self, f, y):
        return math.log(f.shape[0]) - _log_sum_exp(_log_softplus(-y * f))[0]

    def weights(self, f, y):
        m = y * f
        logs = _log_softplus(-m)
        # Differences of numbers of size gamma come first: they are exact, the logarithm of a sum is not.
        top = jax.lax.stop_gradient(jnp.max(logs))
        return y * jnp.exp(jax.nn.log_sigmoid(-m) - top) / jnp.sum(jnp.exp(logs - top))

    def log_slope(self, m):
        return jax.nn.log_sigmoid(-m), -jax.nn.sigmoid(m)

    def log_ratio(self, m):
        ratio = _log_softplus(-m) - jax.nn.log_sigmoid(-m)
        return ratio, jax.nn.sigmoid(m) - jnp.exp(-ratio)


class Square(AbstractLoss):
    """l(f, y) = (f - y)^2 / 2, y real; for arrays of outputs ||f - y||^2 / 2, the sum over their entries.

    In float64 the residuals are at rounding level when L is about 1e-32 times the square of the targets; a run that
    is asked for less says so.

    **Arguments:**

    - `reduction`: "mean" (default) or "sum" over the samples.

    !!! example

        ```python
        >>> import jax.numpy as jnp, gflow
        >>> loss = gflow.losses.Square(reduction="sum")
        >>> float(jnp.exp(-loss.neg_log(jnp.array([1.0, 3.0]), jnp.array([0.0, 1.0]))))  # (1 + 4) / 2
        2.5

        ```
    """

    reduction: Literal["mean", "sum"] = eqx.field(default="mean", static=True, kw_only=True)

    def neg_log_mean(self, f, y):
        r = f - y
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(r)))
        safe = jnp.where(top == 0, 1.0, top)
        value = math.log(2.0 * r.shape[0]) - jnp.log(jnp.sum((r / safe) ** 2)) - 2.0 * jnp.log(safe)
        return jnp.where(top == 0, jnp.inf, value)

    def weights(self, f, y):
        r = f - y
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(r)))
        safe = jnp.where(top == 0, 1.0, top)
        return -2.0 * (r / safe) / jnp.sum((r / safe) ** 2) / safe

    # The dual variable is the residual relative to the norm of all: rho = (f - y) / |f - y|, |f - y|^2 = 2 N e^-gamma.

    def dual(self, f, y):
        gamma = self.neg_log_mean(f, y)
        return (f - y) * jnp.exp(0.5 * gamma) / math.sqrt(2.0 * f.shape[0]), gamma

    def pull(self, dual, y):
        return -dual, -jnp.ones_like(dual)

    def dual_rows(self, f, y, dual, gamma, blur):
        del blur
        per = jnp.exp(0.5 * gamma) / math.sqrt(2.0 * f.shape[0])
        found = (f - y) * per
        return DualRows(
            miss=found - dual,
            by_output=jnp.broadcast_to(per, f.shape),
            by_dual=-jnp.ones_like(dual),
            by_gamma=0.5 * found,
            margin=f,
            apart=found,
            sum_miss=0.5 * (jnp.sum(dual**2) - 1.0),
            sum_by_output=jnp.zeros_like(dual),
            sum_by_dual=dual,
        )

    def dual_slope(self, dual, y, gamma):
        norm = math.sqrt(2.0 * dual.shape[0]) * jnp.exp(-0.5 * gamma)
        return -2.0 * dual / norm, jnp.log(0.5 * norm)

    def drawn(self, dual, found, gamma):
        return self.admissible(dual)

    def admissible(self, dual):
        return jnp.clip(dual, -2.0, 2.0)

    def rounding(self, f, y):
        worst = jnp.max(jnp.abs(f)) / jnp.max(jnp.abs(f - y))
        return _EPS * (1.0 + jnp.abs(self.neg_log(f, y)) + worst)

    def output_scale(self, f, y):
        # The smaller of outputs and residuals: the outputs carry the digits when the flow leaves a saddle, the
        # residuals when it comes to interpolate.
        def size(v):
            # Scaled, by a power of two: squares of outputs at a saddle may underflow.
            power = jnp.frexp(jnp.max(jnp.abs(v)))[1]
            return jnp.ldexp(jnp.sqrt(jnp.mean(jnp.ldexp(v, -power) ** 2)), power)

        return jnp.broadcast_to(jnp.where(jnp.any(f != 0), jnp.minimum(size(f), size(f - y)), size(f - y)), f.shape)
