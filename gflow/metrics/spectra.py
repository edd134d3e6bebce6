"""Spectra: singular values of a model's matrix, and extreme eigenvalues of the Hessian of the loss, never formed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..charts import descent_chart_of
from ..losses import AbstractLoss, Square
from ..models import DiagonalNetwork, MatrixFactorization
from ..run import prepare
from ..validate import check_rtol, whole

# Lanczos steps between two looks at the eigenvalues.
_STRIDE = 10


def singular_values(model: Any, *, of: Callable[[Any], Array] | None = None) -> Float[Array, " k"]:
    """Singular values of a matrix of the model, decreasing.

    **Arguments:**

    - `model`: a `MatrixFactorization`, of which it is the product; a matrix itself; or any model, with
    - `of`: a function of the model that returns the matrix, such as `lambda m: m.layers[0].weight`. A model with a
      single trained matrix needs none.

    **Returns:** shape (min(m, n),).

    **Raises:** `ValueError` where the matrix is not known.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> gflow.metrics.singular_values(jnp.array([[0.0, 2.0], [3.0, 0.0]])).tolist()
        [3.0, 2.0]

        ```
    """
    return jnp.linalg.svd(_matrix(model, of), compute_uv=False)


def nuclear_norm(model: Any, *, of: Callable[[Any], Array] | None = None) -> Float[Array, ""]:
    """||W||_*, the sum of the singular values. Arguments as in `singular_values`.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> float(gflow.metrics.nuclear_norm(jnp.diag(jnp.array([3.0, -2.0]))))
        5.0

        ```
    """
    return jnp.sum(singular_values(model, of=of))


def effective_rank(model: Any, *, of: Callable[[Any], Array] | None = None) -> Float[Array, ""]:
    """||W||_* / ||W||_2, the sum of the singular values over the largest; nan for W = 0.

    Arguments as in `singular_values`. Source: Chou et al. 2020 (arXiv 2011.13772); it is the effective rank of
    Vershynin's "High-Dimensional Probability", section 5.6, of a positive semidefinite matrix.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> float(gflow.metrics.effective_rank(jnp.diag(jnp.array([10.0, 5.0, 1.0]))))
        1.6

        ```
    """
    s = singular_values(model, of=of)
    return jnp.sum(s / s[0])


def stable_rank(model: Any, *, of: Callable[[Any], Array] | None = None) -> Float[Array, ""]:
    """||W||_F^2 / ||W||_2^2; nan for W = 0. Arguments as in `singular_values`.

    Source: Rudelson & Vershynin 2007 (doi 10.1145/1255443.1255449), who call it numerical rank.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> float(gflow.metrics.stable_rank(jnp.diag(jnp.array([10.0, 5.0]))))
        1.25

        ```
    """
    s = singular_values(model, of=of)
    return jnp.sum((s / s[0]) ** 2)


class HessianEnds(NamedTuple):
    """The two ends of `hessian_ends`, and what each may be off by; as a metric, an array with a last axis of 4.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y, loss = jnp.diag(jnp.array([1.0, 3.0])), jnp.zeros(2), gflow.losses.Square(reduction="sum")
        >>> ends = gflow.metrics.hessian_ends(gflow.models.LinearModel(2), X, y, loss=loss)
        >>> round(float(ends.smallest), 6), round(float(ends.largest), 6)
        (1.0, 9.0)

        ```
    """

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    smallest_error: Float[Array, ""]
    largest_error: Float[Array, ""]


def hessian_ends(
    model: Any,
    X: Float[ArrayLike, "N ..."],
    y: Float[ArrayLike, "N ..."],
    *,
    loss: AbstractLoss,
    relative: bool = False,
    rtol: float = 1e-6,
    iterations: int = 200,
) -> HessianEnds:
    """The smallest and the largest eigenvalue of the Hessian of the loss in the parameters, by Lanczos' method.

    The largest is called sharpness: gradient descent with step eta is unstable where it exceeds 2 / eta. The smallest
    says how fast neighbouring paths of the flow part.

    **Arguments:**

    - `model`, `X`, `y`, `loss`: as in `gradient_flow`; set `loss` by `functools.partial` in `metrics`. The parameters
      of `DiagonalNetwork` are its weights u.
    - `relative`: divide the loss by its value here, which is how losses below 1e-308 have a Hessian.
    - `rtol`: when to stop: the errors are below `rtol` times the larger end.
    - `iterations`: the largest number of products with the Hessian, each as dear as a few gradients. With as many as
      parameters the result is exact.

    **Returns:** `HessianEnds(smallest, largest, smallest_error, largest_error)`. An eigenvalue lies within the error of
    each end, and ten more products moved the end by no more; that there is none farther out is not proven, but almost
    sure (the start is random).

    **Raises:** `ValueError` for bad input.

    Source: Lanczos 1950, with full reorthogonalization as in Golub & Van Loan, "Matrix Computations", section 10.1;
    sharpness, Cohen et al. 2021 (arXiv 2103.00065).

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2)
        >>> loss = gflow.losses.Square(reduction="sum")
        >>> ends = gflow.metrics.hessian_ends(gflow.models.LinearModel(2), X, y, loss=loss)
        >>> round(float(ends.smallest), 9), round(float(ends.largest), 9)
        (1.0, 4.0)

        ```
    """
    whole("iterations", iterations)
    check_rtol(rtol)
    gradient, theta = loss_gradient(model, X, y, loss, relative)
    product = lambda v: jax.jvp(gradient, (theta,), (v,))[1]
    return _lanczos(product, theta.size, rtol, min(iterations, theta.size))


def sharpness(
    model: Any,
    X: Float[ArrayLike, "N ..."],
    y: Float[ArrayLike, "N ..."],
    *,
    loss: AbstractLoss,
    relative: bool = False,
    rtol: float = 1e-6,
    iterations: int = 200,
) -> Float[Array, ""]:
    """The largest eigenvalue of the Hessian of the loss: see `hessian_ends`. nan if `iterations` did not suffice.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2)
        >>> loss = gflow.losses.Square(reduction="sum")
        >>> round(float(gflow.metrics.sharpness(gflow.models.LinearModel(2), X, y, loss=loss)), 9)
        4.0

        ```
    """
    ends = hessian_ends(model, X, y, loss=loss, relative=relative, rtol=rtol, iterations=iterations)
    size = jnp.maximum(jnp.abs(ends.largest), jnp.abs(ends.smallest))
    return jnp.where(ends.largest_error <= rtol * size, ends.largest, jnp.nan)


def loss_gradient(
    model: Any, X: Any, y: Any, loss: AbstractLoss, relative: bool = False
) -> tuple[Callable[[Array], Array], Float[Array, " P"]]:
    """The gradient of the loss as a function of all parameters, and the parameters of `model`."""
    X, _, targets, observed = prepare(model, X, y, loss)
    if isinstance(model, DiagonalNetwork):
        shape, depth = model.log_ratio.shape, model.depth
        theta = jnp.ravel(model.weights)
        outputs = lambda u: X @ (u.reshape(shape)[0] ** depth - u.reshape(shape)[1] ** depth)
    else:
        chart = descent_chart_of(model, observed)
        theta, outputs = chart.coordinates(), lambda a: chart.outputs(a, X)
    count = X.shape[0] if loss.reduction == "mean" else 1
    if isinstance(loss, Square):
        factor = jax.lax.stop_gradient(jnp.exp(loss.neg_log(outputs(theta), targets))) if relative else 1.0
        if relative and loss.reduction == "mean":
            factor = factor * count / targets.size
        slope = lambda f: factor * (f - targets) / count
    else:
        shift = jax.lax.stop_gradient(loss.neg_log(outputs(theta), targets)) if relative else 0.0
        slope = lambda f: -jnp.exp(shift - loss.neg_log(f, targets)) * loss.weights(f, targets)

    def gradient(a: Array) -> Array:
        f, pull = jax.vjp(outputs, a)
        return pull(slope(f))[0]

    return gradient, theta


@eqx.filter_jit
def _lanczos(product: Callable[[Array], Array], size: int, rtol: Any, iterations: int) -> HessianEnds:
    """Extreme eigenvalues of a symmetric matrix, from its products with vectors."""
    unit = lambda v: v / jnp.linalg.norm(v)

    def extend(k, carry):
        basis, alpha, beta = carry
        w = product(basis[k])
        before = jnp.linalg.norm(w)
        alpha = alpha.at[k].set(basis[k] @ w)
        # Twice is enough.
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        length = jnp.linalg.norm(w)
        # The basis spans an invariant space, and what is left is rounding. Its rows from here on are zero.
        scale = jnp.maximum(before, jnp.max(jnp.abs(alpha)))
        length = jnp.where(length > 8 * size**0.5 * jnp.finfo(length.dtype).eps * scale, length, 0.0)
        beta = beta.at[k].set(length)
        w = jnp.where(length > 0, w / jnp.where(length > 0, length, 1.0), 0.0)
        return basis.at[k + 1].set(w, mode="drop"), alpha, beta

    def look(k, alpha, beta, last):
        """Ends of the tridiagonal matrix of the first k steps. The others sit in its middle."""
        # After the first beta of zero nothing is known.
        zero = (beta == 0).astype(int)
        ended = jnp.cumsum(zero) > zero
        known = (jnp.arange(iterations) < k) & ~ended
        diagonal = jnp.where(known, alpha, alpha[0])
        off = jnp.where(known[1:], beta[:-1], 0.0)
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1))
        errors = beta[k - 1] * jnp.abs(vectors[k - 1])
        # An end may be near an eigenvalue and on its way to another, farther out.
        whole = (beta[k - 1] == 0) | (k == size)
        moved = lambda end, before: jnp.where(whole, 0.0, jnp.abs(end - before))
        return HessianEnds(
            values[0],
            values[-1],
            jnp.maximum(errors[0], moved(values[0], last.smallest)),
            jnp.maximum(errors[-1], moved(values[-1], last.largest)),
        )

    def unfinished(carry):
        k, _, _, _, ends = carry
        size = jnp.maximum(jnp.abs(ends.smallest), jnp.abs(ends.largest))
        good = jnp.maximum(ends.smallest_error, ends.largest_error) <= rtol * size
        return (k == 0) | ((k < iterations) & ~good & jnp.isfinite(size))

    def body(carry):
        k, basis, alpha, beta, last = carry
        end = jnp.minimum(k + _STRIDE, iterations)
        basis, alpha, beta = jax.lax.fori_loop(k, end, extend, (basis, alpha, beta))
        return end, basis, alpha, beta, look(end, alpha, beta, last)

    first = unit(jax.random.normal(jax.random.key(0), (size,)))
    basis = jnp.zeros((iterations, size)).at[0].set(first)
    none = jnp.zeros(iterations)
    nothing = HessianEnds(*[jnp.full((), jnp.inf, float)] * 4)
    return jax.lax.while_loop(unfinished, body, (jnp.asarray(0), basis, none, none, nothing))[-1]


def _matrix(model: Any, of: Callable[[Any], Array] | None) -> Array:
    if of is not None:
        W = of(model)
    elif isinstance(model, MatrixFactorization):
        W = model.product
    else:
        # What a model with a chart of its own holds are coordinates, not weights.
        held = () if hasattr(model, "chart") else jax.tree.leaves(model)
        leaves = [leaf for leaf in held if eqx.is_inexact_array(leaf) and leaf.ndim == 2]
        if len(leaves) != 1:
            raise ValueError(
                f"of must say which matrix of {type(model).__name__} is meant, such as lambda m: m.layers[0].weight: "
                f"it holds {len(leaves)} of them."
            )
        W = leaves[0]
    if jnp.ndim(W) != 2:
        raise ValueError(f"of must return a matrix, not an array of shape {jnp.shape(W)}.")
    return W
