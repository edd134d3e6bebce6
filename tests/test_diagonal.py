"""Diagonal networks on several samples: closed form in the dual variable, invariants, the ODE as it stands."""

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from common import diagonal, LOSSES, relative, X, y
from hypothesis import given, settings, strategies as st
from oracles import raw_path, scipy_path

import gflow

GAMMAS = np.array([0.7, 3.0, 20.0, 60.0])
RTOL = 1e-8


def dual(model, depth):
    """nu (S, N) with z = X^T nu, from u_+ and from u_- alone, in 60 digits. The rows of X are independent."""
    with mp.workdps(60):
        log_scale = [mp.mpf(float(v)) for v in np.asarray(model.log_scale)[0]]
        ratios = np.asarray(model.log_ratio)
        pull = np.linalg.pinv(X.T)
        out = []
        for side, sign in ((0, 1), (1, -1)):
            rows = []
            for row in ratios[:, side]:
                if depth == 2:
                    z = [sign * mp.mpf(float(a)) / 2 for a in row]
                else:
                    z = [
                        -sign
                        * mp.expm1((2 - depth) * mp.mpf(float(a)))
                        * mp.exp((2 - depth) * s)
                        / (depth * (depth - 2))
                        for a, s in zip(row, log_scale, strict=True)
                    ]
                rows.append([mp.fsum(mp.mpf(float(p)) * v for p, v in zip(r, z, strict=True)) for r in pull] + z)
            out.append(rows)
        return out


def closed_form(z, depth, scale):
    """beta = alpha^D h_D(w), w = D (D-2) alpha^(D-2) z (w = 4 z for D = 2)."""
    if depth == 2:
        return [2 * scale**2 * mp.sinh(4 * v) for v in z]
    power = mp.mpf(depth) / (depth - 2)
    ws = [depth * (depth - 2) * scale ** (depth - 2) * v for v in z]
    return [scale**depth * ((1 - w) ** -power - (1 + w) ** -power) for w in ws]


@pytest.mark.parametrize("depth", [2, 3, *(pytest.param(d, marks=pytest.mark.slow) for d in (4, 5))])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_closed_form_in_the_dual_variable(depth, scale):
    traj = gflow.gradient_flow(diagonal(depth, scale), X, y, save=GAMMAS, rtol=RTOL)
    assert traj.success
    sizes, count = [], len(y)
    for rows in dual(traj.model, depth):
        nu = np.array([[float(v) for v in row[:count]] for row in rows])
        z = np.array([[float(v) for v in row[count:]] for row in rows])
        # z lies in the row space of X, and nu >= 0 never falls.
        assert relative(nu @ X, z).max() < 10 * RTOL
        assert np.all(nu[0] > 0) and np.all(np.diff(nu, axis=0) >= -10 * RTOL * nu[1:])
        sizes.append(nu)
        # The formula amplifies errors of z beside its pole, so it is compared where both sides use the same digits:
        # u_+ sets z where z > 0 and u_- where z < 0.
    assert relative(sizes[0], sizes[1]).max() < 10 * RTOL
    plus, minus = dual(traj.model, depth)
    for beta, p, m in zip(np.asarray(traj.model.beta), plus, minus, strict=True):
        with mp.workdps(60):
            z = [a if a > 0 else b for a, b in zip(p[count:], m[count:], strict=True)]
            alpha = mp.exp(mp.mpf(float(traj.model.log_scale[0, 0])))
            truth = [float(v) for v in closed_form(z, depth, alpha)]
        assert relative(beta, truth) < 10 * RTOL


@pytest.mark.parametrize("loss", ["exponential", "logistic", "square"])
@pytest.mark.parametrize("depth", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in (3, 4))])
def test_against_scipy(depth, loss):
    """The same path from SciPy's DOP853 on equations written out in oracles.py, at scales far apart."""
    targets = np.array([1.0, -0.5]) if loss == "square" else y
    gammas = np.array([1.3, 3.0, 8.0, 12.0]) if loss == "square" else GAMMAS
    for scale in (1e-6, 0.1, 30.0):
        truth, log_times = scipy_path(X, targets, loss, depth, scale, gammas, rtol=1e-12)
        traj = gflow.gradient_flow(diagonal(depth, scale), X, targets, loss=LOSSES[loss], save=gammas, rtol=RTOL)
        assert relative(traj.model.beta, truth).max() < 10 * RTOL
        assert np.abs(traj.log_time - log_times).max() < 10 * RTOL


