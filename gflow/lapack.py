"""LAPACK's routines for flows that share a `vmap`.

jaxlib 0.10.0 to 0.11.0 deal a batch of matrices out to the threads of a pool, from one of these threads, which waits
for the others: two such batches at once, on two threads, wait for ever (seen in a native stack, and read in its
source, `lapack_kernels.cc`; later versions do not deal out). A batch of few operations stays whole. Here a larger
one is taken in pieces of so few, one after the other, on CPUs only.
"""

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_DEALT = 200_000
"""Operations (as jaxlib estimates them) from which a batch is dealt out."""
_version = version("jaxlib")
DEALS = _version.startswith("0.10.") or _version == "0.11.0"
"""Whether this jaxlib deals batches out."""


def in_pieces(routine: Callable, operations: Callable[..., int]) -> Callable:
    """`routine` of matrices (... m n), in pieces where `vmap` makes a batch of them that would be dealt out.

    `operations`: of the shapes of its matrices, as jaxlib estimates them. Forward-mode derivatives only."""

    @jax.custom_batching.custom_vmap
    def run(*arrays: Array) -> Any:
        batch = arrays[0].shape[:-2]
        count, matrices = math.prod(batch), [a.shape[-2:] for a in arrays]
        piece = max(1, (_DEALT - 1) // max(1, operations(*matrices)))
        if not DEALS or count <= piece or jax.default_backend() != "cpu":
            return routine(*arrays)
        rows = tuple(a.reshape(count, *a.shape[-2:]) for a in arrays)
        done = jax.lax.map(lambda row: routine(*row), rows, batch_size=piece)
        return jax.tree.map(lambda v: v.reshape(*batch, *v.shape[1:]), done)

    @run.def_vmap
    def _(size: int, batched: list[bool], *arrays: Array) -> tuple[Any, Any]:
        pairs = zip(arrays, batched, strict=True)
        out = run(*(a if own else jnp.broadcast_to(a, (size, *a.shape)) for a, own in pairs))
        return out, jax.tree.map(lambda _: True, out)

    return run


_factors = in_pieces(lambda A: jax.lax.linalg.lu(A)[0], lambda A: A[0] ** 2 * A[1])
_upper = in_pieces(
    lambda A, b: jax.lax.linalg.triangular_solve(A, b, left_side=True), lambda A, b: A[0] * b[0] * b[1]
)

orthogonal = in_pieces(lambda A: tuple(jnp.linalg.qr(A, mode="complete")), lambda A: 6 * max(A) ** 3)
"""The factors Q (m m) and R (m n) of a matrix (m n)."""
symmetric = in_pieces(lambda A: tuple(jnp.linalg.eigh(A)), lambda A: 10 * A[0] ** 3)
"""The eigenvalues (n), ascending, and eigenvectors (n n) of a symmetric matrix."""


def solve(A: Array, b: Array) -> Array:
    """The solution x of A x = b, for a matrix A (n n) and b (n) or (n k). Differentiable in both modes."""
    columns = b if b.ndim == 2 else b[:, None]
    x = jax.lax.custom_linear_solve(lambda x: A @ x, columns, lambda _, c: _solve(A, c), lambda _, c: _solve(A.T, c))
    return x if b.ndim == 2 else x[:, 0]


def _solve(A: Array, b: Array) -> Array:
    # Factored beside A, b becomes L^-1 P b: P itself would take a loop over the rows, as long as the rest.
    n = A.shape[1]
    factors = _factors(jnp.concatenate([A, b], axis=1))
    return _upper(factors[:, :n], factors[:, n:])
