"""Physical time, t = integral of e^gamma d tau, which overflows everything else: log t = gamma + log F.

F = t e^(-gamma) obeys dF/ds = d tau / ds - F d gamma / ds, which forgets its past like e^(-gamma). It is integrated by
the collocation of the steps, only for states that are asked for, and only from the last step on which gamma grew so
much that the smooth solution, F = d tau/d gamma - ..., is the only one left.
"""

from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx
from scipy.linalg import lu_factor, lu_solve

from .exact import log10
from .grids import LossGrid
from .path import Record, Run, State


def log_time(run: Run, state: State) -> arb:
    """log t at a state of a run, other than its start."""
    run.set_precision(max(0.0, log10(state.gamma)))
    whole = ctx.prec
    chain, record = [], state.record
    value = arb(0)
    while record is not None:
        if record.time_factor is not None:
            value = record.time_factor
            break
        chain.append(record)
        if _forgets(record):
            break
        record = record.before.record
    run.set_precision(0.0)
    for record in reversed(chain):
        value = record.time_factor = _step(run, record, None if _forgets(record) else value)
    ctx.prec = whole
    return (state.gamma - state.ahead + (value + state.late).log()).mid()


def _forgets(record: Record) -> bool:
    if not isinstance(record.grid, LossGrid):
        return False
    far = 10 * record.tableau.stages**2
    return bool(record.grid.start > far and record.grid.stop - record.grid.start > far)


def _step(run: Run, record: Record, start: arb | None) -> arb:
    """F at the end of a step, from H = (1 + gamma') F: H / (1 + gamma') + A gamma' H / (1 + gamma') - F_0 = A tau'.

    Without a start F_0 is unknown, and what is asked for instead is that the collocation polynomial of dF/ds has no
    component in the last Legendre polynomial. The system is solved by refinement of a float64 solution.
    """
    s, tableau = record.tableau.stages, record.tableau
    rates, speeds = _rates(run, record)
    unit = rates[-1]
    inverse = [(1 / (1 + v)).mid() for v in speeds]
    shares = [(v * i).mid() for v, i in zip(speeds, inverse, strict=True)]
    right = [(v / unit).mid() for v in (tableau.integrals * arb_mat(s, 1, rates)).entries()]
    matrix = np.zeros((s + 1, s + 1))
    share = np.array([float(v) for v in shares])
    matrix[:s, :s] = tableau.integrals_float * share + np.diag([float(v) for v in inverse])
    matrix[:s, s] = -1.0
    last = arb_mat([tableau.coefficients.tolist()[s - 1]])
    if start is None:
        matrix[s, :s] = np.array([float(v) for v in last.entries()]) * share
        right.append(((last * arb_mat(s, 1, rates))[0, 0] / unit).mid())
    else:
        matrix[s, s] = 1.0
        right.append((start / unit).mid())
    factors = lu_factor(matrix, check_finite=False)
    H, shift = [arb(0)] * (s + 1), 0
    for _ in range(60):
        column = arb_mat(s, 1, [h * v for h, v in zip(H, shares, strict=False)])
        product = (tableau.integrals * column).entries()
        gap = [r - p - h * i + H[s] for r, p, h, i in zip(right, product, H, inverse, strict=False)]
        gap.append(right[s] - ((last * column)[0, 0] if start is None else H[s]))
        scale = arb((1, shift))
        step = lu_solve(factors, np.array([float(v * scale) for v in gap]), check_finite=False)
        H = [(h + arb(float(v)) / scale).mid() for h, v in zip(H, step, strict=True)]
        size = float(np.max(np.abs(step)))
        if size == 0 or shift - np.log2(size) > ctx.prec - 8:
            break
        shift = max(shift, int(shift - np.log2(size)))
    return (H[s - 1] * inverse[-1] * unit).mid()


def _rates(run: Run, record: Record) -> tuple[list[arb], list[arb]]:
    """d tau / ds and d gamma / ds at the stages."""
    n, d, stages = run.network.samples, run.network.inputs, record.stages
    if isinstance(record.grid, LossGrid):
        problem: Any = run.problem
        clock = record.grid.clock(record.tableau.nodes)
        pace = [problem.pace(stages.E[j * n : (j + 1) * n], g)[0] for j, g in enumerate(clock.gamma)]
        return pace, record.grid.speeds(clock, record.tableau.nodes)
    found = run.network.beta(record.before.place, stages.dx)
    assert found is not None
    count = len(record.tableau.nodes)
    push = (arb_mat(count, n, stages.E) * run.network.X).entries()
    length = record.grid.length
    speeds = [
        sum((b * g * g for b, g in zip(found[1][j * d : (j + 1) * d], push[j * d : (j + 1) * d], strict=True)), arb(0))
        / length
        for j in range(count)
    ]
    return [length] * count, speeds
