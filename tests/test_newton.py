"""The parts of LogRadau: its Newton systems agree, tied samples are told apart exactly, one Jacobian serves a step."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import scipy_path, separable
from scipy.integrate import solve_ivp

import gflow
from gflow.solvers.collocation import tableau
from gflow.solvers.newton import in_full, in_samples, Linearized
from gflow.solvers.reduction import reduce_rows


def linearized(s, N, P, diagonal):
    """Random, with the rows of the weights in each sample alone (`diagonal`) or combined."""
    r = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(r.normal(size=shape))
    own = jnp.asarray(r.uniform(0.2, 1.0, size=(s, N)))[..., None] * jnp.eye(N)[None]
    c = normal(s, N)
    return Linearized(
        hA=0.3 * jnp.asarray(tableau(s).A),
        J=normal(s, N, P),
        V=normal(s, N, P),
        pace=jnp.exp(0.3 * normal(s)),
        c=c,
        dc=c,
        miss=normal(s, N),
        by_dual=own if diagonal else own + 0.1 * normal(s, N, N),
        by_gamma=-jnp.ones((s, N)),
        sum_miss=normal(s),
        sum_by_parameter=0.1 * normal(s, P),
        sum_by_dual=jnp.exp(normal(s, N)),
        toward=normal(s, P),
        miss_F=normal(s, P),
        miss_pace=normal(s),
    )


@pytest.mark.parametrize("N, P", [(4, 6), (7, 3)], ids=["N < P", "N > P"])
def test_newton_systems_give_one_update(N, P):
    """In samples, in coordinates with every sample, and with some or all samples eliminated."""
    o = linearized(3, N, P, diagonal=True)
    every = jax.jit(lambda o: (in_samples(o), in_full(o, 0), in_full(o, N - 1), in_full(o, N + 5)))
    one, *others = every(o)
    for other in others:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    # Rows combined among the samples hold several dual variables: no sample can be left out.
    one, _, _, other = every(linearized(3, N, P, diagonal=False))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_tied_rows_are_combined_exactly(seed):
    """On integers T diag(y) X is exact, zero in the dominant columns of all rows but the pivot's."""
    r = np.random.default_rng(seed)
    N, d = 4, 10
    X, y = r.choice([-1.0, 1.0], size=(N, d)), r.choice([-1.0, 1.0], size=N)
    X[:, :2] = y[:, None] * np.array([[2.0, -1.0]])  # ties in the dominant coordinates
    importance = 10.0 ** -np.arange(0, 10 * d, 10)
    o = reduce_rows(jnp.asarray(X), jnp.asarray(y), jnp.asarray(importance), -np.arange(N) * 1.0, jnp.asarray(1e30))
    T, Z = np.asarray(o.T), np.asarray(o.X)
    np.testing.assert_allclose(T @ (y[:, None] * X), Z, rtol=0, atol=1e-12)
    assert np.array_equal(Z == 0, np.abs(T @ (y[:, None] * X)) < 1e-12)
    assert abs(np.linalg.det(T)) == pytest.approx(1.0)
    # Every elimination leaves its column to one row, the later the pivot the less important the column.
    assert np.sum(Z[:, 0] != 0) == 1 and np.linalg.matrix_rank(Z) == np.linalg.matrix_rank(X)
    leading = np.sort([np.flatnonzero(row)[0] if np.any(row) else d for row in Z])
    assert np.all(np.diff(leading[leading < d]) > 0)


def test_duplicates_reduce_to_zero_and_others_stay():
    r = np.random.default_rng(0)
    X = r.normal(size=(4, 6))
    X[2] = X[0]
    weights = jnp.asarray([-1.0, -2.0, -1.5, -1e30])
    o = reduce_rows(jnp.asarray(X), jnp.ones(4), jnp.asarray(r.uniform(size=6)), weights, jnp.asarray(1e20))
    assert np.all(np.asarray(o.X)[2] == 0) and np.any(np.asarray(o.X)[1] != 0)
    np.testing.assert_array_equal(o.T[3], np.eye(4)[3])  # carries no weight
    near = reduce_rows(jnp.asarray(X), jnp.ones(4), jnp.ones(6), jnp.zeros(4), jnp.asarray(100.0))
    np.testing.assert_array_equal(near.T, np.eye(4))


@pytest.mark.parametrize("seed", [0, 15, 100, 206, 257, 310])
def test_duplicates_that_are_eliminated_late_differ_by_exactly_nothing(seed):
    """gamma times what rounding leaves of a zero share, 1e-15, would tell them apart."""
    r = np.random.default_rng(seed)
    X = np.tile(r.normal(size=(4, 10)), (2, 1))
    importance = jnp.asarray(10.0 ** r.uniform(-6, 19, size=10))
    o = reduce_rows(jnp.asarray(X), jnp.ones(8), importance, -jnp.asarray(r.uniform(1, 9, size=8)), jnp.asarray(3e19))
    nothing = np.all(np.asarray(o.X) == 0, axis=1)
    assert np.sum(nothing) == 4
    np.testing.assert_array_equal(np.asarray(o.share)[nothing], 0.0)
    np.testing.assert_allclose(o.T[nothing], np.round(o.T[nothing]), atol=1e-14)


class Full(gflow.LogRadau):
    """Newton systems in the coordinates with `kept` samples, whatever N and P."""

    kept: int = eqx.field(default=0, static=True)

    def _system(self, flow, o):
        return in_full(o, self.kept)


