"""Models made before anything runs: forms and sizes are learnt of them, and by them a sweep is known again.

Probes are made along every axis at the first values of the others and, where models off the axes may be something else,
all over the grid: everywhere if they are of several forms and not too many, at some points else.
"""

import contextlib
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import validate
from . import exact
from .alike import structure
from .digest import numbers_of
from .problem import Problem

# How many models are made off the axes: at most so many if forms differ, else so many.
_EVERYWHERE, _SCATTERED = 4096, 32


Forms = list[tuple[tuple[int, ...], Any]]


@dataclass
class Probes:
    """A point and its model for every form met; `numbers`: hashes of the numbers in all models made, in order; `alike`:
    the axes along which all models are of one form."""

    models: Forms = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    alike: set[str] = field(default_factory=set)


def probe(problem: Problem) -> Probes:
    """Raises ValueError where a value of an axis makes no model with the first values of all others."""
    probes, met = Probes(), set()
    forms = {axis.name: set() for axis in problem.axes}

    def note(point: tuple[int, ...], model: Any) -> Any:
        X, y = problem.data[problem.data_index(point)]
        form = (structure(model), X.shape, y.shape)
        if form not in met:
            validate.check_model(model, jnp.asarray(X), y.shape[1:])
            probes.models.append((point, model))
            met.add(form)
        probes.numbers.append(numbers_of(model))
        return form

    for name, point, model in _made_along(problem, problem.model):
        forms[name].add(note(point, model))
    probes.alike = {name for name, found in forms.items() if len(found) == 1} | ({"rtol"} & forms.keys())
    if not probes.models:
        first = (0,) * len(problem.axes)
        note(first, problem.model(first))
    for point in elsewhere(problem, several=len(met) > 1):
        with contextlib.suppress(Exception):
            note(point, problem.model(point))
    return probes


def probe_exact(problem: Problem) -> Probes:
    """As `probe`, of depths and scales for the precise backend."""
    first = (0,) * len(problem.axes)
    probes = Probes([(first, exact.arguments(problem, first))])
    make = functools.partial(exact.arguments, problem)
    probes.numbers += [numbers_of(wanted) for _, _, wanted in _made_along(problem, make)]
    for point in elsewhere(problem, several=True):
        with contextlib.suppress(Exception):
            probes.numbers.append(numbers_of(make(point)))
    return probes


def _made_along(problem: Problem, make: Callable) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """What `make` gives at the points along each axis."""
    for name, point in along(problem):
        try:
            made = make(point)
        except ValueError:
            raise
        except Exception:
            # One bad point: its status will say so.
            continue
        yield name, point, made


def along(problem: Problem, most: int = sys.maxsize) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Points along each axis, at most so many, at the first values of the others; at the ends of an axis where a
    program makes the rest."""
    for position, axis in enumerate(problem.axes):
        if axis.name in ("rtol", "loss"):
            continue
        count = min(2 if axis.name in problem.traced else most, len(axis))
        for k in np.unique(np.linspace(0, len(axis) - 1, count).round().astype(int)).tolist():
            yield axis.name, tuple(k if other == position else 0 for other in range(len(problem.axes)))


def elsewhere(problem: Problem, several: bool, most: int = _EVERYWHERE) -> Iterable[tuple[int, ...]]:
    """Points off the axes, unless all models are made by one program."""
    fixed = (*problem.traced, "rtol", "loss")
    lengths = [1 if axis.name in fixed else len(axis) for axis in problem.axes]
    if sum(n > 1 for n in lengths) < (1 if problem.traced else 2):
        return []
    if several and math.prod(lengths) <= most:
        return itertools.product(*map(range, lengths))
    lengths = [len(axis) for axis in problem.axes]
    return (tuple(map(int, p)) for p in np.random.default_rng(0).integers(0, lengths, (_SCATTERED, len(lengths))))
