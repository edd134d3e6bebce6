"""A problem as bytes, for other processes.

Functions and classes of a script or a notebook go by value. An Equinox module so sent would have no fields there:
cloudpickle makes a class empty and fills it afterwards, but Equinox registers the fields when the class is made. So
it is made with them. And a class that had come before would be that one again, with what it does replaced: also for
the problem that it came with. So each problem brings its own.
"""

import dataclasses
import functools
import io
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from .problem import Problem
from .same import mark

_Cached = type(functools.lru_cache(print))


def pack(problem: Problem) -> bytes:
    """The problem, with what it is to be known by. Raises ValueError for what cannot be sent."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, _Cached) and (obj.__module__ == "__main__" or "<locals>" in obj.__qualname__):
                return _cached, (obj.__wrapped__, obj.cache_parameters())
            reduced = super().reducer_override(obj)
            # Of a class as it is written here: others go by name.
            if not isinstance(obj, type) or not isinstance(reduced, tuple) or len(reduced) < 6:
                return reduced
            make, (*arguments, _tracker, extra), *state = reduced
            reduced = (make, (*arguments, None, extra), *state)
            return (_with_fields if isinstance(obj, type(eqx.Module)) else _as_tree)(obj, reduced)

    packed, known_by = io.BytesIO(), mark(problem)
    try:
        Pickler(packed).dump((problem, known_by))
    except Exception as error:
        raise ValueError(
            f"make_model, metrics and the values of over must be picklable to go to other processes, but: {error}; "
            "pass workers=0 to stay in this one."
        ) from error
    return packed.getvalue()


def _cached(function: Callable, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _as_tree(cls: Any, reduced: tuple) -> tuple:
    """How cloudpickle makes a class that is registered with JAX as a tree: registered, too."""
    empty = object.__new__(cls) if cls.__new__ is object.__new__ else None
    if empty is None:
        return reduced
    make, arguments, *state = reduced
    if hasattr(cls, "tree_flatten"):
        return (_tree_by_methods, (make, arguments), *state) if _is_tree(empty) else reduced
    if not dataclasses.is_dataclass(cls):
        return reduced
    parts = {field.name: object() for field in dataclasses.fields(cls)}
    for name, part in parts.items():
        object.__setattr__(empty, name, part)
    if not _is_tree(empty):
        return reduced
    leaves = {id(leaf) for leaf in jax.tree.leaves(empty)}
    return (_tree_by_fields, (make, arguments, {name: id(part) in leaves for name, part in parts.items()}), *state)


def _is_tree(obj: Any) -> bool:
    try:
        return jax.tree.leaves(obj) != [obj]
    except Exception:
        # Its own method has been asked.
        return True


def _tree_by_methods(make: Callable, arguments: tuple) -> type:
    cls: Any = make(*arguments)
    jax.tree_util.register_pytree_node(cls, lambda obj: obj.tree_flatten(), lambda *parts: cls.tree_unflatten(*parts))
    return cls


def _tree_by_fields(make: Callable, arguments: tuple, leaf: dict[str, bool]) -> type:
    cls = make(*arguments)
    return jax.tree_util.register_dataclass(cls, [k for k in leaf if leaf[k]], [k for k in leaf if not leaf[k]])


def _with_fields(cls: Any, reduced: tuple) -> tuple:
    """How cloudpickle makes the class, with its own fields in the namespace that it begins with. The state that follows
    replaces what is put there."""
    make, arguments, *state = reduced
    inherited = [f for base in cls.__mro__[1:] for f in vars(base).get("__dataclass_fields__", {}).values()]
    own = [f for f in dataclasses.fields(cls) if not any(f is other for other in inherited)]
    static = {f.name: bool(f.metadata.get("static")) for f in own}
    return (_made, (make, arguments, static, "__init__" in vars(cls)), *state)


def _made(make: Callable, arguments: tuple, fields: dict[str, bool], starts: bool) -> type:
    # By keyword, for those without a default may follow others with one.
    namespace: dict[str, Any] = {name: eqx.field(static=static, kw_only=True) for name, static in fields.items()}
    namespace["__annotations__"] = dict.fromkeys(fields, Any)
    if starts:
        # Equinox adds none of its own then, here and in classes derived from this one.
        namespace["__init__"] = lambda self: None
    with warnings.catch_warnings():
        # What there is to say of the class has been said where it was written.
        warnings.simplefilter("ignore")
        return make(*(a | namespace if isinstance(a, dict) else a for a in arguments))
