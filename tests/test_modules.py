"""Any Equinox module: networks against the flow as it stands, samples of any shape, static leaves; and minima."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import diagonal, LOSSES, X
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq, minimize
from scipy.special import expi

import gflow

DATA = np.random.default_rng(0).normal(size=(4, 3))
LABELS = np.array([1.0, -1.0, 1.0, -1.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "activation", [jax.nn.gelu, pytest.param(jnp.tanh, marks=pytest.mark.slow)], ids=["gelu", "tanh"]
)
def test_perceptron(activation):
    """theta(t) from diffeqsolve on d theta / dt = -grad L at a tight tolerance; then on to 1e-20."""
    network = eqx.nn.MLP(3, "scalar", 8, 2, activation=activation, key=jax.random.key(0))
    trained, rest = eqx.partition(network, eqx.is_inexact_array)
    start, unravel = ravel_pytree(trained)
    outputs = lambda theta: jax.vmap(eqx.combine(unravel(theta), rest))(jnp.asarray(DATA))
    loss = lambda theta: jnp.mean(jnp.exp(-LABELS * outputs(theta)))
    times = jnp.array([0.5, 2.0, 8.0])
    raw = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, theta, args: -jax.grad(loss)(theta)), diffrax.Dopri8(), 0.0, 8.0, 1e-3, start,
        saveat=diffrax.SaveAt(ts=times), stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-12),
    )  # fmt: skip
    traj = gflow.gradient_flow(network, DATA, LABELS, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    saved = jax.vmap(lambda model: ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0])(
        eqx.filter(traj.model, eqx.is_inexact_array)
    )
    np.testing.assert_allclose(saved, raw.ys, rtol=0, atol=1e-7)
    np.testing.assert_allclose(traj.neg_log_loss, [-np.log(loss(theta)) for theta in raw.ys], rtol=1e-7)
    deep = gflow.gradient_flow(network, DATA, LABELS, stop=gflow.decades(20.0), rtol=1e-6)
    assert deep.success
    f = np.asarray(jax.vmap(deep.final)(jnp.asarray(DATA)))
    np.testing.assert_allclose(-np.log(np.mean(np.exp(-LABELS * f))), gflow.decades(20.0), rtol=1e-10)


class Matrix(eqx.Module):
    """f(A) = <A, W> with a mask of integers and a static exponent, on samples (n, n)."""

    W: jax.Array
    mask: jax.Array
    power: int = eqx.field(static=True)
    name: str = "sensing"

    def __call__(self, A):
        return jnp.sum(A**self.power * self.W * self.mask.astype(float))


def test_samples_of_any_shape_and_leaves_of_any_kind():
    """It is a linear model on the masked entries."""
    A = np.random.default_rng(1).normal(size=(3, 2, 2))
    mask = np.array([[1, 1], [1, 0]])
    model = Matrix(jnp.full((2, 2), 0.1), jnp.asarray(mask), 1)
    traj = gflow.gradient_flow(model, A, np.array([1.0, -1.0, 1.0]), save=np.array([1.0, 10.0]))
    assert traj.model.W.shape == traj.model.mask.shape == (2, 2, 2) and traj.model.name == "sensing"
    assert np.array_equal(traj.model.mask[1], mask) and traj.final.mask.dtype == jnp.asarray(mask).dtype
    assert np.all(traj.model.W[:, 1, 1] == 0.1)
    flat = gflow.gradient_flow(
        gflow.models.LinearModel(np.full(3, 0.1)),
        A.reshape(3, 4)[:, :3],
        np.array([1.0, -1.0, 1.0]),
        save=np.array([1.0, 10.0]),
    )
    np.testing.assert_allclose(np.asarray(traj.model.W).reshape(2, 4)[:, :3], flat.model.beta, rtol=1e-7)
    np.testing.assert_allclose(traj.log_time, flat.log_time, rtol=0, atol=1e-7)


OVERLAP = np.array([[1.0, 0.3, -0.2], [-0.8, 0.1, 1.0], [0.5, -1.0, 0.4], [-0.4, -0.2, -0.9], [-1.0, 0.5, 0.2]])


@pytest.mark.parametrize(
    "model",
    [gflow.models.LinearModel(3), pytest.param(diagonal(2, 0.5), marks=pytest.mark.slow)],
    ids=["linear", "diagonal"],
)
def test_rest_at_the_minimum_of_overlapping_classes(model):
    """In time the flow reaches the minimum of the logistic loss and rests there."""
    objective = lambda b: np.mean(np.logaddexp(0.0, -OVERLAP @ b))
    gradient = lambda b: -OVERLAP.T @ (1 / (1 + np.exp(OVERLAP @ b))) / 5
    best = minimize(objective, np.zeros(3), jac=gradient, method="BFGS", options={"gtol": 1e-12})
    labels = np.ones(5)
    with pytest.raises(ValueError, match="no beta separates the data"):
        gflow.gradient_flow(model, OVERLAP, labels, loss=LOSSES["logistic"], stop=20.0)
    run = lambda **more: gflow.gradient_flow(model, OVERLAP, labels, loss=LOSSES["logistic"], **more)
    traj = run(clock=gflow.TimeClock(), save=np.array([1.0, 1e4, 1e6]))
    assert traj.success
    for row in (1, 2):
        np.testing.assert_allclose(traj.model.beta[row], best.x, atol=1e-6)
    np.testing.assert_allclose(traj.log_time, np.log([1.0, 1e4, 1e6]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(traj.neg_log_loss[1:], -np.log(best.fun), rtol=1e-10)


@pytest.mark.slow
def test_minimum_below_the_certificate():
    """A loss between the minimum and what the certificate excludes: the run says that it cannot fall further."""
    objective = lambda b: np.mean(np.logaddexp(0.0, -OVERLAP @ b))
    best = -np.log(minimize(objective, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).fun)
    stop = best + 1e-3
    with pytest.raises((gflow.FlowError, ValueError), match=r"cannot fall further|no beta separates") as failure:
        gflow.gradient_flow(gflow.models.LinearModel(3), OVERLAP, np.ones(5), loss=LOSSES["logistic"], stop=stop)
    if isinstance(failure.value, gflow.FlowError):
        np.testing.assert_allclose(failure.value.trajectory.neg_log_loss[-1], best, rtol=1e-8)


@pytest.mark.parametrize("model", [gflow.models.LinearModel(3), diagonal(2, 0.1)], ids=["linear", "diagonal"])
def test_rest_at_interpolation(model):
    targets = np.array([1.0, -0.5])
    traj = gflow.gradient_flow(
        model, X, targets, loss=LOSSES["square"], clock=gflow.TimeClock(), save=np.array([1.0, 50.0, 1e5])
    )
    assert traj.success
    np.testing.assert_allclose(X @ np.asarray(traj.final.beta), targets, rtol=1e-12)
    if isinstance(model, gflow.models.LinearModel):
        np.testing.assert_allclose(traj.final.beta, np.linalg.pinv(X) @ targets, rtol=1e-8)
        values, vectors = np.linalg.eigh(X @ X.T / 2)
        early = X.T @ vectors @ (-np.expm1(-values) / values * (vectors.T @ targets)) / 2
        np.testing.assert_allclose(traj.model.beta[0], early, rtol=1e-7)


def test_square_loss_without_interpolation():
    """More samples than features: the loss clock says that the minimum is reached; time rests at least squares."""
    targets = np.arange(5.0)
    best = np.linalg.lstsq(OVERLAP, targets, rcond=None)[0]
    run = lambda **more: gflow.gradient_flow(
        gflow.models.LinearModel(3), OVERLAP, targets, loss=LOSSES["square"], **more
    )
    np.testing.assert_allclose(run(clock=gflow.TimeClock(), stop=1e6).final.beta, best, rtol=1e-6)
    with pytest.raises(gflow.FlowError, match=r"^The loss cannot fall further: the flow reached the minimum over beta"):
        run(stop=20.0)


@pytest.mark.slow
def test_nonlinear_model_that_cannot_reach_its_stop():
    """Two equal samples with opposite labels, and a network: a sentence, not a loop."""
    network = eqx.nn.MLP(3, "scalar", 8, 2, activation=jnp.tanh, key=jax.random.key(0))
    data = np.stack([DATA[0], DATA[0], DATA[1], DATA[2]])
    traj = gflow.gradient_flow(network, data, LABELS, stop=gflow.decades(20.0), rtol=1e-6, max_steps=3000, throw=False)
    assert not traj.success and float(traj.neg_log_loss[-1]) < np.log(2) + 1e-6


class Squares(eqx.Module):
    """sum_k w_k^2 x_k of a vector, and the sum of (w_j . x)^2 over the rows of a matrix."""

    w: jax.Array

    def __call__(self, x):
        return self.w**2 @ x if self.w.ndim == 1 else jnp.sum((self.w @ x) ** 2)


@pytest.mark.parametrize("solver", [None, gflow.LogRadau()], ids=["chosen", "LogRadau"])
@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_what_is_small_keeps_its_digits_beside_what_has_been_learned(kind, solver):
    """Two orthogonal samples, the second learned long after the first. Its output obeys f' = rate f e^-f."""
    scale, x = 1e-20, 0.5
    w, rate = (jnp.ones(2), 2 * x) if kind == "vector" else (jnp.eye(2), 2 * x * x)
    start = x * scale**2 if kind == "vector" else (x * scale) ** 2
    time = np.log(1.0 / start) / rate
    traj = gflow.gradient_flow(
        Squares(scale * w), np.diag([1.0, x]), np.ones(2), clock=gflow.TimeClock(), stop=time, rtol=1e-8, solver=solver
    )
    found = float(traj.final(jnp.array([0.0, x])))
    # Ei(f) - Ei(start) = rate t.
    exact = brentq(lambda f: expi(f) - np.euler_gamma - np.log(start) - rate * time, 0.1, 5.0, xtol=1e-14)
    assert found == pytest.approx(exact, rel=1e-6 if solver is None else 1e-5)
