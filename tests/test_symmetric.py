"""W = F^T F: positive semidefinite for ever, whatever rounding does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp

import gflow
from gflow.graded import GradedFlow
from gflow.models import MatrixFactorization
from gflow.symmetric import SymmetricChart

SUM = gflow.losses.Square(reduction="sum")
TARGET = np.array([[1.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, -1.0]])


def model_of(F):
    return MatrixFactorization([jnp.asarray(F), jnp.asarray(F.T)])


def start(scale, rows=3, size=3, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(rows, size))


def riccati(F, target, t):
    """e^(Tt) F^T (I + F (integral of 2 e^(2Ts)) F^T)^-1 F e^(Tt), in as many digits as the exponentials take."""
    with mp.workdps(60 + int(4 * t)):
        T, F, t = mp.matrix(target.tolist()), mp.matrix(F.tolist()), mp.mpf(float(t))
        values, V = mp.eigsy(T)
        grown = V * mp.diag([mp.exp(v * t) for v in values]) * V.T
        spent = V * mp.diag([mp.expm1(2 * v * t) / v for v in values]) * V.T
        W = grown * F.T * mp.inverse(mp.eye(F.rows) + F * spent * F.T) * F * grown
        return np.array(W.tolist(), float)


@pytest.mark.parametrize(("scale", "rows"), [(0.1, 3), (1e-12, 5), (1e-3, 2)])
def test_observed_in_full_it_is_the_closed_form(scale, rows):
    """Before: the eigenvalue -2.145 was learned at t = 40, by rounding."""
    F, times = start(scale, rows), np.array([1.0, 5.0, 20.0, 40.0, 200.0])
    X, y = gflow.observe.everything(TARGET)
    traj = gflow.gradient_flow(model_of(F), X, y, loss=SUM, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    assert isinstance(traj.flow.chart, SymmetricChart) and traj.success
    for t, W, below, above in zip(times, traj.model.product, *traj.model.factors, strict=True):
        exact = riccati(F, TARGET, t)
        assert np.max(np.abs(W - exact)) <= 2e-8 * np.max(np.abs(exact))
        assert np.array_equal(below.T, above)


def test_a_positive_target_keeps_its_residual():
    """No eigenvalue is negative: the residual of each stays a coordinate."""
    F = start(0.1)
    X, y = gflow.observe.everything(F.T @ F / 0.01)
    traj = gflow.gradient_flow(model_of(F), X, y, loss=SUM, stop=gflow.decades(20))
    assert traj.success and isinstance(traj.flow, GradedFlow)


def measured(rows, size, seed):
    A = np.random.default_rng(seed).normal(size=(rows, size, size))
    A = A + np.swapaxes(A, 1, 2)
    return A, np.einsum("sij,ij->s", A, TARGET)


@pytest.mark.parametrize("kind", ["flow", "descent"])
def test_symmetric_measurements(kind):
    F, (A, y) = start(1e-6), measured(4, 3, 5)
    if kind == "flow":
        save = np.array([1.0, 5.0, 50.0, 500.0])
        traj = gflow.gradient_flow(model_of(F), A, y, loss=SUM, clock=gflow.TimeClock(), save=save, rtol=1e-8)
    else:
        traj = gflow.gradient_descent(model_of(F), A, y, loss=SUM, step=0.005, steps=40_000, save=[100, 1000, 40_000])
    assert isinstance(traj.flow.chart, SymmetricChart)
    for below, above in zip(*traj.model.factors, strict=True):
        assert np.array_equal(below.T, above)
    values = np.linalg.eigvalsh(np.asarray(traj.model.product[-1]))
    assert values[0] >= -1e-13
    # The flow of F alone, integrated apart.
    if kind == "flow":
        from scipy.integrate import solve_ivp

        def velocity(t, f):
            W = f.reshape(3, 3)
            E = np.einsum("sij,s->ij", A, np.einsum("sij,ij->s", A, W.T @ W) - y)
            return -(W @ E).ravel()

        other = solve_ivp(velocity, (0, 5), F.ravel(), "DOP853", rtol=1e-12, atol=1e-30).y[:, -1].reshape(3, 3)
        np.testing.assert_allclose(traj.model.product[1], other.T @ other, atol=1e-7)


def test_descent_is_that_of_both_factors():
    F = start(0.1)
    X, y = gflow.observe.everything(TARGET)
    traj = gflow.gradient_descent(model_of(F), X, y, loss=SUM, step=0.02, steps=200, save=[50, 200])
    first, second = F, F.T
    for k in range(200):
        E = second @ first - TARGET
        first, second = first - 0.02 * second.T @ E, second - 0.02 * E @ first.T
        if k + 1 in (50, 200):
            row = 0 if k + 1 == 50 else 1
            np.testing.assert_allclose(traj.model.product[row], second @ first, atol=1e-12)


def test_modified_flow_is_that_of_both_factors():
    """Against the same factors told apart by a last bit, which nothing has made grow yet."""
    F, save = start(0.3), np.array([0.2, 1.0])
    X, y = gflow.observe.everything(TARGET)
    apart = MatrixFactorization([jnp.asarray(F), jnp.nextafter(jnp.asarray(F.T), 1.0)])
    flow = lambda model: gflow.modified(gflow.gradient_flow, 0.01)(
        model, X, y, loss=SUM, clock=gflow.TimeClock(), save=save, rtol=1e-10
    )
    one, other = flow(model_of(F)), flow(apart)
    assert isinstance(one.flow.chart, SymmetricChart) and not isinstance(other.flow.chart, SymmetricChart)
    np.testing.assert_allclose(one.model.product, other.model.product, atol=1e-8)


@pytest.mark.parametrize("change", ["measurements", "factors", "target", "depth"])
def test_what_is_not_symmetric_is_as_before(change):
    F, (A, y) = start(0.1), measured(4, 3, 5)
    model = model_of(F)
    if change == "measurements":
        A = A + np.array([[0.0, 1e-9, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    elif change == "factors":
        model = MatrixFactorization([model.factors[0], jnp.nextafter(model.factors[1], 1.0)])
    elif change == "depth":
        model = MatrixFactorization([*model.factors, jnp.eye(3)])
    else:
        A, y = gflow.observe.everything(TARGET + np.array([[0.0, 1e-9, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    traj = gflow.gradient_flow(model, A, y, loss=SUM, clock=gflow.TimeClock(), stop=0.1)
    assert not isinstance(traj.flow.chart, SymmetricChart)


def test_resumed_and_under_jit():
    F, (A, y) = start(0.1), measured(4, 3, 5)
    go = lambda **more: gflow.gradient_flow(
        model_of(F), A, y, loss=SUM, clock=gflow.TimeClock(), save=np.array([0.5, 1.0, 2.0]), rtol=1e-9, **more
    )
    whole, half = go(), gflow.gradient_flow(
        model_of(F), A, y, loss=SUM, clock=gflow.TimeClock(), save=np.array([0.5, 1.0]), rtol=1e-9
    )  # fmt: skip
    np.testing.assert_allclose(go(resume=half).model.product[-1], whole.model.product[-1], rtol=1e-8)
    # The model is known to the program: its factors are seen to be transposed.
    product = jax.jit(lambda s: gflow.gradient_flow(
        model_of(F), A, y, loss=SUM, clock=gflow.TimeClock(), stop=s, rtol=1e-9, throw=False
    ).final.product)(2.0)  # fmt: skip
    np.testing.assert_allclose(product, whole.model.product[-1], rtol=1e-7)
