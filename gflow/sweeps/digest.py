"""By what a model or a function is known again: the numbers in it, and what it computes."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

_ARITHMETIC = {
    "add", "sub", "mul", "div", "rem", "neg", "abs", "pow", "integer_pow", "square", "shift_left", "dot_general",
    "reduce_sum", "reduce_prod", "cumsum", "cumprod",
}  # fmt: skip
_JUMPS = {"floor", "ceil", "round"}


def numbers_of(model: Any) -> bytes:
    """A hash of the numbers in a model."""
    if isinstance(model, dict):
        return hashlib.sha256(str(sorted(model.items())).encode()).digest()
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    return hashlib.sha256(b"".join(map(_bytes, leaves))).digest()


def computation(function: Callable, *inputs: Any) -> bytes:
    """A function as JAX sees it: what it and its derivatives compute, and the constants in them and in the functions
    that they call. Of what leaves JAX (callbacks) a value stands for the rest."""
    shaken = jax.tree.map(lambda leaf: _shaken(leaf) if eqx.is_inexact_array(leaf) else leaf, inputs)
    told = b""
    for seen in (function, functools.partial(_pulled_back, function)):
        try:
            traced, *_ = eqx.filter_make_jaxpr(seen)(*inputs)
        except Exception:
            if seen is function:
                raise
            # It has no derivative.
            continue
        told += re.sub(r"0x[0-9a-f]+", "", str(traced)).encode() + b"".join(map(_bytes, _constants(traced)))
        if "callback" in str(traced):
            told += b"".join(map(_bytes, jax.tree.leaves(eqx.filter(seen(*shaken), eqx.is_array))))
    return told


def _shaken(leaf: Any) -> jax.Array:
    """Away from the start, where much is zero."""
    return leaf + 0.1 * jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)


def _pulled_back(function: Callable, *inputs: Any) -> Any:
    """What a derivative rule of the user's computes, too."""
    value, pull = eqx.filter_vjp(function, *inputs)
    return pull(jax.tree.map(jnp.ones_like, value))


def _constants(part: Any) -> Iterator[Any]:
    if isinstance(part, ClosedJaxpr):
        yield from part.consts
        for equation in part.jaxpr.eqns:
            yield from _constants(tuple(equation.params.values()))
            yield from (v.val for v in equation.invars if isinstance(v, Literal) and np.ndim(v.val))
    elif isinstance(part, tuple | list):
        for inner in part:
            yield from _constants(inner)


def _bytes(array: Any) -> bytes:
    return numeric(array).tobytes()


def numeric(array: Any) -> np.ndarray:
    """An array of numbers, also of JAX's typed keys."""
    keys = isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if keys else array)


def calculates(jaxpr: Any, given: Sequence[bool] | None = None) -> bool:
    """Whether something is calculated in integers that depend on the inputs (on those `given`), or made one of
    numbers, where rounding decides."""
    if _jumps(jaxpr):
        return True
    given = [True] * len(jaxpr.invars) if given is None else given
    integer = lambda v: not isinstance(v, Literal) and jnp.issubdtype(v.aval.dtype, jnp.signedinteger)
    depends = {v for v, said in zip(jaxpr.invars, given, strict=True) if said and integer(v)}
    for equation in jaxpr.eqns:
        told = [not isinstance(v, Literal) and v in depends for v in equation.invars]
        if not any(told):
            continue
        if equation.primitive.name in _ARITHMETIC:
            return True
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: isinstance(v, ClosedJaxpr)):
            if isinstance(inner, ClosedJaxpr):
                alike = len(inner.jaxpr.invars) == len(told)
                if calculates(inner.jaxpr, told if alike else None):
                    return True
        depends |= {v for v in equation.outvars if integer(v)}
    return False


def _jumps(jaxpr: Any) -> bool:
    inner = [e.params.values() for e in jaxpr.eqns]
    parts = jax.tree.leaves([list(v) for v in inner], is_leaf=lambda v: isinstance(v, ClosedJaxpr))
    return any(e.primitive.name in _JUMPS for e in jaxpr.eqns) or any(
        _jumps(part.jaxpr) for part in parts if isinstance(part, ClosedJaxpr)
    )
