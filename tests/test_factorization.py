"""Models with array output: matrix factorization against closed forms, partly observed targets, and any module."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from mpmath import mp, mpf
from scipy.integrate import solve_ivp

import gflow
from gflow.charts import chart_of
from gflow.flow import Flow
from gflow.graded import graded_flow
from gflow.limits import factorization as closed
from gflow.plateaus import Plateaus
from gflow.status import Status

MF = gflow.models.MatrixFactorization
SQUARE = gflow.losses.Square(reduction="sum")
EIGENVALUES = np.array([2.0, 1.0, 0.5, 0.0, 0.0, 0.0])
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
TARGET = (BASIS * EIGENVALUES) @ BASIS.T


@pytest.mark.parametrize(
    "basis", [BASIS, pytest.param(np.eye(6), marks=pytest.mark.slow)], ids=["rotated", "diagonal"]
)
def test_flow_of_a_matrix_is_that_of_its_eigenvalues(basis):
    """Each eigenvalue to 1e-10 of itself, at rtol 1e-12."""
    times = np.array([4.0, 5.0, 9.0, 12.0])
    X, y = gflow.observe.everything((basis * EIGENVALUES) @ basis.T)
    metrics = {"rank": gflow.metrics.effective_rank, "balance": lambda m: gflow.metrics.balancedness(list(m.factors))}
    traj = gflow.gradient_flow(
        MF.identical(6, 3, 0.1), X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-12, metrics=metrics
    )
    assert traj.model.product.shape == (4, 6, 6)
    p = np.einsum("in,sij,jn->sn", basis, traj.model.product, basis)
    exact = closed.scalar_flow(times[:, None], EIGENVALUES[None], 3, 0.1) ** 3
    np.testing.assert_allclose(p, exact, rtol=1e-10)
    np.testing.assert_allclose(
        traj.metrics["rank"], [1.0832734384, 1.0073088507, 1.2130236237, 1.5088846173], rtol=1e-10
    )
    assert np.max(traj.metrics["balance"]) < 1e-10
    np.testing.assert_allclose(
        traj.neg_log_loss, -np.log(np.sum((exact - EIGENVALUES) ** 2, axis=1) / 2), rtol=1e-10
    )


@pytest.mark.slow
def test_masked_entries_are_as_many_scalar_samples():
    """A factorization whose observed entries are samples <E_ij, W>, and one whose others are masked: one path."""
    rng = np.random.default_rng(1)
    target, seen = rng.normal(size=(3, 2)), np.array([[True, False], [True, True], [False, True]])
    model = MF.gaussian([2, 3, 3], 0.5, jax.random.key(0))
    X, y = gflow.observe.everything(target)
    masked = np.ma.masked_array(y, mask=~seen.T)
    units = np.eye(6).reshape(6, 3, 2)[seen.ravel()]
    run = lambda X, y, loss: gflow.gradient_flow(
        model, X, y, loss=loss, clock=gflow.TimeClock(), save=np.array([0.5, 3.0]), rtol=1e-10
    )
    whole, single = run(X, masked, SQUARE), run(units, target[seen], SQUARE)
    np.testing.assert_allclose(whole.model.product, single.model.product, rtol=1e-8)
    np.testing.assert_allclose(whole.neg_log_loss, single.neg_log_loss, rtol=1e-8)
    # A mean is one over samples, here the two columns of the target.
    stop = float(single.neg_log_loss[1]) + np.log(2)
    mean = gflow.gradient_flow(model, X, masked, loss=gflow.losses.Square(), stop=stop)
    np.testing.assert_allclose(mean.log_time[0], np.log(2 * 3.0), rtol=1e-6)
    down = gflow.gradient_descent(model, X, masked, loss=SQUARE, step=1e-3, steps=3000)
    np.testing.assert_allclose(down.final.product, single.model.product[1], rtol=1e-2)


class Affine(eqx.Module):
    W: jax.Array
    b: jax.Array

    def __call__(self, x):
        return (self.W @ x + self.b).reshape(2, 1)


def test_any_module_with_array_output():
    """Linear regression of two outputs: theta(t) - theta* = e^(-H t) (theta_0 - theta*)."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2, 1))
    model = Affine(jnp.zeros((2, 3)), jnp.ones(2))
    traj = gflow.gradient_flow(
        model, X, y, loss=gflow.losses.Square(), clock=gflow.TimeClock(), save=np.array([1.0, 4.0]), rtol=1e-10
    )
    Z = np.concatenate([X, np.ones((7, 1))], axis=1)
    best = np.linalg.lstsq(Z, y[:, :, 0], rcond=None)[0]
    values, vectors = np.linalg.eigh(Z.T @ Z / 7)
    start = np.array([[0.0, 0.0]] * 3 + [[1.0, 1.0]])
    for row, t in enumerate([1.0, 4.0]):
        theta = best + vectors @ (np.exp(-values * t)[:, None] * (vectors.T @ (start - best)))
        np.testing.assert_allclose(traj.model.W[row], theta[:3].T, rtol=1e-8)
        np.testing.assert_allclose(traj.model.b[row], theta[3], rtol=1e-8)
    # The same at losses so near their minimum that LogRadau has the outputs' Jacobian.
    chart = traj.flow.chart
    J = chart.jacobian(chart.coordinates(), traj.flow.X)
    np.testing.assert_allclose(J, jax.jacfwd(lambda a: chart.outputs(a, traj.flow.X))(chart.coordinates()), atol=1e-14)


