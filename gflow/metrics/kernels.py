"""The tangent kernel, and how far it is from that of another model.

Inside, a kernel is a matrix of moderate size and the logarithm of its factor.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..models import DiagonalNetwork
from .inputs import check_reference, check_samples
from .parameters import chart_of_parameters, log_weights
from .scaling import finite_max, frobenius, log_frobenius, positive, times_exp


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
    X = check_samples(model, X)
    kernel, log_factor = _kernel(model, X)
    return times_exp(kernel, log_factor)


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
    X = check_samples(model, X)
    check_reference(reference, X)
    change, base = _kernel_difference(model, reference, X), _kernel(reference, X)
    size = log_frobenius(*change)
    value = jnp.where(size > -jnp.inf, size - log_frobenius(*base), size)
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
    X = check_samples(model, X)
    check_reference(reference, X)
    unit = lambda kernel: kernel / frobenius(kernel)
    return jnp.sum((unit(_kernel(model, X)[0]) - unit(_kernel(reference, X)[0])) ** 2) / 2.0


def _columns(model: DiagonalNetwork, X: Array) -> tuple[Array, Array]:
    """Columns of X scaled to 1, and log of D^2 u^(2D-2) times their squared sizes."""
    size = jnp.max(jnp.abs(X), axis=0)
    exponent = (2 * model.depth - 2) * log_weights(model) + 2.0 * jnp.log(model.depth * size)[None]
    return X / positive(size)[None], exponent


def _kernel(model: Any, X: Array) -> tuple[Array, Array]:
    if isinstance(model, DiagonalNetwork):
        columns, exponent = _columns(model, X)
        top = finite_max(exponent)
        return (columns * jnp.sum(jnp.exp(exponent - top), axis=0)[None]) @ columns.T, top
    chart = chart_of_parameters(model)
    gradient = jax.grad(lambda a, x: chart.at(a)(x))
    J = jax.vmap(gradient, in_axes=(None, 0))(chart.coordinates(), X)
    top = positive(jnp.max(jnp.abs(J)))
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
    top = jnp.maximum(finite_max(after), finite_max(before))
    near = jnp.abs(growth) < 1.0
    fine = jnp.where(near, growth, 0.0)
    weight = jnp.exp(before - top)
    each = jnp.sum(jnp.where(near, weight * jnp.expm1(fine), jnp.exp(after - top) - weight), axis=0)
    # From u_+ = u_- the first order of the sum cancels as well: e^p + e^q - 2 by half sum and half difference.
    mean, half = (fine[0] + fine[1]) / 2.0, (fine[0] - fine[1]) / 2.0
    both = weight[0] * 2.0 * (jnp.expm1(mean) * jnp.cosh(half) + 2.0 * jnp.sinh(half / 2.0) ** 2)
    symmetric = jnp.all(near, axis=0) & (before[0] == before[1])
    return (columns * jnp.where(symmetric, both, each)[None]) @ columns.T, top
