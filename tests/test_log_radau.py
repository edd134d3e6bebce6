"""The log-form solver: accuracy, order, step counts, regression, batches, and the hand-over from the explicit solver.

How far it goes is in test_stiff_reach.py, what it is made of in test_newton.py.
"""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import LOSSES, relative, X as SMALL
from oracles import OneSample, reference, scipy_path, separable
from test_driver import counting_compilations

import gflow
from gflow import driver, precise
from gflow.charts import chart_of
from gflow.flow import Flow
from gflow.solvers import choice, FlowTerm
from gflow.solvers.collocation import lagrange, Polynomial, tableau

SLOW = pytest.mark.slow
PROBLEMS = reference()
# As many as the reference has, of the same shapes: one compilation for most of this file.
SAVES = np.geomspace(1.0, 1e6, 7)
RTOLS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11)


def run(scale, **more):
    settings = {"save": SAVES, "rtol": 1e-6, "solver": gflow.LogRadau(), **more}
    return gflow.gradient_flow(gflow.models.DiagonalNetwork(3, 2, scale), SMALL, np.ones(2), **settings)


def observed(problem, rtol, stages, more=None):
    """Relative errors of beta, errors of log t beyond its rounding, and the number of steps, at gamma = 1 ... 1e100."""
    points = [p for p in problem["points"] if np.isfinite(float(p["gamma_value"]))]
    gammas = np.array([float(p["gamma_value"]) for p in points])
    model = gflow.models.DiagonalNetwork(problem["d"], problem["D"], problem["alpha"])
    run = lambda save: gflow.gradient_flow(
        model, problem["X"], np.ones(problem["N"]), save=save, rtol=rtol, solver=gflow.LogRadau(stages)
    )
    if more is None:
        traj, rows = run(gammas), np.arange(len(gammas))
    else:
        # The point `more` as the end of a run: as many saves, so that nothing compiles anew.
        traj, rows = run(gammas[more] * np.linspace(0.3, 1.0, len(gammas))), np.array([more])
    read = lambda key: np.array([np.asarray(points[k][key], float) for k in rows])
    beta = np.asarray(traj.model.beta)[-len(rows) :] / gammas[rows, None]
    # Beyond 1e6 time is looked at in test_stiff_reach.py.
    time = np.abs(np.asarray(traj.log_time)[-len(rows) :] - read("log_t")) - 8e-16 * gammas[rows]
    time = np.where(gammas[rows] <= 1e6, time, 0.0)
    return relative(beta, read("beta_over_gamma")), time, int(traj.stats["steps"] + traj.stats["rejections"])


@SLOW
@pytest.mark.parametrize("name", list(PROBLEMS))
@pytest.mark.parametrize("stages", [5, 3, 7])
def test_against_reference(name, stages):
    """At saves along the way and at ends alike: beta to a loss of 10^(-4e99), log t to one of 10^(-4e5)."""
    beta, time = {}, {}
    for rtol in RTOLS if stages != 3 else RTOLS[:5]:
        runs = [observed(PROBLEMS[name], rtol, stages, more) for more in (None, 0, 2, 4, 5)]
        beta[rtol], time[rtol] = (max(np.max(r[k]) for r in runs) / rtol for k in (0, 1))
    assert all(v < 10 for v in beta.values()), beta
    # At tight tolerances the time has been seen to miss by twice as much.
    assert all(v < (10 if rtol > 2e-10 else 30) for rtol, v in time.items()), time


FAR = ["1", "10", "230", "2300", "1e6", "1e20", "1e100"]


@functools.cache
def far_out(seed, shape, depth, scale):
    """gamma, beta / gamma and log t by the precise backend."""
    X = separable(seed, *shape)
    truth = precise.diagonal_flow(X.tolist(), [1] * shape[0], depth=depth, scale=scale, save=FAR, digits=20)
    assert truth.success and truth.digits >= 20
    beta = np.array([[float(b / g) for b in row] for row, g in zip(truth.beta, truth.neg_log_loss, strict=True)])
    return np.array(FAR, float), beta, np.array([float(v) for v in truth.log_time])


