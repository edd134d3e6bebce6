"""Models with kinks that do not declare them: they run, and their status says where the solver chatters."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.charts import chart_of
from gflow.flow import Flow
from gflow.kinks.layer import has_undeclared_kinks
from gflow.models import TwoLayerNetwork


class Plain(eqx.Module):
    W: jax.Array
    a: jax.Array

    def __call__(self, x):
        return self.a @ jax.nn.leaky_relu(self.W @ x, 0.1)


@pytest.mark.parametrize(("seed", "slides"), [(12, True), (4, False)])
def test_a_slide_is_told_of(seed, slides):
    """Tsit5 goes along a kink in 48,000 steps of which one in twenty is rejected: wrong by 9e-4, and nothing was said.
    The other flow crosses a kink and slides along none."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(5, 3)), np.sign(rng.normal(size=5))
    W, a = 0.3 * rng.normal(size=(6, 3)), 0.2 * rng.normal(size=6)
    settings = {"clock": gflow.TimeClock(), "stop": 200.0}
    exact = gflow.gradient_flow(TwoLayerNetwork(W, a), X, y, **settings)
    assert any(event.kind == "slide" for event in exact.events) == slides
    run = gflow.gradient_flow(Plain(jnp.asarray(W), jnp.asarray(a)), X, y, solver=diffrax.Tsit5(), **settings)
    far = np.max(np.abs(run.final.W - exact.final.hidden))
    assert ("chatter" in run.status) == (far > 1e-6) == slides


@pytest.mark.slow
def test_undeclared_kinks_are_told_of():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10, 20)), np.sign(rng.normal(size=10))
    model = TwoLayerNetwork(0.07 * rng.normal(size=(50, 20)), 0.04 * rng.normal(size=50))
    traj = gflow.gradient_flow(Plain(model.hidden, model.output), X, y, stop=3.0, max_steps=1500, throw=False)
    assert "chatter" in traj.status and "max_steps" in traj.status


@pytest.mark.parametrize(
    ("activation", "kinked"),
    [
        (lambda z: z * (0.1 + 0.9 * (z > 0).astype(z.dtype)), True),
        (lambda z: jax.lax.map(lambda u: jax.lax.cond(u > 0, lambda u: u, lambda u: 0.1 * u, u), z), True),
        (lambda z: 0.55 * z + 0.45 * jnp.sqrt(z * z), True),
        (jax.nn.relu, True),
        (jnp.tanh, False),
    ],
    ids=["product", "branches", "root", "relu", "tanh"],
)
def test_undeclared_kinks_are_seen_however_they_are_written(activation, kinked):
    class Plain(eqx.Module):
        W: jax.Array

        def __call__(self, x):
            return jnp.sum(activation(self.W @ x))

    X, y, loss = jnp.eye(3), jnp.ones(3), gflow.losses.Exponential()
    flow = Flow(chart_of(Plain(jnp.ones((2, 3))), X, y, loss, None), X, y, loss)
    assert has_undeclared_kinks(flow) == kinked