def test_initializations():
    A = np.random.default_rng(3).normal(size=(4, 3))
    model = MF.balanced(A, 3, widths=[5, 3])
    assert [W.shape for W in model.factors] == [(5, 3), (3, 5), (4, 3)]
    np.testing.assert_allclose(model.product, A, rtol=1e-12)
    assert gflow.metrics.balancedness(list(model.factors)) < 1e-14
    for product in (np.outer([1.0, -2.0, 0.5], [0.3, 1.1, 0.7]), np.outer([0.1, 0.7, 0.2], [0.1, 0.7, 0.2])):
        # Roots of what rounding leaves of a singular value would be seeds: 1e-17^(1/3).
        assert all(np.linalg.matrix_rank(W, tol=1e-100) == 1 for W in MF.balanced(product, 3).factors)
    gaussian = MF.gaussian([200, 100, 300], 2.0, jax.random.key(0))
    np.testing.assert_allclose([jnp.std(W) for W in gaussian.factors], [2 / 200**0.5, 2 / 100**0.5], rtol=0.02)


def test_a_network_too_narrow_for_its_target_rests_at_the_best_it_can():
    """What it has learned decays below the squares of float64, beside a residual that stays."""
    model = MF.gaussian([3, 2, 2, 3], 0.5, jax.random.key(0))
    X, y = gflow.observe.everything(np.diag([3.0, 2.0, 1.0]))
    loss = gflow.losses.Square(reduction="sum")
    traj = gflow.gradient_flow(model, X, y, loss=loss, clock=gflow.TimeClock(), stop=1e6)
    np.testing.assert_allclose(traj.final.product, np.diag([3.0, 2.0, 0.0]), atol=1e-8)
    np.testing.assert_allclose(traj.neg_log_loss, np.log(2.0), rtol=1e-8)


def test_observations():
    target = gflow.observe.symmetric([3.0, -1.0], 5, jax.random.key(1))
    clean = gflow.observe.measurements(target, 400, jax.random.key(2))
    noisy = gflow.observe.measurements(target, 400, jax.random.key(2), noise=0.1)
    np.testing.assert_allclose(np.std(noisy.y - clean.y), 0.1, rtol=0.1)
    # ||A(T)||^2 is ||T||^2 in expectation.
    np.testing.assert_allclose(np.sum(clean.y**2), 10.0, rtol=0.2)
    X, y = gflow.observe.entries(target, 0.5, jax.random.key(3))
    assert y.count() == 12 and np.all(y.compressed() == np.asarray(target.T)[~y.mask]) and X.shape == (5, 5)


