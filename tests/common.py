"""Data and small helpers of the tests."""

import jax.numpy as jnp
import numpy as np

import gflow

X = np.array([[1.0, 2.0, 0.5], [0.25, -1.0, 2.0]])
y = np.ones(2)
LOSSES = {
    "exponential": gflow.losses.Exponential(),
    "logistic": gflow.losses.Logistic(),
    "square": gflow.losses.Square(),
}


def relative(value, truth):
    """The largest error of each row, relative to the largest entry of the truth."""
    value, truth = np.asarray(value, float), np.asarray(truth, float)
    return np.max(np.abs(value - truth), axis=-1) / np.max(np.abs(truth), axis=-1)


def diagonal(depth, scale, dim=3):
    return gflow.models.DiagonalNetwork(dim, depth, scale)


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(jnp.asarray(a), jnp.asarray(b), strict=True))
