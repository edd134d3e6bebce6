"""The log-form solver: accuracy, order, its two eliminations, and the hand-over from the explicit solver."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import reference

import gflow
from gflow import solve
from gflow.solvers import choice, log_radau

PROBLEMS = reference()


def observed(problem, rtol, stages):
    """Worst relative error of beta, and error of log t beyond its rounding, at gamma = 1 ... 1e6."""
    points = [p for p in problem["points"] if float(p["gamma_value"]) <= 1e6]
    gammas = np.array([float(p["gamma_value"]) for p in points])
    model = gflow.models.DiagonalNetwork(problem["d"], problem["D"], problem["alpha"])
    traj = gflow.gradient_flow(
        model, problem["X"], np.ones(problem["N"]), save=gammas, rtol=rtol, solver=gflow.LogRadau(stages)
    )
    truth = np.array([[float(v) for v in p["beta_over_gamma"]] for p in points])
    beta = np.abs(np.asarray(traj.model.beta) / gammas[:, None] - truth).max(1) / np.abs(truth).max(1)
    time = np.abs(np.asarray(traj.log_time) - [float(p["log_t"]) for p in points]) - 8e-16 * gammas
    return beta.max(), time.max(), int(traj.stats["steps"] + traj.stats["rejections"])


@pytest.mark.parametrize("name", ["P1", "P3", "P4"])
@pytest.mark.parametrize("stages, rtols", [(5, (1e-4, 1e-6, 1e-8, 1e-10)), (3, (1e-4, 1e-6))])
def test_against_reference(name, stages, rtols):
    for rtol in rtols:
        beta, time, steps = observed(PROBLEMS[name], rtol, stages)
        assert beta < 10 * rtol and time < 10 * rtol
        assert steps < (70 if stages == 5 else 120)


@pytest.mark.parametrize("stages, order", [(2, 3), (3, 5), (4, 7)])
def test_order(stages, order):
    """On y' = -y, z' = y (a collocation method is its tableau)."""
    tableau = log_radau._tableau(stages)
    errors = []
    for h in (0.5, 0.25):
        state = 1.0
        for _ in range(round(2 / h)):
            state = np.linalg.solve(np.eye(stages) + h * tableau.A, np.full(stages, state))[-1]
        errors.append(abs(state - np.exp(-2.0)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)


def test_both_eliminations_give_one_newton_step():
    r = np.random.default_rng(0)
    s, N, P = 3, 4, 6
    logits = r.normal(size=(s, N))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    A = np.array(log_radau._tableau(s).A) * 0.3
    system = log_radau._System(
        A=jnp.asarray(A),
        inverse=jnp.asarray(np.linalg.inv(A)),
        J=jnp.asarray(r.normal(size=(s, N, P))),
        V=jnp.asarray(r.normal(size=(s, N, P))),
        q=jnp.asarray(np.exp(r.normal(size=(s, N)))),
        p=jnp.asarray(p),
        toward=jnp.asarray(r.normal(size=(s, P))),
        domega=jnp.asarray(-r.uniform(0.5, 1.0, size=(s, N))),
        drho=jnp.asarray(r.uniform(0.0, 0.3, size=(s, N))),
        scale=jnp.asarray(r.uniform(1.0, 50.0, size=s)),
        lag=jnp.asarray(0.1 * r.normal(size=(s, P))),
        miss=jnp.asarray(r.normal(size=(s, N))),
        miss_sum=jnp.asarray(r.normal(size=s)),
        miss_pace=jnp.asarray(r.normal(size=s)),
    )
    for one, other in zip(log_radau._in_samples(system), log_radau._in_parameters(system), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3])
def test_agrees_with_the_explicit_solver_on_more_samples_than_parameters(depth):
    """N > P, so the weights are eliminated; logistic loss."""
    r = np.random.default_rng(1)
    X = r.normal(size=(30, 4))
    X *= np.sign(X @ np.array([1.0, -2.0, 0.5, 0.3]))[:, None]
    run = lambda solver: gflow.gradient_flow(
        gflow.models.DiagonalNetwork(4, depth, 0.5),
        X,
        np.ones(30),
        loss=gflow.losses.Logistic(),
        save=jnp.array([1.0, 20.0, 300.0]),
        rtol=1e-8,
        solver=solver,
    )
    implicit, explicit = run(gflow.LogRadau()), run(diffrax.Dopri8())
    np.testing.assert_allclose(implicit.model.beta, explicit.model.beta, rtol=1e-6)
    np.testing.assert_allclose(implicit.log_time, explicit.log_time, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-60, 1e-20, 1e-3, 1.0, 1e3])
def test_depth_two_arrives_from_every_scale(scale):
    X = np.random.default_rng(3).normal(size=(4, 10))
    model = gflow.models.DiagonalNetwork(10, 2, scale)
    traj = gflow.gradient_flow(model, X, np.ones(4), stop=1e6, rtol=1e-6, solver=gflow.LogRadau())
    margins = X @ np.asarray(traj.final.beta)
    assert -jax.nn.logsumexp(-margins) + np.log(4) == pytest.approx(1e6, rel=1e-10)
    assert int(traj.stats["steps"] + traj.stats["rejections"]) < 120


def test_stiff_runs_are_handed_over_and_resume_across_it(monkeypatch):
    X = np.random.default_rng(3).normal(size=(4, 10))
    model, saves = gflow.models.DiagonalNetwork(10, 2, 0.5), jnp.array([5.0, 100.0, 2000.0])
    run = lambda **more: gflow.gradient_flow(model, X, np.ones(4), save=saves, rtol=1e-8, **more)
    explicit = run(solver=diffrax.Dopri8(scan_kind="lax"))
    monkeypatch.setattr(solve, "EXPLICIT_STEPS", 60)
    monkeypatch.setattr(choice, "EXPLICIT_STEPS", 60)
    monkeypatch.setattr(choice, "_WORTH_WHILE", 100)
    handed = run()
    assert int(handed.stats["steps"]) < int(explicit.stats["steps"]) / 2
    np.testing.assert_allclose(handed.model.beta, explicit.model.beta, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(handed.log_time, explicit.log_time, rtol=1e-8)
    for budget in (30, 66):
        part = run(max_steps=budget, throw=False)
        assert not part.success
        whole = run(resume=part)
        np.testing.assert_array_equal(whole.model.log_ratio, handed.model.log_ratio)
        np.testing.assert_array_equal(whole.log_time, handed.log_time)
    inside = jax.jit(lambda scale: run_scaled(scale, X, saves))(0.5)
    np.testing.assert_allclose(inside, handed.model.beta, rtol=1e-9, atol=1e-12)


def run_scaled(scale, X, saves):
    model = gflow.models.DiagonalNetwork(10, 2, scale)
    return gflow.gradient_flow(model, X, np.ones(4), save=saves, rtol=1e-8).model.beta


def test_square_loss_is_refused():
    with pytest.raises(ValueError, match=r"^solver LogRadau needs the exponential or the logistic loss, not Square;"):
        gflow.gradient_flow(
            gflow.models.LinearModel(2), np.eye(2), np.ones(2), loss=gflow.losses.Square(), stop=5.0,
            solver=gflow.LogRadau(),
        )
