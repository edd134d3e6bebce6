"""How wrong a step is, by the last Legendre coefficients of what it integrates."""

import math
from typing import Any

import numpy as np
from flint import arb, arb_mat

from .exact import LOG2_10, log10, logs
from .network import DualNetwork, Place
from .tableau import Tableau


def rate_error(
    network: DualNetwork, problem: Any, before: Place, after: Place, tableau: Tableau, E: list[arb]
) -> float:
    """log10 of the last Legendre coefficients of dz/ds: relative to it, and as a relative change of beta."""
    n, s = network.samples, tableau.stages
    last = tableau.last * arb_mat(s, n, E)
    # The rates at both ends and in the middle stand for the largest; residuals need digits at the end, where they
    # are smaller.
    rates = [_top(E[k * n : (k + 1) * n]) for k in (0, s // 2, s - 1)]
    largest = max(rates) if problem.exponential else min(rates[0], rates[2])
    scale = _top(after.x)
    scale = math.inf if scale == -math.inf else scale
    rooms = np.minimum(logs(network.spread(before)), logs(network.spread(after))) / math.log(10.0)
    room = np.minimum(rooms, scale)
    unit = max(_top(last.entries()), -1e15)
    scale = arb((1, -int(unit * LOG2_10)))
    relative = np.array([float(v * scale) for v in last.entries()]).reshape(2, n)
    if not np.all(np.isfinite(relative)):
        return math.inf
    moved = np.max(np.abs(relative @ network.floats) * np.array([[0.1], [1.0]]), axis=0)
    own = math.log10(max(float(np.max(np.abs(relative) * np.array([[0.1], [1.0]]))), 1e-300)) - largest
    through = float(np.max(np.log10(np.maximum(moved, 1e-300)) - room))
    return max(own, through) + unit


def gamma_error(tableau: Tableau, gamma: list[arb]) -> float:
    """log10 of the last Legendre coefficients of gamma on the time clock, which physical time depends on."""
    last = tableau.last * arb_mat(len(gamma), 1, gamma)
    return _top(last.entries()) - max(log10(gamma[-1]), 0.0)


def _top(values: list[arb]) -> float:
    """log10 of the largest."""
    return float(np.max(logs(values))) / math.log(10.0)