BAD = {
    "shape of y": (
        dict(y=np.zeros((2, 3))),
        "model must map one sample to an array of the shape (3,) that y holds for it, but it returns (2,).",
    ),
    "loss": (dict(loss=gflow.losses.Exponential(), y=np.ones((2, 2))), "X must have shape (N, d) and y shape (N,)"),
    "all masked": (dict(y=np.ma.masked_array(np.ones((2, 2)), mask=True)), "y may be masked where single entries"),
    "masked samples": (
        dict(X=np.ones((2, 2, 2)), y=np.ma.masked_array(np.ones(2), mask=[True, False])),
        "leave out the samples that have no target.",
    ),
    "step size": (dict(eta=-1.0), "eta must be a step size of at least 0, not -1.0."),
    "solver": (dict(eta=0.1, solver=gflow.LogRadau()), "solver must be an explicit Diffrax solver"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    more, message = BAD[name]
    arguments = dict(X=np.eye(2), y=np.eye(2), loss=SQUARE, stop=10.0) | more
    with pytest.raises(ValueError, match=re.escape(message)):
        gflow.gradient_flow(MF.identical(2, 2, 0.1), arguments.pop("X"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MF([np.eye(2), np.ones((2, 3))]), "factors must be matrices of shapes"),
        (lambda: MF.identical(2, 0, 0.1), "depth must be a positive integer, not 0."),
        (lambda: MF.identical(2, 2, 0.0), "scale must be a positive number, not 0.0."),
        (lambda: MF.perturbed(2, 2, 0.1, 0.2), "gap must be below scale, 0.1, not 0.2."),
        (lambda: MF.balanced(np.eye(3), 3, widths=[2, 3]), "widths must hold depth - 1 = 2 integers of at least 3"),
        (lambda: gflow.observe.entries(np.eye(2), 1.5, None), "fraction must be in (0, 1], not 1.5."),
        (lambda: gflow.observe.everything(np.eye(2), noise=0.1), "key must be given with noise"),
        (lambda: gflow.observe.everything(np.eye(2), noise="a"), "noise must be a standard deviation, not 'a'."),
        (lambda: gflow.observe.everything([[np.nan]]), "target must be finite"),
        (lambda: gflow.observe.everything([[1j]]), "target must hold real numbers"),
        (lambda: gflow.observe.symmetric([1.0], 2.5, jax.random.key(0)), "size must be a positive integer, not 2.5."),
        (lambda: gflow.observe.symmetric([np.nan], 2, jax.random.key(0)), "eigenvalues must be finite"),
        (lambda: gflow.observe.entries(np.eye(2), "a", jax.random.key(0)), "fraction must be in (0, 1], not 'a'."),
        (lambda: MF(None), "factors must be a list of matrices, not None."),
        (lambda: MF([np.eye(2) * 1j]), "factors must hold real numbers"),
        (lambda: MF.identical(2, 2, "a"), "scale must be a positive number, not 'a'."),
        (lambda: MF.gaussian(3, 0.1, jax.random.key(0)), "sizes must be a list of positive integers, not 3."),
        (lambda: MF.balanced(np.eye(2), 2, widths=3), "widths must be a list of positive integers, not 3."),
        (lambda: gflow.observe.everything(np.ma.masked_array(np.eye(2), mask=np.eye(2))), "target must not be masked"),
        (lambda: gflow.observe.entries(np.eye(2), True, jax.random.key(0)), "fraction must be in (0, 1], not True."),
        (lambda: gflow.modified(gflow.gradient_flow, "a"), "eta must be a step size of at least 0, not 'a'."),
        (lambda: closed.step_bound(1.0, 3, 0.1, "a"), "gap must be between 0 and scale, 0.1, not 'a'."),
        (lambda: closed.rank_interval(["a"], 1, 3, 0.1), "eigenvalues must"),
        (lambda: closed.rank_interval([2.0, 1.0], 1, 3, 0.1, leak="a"), "leak must be a positive number, not 'a'."),
        (lambda: closed.rank_interval([2.0, 1.0], 1, 3, 0.1, leak=3.0), "leak must be below the largest eigenvalue"),
        (lambda: MF.gaussian([3, 3], 0.1, 0), "key must be a key such as jax.random.key(0), not 0."),
        (lambda: gflow.modified(gflow.gradient_descent, 0.1), "flow must be gflow.gradient_flow"),
        (lambda: gflow.modified(gflow.gradient_flow, None), "eta must be a step size of at least 0, not None."),
    ],
)
def test_bad_construction(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("time, target, depth, scale", [
    (1e20, 0.001, 3, 1e-30), (1.5e39, 1.0, 4, 1e-20), (1.0, -1.0, 3, 1e-30), (1e-5, 1.0, 3, 1e20),
    (10.0, 1e-40, 2, 0.5),
])  # fmt: skip
def test_closed_forms_far_from_the_limit(time, target, depth, scale):
    value = gflow.limits.factorization.scalar_flow(time, target, depth, scale, digits=60)
    back = gflow.limits.factorization.scalar_time(value, target, depth, scale, digits=30)
    np.testing.assert_allclose(float(back / time), 1.0, rtol=1e-14)


def test_closed_forms_at_the_limit():
    limits = np.array([10.0, 32 ** (1 / 3)])
    values = gflow.limits.factorization.scalar_flow([1.0, 2.0], [1000.0, 32.0], 3, limits)
    np.testing.assert_allclose(values, limits, rtol=1e-15)
    np.testing.assert_allclose(gflow.limits.factorization.scalar_flow(10.0, 1e-40, 2, 0.5), 24**-0.5, rtol=1e-15)
    assert gflow.limits.factorization.perturbed_flow(1.0, -1.0, 2, 0.0, 0.0) == 0.0
    # It starts at the stationary point, 0.25 (0.25^2 + 2^2 - 0.25^2)^(2/2) = 1.
    assert gflow.limits.factorization.perturbed_flow(1.0, 1.0, 3, 0.25, 2.0) == 1.0


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda f: f.scalar_time(0.5, 1.0, 3, -0.1), "scale must be positive, not -0.1."),
        (lambda f: f.learning_time(1.0, 3, 0.0), "scale must be positive, not 0.0."),
        (lambda f: f.perturbed_flow(-1.0, 1.0, 2, 0.1, 0.2), "time must not be negative, not -1.0."),
        (lambda f: f.perturbed_flow(-1.0, 1.0, 3, 0.1, 0.2), "time must not be negative, not -1.0."),
        (lambda f: f.rank_interval([10, 5, 1], 1.5, 3, 0.01), "rank must be a positive integer, not 1.5."),
        (lambda f: f.rank_interval([10, 5, 1], 1, 3, 0.01, miss=2), "miss must be in (0, 1), not 2."),
        (lambda f: f.step_bound("a", 2, 0.1), "target must hold numbers, not 'a'."),
    ],
)
def test_bad_input_of_closed_forms(ask, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(gflow.limits.factorization)


# Saddles. Random factors N = 2 of size 2 in a basis that is not that of the target.

TURN = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])


