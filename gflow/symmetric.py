"""The flow of two factors that are each other's transposes, W = F^T F, where what is observed is symmetric.

They stay each other's transposes, and W positive semidefinite: negative eigenvalues are never learned (Gunasekar et
al. 2017, arXiv 1705.09280, have W = U U^T so). In coordinates of both, rounding would tell one from the other; where a
pull is negative that grows exponentially, and they would be learned. Here F alone is a coordinate.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .charts import AbstractChart, EuclideanChart
from .losses import AbstractLoss, Square
from .mixed_units import apart, mixed
from .models import MatrixFactorization
from .turned import TurnedChart

_ROOT = 2**0.5
_PROBES = 3


class SymmetricChart(TurnedChart):
    """Coordinates (sqrt(2) G, Q) with W_1 = Q G, W_2 = G^T Q^T. With the root the flow of both factors is that of the
    coordinates."""

    @property
    def _moving_size(self) -> int:
        return self.template.factors[0].size

    def _parts(self, a):
        first = self.template.factors[0]
        G = a[: first.size].reshape(first.shape) / _ROOT
        return [G, G.T], [a[first.size :].reshape(first.shape[0], first.shape[0])]

    def _joined(self, G, Q):
        return jnp.concatenate([_ROOT * jnp.ravel(G[0]), jnp.ravel(Q[0])])

    def at(self, a):
        (G, _), (Q,) = self._parts(a)
        F = Q @ G
        return self._with((F, F.T))


def symmetric(chart: AbstractChart, X: Any, targets: Any, loss: AbstractLoss) -> AbstractChart:
    """The chart of W = F^T F where the flow keeps it so; any other chart as it is."""
    if type(chart) is not EuclideanChart or not isinstance(loss, Square) or not transposed(chart.template):
        return chart
    if any(isinstance(v, Tracer) for v in (X, targets)) or not _pulls_are_symmetric(chart, X, targets):
        return chart
    factors = chart.template.factors
    return SymmetricChart(chart.template, chart.floor, chart.observed, apart(factors) if mixed(factors) else None)


def transposed(model: Any) -> bool:
    """Whether a model is two factors that are each other's transposes, to the last bit."""
    if not isinstance(model, MatrixFactorization) or len(model.factors) != 2:
        return False
    if any(isinstance(W, Tracer) for W in model.factors):
        return False
    first, second = map(np.asarray, model.factors)
    return np.array_equal(first.T, second)


def _pulls_are_symmetric(chart: EuclideanChart, X: Array, targets: Array) -> bool:
    """Whether the gradient of the loss at a symmetric W is symmetric: at some random ones, which decides it, since it
    is affine in W."""
    size = chart.template.factors[0].shape[1]

    def pull(W):
        outputs = lambda W: chart._observed(jnp.ravel(jax.vmap(MatrixFactorization([W]))(X)))
        residual, back = jax.vjp(lambda W: outputs(W) - jnp.ravel(targets), W)
        return back(residual)[0]

    for probe in np.random.default_rng(0).normal(size=(_PROBES, size, size)):
        E = np.asarray(pull(jnp.asarray(probe + probe.T)))
        if np.max(np.abs(E - E.T)) > 1e-13 * size * np.max(np.abs(E)):
            return False
    return True
