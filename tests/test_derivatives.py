"""Forward-mode derivatives of the whole call, against closed forms and central differences."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from common import diagonal, LOSSES, X, y
from oracles import OneSample

import gflow

RTOL = 1e-10


def read(traj):
    return jnp.concatenate([traj.final.beta, traj.neg_log_loss[-1:], traj.log_time[-1:]])


def run(scale, data, stop, loss="exponential", clock=gflow.LossClock(), depth=2):  # noqa: B008
    model = gflow.models.DiagonalNetwork(3, depth, scale)
    return read(gflow.gradient_flow(model, data, y, loss=LOSSES[loss], clock=clock, stop=stop, rtol=RTOL))


def differences(f, v, h):
    return (8 * (f(v + h) - f(v - h)) - (f(v + 2 * h) - f(v - 2 * h))) / (12 * h)


@pytest.mark.parametrize(
    "loss, clock, stop, depth",
    [
        pytest.param("exponential", gflow.LossClock(), 20.0, 3, marks=pytest.mark.slow),
        pytest.param("logistic", gflow.LossClock(), 20.0, 2, marks=pytest.mark.slow),
        pytest.param("exponential", gflow.TimeClock(), 20.0, 2, marks=pytest.mark.slow),
    ],
)
def test_against_differences(loss, clock, stop, depth):
    """With respect to scale, stop and a direction of the data, in one forward pass."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=X.shape)

    def f(v):
        return run(v[0], X + v[1] * direction, v[2], loss, clock, depth)

    at = jnp.array([0.3, 0.0, stop])
    jacobian = np.asarray(jax.jit(jax.jacfwd(f))(at))
    for k in range(3):
        by_differences = np.asarray(differences(lambda h, k=k: f(at.at[k].add(h)), 0.0, 1e-3 if k < 2 else 1e-2))
        size = max(np.abs(jacobian[:, k]).max(), 1e-3)
        np.testing.assert_allclose(jacobian[:, k], by_differences, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize(
    "scale, solver",
    [
        (1e-20, diffrax.Dopri8(scan_kind="lax")),
        pytest.param(1e-20, None, marks=pytest.mark.slow),
        pytest.param(0.5, None, marks=pytest.mark.slow),
    ],
)
def test_closed_form(scale, solver):
    """d beta / d log(scale), d log t / d log(scale) and d / d stop on one sample."""
    x = np.array([1.0, -2.0, 0.5])

    def f(log_scale, stop):
        model = gflow.models.DiagonalNetwork(3, 2, jnp.exp(log_scale))
        traj = gflow.gradient_flow(model, x[None], np.ones(1), stop=stop, rtol=RTOL, solver=solver)
        return jnp.append(traj.final.beta, traj.log_time[-1])

    by_scale, by_stop = jax.jacfwd(f, (0, 1))(jnp.log(jnp.asarray(scale)), jnp.asarray(30.0))

    def truth(log_scale, stop):
        flow = OneSample(x, 2, 1.0)
        flow.scale = mp.exp(log_scale)
        margin = flow.margin
        flow.margin = lambda gamma: gamma if isinstance(gamma, mp.mpf) else margin(gamma)
        return [*flow.at(stop), flow.log_time(stop)]

    with mp.workdps(50):
        at, h = (mp.log(mp.mpf(scale)), mp.mpf(30)), mp.mpf(10) ** -6
        for k, jacobian in enumerate((by_scale, by_stop)):
            up, down = ([v + s * h * (j == k) for j, v in enumerate(at)] for s in (1, -1))
            slopes = [float((a - b) / (2 * h)) for a, b in zip(truth(*up), truth(*down), strict=True)]
            np.testing.assert_allclose(jacobian, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_derivative_of_the_landing():
    """gamma at the stop is the stop: d gamma / d stop = 1 and d gamma / d scale = 0; in time, t is the stop."""
    f = lambda v: run(v[0], X, v[1], depth=3)
    jacobian = jax.jacfwd(f)(jnp.array([0.3, 20.0]))
    np.testing.assert_allclose(jacobian[3], [0.0, 1.0], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_jvp_through_a_generic_module():
    def f(factor):
        traj = gflow.gradient_flow(gflow.models.LinearModel(factor * jnp.ones(3)), X, y, stop=20.0, rtol=RTOL)
        return traj.final.beta

    _, slope = jax.jvp(f, (0.2,), (1.0,))
    np.testing.assert_allclose(slope, differences(f, 0.2, 1e-3), rtol=0, atol=1e-6)


def test_failure_inside_a_transformation():
    f = lambda scale: gflow.gradient_flow(diagonal(2, scale), X, y, stop=20.0, max_steps=5).final.beta
    with pytest.raises(Exception, match="did not reach its stop inside a JAX transformation; pass throw=False"):
        jax.block_until_ready(jax.jit(f)(0.3))


class Line(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return self.w @ x


def test_at_rest():
    """A user's least squares comes to rest between the saves: traced as well, and its derivatives are those in time.
    Of three weights one is not seen by the data: it stays as it was."""
    data = jnp.array([[1.0, 2.0, 0.0], [2.0, -1.0, 0.0], [0.5, 1.5, 0.0]])
    targets = jnp.array([0.7, -0.3, 0.4])
    save = jnp.array([1.0, 100.0, 1e4])

    def weights(scale):
        traj = gflow.gradient_flow(
            Line(scale * jnp.array([1.0, -0.5, 2.0])), data, targets,
            loss=gflow.losses.Square(), clock=gflow.TimeClock(), save=save, throw=False,
        )  # fmt: skip
        return traj.model.w, traj.status_code

    least = jnp.append(jnp.linalg.lstsq(data[:, :2], targets)[0], 0.6)
    eager, status = weights(0.3)
    assert status == gflow.Status.success
    (traced, status), (rate, _) = jax.jvp(jax.jit(weights), (0.3,), (1.0,))
    assert status == gflow.Status.success
    for found in (eager, traced):
        np.testing.assert_allclose(found[1:], jnp.stack([least] * 2), rtol=1e-9)
    early = differences(lambda scale: weights(scale)[0][0], 0.3, 1e-3)
    np.testing.assert_allclose(rate, jnp.stack([early, *[jnp.array([0.0, 0.0, 2.0])] * 2]), atol=1e-7)
