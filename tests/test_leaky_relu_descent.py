"""Gradient descent in the span of the samples against plain descent, and what the study draws from it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gflow
from gflow.models import TwoLayerNetwork
from gflow.studies import leaky_relu_descent as study, leaky_relu_span as spans

SAVE = np.array([0.0, 1.0, 7.0, 40.0])


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X, y = spans.mixture(5, 30, rng)
    return (X, y, *spans.glorot(8, 30, rng))


def descend(hidden, output, X, y):
    options = {"loss": gflow.losses.Logistic(), "step": 0.2, "steps": 40, "save": SAVE}
    traj = gflow.gradient_descent(TwoLayerNetwork(hidden, output, study.SLOPE, False), X, y, **options)
    return np.asarray(traj.model.hidden), np.asarray(traj.neg_log_loss)


def test_in_the_span_of_the_samples_descent_is_the_same(problem):
    """d = 30 against n = 5: the same loss, stable rank, and weights but for what never moves."""
    X, y, hidden, output = problem
    span = spans.in_span(hidden, X)
    assert span.inputs.shape == (5, 5) and span.weights.shape == (8, 5)
    plain, loss = descend(hidden, output, X, y)
    reduced, reduced_loss = descend(span.weights, output, span.inputs, y)
    np.testing.assert_allclose(reduced_loss, loss, rtol=1e-12)
    for W, V in zip(plain, reduced, strict=True):
        np.testing.assert_allclose(W @ X.T, V @ span.inputs.T, atol=1e-12)
        s = np.linalg.svd(W, compute_uv=False)
        assert spans.stable_rank(V, span.outside) == pytest.approx(np.sum(s**2) / s[0] ** 2, rel=1e-11)
    ranks = [spans.stable_rank(W, np.zeros((8, 8))) for W in plain]
    assert ranks[-1] < ranks[0] - 0.1


def test_more_samples_than_dimensions(problem):
    _, _, hidden, _ = problem
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 30))
    span = spans.in_span(hidden, X)
    assert span.inputs.shape == (40, 30) and np.max(np.abs(span.outside)) < 1e-25
    np.testing.assert_allclose(span.weights @ span.inputs.T, hidden @ X.T, atol=1e-13)


def test_smooth_activation_has_slopes_between():
    network = spans.SmoothLeakyNetwork(np.ones((1, 1)), np.ones(1), 0.1)
    z = np.linspace(-40, 40, 801)
    values = np.array([float(network(np.array([v]))) for v in z[::20]])
    slopes = np.diff(values) / np.diff(z[::20])
    assert float(network(np.zeros(1))) == 0.0
    assert slopes.min() == pytest.approx(0.1, abs=1e-6) and slopes.max() == pytest.approx(1.0, abs=1e-6)
    assert np.all(np.diff(slopes) > -1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaky_relu", "relu_square_loss"])
def test_notebook(name, tmp_path):
    path = Path(__file__).parents[1] / "notebooks" / f"{name}.py"
    environment = os.environ | {"JAX_ENABLE_X64": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(path.parents[1])}
    done = subprocess.run([sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "does not hold" not in done.stdout and done.stdout
