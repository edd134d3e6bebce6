"""Whether a program may give something else than the Python function that it was traced from.

Integers are exact in Python, and overflow and divide by zero in arrays. Numbers agree but for the last digits, of which
a jump makes much: a `floor`, a number made an integer, a comparison, of what has been rounded before. And a function
may ask what it is called with for its type.
"""

import functools
import inspect
import types
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from .digest import is_own, names_in

_ARITHMETIC = {
    "add", "sub", "mul", "div", "rem", "neg", "abs", "pow", "integer_pow", "square", "shift_left", "dot_general",
    "reduce_sum", "reduce_prod", "cumsum", "cumprod",
}  # fmt: skip
_JUMPS = {
    "floor", "ceil", "round", "sign", "rem", "lt", "le", "gt", "ge", "eq", "ne", "argmax", "argmin", "sort",
    "convert_element_type",
}  # fmt: skip
# What passes numbers on as they are.
_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "slice", "select_n", "copy", "neg", "abs"}
_EXACT, _ROUNDED = 1, 2
_TYPES = {"isinstance", "issubclass", "type"}


def rounds_otherwise(jaxpr: Any) -> bool:
    """Whether integers that depend on the inputs are calculated with, or rounding of other numbers decides."""
    return _goes_apart(jaxpr, [_EXACT] * len(jaxpr.invars))


def asks_for_types(function: Any) -> bool:
    """Whether a function of the user's, as it is written, asks for types of Python: arrays of a program are of none."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        function = function.__init__
    function = getattr(inspect.unwrap(function), "__func__", inspect.unwrap(function))
    return isinstance(function, types.FunctionType) and is_own(function) and bool(_TYPES & names_in(function))


def _goes_apart(jaxpr: Any, given: Sequence[int]) -> bool:
    """`given`: what inputs are, of those of the whole: passed on as they are, rounded, or neither (0)."""
    known = {v: kind for v, kind in zip(jaxpr.invars, given, strict=True) if kind}
    for equation in jaxpr.eqns:
        kinds = [0 if isinstance(v, Literal) else known.get(v, 0) for v in equation.invars]
        if not any(kinds):
            continue
        name = equation.primitive.name
        integers = [k for v, k in zip(equation.invars, kinds, strict=True) if _is(v, jnp.signedinteger)]
        if name in _ARITHMETIC and any(integers):
            return True
        to_numbers = name == "convert_element_type" and _is(equation.outvars[0], jnp.inexact)
        if name in _JUMPS and _ROUNDED in kinds and not to_numbers:
            return True
        for inner in _inner(equation):
            # A loop or a branch has other inputs than its body.
            same = len(inner.invars) == len(kinds)
            if _goes_apart(inner, kinds if same else [max(kinds)] * len(inner.invars)):
                return True
        kind = max(kinds) if name in _MOVES else _ROUNDED
        known |= {v: kind for v in equation.outvars if _is(v, jnp.inexact)}
        known |= {v: _EXACT for v in equation.outvars if _is(v, jnp.signedinteger)}
    return False


def _is(v: Any, kind: Any) -> bool:
    return jnp.issubdtype(getattr(v.aval, "dtype", bool), kind)


def _inner(equation: Any) -> Iterator[Any]:
    """The programs that an equation holds: branches, bodies, functions."""
    for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: isinstance(v, ClosedJaxpr)):
        if isinstance(part, ClosedJaxpr):
            yield part.jaxpr
