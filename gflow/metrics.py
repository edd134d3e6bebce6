"""Quantities that are read along a flow: margins, the tangent kernel, conserved quantities, distance to a KKT point,
and spectra (from `gflow.spectra`).

Every function takes `(model, X, y)` or `(model)` first and options by keyword. So it can be called on a model, or be
evaluated at the saves of a flow, options being set by `functools.partial`:

    gradient_flow(model, X, y, ..., metrics={"margin": margin, "change": partial(kernel_change, reference=model)})

For many saved models at once use `equinox.filter_vmap(lambda model: margin(model, X, y))(traj.model)`.

theta stands for the trained parameters: every floating-point array of the module, and for `DiagonalNetwork` the
weights u = (u_+, u_-), of which it stores logarithms. Their u^depth may lie outside float64 (depth 10 at scale 1e-60),
so whatever does not depend on the scale is computed from log u.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from . import validate
from .charts import EuclideanChart
from .losses import AbstractLoss, Exponential, Logistic
from .models import DiagonalNetwork, LinearModel
from .spectra import (
    effective_rank as effective_rank,
    hessian_ends as hessian_ends,
    HessianEnds as HessianEnds,
    nuclear_norm as nuclear_norm,
    sharpness as sharpness,
    singular_values as singular_values,
    stable_rank as stable_rank,
)

_SUM = Exponential(reduction="sum")


# Margins


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
    X, y = _data(model, X, y, _SUM)
    return jnp.min(y * _outputs(model, X))


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
    X, y = _data(model, X, y, _SUM)
    degree = _degree(model, degree)
    outputs, log_factor = _unit_outputs(model, X)
    return _times_exp(jnp.min(y * outputs), log_factor - degree * _log_norm(model))


def smoothed_margin(
    model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"], *, loss: AbstractLoss = _SUM
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
    X, y = _data(model, X, y, loss)
    return _smoothed(_outputs(model, X), y, loss)


def normalized_smoothed_margin(
    model: Any,
    X: Float[Array, "N ..."],
    y: Float[Array, " N"],
    *,
    loss: AbstractLoss = _SUM,
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
    X, y = _data(model, X, y, loss)
    degree = _degree(model, degree)
    return _times_exp(_smoothed(_outputs(model, X), y, loss), -degree * _log_norm(model))


# The tangent kernel


def tangent_kernel(model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"] | None = None) -> Float[Array, "N N"]:
    """The neural tangent kernel K_mn = grad f(x_m) . grad f(x_n), with gradients in the parameters theta.

    For `DiagonalNetwork`, K = D^2 X diag(u_+^(2D-2) + u_-^(2D-2)) X^T: the metric is that of the weights u, whatever
    the coordinates in which the flow is computed.

    **Arguments:**

    - `model`: maps one sample to a scalar.
    - `X`: samples, shape (N, d) or (N, ...).
    - `y`: not used, so that the function can be a metric of `gradient_flow`.

    **Returns:** shape (N, N). It underflows to 0 where u^(2 depth - 2) leaves float64; `kernel_change` and
    `kernel_distance` do not. Other models need memory for the Jacobian, N times the number of parameters.

    **Raises:** `ValueError` for bad input.

    Source: Jacot et al. 2018 (arXiv 1806.07572); the formula, Woodworth et al. 2020 (arXiv 2002.09277).

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=2, scale=0.5)  # 2 D^2 scale^(2D-2) = 2
        >>> gflow.metrics.tangent_kernel(model, jnp.eye(2)).tolist()
        [[2.0, 0.0], [0.0, 2.0]]

        ```
    """
    del y
    X = _samples(model, X)
    kernel, log_factor = _kernel(model, X)
    return _times_exp(kernel, log_factor)


def kernel_change(
    model: Any,
    X: Float[Array, "N ..."],
    y: Float[Array, " N"] | None = None,
    *,
    reference: Any,
    log: bool = False,
) -> Float[Array, ""]:
    """Relative change of the tangent kernel, ||K - K_0|| / ||K_0|| in the Frobenius norm.

    Near 0 in the kernel ("lazy") regime, of order 1 or more in the rich one.

    **Arguments:**

    - `model`, `X`, `y`: as in `tangent_kernel`.
    - `reference`: the model whose kernel is K_0, such as the one that the flow starts from.
    - `log`: return the natural logarithm. From scale 1e-60 at depth 10 the change itself lies outside float64.

    **Returns:** a scalar. Between two `DiagonalNetwork` of one depth, small changes keep their relative accuracy, and
    no scale under- or overflows.

    **Raises:** `ValueError` for bad input.

    Source: Chizat et al. 2019 (arXiv 1812.07956), who call training lazy where it is small.

    !!! example

        ```python
        >>> import equinox as eqx, gflow, jax.numpy as jnp
        >>> start = gflow.models.DiagonalNetwork(dim=2, depth=10, scale=1e-60)
        >>> grown = eqx.tree_at(lambda m: m.log_ratio, start, start.log_ratio + jnp.log(2.0))
        >>> float(gflow.metrics.kernel_change(grown, jnp.eye(2), reference=start))  # 2^18 - 1
        262143.0

        ```
    """
    del y
    X = _samples(model, X)
    _check_reference(reference, X)
    change, base = _kernel_difference(model, reference, X), _kernel(reference, X)
    size = _log_frobenius(*change)
    value = jnp.where(size > -jnp.inf, size - _log_frobenius(*base), size)
    return value if log else jnp.exp(value)


def kernel_distance(
    model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"] | None = None, *, reference: Any
) -> Float[Array, ""]:
    """Kernel distance 1 - <K, K_0> / (||K|| ||K_0||) of two tangent kernels: 0 if they agree up to a factor.

    **Arguments:** as in `kernel_change`.

    **Returns:** a scalar in [0, 1]. It is computed as ||K/||K|| - K_0/||K_0|| ||^2 / 2, which does not cancel. Where a
    kernel is 0 it is not defined, and nan.

    **Raises:** `ValueError` for bad input.

    Source: Fort et al. 2020 (arXiv 2010.15110).

    !!! example

        ```python
        >>> import equinox as eqx, gflow, jax.numpy as jnp
        >>> start = gflow.models.DiagonalNetwork(dim=2, depth=10, scale=1e-60)
        >>> grown = eqx.tree_at(lambda m: m.log_ratio, start, start.log_ratio.at[0, 0].set(100.0))
        >>> float(gflow.metrics.kernel_distance(grown, jnp.eye(2), reference=start))  # 1 - 1 / sqrt 2
        0.292893...

        ```
    """
    del y
    X = _samples(model, X)
    _check_reference(reference, X)
    unit = lambda kernel: kernel / _frobenius(kernel)
    return jnp.sum((unit(_kernel(model, X)[0]) - unit(_kernel(reference, X)[0])) ** 2) / 2.0


# Conserved quantities


def balancedness(model: Any, *, reference: Any = None, linear: bool | None = None) -> Float[Array, ""]:
    """How far the conserved quantities of the flow are from their values at the start; 0 on the exact flow.

    - `DiagonalNetwork`: u_+ u_- (depth 2) or u_+^(2-D) + u_-^(2-D) (depth D > 2), one per coordinate. Returned is the
      largest relative deviation from `reference`, by default from the start at u_+ = u_- = scale.
    - Layers W_1, ..., W_L with biases b_l: G_l = W_{l+1}^T W_{l+1} - W_l W_l^T - b_l b_l^T if the layers are linear,
      and the diagonal of G_l, one entry per hidden neuron, for activations that are homogeneous of degree 1 (ReLU,
      leaky ReLU). Returned is the largest over l of ||G_l - G_l(reference)|| /
      (||W_{l+1}^T W_{l+1}|| + ||W_l W_l^T + b_l b_l^T||), in the Frobenius norm, or for neurons that of the diagonals.
      Without a `reference` G_l is compared with 0, balanced layers; the value is then at most 1.

    **Arguments:**

    - `model`: a `DiagonalNetwork`; a model with `layers` that have a `weight` (out, in) and perhaps a `bias` (out,), as
      `equinox.nn.MLP` and `equinox.nn.Sequential`; or the list of the weights in the order in which they are applied,
      the last of which may be a vector.
    - `reference`: where the flow starts, of the same kind as `model`.
    - `linear`: whether the layers are linear. By default yes for a list and no for a model with `layers`.

    **Returns:** a scalar >= 0. It does not depend on the scale, and is at the level of the tolerance of the flow.

    **Raises:** `ValueError` for models without such layers and for activations that are not homogeneous.

    Source: Du, Hu & Lee 2018 (arXiv 1806.00900), theorems 2.1 and 2.2; for diagonal networks, Moroshko et al. 2020
    (arXiv 2007.06738).

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> float(gflow.metrics.balancedness([jnp.eye(2), jnp.eye(2)]))
        0.0
        >>> float(gflow.metrics.balancedness([2 * jnp.eye(2), jnp.eye(2)]))  # (4 - 1) / (4 + 1)
        0.6

        ```
    """
    if isinstance(model, DiagonalNetwork):
        return _diagonal_balancedness(model, reference)
    layers, linear = _layers("model", model, linear)
    start = None if reference is None else _layers("reference", reference, linear)[0]
    if start is not None and [W.shape for W in start] != [W.shape for W in layers]:
        raise ValueError(
            f"reference must have the layers of model, of shapes {[W.shape for W in layers]} (biases included), not "
            f"{[W.shape for W in start]}."
        )
    # A common factor keeps the squares inside float64.
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(W)) for W in (*layers, *(start or []))]))
    top = jnp.where(top > 0, top, 1.0)
    pairs = _grams(layers, top, linear)
    origin = [0.0] * len(pairs) if start is None else [above - below for above, below in _grams(start, top, linear)]
    worst = []
    for (above, below), g in zip(pairs, origin, strict=True):
        size = jnp.sqrt(jnp.sum(above**2)) + jnp.sqrt(jnp.sum(below**2))
        gap = jnp.sqrt(jnp.sum((above - below - g) ** 2))
        worst.append(jnp.where(gap == 0, 0.0, gap / size))
    return jnp.max(jnp.stack(worst))


# KKT points


class KKTResidual(NamedTuple):
    """The two residuals of `kkt_residual`; as a metric of `gradient_flow`, an array with a last axis of 2."""

    stationarity: Float[Array, ""]
    slackness: Float[Array, ""]


def kkt_residual(
    model: Any, X: Float[Array, "N ..."], y: Float[Array, " N"], *, loss: AbstractLoss = _SUM
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
    X, y = _data(model, X, y, loss)
    _check_margin_loss(loss)
    outputs = _outputs(model, X)
    c = loss.weights(outputs, y)
    unit_outputs, log_factor = _unit_outputs(model, X)
    if isinstance(model, DiagonalNetwork):
        log_u = _log_u(model)
        log_norm = _log_norm(model)
        theta = jnp.exp(log_u - log_norm)
        push = jnp.array([[1.0], [-1.0]]) * (X.T @ c)[None]
        # grad gamma = +-D u^(D-1) X^T c, whose powers may lie outside float64.
        exponent = (model.depth - 1) * log_u + jnp.log(jnp.abs(push))
        top = _finite_max(exponent)
        gradient = jnp.sign(push) * jnp.exp(exponent - top)
        log_top = top + math.log(model.depth)
    else:
        chart = _chart(model)
        a = chart.coordinates()
        _, pull = jax.vjp(lambda b: chart.outputs(b, X), a)
        (gradient,) = pull(c)
        top = _positive(jnp.max(jnp.abs(gradient)))
        gradient, log_top = gradient / top, jnp.log(top)
        log_norm = _log_norm(model)
        theta = a / _positive(jnp.max(jnp.abs(a)))
        theta = theta / _positive(_frobenius(theta))
    length = _frobenius(gradient)
    stationarity = _frobenius(theta - gradient / _positive(length))
    m = y * unit_outputs
    excess = jnp.max(y * c * (m - jnp.min(m))) / length
    slackness = _times_exp(excess, log_factor - log_norm - log_top)
    return KKTResidual(stationarity, jnp.where(jnp.min(m) > 0, slackness, jnp.inf))


# Input


def _data(model: Any, X: Any, y: Any, loss: Any) -> tuple[Array, Array]:
    validate.check_data(X, y, loss)
    X = jnp.asarray(X, float)
    validate.check_model(model, X)
    return X, jnp.asarray(y, float)


def _samples(model: Any, X: Any) -> Array:
    return _data(model, X, jnp.ones(jnp.shape(X)[:1]), _SUM)[0]


def _check_reference(reference: Any, X: Array) -> None:
    if not callable(reference):
        raise ValueError(
            f"reference must be a model, such as the one that the flow starts from, not {type(reference).__name__}."
        )
    validate.check_model(reference, X)


def _check_margin_loss(loss: AbstractLoss) -> None:
    if not isinstance(loss, Exponential | Logistic):
        raise ValueError(
            f"loss must be gflow.losses.Exponential() or Logistic(), not {type(loss).__name__}, which has no margins."
        )


def _degree(model: Any, degree: Any) -> float:
    if degree is None:
        if isinstance(model, DiagonalNetwork):
            return model.depth
        if isinstance(model, LinearModel):
            return 1
        raise ValueError(
            f"degree must be given for {type(model).__name__}: the number L with f(x; c theta) = c^L f(x; theta)."
        )
    if isinstance(degree, Tracer) or jnp.ndim(degree) != 0 or not (degree > 0 and math.isfinite(degree)):
        raise ValueError(f"degree must be a positive number, not {degree!r}.")
    return float(degree)


# Outputs and parameters


def _chart(model: Any) -> EuclideanChart:
    """The trained parameters of a model that is not diagonal."""
    chart = model.chart() if hasattr(model, "chart") else EuclideanChart(model, jnp.zeros(()))
    if not isinstance(chart, EuclideanChart):
        raise ValueError(
            f"model must be a DiagonalNetwork or run in its parameters, but {type(model).__name__} has a "
            f"{type(chart).__name__}, whose parameters gflow.metrics does not know."
        )
    return chart


def _outputs(model: Any, X: Array) -> Array:
    return jax.vmap(model)(X)


def _unit_outputs(model: Any, X: Array) -> tuple[Array, Array]:
    """(f, s) with outputs e^s f. For diagonal networks f are those at ||u|| = 1, so that they do not underflow."""
    if not isinstance(model, DiagonalNetwork):
        return _outputs(model, X), jnp.zeros(())
    log_norm = _log_norm(model)
    unit = eqx.tree_at(lambda m: m.log_scale, model, model.log_scale - log_norm)
    return _outputs(unit, X), model.depth * log_norm


def _smoothed(f: Array, y: Array, loss: AbstractLoss) -> Array:
    _check_margin_loss(loss)
    gamma = loss.neg_log(f, y)
    if isinstance(loss, Exponential):
        return gamma
    # -log(e^L - 1) = -L - log(1 - e^-L), where L = e^-gamma may underflow.
    L = jnp.exp(-gamma)
    fine = jnp.where((L > 0) & (L < 1.0), L, 1.0)
    small = gamma - jnp.log(-jnp.expm1(-fine) / fine)
    return jnp.where(L > 0, jnp.where(L < 1.0, small, -jnp.log(-jnp.expm1(-L))) - L, gamma)


def _log_u(model: DiagonalNetwork) -> Float[Array, "2 d"]:
    return model.log_scale[None] + model.log_ratio


def _log_norm(model: Any) -> Array:
    """log ||theta||."""
    if isinstance(model, DiagonalNetwork):
        return jax.nn.logsumexp(2.0 * _log_u(model)) / 2.0
    a = _chart(model).coordinates()
    top = jnp.max(jnp.abs(a))
    return jnp.log(top) + jnp.log(_frobenius(a / _positive(top)))


# Kernels, as a matrix of moderate size and the logarithm of its factor


def _columns(model: DiagonalNetwork, X: Array) -> tuple[Array, Array]:
    """Columns of X scaled to 1, and log of D^2 u^(2D-2) times their squared sizes."""
    size = jnp.max(jnp.abs(X), axis=0)
    exponent = (2 * model.depth - 2) * _log_u(model) + 2.0 * jnp.log(model.depth * size)[None]
    return X / _positive(size)[None], exponent


def _kernel(model: Any, X: Array) -> tuple[Array, Array]:
    if isinstance(model, DiagonalNetwork):
        columns, exponent = _columns(model, X)
        top = _finite_max(exponent)
        return (columns * jnp.sum(jnp.exp(exponent - top), axis=0)[None]) @ columns.T, top
    chart = _chart(model)
    gradient = jax.grad(lambda a, x: chart.at(a)(x))
    J = jax.vmap(gradient, in_axes=(None, 0))(chart.coordinates(), X)
    top = _positive(jnp.max(jnp.abs(J)))
    return (J / top) @ (J / top).T, 2.0 * jnp.log(top)


def _kernel_difference(model: Any, reference: Any, X: Array) -> tuple[Array, Array]:
    diagonal = isinstance(model, DiagonalNetwork) and isinstance(reference, DiagonalNetwork)
    if not (diagonal and model.depth == reference.depth):
        (K, k), (K0, k0) = _kernel(model, X), _kernel(reference, X)
        top = jnp.maximum(k, k0)
        return K * jnp.exp(k - top) - K0 * jnp.exp(k0 - top), top
    columns, after = _columns(model, X)
    before = _columns(reference, X)[1]
    # Small changes are taken from the logarithms themselves, since the powers would cancel.
    growth = (2 * model.depth - 2) * (
        (model.log_scale - reference.log_scale)[None] + (model.log_ratio - reference.log_ratio)
    )
    top = jnp.maximum(_finite_max(after), _finite_max(before))
    near = jnp.abs(growth) < 1.0
    fine = jnp.where(near, growth, 0.0)
    weight = jnp.exp(before - top)
    each = jnp.sum(jnp.where(near, weight * jnp.expm1(fine), jnp.exp(after - top) - weight), axis=0)
    # From u_+ = u_- the first order of the sum cancels as well: e^p + e^q - 2 by half sum and half difference.
    mean, half = (fine[0] + fine[1]) / 2.0, (fine[0] - fine[1]) / 2.0
    both = weight[0] * 2.0 * (jnp.expm1(mean) * jnp.cosh(half) + 2.0 * jnp.sinh(half / 2.0) ** 2)
    symmetric = jnp.all(near, axis=0) & (before[0] == before[1])
    return (columns * jnp.where(symmetric, both, each)[None]) @ columns.T, top


# Conserved quantities


def _diagonal_balancedness(model: DiagonalNetwork, reference: Any) -> Array:
    if reference is None:
        reference = eqx.tree_at(lambda m: m.log_ratio, model, jnp.zeros_like(model.log_ratio))
    shape = model.log_ratio.shape
    if (
        not isinstance(reference, DiagonalNetwork)
        or reference.depth != model.depth
        or reference.log_ratio.shape != shape
    ):
        raise ValueError(
            f"reference must be a DiagonalNetwork of {shape[-1]} inputs and depth {model.depth} like model, or None "
            "for its own start."
        )
    growth = (model.log_scale - reference.log_scale)[None] + (model.log_ratio - reference.log_ratio)
    if model.depth == 2:
        return jnp.max(jnp.abs(jnp.expm1(jnp.sum(growth, axis=0))))
    power = 2 - model.depth
    share = jax.nn.softmax(power * _log_u(reference), axis=0)
    return jnp.max(jnp.abs(jnp.sum(share * jnp.expm1(power * growth), axis=0)))


def _layers(name: str, model: Any, linear: bool | None) -> tuple[list[Array], bool]:
    """The matrices [W_l, b_l] of a model, and whether its layers are linear."""
    if isinstance(model, list | tuple):
        matrices = [jnp.asarray(W) for W in model]
        if matrices and matrices[-1].ndim == 1:
            matrices[-1] = matrices[-1][None]
        _check_matrices(name, matrices, matrices)
        return matrices, True if linear is None else linear
    layers = getattr(model, "layers", None)
    if not isinstance(layers, Sequence):
        raise ValueError(
            f"{name} must be a DiagonalNetwork, a model with layers or a list of weight matrices, not "
            f"{type(model).__name__}; for other models pass the list."
        )
    weighted = [layer for layer in layers if getattr(layer, "weight", None) is not None]
    between = [layer for layer in layers if getattr(layer, "weight", None) is None]
    for activation in [*between, *([model.activation] if hasattr(model, "activation") else [])]:
        _check_homogeneous(name, activation)
    matrices = [jnp.asarray(layer.weight) for layer in weighted]
    biased = [
        W if getattr(layer, "bias", None) is None else jnp.concatenate([W, layer.bias[:, None]], axis=1)
        for W, layer in zip(matrices, weighted, strict=True)
        if W.ndim == 2
    ]
    _check_matrices(name, matrices, biased)
    return biased, False if linear is None else linear


def _check_matrices(name: str, matrices: list[Array], biased: list[Array]) -> None:
    shapes = [W.shape for W in matrices]
    fits = len(shapes) >= 2 and all(len(shape) == 2 for shape in shapes)
    if not fits or any(after[1] != before[0] for before, after in itertools.pairwise(shapes)):
        raise ValueError(
            f"{name} must hold at least two weight matrices of shapes (n_1, n_0), (n_2, n_1), ..., not {shapes}; "
            "list them in the order in which they are applied."
        )
    for W in biased:
        if W.dtype != jnp.float64:
            raise ValueError(f"{name} must hold float64 arrays only, but it has a weight of {W.dtype}; convert it.")


def _check_homogeneous(name: str, activation: Any) -> None:
    """Refuse activations that are plainly not homogeneous of degree 1; one with traced parameters is trusted."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(activation)):
        return
    with jax.ensure_compile_time_eval():
        z = jnp.asarray([-1.5, -0.5, 0.5, 2.0])
        try:
            good = bool(jnp.allclose(2.0 * activation(z), activation(2.0 * z), rtol=1e-12, atol=0.0))
        except Exception:
            good = False
    if not good:
        raise ValueError(
            f"{name} must have activations that are homogeneous of degree 1, such as jax.nn.relu, but "
            f"{getattr(activation, '__name__', type(activation).__name__)} is not; it conserves no such quantity."
        )


