"""What is observed of a matrix: samples and targets for `gflow.models.MatrixFactorization`.

The square loss of `measurements` is ||A(W) - b||^2 / 2, matrix sensing; that of `everything` is ||W - T||^2 / 2, of
which `entries` keeps the part that is observed, matrix completion. All with `gflow.losses.Square(reduction="sum")`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .validate import check_key, real_array, whole


class Observations(NamedTuple):
    """Samples `X` and targets `y`, as `gradient_flow` and `gradient_descent` take them.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> from gflow.observe import Observations
        >>> X, y = Observations(jnp.eye(2), jnp.ones(2))
        >>> X.shape, y.shape
        ((2, 2), (2,))

        ```
    """

    X: Array
    y: Any


def symmetric(eigenvalues: Any, size: int, key: Array) -> Float[Array, "n n"]:
    """A random symmetric matrix V diag(eigenvalues, 0, ..., 0) V^T of shape (size, size), with V uniformly distributed.

    !!! example

        ```python
        >>> import gflow, jax, jax.numpy as jnp
        >>> target = gflow.observe.symmetric([3.0, -1.0], 4, jax.random.key(0))
        >>> bool(jnp.allclose(jnp.linalg.eigvalsh(target), jnp.array([-1.0, 0.0, 0.0, 3.0]), atol=1e-12))
        True

        ```
    """
    values, size = real_array("eigenvalues", eigenvalues), whole("size", size)
    check_key(key)
    if values.ndim != 1 or not 1 <= values.size <= size:
        raise ValueError(f"eigenvalues must be a list of at most size = {size} numbers, not of shape {values.shape}.")
    V = jax.random.orthogonal(key, size)[:, : values.size]
    return (V * values[None]) @ V.T


def everything(target: Float[ArrayLike, "m n"], noise: float = 0.0, key: Array | None = None) -> Observations:
    """The whole matrix T, shape (m, n): X = I with the rows of T^T as targets.

    **Arguments:**

    - `noise`: standard deviation of independent normal errors of the entries, drawn by `key`.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = gflow.observe.everything(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> X.tolist(), y.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 3.0], [2.0, 4.0]])

        ```
    """
    T = _matrix(target)
    T = T + _noise(noise, key, T.shape)
    return Observations(jnp.eye(T.shape[1]), T.T)


def measurements(
    target: Float[ArrayLike, "m n"], count: int, key: Array, noise: float = 0.0
) -> Observations:
    """Random linear measurements b_i = <A_i, T>, i = 1, ..., count, of a matrix T of shape (m, n).

    The entries of A_i are normal with variance 1 / count, so that ||A(W)||^2 is ||W||^2 in expectation.

    **Arguments:**

    - `noise`: standard deviation of independent normal errors of the b_i.

    **Returns:** X of shape (count, m, n) and y of shape (count,).

    !!! example

        ```python
        >>> import gflow, jax, jax.numpy as jnp
        >>> X, y = gflow.observe.measurements(jnp.eye(3), 5, jax.random.key(0))
        >>> X.shape, bool(jnp.allclose(y, jnp.trace(X, axis1=1, axis2=2)))
        ((5, 3, 3), True)

        ```
    """
    T = _matrix(target)
    count = whole("count", count)
    check_key(key)
    draw, error = jax.random.split(key)
    A = jax.random.normal(draw, (count, *T.shape)) / jnp.sqrt(float(count))
    return Observations(A, jnp.sum(A * T[None], axis=(1, 2)) + _noise(noise, error, (count,)))


def entries(
    target: Float[ArrayLike, "m n"], fraction: float, key: Array, noise: float = 0.0
) -> Observations:
    """Entries of a matrix T, shape (m, n), drawn without replacement: `everything` with the others masked.

    **Arguments:**

    - `fraction`: the share that is observed, in (0, 1].
    - `noise`: standard deviation of independent normal errors of the entries.

    For entries of your own choice, mask y yourself: `numpy.ma.masked_array(T.T, mask=~observed.T)`.

    !!! example

        ```python
        >>> import gflow, jax, jax.numpy as jnp
        >>> X, y = gflow.observe.entries(jnp.ones((4, 5)), 0.3, jax.random.key(0))
        >>> y.shape, int(y.count())
        ((5, 4), 6)

        ```
    """
    T = _matrix(target)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], not {fraction!r}.")
    check_key(key)
    draw, error = jax.random.split(key)
    X, y = everything(T, noise, error)
    seen = np.asarray(jax.random.permutation(draw, T.size))[: max(1, round(fraction * T.size))]
    mask = np.ones(T.size, bool)
    mask[seen] = False
    return Observations(X, np.ma.masked_array(np.asarray(y), mask=mask.reshape(y.shape)))


def _matrix(target: Any) -> Array:
    if np.ma.is_masked(target):
        raise ValueError("target must not be masked; mask y instead: numpy.ma.masked_array(y, mask=~observed.T).")
    T = real_array("target", target)
    if T.ndim != 2 or T.size == 0:
        raise ValueError(f"target must be a matrix, not an array of shape {T.shape}.")
    return T


def _noise(size: float, key: Array | None, shape: tuple[int, ...]) -> Array:
    if isinstance(size, bool) or not isinstance(size, int | float | np.number) or not 0 <= size < np.inf:
        raise ValueError(f"noise must be a standard deviation, not {size!r}.")
    if size == 0:
        return jnp.zeros(shape)
    if key is None:
        raise ValueError("key must be given with noise, such as jax.random.key(0).")
    check_key(key)
    return size * jax.random.normal(key, shape)
