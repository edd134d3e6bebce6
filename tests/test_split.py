"""Parts of hidden units that the flow keeps apart: each has digits of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import relative
from mpmath import mp, mpf

import gflow
from gflow.limits import factorization as closed
from gflow.models import MatrixFactorization
from gflow.split import invariant_spaces, SplitChart
from gflow.status import Status

SLOW = pytest.mark.slow
SUM = gflow.losses.Square(reduction="sum")
TARGET = np.array([[1.0, -0.5, 0.25], [-0.5, 0.75, 0.5], [0.25, 0.5, -1.0]])
FIRST = np.array([[1.0, -2.0, 0.5], [0.25, 1.5, -1.0], [-0.75, 0.5, 2.0]])
SECOND = np.array([[0.5, 1.0, -1.0], [2.0, -0.25, 0.75], [1.0, 0.5, -1.5]])
MEASURED = np.array([
    [[1.0, -0.25, -0.75], [-0.25, -0.5, -1.5], [-0.75, -1.5, -1.0]],
    [[1.0, 0.25, 1.25], [0.25, 0.5, 1.0], [1.25, 1.0, 0.0]],
    [[0.0, 1.25, -0.75], [1.25, 0.5, 0.0], [-0.75, 0.0, 0.0]],
    [[-1.5, 1.0, 1.25], [1.0, -1.0, -1.5], [1.25, -1.5, 0.0]],
    [[-1.5, -0.5, -0.75], [-0.5, -0.5, -1.5], [-0.75, -1.5, -1.5]],
    [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.5], [0.0, 0.5, 1.5]],
])  # fmt: skip
SEEN = np.einsum("qij,ij->q", MEASURED, TARGET)
TIMES = np.array([4.5, 7.5, 10.0, 30.0])
# W from 1e-30 * FIRST and 1e-30 * SECOND at TIMES, by Taylor series of order 30 in 120 digits.
PRODUCTS = np.array([
    [0.4460882241781033, -0.6916287026873251, -0.13817068015118925, -0.6916287026873253, 1.0723221023426264,
     0.21422401014611495, -0.13817068015118908, 0.2142240101461146, 0.04279677386377268],
    [0.36704310033648785, -0.6931993115797466, -0.1063415155558226, -0.6931993115837857, 1.3091795563331594,
     0.20083712076467544, -0.10634151555276367, 0.20083712075772753, 0.03080979642681498],
    [1.0668128326133315, -0.5159890959363643, 0.14013046273746452, -0.515989100804911, 1.1140674874809884,
     0.09415165128042077, 0.14013047036704185, 0.09415163578399803, 0.04873768033055781],
    [0.9997501480680552, -0.26121287214007277, -0.11561101142639973, -0.7392125652896423, 0.7534442562169068,
     1.199617496230605, 0.6164877657256226, -0.20124084359537556, -1.000116526327234],
])  # fmt: skip


def flow(factors, X, y, times, **more):
    settings = {"loss": SUM, "clock": gflow.TimeClock(), "rtol": 1e-9, **more}
    return gflow.gradient_flow(MatrixFactorization(factors), X, y, save=jnp.asarray(times), **settings)


def worst(found, truth):
    return np.max(relative(np.asarray(found).reshape(len(truth), -1), np.asarray(truth).reshape(len(truth), -1)))


def test_symmetric_measurements():
    """The sum of W_1 and W_2^T learns one direction, their difference another. Hidden units turned as a whole then lost
    the next: wrong by 0.6 at the third plateau, with success."""
    run = flow([1e-30 * FIRST, 1e-30 * SECOND], MEASURED, SEEN, TIMES)
    assert isinstance(run.flow.chart, SplitChart)
    # To rtol in log t, in which the transitions are sharp.
    assert worst(run.model.product, PRODUCTS) < 1e-7
    jitted = jax.jit(lambda s: flow([s * FIRST, s * SECOND], MEASURED, SEEN, TIMES, throw=False))(1e-30)
    assert int(jitted.status_code) == Status.success
    assert worst(jitted.model.product, PRODUCTS) < 1e-7


def test_blocks_are_as_if_alone():
    """Entries in two blocks that share neither a row nor a column."""
    rng = np.random.default_rng(1)
    target, F, G = np.zeros((5, 4)), 1e-30 * rng.normal(size=(4, 4)), 1e-30 * rng.normal(size=(5, 4))
    target[:3, :2], target[3:, 2:] = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    seen = np.ma.masked_array(target.T, mask=target.T == 0)
    times = np.array([40.0, 60.0, 90.0, 200.0])
    whole = flow([F, G], np.eye(4), seen, times)
    for rows, columns in ((slice(0, 3), slice(0, 2)), (slice(3, 5), slice(2, 4))):
        X, y = gflow.observe.everything(target[rows, columns])
        alone = flow([F[:, columns], G[rows]], X, y, times)
        assert worst(whole.model.product[:, rows, columns], alone.model.product) < 1e-7


@pytest.mark.parametrize("gap", [1e-6, 1e-14])
def test_nearly_equal_multiples_of_the_identity(gap):
    """Measured in an orthonormal symmetric basis their flow is that of the whole target, in closed form."""
    basis = []
    for i in range(3):
        for j in range(i + 1):
            E = np.zeros((3, 3))
            E[i, j] = E[j, i] = 1.0 if i == j else np.sqrt(0.5)
            basis.append(E)
    values, vectors = np.linalg.eigh(TARGET)
    times = np.array([5.0, 20.0, 28.0, 60.0])
    run = flow(MatrixFactorization.perturbed(3, 2, 0.1, gap).factors, np.array(basis),
               np.einsum("qij,ij->q", basis, TARGET), times)  # fmt: skip
    found = np.einsum("in,sij,jn->sn", vectors, run.model.product, vectors)
    np.testing.assert_allclose(found, closed.perturbed_flow(times[:, None], values[None], 2, 0.1 - gap, 0.1), atol=1e-8)


def test_descent_is_that_of_more_digits():
    step, save = 0.01, [400, 800, 1100]
    model = MatrixFactorization([1e-30 * FIRST, 1e-30 * SECOND])
    run = gflow.gradient_descent(model, MEASURED, SEEN, loss=SUM, step=step, steps=save[-1], save=save)
    exactly = np.vectorize(mpf, otypes=[object])
    with mp.workdps(80):
        W, V, measured, seen = map(exactly, (1e-30 * FIRST, 1e-30 * SECOND, MEASURED, SEEN))
        truth = []
        for k in range(save[-1] + 1):
            P = V @ W
            if k in save:
                truth.append(P.astype(float))
            E = sum(A * (np.sum(A * P) - b) for A, b in zip(measured, seen, strict=True))
            W, V = W - mpf(step) * (V.T @ E), V - mpf(step) * (E @ W.T)
    assert worst(run.model.product, truth) < 1e-12


@pytest.mark.parametrize("gap", [1e-6, 1e-14])
def test_descent_of_nearly_equal_multiples_is_right_or_says_why_not(gap):
    """Steps do not keep W symmetric as the flow does, where entries are missing."""
    seen = np.ma.masked_array(TARGET, [[False, False, True], [False, False, False], [True, False, False]])
    run = lambda steps: gflow.gradient_descent(
        MatrixFactorization.perturbed(3, 2, 0.1, gap), np.eye(3), seen, loss=SUM, step=0.1, steps=steps, throw=False
    )
    assert run(20).success
    # At 1e-14 the product was wrong by 5e-4.
    assert int(run(600).status_code) == (Status.success if gap > 1e-10 else Status.seeded)


@pytest.mark.parametrize(("gap", "status"), [(1e-13, Status.seeded), (1e-5, Status.success)])
def test_nearly_mirrored_factors_are_told_of(gap, status):
    """Of a completion, where a negative eigenvalue grows out of the difference; wrong by 7e-4 from 1e-13."""
    seen = np.ma.masked_array(TARGET, [[False, False, True], [False, False, False], [True, False, False]])
    run = flow([0.1 * FIRST, 0.1 * FIRST.T * (1 + gap)], np.eye(3), seen, [5.0, 90.0], throw=False)
    assert int(run.status_code) == status


def test_spaces_that_are_invariant_but_for_rounding():
    """Blocks in other coordinates: what one has learned seeds the other by the rounding of the data."""
    rng = np.random.default_rng(4)
    U, V = (np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (3, 4))
    A = np.zeros((5, 3, 4))
    A[:2, :1, :2], A[2:, 1:, 2:] = rng.normal(size=(2, 1, 2)), rng.normal(size=(3, 2, 2))
    A = U @ A @ V.T / 2
    seen = np.einsum("qij,ij->q", A, rng.normal(size=(3, 4)))
    run = lambda s: flow([s * rng.normal(size=(4, 4)), s * rng.normal(size=(3, 4))], A, seen, [200.0], throw=False)
    assert int(run(1e-25).status_code) == Status.seeded
    assert int(run(0.1).status_code) == Status.success


@pytest.mark.parametrize("size", [1e-8, 1e-11])
def test_couplings_that_are_small_are_not_dropped(size):
    """Columns of X of different sizes: spaces were taken for invariant that are not, and the second never learned."""
    X, targets = np.diag([1.0, size]), np.array([[1.0, 0.5], [0.7, 1.0]])
    rng = np.random.default_rng(0)
    run = flow([0.5 * rng.normal(size=(2, 2)) for _ in range(2)], X, targets, [1.0, 1e2 / size], throw=False)
    assert not isinstance(run.flow.chart, SplitChart)
    slightly = MEASURED + 1e-11 * np.triu(MEASURED)
    assert not isinstance(flow([FIRST, SECOND], slightly, SEEN, [0.1]).flow.chart, SplitChart)


def test_completions_and_batches_inside_of_jit():
    seen = np.ma.masked_array(TARGET, [[False, False, True], [False, False, False], [True, False, False]])
    end = lambda F: flow([F, 0.1 * SECOND], np.eye(3), seen, [2.0], throw=False).final.product
    np.testing.assert_allclose(jax.jit(end)(0.1 * FIRST), end(0.1 * FIRST), rtol=1e-9)
    steps = lambda F: gflow.gradient_descent(
        MatrixFactorization([F, 0.1 * SECOND]), MEASURED, SEEN, loss=SUM, step=0.01, steps=20, batch_size=2,
        key=jax.random.key(0), throw=False,
    ).final.product  # fmt: skip
    np.testing.assert_allclose(jax.jit(steps)(0.1 * FIRST), steps(0.1 * FIRST), rtol=1e-12)


def test_restart_from_a_plateau_where_units_are_mixed():
    """Parts are found with more digits than float64 has, exactly."""
    unit = np.array([1.0, 0.5, -0.25])
    near = np.outer([1.0, -2.0, 0.5], unit) + 1e-14 * FIRST
    run = flow([near, near.T.copy() + 1e-9 * SECOND.T], MEASURED, SEEN, np.array([1.0, 2.0]), rtol=1e-8)
    assert run.flow.chart.begin is not None
    other = flow([near, near.T.copy() + 1e-9 * SECOND.T], MEASURED, SEEN, np.array([1.0, 2.0]), rtol=1e-11)
    assert worst(run.model.product, other.model.product) < 1e-6
    np.testing.assert_allclose(run.flow.chart.at(run.flow.chart.coordinates()).factors[0], near, atol=1e-14)


def test_invariant_spaces():
    rng = np.random.default_rng(0)
    sizes = lambda pulls: sorted(space.shape[1] for space in invariant_spaces(pulls))
    assert sizes(rng.normal(size=(7, 4, 3))) == [7]
    some = rng.normal(size=(6, 3, 3))
    some = some + np.swapaxes(some, 1, 2)
    assert sizes(some) == [3, 3]
    # In other coordinates: W -> U W V^T.
    U, V = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    assert sizes(U @ some @ V.T) == [3, 3]
    blocks = np.zeros((9, 5, 4))
    blocks[:, :3, :1], blocks[:, 3:, 1:3] = rng.normal(size=(9, 3, 1)), rng.normal(size=(9, 2, 2))
    # What a column that is never observed has stays as it is.
    assert sizes(blocks) == [1, 4, 4]