def escape(scale, eigenvalues, times, throw=True):
    model = MF.gaussian([2, 2, 2], scale, jax.random.key(1))
    X, y = gflow.observe.everything((TURN * eigenvalues) @ TURN.T)
    return model, gflow.gradient_flow(
        model, X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-9, throw=throw
    )


def test_two_saddles_from_1e_30():
    """w_i = (w_1i + w_2i) / 2 grows like e^(lambda_i t); of the second, what is orthogonal to the first goes on growing
    when that is learned, and each |w_i|^2 ends in a logistic curve. What this leaves out is as small as the scale."""
    times = np.array([33.0, 36.0, 60.0, 70.0, 80.0])
    model, traj = escape(1e-30, [2.0, 1.0], times)
    first, second = (np.asarray(W) for W in model.factors)
    w = (first @ TURN + (TURN.T @ second).T) / 2
    hidden = np.linalg.qr(w)[0]
    grown = np.diag(hidden.T @ w) ** 2
    exact = EIGENVALUES[:2] / (1 + (EIGENVALUES[:2] / grown - 1) * np.exp(-2 * EIGENVALUES[:2] * times[:, None]))
    p = np.einsum("in,sij,jn->sn", TURN, traj.model.product, TURN)
    np.testing.assert_allclose(p[:, 0], exact[:, 0], rtol=1e-8)
    np.testing.assert_allclose(p[2:, 1], exact[2:, 1], rtol=1e-6)
    np.testing.assert_allclose(p[3:, 1], exact[3:, 1], rtol=1e-8)
    # The loss is that of the factors, small or not.
    loss = np.sum((np.asarray(traj.model.product) - (TURN * [2, 1]) @ TURN.T) ** 2, axis=(1, 2)) / 2
    np.testing.assert_allclose(traj.neg_log_loss, -np.log(loss), rtol=1e-6)


def _with_zero_column(W):
    return jnp.append(W, jnp.zeros((W.shape[0], 1)), axis=1)


def extended(model, target, times, dt=0.004):
    """Runge and Kutta's method at 64 bits of mantissa."""
    W, V = (np.asarray(f).astype(np.longdouble) for f in model.factors)
    target, t, out = target.astype(np.longdouble), 0.0, []
    rate = lambda W, V: (V.T @ (target - V @ W), (target - V @ W) @ W.T)
    for end in times:
        n = int(np.ceil((end - t) / dt))
        h = np.longdouble((end - t) / n)
        for _ in range(n):
            a, b = rate(W, V)
            c, d = rate(W + h / 2 * a, V + h / 2 * b)
            e, f = rate(W + h / 2 * c, V + h / 2 * d)
            g, k = rate(W + h * e, V + h * f)
            W, V = W + h / 6 * (a + 2 * c + 2 * e + g), V + h / 6 * (b + 2 * d + 2 * f + k)
        t = end
        out.append((V @ W).astype(float))
    return out


def test_two_saddles():
    """The second is left after a plateau on which its direction is 1e-8 of the first."""
    times = np.log(1e16) * np.array([0.4, 0.55, 0.95, 1.05, 1.2]) + 1
    model, traj = escape(1e-16, [2.0, 1.0], times)
    np.testing.assert_allclose(traj.model.product, extended(model, (TURN * [2, 1]) @ TURN.T, times), atol=1e-7)


