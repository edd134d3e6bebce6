"""Distance of the parameters' direction to a KKT point of the max-margin problem in them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import AbstractLoss
from ..models import DiagonalNetwork
from .inputs import check_data, check_margin_loss, SUM
from .parameters import chart_of_parameters, log_norm_of, log_weights, outputs_of, unit_outputs_of
from .scaling import finite_max, frobenius, positive, times_exp


class KKTResidual(NamedTuple):
    """The two residuals of `kkt_residual`; as a metric of `gradient_flow`, an array with a last axis of 2.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> stationarity, slackness = gflow.metrics.kkt_residual(gflow.models.LinearModel(jnp.array([5.0, 0.0])), X, y)
        >>> float(stationarity)
        0.0

        ```
    """

    stationarity: Float[Array, ""]
    slackness: Float[Array, ""]


def kkt_residual(
    model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"], *, loss: AbstractLoss = SUM
) -> KKTResidual:
    """How far the direction of theta is from a KKT point of min ||theta||^2 subject to y_n f(x_n) >= 1 for all n.

    For a homogeneous model, theta scaled to margin 1 is an (eps, delta)-KKT point if multipliers lambda_n >= 0 have
    ||theta - sum_n lambda_n grad m_n|| <= eps and lambda_n (m_n - 1) <= delta for all n, with the margins
    m_n = y_n f(x_n). As in the source, lambda_n is proportional to d gamma / d m_n, the weight of the sample in the
    loss, and such that sum_n lambda_n grad m_n is as long as theta. Returned are, without any units,

    - `stationarity` = eps / ||theta|| = || theta/||theta|| - grad gamma/||grad gamma|| || = sqrt(2 (1 - cos)), with
      the angle between theta and grad gamma: 1 - cos is half its square;
    - `slackness` = delta / ||theta||^2 = max_n w_n (m_n - min m) / (||theta|| ||grad gamma||), w_n = d gamma / d m_n.

    Along the flow of a homogeneous model the slackness falls like 1 / gamma. The stationarity tends to 0 as well, but
    slowly, and for degrees above 2 it may rise for a while as the flow leaves a KKT point that is unstable.

    **Arguments:**

    - `model`, `X`, `y`: as in `margin`.
    - `loss`: `Exponential` or `Logistic`; its reduction makes no difference.

    **Returns:** `KKTResidual(stationarity, slackness)`. While a sample is misclassified the slackness is infinite.
    Beyond margins of 1e13 the weights are rounding noise.

    **Raises:** `ValueError` for bad input.

    Source: Lyu & Li 2020 (arXiv 1906.05890), definition C.4 and the multipliers of its proof of theorem 4.4.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> residual = gflow.metrics.kkt_residual(gflow.models.LinearModel(jnp.array([5.0, 0.0])), X, y)
        >>> float(residual.stationarity), float(residual.slackness)
        (0.0, 0.0)

        ```
    """
    X, y = check_data(model, X, y, loss)
    check_margin_loss(loss)
    outputs = outputs_of(model, X)
    c = loss.weights(outputs, y)
    unit_outputs, log_factor = unit_outputs_of(model, X)
    if isinstance(model, DiagonalNetwork):
        log_u = log_weights(model)
        log_norm = log_norm_of(model)
        theta = jnp.exp(log_u - log_norm)
        push = jnp.array([[1.0], [-1.0]]) * (X.T @ c)[None]
        # grad gamma = +-D u^(D-1) X^T c, whose powers may lie outside float64.
        exponent = (model.depth - 1) * log_u + jnp.log(jnp.abs(push))
        top = finite_max(exponent)
        gradient = jnp.sign(push) * jnp.exp(exponent - top)
        log_top = top + math.log(model.depth)
    else:
        chart = chart_of_parameters(model)
        a = chart.coordinates()
        _, pull = jax.vjp(lambda b: chart.outputs(b, X), a)
        (gradient,) = pull(c)
        top = positive(jnp.max(jnp.abs(gradient)))
        gradient, log_top = gradient / top, jnp.log(top)
        log_norm = log_norm_of(model)
        theta = a / positive(jnp.max(jnp.abs(a)))
        theta = theta / positive(frobenius(theta))
    length = frobenius(gradient)
    stationarity = frobenius(theta - gradient / positive(length))
    m = y * unit_outputs
    excess = jnp.max(y * c * (m - jnp.min(m))) / length
    slackness = times_exp(excess, log_factor - log_norm - log_top)
    return KKTResidual(stationarity, jnp.where(jnp.min(m) > 0, slackness, jnp.inf))
