"""Whether a worker has the same models and metrics: what comes from an imported module goes to it by name, and it may
have imported that at another time or in another version."""

import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import exact
from .alike import structure
from .attributes import asked_for, fixed, metric_of, of_a_loss, sizes_for
from .digest import code_in, numeric, traced
from .problem import Problem

# What a module computes is not the same to the last digit on any number of threads.
_ROUNDING = 1e-6
_FLOAT = re.compile(r"-?\d+\.\d+(e[-+]?\d+)?")
# Points looked at along an axis.
_MOST = 64


class Mark(NamedTuple):
    """A hash of what models along all axes compute, and of each array in them its norm and two sums."""

    text: str
    sums: np.ndarray


def mark(problem: Problem) -> Mark:
    texts: list[bytes] = [code_in(problem.solver)]
    arrays: list[Any] = []
    met = []

    def note(function: Callable, *inputs: Any) -> None:
        text, inside = traced(function, *inputs, derivatives=True)
        texts.append(_rounded(text))
        arrays.extend(inside)

    def look(index: tuple[int, ...]) -> None:
        model = problem.model(index) if problem.digits is None else exact.arguments(problem, index)
        if isinstance(model, dict):
            texts.append(_rounded(str(sorted(model.items()))))
            return
        arrays.extend(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
        X, y = (jnp.asarray(v, float) for v in problem.data[problem.data_index(index)])
        form = (structure(model), X.shape, y.shape)
        if form in met:
            return
        met.append(form)
        note(lambda model, x: model(x), model, X[0])
        note(functools.partial(asked_for, loss=problem.loss_at(index)), model, X, y)
        texts.append(_rounded(fixed(model)))
        for name, metric in problem.metrics.items():
            note(functools.partial(metric_of, name, metric), model, X, y)

    for index in _points(problem):
        try:
            look(index)
        except Exception as error:
            # Its status will say so, in either process.
            texts.append(type(error).__name__.encode())
    for loss in problem.losses:
        for size in sizes_for(loss, problem):
            note(functools.partial(of_a_loss, loss), np.ones(size), np.ones(size))
    return Mark(hashlib.sha256(b"\0".join(texts)).hexdigest(), np.array([_sums(numeric(v)) for v in arrays]))


def _points(problem: Problem) -> list[tuple[int, ...]]:
    """Both ends of the grid, and points along each axis at the first values of the others."""
    first, last = (0,) * len(problem.axes), tuple(len(axis) - 1 for axis in problem.axes)
    along = [
        tuple(int(k) if other == position else 0 for other in range(len(problem.axes)))
        for position, axis in enumerate(problem.axes)
        if axis.name not in ("rtol", "loss", *problem.traced)
        for k in np.unique(np.linspace(0, len(axis) - 1, _MOST).astype(int))
    ]
    return sorted({first, last, *along})


def _rounded(text: str) -> bytes:
    """A text with its numbers to six digits."""
    return _FLOAT.sub(lambda found: f"{float(found[0]):.5e}", text).encode()


def _sums(array: np.ndarray) -> tuple[float, float, float]:
    parts = [np.real(array), np.imag(array)] if np.iscomplexobj(array) else [array]
    v = np.concatenate([np.ravel(part).astype(float) for part in parts])
    v = np.nan_to_num(v, nan=0.5, posinf=1.0, neginf=-1.0)
    size = float(np.max(np.abs(v), initial=0.0)) or 1.0
    v = v / size
    return size * float(np.linalg.norm(v)), size * float(np.sum(v)), size * float(v @ np.cos(np.arange(v.size)))


def agree(one: Mark, other: Mark) -> bool:
    if one.text != other.text or one.sums.shape != other.sums.shape:
        return False
    sizes = np.maximum(one.sums, other.sums)[:, :1] if one.sums.size else one.sums
    return bool(np.all(np.abs(one.sums - other.sums) <= _ROUNDING * sizes + 1e-300))
