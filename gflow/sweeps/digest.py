"""By what a model or a function is known again: the numbers in it, and what it computes."""

import contextlib
import dataclasses
import functools
import hashlib
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

# Wherever they are installed.
_KNOWN = {"diffrax", "equinox", "gflow", "jax", "jaxtyping", "lineax", "optimistix"}


class Seen(NamedTuple):
    """Something as a text, and the arrays in it."""

    text: str
    arrays: list[Any]

    def exactly(self) -> bytes:
        return self.text.encode() + b"".join(map(_bytes, self.arrays))


def numbers_of(model: Any) -> str:
    """A hash of the numbers in a model."""
    return hashlib.sha256(numbers_in(model).exactly()).hexdigest()


def numbers_in(model: Any) -> Seen:
    if isinstance(model, dict):
        return Seen(str(sorted(model.items())), [])
    return Seen("", jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def seen(function: Callable, *inputs: Any, derivatives: bool = False) -> Seen:
    """A function as JAX sees it: what it computes, with its derivatives if asked for, and the constants in it and in
    the functions that it calls. Of what leaves JAX (callbacks) a value stands for the rest."""
    found, *_ = eqx.filter_make_jaxpr(function)(*inputs)
    # In a terminal or a notebook JAX prints programs in colour.
    text, arrays = without_addresses(found.pretty_print(use_color=False)), list(_constants(found))
    if "callback" in text:
        shaken = jax.tree.map(lambda leaf: _shaken(leaf) if eqx.is_inexact_array(leaf) else leaf, inputs)
        arrays += jax.tree.leaves(eqx.filter(function(*shaken), eqx.is_array))
    if derivatives:
        # What has none has told all.
        with contextlib.suppress(Exception):
            more, others = seen(functools.partial(_pulled_back, function), *inputs)
            text, arrays = text + more, arrays + others
    return Seen(text, arrays)


def without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def code_in(part: Any, met: dict[int, Any] | None = None) -> bytes:
    """The functions in a module, by their code and by what they close over or find by name in modules of the user's:
    what they compute is not known."""
    met = {} if met is None else met
    if _plain(part):
        return repr(part).encode()
    if eqx.is_array(part) or isinstance(part, np.ndarray | np.generic):
        return _bytes(part)
    if id(part) in met:
        return b""
    # Kept, so that no other part gets its id.
    met[id(part)] = part
    told = lambda parts: [code_in(inner, met) for inner in parts]
    # With their lengths: 1, 23 is not 12, 3.
    inside = lambda parts: b"".join(str(len(inner)).encode() + b":" + inner for inner in told(parts))
    if isinstance(part, types.CodeType):
        return part.co_code + inside(part.co_consts) + repr(part.co_names).encode()
    if isinstance(part, types.FunctionType):
        if not is_own(part):
            return f"{part.__module__}.{part.__qualname__}".encode()
        given = part.__defaults__, part.__kwdefaults__
        held = (cell.cell_contents for cell in part.__closure__ or ())
        return inside((part.__code__, *held, *given, *_named(part), vars(part)))
    if isinstance(part, types.MethodType):
        return inside((part.__func__, part.__self__))
    if isinstance(part, functools.partial):
        return inside((part.func, *part.args, part.keywords))
    if isinstance(part, tuple | list):
        return inside(part)
    if isinstance(part, set | frozenset):
        return b"".join(sorted(told(part)))
    if isinstance(part, dict):
        return inside((*part.keys(), *part.values()))
    if isinstance(part, type):
        return inside(map(_functions, filter(is_own, part.__mro__)))
    if dataclasses.is_dataclass(part):
        return inside((*(getattr(part, field.name, None) for field in dataclasses.fields(part)), type(part)))
    if isinstance(getattr(part, "__wrapped__", None), types.FunctionType):
        # Of a compiled function.
        return inside((part.__wrapped__,))
    if is_own(type(part)) or isinstance(part, types.SimpleNamespace):
        return inside((type(part), getattr(part, "__dict__", None)))
    return b""


def names_in(function: types.FunctionType) -> set[str]:
    """The names that a function, and functions in it, look up, or ask others for."""
    codes, names = [function.__code__], set[str]()
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return names


def _named(function: types.FunctionType) -> list[Any]:
    """What a function finds by name in its module, and as a name in another module of the user's."""
    names = names_in(function)
    found = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
    modules = [part for part in found if isinstance(part, types.ModuleType) and not _is_library(part.__name__)]
    return found + [vars(module)[name] for module in modules for name in sorted(names) if name in vars(module)]


def is_own(part: Any) -> bool:
    """Whether a class or a function is the user's own."""
    return not _is_library(part.__module__ or "")


@functools.cache
def _is_library(module: str) -> bool:
    """Whether its version says what a module does."""
    top = module.split(".")[0]
    if top in _KNOWN or top in sys.stdlib_module_names:
        return True
    origin = getattr(sys.modules.get(top), "__file__", None) or ""
    return any(origin.startswith(sysconfig.get_path(name)) for name in ("purelib", "platlib"))


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
