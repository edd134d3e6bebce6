"""Products of matrices, W = W_N ... W_1: deep linear networks, and matrix factorization and sensing.

Model of Arora et al. 2019 (arXiv 1905.13655) and Chou et al. 2020 (arXiv 2011.13772).
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..validate import check_key, real, real_array, whole


class MatrixFactorization(eqx.Module):
    """The product W = W_N ... W_1 of matrices, all of which are trained.

    It maps a vector x of shape (n_0,) to W x of shape (n_N,), as a deep linear network, and a matrix A of shape
    (n_N, n_0) to the number <A, W> = sum_ij A_ij W_ij, as in matrix sensing. The loss ||W - T||^2 / 2 of a target T
    that is fully observed is `Square(reduction="sum")` on the samples X = I, y = T^T: see `gflow.observe`.

    **Arguments:**

    - `factors`: [W_1, ..., W_N], in the order in which they are applied: W_j of shape (n_j, n_{j-1}).

    Class methods make usual starting points: `identical`, `perturbed`, `balanced`, `gaussian`.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> model = gflow.models.MatrixFactorization.identical(2, depth=3, scale=0.5)
        >>> model.product.tolist(), model(jnp.array([8.0, 16.0])).tolist(), float(model(jnp.eye(2)))
        ([[0.125, 0.0], [0.0, 0.125]], [1.0, 2.0], 0.25)

        ```
    """

    factors: tuple[Float[Array, "*saves rows columns"], ...]

    def __init__(self, factors: Sequence[Any]):
        if isinstance(factors, str) or not hasattr(factors, "__iter__"):
            raise ValueError(f"factors must be a list of matrices, not {factors!r}.")
        factors = tuple(real_array("factors", W, finite=False) for W in factors)
        shapes = [W.shape for W in factors]
        fits = bool(shapes) and all(len(shape) == 2 and min(shape) > 0 for shape in shapes)
        if not fits or any(after[1] != before[0] for before, after in itertools.pairwise(shapes)):
            raise ValueError(
                f"factors must be matrices of shapes (n_1, n_0), (n_2, n_1), ..., not {shapes}; list them in the order "
                "in which they are applied."
            )
        self.factors = factors

    @classmethod
    def identical(cls, size: int, depth: int, scale: float | Float[Array, ""]) -> "MatrixFactorization":
        """All factors alpha I: `depth` matrices of shape (size, size) with alpha = `scale`.

        The flow towards a symmetric target keeps its eigenvectors, and its negative eigenvalues are lost (Chou et al.
        2020, theorem 2.4).

        !!! example

            ```python
            >>> import gflow
            >>> gflow.models.MatrixFactorization.identical(2, depth=2, scale=0.1).factors[0].tolist()
            [[0.1, 0.0], [0.0, 0.1]]

            ```
        """
        whole("depth", depth)
        return cls([_positive("scale", scale) * jnp.eye(whole("size", size))] * depth)

    @classmethod
    def perturbed(
        cls, size: int, depth: int, scale: float | Float[Array, ""], gap: float | Float[Array, ""]
    ) -> "MatrixFactorization":
        """As `identical`, but for the first factor (alpha - beta) I with 0 < beta = `gap` < alpha.

        With it negative eigenvalues can be reached (Chou et al. 2020).

        !!! example

            ```python
            >>> import gflow
            >>> model = gflow.models.MatrixFactorization.perturbed(2, depth=2, scale=1.0, gap=0.25)
            >>> model.factors[0].tolist(), model.factors[1].tolist()
            ([[0.75, 0.0], [0.0, 0.75]], [[1.0, 0.0], [0.0, 1.0]])

            ```
        """
        whole("depth", depth)
        scale, gap = _positive("scale", scale), _positive("gap", gap)
        if not isinstance(scale, Tracer) and not isinstance(gap, Tracer) and not gap < scale:
            raise ValueError(f"gap must be below scale, {scale:g}, not {gap:g}.")
        eye = jnp.eye(whole("size", size))
        return cls([(scale - gap) * eye, *[scale * eye] * (depth - 1)])

    @classmethod
    def balanced(cls, product: Any, depth: int, widths: Sequence[int] | None = None) -> "MatrixFactorization":
        """Balanced factors, W_{j+1}^T W_{j+1} = W_j W_j^T, of a given product A = U S V^T.

        W_1 = S^(1/N) V^T, W_N = U S^(1/N) and S^(1/N) between, filled up with zeros. Singular values within rounding of
        the largest are zero, so that a product of rank r has factors of rank r.

        **Arguments:**

        - `product`: A, shape (n_N, n_0).
        - `widths`: (n_1, ..., n_{N-1}), each at least the smaller side of A, which is the default.

        Source: Arora et al. 2019 (arXiv 1810.02281), procedure 1.

        !!! example

            ```python
            >>> import gflow, jax.numpy as jnp
            >>> model = gflow.models.MatrixFactorization.balanced(jnp.array([[8.0, 0.0]]), depth=3)
            >>> [W.shape for W in model.factors], bool(jnp.allclose(model.product, jnp.array([[8.0, 0.0]])))
            ([(1, 2), (1, 1), (1, 1)], True)

            ```
        """
        whole("depth", depth)
        A = real_array("product", product)
        if A.ndim != 2:
            raise ValueError(f"product must be a matrix, not an array of shape {A.shape}.")
        rank = min(A.shape)
        widths = [rank] * (depth - 1) if widths is None else _several("widths", widths)
        if len(widths) != depth - 1 or any(w < rank for w in widths):
            raise ValueError(f"widths must hold depth - 1 = {depth - 1} integers of at least {rank}, not {widths}.")
        if depth == 1:
            return cls([A])
        U, s, Vt = _singular(A)
        root = jnp.diag(s ** (1.0 / depth))
        inner = [root @ Vt, *[root] * (depth - 2), U @ root]
        sizes = [A.shape[1], *widths, A.shape[0]]
        return cls(
            [jnp.zeros((sizes[j + 1], sizes[j])).at[: W.shape[0], : W.shape[1]].set(W) for j, W in enumerate(inner)]
        )

    @classmethod
    def gaussian(cls, sizes: Sequence[int], scale: float | Float[Array, ""], key: Array) -> "MatrixFactorization":
        """Independent normal entries of standard deviation alpha / sqrt(n_{j-1}), so that factors have norms of order
        alpha = `scale`.

        **Arguments:**

        - `sizes`: (n_0, n_1, ..., n_N): the input, the hidden layers, the output.
        - `key`: a `jax.random.key`.

        !!! example

            ```python
            >>> import gflow, jax
            >>> model = gflow.models.MatrixFactorization.gaussian([3, 5, 2], scale=0.1, key=jax.random.key(0))
            >>> [W.shape for W in model.factors]
            [(5, 3), (2, 5)]

            ```
        """
        sizes = _several("sizes", sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes must be (n_0, n_1, ..., n_N), at least two of them, not {sizes}.")
        scale = _positive("scale", scale)
        check_key(key)
        keys = jax.random.split(key, len(sizes) - 1)
        return cls(
            [scale / n**0.5 * jax.random.normal(k, (m, n)) for k, n, m in zip(keys, sizes, sizes[1:], strict=False)]
        )

    @property
    def product(self) -> Float[Array, "*saves rows columns"]:
        """W = W_N ... W_1; of saved models, one for each save."""
        return functools.reduce(lambda below, above: above @ below, self.factors)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        rows, columns = self.factors[-1].shape[-2], self.factors[0].shape[-1]
        if x.shape not in ((columns,), (rows, columns)):
            raise ValueError(f"x must have shape ({columns},) or ({rows}, {columns}), not {x.shape}.")
        return self.product @ x if x.ndim == 1 else jnp.sum(x * self.product)


def _singular(A: Array) -> tuple[Array, Array, Array]:
    """U, S and V^T; U = V to the last bit, but for signs, where A is symmetric, so that factors are each other's
    transposes (`gflow.mirror`). Singular values that are rounding are none: their roots would be seeds."""
    if not isinstance(A, Tracer) and A.shape[0] == A.shape[1] and np.array_equal(A, A.T):
        values, V = np.linalg.eigh(A)
        order = np.argsort(-np.abs(values), kind="stable")
        values, V = values[order], V[:, order]
        s = _without_rounding(jnp.asarray(np.abs(values)), A.shape)
        signs = np.where((values < 0) & (np.asarray(s) > 0), -1.0, 1.0)
        return jnp.asarray(V * signs), s, jnp.asarray(V.T)
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    return U, _without_rounding(s, A.shape), Vt


def _without_rounding(s: Array, shape: tuple[int, ...]) -> Array:
    return jnp.where(s > max(shape) * jnp.finfo(float).eps * s[0], s, 0.0)


def _several(name: str, values: Any) -> list[int]:
    if isinstance(values, str) or np.ndim(values) != 1:
        raise ValueError(f"{name} must be a list of positive integers, not {values!r}.")
    return [whole(name, n) for n in values]


def _positive(name: str, value: Any) -> Any:
    if isinstance(value, Tracer):
        return value
    if not real(value) or np.ndim(value) or not 0 < value < np.inf:
        raise ValueError(f"{name} must be a positive number, not {value!r}.")
    return value
