"""Lawson and Hanson's active-set method for convex duals.

    min over lambda >= 0 of  phi(lambda) - t . lambda,    with gradient  a_n . b(lambda) - t_n:

solve with equality on a set of samples; walk towards the solution until a multiplier reaches 0 and drop that sample;
when none does, add the sample that violates its margin most (Lawson & Hanson 1974, chapter 23, where phi is quadratic).
The objective decreases at every round, so no set comes twice and the method ends.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Int

from .reduced import Reduced

TOLERANCE = 1e-14  # of margins, relative to the sums that they are made of


class Solved(Protocol):
    """b and the multipliers of the active samples, at which these have a_n . b = t_n."""

    @property
    def active(self) -> Int[np.ndarray, " m"]: ...
    @property
    def multipliers(self) -> Float[np.ndarray, " m"]: ...
    @property
    def b(self) -> Float[np.ndarray, " k"]: ...


P = TypeVar("P", bound=Solved)


class Stuck(Exception):
    """The equations of a fixed active set could not be solved from here."""


def minimise(
    data: Reduced,
    targets: Float[np.ndarray, " n"],
    active: Int[np.ndarray, " m"],
    multipliers: Float[np.ndarray, " n"],
    solve: Callable[[np.ndarray], P],
    moved: Callable[[P, float], None],
) -> tuple[P, Float[np.ndarray, " n"]]:
    """Start from `multipliers` >= 0 that vanish off `active`, which are independent. `moved(solved, part)` tells that
    the search went by `part` <= 1 of the way to what `solve` returned, which may start from there the next time."""
    feasible, tied, newest = multipliers.copy(), np.zeros(len(multipliers), bool), -1
    for _ in range(100 + 20 * len(targets)):
        solved = solve(active)
        here, there = feasible[active], solved.multipliers
        if np.any(there < 0):
            if newest >= 0 and there[active == newest] <= 0:
                # By convexity a violated margin gets a positive multiplier: this violation was rounding.
                tied[newest] = True
                active, newest = active[active != newest], -1
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = np.where(there < 0, here / (here - there), np.inf)
            part = reach.min()
            feasible[active] = np.where(reach <= part, 0.0, here + part * (there - here))
            moved(solved, float(part))
            active, newest = active[reach > part], -1
            continue
        feasible[active] = there
        moved(solved, 1.0)
        shortfall = relative_margins(data, targets, solved.b)
        shortfall[active] = 0.0
        shortfall[tied] = 0.0
        newest = int(np.argmin(shortfall))
        if shortfall[newest] >= -TOLERANCE:
            return solved, feasible
        active = _with(data, targets, active, newest, feasible)
    raise Stuck


def relative_margins(data: Reduced, targets: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a_n . b - t_n relative to the terms of the sum."""
    return (data.rows @ b - targets) / (np.abs(data.rows) @ np.abs(b) + targets)


def _with(data: Reduced, targets: np.ndarray, active: np.ndarray, new: int, feasible: np.ndarray) -> np.ndarray:
    """The active set with one more sample; in exchange for another, if the new row depends on the active ones."""
    size = np.abs(data.rows).max(axis=0)
    rows = data.rows[active] / size
    row = data.rows[new] / size
    combination = np.linalg.lstsq(rows.T, row, rcond=None)[0]
    if np.linalg.norm(row - combination @ rows) > 1e-11 * np.linalg.norm(row):
        return np.sort(np.append(active, new))
    # Raise the new multiplier at constant X^T lambda until another one vanishes.
    rising = combination > 0
    if not np.any(rising):
        raise Stuck
    reach = np.where(rising, feasible[active] / np.where(rising, combination, 1.0), np.inf)
    part = reach.min()
    feasible[active] = np.where(reach <= part, 0.0, feasible[active] - part * combination)
    feasible[new] = part
    return np.sort(np.append(active[reach > part], new))