# Of depth 2, whose steps are the longest: at rtol 1e-4 gamma is met to 1e-10 only.
LOOSE = pytest.mark.xfail(reason="three stages meet gamma to 1e-10, not 1e-12, at saves within the longest steps")
FLOWS = [
    (0, (4, 10), 3, "1"), (1, (4, 10), 2, "1e-3"), (2, (4, 10), 3, "0.1"), (3, (3, 6), 4, "1"),
    (4, (3, 6), 2, "1e3"), (5, (4, 10), 3, "1e3"), (6, (3, 6), 4, "1e2"), (8, (3, 6), 6, "1"),
    (3, (10, 30), 2, "1"),
]  # fmt: skip
METHODS = [(3, (1e-4, 1e-6)), (5, (1e-4, 1e-6, 1e-8, 1e-10, 1e-11)), (7, (1e-8, 1e-11))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, shape, depth, scale, stages, rtols",
    [
        pytest.param(*flow, *method, marks=LOOSE if (flow[2], method[0]) == (2, 3) else ())
        for flow in FLOWS
        for method in METHODS
    ],
)
def test_against_the_precise_backend(seed, shape, depth, scale, stages, rtols):
    """beta and log t from gamma = 1 to 1e100, by another method in another arithmetic."""
    X, y = separable(seed, *shape), np.ones(shape[0])
    gammas, beta, log_t = far_out(seed, shape, depth, scale)
    model = gflow.models.DiagonalNetwork(shape[1], depth, float(scale))
    for rtol in rtols:
        traj = gflow.gradient_flow(model, X, y, save=gammas, rtol=rtol, solver=gflow.LogRadau(stages))
        assert relative(traj.model.beta / gammas[:, None], beta).max() < 10 * rtol
        assert np.all(np.abs(np.asarray(traj.log_time) - log_t) < 10 * rtol + 1e-12 * gammas)


@pytest.mark.slow
def test_time_at_tight_tolerances():
    time = {rtol: np.max(observed(PROBLEMS["P1"], rtol, 5)[1]) / rtol for rtol in (1e-10, 1e-11)}
    assert all(v < 10 for v in time.values()), time


def test_saves_do_not_change_the_path():
    one, other = (run(1.0, save=save, stop=1e6) for save in (SAVES, np.linspace(1e5, 9e5, 7)))
    np.testing.assert_array_equal(one.final.log_ratio, other.final.log_ratio)


