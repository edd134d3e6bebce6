"""Newton's method on the stage equations: residuals at working precision, matrix and LU in float64.

Over a step, s in [0, 1], the collocation polynomial of dz/ds takes the values E_jn at the nodes, so the stages are at
z_j = z_0 + sum_i A_ji E_i, and the equations are V_jn = implied_n(margins at z_j) with E = e^V (classification) or
E = V (square loss). A float64 matrix gains ten digits and more per iteration, whatever the precision of the residual
(mixed-precision refinement: Moler 1967, doi 10.1145/321386.321394). Rows and columns are scaled by powers of 2, since
W moves by much where its weight is nothing, and margins are as large as gamma.

Samples with negligible weights are not solved for: what they should be is read off the margins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx
from scipy.linalg import get_lapack_funcs

from .exact import LOG2_10, log10
from .network import DualNetwork, Place
from .tableau import Tableau

_getrf, _getrs = get_lapack_funcs(("getrf", "getrs"), (np.zeros((1, 1)),))
# Weights below e^-50 do not take part in the matrix, nor those below rounding in the sums.
_NEGLIGIBLE = -50.0


@dataclass(eq=False)
class Clock:
    """What is known at the stages: log d tau / ds on the time clock, gamma on the loss clock."""

    on_loss: bool
    gamma: list[arb]
    pace: list[arb]


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




class Failure(Exception):
    """The stage equations were not solved; a shorter step may do."""


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
    for iteration in range(1, 60):
        counts["newton"] += 1
        E = problem.rates(V, clock)
        dz, dx = _increments(network, tableau, E)
        found = network.beta(place, dx)
        if found is None:
            raise Failure("beyond the pole")
        if inspect is not None and last < -14.0:
            inspect(E, last / LOG2_10)
        margins = (arb_mat(s, network.inputs, found[0]) * network.XT).entries()
        linear = problem.relations(margins, V, E, clock)
        if matrix is None or last > -20.0 or matrix.misses(linear):
            matrix = _Matrix(network, problem, tableau, clock, linear, V, found[1])
            counts["factorizations"] += 1
        solved = matrix.solved
        # Residuals are scaled into the range of float64 by the size of the last update.
        shift = int(last) if -1e9 < last < -40.0 else 0
        implied = arb_mat(s, n, linear.implied)
        unknown = arb_mat(s, n, V)
        scale = arb((1, -matrix.height - shift))
        residual = np.array([float(v) for v in ((unknown - implied) * scale).entries()]).reshape(s, n)[:, solved]
        step = matrix.solve(residual * matrix.lift[:, None])
        if not np.all(np.isfinite(step)):
            raise Failure("not finite")
        worst = float(np.max(np.abs(step) * matrix.importance)) if step.size else 0.0
        size = math.log2(worst) + shift if worst > 0 else -math.inf
        damping = 0.0 if size < 0.5 else size - 0.5
        update = np.zeros((s, n))
        update[:, solved] = step * np.exp2(matrix.columns - math.ceil(damping))
        V = (unknown - arb_mat(s, n, update.ravel().tolist()) * arb((1, shift))).mid().entries()
        for k in matrix.implied:
            V[k::n] = [v.mid() for v in linear.implied[k::n]]
        gain = size - last
        if size < goal or (gain < -10.0 and size + max(gain, -40.0) < goal):
            E = problem.rates(V, clock)
            dz, dx = _increments(network, tableau, E)
            return Stages(V, E, dz, dx, linear.gamma, linear.pace, iteration)
        stalled = stalled + 1 if iteration > 8 and gain > -1.0 else 0
        if stalled > 3 or size > 1e6:
            raise Failure("no convergence")
        last = size
    raise Failure("no convergence")


def _increments(network: DualNetwork, tableau: Tableau, E: list[arb]) -> tuple[list[arb], list[arb]]:
    dz = tableau.integrals * arb_mat(tableau.stages, network.samples, E)
    return dz.entries(), (dz * network.X).entries()


class TooRough(Exception):
    """The step is too long for its accuracy; `error` is log10 of the estimate."""

    def __init__(self, error: float):
        super().__init__(error)
        self.error = error


class _Matrix:
    """The scaled Newton matrix and its LU factors.

    d residual_j = D_j dV_j + P_j K_j sum_i A_ji E_i' dV_i, K = X diag(d beta / d x) X^T the tangent kernel in the dual
    variables and E' = dE/dV. K_j and E_i differ by any power of ten, so they are combined before exponentials are
    taken.
    """

    def __init__(
        self,
        network: DualNetwork,
        problem: Any,
        tableau: Tableau,
        clock: Clock,
        linear: Any,
        V: list[arb],
        slopes: list[arb],
    ):
        n, s = network.samples, tableau.stages
        weights = linear.weights
        if not np.all(np.isfinite(weights)):
            raise Failure("not finite")
        keep = np.max(weights, axis=0) > math.exp(_NEGLIGIBLE)
        self.solved, self.implied = np.flatnonzero(keep).tolist(), np.flatnonzero(~keep).tolist()
        size = len(self.solved)
        heights = [max(0, math.ceil(log10(g) * LOG2_10)) if g > 0 else 0 for g in linear.gamma]
        low = -math.log(2.0) * np.array(heights, float)
        # Residuals come divided by 2^height; lift brings each stage to its own power of 2.
        self.height = max(heights)
        self.lift = np.exp2(np.array([min(self.height - h, 1000) for h in heights], float))
        weights = np.maximum(weights[:, self.solved], 1e-300)
        self.columns = np.round(-np.log2(np.exp(np.maximum(low, -600.0))[:, None] + weights)).astype(int)
        self.columns = np.minimum(self.columns, 200)
        self.importance = np.exp2(self.columns) * np.maximum(weights, 1 / (1 + np.abs(np.log(weights))))
        precision, ctx.prec = ctx.prec, 64
        try:
            log_slopes = np.array([float(v.log()) for v in slopes]).reshape(s, -1)
        finally:
            ctx.prec = precision
        log_rates = problem.log_rates(V, clock).reshape(s, n)[:, self.solved] + math.log(2.0) * self.columns
        log_slopes += low[:, None]
        top = np.max(log_slopes, axis=1)
        X = network.floats
        curvature = np.einsum("ni,ji,mi->jnm", X, np.exp(log_slopes - top[:, None]), X, optimize=True)
        P, D = problem.linear(linear, clock)
        curvature = (P @ curvature if P is not None else curvature)[:, self.solved][:, :, self.solved]
        scales = np.exp(np.minimum(top[:, None, None] + log_rates[None], 650.0))
        A = tableau.integrals_float
        J = A[:, None, :, None] * curvature[:, :, None, :] * scales[:, None, :, :]
        stages = np.arange(s)
        own = D[:, self.solved][:, :, self.solved]
        J[stages, :, stages, :] += own * np.exp(low[:, None] + math.log(2.0) * self.columns)[:, None, :]
        J = J.reshape(s * size, s * size)
        self.rows = 1 / np.maximum(np.max(np.abs(J), axis=1), 1e-300) if size else np.ones(0)
        if size:
            self.factors, self.pivots, _ = _getrf(J * self.rows[:, None], overwrite_a=True)
        self.shape = (s, size)

    def misses(self, linear: Any) -> bool:
        """Whether a sample that is not solved for has got a weight."""
        return bool(self.implied) and float(np.max(linear.weights[:, self.implied])) > math.exp(0.9 * _NEGLIGIBLE)

    def solve(self, residual: np.ndarray) -> np.ndarray:
        """The update in units of 2^columns."""
        if residual.size == 0:
            return residual
        return _getrs(self.factors, self.pivots, residual.reshape(-1) * self.rows)[0].reshape(self.shape)