MANY = separable(1, 30, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "depth, kept", [(2, 5), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, None), (3, None), (3, 5)))]
)
def test_more_samples_than_parameters(depth, kept):
    """Against SciPy's DOP853, the samples eliminated or the heaviest of them kept."""
    solver = gflow.LogRadau() if kept is None else Full(kept=kept)
    gammas = np.array([1.0, 10.0, 100.0])
    truth, log_times = scipy_path(MANY, np.ones(30), "exponential", depth, 0.5, gammas, rtol=1e-11)
    traj = gflow.gradient_flow(
        gflow.models.DiagonalNetwork(4, depth, 0.5), MANY, np.ones(30), save=gammas, rtol=1e-8, solver=solver
    )  # fmt: skip
    np.testing.assert_allclose(traj.model.beta, truth, rtol=0, atol=1e-7 * np.abs(truth).max())
    np.testing.assert_allclose(traj.log_time, log_times, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1e6, 1e12, 1e100])
def test_more_samples_than_parameters_arrive(stop):
    traj = gflow.gradient_flow(
        gflow.models.DiagonalNetwork(4, 2, 0.5), MANY, np.ones(30), stop=stop, rtol=1e-6, solver=gflow.LogRadau(),
        max_steps=1500, throw=False,
    )  # fmt: skip
    assert traj.success, traj.status
    assert np.min(MANY @ np.asarray(traj.final.beta)) == pytest.approx(stop, rel=1e-5)


class Network(eqx.Module):
    """f(x) = v . act(W x)."""

    W: jax.Array
    v: jax.Array
    kind: str = eqx.field(static=True)

    def __call__(self, x):
        act = {"tanh": jnp.tanh, "gelu": jax.nn.gelu, "relu2": lambda z: jnp.maximum(z, 0.0) ** 2}
        return self.v @ act[self.kind](self.W @ x)


def network(kind, width, d, N, seed=0):
    r = np.random.default_rng(seed)
    X, y = r.normal(size=(N, d)), np.sign(r.normal(size=N))
    W, v = r.normal(size=(width, d)) / np.sqrt(d), r.normal(size=width) / np.sqrt(width)
    return Network(jnp.asarray(W), jnp.asarray(v), kind), X, y


class OneJacobian(gflow.LogRadau):
    """Takes every network for a large one."""

    def _is_large(self, flow, a):
        return True


@pytest.mark.slow
def test_one_jacobian_a_step_gives_the_path():
    """theta(t) of a tanh network from SciPy's DOP853 on d theta / dt = -grad L as it stands."""
    model, X, y = network("tanh", 6, 3, 4)
    times = np.array([0.5, 5.0, 100.0])

    def field(t, theta):
        W, v = theta[:18].reshape(6, 3), theta[18:]
        act = np.tanh(X @ W.T)
        c = y * np.exp(-y * (act @ v)) / 4
        return np.append(((1 - act**2) * np.outer(c, v)).T @ X, c @ act)

    start = np.append(np.ravel(model.W), model.v)
    truth = solve_ivp(field, (0, 100.0), start, "DOP853", t_eval=times, rtol=1e-12, atol=1e-12).y.T
    traj = gflow.gradient_flow(model, X, y, clock=gflow.TimeClock(), save=times, rtol=1e-8, solver=OneJacobian())
    saved = np.concatenate([np.asarray(traj.model.W).reshape(3, -1), traj.model.v], axis=1)
    np.testing.assert_allclose(saved, truth, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tanh", "gelu"])
def test_networks_take_one_path(kind):
    """With one Jacobian a step, with one for every stage and iteration, and by Dormand and Prince's order 8."""
    model, X, y = network(kind, 6, 3, 4)
    run = lambda solver: gflow.gradient_flow(model, X, y, save=np.array([1.0, 5.0, 20.0]), rtol=1e-8, solver=solver)
    truth = run(diffrax.Dopri8(scan_kind="lax"))
    for traj in (run(OneJacobian()), run(gflow.LogRadau())):
        for a, b in ((traj.model.W, truth.model.W), (traj.model.v, truth.model.v)):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7 * np.abs(b).max())
        np.testing.assert_allclose(traj.log_time, truth.log_time, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_squared_relu_network_arrives():
    """1,050 parameters, to 1e100."""
    model, X, y = network("relu2", 50, 20, 10)
    assert model.W.size + model.v.size == 1050
    traj = gflow.gradient_flow(model, X, y, stop=1e100, rtol=1e-6, solver=gflow.LogRadau(), throw=False, max_steps=1500)
    assert traj.success, traj.status
    z = np.maximum(X @ np.asarray(traj.final.W).T, 0.0) ** 2
    assert np.min(y * (z @ np.asarray(traj.final.v))) == pytest.approx(1e100, rel=1e-10)


@pytest.mark.slow
def test_steps_that_could_not_be_solved_are_counted():
    """Of any module: it is by their number that another way to solve the next one is tried."""
    network = eqx.nn.MLP(2, "scalar", 3, 1, key=jax.random.key(0))
    X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, -1.0])
    once = gflow.LogRadau(stages=3, max_newton=1)
    traj = gflow.gradient_flow(network, X, y, stop=10.0, solver=once, rtol=1e-6, max_steps=4, throw=False)
    assert int(traj.position.solver.failures) == int(traj.stats["rejections"]) == 4
