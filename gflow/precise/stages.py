"""Newton's method on the stage equations: residuals at working precision, matrix and LU in float64.

Over a step, s in [0, 1], the collocation polynomial of dz/ds takes the values E_jn at the nodes, so the stages are at
z_j = z_0 + sum_i A_ji E_i, and the equations are V_jn = implied_n(margins at z_j) with E = e^V (classification) or
E = V (square loss). A float64 matrix gains ten digits and more per iteration, whatever the precision of the residual
(mixed-precision refinement: Moler 1967, doi 10.1145/321386.321394), so a residual is worked out to the bits that the
matrix can make use of: few at first, all in the end. Samples with negligible weights are not solved for: what they
should be is read off the margins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, ctx

from .exact import LOG2_10, log10, working_precision
from .matrix import Clock, Failure, newton_matrix
from .network import DualNetwork, Place
from .tableau import Tableau

# log2 of the part of an error that rounding in the float64 matrix leaves.
_ROUNDING = -46.0
# Bits of a residual below its size: what the matrix uses of them, and some for rounding.
_USED = 100.0
# Bits of the coarsest numbers.
_LEAST = 64
# Updates below 2^_SMALL are followed by changes of the rates.
_SMALL = -40.0


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
    whole = ctx.prec
    # What is asked for may lie beyond rounding.
    finest = max(goal, _LEAST - whole)
    rates = _Rates(network, problem, tableau, clock, _LEAST + int(whole + finest))
    for iteration in range(1, 60):
        counts["newton"] += 1
        # The first residual tells how good the guess is.
        spare = min(max(int(last - _USED - finest), 0), max(whole - 2 * _LEAST, 0)) if last < math.inf else 0
        E, dz = rates.follow(V, last, spare)
        with working_precision(whole - spare):
            dx = (dz * network.X).entries()
            beta = network.beta(place, dx)
            if beta is None:
                raise Failure("beyond the pole")
            if inspect is not None and last < -14.0:
                inspect(E, last / LOG2_10)
            margins = (arb_mat(s, network.inputs, beta) * network.XT).entries()
            linear = problem.relations(margins, V, E, clock)
            wrong = last + power
            fresh = last > -20.0 or _pays(goal - wrong, power, wrong)
            if matrix is None or fresh or matrix.misses(linear):
                matrix = newton_matrix(network, problem, tableau, clock, linear, V, E, network.log_slopes(place, dx))
                counts["factorizations"] += 1
                fresh = True
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
            E, dz = rates.follow(V, size, 0)
            return Stages(V, E, dz.entries(), (dz * network.X).entries(), linear.gamma, linear.pace, iteration)
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


class _Rates:
    """E and the increments A E of z along the iterations.

    A small update of V changes E by little. That change, rounded to the `kept` bits which the next residual can show,
    is added to E, and its product with A to A E: a fraction of the work of a whole product.
    """

    def __init__(self, network: DualNetwork, problem: Any, tableau: Tableau, clock: Clock, kept: int):
        self.problem, self.tableau, self.clock, self.kept = problem, tableau, clock, kept
        self.shape = tableau.stages, network.samples
        self.E: list[arb] = []
        self.dz = arb_mat(*self.shape)
        self.whole = False

    def follow(self, V: list[arb], last: float, spare: int) -> tuple[list[arb], arb_mat]:
        """E and A E for V, which has moved by 2^`last`, right to all bits but `spare`."""
        bits, small = ctx.prec, last < _SMALL
        if not (small and self.whole):
            with working_precision(bits if small else bits - spare):
                self.E = self.problem.rates(V, self.clock)
                self.dz = self._increments(self.E)
                self.whole = ctx.prec == bits
            return self.E, self.dz
        with working_precision(bits - spare):
            rates: list[arb] = self.problem.rates(V, self.clock)
        with working_precision(self.kept):
            change = [(new - old).mid() for new, old in zip(rates, self.E, strict=True)]
        self.E = [(old + by).mid() if new != 0 else new for old, by, new in zip(self.E, change, rates, strict=True)]
        with working_precision(min(int(max(bits + last, 0.0)) + 2 * self.kept, bits)):
            grown = self._increments(change)
        self.dz = (self.dz + grown).mid()
        return self.E, self.dz

    def _increments(self, E: list[arb]) -> arb_mat:
        return (self.tableau.integrals_to(ctx.prec) * arb_mat(*self.shape, E)).mid()
