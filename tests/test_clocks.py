"""Clocks, reductions and save points change what is read off, never the path."""

import numpy as np
import pytest
from common import diagonal, X, y
from hypothesis import given, strategies as st

import gflow

GAMMAS = np.array([0.7, 3.0, 20.0, 60.0])


@given(st.floats(1e-12, 1e12))
def test_inner_coordinates(t):
    np.testing.assert_allclose(gflow.TimeClock().inner(t), np.log(t), rtol=1e-15, atol=1e-15)
    if t < 1e10:
        np.testing.assert_allclose(gflow.LogTimeClock().inner(np.log1p(t)), np.log(t), rtol=1e-12, atol=1e-12)


def test_decades():
    assert gflow.decades(1000) == 1000 * np.log(10) and np.array_equal(
        gflow.decades(np.arange(3.0)), np.log(10) * np.arange(3.0)
    )


@pytest.mark.parametrize(
    "depth, scale", [(2, 1.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 1e-20), (3, 0.1)))]
)
def test_clocks_agree(depth, scale):
    by_loss = gflow.gradient_flow(diagonal(depth, scale), X, y, save=GAMMAS)
    log_t = np.asarray(by_loss.log_time)
    runs = {gflow.LogTimeClock(): np.logaddexp(0.0, log_t), gflow.TimeClock(): np.exp(log_t)}
    for clock, save in runs.items():
        by_time = gflow.gradient_flow(diagonal(depth, scale), X, y, clock=clock, save=save)
        # The same steps: what differs is how a save point is found.
        np.testing.assert_allclose(by_time.neg_log_loss, GAMMAS, rtol=1e-7)
        np.testing.assert_allclose(by_time.model.beta, by_loss.model.beta, rtol=1e-6)
        np.testing.assert_allclose(by_time.log_time, log_t, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_sum_is_the_mean_with_another_zero_and_unit():
    mean = gflow.gradient_flow(diagonal(3, 0.5), X, y, save=GAMMAS)
    loss = gflow.losses.Exponential(reduction="sum")
    total = gflow.gradient_flow(diagonal(3, 0.5), X, y, loss=loss, save=GAMMAS - np.log(2))
    np.testing.assert_allclose(total.model.beta, mean.model.beta, rtol=1e-12)
    np.testing.assert_allclose(total.log_time, np.asarray(mean.log_time) - np.log(2), rtol=0, atol=1e-12)


def test_start_of_a_sum_is_below_zero():
    loss = gflow.losses.Exponential(reduction="sum")
    traj = gflow.gradient_flow(diagonal(3, 0.5), X, y, loss=loss, save=np.array([-0.5, -0.3, 0.1, 2.0]))
    np.testing.assert_allclose(traj.neg_log_loss, [-0.5, -0.3, 0.1, 2.0], rtol=1e-12)


@pytest.mark.parametrize("depth, scale", [(2, 1e-20), pytest.param(3, 1.0, marks=pytest.mark.slow)])
def test_save_points_do_not_change_the_path(depth, scale):
    few = gflow.gradient_flow(diagonal(depth, scale), X, y, stop=60.0)
    many = gflow.gradient_flow(diagonal(depth, scale), X, y, save=np.linspace(0.2, 60.0, 300))
    # The path is what the driver holds, and the final point is found from it in the same way.
    for name in ("state", "h", "gauge"):
        assert np.array_equal(getattr(few.position, name), getattr(many.position, name))
    assert few.stats["steps"] == many.stats["steps"] and few.stats["rejections"] == many.stats["rejections"]
    np.testing.assert_array_equal(few.final.beta, many.final.beta)
    np.testing.assert_allclose(many.neg_log_loss, np.linspace(0.2, 60.0, 300), rtol=1e-12)
    np.testing.assert_allclose(many.neg_log_loss[-1], few.neg_log_loss[-1], rtol=1e-15)
