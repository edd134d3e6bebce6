"""What bad input gets: one sentence that names the argument, its value and the remedy."""

import itertools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb, fmpq

from .exact import Decades, evaluate, point, rational, working_precision
from .regression import least_loss
from .separability import gordan_weights

LOSSES = ("exponential", "logistic", "square")


def check_digits(digits: Any) -> int:
    if not 15 <= (value := _integer(digits)) <= 1_000_000:
        raise ValueError(
            f"digits must be an integer from 15 to 1,000,000, not {digits!r}; gflow.gradient_flow gives fewer."
        )
    return value


def check_depth(depth: Any) -> int:
    if (value := _integer(depth)) < 2:
        raise ValueError(f"depth must be an integer of at least 2, not {depth!r}.")
    return value


def _integer(value: Any) -> int:
    """The integer, or 0 for what is none."""
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def check_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """A word out of `choices`; `gflow.losses` have theirs in the name of their class."""
    word = value if isinstance(value, str) else type(value).__name__.lower()
    if word not in choices:
        listed = ", ".join(repr(c) for c in choices[:-1]) + f" or {choices[-1]!r}"
        raise ValueError(f"{name} must be {listed}, not {value!r}.")
    return word


def check_samples(X: Any, y: Any, margins: bool) -> tuple[list[list[fmpq]], list[fmpq]]:
    """X (N, d) and y (N,), exactly."""
    try:
        rows = [list(row) for row in X]
        targets = list(y)
    except TypeError:
        raise ValueError(f"X must be a table of N rows of d numbers and y a list of N, not {X!r} and {y!r}.") from None
    widths = {len(row) for row in rows}
    if len(rows) == 0 or widths == {0}:
        raise ValueError(f"X must hold at least one sample and one feature, not shape ({len(rows)}, 0).")
    if len(widths) > 1:
        raise ValueError(f"X must have rows of one length, not of lengths {sorted(widths)}.")
    if len(targets) != len(rows):
        raise ValueError(f"y must have one entry per row of X, that is {len(rows)}, not {len(targets)}.")
    exact = [[rational(v, "X") for v in row] for row in rows]
    labels = [rational(v, "y") for v in targets]
    if margins:
        wrong = [v for v in labels if v not in (fmpq(1), fmpq(-1))]
        if wrong:
            raise ValueError(f"y must hold labels -1 and +1, but it holds {wrong[0]}; map your classes to -1 and +1.")
    return exact, labels


def check_scales(scale: Any, inputs: int) -> list[fmpq]:
    several = isinstance(scale, list | tuple) or (isinstance(scale, np.ndarray) and scale.ndim == 1)
    scales = [rational(v, "scale") for v in scale] if several else [rational(scale, "scale")] * inputs
    if len(scales) != inputs:
        raise ValueError(f"scale must be one number or one per column of X, that is {inputs}, not {len(scales)}.")
    wrong = [v for v in scales if v <= 0]
    if wrong:
        raise ValueError(f"scale must be positive, not {wrong[0]}.")
    return scales


def check_separable(rows: list[list[fmpq]]) -> None:
    weights = gordan_weights(rows)
    if weights is not None:
        held = [n for n, w in enumerate(weights) if w != 0]
        raise ValueError(
            f"X and y cannot be separated: a convex combination of the margins of samples {held} is 0 for every beta, "
            "so the loss has a positive lower bound; add features or an intercept, or remove samples."
        )


def check_targets(targets: list[fmpq]) -> None:
    if all(t == 0 for t in targets):
        raise ValueError("y must not be all 0 for the square loss: the flow starts at its minimum.")


def check_reachable(rows: list[list[fmpq]], targets: list[fmpq], mean: bool, last: Callable[[], arb]) -> None:
    least = least_loss(rows, targets, mean)
    if least == 0:
        return
    with working_precision(400):
        most = -arb(least).log()
        if not last() < most:
            raise ValueError(
                f"stop asks for -log L = {_short(last())}, but no beta fits X and y exactly: -log L stays below "
                f"{_short(most)}; add features, or lower stop."
            )


def check_points(stop: Any, save: Any, start: Callable[[], arb], unit: str = "-log L") -> list[Callable[[], arb]]:
    """`save` and, if it is not the last of them, `stop`, as functions of the working precision."""
    if stop is None and save is None:
        raise ValueError(f"stop or save must be given, as values of {unit}.")
    if save is None:
        points, names = [point(stop, "stop")], ["stop"]
    else:
        try:
            points = [point(v, "save") for v in save]
        except TypeError:
            raise ValueError(f"save must be a list of values of {unit}, not {save!r}.") from None
        if not points:
            raise ValueError(f"save must hold at least one value of {unit}, or be left out.")
        names = ["save"] * len(points)
    with working_precision(400):
        first = start()
        values = [evaluate(p) for p in points]
        for value, shown, name in zip(values, points, names, strict=True):
            if not value > first:
                raise ValueError(
                    f"{name} must lie above the start, {unit} = {_short(first)}, but it is {_shown(shown)}."
                )
        if any(not (a < b) for a, b in itertools.pairwise(values)):
            raise ValueError("save must be strictly increasing; sort it and drop repeated values.")
        if save is not None and stop is not None:
            end = evaluate(point(stop, "stop"))
            if values[-1] > end:
                raise ValueError(f"save must not go beyond stop, but {_shown(points[-1])} does; raise stop.")
            if end > values[-1]:
                points.append(point(stop, "stop"))
    return [lambda p=p: evaluate(p) for p in points]


def _short(value: arb) -> str:
    return value.str(6, radius=False)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, Decades) else _short(arb(value))
