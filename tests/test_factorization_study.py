"""The studies of matrix factorization and of descent against flow."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gflow.studies import discretization, linear_networks, report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep-factorization", "discretization"])
def test_quick_reproduction(name, tmp_path):
    """Every claim holds, and the page is there."""
    claims = report.reproduce(report.load(name), tmp_path, quick=True)
    assert [claim.text for claim in claims if not claim.holds] == []
    assert (tmp_path / f"{name}.html").exists() and len(claims) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name, wanted", [
    ("discretization", lambda told: abs(told["ratio"](told["to_flow"]) - 2) < 0.1
     and abs(told["ratio"](told["to_modified"]) - 4) < 0.3 and np.all(told["to_flow"][-1] < told["bound"])
     and all(0.8 < edge < 1 + 1e-6 for edge, _ in told["at_the_end"][1:])),
    ("deep_factorization", lambda told: told["inside"] > 20 and told["outside"] == 0),
])  # fmt: skip
def test_notebook(name, wanted, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    assert wanted(runpy.run_path(str(Path(__file__).parents[1] / "notebooks" / f"{name}.py")))


def test_bound_along_a_path():
    """e' = m e + 1 with m constant."""
    t = np.linspace(0.0, 2.0, 30)
    found = discretization.accumulated(t, np.full(30, 0.7), np.ones(30))
    np.testing.assert_allclose(found, np.expm1(0.7 * t) / 0.7, rtol=1e-5, atol=1e-12)


def test_kkt_residual_of_directions():
    """Samples on the axes: (1, 1) is the max margin in l2 and in l1; from (1, 0) the residual says so."""
    X, y = np.eye(2), np.ones(2)
    for structure in ("fully connected", "diagonal"):
        assert linear_networks.residual(structure, 2, np.array([1.0, 1.0]), X, y) < 1e-15
        assert linear_networks.residual(structure, 2, np.array([9.0, 1.0]), X, y) > 0.05
    # A filter of one frequency, with margins all equal, and a sample that is that wave.
    wave = np.cos(np.pi * np.arange(4))
    assert abs(linear_networks.residual("convolutional", 2, wave, wave[None], np.ones(1))) < 1e-15
    # Depth 3: (1, 0) and (1, 1) are stationary for one sample, as w_i^2 z_i = w_i there; others are not.
    z = np.array([[1.0, 1.0]])
    for beta in ([1.0, 0.0], [1.0, 1.0]):
        assert abs(linear_networks.residual("diagonal", 3, np.array(beta), z, np.ones(1))) < 1e-15
    assert linear_networks.residual("diagonal", 3, np.array([8.0, 1.0]), z, np.ones(1)) > 0.01
