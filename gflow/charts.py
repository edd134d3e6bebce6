"""Coordinates in which the flow of a model is well conditioned.

A chart says how to read a model from its coordinates and with which velocity they move,
da / d tau = M(a)^-1 grad_a gamma, where M is the metric that the Euclidean metric of the parameters becomes in the
chart. A model names its chart by a method `chart()`; one without it runs in its parameters as they are.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

# The norm of all parameters at which a path no longer goes by e-folds of it, relative to that of the start.
_FLOOR = 1e-8


class Velocity(NamedTuple):
    """da / d tau = exp(log_speed) * direction, and slope = grad_a gamma . direction.

    The speed is apart because it may lie outside float64: it holds a factor scale^(depth-2).

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> chart = gflow.models.DiagonalNetwork(dim=2, depth=3, scale=1e-60).chart()
        >>> velocity = chart.velocity(chart.coordinates(), jnp.eye(2), jnp.array([0.5, 0.5]))
        >>> velocity.direction.shape, bool(jnp.isfinite(velocity.log_speed))
        ((2,), True)

        ```
    """

    direction: Float[Array, " P"]
    log_speed: Float[Array, ""]
    slope: Float[Array, ""]


class AbstractChart(eqx.Module):
    """Coordinates of `template`, a model whose other leaves (not trained) stay as they are.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=2, scale=1e-60)
        >>> chart = model.chart()
        >>> isinstance(chart, gflow.charts.AbstractChart), chart.at(chart.coordinates()).beta.tolist()
        (True, [0.0, 0.0])

        ```
    """

    template: eqx.AbstractVar[Any]
    # Whether outputs are X @ readout.
    linear: ClassVar[bool] = False
    # Whether `tidied` is to be called after every step.
    graded: ClassVar[bool] = False

    @abc.abstractmethod
    def coordinates(self) -> Float[Array, " P"]:
        """The coordinates of the template."""

    @abc.abstractmethod
    def at(self, a: Float[Array, " P"]) -> Any:
        """The model with coordinates `a`."""

    def moved(self, a: Float[Array, " P"], d: Float[Array, " P"]) -> Float[Array, " P"]:
        """The coordinates after a straight step of the parameters, of velocity `d` in the coordinates at `a`."""
        return a + d

    def displacement(self, a: Float[Array, " P"], b: Float[Array, " P"]) -> Float[Array, " P"]:
        """The straight step that leads from `b` to `a`, as a velocity in the coordinates at `a`."""
        return a - b

    def inverse_metric(self, a: Float[Array, " P"]) -> Float[Array, " P"]:
        """M^-1 of coordinates that are functions of one parameter each."""
        return jnp.ones_like(a)

    @abc.abstractmethod
    def velocity(self, a: Float[Array, " P"], X: Array, c: Float[Array, " N"]) -> Velocity:
        """Velocity of the coordinates, given c_n = d gamma / d f_n."""

    @abc.abstractmethod
    def velocities(self, a: Float[Array, " P"], X: Array) -> tuple[Float[Array, "N P"], Float[Array, ""]]:
        """M^-1 grad f_n for every sample, as a matrix V and the log of a common factor."""

    def jacobian(self, a: Float[Array, " P"], X: Array) -> Float[Array, "N P"]:
        """grad f_n for every output."""
        every = jax.vmap(lambda x: jax.jacrev(lambda b: jnp.ravel(self.at(b)(x)))(a))(X)
        return self._observed(every.reshape(-1, a.size))

    @abc.abstractmethod
    def length(self, a: Float[Array, " P"]) -> Float[Array, ""]:
        """The root mean square change of the coordinates that counts as one unit of arc length."""

    def confined(self, d: Float[Array, " P"]) -> Float[Array, " P"]:
        """The part of a change of the coordinates that the flow may make."""
        return d

    def speed(self, a: Float[Array, " P"], rates: Float[Array, " P"]) -> Float[Array, ""]:
        """The arc length that a unit of time takes at these rates."""
        return jnp.sqrt(jnp.mean(rates**2)) / self.length(a)

    def extent(self, a: Float[Array, " P"]) -> Float[Array, ""]:
        """The size of the coordinates that rounding is relative to."""
        return jnp.sqrt(jnp.mean(a**2))

    def unit_sizes(self, a: Float[Array, " P"]) -> tuple[Float[Array, "2 cuts k"], Int[Array, " k"]] | None:
        """The sizes of both sides of each of k units, where rounding is relative to them, and their numbers."""
        return None

    def tidied(self, a: Float[Array, " P"], rates: Float[Array, "s P"]) -> tuple[Array, Array]:
        """Other coordinates of the same model, in which the path is to go on, and rates of the old ones as theirs."""
        return a, rates

    @abc.abstractmethod
    def error(self, e: Float[Array, " P"], a0: Float[Array, " P"], a1: Float[Array, " P"]) -> Float[Array, ""]:
        """Relative size of an error `e` made on the step from `a0` to `a1`."""

    def error_of_small(self, e: Float[Array, " P"], a0: Float[Array, " P"], a1: Float[Array, " P"]) -> Float[Array, ""]:
        """The part of `error` of units that are yet to be learned, each relative to itself."""
        return jnp.zeros(())

    def outputs(self, a: Float[Array, " P"], X: Array) -> Float[Array, " N"]:
        """f_n for every sample; of a model with array output, every entry that is observed, in one row."""
        return self._observed(jnp.ravel(jax.vmap(self.at(a))(X)))

    def _observed(self, every: Array) -> Array:
        return every

    def readout(self, a: Float[Array, " P"]) -> Array | None:
        """beta of the model, if it has one: users read it, so its digits are watched."""
        return getattr(self.at(a), "beta", None)


class EuclideanChart(AbstractChart):
    """The parameters themselves: every floating-point array of the module.

    Paths are measured relative to the norm of all parameters, so that a growth by e takes a unit of arc length
    whatever the scale. `floor` replaces that norm where a flow starts at zero.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> from gflow.charts import EuclideanChart
        >>> chart = EuclideanChart(gflow.models.LinearModel(jnp.array([3.0, 4.0])), jnp.zeros(()))
        >>> chart.coordinates().tolist(), chart.at(jnp.ones(2)).beta.tolist()
        ([3.0, 4.0], [1.0, 1.0])

        ```
    """

    template: Any
    floor: Float[Array, ""]
    # Which entries of the outputs are observed: all, or those of these indices.
    observed: Array | None = None
    # Whether the model is a `product` of matrices and X the identity: outputs are its columns.
    columns: bool = eqx.field(static=True, default=False)

    def _observed(self, every):
        return every if self.observed is None else every[self.observed]

    def _split(self):
        return eqx.partition(self.template, eqx.is_inexact_array)

    def coordinates(self):
        return ravel_pytree(self._split()[0])[0]

    def at(self, a):
        trained, rest = self._split()
        return eqx.combine(ravel_pytree(trained)[1](a), rest)

    def _model(self, a: Array) -> Any:
        """A model with the outputs of `at(a)`."""
        return self.at(a)

    def outputs(self, a, X):
        model = self._model(a)
        return self._observed(jnp.ravel(model.product.T if self.columns else jax.vmap(model)(X)))

    def velocity(self, a, X, c):
        _, pull = jax.vjp(lambda b: self.outputs(b, X), a)
        (v,) = pull(c)
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
        direction = v / top
        return Velocity(direction, jnp.log(top), top * jnp.sum(direction**2))

    def velocities(self, a, X):
        return self.jacobian(a, X), jnp.zeros(())

    def length(self, a):
        return jnp.sqrt(jnp.mean(a**2) + self.floor**2)

    def error(self, e, a0, a1):
        # Relative to each array, so that a small layer keeps its digits beside a large one.
        def ratio(e, a0, a1):
            size = jnp.sqrt(jnp.maximum(jnp.mean(a0**2), jnp.mean(a1**2)))
            e = jnp.where(e == 0, 0.0, e / jnp.where(size > 0, size, jnp.finfo(e.dtype).tiny))
            return jnp.sqrt(jnp.mean(e**2))

        parts = zip(*(self._arrays(v) for v in (e, a0, a1)), strict=True)
        return jnp.maximum(jnp.max(jnp.stack([ratio(*part) for part in parts])), self.error_of_small(e, a0, a1))

    def error_of_small(self, e, a0, a1):
        begin = jax.tree.leaves(self._split()[0])
        units, sizes = {n for leaf in begin if leaf.ndim > 1 for n in leaf.shape[:2]}, [jnp.zeros(())]
        for leaf, *part in zip(begin, *(self._arrays(v) for v in (e, a0, a1)), strict=True):
            if leaf.ndim > 1:
                shaped = [v.reshape(leaf.shape) for v in (*part, leaf)]
                for axis in (0, 1):
                    sizes.append(error_of_rows(*(jnp.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in shaped)))
            elif leaf.size not in units:
                # Of a layer, entries belong to units that are rows, or columns, of matrices.
                sizes.append(error_of_rows(*(v.reshape(-1, 1) for v in (*part, leaf))))
        return jnp.max(jnp.stack(sizes))

    def _arrays(self, a):
        cuts = np.cumsum([leaf.size for leaf in jax.tree.leaves(self._split()[0])])[:-1]
        return jnp.split(a, cuts)


# Units that are smaller than this share of the typical one are measured by themselves,
_SMALL_UNIT = 0.1
# where they grow by so much in a step (or where none is taken),
_GROWS = 1.01
# but for those that have shrunk to this share of their start: what is left of them is known to the rounding of that.
_SHRUNK = 1e-6


def error_of_rows(
    e: Float[Array, "m k"], a0: Float[Array, "m k"], a1: Float[Array, "m k"], begin: Float[Array, "m k"]
) -> Float[Array, ""]:
    """The largest error of a unit, a row, relative to itself, of those that are small beside others and grow: they may
    be learned next, and when they are depends on all of their digits. `begin` is the start of the run."""
    s0, s1, start = (jnp.sum(v**2, axis=1) for v in (a0, a1, begin))
    typical = jnp.maximum(jnp.mean(s0), jnp.mean(s1))
    size = jnp.maximum(jnp.maximum(s0, s1), _SHRUNK**2 * start)
    same = jnp.sum(a0 * a1, axis=1) > 0
    # A step that makes it grow by less is short enough, and what is at rest but for rounding grows by less.
    grows = (s1 >= _GROWS**2 * s0) | (s1 == s0)
    counts = (size < _SMALL_UNIT**2 * typical) & grows & (start > 0) & same
    return jnp.sqrt(jnp.max(jnp.where(counts, jnp.sum(e**2, axis=1) / jnp.where(counts, size, 1.0), 0.0), initial=0.0))


def chart_of(model: Any, X: Array, y: Array, loss: Any, observed: Array | None = None) -> AbstractChart:
    """The chart that the model names, or its parameters as they are."""
    if hasattr(model, "chart"):
        return model.chart()
    chart = EuclideanChart(model, jnp.asarray(0.0), observed)
    a = chart.coordinates()
    # From exactly zero, a unit of arc length is what would change gamma by one.
    v = jax.grad(lambda b: loss.neg_log(chart.outputs(b, X), y))(a)
    size = jnp.sqrt(jnp.sum(v**2))
    unit = 1.0 / (jnp.where(size > 0, size, 1.0) * np.sqrt(a.size))
    # A start elsewhere may come to zero in a finite time.
    floor = jnp.where(jnp.any(a != 0), _FLOOR * jnp.sqrt(jnp.mean(a**2)), unit)
    return EuclideanChart(model, jax.lax.stop_gradient(floor), observed)


def descent_chart_of(model: Any, observed: Array | None = None) -> AbstractChart:
    """The chart for straight steps in the parameters: the one that the model names, or its parameters as they are."""
    if hasattr(model, "descent_chart"):
        return model.descent_chart()
    chart = model.chart() if hasattr(model, "chart") else EuclideanChart(model, jnp.asarray(0.0), observed)
    if not isinstance(chart, EuclideanChart):
        raise ValueError(
            f"model must say how a step in its parameters is taken, but {type(model).__name__} has a "
            f"{type(chart).__name__} and no method descent_chart(); add one, or remove chart()."
        )
    return chart
