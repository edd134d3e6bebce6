"""W = F^T F: positive semidefinite for ever, whatever rounding does."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp
from scipy.integrate import solve_ivp

import gflow
from gflow.graded import GradedFlow
from gflow.models import MatrixFactorization
from gflow.status import Status
from gflow.symmetric import SymmetricChart

SLOW = pytest.mark.slow
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


@pytest.mark.parametrize(
    ("scale", "rows"), [pytest.param(0.1, 3, marks=SLOW), (1e-12, 5), pytest.param(1e-3, 2, marks=SLOW)]
)
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


@pytest.mark.parametrize("depth", [2, pytest.param(4, marks=SLOW)])
def test_an_eigenvector_of_rounding_is_told(depth):
    """The start lacks the second eigenvector but for rounding, which leaves the plateau at t = 35 for depth 2."""
    V = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    target, begin = (V @ np.diag(v) @ V.T for v in ([2.0, 1.0, -1.0], [1e-3, 0.0, 1e-3]))
    target, begin = (target + target.T) / 2, (begin + begin.T) / 2
    X, y = gflow.observe.everything(target)

    def status(save):
        model = MatrixFactorization.balanced(begin, depth)
        clock = gflow.TimeClock()
        return gflow.gradient_flow(model, X, y, loss=SUM, clock=clock, save=save, throw=False).status_code

    assert status([1.0, 10.0]) == Status.success
    if depth == 2:
        assert status([1.0, 10.0, 100.0]) == Status.seeded


def test_hidden_spaces_of_other_sizes_near_a_saddle():
    """Five units in the middle are combinations of two."""
    first, second = start(1e-3, 2, 3), start(1.0, 5, 2)
    X, y = gflow.observe.everything(TARGET)
    model = MatrixFactorization([jnp.asarray(W) for W in (first, second, second.T, first.T)])
    clock = gflow.TimeClock()
    traj = gflow.gradient_flow(model, X, y, loss=SUM, clock=clock, save=np.array([0.1, 1.0]), rtol=1e-9)

    def velocity(t, a):
        G, M = a[:6].reshape(2, 3), a[6:].reshape(5, 2)
        E = G.T @ M.T @ M @ G - TARGET
        return np.append(-(M.T @ M @ G @ E).ravel(), -(M @ G @ E @ G.T).ravel())

    end = solve_ivp(velocity, (0, 1), np.append(first, second), "DOP853", rtol=1e-12, atol=1e-18).y[:, -1]
    half = end[6:].reshape(5, 2) @ end[:6].reshape(2, 3)
    np.testing.assert_allclose(traj.model.product[-1], half.T @ half, rtol=1e-6, atol=1e-12)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def mirrored_flow(A, b, size, depth, scale, times):
    """The flow of scale * I on the factors of which there is one of each pair, by SciPy."""
    half, own = depth // 2, (depth + 1) // 2

    def field(_, v):
        W = list(v.reshape(own, size, size))
        W += [w.T for w in reversed(W[:half])]
        below = [np.eye(size)]
        for w in W:
            below.append(w @ below[-1])
        E = np.einsum("k,kij->ij", np.einsum("kij,ij->k", A, below[-1]) - b, A)
        out, above = [], np.eye(size)
        for j in reversed(range(depth)):
            out.append(-(above.T @ E @ below[j].T))
            above = above @ W[j]
        return np.ravel(out[::-1][:own])

    start = np.ravel([scale * np.eye(size)] * own)
    path = solve_ivp(field, (0, times[-1]), start, t_eval=times, method="DOP853", rtol=1e-12, atol=1e-14).y.T
    for row in path:
        W = list(row.reshape(own, size, size))
        yield functools.reduce(lambda below, above: above @ below, [*W, *[w.T for w in reversed(W[:half])]])


@pytest.mark.parametrize(
    ("depth", "scale"), [(3, 0.3), pytest.param(4, 0.6, marks=SLOW), pytest.param(5, 0.8, marks=SLOW)]
)
def test_more_factors_stay_mirrored(depth, scale):
    """Symmetric measurements of an indefinite target from alpha I: in coordinates of all factors it was wrong."""
    (A, b), times = measured(5, 3, 4), np.array([1.0, 5.0, 20.0, 60.0])
    traj = gflow.gradient_flow(
        MatrixFactorization.identical(3, depth, scale), A, b, loss=SUM, clock=gflow.TimeClock(), save=times, rtol=1e-9
    )
    assert isinstance(traj.flow.chart, SymmetricChart)
    expected = np.array(list(mirrored_flow(A, b, 3, depth, scale, times)))
    np.testing.assert_allclose(traj.model.product, expected, atol=1e-9)
    for W, V in zip(traj.model.factors, reversed(traj.model.factors), strict=True):
        np.testing.assert_allclose(W, np.swapaxes(V, 1, 2), atol=1e-13)


PERTURBED = functools.partial(MatrixFactorization.perturbed, gap=1e-3)


@pytest.mark.parametrize("make", [MatrixFactorization.identical, pytest.param(PERTURBED, marks=SLOW)])
def test_rounding_that_breaks_a_symmetry_is_told(make):
    """Under jit the chart that keeps it is not known: W was wrong by 1.1, with success."""
    A = np.random.default_rng(0).normal(size=(4, 4))
    X, y = gflow.observe.everything((A + A.T) / 2)

    def run(scale, stop, **more):
        model, settings = make(4, depth=3, scale=scale), {"loss": SUM, "clock": gflow.TimeClock(), "throw": False}
        return gflow.gradient_flow(model, X, y, stop=stop, solver=gflow.LogRadau(), **settings, **more)

    traced = jax.jit(run)
    whole = run(0.3, 200.0)
    assert whole.success and int(traced(0.3, 200.0).status_code) == Status.symmetry_broken
    early, exact = traced(0.3, 2.0), run(0.3, 2.0)
    assert int(early.status_code) == Status.success
    np.testing.assert_allclose(early.final.product, exact.final.product, atol=1e-6)
    broken = eqx.tree_at(lambda t: t.status_code, exact, jnp.asarray(int(Status.symmetry_broken)))
    with pytest.raises(ValueError, match="rounding has broken its symmetry"):
        run(0.3, 3.0, resume=broken)


def test_an_eigenvalue_that_inertia_forbids_is_told():
    """Of two balanced factors of one positive eigenvalue no second one is ever learned; under jit it was."""
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    T = turn @ np.diag([3.0, 2.0]) @ turn.T
    X, y = gflow.observe.everything((T + T.T) / 2)

    def run(factors, stop):
        settings = {"loss": SUM, "clock": gflow.TimeClock(), "throw": False}
        return gflow.gradient_flow(MatrixFactorization(factors), X, y, stop=stop, **settings)

    start = MatrixFactorization.balanced(jnp.diag(jnp.array([0.1, -0.2])), 2).factors
    late, exact = jax.jit(run)(start, 100.0), run(start, 100.0)
    assert exact.success
    np.testing.assert_allclose(np.linalg.eigvalsh(exact.final.product), [0.0, 3.0], atol=1e-7)
    learned = np.linalg.eigvalsh(late.final.product)[0]
    assert int(late.status_code) == (Status.symmetry_broken if learned > 1e-6 else Status.success)
    assert int(jax.jit(run)(start, 5.0).status_code) == Status.success


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_are_not_symmetric(batch_size):
    """Columns of the gradient by turns: the mean of two of them learned no negative eigenvalue, where descent does."""
    X, y = gflow.observe.everything(TARGET)
    model, key, step = MatrixFactorization.identical(3, 2, 1.0), jax.random.key(3), 0.05
    traj = gflow.gradient_descent(model, X, y, loss=SUM, step=step, steps=60, batch_size=batch_size, key=key)
    A, B = map(np.asarray, model.factors)
    per_epoch = 3 // batch_size
    for k in range(60):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, k // per_epoch), 3))
        rows = order[k % per_epoch * batch_size :][:batch_size]
        E = np.zeros((3, 3))
        E[:, rows] = 3 / batch_size * (B @ A - TARGET)[:, rows]
        A, B = A - step * B.T @ E, B - step * E @ A.T
    np.testing.assert_allclose(traj.final.product, B @ A, rtol=1e-12, atol=1e-12)


@SLOW
def test_without_a_symmetry_nothing_is_told():
    """Pulls that are not symmetric: the factors of the exact flow do not stay mirrored."""
    (A, b), _ = measured(5, 3, 4), None
    skew = A + np.random.default_rng(1).normal(size=A.shape)
    run = lambda scale: gflow.gradient_flow(
        MatrixFactorization.identical(3, 3, scale), skew, b, loss=SUM, clock=gflow.TimeClock(), stop=20.0, throw=False
    )
    for traj in (run(0.3), jax.jit(run)(0.3)):
        assert int(traj.status_code) == Status.success


def test_balanced_factors_of_a_positive_product_are_transposes():
    F = start(0.5)
    for depth in (2, 3):
        W = MatrixFactorization.balanced(F.T @ F, depth).factors
        assert all(np.array_equal(v, w.T) for v, w in zip(W, reversed(W), strict=True))
        np.testing.assert_allclose(MatrixFactorization(W).product, F.T @ F, atol=1e-14)


def test_descent_of_mirrored_factors():
    """Iterates of three equal factors, towards a negative eigenvalue too, against those of the eigenvalues."""
    X, y = gflow.observe.everything(TARGET)
    values, vectors = np.linalg.eigh(TARGET)
    s = np.full(3, 0.3)
    for _ in range(20_000):
        s = s + 0.01 * s**2 * (values - s**3)
    model = MatrixFactorization.identical(3, 3, 0.3)
    traj = gflow.gradient_descent(model, X, y, loss=SUM, step=0.01, steps=20_000)
    np.testing.assert_allclose(traj.final.product, (vectors * s**3) @ vectors.T, atol=1e-9)


def test_descent_in_columns_and_unturned_is_descent_of_all_factors():
    """From 0.1 hidden spaces need no turns, from 1e-12 they do; X = I is not multiplied with: the iterates agree with
    those of plain arrays, and mirrored factors stay mirrored to the last bit."""
    target = np.array([[2.0, 0.3], [0.3, -1.0]])
    loss, eye = gflow.losses.Square(reduction="sum"), np.eye(2)
    for scale, steps in ((0.1, 400), (1e-12, 100)):
        model = gflow.models.MatrixFactorization.identical(2, 3, scale)
        traj = gflow.gradient_descent(model, eye, target.T, loss=loss, step=0.01, steps=steps)
        W = [scale * eye] * 3
        for _ in range(steps):
            R = W[2] @ W[1] @ W[0] - target
            pulls = [W[1].T @ W[2].T @ R, W[2].T @ R @ W[0].T, R @ W[0].T @ W[1].T]
            W = [w - 0.01 * pull for w, pull in zip(W, pulls, strict=True)]
        for found, expected in zip(traj.final.factors, W, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * scale)
        np.testing.assert_array_equal(traj.final.factors[0], traj.final.factors[2].T)


INDEFINITE = np.array([[0.5, 1.5], [1.5, -0.7]])
FIRST, SECOND = np.array([[0.3, -0.1], [0.2, 0.25]]), np.array([[0.3, -0.2], [0.1, 0.4]])
SWAP = np.array([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    "factors, learned",
    [
        ([FIRST, -FIRST.T], [-1.715549442, 0.0]),
        pytest.param([FIRST, FIRST.T * [1.0, -1.0]], [-1.715549442, 1.515549442], marks=SLOW),
        pytest.param([FIRST, FIRST.T @ SWAP], [-1.715549442, 1.515549442], marks=SLOW),
        ([SWAP @ FIRST, 0.5 * SWAP, FIRST.T], [0.0, 1.515549442]),
        pytest.param([-SECOND, -np.eye(2), SECOND.T], [0.0, 1.515549442], marks=SLOW),
        pytest.param([FIRST, SECOND, SECOND.T, -FIRST.T], [-1.715549442, 0.0], marks=SLOW),
    ],
    ids=["minus", "signs", "swapped", "permuted", "three", "four"],
)
def test_mirrored_up_to_signs_and_the_order_of_units(factors, learned):
    """Before: W = -F^T F learned the positive eigenvalue at t = 30, by rounding, with success."""
    X, y = gflow.observe.everything(INDEFINITE)
    model, times = MatrixFactorization(factors), np.array([1e-6, 3.0, 200.0])
    traj = gflow.gradient_flow(model, X, y, loss=SUM, clock=gflow.TimeClock(), save=times, rtol=1e-9)
    assert isinstance(traj.flow.chart, SymmetricChart)
    np.testing.assert_allclose(np.linalg.eigvalsh(traj.final.product), learned, atol=1e-6)
    expected = plain_flow(factors, INDEFINITE, times[:2])
    for found, exact, start in zip(traj.model.factors, expected, factors, strict=True):
        np.testing.assert_allclose(found[:2], exact, atol=1e-8)
        np.testing.assert_allclose(found[0], start, atol=1e-5)
    descent = gflow.gradient_descent(model, X, y, loss=SUM, step=0.02, steps=10_000)
    np.testing.assert_allclose(np.linalg.eigvalsh(descent.final.product), learned, atol=1e-6)


def plain_flow(factors, target, times):
    """The flow of all factors, by SciPy: one array of saves for each."""
    shapes, ends = [np.shape(W) for W in factors], np.cumsum([np.size(W) for W in factors])
    split = lambda v: [part.reshape(shape) for part, shape in zip(np.split(v, ends[:-1]), shapes, strict=True)]

    def velocity(_, v):
        W = split(v)
        E = target - functools.reduce(lambda below, above: above @ below, W)
        product = lambda some: functools.reduce(lambda below, above: above @ below, some, np.eye(len(target)))
        return np.concatenate([np.ravel(product(W[j + 1 :]).T @ E @ product(W[:j]).T) for j in range(len(W))])

    path = solve_ivp(
        velocity, (0, times[-1]), np.concatenate([np.ravel(W) for W in factors]), t_eval=times, method="DOP853",
        rtol=1e-12, atol=1e-14,
    ).y.T  # fmt: skip
    return [np.stack(saves) for saves in zip(*map(split, path), strict=True)]


@SLOW
def test_balanced_factors_of_an_indefinite_product_keep_its_signs():
    rng = np.random.default_rng(0)
    Q, R = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    T, A = (Q * [2.0, -1.0, -0.5]) @ Q.T, (R * [0.1, 0.05, -0.08]) @ R.T
    X, y = gflow.observe.everything((T + T.T) / 2)
    model = MatrixFactorization.balanced((A + A.T) / 2, 2)
    np.testing.assert_allclose(model.product, A, atol=1e-15)
    traj = gflow.gradient_flow(model, X, y, loss=SUM, clock=gflow.TimeClock(), stop=300.0, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.eigvalsh(traj.final.product), [-1.0, 0.0, 2.0], atol=1e-7)
    # Of three factors the one in the middle has signs as well, which may change.
    deeper = MatrixFactorization.balanced((A + A.T) / 2, 3)
    np.testing.assert_allclose(deeper.product, A, atol=1e-15)


@pytest.mark.parametrize("gap", [1e-9, pytest.param(1e-13, marks=SLOW), pytest.param(1e-15, marks=SLOW)])
def test_a_small_gap_keeps_its_digits(gap):
    """It is the seed of the negative eigenvalue: of two coordinates near each other rounding had 1e-3 of it."""
    T, time = np.diag([2.0, -1.0]), -np.log(gap) + 1.0
    X, y = gflow.observe.everything(T)
    model = MatrixFactorization.perturbed(2, 2, 0.1, gap)
    first, second = (float(W[0, 0]) for W in model.factors)
    traj = gflow.gradient_flow(model, X, y, loss=SUM, clock=gflow.TimeClock(), stop=time, rtol=1e-10)
    exact = gflow.limits.factorization.perturbed_flow(time, -1.0, 2, first, second)
    assert -0.99 < exact < -0.1
    np.testing.assert_allclose(traj.final.product[1, 1], exact, rtol=1e-9)


def nearly_minus(noise, time):
    """[F, -F^T + noise] and its product at a time, in coordinates of what cancels and of what is left."""
    model = MatrixFactorization([FIRST, -FIRST.T + noise * np.array([[0.3, -1.2], [0.8, 0.5]])])
    A, B = np.asarray(model.factors[0]), np.asarray(model.factors[1]).T

    def velocity(_, v):
        S, D = v.reshape(2, 2, 2)
        even, odd = INDEFINITE - (S.T @ S - D.T @ D), D.T @ S - S.T @ D
        return np.concatenate([np.ravel(S @ even - D @ odd), np.ravel(S @ odd - D @ even)])

    start = np.ravel([(A + B) / 2, (A - B) / 2])
    S, D = solve_ivp(velocity, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-28).y[:, -1].reshape(2, 2, 2)
    return model, (S - D).T @ (S + D)


@pytest.mark.parametrize("noise, seeded", [(1e-5, False), (1e-8, False), (1e-13, True)])
def test_a_unit_that_grows_out_of_rounding_is_told(noise, seeded):
    """It was learned at a time that rounding chose, with success."""
    time = 0.5 - np.log(noise) / 1.5155
    model, exact = nearly_minus(noise, time)
    X, y = gflow.observe.everything(INDEFINITE)
    settings = dict(loss=SUM, clock=gflow.TimeClock(), rtol=1e-7, throw=False)
    traj = gflow.gradient_flow(model, X, y, stop=time, **settings)
    assert int(traj.status_code) == (Status.seeded if seeded else Status.success)
    # Nothing is said before, nor where it does not matter.
    assert gflow.gradient_flow(model, X, y, stop=0.4 * time, **settings).success
    if not seeded:
        assert np.linalg.eigvals(exact).max() > 0.1
        np.testing.assert_allclose(traj.final.product, exact, atol=1e-6)


def test_of_three_mirrored_factors_rounding_may_turn_the_middle_one():
    """Equal factors that are no multiple of I: s^3 stays positive, and rounding made it negative, with success."""
    D = jnp.diag(jnp.array([5.0, 7.1]))
    X, y = gflow.observe.everything(np.diag([200.0, -100.0]))
    flow = functools.partial(gflow.gradient_flow, MatrixFactorization([D, D, D]), X, y, loss=SUM, throw=False)
    early = flow(clock=gflow.TimeClock(), stop=1e3)
    # s' = -(s^3 + 100) s^2
    assert early.success and 0 < early.final.product[1, 1] < 2e-15
    assert int(flow(clock=gflow.TimeClock(), stop=1e6).status_code) == Status.seeded
