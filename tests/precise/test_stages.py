"""Newton's method with residuals of few bits first: what it ends with solves the equations to all of them."""

import numpy as np
import pytest
from flint import arb, arb_mat, ctx, fmpq

from gflow.precise.classification import Margins
from gflow.precise.diagonal import _settings
from gflow.precise.exact import log10, working_precision
from gflow.precise.matrix import Failure
from gflow.precise.network import DualNetwork
from gflow.precise.path import Run
from gflow.precise.regression import Residuals
from gflow.precise.stages import solve
from gflow.precise.times import refine

ROWS = [[fmpq(1, 2), fmpq(1), fmpq(-3, 8), fmpq(1, 4)], [fmpq(-1, 4), fmpq(7, 8), fmpq(1), fmpq(3, 8)]]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("digits", [30, 80])
@pytest.mark.parametrize("kind", ["exponential", "logistic", "square"])
def test_stages_solve_their_equations(kind, digits, depth):
    """V = implied(margins), E = dz/ds of V, dz = A E: each worked out afresh from the stages of every step."""
    with working_precision(64):
        network = DualNetwork(ROWS, depth, [fmpq(1)] * 4)
        square = kind == "square"
        targets = [fmpq(1), fmpq(-1, 3)]
        problem = Residuals(network, targets, True) if square else Margins(network, kind == "logistic", True)
        run = Run(network, problem, _settings(digits, 0))
        run.solve([lambda: arb(20)])
        assert len(run.path.records) > 3
        for record in run.path.records:
            problem.begin(record.before)
            run.set_precision(3.0)
            stages, tableau = record.stages, record.tableau
            clock = record.grid.clock(tableau.nodes)
            shape = tableau.stages, network.samples
            rates = problem.rates(stages.V, clock)
            whole = arb_mat(*shape, rates)
            dz = tableau.integrals * whole
            for found, truth in ((stages.E, whole), (stages.dz, dz)):
                for value, size in zip(found, truth.entries(), strict=True):
                    assert log10(value - size) < log10(size) - digits
            beta = network.beta(record.before.place, (dz * network.X).entries())
            margins = (arb_mat(shape[0], network.inputs, beta) * network.XT).entries()
            implied = problem.relations(margins, stages.V, rates, clock).implied
            assert all(log10(v - w) < -digits for v, w in zip(stages.V, implied, strict=True))


@pytest.mark.parametrize("bits", [100, 1000, 5000])
def test_refinement_ends_at_rounding(bits):
    """Also where the last bits of the residual never vanish: one product for each 40 bits or so."""
    rng = np.random.default_rng(0)
    size, calls = 30, []
    with working_precision(bits):
        table = arb_mat([[(arb(float(v)).exp() + (3 if i == j else 0)).mid() for j, v in enumerate(row)]
                         for i, row in enumerate(rng.uniform(-4, -3, (size, size)))])  # fmt: skip
        truth = [(arb(float(v)).exp() * 10 ** int(k % 9)).mid() for k, v in enumerate(rng.normal(size=size))]

        def apply(x):
            calls.append(ctx.prec)
            return (table * arb_mat(size, 1, x)).entries()

        right = apply(truth)
        calls.clear()
        floats = np.array([[float(v) for v in row] for row in table.tolist()])
        found = refine(floats, apply, [v.mid() for v in right])
        largest = max(log10(v) for v in truth)
        assert max(log10(a - b) for a, b in zip(found, truth, strict=True)) < largest - 0.301 * (bits - 14)
    assert len(calls) <= bits / 40 + 2
    assert calls[-1] < bits / 2 + 100


@pytest.mark.parametrize("digits", [30, 200])
def test_digits_beyond_rounding_are_those_of_rounding(digits):
    """What is asked of a step may be finer than its precision; it ends at that, or says that it cannot."""
    with working_precision(64):
        network = DualNetwork(ROWS, 2, [fmpq(1)] * 4)
        run = Run(network, Margins(network, False, True), _settings(30, 0))
        run.solve([lambda: arb(20)])
        record = run.path.records[-1]
        clock = record.grid.clock(record.tableau.nodes)
        run.set_precision(1.0)
        try:
            again = solve(network, run.problem, record.tableau, record.before.place, clock, record.stages.V, digits,
                          run.path.counts)  # fmt: skip
        except Failure:
            return
        assert max(log10(a - b) for a, b in zip(again.V, record.stages.V, strict=True)) < -28