def test_rounding_on_plateaus_is_told():
    """b = 1e-8, grown by e^3 since the fast motion ended, t = 30: log t is shifted by eps / (1e-8 / e^3) / 30."""
    time, b, begin = np.linspace(1.0, 40.0, 400), 1e-8, 10.0
    lowest = begin + 0.2 * (3.0 - np.log(b))
    speed = np.where(time < begin, 1.0, np.exp(-4 * (time - begin)) + b * np.exp(time - lowest))
    for rtol, told in ((1e-9, True), (1e-6, False)):
        plateaus, ends = Plateaus.none(), []
        for t0, t1, v in zip(time, time[1:], speed, strict=False):
            step = np.log(t0), np.log(t1), v * (t1 - t0), rtol
            plateaus, seeded = plateaus.passing(*(jnp.asarray(number) for number in step))
            ends += [t1] if seeded else []
        # From where the speed has grown by a thousand, and not where it falls.
        assert (12.0 < ends[0] < 30.0) if told else not ends


@pytest.mark.slow
@pytest.mark.parametrize("start", ["measurements", "masked", "traced"])
def test_turned_factors_pass_the_saddles(start):
    """Where the basis of the target is not known: learning times of both values from 1e-12 to 1e-30, as where it is."""
    target = (TURN * [2.0, 1.0]) @ TURN.T
    X, y = gflow.observe.everything(target)
    half = -np.log(0.5**2 / 2)
    save = jnp.array([-np.log((1 + 1) / 2) + 1e-3, half])
    run = lambda X, y, scale, **more: gflow.gradient_flow(
        MF.gaussian([2, 2, 2], scale, jax.random.key(1)), X, y, loss=SQUARE, save=save, throw=False, **more
    )
    units = np.eye(4).reshape(4, 2, 2)
    if start == "measurements":
        plain = lambda scale: run(units, target.ravel(), scale)
    elif start == "masked":
        # A column more, of which nothing is observed.
        wide = np.ma.masked_array(np.append(y, [[9.0, 9.0]], axis=0), mask=[[False] * 2] * 2 + [[True] * 2])
        pad = lambda scale: eqx.tree_at(
            lambda m: m.factors[0], MF.gaussian([2, 2, 2], scale, jax.random.key(1)), replace_fn=_with_zero_column
        )
        plain = lambda scale: gflow.gradient_flow(pad(scale), jnp.eye(3), wide, loss=SQUARE, save=save, throw=False)
    else:
        plain = jax.jit(lambda scale, y=y: (lambda t: (t.status_code, t.log_time))(run(X, y * scale**0, scale)))
        codes, times = jax.vmap(plain)(jnp.array([1e-12, 1e-24, 1e-30]))
        assert codes.tolist() == [Status.success] * 3
        for scale, time in zip((1e-12, 1e-24, 1e-30), times, strict=True):
            np.testing.assert_allclose(time, run(X, y, scale, rtol=1e-10).log_time, atol=1e-7)
        return
    for scale in (1e-12, 1e-24, 1e-30):
        traj = plain(scale)
        assert traj.success
        np.testing.assert_allclose(traj.log_time, run(X, y, scale, rtol=1e-10).log_time, atol=1e-7)


SENSED = [
    [4.96251277149, 0, 0],
    [5.64818558776, 2.08006680359, 0],
    [5.98594518095, 2.30173977626, 1.75364393717e-07],
    [5.77623944683, 1.77101434825, 0.798452525014],
]


@pytest.mark.slow
def test_sensing_does_not_depend_on_the_basis_of_the_hidden_space():
    """W1 -> Q W1, W2 -> W2 Q^T is the same flow. From 1e-30 three values are learned in turn, of which rounding of the
    first would seed the others. The products were computed by Taylor series of order 28 in 72 digits."""
    target = gflow.observe.symmetric([5.0, 2.0, 1.0], 4, jax.random.key(0))
    X, y = gflow.observe.measurements(target, 14, jax.random.key(9))
    first, second = MF.gaussian([4, 4, 4], 1e-30, jax.random.key(1)).factors
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    times = np.array([20.0, 40.0, 60.0, 85.0])
    for turn in (np.eye(4), Q):
        model = MF([turn @ first, second @ turn.T])
        traj = gflow.gradient_flow(model, X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-8)
        values = np.linalg.svd(traj.model.product, compute_uv=False)[:, :3]
        np.testing.assert_allclose(values, SENSED, atol=1e-8)
        # Factors come back in the basis that they were given in.
        np.testing.assert_allclose(traj.model.product, np.asarray(traj.model.factors[1]) @ traj.model.factors[0])




