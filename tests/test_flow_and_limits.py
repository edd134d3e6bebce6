"""The flow tends to the limits that theory names, at the rates that it names."""

import numpy as np
import pytest

import gflow
from gflow import limits


def separable(seed, N=4, d=6):
    r = np.random.default_rng(seed)
    X = r.normal(size=(N, d))
    b = r.normal(size=d)
    return X * np.sign(X @ b)[:, None], np.ones(N)


def beta_over_gamma(X, y, depth, scale, gamma):
    model = gflow.models.DiagonalNetwork(X.shape[1], depth, scale)
    traj = gflow.gradient_flow(model, X, y, stop=gamma, rtol=1e-9)
    return np.asarray(traj.final.beta) / gamma


def gap(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# alpha^depth and mu; seed 33 has a sample that leaves the support (papers: 9.3e-2 and 1.0e-1 away from Q_mu).
@pytest.mark.parametrize("depth, mu, away", [(2, 0.0562, 0.09), pytest.param(3, 0.00562, 0.1, marks=pytest.mark.slow)])
def test_a_sample_leaves_and_the_flow_follows_the_irreversible_path(depth, mu, away):
    X, y = separable(33)
    path = limits.irreversible_path(X, y, mus=[mu], depth=depth)
    q = limits.q_max_margin(X, y, mu=mu, depth=depth)
    assert np.any(path.left)
    gaps, from_q = [], []
    for power in (1e2, 1e4):
        at = beta_over_gamma(X, y, depth, power ** (1 / depth), power / mu)
        gaps.append(gap(at, path.beta[0]))
        from_q.append(gap(at, q.beta))
    assert gaps[1] < 1e-4
    assert 20 < gaps[0] / gaps[1] < 500
    assert min(from_q) > 0.9 * away


@pytest.mark.parametrize("depth", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_on_monotone_data_the_flow_tends_to_q_mu_as_one_over_alpha_to_the_depth(depth):
    X, y = separable(3)
    mu = 0.3
    assert not np.any(limits.irreversible_path(X, y, mus=[mu], depth=depth).left)
    q = limits.q_max_margin(X, y, mu=mu, depth=depth).beta
    gaps = [gap(beta_over_gamma(X, y, depth, power ** (1 / depth), power / mu), q) for power in (1e2, 1e3, 1e4)]
    assert gaps[-1] < 1e-3
    np.testing.assert_allclose(np.log10(np.array(gaps[:-1]) / np.array(gaps[1:])), 1.0, atol=0.15)


def test_kernel_regime_is_the_linear_model_at_equal_loss():
    """gamma = 50 fixed: the gap to the linear model's flow falls as (gamma / alpha^2)^2."""
    X, y = separable(3)
    linear = gflow.gradient_flow(gflow.models.LinearModel(6), X, y, stop=50.0, rtol=1e-10).final.beta / 50.0
    gaps = [gap(beta_over_gamma(X, y, 2, scale, 50.0), linear) for scale in (10.0, 10.0**1.5, 100.0)]
    assert gaps[-1] < 1e-4
    np.testing.assert_allclose(np.log10(np.array(gaps[:-1]) / np.array(gaps[1:])), 2.0, atol=0.3)


def test_rich_regime_tends_to_l1_for_depth_two_and_is_stationary_for_depth_three():
    X, y = separable(3)
    l1 = limits.l1_max_margin(X, y)
    excess = [float(limits.excess_l1(beta_over_gamma(X, y, 2, 0.1, g), l1)) for g in (1e2, 1e4, 1e6)]
    assert excess[0] > excess[1] > excess[2] > 0 and excess[2] < 0.02
    # Coordinates off the support keep a share mu^((D-2)/D) of the stationarity condition.
    residuals = [limits.kkt_residual(beta_over_gamma(X, y, 3, 0.1, g), X, y, depth=3) for g in (1e4, 1e6, 1e8)]
    np.testing.assert_allclose(residuals[:-1] / np.array(residuals[1:]), 100 ** (1 / 3), rtol=0.05)
