"""Loops over small arrays, compiled whole.

On CPUs XLA runs a loop as a list of small operations, each of which costs some 50 ns to hand out: with systems of tens
of unknowns half of the time goes there. A call that bears the attribute `xla_cpu_small_call` becomes one function of
machine code instead. The compiler of such functions knows no LAPACK, sorting or scattering, and no products by XLA's
library YNNPACK, which an option of the whole program switches off; and it aborts where an argument is never used. So it
is for programs of gflow's own, and in them for functions whose operations are all known to be possible; any other is
left as it is.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

_allowed: ContextVar[bool] = ContextVar("allowed", default=False)
_inside: ContextVar[bool] = ContextVar("inside", default=False)
_POSSIBLE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "argmax", "argmin", "asin", "asinh", "atan", "atan2", "atanh",
    "bitcast_convert_type", "broadcast_in_dim", "cbrt", "ceil", "clamp", "concatenate", "cond",
    "convert_element_type", "copy", "copy_p", "cos", "cosh", "custom_jvp_call", "custom_linear_solve",
    "custom_vjp_call", "div", "dot_general", "dynamic_slice", "dynamic_update_slice", "eq", "erf", "erfc", "exp",
    "exp2", "expand_dims", "expm1", "floor", "ge", "gather", "gt", "imag", "integer_pow", "iota", "is_finite",
    "jit", "le", "log", "log1p", "logistic", "lt", "max", "maybe_set", "min", "mul", "ne", "neg", "nextafter",
    "nonbatchable", "not", "or", "pad", "pjit", "platform_index", "pow", "real", "reduce_and", "reduce_max",
    "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "rem", "reshape", "rev", "round", "rsqrt", "scan",
    "select_if_vmap", "select_n", "sign", "sin", "sinh", "slice", "split", "sqrt", "square", "squeeze", "stack",
    "stop_gradient", "sub", "tan", "tanh", "transpose", "unvmap_all", "unvmap_any", "unvmap_max", "while", "xor",
}  # fmt: skip
_OPTIONS = ({"xla_cpu_experimental_ynn_fusion_type": ""}, {})


def inside() -> bool:
    """Whether what is traced now is to become one kernel."""
    return _inside.get()


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """While a program is traced that is compiled with `options` and neither batched nor differentiated."""
    token = _allowed.set(options() is not None)
    try:
        yield
    finally:
        _allowed.reset(token)


@functools.cache
def options() -> dict[str, str] | None:
    """Options of the compiler with which kernels are possible here; None if they are not. Found out by trying: they
    depend on the version of jaxlib."""
    if jax.default_backend() != "cpu":
        return None

    def sample(A):
        loop = lambda i, A: jax.lax.cond(A[0, 0] > 0, lambda: jnp.sin(A @ A.T) / A.shape[0], lambda: A + 1.0)
        return eliminate(jax.lax.fori_loop(0, 3, loop, A) + 4.0 * jnp.eye(len(A)), A)

    for chosen in _OPTIONS:
        with contextlib.suppress(Exception):
            jax.jit(lambda A: _tagged(jax.jit(sample)(A)), compiler_options=chosen)(jnp.eye(16)).block_until_ready()
            return chosen
    return None


def _tagged(v: jax.Array) -> Any:
    from jax.experimental.xla_metadata import set_xla_metadata

    return set_xla_metadata(v, xla_cpu_small_call="true", inlineable="false")


def one_kernel(function: Callable) -> Callable:
    """`function`, of any arguments, compiled as one piece of code where that is allowed and possible."""

    def run(*arguments: Any) -> Any:
        if not _allowed.get():
            return function(*arguments)
        arrays, rest = eqx.partition(arguments, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        kept: Any = None

        def packed(vector: jax.Array) -> list[Any]:
            nonlocal kept
            given = jax.tree.unflatten(structure, _unpacked(vector, leaves))
            out = function(*eqx.combine(given, rest))
            out, others = eqx.partition(out, eqx.is_array)
            leaves_out, shape = jax.tree.flatten(out)
            kept = shape, others
            return leaves_out

        if not all(v.dtype in _WIDTHS for v in leaves):
            return function(*arguments)
        vector = _packed(leaves)
        token = _inside.set(True)
        try:
            program = jax.make_jaxpr(packed)(vector)
        finally:
            _inside.reset(token)
        if not _possible(program.jaxpr):
            return function(*arguments)
        out = [_tagged(v) for v in jax.jit(jaxpr_as_fun(program))(vector)]
        shape, others = kept
        return eqx.combine(jax.tree.unflatten(shape, out), others)

    return run


_WIDTHS = (jnp.dtype("float64"), jnp.dtype("int64"), jnp.dtype("int32"), jnp.dtype("uint32"), jnp.dtype("bool"))


def _packed(leaves: list[jax.Array]) -> jax.Array:
    """All arrays as one of numbers of 64 bits: a kernel must make use of each of its arguments, or XLA aborts."""
    whole = lambda v: jax.lax.bitcast_convert_type(v, float) if v.dtype == jnp.dtype("int64") else v.astype(float)
    return jnp.concatenate([jnp.zeros(1), *[jnp.ravel(whole(v)) for v in leaves]])


def _unpacked(vector: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    ends = np.cumsum([1, *[v.size for v in leaves]])
    parts = [vector[start:end] for start, end in itertools.pairwise(ends)]
    whole = lambda p, dtype: (
        jax.lax.bitcast_convert_type(p, dtype) if dtype == jnp.dtype("int64") else p.astype(dtype)
    )
    return [whole(p, v.dtype).reshape(v.shape) for p, v in zip(parts, leaves, strict=True)]


def _possible(jaxpr: Any) -> bool:
    return all(_one_possible(equation) for equation in jaxpr.eqns)


def _one_possible(equation: Any) -> bool:
    name = equation.primitive.name
    if name == "scatter":
        # To one place: XLA makes it an update of a slice.
        indices = equation.invars[1].aval.shape
        return all(n == 1 for n in indices[:-1])
    if name not in _POSSIBLE:
        return False
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns") and not _possible(inner):
                return False
    return True


def eliminate(A: jax.Array, b: jax.Array) -> jax.Array:
    """The solution x (n k) of A x = b (n n, n k) by Gaussian elimination with row pivoting, in operations that a kernel
    may have. In pieces: what is done with is not carried along."""
    rest, done = jnp.concatenate([A, b], axis=1), []
    piece, k = -(-A.shape[0] // _PIECES), b.shape[1]
    while rest.shape[0]:
        count = min(piece, rest.shape[0])
        rest = jax.lax.fori_loop(0, count, _pivot, rest)
        done.append(rest[:count])
        rest = rest[count:, count:]
    x = jnp.zeros((0, k))
    for rows in reversed(done):
        n = rows.shape[0]
        right = rows[:, -k:] - jnp.sum(rows[:, n:-k, None] * x[None], axis=1)
        x = jnp.concatenate([_back(rows[:, :n], right), x])
    return x


# Of a matrix, each of which has loops of its own: more of them compute less and compile longer.
_PIECES = 3


def _row(v: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(v, i, 1, axis=0)


def _pivot(k: jax.Array, M: jax.Array) -> jax.Array:
    rows = jnp.arange(M.shape[0])
    column = lambda M: jax.lax.dynamic_slice_in_dim(M, k, 1, axis=1)
    p = jnp.argmax(jnp.where(rows >= k, jnp.abs(column(M)[:, 0]), -1.0))
    top, own = _row(M, p), _row(M, k)
    M = jax.lax.dynamic_update_slice_in_dim(M, own, p, axis=0)
    M = jax.lax.dynamic_update_slice_in_dim(M, top, k, axis=0)
    return M - jnp.where(rows[:, None] > k, column(M) / column(top), 0.0) * top


def _back(U: jax.Array, b: jax.Array) -> jax.Array:
    n = U.shape[0]
    columns = jnp.arange(n)

    def step(i: jax.Array, x: jax.Array) -> jax.Array:
        j = n - 1 - i
        row = _row(U, j)
        known = jnp.sum(jnp.where(columns > j, row[0], 0.0)[:, None] * x, axis=0)
        pivot = jax.lax.dynamic_slice_in_dim(row, j, 1, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(x, (_row(b, j) - known[None]) / pivot, j, axis=0)

    return jax.lax.fori_loop(0, n, step, jnp.zeros_like(b))