COMPLETED = [
    [9.7818225743667, 0, 0],
    [15.1534547162804, 5.147419912170523e-08, 0],
    [16.3881029302588, 1.2554460935361, 0],
    [16.4023301201665, 1.2572566453102, 0],
]


def test_completion_passes_the_saddles():
    """What has been learned does not fit the target on a plateau: only pulls that cancel hold it, to rounding, beside
    which the next value grows from 1e-30. Taylor series of order 40 in 90 digits."""
    target = gflow.observe.symmetric([5.0, 2.0, 1.0], 3, jax.random.key(0))
    mask = np.zeros((3, 3), bool)
    mask[0, 2] = mask[1, 0] = True
    model = MF.gaussian([3, 3, 3], 1e-30, jax.random.key(1))
    times = np.array([20.0, 40.0, 60.0, 90.0])
    traj = gflow.gradient_flow(
        model, np.eye(3), np.ma.masked_array(target.T, mask.T), loss=SQUARE, clock=gflow.TimeClock(), save=times
    )
    assert int(traj.stats["steps"]) < 1000
    np.testing.assert_allclose(np.linalg.svd(traj.model.product, compute_uv=False), COMPLETED, atol=1e-6)


@pytest.mark.slow
def test_full_observation_by_orthogonal_samples():
    """Samples c Q, whitened data among them, are the flow of X = I in the time c^2 t; as means of samples too."""
    target = np.random.default_rng(0).normal(size=(2, 3))
    model = MF.gaussian([3, 3, 2], 1e-25, jax.random.key(0))
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 3)))[0]
    save = np.array([10.0, 20.0, 60.0])
    run = lambda X, times, loss: gflow.gradient_flow(
        model, X, X @ target.T, loss=loss, clock=gflow.TimeClock(), save=times
    )
    plain = run(np.eye(3), save, SQUARE)
    for gain, X, loss in ((-2.0, -2 * Q, SQUARE), (2.0, 2 * Q, gflow.losses.Square())):
        share = 1 if loss is SQUARE else len(X)
        traj = run(X, save * share / gain**2, loss)
        np.testing.assert_allclose(traj.model.product, plain.model.product, atol=1e-7)
        early = slice(0, 2)
        expected = plain.neg_log_loss[early] + np.log(share / gain**2)
        np.testing.assert_allclose(traj.neg_log_loss[early], expected, atol=1e-6)


@pytest.mark.slow
def test_a_run_that_is_used_up_on_a_plateau_says_so():
    X, y = gflow.observe.everything((TURN * [2, 1]) @ TURN.T)
    model = MF.gaussian([2] * 3, 1e-30, jax.random.key(2))
    traj = gflow.gradient_flow(
        model, X, y, loss=SQUARE, clock=gflow.TimeClock(), stop=90.0, max_steps=20, throw=False
    )
    assert int(traj.status_code) == Status.slow and "plateau" in traj.status
    onward = gflow.gradient_flow(model, X, y, loss=SQUARE, clock=gflow.TimeClock(), stop=90.0, resume=traj)
    np.testing.assert_allclose(np.linalg.svd(onward.final.product, compute_uv=False), [2, 1], rtol=1e-10)


@pytest.mark.slow
def test_saddles_of_depth_three():
    """Times are 1 / scale times a constant; on plateaus too long for float64 the run says so."""
    X, y = gflow.observe.everything((TURN * [2, 1]) @ TURN.T)
    half = -np.log(0.5**2 / 2)
    learned = []
    for scale in (1e-6, 1e-10, 1e-13, 1e-16):
        model = MF.gaussian([2] * 4, scale, jax.random.key(2))
        traj = gflow.gradient_flow(model, X, y, loss=SQUARE, stop=half, rtol=1e-10)
        learned.append(np.exp(traj.log_time[0]) * scale)
        np.testing.assert_allclose(np.linalg.svd(traj.final.product, compute_uv=False), [2, 0.5], rtol=1e-9)
    np.testing.assert_allclose(learned[0], learned[1], rtol=1e-4)
    np.testing.assert_allclose(learned[1], learned[2:], rtol=1e-8)
    model = MF.gaussian([2] * 4, 1e-30, jax.random.key(2))
    traj = gflow.gradient_flow(
        model, X, y, loss=SQUARE, clock=gflow.TimeClock(), save=[5e29, 3e30, 4e30], rtol=1e-10, throw=False
    )
    assert "plateau between saddles" in traj.status and traj.neg_log_loss.shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("sizes, seed, scale", [([3, 4, 4, 4, 3], 5, 0.01), ([3, 4, 4, 4, 3], 6, 0.001)])