@pytest.mark.parametrize("depth", [2, 3, *(pytest.param(d, marks=pytest.mark.slow) for d in (4, 5))])
def test_against_the_ode_in_time(depth):
    """u(t) from du/dt = -grad L as it stands."""
    times = np.array([0.1, 1.0, 10.0, 40.0])
    for scale in (0.3, 1.0):
        traj = gflow.gradient_flow(diagonal(depth, scale), X, y, clock=gflow.TimeClock(), save=times, rtol=1e-9)
        u = raw_path(X, y, "exponential", depth, scale, times)
        np.testing.assert_allclose(traj.model.weights, u, rtol=1e-8)
        np.testing.assert_allclose(traj.log_time, np.log(times), rtol=0, atol=1e-13)


FAST = {(3, 1e-60)}


@pytest.mark.parametrize(
    "depth, scale",
    [
        pytest.param(*case, marks=() if case in FAST else pytest.mark.slow)
        for case in ((depth, scale) for depth in (2, 3, 4, 5) for scale in (1e-60, 1e-3, 1.0, 1e3))
    ],
)
def test_invariants(depth, scale):
    """u_+ u_- = alpha^2 (D = 2), u_+^(2-D) + u_-^(2-D) = 2 alpha^(2-D) (D > 2), along the whole path."""
    traj = gflow.gradient_flow(diagonal(depth, scale), X, y, save=GAMMAS * 38, rtol=RTOL)
    u = np.asarray(traj.model.weights) / scale
    if depth == 2:
        np.testing.assert_allclose(u[:, 0] * u[:, 1], 1.0, rtol=10 * RTOL)
    else:
        np.testing.assert_allclose(np.sum(u ** (2.0 - depth), axis=1), 2.0, rtol=10 * RTOL)


@settings(max_examples=15)
@given(
    st.lists(st.integers(-8, 8), min_size=6, max_size=6).filter(lambda v: any(v[:3]) and any(v[3:])),
    st.floats(-3, 2),
)
def test_any_data(entries, exponent):
    """Whatever the data and the scale: the run arrives with its invariants, or says in a sentence why it does not."""
    data = np.array(entries, float).reshape(2, 3) / 8
    try:
        traj = gflow.gradient_flow(diagonal(3, 10.0**exponent), data, y, save=GAMMAS, rtol=1e-6, throw=False)
    except ValueError as error:
        assert "no beta separates" in str(error)
        return
    assert traj.success, traj.status
    f = np.asarray(traj.model.beta) @ data.T
    np.testing.assert_allclose(-np.log(np.mean(np.exp(-f), axis=1)), GAMMAS, rtol=1e-9)
    u = np.asarray(traj.model.weights) / 10.0**exponent
    np.testing.assert_allclose(np.sum(1 / u, axis=1), 2.0, rtol=1e-5)
    assert np.all(np.diff(np.asarray(traj.log_time)) > 0)


def test_beta_keeps_its_digits():
    """beta = u_+^D - u_-^D from the saved parameters, in 60 digits, where the difference cancels."""
    ratio = np.array([[1e-12, 3e-5, 2.0], [-2e-12, 1e-5, -3.0]])
    for depth, scale in ((2, 1e3), (4, 1e3), (6, 1e-40), (10, 1.0)):
        model = diagonal(depth, scale)
        model = type(model).__new__(type(model))
        object.__setattr__(model, "log_ratio", jnp.asarray(ratio))
        object.__setattr__(model, "log_scale", jnp.log(jnp.full(3, scale)))
        object.__setattr__(model, "depth", depth)
        with mp.workdps(60):
            logs = [[mp.mpf(float(model.log_scale[0])) + mp.mpf(float(a)) for a in side] for side in ratio]
            truth = [float(mp.exp(depth * p) - mp.exp(depth * m)) for p, m in zip(*logs, strict=True)]
        np.testing.assert_allclose(model.beta, truth, rtol=1e-13 * depth * 40)
