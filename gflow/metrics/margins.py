"""Margins of a model: the smallest, a smooth stand-in for it, and both divided by the size of the parameters."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import AbstractLoss, Exponential
from .inputs import check_data, check_margin_loss, degree_of, SUM
from .parameters import log_norm_of, outputs_of, unit_outputs_of
from .scaling import times_exp


def margin(model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"]) -> Float[Array, ""]:
    """The margin min_n y_n f(x_n), negative if a sample is misclassified.

    **Arguments:**

    - `model`: maps one sample to a scalar.
    - `X`, `y`: samples, shape (N, d) or (N, ...), and labels -1 or +1, shape (N,).

    **Returns:** a scalar, in the units of f.

    **Raises:** `ValueError` for bad input.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, -1.0])
        >>> float(gflow.metrics.margin(gflow.models.LinearModel(jnp.array([0.0, 1.0])), X, y))
        1.0

        ```
    """
    X, y = check_data(model, X, y, SUM)
    return jnp.min(y * outputs_of(model, X))


def normalized_margin(
    model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"], *, degree: float | None = None
) -> Float[Array, ""]:
    """The margin of a homogeneous model divided by the size of its parameters, min_n y_n f(x_n) / ||theta||^degree.

    It depends on the direction of theta only. Along the flow it tends to the margin of a KKT point of the max-margin
    problem (see `kkt_residual`); `normalized_smoothed_margin` is the variant that increases on the way.

    **Arguments:**

    - `model`, `X`, `y`: as in `margin`.
    - `degree`: the degree L of homogeneity, f(x; c theta) = c^L f(x; theta) for c > 0. Known for `DiagonalNetwork`
      (its depth) and `LinearModel` (1); the number of layers for ReLU networks without biases.

    **Returns:** a scalar. For `DiagonalNetwork` right at every scale; otherwise the outputs must be float64 numbers,
    though ||theta||^degree need not be.

    **Raises:** `ValueError` for bad input, and for a model of unknown degree.

    Source: Lyu & Li 2020 (arXiv 1906.05890), section 2.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, -1.0])
        >>> float(gflow.metrics.normalized_margin(gflow.models.LinearModel(jnp.array([0.0, 3.0])), X, y))
        1.0

        ```
    """
    X, y = check_data(model, X, y, SUM)
    degree = degree_of(model, degree)
    outputs, log_factor = unit_outputs_of(model, X)
    return times_exp(jnp.min(y * outputs), log_factor - degree * log_norm_of(model))


def smoothed_margin(
    model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"], *, loss: AbstractLoss = SUM
) -> Float[Array, ""]:
    """The margin at which a single sample would have this loss, l^-1(L): a smooth stand-in for the smallest margin.

    For `Exponential` it is gamma = -log L, for `Logistic` -log(e^L - 1) = gamma - L/2 + O(L^2). With a sum over the
    samples, margin - log N <= smoothed margin <= margin for `Exponential`; with a mean it is larger by log N, and what
    `traj.neg_log_loss` holds.

    **Arguments:**

    - `model`, `X`, `y`: as in `margin`.
    - `loss`: `Exponential` or `Logistic`. The sum of exponentials by default, as in the source.

    **Returns:** a scalar, in the units of f.

    **Raises:** `ValueError` for bad input.

    Source: Lyu & Li 2020 (arXiv 1906.05890), section 4 and, for other losses than the exponential, appendix A.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, -1.0])
        >>> float(gflow.metrics.smoothed_margin(gflow.models.LinearModel(jnp.array([0.0, 9.0])), X, y))
        8.999876...

        ```
    """
    X, y = check_data(model, X, y, loss)
    return _smoothed(outputs_of(model, X), y, loss)


def normalized_smoothed_margin(
    model: Any,
    X: Float[Array, "N ..."],
    y: Float[Array, " N"],
    *,
    loss: AbstractLoss = SUM,
    degree: float | None = None,
) -> Float[Array, ""]:
    """The smoothed margin of a homogeneous model divided by the size of its parameters.

    `smoothed_margin` / ||theta||^degree. Along the gradient flow of a homogeneous model it never decreases once the
    loss, a *sum* over the samples, is below that of one sample at margin 0 (1 for `Exponential`, log 2 for `Logistic`).
    With a mean this need not hold.

    **Arguments:**

    - `model`, `X`, `y`: as in `margin`.
    - `loss`: as in `smoothed_margin`; its reduction may differ from that of the flow, whose path does not depend on it.
    - `degree`: as in `normalized_margin`.

    **Returns:** a scalar. Where it lies outside float64, as it may while ||theta||^degree does, it is infinite with the
    right sign, or 0.

    **Raises:** `ValueError` for bad input, and for a model of unknown degree.

    Source: Lyu & Li 2020 (arXiv 1906.05890), theorem 4.1.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, -1.0])
        >>> model = gflow.models.LinearModel(jnp.array([0.0, 1000.0]))
        >>> float(gflow.metrics.normalized_smoothed_margin(model, X, y))
        1.0

        ```
    """
    X, y = check_data(model, X, y, loss)
    degree = degree_of(model, degree)
    return times_exp(_smoothed(outputs_of(model, X), y, loss), -degree * log_norm_of(model))


def _smoothed(f: Array, y: Array, loss: AbstractLoss) -> Array:
    check_margin_loss(loss)
    gamma = loss.neg_log(f, y)
    if isinstance(loss, Exponential):
        return gamma
    # -log(e^L - 1) = -L - log(1 - e^-L), where L = e^-gamma may underflow.
    L = jnp.exp(-gamma)
    fine = jnp.where((L > 0) & (L < 1.0), L, 1.0)
    small = gamma - jnp.log(-jnp.expm1(-fine) / fine)
    return jnp.where(L > 0, jnp.where(L < 1.0, small, -jnp.log(-jnp.expm1(-L))) - L, gamma)