def _grams(layers: list[Array], top: Array, linear: bool) -> list[tuple[Array, Array]]:
    """W_{l+1}^T W_{l+1} and W_l W_l^T + b_l b_l^T for each hidden layer, or their diagonals."""
    pairs = []
    for below, above in itertools.pairwise(layers):
        W, V = below / top, above[:, : below.shape[0]] / top
        pairs.append((V.T @ V, W @ W.T) if linear else (jnp.sum(V**2, axis=0), jnp.sum(W**2, axis=1)))
    return pairs


# Arithmetic


def _positive(value: Array) -> Array:
    return jnp.where(value > 0, value, 1.0)


def _finite_max(exponent: Array) -> Array:
    top = jnp.max(exponent)
    return jnp.where(jnp.isfinite(top), top, 0.0)


def _times_exp(value: Array, exponent: Array) -> Array:
    """value * e^exponent, also where e^exponent alone is outside float64."""
    half = jnp.exp(exponent / 2.0)
    return jnp.where(value == 0, 0.0, value * half * half)


def _frobenius(value: Array) -> Array:
    return jnp.sqrt(jnp.sum(value**2))


def _log_frobenius(value: Array, log_factor: Array) -> Array:
    top = jnp.max(jnp.abs(value))
    return log_factor + jnp.log(top) + jnp.log(_frobenius(value / _positive(top)))
