"""The studies of networks with kinks: all of their claims, in the quick version; and what wide networks are held
against."""

import numpy as np
import pytest

from gflow.studies import relu_square_norms as norms, report, wide_networks as wide


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaky-relu", "relu-square-loss", "wide-networks"])
def test_claims(name, tmp_path):
    claims = report.reproduce(report.load(name), tmp_path, quick=True)
    assert [claim.text for claim in claims if not claim.holds] == []


def test_a_full_search_finds_no_less_than_a_quick_one(monkeypatch):
    monkeypatch.setattr(norms, "_QUICK", norms._Search(6, 2, 10))
    monkeypatch.setattr(norms, "_FULL", (norms._QUICK, norms._Search(4, 1, 5)))
    monkeypatch.setattr(norms, "_by_flow", lambda X, y: np.nan)
    quick, full = (norms.ratios(short, lambda share: None).ratio for short in (True, False))
    assert np.array_equal(full.sel(d=quick.d)[:, : quick.shape[1]], quick, equal_nan=True)


@pytest.fixture(scope="module")
def samples():
    return wide.clusters()


def test_variation_margin_is_between_its_bounds(samples):
    """Finer grids raise the margin and lower nothing but the gap; any network's margin lies below the bound."""
    X, y = samples
    coarse, fine = (wide.variation_margin(X, y, count) for count in (500, 3000))
    assert coarse.margin < fine.margin < fine.above and fine.margin / fine.above > 0.9
    assert np.sum(np.abs(fine.weights)) == pytest.approx(1.0)
    outputs = np.maximum(X @ fine.directions.T, 0) @ fine.weights
    assert np.min(y * outputs) == pytest.approx(fine.margin, rel=1e-9)
    # Few neurons carry the solution: at most one a sample.
    assert np.count_nonzero(fine.weights) <= len(y)
    with pytest.raises(ValueError, match="no network separates"):
        wide.variation_margin(np.array([[0.1, 0.2, 1.0]] * 2), np.array([1.0, -1.0]), 100)


def test_kernel_is_the_mean_of_features(samples):
    X, y = samples
    features = np.maximum(X @ wide.sphere(40_000).T, 0.0)
    np.testing.assert_allclose(features @ features.T / 40_000, wide.kernel(X, X), rtol=0, atol=1e-5)
    margin, coefficients = wide.kernel_margin(wide.kernel(X, X), y)
    outputs = wide.kernel(X, X) @ coefficients
    assert np.min(y * outputs) == pytest.approx(1.0, abs=1e-6)
    assert 1 / np.sqrt(coefficients @ outputs) == pytest.approx(margin, rel=1e-6)


def test_margin_of_a_network(samples):
    X, y = samples
    model = wide.start(7, 0)
    assert wide.variation(model) == pytest.approx(1.0)
    by_hand = [float(model(x)) for x in X]
    np.testing.assert_allclose(wide.outputs(model, X), by_hand, atol=1e-15)
    assert wide.margin(model, X, y) == pytest.approx(np.min(y * by_hand))
