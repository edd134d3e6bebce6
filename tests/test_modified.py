"""Spectra of the Hessian, and the modified flow of gradient descent."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import diagonal, LOSSES
from jax.flatten_util import ravel_pytree

import gflow
from gflow import metrics

DATA = np.array([[1.0, 2.0, 0.5], [0.25, -1.0, 2.0], [0.3, 0.1, -0.7], [2.0, 0.4, 0.1]])
LABELS = np.array([1.0, 1.0, -1.0, 1.0])
SQUARE = LOSSES["square"]


def dense_hessian(model, loss, y=LABELS):
    trained, rest = eqx.partition(model, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(trained)
    value = lambda a: jnp.exp(-loss.neg_log(jax.vmap(eqx.combine(unravel(a), rest))(jnp.asarray(DATA)), jnp.asarray(y)))
    return np.linalg.eigvalsh(jax.hessian(value)(theta)), float(value(theta))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", "logistic"])
def test_ends_of_the_hessian(name):
    network = eqx.nn.MLP(3, "scalar", 6, 1, activation=jnp.tanh, key=jax.random.key(0))
    exact, value = dense_hessian(network, LOSSES[name])
    ends = metrics.hessian_ends(network, DATA, LABELS, loss=LOSSES[name], rtol=1e-9)
    np.testing.assert_allclose([ends.smallest, ends.largest], exact[[0, -1]], rtol=1e-8, atol=1e-10)
    relative = metrics.sharpness(network, DATA, LABELS, loss=LOSSES[name], relative=True)
    np.testing.assert_allclose(relative, exact[-1] / value, rtol=1e-5)
    few = metrics.sharpness(network, DATA, LABELS, loss=LOSSES[name], iterations=2)
    assert np.isnan(few)


class Weights(eqx.Module):
    u: jax.Array

    def __call__(self, x):
        return (self.u[0] ** 3 - self.u[1] ** 3) @ x


@pytest.mark.slow
def test_diagonal_network_has_the_hessian_of_its_weights():
    model = diagonal(3, 0.7)
    exact, _ = dense_hessian(Weights(model.weights), LOSSES["exponential"])
    ends = metrics.hessian_ends(model, DATA, LABELS, loss=LOSSES["exponential"], rtol=1e-9)
    np.testing.assert_allclose([ends.smallest, ends.largest], exact[[0, -1]], rtol=1e-8)


def test_hessian_far_below_float64():
    """L = e^-m: the Hessian over the loss is x x^T."""
    model = gflow.models.LinearModel(jnp.array([1e5, 0.0]))
    top = metrics.sharpness(model, np.array([[3.0, 4.0]]), np.ones(1), loss=LOSSES["exponential"], relative=True)
    np.testing.assert_allclose(top, 25.0, rtol=1e-9)


def test_spectra_of_matrices():
    W = np.random.default_rng(0).normal(size=(4, 3))
    s = np.linalg.svd(W, compute_uv=False)
    network = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    network = eqx.tree_at(lambda m: m.layers[0].weight, network, jnp.asarray(W))
    of = lambda m: m.layers[0].weight
    np.testing.assert_allclose(metrics.nuclear_norm(network, of=of), s.sum(), rtol=1e-13)
    np.testing.assert_allclose(metrics.effective_rank(network, of=of), s.sum() / s[0], rtol=1e-13)
    np.testing.assert_allclose(metrics.stable_rank(jnp.asarray(W)), np.sum(s**2) / s[0] ** 2, rtol=1e-13)
    with pytest.raises(ValueError, match="of must say which matrix of DiagonalNetwork is meant"):
        metrics.stable_rank(gflow.models.DiagonalNetwork(3, 2, 0.1))
    with pytest.raises(ValueError, match="of must say which matrix of MLP is meant"):
        metrics.stable_rank(network)


@pytest.mark.slow
@pytest.mark.parametrize("network", [
    pytest.param(eqx.nn.MLP(3, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(0)), marks=pytest.mark.slow),
    diagonal(2, 0.5),
], ids=["network", "diagonal"])  # fmt: skip
def test_descent_follows_the_modified_flow_to_second_order(network):
    """Halving the step halves the distance to the flow, and quarters that to the modified flow."""
    read = lambda model: np.asarray(
        model.beta if hasattr(model, "beta") else ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0]
    )
    until = dict(loss=SQUARE, clock=gflow.TimeClock(), stop=2.0, rtol=1e-10)
    flow = read(gflow.gradient_flow(network, DATA, LABELS, **until).final)
    plain, second = [], []
    for steps in (160, 320):
        eta = 2.0 / steps
        down = read(gflow.gradient_descent(network, DATA, LABELS, loss=SQUARE, step=eta, steps=steps).final)
        modified = read(gflow.modified(gflow.gradient_flow, eta)(network, DATA, LABELS, **until).final)
        plain.append(np.linalg.norm(down - flow))
        second.append(np.linalg.norm(down - modified))
    assert 1.9 < plain[0] / plain[1] < 2.1
    assert 3.5 < second[0] / second[1] < 4.4


def test_hessian_along_a_flow():
    """As a metric, on saves with array outputs: the sharpness of a linear layer is that of X^T X / N all along."""
    layer = eqx.nn.Linear(3, 2, use_bias=False, key=jax.random.key(0))
    traj = gflow.gradient_descent(
        layer, DATA, np.zeros((4, 2)), loss=SQUARE, step=0.1, steps=4, save=[0, 4],
        metrics={"sharpness": functools.partial(metrics.sharpness, loss=SQUARE)},
    )  # fmt: skip
    np.testing.assert_allclose(traj.metrics["sharpness"], np.linalg.eigvalsh(DATA.T @ DATA / 4)[-1], rtol=1e-6)


@pytest.mark.slow
def test_modified_flow_from_tiny_factors():
    """The saddles that descent passes, at the same times to O(eta^2)."""
    X, y = gflow.observe.everything(gflow.observe.symmetric([5.0, 2.0], 2, jax.random.key(0)))
    model = gflow.models.MatrixFactorization.gaussian([2, 2, 2], 1e-30, jax.random.key(1))
    loss, off = gflow.losses.Square(reduction="sum"), []
    for eta in (0.01, 0.005):
        save = np.round(np.linspace(10, 40, 121) / eta)
        values = lambda traj: np.linalg.svd(traj.model.product, compute_uv=False)
        down = gflow.gradient_descent(model, X, y, loss=loss, step=eta, steps=int(save[-1]), save=save)
        flow = gflow.modified(gflow.gradient_flow, eta)(
            model, X, y, loss=loss, clock=gflow.TimeClock(), save=save * eta, rtol=1e-9
        )
        assert values(flow)[-1, 1] > 1.9
        off.append(np.max(np.abs(values(flow) - values(down))))
    assert off[1] < 0.3 * off[0] < 0.1


@pytest.mark.slow
def test_a_modified_loss_that_jumps():
    """Where the gradient of a model jumps, so does the modified loss."""
    network = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    run = gflow.modified(gflow.gradient_flow, 0.1)
    with pytest.raises(gflow.FlowError, match=r"modified loss .* jumps"):
        run(network, np.eye(2), np.diag([2.0, 1.0]), loss=SQUARE, clock=gflow.TimeClock(), stop=2.0)
