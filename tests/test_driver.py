"""The loop: resuming, interruption, compiling once, transformations of the whole call."""

import contextlib

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import diagonal, X, y
from jax import monitoring

import gflow
from gflow import memory_maps, solve

SAVE = gflow.decades(np.array([1.0, 3.0, 10.0, 100.0]))


@pytest.fixture(scope="module")
def whole():
    return gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE)


def assert_same(a, b):
    """Bit for bit, counts of steps included."""
    for name in ("neg_log_loss", "log_time"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.model.log_ratio, b.model.log_ratio)
    np.testing.assert_array_equal(a.final.log_ratio, b.final.log_ratio)
    assert a.stats["steps"] == b.stats["steps"] and a.stats["rejections"] == b.stats["rejections"]


@pytest.mark.parametrize("max_steps", [1, 20, 100])
def test_resume_after_max_steps(whole, max_steps):
    part = gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, max_steps=max_steps, throw=False)
    assert not part.success and "used up max_steps" in part.status
    assert int(part.stats["steps"] + part.stats["rejections"]) == max_steps
    assert_same(gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, resume=part), whole)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_resume_to_go_further(whole, count):
    part = gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE[:count])
    assert_same(gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, resume=part), whole)
    assert_same(gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE[count:], resume=part), whole)


def test_resume_twice_and_by_stop_alone(whole):
    part = gflow.gradient_flow(diagonal(2, 0.1), X, y, stop=SAVE[0])
    for stop in SAVE[1:]:
        part = gflow.gradient_flow(diagonal(2, 0.1), X, y, stop=stop, resume=part)
    assert_same(part, whole)


def test_programs_are_let_go_when_memory_maps_run_out(monkeypatch):
    compiled = []
    monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **about: compiled.append(1) if event.endswith("backend_compile_duration") else None
    )
    run = lambda: gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE)
    run()
    before = len(compiled)
    run()
    assert len(compiled) == before
    # Looked at only after something has been compiled.
    monkeypatch.setattr(memory_maps, "_taken", lambda: 10**9)
    monkeypatch.setattr(memory_maps, "_compiled", False)
    run()
    assert len(compiled) == before
    jax.jit(lambda v: 3 * v)(jnp.ones(7))
    assert len(compiled) > before and memory_maps._compiled
    before = len(compiled)
    run()
    assert len(compiled) > before


@pytest.mark.slow
def test_resume_in_time():
    save = np.array([1.0, 2.0, 5.0, 20.0])
    run = lambda **more: gflow.gradient_flow(diagonal(2, 0.1), X, y, clock=gflow.TimeClock(), **more)
    part = run(save=save, max_steps=10, throw=False)
    assert not part.success
    assert_same(run(save=save, resume=part), run(save=save))


def test_resume_refuses_another_flow(whole):
    for model, data in ((diagonal(2, 0.2), X), (diagonal(2, 0.1), 2 * X)):
        with pytest.raises(ValueError, match=r"^resume must be a trajectory of the same model, data, loss and clock"):
            gflow.gradient_flow(model, data, y, stop=500.0, resume=whole)
    with pytest.raises(ValueError, match=r"^stop must lie beyond where resume stands, but it is 1; nothing is left"):
        gflow.gradient_flow(diagonal(2, 0.1), X, y, stop=1.0, resume=whole)


def test_interrupt(whole, monkeypatch):
    """Ctrl-C while a piece runs: what was done before it comes back, and resuming gives the unbroken run."""
    advance, calls = solve._SMOOTH.advance, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        small = list(args)
        small[7] = jnp.asarray(50)
        return advance(*small)

    monkeypatch.setattr(solve, "_SMOOTH", solve._SMOOTH._replace(advance=interrupted))
    with pytest.raises(gflow.FlowInterrupted, match=r"^gradient_flow was interrupted\.") as caught:
        gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE)
    part = caught.value.trajectory
    calls.clear()
    same = gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, throw=False)
    assert_same(same, part)
    monkeypatch.undo()
    assert not part.success and part.status.startswith("The run was interrupted; pass resume=")
    assert int(part.stats["steps"] + part.stats["rejections"]) == 50
    assert_same(gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, resume=part), whole)


@contextlib.contextmanager
def counting_compilations():
    """Compilations of whatever takes long enough to be gflow's own functions."""
    names = []
    listener = lambda event, seconds, **more: (
        names.append(more.get("fun_name", "")) if event.endswith("backend_compile_duration") else None
    )
    monitoring.register_event_duration_secs_listener(listener)
    try:
        yield names
    finally:
        monitoring.unregister_event_duration_listener(listener)


