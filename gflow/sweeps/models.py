"""Models of many points at once, as one model whose arrays have a leading axis.

Where a traced make_model gives the same model as a called one (`traceable`), it is compiled once and called on arrays
of scales and seeds. Where it does not (it draws from NumPy, say, or decides by the value), models are made one by one.
The two are compared again in every chunk: integers that are exact in Python overflow in arrays.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import validate
from .alike import structure
from .axes import Axis, OWN
from .digest import numeric
from .problem import Problem
from .rounding import asks_for_types, rounds_otherwise


class Group(NamedTuple):
    """Models of one structure: their rows in the chunk, and the models with a leading axis."""

    rows: np.ndarray
    models: Any


def traceable(problem: Problem) -> tuple[str, ...]:
    """Names of the axes along which make_model can be compiled and gives what it gives when called."""
    if asks_for_types(problem.make_model):
        return ()
    first = (0,) * len(problem.axes)
    made = problem.model(first)
    names = tuple(a.name for a in problem.axes if a.numeric and a.name not in OWN)
    fits = lambda names: _same_traced(problem, first, names, made)
    if not fits(names):
        # Not all together: those that can be alone, if they can be at once.
        names = tuple(name for name in names if fits((name,)))
        names = names if fits(names) else ()
    if not names:
        return ()
    # The first, the middle and the last value of every axis.
    places = [(0, len(axis) // 2, len(axis) - 1) if axis.name in names else () for axis in problem.axes]
    points = np.array(sorted({(*first[:a], k, *first[a + 1 :]) for a, ks in enumerate(places) for k in ks}))
    traced = _made(eqx.filter_jit(eqx.filter_vmap(_maker(problem, first, names))), _columns(problem, names, points))
    return names if traced is not None and _as_called(problem, points, traced) else ()


def _same_traced(problem: Problem, index: Sequence[int], names: tuple[str, ...], made: Any) -> bool:
    """Whether a traced make_model gives the structure that it gives when called, and numbers up to rounding."""
    make, columns = _maker(problem, tuple(index), names), _columns(problem, names, np.array([index]))
    try:
        traced, arrays, rest = eqx.filter_make_jaxpr(make)(*(column[0] for column in columns))
    except Exception:
        # Whatever a function says that cannot be traced; called one by one it may well work.
        return False
    return structure(eqx.combine(arrays, rest)) == structure(made) and not rounds_otherwise(traced.jaxpr)


def _made(make: Callable, columns: list[Any]) -> Any:
    """Models as a program makes them; None if it refuses a value (`equinox.error_if`)."""
    try:
        return jax.block_until_ready(make(*columns))
    except Exception:
        return None


def _close(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(eqx.filter(a, eqx.is_array)), jax.tree.leaves(eqx.filter(b, eqx.is_array)), strict=True)
    numbers = [(numeric(p), numeric(q)) for p, q in pairs]
    return all(np.allclose(p, q, rtol=1e-9, atol=0.0, equal_nan=True) for p, q in numbers)


def groups(problem: Problem, points: np.ndarray, failures: dict[int, str]) -> Iterator[Group]:
    """The models at `points` (their indices, shape (B, axes)), by structure. Points at which make_model raises go to
    `failures` with what it said."""
    fixed = set(zip(*(first[points[:, k]].tolist() for k, first in enumerate(_firsts(problem))), strict=True))
    make = _compiled(problem, fixed.pop()) if len(fixed) == 1 else None
    if make is not None:
        padded = np.concatenate([points, np.repeat(points[-1:], max(problem.batch - len(points), 0), axis=0)])
        models = _made(make, _columns(problem, problem.traced, padded))
        if models is not None and _finite(models) and _as_called(problem, points, models, _outermost(problem, points)):
            yield Group(np.arange(len(points)), models)
            return
    found: dict[Any, list[tuple[int, Any]]] = {}
    for row, point in enumerate(points):
        try:
            model = problem.model(point)
            kind = structure(model)
            if kind not in found or not _finite(model):
                X, y = problem.data[problem.data_index(point)]
                validate.check_model(model, jnp.asarray(X), y.shape[1:])
            found.setdefault(kind, []).append((row, model))
        except Exception as error:
            failures[row] = f"{type(error).__name__}: {error}"
    for kind, members in found.items():
        models = [model for _, model in members]
        models += [models[-1]] * max(problem.batch - len(models), 0)
        # The functions of the first one ever seen: equal ones of a later chunk would compile the program again.
        rest = problem.rest.setdefault(kind, eqx.filter(models[0], eqx.is_array, inverse=True))
        yield Group(np.array([row for row, _ in members]), eqx.combine(_stack(models), rest))


def _firsts(problem: Problem) -> list[np.ndarray]:
    """For each value of each axis the first with the same compiled make_model: the first of all along axes that it does
    not depend on. Of the data it knows the shape, if anything."""
    shapes = [np.shape(X)[1:] for X, _ in problem.data]

    def along(axis: Axis) -> np.ndarray:
        if axis.name == "data" and problem.takes_dim:
            return np.array([shapes.index(shape) for shape in shapes])
        depends = axis.name not in (*problem.traced, *OWN)
        return np.arange(len(axis)) if depends else np.zeros(len(axis), int)

    return [along(axis) for axis in problem.axes]


def fixed_parts(problem: Problem, most: int) -> Iterator[tuple[int, ...]]:
    """A point for every make_model that may be compiled; of more than `most` so many."""
    dims = [np.unique(first) for first in _firsts(problem)]
    count = math.prod(map(len, dims))
    for flat in np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)):
        places = np.unravel_index(flat, [len(dim) for dim in dims])
        yield tuple(int(dim[k]) for dim, k in zip(dims, places, strict=True))


def _stack(models: list[Any]) -> Any:
    arrays = [eqx.filter(model, eqx.is_array) for model in models]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)


def _columns(problem: Problem, names: tuple[str, ...], points: np.ndarray) -> list[Any]:
    columns = []
    for name in names:
        k = [axis.name for axis in problem.axes].index(name)
        labels = problem.axes[k].labels
        kind = {"b": bool, "i": int, "u": int, "f": float}[labels.dtype.kind]
        columns.append(jnp.asarray(labels[points[:, k]], kind))
    return columns


def _compiled(problem: Problem, index: tuple[int, ...]) -> Callable | None:
    """A compiled make_model at these values of the axes that are not traced, if there is one."""
    if problem.traced and index not in problem.compiled:
        problem.compiled[index] = _compile(problem, index)
    return problem.compiled.get(index)


def _compile(problem: Problem, index: tuple[int, ...]) -> Callable | None:
    try:
        made = problem.model(index)
        X, y = problem.data[problem.data_index(index)]
        validate.check_model(made, jnp.asarray(X), y.shape[1:])
    except Exception:
        return None
    if not _same_traced(problem, index, problem.traced, made):
        return None
    return eqx.filter_jit(eqx.filter_vmap(_maker(problem, index, problem.traced)))


def _as_called(problem: Problem, points: np.ndarray, traced: Any, rows: Sequence[int] | None = None) -> bool:
    """Whether make_model, called at `points` (at `rows` of them), gives what it gave as a program."""
    rows = range(len(points)) if rows is None else rows
    try:
        called = [problem.model(points[row]) for row in rows]
    except Exception:
        return False
    chosen = lambda k: jax.tree.map(lambda leaf: leaf[rows[k]] if eqx.is_array(leaf) else leaf, traced)
    return all(structure(m) == structure(chosen(k)) and _close(m, chosen(k)) for k, m in enumerate(called))


def _outermost(problem: Problem, points: np.ndarray) -> list[int]:
    """Rows of a chunk, which is a box: its corners of the largest and of the least values that are traced."""
    ends = []
    for pick in (np.argmax, np.argmin):
        corner = points[0].copy()
        for k, axis in enumerate(problem.axes):
            if axis.name in problem.traced:
                corner[k] = points[pick(np.abs(axis.labels[points[:, k]])), k]
        ends += np.flatnonzero((points == corner).all(axis=1)).tolist()[:1]
    return sorted(set(ends))


def _finite(models: Any) -> bool:
    """What is not finite may be what a called make_model refuses."""
    return all(bool(np.all(np.isfinite(leaf))) for leaf in jax.tree.leaves(models) if eqx.is_inexact_array(leaf))


def program(problem: Problem, point: tuple[int, ...]) -> tuple[Callable, list[Any]]:
    """The make_model that would be compiled for a chunk with `point`, and arguments for it."""
    index = tuple(int(first[k]) for first, k in zip(_firsts(problem), point, strict=True))
    return _maker(problem, index, problem.traced), [v[0] for v in _columns(problem, problem.traced, np.array([index]))]


def _maker(problem: Problem, index: tuple[int, ...], names: tuple[str, ...]) -> Callable:
    """make_model at a point as a function of the arguments `names`."""
    fixed = {name: value for name, value in problem.arguments(index).items() if name not in names}
    return lambda *values: problem.make_model(**fixed, **dict(zip(names, values, strict=True)))
