"""LAPACK in pieces: the numbers and derivatives of jax.numpy, and no wait for ever."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow import lapack


def systems(count, n):
    keys = jax.random.split(jax.random.key(n))
    return jax.random.normal(keys[0], (count, n, n)), jax.random.normal(keys[1], (count, n))


@pytest.mark.parametrize("deals", [True, False])
def test_a_batch_in_pieces_is_the_same(deals, monkeypatch):
    monkeypatch.setattr(lapack, "DEALS", deals)
    A, b = systems(50, 30)
    x = jnp.linalg.solve(A, b[..., None])[..., 0]
    program = jax.make_jaxpr(jax.vmap(lapack.solve))(A, b)
    assert ("scan" in str(program)) == deals
    np.testing.assert_allclose(jax.vmap(lapack.solve)(A, b), x, rtol=1e-10)
    twice = jax.vmap(jax.vmap(lapack.solve))(A.reshape(5, 10, 30, 30), b.reshape(5, 10, 30))
    np.testing.assert_allclose(twice.reshape(50, 30), x, rtol=1e-10)
    one = jax.vmap(lapack.solve, (None, 0))(A[0], b)
    np.testing.assert_allclose(one, jnp.linalg.solve(A[0], b.T).T, rtol=1e-10)
    np.testing.assert_allclose(lapack.solve(A[0], b.T), one.T, rtol=1e-10)
    S = A + jnp.swapaxes(A, 1, 2)
    values, vectors = jax.vmap(lapack.symmetric)(S)
    np.testing.assert_allclose(S @ vectors, vectors * values[:, None], atol=1e-12)
    Q, R = jax.vmap(lapack.orthogonal)(A[:, :, :20])
    assert Q.shape == (50, 30, 30)
    np.testing.assert_allclose(Q @ R, A[:, :, :20], atol=1e-13)


def test_derivatives_in_both_modes():
    A, b = systems(50, 12)
    ours = lambda A, b: jnp.sum(jnp.sin(lapack.solve(A, b)))
    theirs = lambda A, b: jnp.sum(jnp.sin(jnp.linalg.solve(A, b)))
    for k in (0, 1):
        expected = jax.grad(theirs, k)(A[0], b[0])
        np.testing.assert_allclose(jax.grad(ours, k)(A[0], b[0]), expected, atol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(ours, k)(A[0], b[0]), expected, atol=1e-12)
        np.testing.assert_allclose(jax.vmap(jax.grad(ours, k))(A, b)[0], expected, atol=1e-12)


def run(script):
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500, env=environment)


TOGETHER = """
import jax, jax.numpy as jnp
from gflow.lapack import solve
A = jax.random.normal(jax.random.key(0), (3000, 20, 20))
def some(A):
    def body(i, c):
        return sum(solve(A + k * jnp.eye(20), c / jnp.linalg.norm(c)) for k in range(3))
    return jax.lax.fori_loop(0, 30, body, jnp.ones(20))
print("went on", bool(jnp.all(jnp.isfinite(jax.jit(jax.vmap(some))(A)))))
"""


def test_large_batches_at_once_do_not_wait_for_ever():
    """With jnp.linalg.solve of jaxlib 0.10.2 this does not end."""
    done = run(TOGETHER)
    assert done.stdout.strip() == "went on True", done.stderr


METRICS = """
import jax.numpy as jnp, numpy as np, gflow
X, y = gflow.observe.everything(jnp.diag(jnp.linspace(5.0, 1.0, 30)))
model = gflow.models.MatrixFactorization.perturbed(30, 2, 0.1, 0.09)
metrics = {
    "volume": lambda m: jnp.linalg.slogdet(m.product @ m.product.T + jnp.eye(30))[1],
    "other volume": lambda m: jnp.linalg.slogdet(m.product + jnp.eye(30))[1],
    "nuclear norm": gflow.metrics.nuclear_norm,
}
for count in range(400, 412):
    traj = gflow.gradient_flow(
        model, X, y, loss=gflow.losses.Square(), clock=gflow.TimeClock(), save=np.linspace(0.1, 5.0, count), rtol=1e-6,
        metrics=metrics,
    )
print("went on", traj.success)
"""


@pytest.mark.slow
def test_metrics_that_call_lapack_do_not_wait_for_ever():
    """With metrics of all saves in one vmap this ended in one of three runs."""
    done = run(METRICS)
    assert done.stdout.strip() == "went on True", done.stderr
