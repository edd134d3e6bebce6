"""What the metrics take: checked data, models and options."""

import math
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from .. import validate
from ..losses import AbstractLoss, Exponential, Logistic
from ..models import DiagonalNetwork, LinearModel

SUM = Exponential(reduction="sum")


def check_data(model: Any, X: Any, y: Any, loss: Any) -> tuple[Array, Array]:
    validate.check_data(X, y, loss)
    X = jnp.asarray(X, float)
    validate.check_model(model, X)
    return X, jnp.asarray(y, float)


def check_samples(model: Any, X: Any) -> Array:
    return check_data(model, X, jnp.ones(jnp.shape(X)[:1]), SUM)[0]


def check_reference(reference: Any, X: Array) -> None:
    if not callable(reference):
        raise ValueError(
            f"reference must be a model, such as the one that the flow starts from, not {type(reference).__name__}."
        )
    validate.check_model(reference, X)


def check_margin_loss(loss: AbstractLoss) -> None:
    if not isinstance(loss, Exponential | Logistic):
        raise ValueError(
            f"loss must be gflow.losses.Exponential() or Logistic(), not {type(loss).__name__}, which has no margins."
        )


def degree_of(model: Any, degree: Any) -> float:
    if degree is None:
        if isinstance(model, DiagonalNetwork):
            return model.depth
        if isinstance(model, LinearModel):
            return 1
        raise ValueError(
            f"degree must be given for {type(model).__name__}: the number L with f(x; c theta) = c^L f(x; theta). "
            "As a metric of a run: functools.partial(gflow.metrics.normalized_margin, degree=L)."
        )
    if isinstance(degree, Tracer) or jnp.ndim(degree) != 0 or not (degree > 0 and math.isfinite(degree)):
        raise ValueError(f"degree must be a positive number, not {degree!r}.")
    return float(degree)
