"""The field that the benchmark gives to other solvers is the gradient flow, in NumPy and compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import problem
from benchmarks.report import front, seconds_at

X = problem.data()


def _field(depth, scale):
    return problem.NumpyField(problem.Instance(depth, scale, 230.0), X)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_field_is_the_gradient_of_gamma(depth, scale):
    c, g = 0.4 * X[0], 1.7
    # Both parameters of a pair, from c by the conserved quantity.
    mean = np.log(np.cosh((depth - 2) * c)) / (depth - 2) if depth > 2 else np.zeros_like(c)
    u = jnp.asarray(scale * np.exp([mean + c, mean - c]))
    beta = lambda u: u[0] ** depth - u[1] ** depth
    gamma = lambda u: -jax.scipy.special.logsumexp(-X @ beta(u)) + np.log(X.shape[0])
    np.testing.assert_allclose(problem.beta(c, depth, scale), beta(u), rtol=1e-9)
    assert problem.gamma_of(np.asarray(beta(u)), X) == pytest.approx(float(gamma(u)), rel=1e-9, abs=1e-15)
    du = jax.grad(gamma)(u)
    rates = np.asarray(du / u)
    clock = problem.Instance(depth, scale, 230.0).gamma_0 * np.exp(g)
    expected = (rates[0] - rates[1]) / 2 / float(jnp.sum(du**2)) * clock
    np.testing.assert_allclose(_field(depth, scale).field(g, c), expected, rtol=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_jacobian_is_the_derivative(depth):
    field, c, h = _field(depth, 0.5), 0.3 * X[1], 1e-5
    columns = [(field.field(0.5, c + h * e) - field.field(0.5, c - h * e)) / (2 * h) for e in np.eye(c.size)]
    J = field.jacobian(0.5, c)
    np.testing.assert_allclose(J, np.transpose(columns), atol=1e-8 * np.max(np.abs(J)))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_compiled_field_is_the_same(depth):
    pytest.importorskip("numba")
    from benchmarks import compiled

    instance, c = problem.Instance(depth, 0.5, 230.0), 0.3 * X[1]
    p, out, J = compiled.parameters(instance, X), np.empty(c.size), np.empty((c.size, c.size))
    compiled.field(0.5, c, out, p)
    compiled.jacobian(0.5, c, J, p)
    field = problem.NumpyField(instance, X)
    np.testing.assert_allclose(out, field.field(0.5, c), rtol=1e-12)
    np.testing.assert_allclose(J, field.jacobian(0.5, c), rtol=1e-9, atol=1e-12 * np.max(np.abs(J)))


def test_times_are_read_off_the_undominated_runs():
    run = lambda error, seconds: {"outcome": "answer", "error": error, "seconds": seconds}
    runs = [run(1e-4, 1.0), run(1e-8, 4.0), run(1e-5, 9.0), {"outcome": "no answer"}]
    np.testing.assert_array_equal(front(runs), [[1e-8, 4.0], [1e-4, 1.0]])
    assert seconds_at(runs, 1e-6) == pytest.approx(2.0)
    assert seconds_at(runs, 1e-2) == 1.0
    assert seconds_at(runs, 1e-9) is None
