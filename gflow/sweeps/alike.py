"""When things made anew at every point are the same, so that one compiled program serves them.

Python compares functions by identity, and a make_model with an inner function makes another one, which does the same,
at every call. Here functions are alike if they have the same code and hold on to alike things; numbers and arrays are
alike if they are equal to the last bit.
"""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class _Itself:
    """Like nothing but itself. It keeps what it stands for alive: the identity of a lost object is given out again."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def structure(model: Any) -> Any:
    """What two models share that one compiled program can run: all but the values of their JAX arrays."""
    leaves, tree = jax.tree.flatten(model)
    free = jax.Array | jax.ShapeDtypeStruct
    return tree, tuple((leaf.shape, leaf.dtype) if isinstance(leaf, free) else known(leaf) for leaf in leaves)


def known(value: Any, within: tuple[int, ...] = ()) -> Any:
    """What `value` is known by: a hashable that equals that of whatever is alike. `within`: functions that hold it."""
    again = functools.partial(known, within=(*within, id(value)))
    if isinstance(value, Tracer):
        return _Itself(value)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.dtype, again(jax.random.key_data(value))
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return type(value).__name__, value.shape, value.dtype, np.asarray(value).tobytes()
    if isinstance(value, float | complex):
        # Not by ==, to which 0.0 is -0.0.
        return type(value), repr(value)
    if isinstance(value, types.FunctionType):
        if id(value) in within:
            return "itself", within.index(id(value))
        cells = [cell.cell_contents if _filled(cell) else None for cell in value.__closure__ or ()]
        held = (value.__defaults__, value.__kwdefaults__, cells, vars(value))
        return value.__code__, id(value.__globals__), again(held)
    if isinstance(value, types.MethodType):
        return again((value.__func__, value.__self__))
    if isinstance(value, functools.partial):
        return functools.partial, again((value.func, value.args, value.keywords))
    leaves, tree = jax.tree.flatten(value)
    if leaves and leaves[0] is value:
        try:
            hash(value)
        except TypeError:
            return _Itself(value)
        return type(value), value
    return tree, tuple(map(again, leaves))


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
