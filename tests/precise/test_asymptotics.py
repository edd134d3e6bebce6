"""Rates far beyond float64: `gflow.studies.asymptotics`."""

import numpy as np
import pytest

from gflow.studies import asymptotics


def separable(seed, samples, inputs):
    rng = np.random.default_rng(seed)
    X, b = rng.normal(size=(samples, inputs)), rng.normal(size=inputs)
    return (X * np.sign(X @ b)[:, None]).round(3).astype(str).tolist()


def test_the_slope_of_generic_data_is_the_predicted_one():
    ds = asymptotics.excess_decay(separable(3, 3, 6), [1] * 3, depths=[2], decades=[60, 80, 100], digits=20)
    assert float(ds.slope[0, -1]) == pytest.approx(float(ds.predicted_slope), abs=1e-6)
    assert int(ds.digits[0]) >= 20


def test_the_ladder_follows_the_one_over_log_law():
    ds = asymptotics.excess_decay(asymptotics.ladder(12), [1], depths=[2], decades=[25, 50, 100], digits=15)
    product = ds.excess.values[0] * np.array([25.0, 50.0, 100.0])
    # Over a factor of four in log gamma; a power law would change it by many orders of magnitude.
    assert product.max() / product.min() < 1.5


def test_a_multiplier_freezes_to_thirty_digits():
    """Seed 33: a sample leaves the support near mu = 0.2, and its multiplier stays, as on the irreversible path."""
    ds = asymptotics.frozen_multipliers(separable(33, 4, 6), [1] * 4, scales=["100"], mu=["0.1", "0.05", "0.01"])
    assert len({text[:31] for text in ds.multipliers.values[0, :, 0]}) == 1
    assert np.all(ds.change.values[0, :, 1:] > 1e-3) and int(ds.digits[0]) >= 30
    np.testing.assert_allclose(ds.multipliers_float[0], ds.limit, rtol=2e-3)
