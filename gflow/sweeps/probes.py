"""Models made before anything runs: forms and sizes are learnt of them, and by them a sweep is known again.

Probes are made along every axis at the first values of the others and, where models off the axes may be something else,
all over the grid: everywhere if they are of several forms and not too many, at some points else.
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import validate
from . import exact
from .alike import structure
from .axes import Axis
from .digest import numbers_of
from .problem import Problem

# How many models are made off the axes: at most so many if forms differ, else so many.
_EVERYWHERE, _SCATTERED = 4096, 32


@dataclass
class Probes:
    """A point and its model for every form met; `numbers`: hashes of the numbers in all models made, in order; `alike`:
    the axes along which all models are of one form."""

    models: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)
    numbers: list[bytes] = field(default_factory=list)
    alike: set[str] = field(default_factory=set)


def probe(problem: Problem) -> Probes:
    """Raises ValueError where a value of an axis makes no model with the first values of all others."""
    probes = Probes(alike={"rtol"} & {axis.name for axis in problem.axes})
    met = set()
    for position, axis in enumerate(problem.axes):
        if axis.name in ("rtol", "loss"):
            continue
        free = axis.name in problem.traced
        along = sorted({0, len(axis) - 1}) if free else range(len(axis))
        forms = set()
        for k in along:
            point = tuple(k if other == position else 0 for other in range(len(problem.axes)))
            try:
                model = problem.make_model(**problem.arguments(point))
            except ValueError:
                raise
            except Exception:
                # One bad point: its status will say so.
                continue
            probes.numbers.append(numbers_of(model))
            form = _form(problem, point, model)
            if form not in met:
                _check(problem, point, model)
                probes.models.append((point, model))
            forms.add(form)
            met.add(form)
        if len(forms) == 1:
            probes.alike.add(axis.name)
    if not probes.models:
        first = (0,) * len(problem.axes)
        model = problem.make_model(**problem.arguments(first))
        probes.models.append((first, model))
        probes.numbers.append(numbers_of(model))
        met.add(_form(problem, first, model))
    for point in _elsewhere(problem, several=len(met) > 1):
        with contextlib.suppress(Exception):
            model = problem.make_model(**problem.arguments(point))
            if (form := _form(problem, point, model)) not in met:
                _check(problem, point, model)
                probes.models.append((point, model))
                met.add(form)
            probes.numbers.append(numbers_of(model))
    return probes


def probe_exact(problem: Problem) -> Probes:
    """As `probe`, of depths and scales for the precise backend."""
    first = (0,) * len(problem.axes)
    probes = Probes([(first, exact.arguments(problem, first))])
    for point in _along(problem.axes):
        try:
            probes.numbers.append(numbers_of(exact.arguments(problem, point)))
        except ValueError:
            raise
        except Exception:
            continue
    return probes


def _form(problem: Problem, point: Sequence[int], model: Any) -> Any:
    X, y = problem.data[problem.data_index(point)]
    return structure(model), X.shape, y.shape


def _check(problem: Problem, point: Sequence[int], model: Any) -> None:
    X, y = problem.data[problem.data_index(point)]
    validate.check_model(model, jnp.asarray(X), y.shape[1:])


def _along(axes: Sequence[Axis]) -> Iterator[tuple[int, ...]]:
    """The points along each axis, at the first values of the others."""
    for axis in axes:
        for k in range(len(axis)):
            yield tuple(k if other is axis else 0 for other in axes)


def _elsewhere(problem: Problem, several: bool) -> Iterable[tuple[int, ...]]:
    """Points off the axes, unless all models are made by one program."""
    fixed = (*problem.traced, "rtol", "loss")
    lengths = [1 if axis.name in fixed else len(axis) for axis in problem.axes]
    if sum(n > 1 for n in lengths) < (1 if problem.traced else 2):
        return []
    if several and math.prod(lengths) <= _EVERYWHERE:
        return itertools.product(*map(range, lengths))
    lengths = [len(axis) for axis in problem.axes]
    return (tuple(map(int, p)) for p in np.random.default_rng(0).integers(0, lengths, (_SCATTERED, len(lengths))))
