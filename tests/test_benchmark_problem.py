"""The field that the benchmark gives to other solvers is the flow that gflow integrates."""

import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from benchmarks import problem
from benchmarks.report import front, seconds_at
from gflow.charts import chart_of
from gflow.flow import Flow

X = problem.data()


def _field(depth, scale):
    return problem.NumpyField(problem.Instance(depth, scale, 230.0), X)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_direction_and_clock_are_those_of_the_flow(depth, scale):
    # Both coordinates of a pair, from c by the conserved quantity.
    c = 0.4 * X[0]
    mean = np.log(np.cosh((depth - 2) * c)) / (depth - 2) if depth > 2 else np.zeros_like(c)
    a = jnp.asarray(np.concatenate([mean + c, mean - c]))
    y = jnp.ones(X.shape[0])
    model = gflow.models.DiagonalNetwork(X.shape[1], depth, scale)
    flow = Flow(chart_of(model, X, y, gflow.losses.Exponential()), jnp.asarray(X), y, gflow.losses.Exponential())
    np.testing.assert_allclose(problem.beta(c, depth, scale), flow.chart.readout(a), rtol=1e-12)
    np.testing.assert_allclose(problem.gamma_of(problem.beta(c, depth, scale), X), flow.gamma(a), rtol=1e-9, atol=1e-15)
    rate = flow.rate(a)
    plus, minus = np.split(np.asarray(rate.coordinates), 2)
    g = 1.7
    gamma_rate = problem.Instance(depth, scale, 230.0).gamma_0 * np.exp(g)
    expected = (plus - minus) / 2 / float(rate.gamma) * gamma_rate
    np.testing.assert_allclose(_field(depth, scale).field(g, c), expected, rtol=1e-10)


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