def test_hidden_units_that_change_places(sizes, seed, scale):
    """Of four factors, units that are yet to be learned grow past each other, and one of a space of four has no part
    in the layer below: against LSODA on the plain factors."""
    singular, (U, _, Vt) = np.array([2.0, 1.0]), np.linalg.svd(np.random.default_rng(1).normal(size=(3, 3)))
    target = (U[:, :2] * singular) @ Vt[:2]
    model = MF.gaussian(sizes, scale, jax.random.key(seed))
    times = np.array([0.2, 0.5, 1.0, 1.3, 1.5, 1.7, 4.0]) / scale**2
    X, y = gflow.observe.everything(target)
    traj = gflow.gradient_flow(model, X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    theta, unravel = ravel_pytree(model)
    grad = jax.jit(jax.grad(lambda v: 0.5 * jnp.sum((unravel(v).product - target) ** 2)))
    plain = solve_ivp(
        lambda t, v: -np.asarray(grad(v)), (0, times[-1]), np.asarray(theta), "LSODA", times, rtol=1e-11, atol=1e-18
    )
    products = [unravel(jnp.asarray(v)).product for v in plain.y.T]
    np.testing.assert_allclose(traj.model.product, np.array(products), atol=1e-7)


@pytest.mark.slow
def test_graded_coordinates_are_the_same_factors():
    """Rectangular factors, and derivatives through the turns."""
    model = MF.gaussian([3, 4, 2, 5], 0.7, jax.random.key(0))
    X, y = gflow.observe.everything(np.random.default_rng(0).normal(size=(5, 3)))
    flow = graded_flow(model, X, jnp.ravel(y), SQUARE, None)
    chart = flow.chart
    plain = Flow(chart_of(model, X, jnp.ravel(y), SQUARE), X, jnp.ravel(y), SQUARE)

    @jax.jit
    def both(c):
        factors = MF([c * W for W in model.factors])
        a = eqx.tree_at(lambda f: f.template, chart, factors).coordinates()
        tidied, moved = chart.tidied(a, a[None])
        back = chart.at(tidied)
        # Rates turn as factors do; the last ones are made to agree with the residual besides.
        carried = [v - w for v, w in zip(chart.factors(moved[0]), chart.factors(tidied), strict=True)]
        ends = flow.gamma(a), plain.gamma(plain.chart.coordinates())
        return chart.factors(a), carried, back.factors, back.product, *ends

    (G, carried, factors, product, graded, exact), slopes = jax.jvp(both, (1.0,), (1.0,))
    for W, back in zip(model.factors, factors, strict=True):
        np.testing.assert_allclose(back, W, atol=1e-14)
    assert all(np.all(np.tril(W, -1) == 0) for W in G[1:-1])
    np.testing.assert_allclose(graded, exact, rtol=1e-13)
    assert max(float(jnp.max(jnp.abs(d))) for d in carried) < 1e-12
    np.testing.assert_allclose(slopes[3], 3 * product, atol=1e-12)
    assert graded_flow(model, X * jnp.array([[1.0, 2.0, 1.0]]), jnp.ravel(y), SQUARE, None) is None
    assert graded_flow(model, 0 * X, 0 * jnp.ravel(y), SQUARE, None) is None
    # What no matrix fits is not in the residual of any.
    twice = np.append(X, X, axis=0), np.append(y, y + 1)
    assert graded_flow(model, jnp.asarray(twice[0]), twice[1], SQUARE, None) is None


NEAR_SADDLE = {"completion": 1e-14, "full": 1e-14, "a copy": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["completion", pytest.param("full", marks=pytest.mark.slow), "a copy"])
def test_what_is_yet_to_be_learned_is_found_in_what_has_been(kind):
    """A unit of 1e-14 in the same entries as one that has been learned: float64 holds it, though not when turned in
    float64. And a unit that is an exact copy of another holds nothing that could be learned."""
    angle, small = 0.7, NEAR_SADDLE[kind]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = np.diag([2.0, 1.0, 0.0])
    if kind == "a copy":
        # Of numbers whose products are exact.
        factors = [np.array([[1.0, 0.0, 0.0]] * 2), np.array([[0.75, 0.75], [0.0, 0.0], [0.0, 0.0]])]
    else:
        units = np.diag([1.25, small])
        factors = [turn @ units @ np.eye(3)[:2], np.eye(3)[:, :2] @ units @ turn.T]
    X, y = gflow.observe.everything(target)
    if kind != "full":
        y = np.ma.masked_array(y, mask=np.zeros((3, 3), bool))
        y[2, 0] = np.ma.masked
    times = np.array([5.0, 28.0, 31.0, 40.0])
    traj = gflow.gradient_flow(MF(factors), X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    product = np.asarray(traj.model.product)
    if kind == "a copy":
        np.testing.assert_allclose(product[-1], np.diag([2.0, 0.0, 0.0]), atol=1e-12)
        return
    exact = in_many_digits(factors, target, np.ones((3, 3)) if kind == "full" else ~np.ma.getmaskarray(y).T, times)
    np.testing.assert_allclose(product, exact, atol=1e-7)
    assert exact[1, 1, 1] < 0.1 and exact[-1, 1, 1] > 0.9


def in_many_digits(factors, target, observed, times, dps=40, dt=0.125, order=16):
    """Taylor series of W' = V^T R, V' = R W^T, R = observed (target - V W)."""
    number = np.vectorize(mpf, otypes=[object])
    with mp.workdps(dps):
        W, V = (number(np.asarray(f)) for f in factors)
        target, observed = number(target), number(np.asarray(observed, float))
        t, out = 0.0, []
        for end in times:
            steps = round((end - t) / dt)
            for _ in range(steps):
                a, b, r = [W], [V], []
                for k in range(order):
                    product = sum(b[i] @ a[k - i] for i in range(k + 1))
                    r.append(observed * ((target if k == 0 else 0 * target) - product))
                    a.append(sum(b[i].T @ r[k - i] for i in range(k + 1)) / (k + 1))
                    b.append(sum(r[i] @ a[k - i].T for i in range(k + 1)) / (k + 1))
                h = mpf(end - t) / steps
                W, V = (sum(c * h**k for k, c in enumerate(series)) for series in (a, b))
            t = end
            out.append((V @ W).astype(float))
    return np.array(out)


@pytest.mark.parametrize("depth", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "loss", [SQUARE, pytest.param(gflow.losses.Square(), marks=pytest.mark.slow)], ids=["sum", "mean"]
)
def test_negative_eigenvalues_are_never_learned_from_equal_factors(depth, loss):
    target = np.array([[1.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    values, vectors = np.linalg.eigh(target)
    X, y = gflow.observe.everything(target)
    model, times = MF.identical(3, depth, 0.1), np.array([5.0, 60.0, 600.0])
    pace = 3.0 if loss.reduction == "mean" else 1.0
    traj = gflow.gradient_flow(model, X, y, loss=loss, clock=gflow.TimeClock(), save=pace * times, rtol=1e-9)
    exact = closed.scalar_flow(times[:, None], values, depth, 0.1) ** depth
    expected = [(vectors * row) @ vectors.T for row in exact]
    np.testing.assert_allclose(traj.model.product, expected, atol=1e-9)
    # The loss of what is lost is that of the closed form.
    left = np.sum((exact - values) ** 2, axis=1) / 2 / pace
    np.testing.assert_allclose(traj.neg_log_loss, -np.log(left), rtol=1e-9)


@pytest.mark.parametrize(
    ("depth", "scale", "gap"),
    [
        (3, 0.3, 0.29),
        pytest.param(2, 0.3, 0.29, marks=pytest.mark.slow),
        pytest.param(4, 0.1, 0.05, marks=pytest.mark.slow),
    ],
)
def test_perturbed_factors_are_their_closed_forms(depth, scale, gap):
    """In coordinates of all entries rounding turned the eigenvectors: wrong by O(1), with success."""
    rng, values = np.random.default_rng(0), np.linspace(2.0, -1.5, 5)
    basis, times = np.linalg.qr(rng.normal(size=(5, 5)))[0], np.array([1.0, 5.0, 20.0, 100.0, 1000.0])
    X, y = gflow.observe.everything((basis * values) @ basis.T)
    model = MF.perturbed(5, depth, scale, gap)
    traj = gflow.gradient_flow(model, X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    found = np.einsum("in,sij,jn->sn", basis, traj.model.product, basis)
    exact = closed.perturbed_flow(times[:, None], values[None], depth, scale - gap, scale)
    np.testing.assert_allclose(found, exact, atol=1e-9)


@pytest.mark.parametrize("start", [0.1, 1e-23])
def test_all_parameters_may_pass_zero_together(start):
    X, y = gflow.observe.everything(-np.eye(2))
    model, times = MF([start * np.eye(2)]), np.array([0.5, 1.0, 3.0, 20.0])
    traj = gflow.gradient_flow(model, X, y, loss=SQUARE, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    exact = (-1 + (1 + start) * np.exp(-times))[:, None, None] * np.eye(2)
    np.testing.assert_allclose(traj.model.product, exact, atol=1e-8)
