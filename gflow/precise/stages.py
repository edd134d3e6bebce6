"""Newton's method on the stage equations: residuals at working precision, matrix and LU in float64.

Over a step, s in [0, 1], the collocation polynomial of dz/ds takes the values E_jn at the nodes, so the stages are at
z_j = z_0 + sum_i A_ji E_i, and the equations are V_jn = implied_n(margins at z_j) with E = e^V (classification) or
E = V (square loss). A float64 matrix gains ten digits and more per iteration, whatever the precision of the residual
(mixed-precision refinement: Moler 1967, doi 10.1145/321386.321394). Samples with negligible
weights are not solved for: what they should be is read off the margins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat

from .exact import LOG2_10, log10
from .matrix import Clock, Failure, newton_matrix
from .network import DualNetwork, Place
from .tableau import Tableau

# log2 of the part of an error that rounding in the float64 matrix leaves.
_ROUNDING = -46.0


@dataclass(eq=False)
class Stages:
    """A solution: unknowns V and rates E = dz/ds at the stages, with the increments of z and x that follow.

    `gamma` and `pace` are those of the last evaluation but one Newton step; `V`, `E`, `dz`, `dx` are final.
    """

    V: list[arb]
    E: list[arb]
    dz: list[arb]
    dx: list[arb]
    gamma: list[arb]
    pace: list[arb]
    iterations: int


class TooRough(Exception):
    """The step is too long for its accuracy; `error` is log10 of the estimate."""

    def __init__(self, error: float):
        super().__init__(error)
        self.error = error


def solve(
    network: DualNetwork,
    problem: Any,
    tableau: Tableau,
    place: Place,
    clock: Clock,
    guess: list[arb],
    digits: float,
    counts: dict[str, int],
    inspect: Callable[[list[arb], float], None] | None = None,
) -> Stages:
    """Solve for V, N numbers per stage in a flat list, to `digits` digits.

    `inspect` is shown E and log10 of the last update of V on the way, and may raise.
    """
    n, s = network.samples, tableau.stages
    V, matrix = list(guess), None
    goal = -digits * LOG2_10
    last, stalled = math.inf, 0
    # log2 of what the matrix leaves of an error: as much as was wrong where it was made, at best rounding.
    power = 0.0
    for iteration in range(1, 60):
        counts["newton"] += 1
        E = problem.rates(V, clock)
        dz, dx = _increments(network, tableau, E)
        beta = network.beta(place, dx)
        if beta is None:
            raise Failure("beyond the pole")
        if inspect is not None and last < -14.0:
            inspect(E, last / LOG2_10)
        margins = (arb_mat(s, network.inputs, beta) * network.XT).entries()
        linear = problem.relations(margins, V, E, clock)
        wrong = last + power
        fresh = matrix is None or last > -20.0 or matrix.misses(linear) or _pays(goal - wrong, power, wrong)
        if fresh:
            matrix = newton_matrix(network, problem, tableau, clock, linear, V, E, network.log_slopes(place, dx))
            counts["factorizations"] += 1
        # Residuals are scaled into the range of float64 by the size of the last update.
        shift = int(last) if -1e9 < last < -40.0 else 0
        unknown = arb_mat(s, n, V)
        update, worst = matrix.update(unknown - arb_mat(s, n, linear.implied), shift)
        size = math.log2(worst) + shift if worst > 0 else -math.inf
        power = min(max(size, _ROUNDING), -1.0) if fresh else power
        damping = 0 if size < 0.5 else math.ceil(size - 0.5)
        V = (unknown - update * arb((1, shift - damping))).mid().entries()
        moved = -math.inf
        for k in matrix.implied:
            if k not in clock.left_out:
                moved = max(moved, _moved(V[k::n], linear.implied[k::n], linear.pace))
            V[k::n] = [v.mid() for v in linear.implied[k::n]]
        gain = size - last
        if moved < goal and (size < goal or (gain < -10.0 and size + max(gain, -40.0) < goal)):
            E = problem.rates(V, clock)
            dz, dx = _increments(network, tableau, E)
            return Stages(V, E, dz, dx, linear.gamma, linear.pace, iteration)
        stalled = stalled + 1 if iteration > 8 and gain > -1.0 else 0
        if stalled > 3 or size > 1e6:
            raise Failure("no convergence")
        last = size
    raise Failure("no convergence")


def _pays(left: float, power: float, error: float) -> bool:
    """Whether a matrix made at an error of 2^`error` saves an iteration of those that are `left` (in powers of 2)."""
    return left / power - left / max(error, _ROUNDING) > 1.0


def _moved(V: list[arb], implied: list[arb], pace: list[arb]) -> float:
    """log2 of the largest change of e^W in one sample that is not solved for."""
    worst = -math.inf
    for old, new, rate in zip(V, implied, pace, strict=True):
        top = float(max(old.mid(), new.mid()) - rate)
        if top > -1e4:
            worst = max(worst, top / math.log(2.0) + min(log10(old - new) * LOG2_10, 0.0))
    return worst


def _increments(network: DualNetwork, tableau: Tableau, E: list[arb]) -> tuple[list[arb], list[arb]]:
    dz = tableau.integrals * arb_mat(tableau.stages, network.samples, E)
    return dz.entries(), (dz * network.X).entries()
