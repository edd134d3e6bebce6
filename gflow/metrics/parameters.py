"""The trained parameters theta of a model, their norm, and its outputs where theta is outside float64."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..charts import EuclideanChart
from ..models import DiagonalNetwork
from .scaling import frobenius, positive


def chart_of_parameters(model: Any) -> EuclideanChart:
    """The trained parameters of a model that is not diagonal."""
    chart = model.chart() if hasattr(model, "chart") else EuclideanChart(model, jnp.zeros(()))
    if not isinstance(chart, EuclideanChart):
        raise ValueError(
            f"model must be a DiagonalNetwork or run in its parameters, but {type(model).__name__} has a "
            f"{type(chart).__name__}, whose parameters gflow.metrics does not know."
        )
    return chart


def outputs_of(model: Any, X: Array) -> Array:
    return jax.vmap(model)(X)


def unit_outputs_of(model: Any, X: Array) -> tuple[Array, Array]:
    """(f, s) with outputs e^s f. For diagonal networks f are those at ||u|| = 1, so that they do not underflow."""
    if not isinstance(model, DiagonalNetwork):
        return outputs_of(model, X), jnp.zeros(())
    log_norm = log_norm_of(model)
    unit = eqx.tree_at(lambda m: m.log_scale, model, model.log_scale - log_norm)
    return outputs_of(unit, X), model.depth * log_norm


def log_weights(model: DiagonalNetwork) -> Float[Array, "2 d"]:
    return model.log_scale[None] + model.log_ratio


def log_norm_of(model: Any) -> Array:
    """log ||theta||."""
    if isinstance(model, DiagonalNetwork):
        return jax.nn.logsumexp(2.0 * log_weights(model)) / 2.0
    a = chart_of_parameters(model).coordinates()
    top = jnp.max(jnp.abs(a))
    return jnp.log(top) + jnp.log(frobenius(a / positive(top)))
