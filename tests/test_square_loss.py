"""The square loss from tiny initializations: the time to leave the saddle, and the end at rounding level."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.integrate
from common import LOSSES, relative
from oracles import OneSample

import gflow
from gflow.studies.diagonal.interpolation import least_potential, regression

ONE = np.ones((1, 1))
SCALES = [1e-6, 1e-12, 1e-20, 1e-60]
SQUARE = LOSSES["square"]


class Product(eqx.Module):
    """f(x) = u v x. With u = v, p = u v obeys p' = 2 p (y - p)."""

    u: jax.Array
    v: jax.Array

    def __init__(self, scale):
        self.u = self.v = jnp.asarray(scale)

    def __call__(self, x):
        return self.u * self.v * x[0]


class Deep(eqx.Module):
    """f(x) = w_1 ... w_D x from equal weights: p' = D p^(2 - 2/D) (y - p)."""

    w: jax.Array

    def __call__(self, x):
        return jnp.prod(self.w) * x[0]


def logistic_log_time(p, scale, y=1.0):
    """t = log(p (y - p_0) / (p_0 (y - p))) / 2y, p_0 = scale^2."""
    return np.log(
        (np.log(p / y) - np.log1p(-p / y) - 2 * np.log(scale / np.sqrt(y)) + np.log1p(-(scale**2) / y)) / (2 * y)
    )


def gamma_at(p, y=1.0):
    return np.log(2.0) - 2 * np.log(np.abs(y - p))


@pytest.mark.parametrize(
    "eta, solver", [(0.0, None), (0.1, None), (0.0, gflow.LogRadau())], ids=["explicit", "modified", "stiff"]
)
def test_times_keep_their_digits_where_residuals_have_few(eta, solver):
    """At gamma = 55, residuals of 1e-12 are rounded by 1e-4 of themselves."""
    scale, times = 1e-3, np.array([15.0, 20.0, 24.0])
    # q = u v - 1 < 0: (log |q|)' = -(1 + q) (2 + eta q + 2 eta (1 + q)), whose digits do not end.
    slope = lambda t, log_q: -(1 - np.exp(log_q)) * (2 + eta * (2 - 3 * np.exp(log_q)))
    start, exact = [np.log1p(-(scale**2))], dict(method="DOP853", rtol=1e-13, atol=1e-13)
    log_q = scipy.integrate.solve_ivp(slope, (0.0, times[-1]), start, t_eval=times, **exact).y[0]
    gamma = np.log(2.0) - 2 * log_q - np.log1p(eta * (1 - np.exp(log_q)))
    flow = gflow.modified(gflow.gradient_flow, eta) if eta else gflow.gradient_flow
    traj = flow(
        Product(scale), ONE, np.ones(1), loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-9, solver=solver
    )
    np.testing.assert_allclose(np.exp(traj.log_time), times, rtol=1e-9)
    rounding = 2.0**-50 * np.exp(0.5 * gamma)
    # Gamma grows by 4 t; t is good to a few rtol.
    assert np.all(np.abs(traj.neg_log_loss - gamma) <= 4 * times * 5e-9 + 4 * rounding)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-11])
def test_escape_of_a_users_module(scale, rtol):
    p = np.array([0.1, 0.5, 0.999])
    traj = gflow.gradient_flow(Product(scale), ONE, np.ones(1), loss=SQUARE, save=gamma_at(p), rtol=rtol)
    np.testing.assert_allclose(traj.model.u * traj.model.v, p, rtol=max(1e-9, 1e-4 * rtol))
    errors = np.expm1(traj.log_time - logistic_log_time(p, scale))
    assert np.abs(errors).max() < min(1e-6, 10 * rtol) if rtol <= 1e-6 else np.abs(errors).max() < 10 * rtol


@pytest.mark.parametrize("target", [1e-3, 1.0, 200.0])
def test_escape_with_other_targets(target):
    p = np.array([0.1, 0.5, 0.999]) * target
    traj = gflow.gradient_flow(
        Product(1e-20), ONE, np.array([target]), loss=SQUARE, save=gamma_at(p, target), rtol=1e-8
    )
    np.testing.assert_allclose(traj.log_time, logistic_log_time(p, 1e-20, target), rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "solver", [diffrax.Tsit5(), diffrax.Dopri5(), diffrax.Kvaerno5()], ids=lambda s: type(s).__name__
)
def test_escape_with_stock_solvers(scale, solver):
    """Right to 1e-6, or refused; never quietly wrong."""
    p = np.array([0.1, 0.5, 0.999])
    traj = gflow.gradient_flow(
        Product(scale), ONE, np.ones(1), loss=SQUARE, save=gamma_at(p), rtol=1e-8, solver=solver, throw=False
    )
    assert traj.success
    assert np.abs(np.expm1(traj.log_time - logistic_log_time(p, scale))).max() < 1e-6


@pytest.mark.parametrize("scale", SCALES)
def test_plateau_in_time(scale):
    """p(t) is the logistic curve, before, during and after the escape."""
    half = np.exp(logistic_log_time(0.5, scale))
    times = half * np.array([0.5, 0.99, 1.0, 1.5])
    traj = gflow.gradient_flow(
        Product(scale), ONE, np.ones(1), loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-10
    )
    odds = 2 * np.log(scale) - np.log1p(-(scale**2)) + 2 * times
    truth = 1 / (1 + np.exp(-odds))
    # p moves by 2 t dp for a relative error of t: 500 times at scale 1e-60.
    np.testing.assert_allclose(traj.model.u * traj.model.v, truth, rtol=1e-6)