def test_compiles_once(whole):
    # Near and far stops are begun by different solvers.
    for factor in (1.0, 3.0):
        gflow.gradient_flow(diagonal(2, 0.1), X, y, save=factor * SAVE, rtol=1e-6)
    # What a run that is used up has come to is looked at once more.
    gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, max_steps=40, throw=False)
    ours = lambda names: [n for n in names if any(f in n for f in ("start", "advance", "conclude", "_gamma"))]
    with counting_compilations() as names:
        for scale, factor, rtol in ((1.0, 1.0, 1e-8), (1e-20, 3.0, 1e-6), (10.0, 0.5, 1e-10)):
            model = gflow.models.DiagonalNetwork(3, 2, scale)
            gflow.gradient_flow(model, factor * X, y, save=factor * SAVE, rtol=rtol, max_steps=50_000)
            gflow.gradient_flow(model, X, y, save=SAVE / 2, stop=SAVE[-1], rtol=rtol)
            part = gflow.gradient_flow(model, X, y, save=SAVE, max_steps=40, throw=False)
        assert not part.success
    assert ours(names) == []
    with counting_compilations() as names:
        wide = np.tile(X, (1, 11))
        gflow.gradient_flow(gflow.models.DiagonalNetwork(wide.shape[1], 2, 0.1), wide, y, stop=3.0)
    assert any("advance" in name for name in names)


def test_a_long_run_compiles_once():
    """A run of several pieces (more than 500 steps)."""
    with counting_compilations() as names:
        traj = gflow.gradient_flow(
            diagonal(2, 0.1), X, -y, loss=gflow.losses.Exponential(reduction="sum"), stop=2300.0,
            solver=diffrax.Dopri8(scan_kind="lax"),
        )  # fmt: skip
    assert int(traj.stats["steps"]) > 500
    assert len([n for n in names if "advance" in n]) == 1


def betas(scale, **more):
    traj = gflow.gradient_flow(diagonal(2, scale), X, y, save=SAVE, throw=False, **more)
    return traj.model.beta, traj.neg_log_loss, traj.log_time, traj.status_code


@pytest.mark.slow
def test_vmap_map_and_jit_equal_the_loop():
    scales = jnp.array([1e-20, 0.1, 1.0, 30.0])
    loop = [betas(scale) for scale in scales]
    for batched in (jax.lax.map(betas, scales), jax.jit(jax.vmap(betas))(scales)):
        for k, one in enumerate(loop):
            for a, b in zip(batched, one, strict=True):
                np.testing.assert_allclose(a[k], b, rtol=1e-10)


@pytest.mark.slow
def test_one_bad_element_spoils_no_other():
    scales = jnp.array([0.1, jnp.nan, 1.0, 1e200])
    beta, gamma, log_time, code = jax.vmap(betas)(scales)
    for k in (0, 2):
        one = betas(scales[k])
        np.testing.assert_allclose(beta[k], one[0], rtol=1e-10)
        assert int(code[k]) == gflow.Status.success
    for k in (1, 3):
        assert int(code[k]) not in (gflow.Status.success, gflow.Status.running)
        assert np.all(np.isnan(gamma[k])) and np.all(np.isnan(log_time[k]))


@pytest.mark.slow
def test_too_few_steps_under_vmap():
    run = lambda scale: gflow.gradient_flow(diagonal(2, scale), X, y, save=SAVE, throw=False, max_steps=60)
    traj = jax.vmap(run)(jnp.array([1.0, 0.1]))
    assert all("max_steps" in s for s in traj.status) and not np.any(traj.success)
    assert np.all(np.isfinite(traj.neg_log_loss[:, 0])) and np.all(np.isnan(traj.neg_log_loss[:, -1]))


def test_progress_is_shown(capsys, whole):
    seen = []
    gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, progress=True)
    gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, progress=seen.append)
    assert "decades" in capsys.readouterr().err
    np.testing.assert_allclose(seen[-1], 100.0)


@pytest.mark.parametrize("solver", [diffrax.Heun(), diffrax.Midpoint(), diffrax.HalfSolver(diffrax.Euler())])
def test_solvers_without_a_state_of_their_own(solver):
    model = gflow.models.DiagonalNetwork(2, 2, 0.5)
    samples, labels = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.ones(2)
    run = lambda **more: gflow.gradient_flow(model, samples, labels, save=jnp.array([1.0, 5.0]), rtol=1e-4, **more)
    np.testing.assert_allclose(run(solver=solver).log_time, run(solver=diffrax.Dopri8()).log_time, atol=2e-3)
