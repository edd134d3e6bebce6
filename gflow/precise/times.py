"""Physical time, t = integral of e^gamma d tau, which overflows everything else: log t = gamma + log F.

F = t e^(-gamma) obeys dF/ds = d tau / ds - F d gamma / ds, which forgets its past like e^(-gamma). It is integrated by
the collocation of the steps, only for states that are asked for, and only from the last step on which gamma grew so
much that the smooth solution, F = d tau/d gamma - ..., is the only one left.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from flint import arb, arb_mat, ctx
from scipy.linalg import lu_factor, lu_solve

from .exact import log10, working_precision
from .grids import LossGrid
from .path import Run
from .records import Record, State


def log_time(run: Run, state: State) -> arb:
    """log t at a state of a run, other than its start."""
    if not run.problem.exponential:
        return state.tau.log().mid()
    run.set_precision(max(0.0, log10(state.gamma)))
    whole = ctx.prec
    chain, record, end = [], state.record, state
    value = arb(0)
    while record is not None:
        if record.time_factor is not None:
            value = record.time_factor
            break
        chain.append((record, end))
        if _forgets(record):
            break
        record, end = record.before.record, record.before
    run.set_precision(0.0)
    for record, end in reversed(chain):
        value = record.time_factor = _step(run, record, end, None if _forgets(record) else value)
    ctx.prec = whole
    return (state.gamma - state.ahead + (value + state.late).log()).mid()


def _forgets(record: Record) -> bool:
    if not isinstance(record.grid, LossGrid):
        return False
    far = 10 * record.tableau.stages**2
    return bool(record.grid.start > far and record.grid.stop - record.grid.start > far)


def _step(run: Run, record: Record, end: State, start: arb | None) -> arb:
    """F at the end of a step, where the state is `end`."""
    rates, speeds = _rates(run, record)
    unit = rates[-1]
    if start is None:
        # G = gamma' F is tau' up to parts of 1 / gamma; tau' / gamma' itself is best known from the state.
        return (_smooth(record, [v / unit for v in rates], speeds) / run.problem.rate(run, end)).mid()
    return (_from(record, [v / unit for v in rates], speeds, start / unit) * unit).mid()


def _from(record: Record, rates: list[arb], speeds: list[arb], start: arb) -> arb:
    """By collocation, for H = (1 + gamma') F: H / (1 + gamma') + A gamma' H / (1 + gamma') = F_0 + A tau'."""
    s, A = record.tableau.stages, record.tableau.integrals
    inverse = [(1 / (1 + v)).mid() for v in speeds]
    shares = [(v * i).mid() for v, i in zip(speeds, inverse, strict=True)]
    right = [start + v for v in (A * arb_mat(s, 1, rates)).entries()]
    table = arb_mat([[a * v for a, v in zip(row, shares, strict=True)] for row in A.tolist()])

    def apply(H: list[arb]) -> list[arb]:
        return [h * i + p for h, i, p in zip(H, inverse, (table * arb_mat(s, 1, H)).entries(), strict=True)]

    matrix = record.tableau.integrals_float * np.array([float(v) for v in shares])
    matrix += np.diag([float(v) for v in inverse])
    return refine(matrix, apply, right)[-1] * inverse[-1]


def _smooth(record: Record, rates: list[arb], speeds: list[arb]) -> arb:
    """The solution without memory, for G = gamma' F: G + (G' - G gamma''/gamma') / gamma' = tau' at the nodes.

    G' is the derivative of the polynomial through the G_j, so an error in it counts for nothing where gamma is large.
    """
    tableau = record.tableau
    s, nodes, w = tableau.stages, tableau.nodes, tableau.barycentric
    grid = cast(LossGrid, record.grid)
    table = [[w[j] / (w[i] * (nodes[i] - nodes[j])) if i != j else arb(0) for j in range(s)] for i in range(s)]
    for i, row in enumerate(table):
        row[i] = -sum(row, arb(0))
    derivative = arb_mat(table).mid()
    bends = grid.bends(nodes)

    def apply(G: list[arb]) -> list[arb]:
        slopes = (derivative * arb_mat(s, 1, G)).entries()
        return [g + (d - g * b) / v for g, d, b, v in zip(G, slopes, bends, speeds, strict=True)]

    inverse = np.array([float(1 / v) for v in speeds])
    matrix = np.array([[float(v) for v in row] for row in derivative.tolist()]) * inverse[:, None]
    matrix += np.diag(1 - inverse * np.array([float(b) for b in bends]))
    return refine(matrix, apply, rates)[-1]


def refine(matrix: np.ndarray, apply: Callable[[list[arb]], list[arb]], right: list[arb]) -> list[arb]:
    """Solve apply(x) = right to the working precision with the LU factors of its float64 matrix.

    What an update leaves of the residual follows from the update alone, and takes the fewer bits the smaller it is.
    """
    factors = lu_factor(matrix, check_finite=False)
    x, gap, shift = [arb(0)] * len(right), right, 0
    whole = ctx.prec
    for _ in range(100):
        scale = arb((1, -shift))
        step = lu_solve(factors, np.array([float(v / scale) for v in gap]), check_finite=False)
        update = [arb(float(v)) * scale for v in step]
        x = [(a + b).mid() for a, b in zip(x, update, strict=True)]
        size = float(np.max(np.abs(step)))
        if size == 0 or shift - np.log2(size) > whole - 8:
            break
        with working_precision(max(whole - shift, 0) + 70):
            gap = [(r - v).mid() for r, v in zip(gap, apply(update), strict=True)]
        shift = max(shift, int(shift - np.log2(size)))
    return x


def _rates(run: Run, record: Record) -> tuple[list[arb], list[arb]]:
    """d tau / ds and d gamma / ds at the stages."""
    n, d, stages = run.network.samples, run.network.inputs, record.stages
    if isinstance(record.grid, LossGrid):
        problem: Any = run.problem
        clock = record.grid.clock(record.tableau.nodes)
        pace = [problem.pace(stages.E[j * n : (j + 1) * n], g)[0] for j, g in enumerate(clock.gamma)]
        return pace, record.grid.speeds(clock, record.tableau.nodes)
    slopes = run.network.slopes(record.before.place, stages.dx)
    count = len(record.tableau.nodes)
    push = (arb_mat(count, n, stages.E) * run.network.X).entries()
    length = record.grid.length
    speeds = [
        sum((b * g * g for b, g in zip(slopes[j * d : (j + 1) * d], push[j * d : (j + 1) * d], strict=True)), arb(0))
        / length
        for j in range(count)
    ]
    return [length] * count, speeds