@pytest.mark.parametrize("depth", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in (3, 4))])
@pytest.mark.parametrize("scale", SCALES)
def test_escape_of_the_diagonal_network(depth, scale):
    gammas = gamma_at(np.array([0.1, 0.5, 0.999]))
    model = gflow.models.DiagonalNetwork(1, depth, scale)
    traj = gflow.gradient_flow(model, ONE, np.ones(1), loss=SQUARE, save=gammas, rtol=1e-8)
    truth = OneSample([1.0], depth, scale, "square")
    log_times = np.array([float(truth.log_time(g)) for g in gammas])
    assert np.abs(np.expm1(traj.log_time - log_times)).max() < 1e-7
    assert relative(traj.model.beta, [[float(v) for v in truth.at(g)] for g in gammas]).max() < 1e-8


@pytest.mark.parametrize("scale", [1e-6, 1e-20])
def test_escape_of_a_deep_module(scale):
    """D = 3: t = integral of dp / (3 p^(4/3) (1 - p)), which is that of dq / (q^2 (1 - q^3)) with p = q^3."""
    p = np.array([0.1, 0.5, 0.999])
    traj = gflow.gradient_flow(Deep(jnp.full(3, scale)), ONE, np.ones(1), loss=SQUARE, save=gamma_at(p), rtol=1e-8)
    with mp.workdps(40):
        # 1 / (q^2 (1 - q^3)) = 1 / q^2 + q / (1 - q^3)
        ends = [mp.cbrt(mp.mpf(float(v))) for v in p]
        times = [1 / mp.mpf(scale) - 1 / q + mp.quad(lambda r: r / (1 - r**3), [0, q / 2, q]) for q in ends]
    np.testing.assert_allclose(traj.log_time, [float(mp.log(t)) for t in times], rtol=0, atol=1e-7)


def test_interpolation_down_to_rounding():
    """L falls to the square of rounding, no further, and the message says why."""
    model = gflow.models.DiagonalNetwork(1, 2, 0.1)
    deep = gflow.gradient_flow(model, ONE, np.ones(1), loss=SQUARE, stop=gflow.decades(26.0))
    assert abs(float(deep.final.beta[0]) - 1) < 2e-13
    with pytest.raises(gflow.FlowError, match="residuals are at rounding level") as failure:
        gflow.gradient_flow(model, ONE, np.ones(1), loss=SQUARE, stop=gflow.decades(40.0))
    traj = failure.value.trajectory
    assert not traj.success and traj.neg_log_loss.shape == (1,) and float(traj.neg_log_loss[0]) > gflow.decades(27.0)


def test_start_at_zero_is_refused():
    with pytest.raises(gflow.FlowError, match="cannot leave its start"):
        gflow.gradient_flow(Product(0.0), ONE, np.ones(1), loss=SQUARE, save=gamma_at(np.array([0.1, 0.5, 0.999])))


def test_start_below_float64_is_refused_or_right():
    """scale^2 underflows at 1e-200 for a module in its own parameters; the network in its chart keeps going."""
    gammas = gamma_at(np.array([0.1, 0.5, 0.999]))
    traj = gflow.gradient_flow(Product(1e-200), ONE, np.ones(1), loss=SQUARE, save=gammas, throw=False)
    right = traj.success and np.abs(traj.log_time - logistic_log_time(np.array([0.1, 0.5, 0.999]), 1e-200)).max() < 1e-6
    assert right or not traj.success


@pytest.mark.parametrize(
    "depth, sparse, scale, rtol", [(3, False, 1e-20, 1e-9), (4, True, 1e-20, 1e-10), (4, False, 1e-60, 1e-9)]
)
def test_steep_corners_are_crossed(depth, sparse, scale, rtol):
    """Where a coordinate comes to rest at a saddle the pace jumps, and steps of most sizes have no solution: these runs
    had ended there. From alpha^D = 1e-240 the squares of outputs are below float64, too."""
    X, y = regression(sparse)
    run = gflow.gradient_flow(
        gflow.models.DiagonalNetwork(X.shape[1], depth, scale), X, y, loss=SQUARE, stop=18 * np.log(10), rtol=rtol,
        solver=gflow.LogRadau(),
    )  # fmt: skip
    digits = 15 - round(depth * np.log10(scale))
    limit = np.array(least_potential(X.tolist(), y.tolist(), [scale**depth] * X.shape[1], depth, digits), float)
    assert relative(run.final.beta, limit) < 1e-8
    assert run.stats["steps"] < 600


def test_saddles_are_passed_from_any_scale():
    """At each of them what moves next does so slower by the scale. log t and beta to a loss of e^-41 from 1e-12 are
    those of `gflow.precise.diagonal_flow`, where two solutions agree to 23 digits; from 1e-60 beta is the same."""
    X, y = regression(False)
    run = lambda scale: gflow.gradient_flow(
        gflow.models.DiagonalNetwork(6, 3, scale), X, y, loss=gflow.losses.Square(), stop=41.0, rtol=1e-8,
        solver=gflow.LogRadau(),
    )  # fmt: skip
    early, late = run(1e-12), run(1e-60)
    assert float(early.log_time[-1]) == pytest.approx(29.201521461116306, abs=1e-7)
    np.testing.assert_allclose(late.final.beta, early.final.beta, rtol=1e-8, atol=1e-30)
    np.testing.assert_allclose(X @ late.final.beta, y, rtol=1e-8)
