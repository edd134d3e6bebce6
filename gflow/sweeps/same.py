"""Whether a worker has the same models and metrics: what comes from an imported module goes to it by name, and it may
have imported that at another time or in another version."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import exact
from .attributes import asked_for, fixed, metric_of
from .digest import code_in, numeric, traced
from .problem import Problem

# Rounding of a make_model that computes is not the same on any number of threads.
_ROUNDING = 1e-6


class Mark(NamedTuple):
    """A hash of the computations at both ends of a sweep; of each array in them its norm and two sums."""

    text: str
    sums: np.ndarray


def mark(problem: Problem) -> Mark:
    texts, arrays = [code_in(problem.solver)], []

    def note(function: Callable, *inputs: Any) -> None:
        text, constants = traced(function, *inputs)
        texts.append(text.encode())
        arrays.extend(constants)

    for index in sorted({(0,) * len(problem.axes), tuple(len(axis) - 1 for axis in problem.axes)}):
        try:
            model = problem.model(index) if problem.digits is None else exact.arguments(problem, index)
            if isinstance(model, dict):
                texts.append(str(sorted(model.items())).encode())
                continue
            arrays.extend(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
            X, y = (jnp.asarray(v, float) for v in problem.data[problem.data_index(index)])
            note(lambda model, x: model(x), model, X[0])
            note(functools.partial(asked_for, loss=problem.loss_at(index)), model, X, y)
            texts.append(fixed(model).encode())
            for name, metric in problem.metrics.items():
                note(functools.partial(metric_of, name, metric), model, X, y)
        except Exception as error:
            # Its status will say so, in either process.
            texts.append(type(error).__name__.encode())
    for loss in problem.losses:
        f = y = np.ones(2)
        note(lambda f, y, loss=loss: (loss.neg_log(f, y), loss.weights(f, y)), f, y)
    return Mark(hashlib.sha256(b"\0".join(texts)).hexdigest(), np.array([_sums(numeric(v)) for v in arrays]))


def _sums(array: np.ndarray) -> tuple[float, float, float]:
    v = np.nan_to_num(np.ravel(array).astype(float))
    return float(np.linalg.norm(v)), float(np.sum(v)), float(v @ np.cos(np.arange(v.size)))


def agree(one: Mark, other: Mark) -> bool:
    if one.text != other.text or one.sums.shape != other.sums.shape:
        return False
    sizes = np.maximum(one.sums, other.sums)[:, :1] if one.sums.size else one.sums
    return bool(np.all(np.abs(one.sums - other.sums) <= _ROUNDING * sizes + 1e-300))