@pytest.mark.parametrize("stages", [2, 3, 4, 5, 7])
def test_order_of_the_tableau(stages):
    """On y' = -y."""
    order = 2 * stages - 1
    errors = []
    for h in (2.0, 1.0) if stages > 3 else (0.5, 0.25):
        state = 1.0
        for _ in range(round(4 / h)):
            state = np.linalg.solve(np.eye(stages) + h * tableau(stages).A, np.full(stages, state))[-1]
        errors.append(abs(state - np.exp(-4.0)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.5)


@pytest.mark.parametrize("stages", [2, 5, 7])
def test_tableau_and_continuous_extension(stages):
    """Collocation integrates polynomials of degree < s exactly, and 2 s - 2 at the end; so does the dense output."""
    t = tableau(stages)
    powers = np.arange(stages)
    np.testing.assert_allclose(t.A @ t.c[:, None] ** powers, t.c[:, None] ** (powers + 1) / (powers + 1), atol=1e-14)
    high = np.arange(2 * stages - 1)
    np.testing.assert_allclose(t.A[-1] @ t.c[:, None] ** high, 1 / (high + 1), rtol=1e-12)
    np.testing.assert_allclose(t.inverse @ t.A, np.eye(stages), atol=1e-12)
    nodes, h = np.append(0.0, t.c), 0.7
    values = jnp.asarray((h * nodes[:, None]) ** np.array([0, 1, stages]))
    dense = Polynomial(t0=jnp.asarray(0.0), t1=jnp.asarray(h), nodes=jnp.asarray(nodes), values=values)
    for x in (0.0, 0.3, 0.7):
        np.testing.assert_allclose(dense.evaluate(jnp.asarray(x)), x ** np.array([0.0, 1.0, stages]), atol=1e-13)
    x = jnp.asarray([0.2, 1.4])
    np.testing.assert_allclose(lagrange(t.c, x) @ t.c ** (stages - 1), x ** (stages - 1), rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_order_of_the_method(stages):
    """Fixed steps through `step` along the arc length, D = 2: 2 s - 1 or more, of the coordinates and of the time."""
    X, y, loss = jnp.asarray(SMALL), jnp.ones(2), LOSSES["exponential"]
    model = gflow.models.DiagonalNetwork(3, 2, 1.0)
    flow = Flow(chart_of(model, X, y, loss), X, y, loss)
    rtol = jnp.asarray(1e-12)
    solver = gflow.LogRadau(stages, rtol=rtol)
    first, terms = driver.start(flow, solver, rtol), FlowTerm(flow.field)

    @eqx.filter_jit
    def end(h, steps):
        def body(_, carry):
            state, memory = carry
            state, _, _, memory, _ = solver.step(terms, jnp.zeros(()), h, state, first.gauge, memory, False)
            return state, memory

        return jax.lax.fori_loop(0, steps, body, (first.state, first.solver))[0]

    # As many steps as the order needs to show, and no more than rounding allows.
    counts = np.array([4, 8, 16] if stages > 4 else [8, 16, 32])
    truth = end(jnp.asarray(0.8 / 256), jnp.asarray(256))
    off = np.array([np.abs((end(jnp.asarray(0.8 / n), jnp.asarray(n)) - truth) / truth) for n in counts])
    for error in (np.max(off[:, :-1], axis=1), off[:, -1]):
        assert -np.polyfit(np.log(counts), np.log(error), 1)[0] > 2 * stages - 1.7


FOUR = separable(0, 4, 10)


def steps_and_beta(stop, rtol):
    traj = gflow.gradient_flow(
        gflow.models.DiagonalNetwork(10, 2, 1.0), FOUR, np.ones(4), stop=stop, rtol=rtol, solver=gflow.LogRadau()
    )
    return int(traj.stats["steps"] + traj.stats["rejections"]), np.asarray(traj.final.beta) / stop


def test_forty_steps_to_a_million():
    """At an achieved error of 1e-8."""
    _, truth = steps_and_beta(1e6, 1e-12)
    tried = {}
    for rtol in (1e-6, 3e-7, 1e-7, 3e-8, 1e-8, 3e-9):
        steps, beta = steps_and_beta(1e6, rtol)
        tried[rtol] = (steps, float(relative(beta[None], truth[None])[0]))
    assert any(steps <= 40 and error <= 1e-8 for steps, error in tried.values()), tried


def test_linear_regression_of_condition_1e8():
    """By eigenvalues: the residual along each eigenvector falls like e^(-lambda t / N)."""
    r = np.random.default_rng(0)
    U, V = (np.linalg.qr(r.normal(size=(8, 8)))[0] for _ in range(2))
    sizes = np.geomspace(1.0, 1e-4, 8)
    X = U @ np.diag(sizes) @ V.T
    y = X @ r.normal(size=8)
    beta = lambda t: V @ (-np.expm1(-(sizes**2) * t / 8) / sizes * (U.T @ y))
    run = lambda **more: gflow.gradient_flow(
        gflow.models.LinearModel(8), X, y, loss=LOSSES["square"], clock=gflow.TimeClock(), solver=gflow.LogRadau(),
        **more,
    )  # fmt: skip
    times = np.array([1e-2, 1.0, 1e3, 1e6, 1e9])
    for rtol in (1e-6, 1e-9):
        traj = run(save=times, rtol=rtol)
        assert relative(traj.model.beta, [beta(t) for t in times]).max() < 10 * rtol
        np.testing.assert_allclose(traj.log_time, np.log(times), rtol=0, atol=1e-9)
        assert int(traj.stats["steps"] + traj.stats["rejections"]) < 40 * 11
    lost = np.array([np.mean((X @ beta(t) - y) ** 2) / 2 for t in times])
    np.testing.assert_allclose(traj.neg_log_loss, -np.log(lost), rtol=0, atol=1e-6)


TARGETS = np.array([1.0, -0.5])


@pytest.mark.slow
@pytest.mark.parametrize("depth, scale", [(2, 0.1), (2, 1e-6), (3, 0.1), (3, 1e-3)])
def test_diagonal_regression(depth, scale):
    """Against SciPy on the equations written out, and the explicit solver."""
    gammas = np.array([1.3, 3.0, 8.0, 12.0])
    truth, log_times = scipy_path(SMALL, TARGETS, "square", depth, scale, gammas, rtol=1e-12)
    model = gflow.models.DiagonalNetwork(3, depth, scale)
    run = lambda rtol, solver: gflow.gradient_flow(
        model, SMALL, TARGETS, loss=LOSSES["square"], save=gammas, rtol=rtol, solver=solver
    )
    for rtol in (1e-6, 1e-8):
        traj = run(rtol, gflow.LogRadau())
        assert relative(traj.model.beta, truth).max() < 10 * rtol
        assert np.abs(traj.log_time - log_times).max() < 10 * rtol
    if depth == 3:
        np.testing.assert_allclose(traj.model.beta, run(1e-9, diffrax.Dopri8(scan_kind="lax")).model.beta, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1e-20, 1e-60])
def test_regression_leaves_the_saddle(scale):
    gammas = np.log(2.0) - 2 * np.log1p(-np.array([0.1, 0.5, 0.999]))
    traj = gflow.gradient_flow(
        gflow.models.DiagonalNetwork(1, 2, scale), np.ones((1, 1)), np.ones(1), loss=LOSSES["square"], save=gammas,
        rtol=1e-8, solver=gflow.LogRadau(),
    )  # fmt: skip
    truth = OneSample([1.0], 2, scale, "square")
    np.testing.assert_allclose(traj.log_time, [float(truth.log_time(g)) for g in gammas], rtol=0, atol=1e-7)
    assert relative(traj.model.beta, [[float(v) for v in truth.at(g)] for g in gammas]).max() < 1e-8


def sweep(scale):
    traj = run(scale, throw=False)
    return traj.final.beta, traj.log_time[-1], traj.status_code


def one_by_one(f):
    return lambda scales: jax.lax.map(f, scales)


@SLOW
@pytest.mark.parametrize("batched", [one_by_one, jax.vmap])
def test_sweeps_equal_the_loop(batched):
    """Within the tolerance; compiled once; no element is spoilt by another."""
    scales = jnp.array([1e-20, 1e-3, jnp.nan, 1.0, 1e200, 1e3])
    bad = np.isnan(scales) | (scales > 1e100)
    together = batched(sweep)
    beta, log_time, code = together(scales)
    for k in np.flatnonzero(~bad):
        one = sweep(scales[k])
        assert int(code[k]) == int(one[2]) == gflow.Status.success
        assert relative(beta[k][None], np.asarray(one[0])[None])[0] < 1e-5
        np.testing.assert_allclose(log_time[k], one[1], rtol=1e-9)
    assert not np.any(np.isin(code[np.flatnonzero(bad)], [gflow.Status.success, gflow.Status.running]))
    with counting_compilations() as names:
        together(scales[::-1])
        sweep(scales[1] / 2)
    assert [n for n in names if any(f in n for f in ("start", "advance", "conclude"))] == []


@pytest.mark.slow
def test_stiff_runs_are_handed_over_and_resume_across_it(monkeypatch):
    saves = np.geomspace(1.0, 2000.0, 7)
    both = lambda **more: run(0.5, save=saves, rtol=1e-8, **{"solver": None, **more})
    explicit = both(solver=diffrax.Dopri8(scan_kind="lax"))
    monkeypatch.setattr(choice, "_EXPLICIT_STEPS", 60)
    monkeypatch.setattr(choice, "_FAR", 1e9)
    handed = both()
    assert int(handed.stats["steps"]) < int(explicit.stats["steps"]) / 2
    np.testing.assert_allclose(handed.model.beta, explicit.model.beta, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(handed.log_time, explicit.log_time, rtol=1e-8)
    for budget in (30, 66):
        part = both(max_steps=budget, throw=False)
        assert not part.success
        whole = both(resume=part)
        np.testing.assert_array_equal(whole.model.log_ratio, handed.model.log_ratio)
        np.testing.assert_array_equal(whole.log_time, handed.log_time)


@pytest.mark.slow
def test_the_hand_over_is_traced(monkeypatch):
    X = np.random.default_rng(3).normal(size=(4, 10))
    monkeypatch.setattr(choice, "_EXPLICIT_STEPS", 60)
    monkeypatch.setattr(choice, "_FAR", 1e9)
    run = lambda scale: gflow.gradient_flow(
        gflow.models.DiagonalNetwork(10, 2, scale), X, np.ones(4), stop=2000.0, rtol=1e-8
    ).final.beta
    handed = jax.jit(run)(0.5)
    alone = gflow.gradient_flow(
        gflow.models.DiagonalNetwork(10, 2, 0.5), X, np.ones(4), stop=2000.0, rtol=1e-8, solver=gflow.LogRadau()
    )
    np.testing.assert_allclose(handed, alone.final.beta, rtol=1e-6, atol=1e-9)


def test_resume_gives_the_unbroken_run():
    late = SAVES * 1e4
    whole, part = run(1.0, save=late), run(1.0, save=late, max_steps=6, throw=False)
    assert not part.success and "used up max_steps" in part.status and part.neg_log_loss.shape == (1,)
    np.testing.assert_array_equal(run(1.0, save=late, resume=part).final.log_ratio, whole.final.log_ratio)
