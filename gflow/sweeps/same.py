"""Whether a worker has the same models, losses, clock and metrics: what comes from an imported module goes to it by
name, and it may have imported that at another time or in another version."""

import hashlib
import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from . import exact, known
from .alike import structure
from .digest import numbers_in, numeric, Seen
from .probes import along, elsewhere, Forms
from .problem import Problem

# What a module computes is not the same to the last digit on any number of threads.
_ROUNDING = 1e-6
_NUMBER = re.compile(r"-?\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)")
# Entries so small beside the largest may be nothing but rounding.
_NOISE = 1e-8
# Points looked at along an axis.
_MOST = 64


class Mark(NamedTuple):
    """A hash of what is computed; the numbers in its text, and of each array in it its norm and three sums."""

    text: str
    numbers: np.ndarray
    sums: np.ndarray


def mark(problem: Problem) -> Mark:
    parts, forms, met = list[Seen](), Forms(), set()

    def look(points: Iterable[tuple[int, ...]]) -> None:
        for point in points:
            try:
                model = problem.model(point) if problem.digits is None else exact.arguments(problem, point)
            except Exception as error:
                # Its status will say so, in either process.
                parts.append(Seen(type(error).__name__, []))
                continue
            parts.append(numbers_in(model))
            X, y = problem.data[problem.data_index(point)]
            form = (structure(model), X.shape, y.shape)
            if form not in met:
                met.add(form)
                forms.append((point, model))

    look(point for _, point in along(problem, _MOST))
    look([tuple(len(axis) - 1 for axis in problem.axes), *elsewhere(problem, len(met) > 1, _MOST)])
    computed = known.of_models(problem, forms, _MOST), known.of_metrics(problem, forms)
    alone = known.of_losses(problem), known.of_clock(problem), known.of_solver(problem)
    try:
        parts += itertools.chain(*computed, *alone)
    except Exception as error:
        # Not in the process that has planned it.
        parts.append(Seen(type(error).__name__, []))
    texts = "\0".join(part.text for part in parts)
    text = hashlib.sha256(_NUMBER.sub("#", texts).encode()).hexdigest()
    sums = np.array([_sums(numeric(v)) for part in parts for v in part.arrays])
    return Mark(text, np.nan_to_num(np.array(_NUMBER.findall(texts), float)), sums)


def _sums(array: np.ndarray) -> tuple[float, ...]:
    parts = [np.real(array), np.imag(array)] if np.iscomplexobj(array) else [array]
    v = np.concatenate([np.ravel(part).astype(float) for part in parts])
    v = np.nan_to_num(v, nan=0.5, posinf=1.0, neginf=-1.0)
    size = float(np.max(np.abs(v), initial=0.0)) or 1.0
    v, place = v / size, np.cos(np.arange(v.size))
    # A part of the sums may be far below the norm.
    digits = np.log(np.abs(v), where=np.abs(v) > _NOISE, out=np.zeros(v.shape))
    sums = float(np.linalg.norm(v)), float(np.sum(v)), float(v @ place)
    return *(size * part for part in sums), float(digits @ place) / max(v.size, 1) ** 0.5


def agree(one: Mark, other: Mark) -> bool:
    if one.text != other.text or one.sums.shape != other.sums.shape:
        return False
    close = lambda a, b, size: bool(np.all(np.abs(a - b) <= _ROUNDING * size + 1e-300))
    same = close(one.numbers, other.numbers, np.maximum(np.abs(one.numbers), np.abs(other.numbers)))
    if not one.sums.size:
        return same
    sizes = np.maximum(one.sums, other.sums)[:, :1]
    return same and close(one.sums[:, :3], other.sums[:, :3], sizes) and close(one.sums[:, 3], other.sums[:, 3], 1.0)
