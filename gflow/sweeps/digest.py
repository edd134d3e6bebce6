"""By what a model or a function is known again: the numbers in it, and what it computes."""

import contextlib
import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

# Whose version says what their classes do.
_KNOWN = {"abc", "builtins", "diffrax", "equinox", "gflow", "jaxtyping", "lineax", "optimistix", "typing"}


def numbers_of(model: Any) -> bytes:
    """A hash of the numbers in a model."""
    if isinstance(model, dict):
        return hashlib.sha256(str(sorted(model.items())).encode()).digest()
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    return hashlib.sha256(b"".join(map(_bytes, leaves))).digest()


def computation(function: Callable, *inputs: Any, derivatives: bool = False) -> bytes:
    """A function as JAX sees it: what it computes, with its derivatives if asked for, and the constants in it and in
    the functions that it calls. Of what leaves JAX (callbacks) a value stands for the rest."""
    text, arrays = traced(function, *inputs, derivatives=derivatives)
    return text.encode() + b"".join(map(_bytes, arrays))


def traced(function: Callable, *inputs: Any, derivatives: bool = False) -> tuple[str, list[Any]]:
    """The text of `computation`, and the arrays in it."""
    found, *_ = eqx.filter_make_jaxpr(function)(*inputs)
    text, arrays = without_addresses(str(found)), list(_constants(found))
    if "callback" in text:
        shaken = jax.tree.map(lambda leaf: _shaken(leaf) if eqx.is_inexact_array(leaf) else leaf, inputs)
        arrays += jax.tree.leaves(eqx.filter(function(*shaken), eqx.is_array))
    if derivatives:
        # What has none has told all.
        with contextlib.suppress(Exception):
            more, others = traced(functools.partial(_pulled_back, function), *inputs)
            text, arrays = text + more, arrays + others
    return text, arrays


def without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def code_in(part: Any, seen: frozenset = frozenset()) -> bytes:
    """The functions in a module, by their code and what they close over: what they compute is not known."""
    if id(part) in seen:
        return b""
    inside = lambda parts: b"".join(code_in(inner, seen | {id(part)}) for inner in parts)
    if isinstance(part, types.CodeType):
        return part.co_code + inside(part.co_consts) + repr(part.co_names).encode()
    if isinstance(part, types.FunctionType):
        return inside((part.__code__, *(cell.cell_contents for cell in part.__closure__ or ()), part.__defaults__))
    if isinstance(part, types.MethodType):
        return inside((part.__func__, part.__self__))
    if isinstance(part, functools.partial):
        return inside((part.func, *part.args, *part.keywords.values()))
    if isinstance(part, tuple | list):
        return inside(part)
    if dataclasses.is_dataclass(part):
        own = map(_functions, filter(is_own, type(part).__mro__))
        return inside((*(getattr(part, field.name, None) for field in dataclasses.fields(part)), *own))
    return _bytes(part) if eqx.is_array(part) else repr(part).encode() if _plain(part) else b""


def is_own(cls: type) -> bool:
    """Whether a class is the user's own."""
    return cls.__module__.split(".")[0] not in _KNOWN


def _functions(cls: type) -> tuple:
    """What a class defines."""
    bare = lambda v: v.fget if isinstance(v, property) else getattr(v, "__func__", v)
    return tuple(bare(v) for name, v in sorted(vars(cls).items()) if not name.startswith("__") or name == "__call__")


def _plain(part: Any) -> bool:
    return part is None or isinstance(part, bool | int | float | complex | str | bytes)


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
