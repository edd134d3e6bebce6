"""Gradient descent: reference iterates, plain loops, closed forms, divergence, and the ways to stop, save and go on."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import diagonal, same
from flint import arb, arb_mat, ctx

import gflow

SQUARE = gflow.losses.Square(reduction="sum")
DATA = np.array([[1.0, 2.0, 0.5], [0.25, -1.0, 2.0], [0.3, 0.1, -0.7], [2.0, 0.4, 0.1], [-1.0, 0.2, 0.6]])
LABELS = np.array([1.0, 1.0, -1.0, 1.0, -1.0])
ONE = np.eye(1)


def linear(beta=(0.0, 0.0, 0.0)):
    return gflow.models.LinearModel(jnp.array(beta))


@pytest.mark.parametrize(
    "depth, target, scale, step, steps, truth",
    [
        (3, 1.0, 0.1, 0.05, 180, 0.7189394047753692334794),
        (2, 5.0, 0.01, 0.01, 100, 1.142620990527907732945),
        (4, 1.0, 0.2, 0.05, 240, 0.7503904734947552829972),
    ],
)
def test_iterates_of_the_scalar_factorization(depth, target, scale, step, steps, truth):
    """d_{k+1} = d_k - eta d_k^(N-1) (d_k^N - lambda), against iterates at 50 digits."""
    model = gflow.models.MatrixFactorization.identical(1, depth, scale)
    traj = gflow.gradient_descent(model, ONE, target * ONE, loss=SQUARE, step=step, steps=steps)
    np.testing.assert_allclose([W[0, 0] for W in traj.final.factors], truth, rtol=1e-13)
    np.testing.assert_allclose(traj.log_time, np.log(step * steps), rtol=1e-13, atol=1e-13)


def plain_loop(steps, sizes, momentum, batches=None):
    """Logistic loss of a linear model, in NumPy."""
    beta = before = np.zeros(3)
    for k in range(steps):
        rows = slice(None) if batches is None else batches[k]
        x, y = DATA[rows], LABELS[rows]
        gradient = -x.T @ (y / (1 + np.exp(y * (x @ beta)))) / len(y)
        beta, before = beta - sizes[k] * gradient + momentum * (beta - before), beta
    return beta


SIZES = 0.3 / (1.0 + np.arange(40))


def schedule(k):
    return 0.3 / (1.0 + k.astype(float))


@pytest.mark.parametrize("step", [SIZES, schedule], ids=["array", "function"])
def test_heavy_ball_with_a_schedule(step):
    traj = gflow.gradient_descent(
        linear(), DATA, LABELS, loss=gflow.losses.Logistic(), step=step, steps=40, momentum=0.9, save=[0, 1, 40]
    )
    assert traj.step.tolist() == [0, 1, 40]
    np.testing.assert_allclose(traj.model.beta, [plain_loop(k, SIZES, 0.9) for k in (0, 1, 40)], rtol=1e-12)
    np.testing.assert_allclose(traj.log_time[1:], np.log(np.cumsum(SIZES)[[0, 39]]), rtol=1e-12)


def test_batches_are_epochs_shuffled_anew():
    key = jax.random.key(3)
    orders = [np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 5)) for epoch in range(6)]
    batches = [order[[2 * k, 2 * k + 1]] for order in orders for k in (0, 1)]
    run = lambda **more: gflow.gradient_descent(
        linear(), DATA, LABELS, loss=gflow.losses.Logistic(), step=0.1, batch_size=2, key=key, **more
    )
    traj = run(steps=12)
    np.testing.assert_allclose(traj.final.beta, plain_loop(12, np.full(12, 0.1), 0.0, batches), rtol=1e-12)
    losses = np.log1p(np.exp(-LABELS * (DATA @ np.asarray(traj.final.beta))))
    np.testing.assert_allclose(traj.neg_log_loss, -np.log(losses.mean()), rtol=1e-12)
    on = run(steps=12, save=[2, 7], resume=run(steps=5, save=[2]))
    assert same(on.final.beta, traj.final.beta) and on.step.tolist() == [2, 7]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_normalized_steps_reach_any_loss(kind):
    """One sample: beta_k = k eta x, or k eta x / |x|; t is the sum of eta / L, or of eta / |grad L|."""
    x = np.array([3.0, 4.0])
    length = 1.0 if kind == "loss" else 5.0
    traj = gflow.gradient_descent(
        linear((0.0, 0.0)), x[None], np.ones(1), step=0.1, steps=4000, normalize=kind, save=[1, 4000]
    )
    np.testing.assert_allclose(traj.final.beta, 4000 * 0.1 * x / length, rtol=1e-11)
    gamma = np.arange(4000) * 0.1 * 25.0 / length
    times = [0.0, gamma[-1] + np.log(np.sum(np.exp(gamma - gamma[-1])))]
    np.testing.assert_allclose(traj.log_time, np.array(times) + np.log(0.1 / length), rtol=1e-11)
    assert traj.neg_log_loss[-1] > gflow.decades(800.0)


def sizes_that_explode(k):
    return jnp.where(k < 7, 0.5, 3.0)


def test_divergence_tells_where_it_began():
    """r_{k+1} = (1 - eta) r_k: it halves seven times, and doubles from then on."""
    run = lambda **more: gflow.gradient_descent(
        linear((3.0,)), ONE, np.ones(1), loss=SQUARE, step=sizes_that_explode, **more
    )
    with pytest.raises(gflow.FlowError, match=r"Since step 7 the loss .* It stands at -log L = -14") as caught:
        run(steps=10_000, save=[1, 9000])
    traj = caught.value.trajectory
    assert not traj.success and "lower the step size" in traj.status
    assert traj.step[0] == 1 and np.all(np.isfinite(traj.model.beta))
    rises = int(traj.step[-1]) - 7
    np.testing.assert_allclose(np.log(np.abs(traj.final.beta[0])), np.log(2.0) * (rises - 6), rtol=1e-12)
    assert abs(traj.final.beta[0]) > 1e307
    with pytest.raises(ValueError, match="resume must be a run that can go on, but it diverged"):
        run(steps=20_000, resume=traj)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_divergence_of_batches_is_judged_by_all_samples(batch_size):
    X = np.diag([1.0, 2.0, 3.0, 30.0, 0.1, 0.5])
    run = lambda **more: gflow.gradient_descent(
        linear(np.zeros(6)), X, np.ones(6), loss=gflow.losses.Square(reduction="sum"), **more
    )
    traj = run(step=0.5, steps=3000, batch_size=batch_size, key=jax.random.key(3), throw=False)
    assert "Since step 0 the loss" in traj.status and np.isfinite(traj.position.gamma)
    if batch_size == 2:
        slow = run(step=2.2 / 900, steps=500)
        assert slow.success and "the loss was least at step 0, and is now e^181 times" in slow.status


def test_divergence_that_is_not_steady_is_told():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 10)), rng.normal(size=40)
    batches = {"batch_size": 4, "key": jax.random.key(1)}
    traj = gflow.gradient_descent(
        linear(np.zeros(10)), X, y, loss=gflow.losses.Square(), step=0.6, steps=5000, **batches
    )
    assert traj.neg_log_loss[-1] < -30 and "it diverges, or has yet to come back" in traj.status
    alternating = jnp.where(jnp.arange(500) % 2 == 0, 0.1, 2.6)
    up = gflow.gradient_descent(linear((3.0,)), ONE, np.ones(1), loss=SQUARE, step=alternating, steps=100)
    # Factors 0.9 and -1.6 by turns.
    assert "least at step 1, and is now e^" in up.status


def test_a_loss_beyond_float64_ends_with_the_last_iterate_it_is_known_of():
    run = lambda **more: gflow.gradient_descent(linear((0.0,)), ONE, np.ones(1), step=1e305, normalize="loss", **more)
    with pytest.raises(gflow.FlowError, match="The loss fell beyond what float64 can hold even as gamma") as caught:
        run(steps=5000)
    traj = caught.value.trajectory
    assert np.isfinite(traj.neg_log_loss[-1]) and traj.neg_log_loss[-1] > 1e308
    with pytest.raises(ValueError, match="resume must be a run that can go on"):
        run(steps=9000, resume=traj)


def test_a_schedule_that_gives_no_step():
    falling = lambda k: 0.1 - 0.1 * k.astype(float)
    traj = gflow.gradient_descent(linear(), DATA, LABELS, step=falling, steps=20, throw=False)
    # A step of zero, to which many schedules fall, is one.
    assert "step must be positive and finite" in traj.status and int(traj.step[-1]) == 2


def test_saves_by_time_are_kept_when_resumed():
    run = lambda save, **more: gflow.gradient_descent(
        linear((2.0,)), ONE, np.ones(1), loss=SQUARE, step=0.5, steps=30, clock=gflow.TimeClock(), save=save, **more
    )
    early = run([0.6, 2.0])
    assert run([0.6, 2.0, 4.0], resume=early).step.tolist() == [2, 4, 8]
    for save in ([0.7, 2.0, 4.0], [0.6, 1.0, 2.0, 4.0], [0.6, 4.0]):
        with pytest.raises(ValueError, match=r"save must hold the points \[0\.6, 2\.0\] that resume has saved"):
            run(save, resume=early)


def test_rest_at_an_exact_minimum():
    traj = gflow.gradient_descent(linear((3.0,)), ONE, np.ones(1), loss=SQUARE, step=1.0, steps=5, save=[1, 5])
    assert traj.success and traj.neg_log_loss.tolist() == [np.inf, np.inf] and traj.final.beta.tolist() == [1.0]


def test_saves_by_time_and_by_loss():
    """r_k = 2^-k from beta = 2: L = 4^-k / 2."""
    run = lambda **more: gflow.gradient_descent(
        linear((2.0,)), ONE, np.ones(1), loss=SQUARE, step=0.5, steps=30, **more
    )
    by_time = run(clock=gflow.TimeClock(), save=[0.0, 0.6, 1.0, 2.5])
    assert by_time.step.tolist() == [0, 2, 2, 5] and int(by_time.stats["steps"]) == 5
    gammas = np.log(2.0) + np.log(4.0) * np.arange(30)
    by_loss = run(clock=gflow.LossClock(), save=gammas[[1, 3]] - 0.01, stop=gammas[4] + 0.01)
    assert by_loss.step.tolist() == [1, 3] and int(by_loss.stats["steps"]) == 5
    np.testing.assert_allclose(by_loss.neg_log_loss, gammas[[1, 3]], rtol=1e-13)
    with pytest.raises(gflow.FlowError, match="used up its steps before the stop") as caught:
        run(clock=gflow.LossClock(), save=[gammas[2], 100.0])
    assert caught.value.trajectory.step.tolist() == [2, 30]


def test_unbroken_and_resumed_runs_agree_bit_for_bit():
    run = lambda **more: gflow.gradient_descent(
        diagonal(3, 0.2), DATA, LABELS, step=0.05, momentum=0.5, metrics={"beta": lambda m: m.beta}, **more
    )
    whole, early = run(steps=900), run(steps=500)
    late = run(steps=900, resume=early)
    assert late.step.tolist() == [500, 900]
    assert same(late.final.log_ratio, whole.final.log_ratio)
    seen = []

    def interrupt(steps):
        seen.append(steps)
        raise KeyboardInterrupt

    with pytest.raises(gflow.FlowInterrupted, match=r"^gradient_descent was interrupted\.") as caught:
        run(steps=900, progress=interrupt)
    broken = caught.value.trajectory
    assert seen == [500] and broken.step.tolist() == [500]
    resumed = run(steps=900, resume=broken)
    assert same(resumed.model.log_ratio, whole.model.log_ratio) and same(resumed.metrics["beta"], whole.metrics["beta"])
    dataset = resumed.to_xarray()
    assert dataset.step.values.tolist() == [900] and dataset.attrs["clock"] == "steps"


@pytest.mark.parametrize("depth", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_diagonal_network_moves_in_its_weights(depth):
    model = diagonal(depth, 0.4)
    u = v = np.asarray(model.weights)
    sign = np.array([[1.0], [-1.0]])
    for _ in range(50):
        beta = u[0] ** depth - u[1] ** depth
        push = DATA.T @ (LABELS * np.exp(-LABELS * (DATA @ beta))) / 5
        u, v = u + 0.1 * depth * sign * u ** (depth - 1) * push + 0.3 * (u - v), u
    traj = gflow.gradient_descent(model, DATA, LABELS, step=0.1, steps=50, momentum=0.3)
    np.testing.assert_allclose(traj.final.weights, u, rtol=1e-11)
    crossing = gflow.gradient_descent(model, DATA, LABELS, step=9.0, steps=50, throw=False)
    assert "carries a weight of the network through zero" in crossing.status and np.all(crossing.final.weights > 0)


@pytest.mark.slow
def test_small_steps_follow_the_flow():
    """Half the step, half the distance."""
    flow = gflow.gradient_flow(diagonal(2, 0.3), DATA, LABELS, clock=gflow.TimeClock(), stop=3.0, rtol=1e-11)
    gaps = []
    for steps in (300, 600):
        down = gflow.gradient_descent(diagonal(2, 0.3), DATA, LABELS, step=3.0 / steps, steps=steps)
        gaps.append(np.max(np.abs(down.final.beta - flow.final.beta)))
    assert 1.9 < gaps[0] / gaps[1] < 2.1


calls = []


class Counted(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        calls.append(1)
        return self.w @ x


def test_values_do_not_recompile_and_transformations_work():
    run = lambda w, step, more=0.0, steps=40: gflow.gradient_descent(
        Counted(w), DATA + more, LABELS, step=step, steps=steps, throw=False
    )
    first = run(jnp.full(3, 0.0), 0.1)
    before = len(calls)
    for k in range(3):
        # Longer runs are cut into pieces: those that follow the first are of the same program.
        run(jnp.full(3, 0.1 * k), 0.05 * (k + 1), 0.01 * k, 40 + 600 * k)
    assert len(calls) == before
    batch = jax.vmap(lambda step: run(jnp.zeros(3), step))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(batch.final.w[0], first.final.w, rtol=1e-13)
    assert np.all(batch.success)


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(step=0.2), "it has a step size at step 4 = 0.1, not 0.2; to go on by another rule, start anew from its"),
        (dict(momentum=0.5), "it has momentum = 0.0, not 0.5;"),
        (dict(normalize="loss"), "it has normalize = None, not 'loss';"),
        (dict(batch_size=3), "it has batch_size = 2, not 3;"),
        (dict(key=jax.random.key(1)), "resume must be a run with the same key"),
    ],
)
def test_resume_by_another_rule_is_refused(more, message, batches_of_two):
    rule = dict(step=0.1, batch_size=2, key=jax.random.key(0)) | more
    with pytest.raises(ValueError, match=re.escape(message)):
        gflow.gradient_descent(linear(), DATA, LABELS, steps=9, resume=batches_of_two, **rule)


@pytest.fixture(scope="module")
def batches_of_two():
    return gflow.gradient_descent(linear(), DATA, LABELS, step=0.1, batch_size=2, key=jax.random.key(0), steps=4)


BAD = {
    "steps": (dict(steps=0), "steps must be a positive integer, not 0."),
    "step": (dict(step=-1.0), "step must be positive and finite, not -1.0."),
    "no argument": (dict(step=lambda: 0.1), "step must be a function of the step k alone, but calling it failed: "),
    "half a step": (dict(save=[0.5, 20]), "save must hold numbers of steps, integers, not [0.5, 20.0]"),
    "progress": (dict(progress=3), "progress must be True, False or a function, not 3."),
    "few sizes": (dict(step=np.ones(3)), "step must hold a size for each of 20 steps, but it has 3."),
    "momentum": (dict(momentum=1.0), "momentum must be a number in [0, 1), not 1.0."),
    "normalize": (dict(normalize="l2"), "normalize must be 'loss', 'gradient' or None, not 'l2'."),
    "batch": (dict(batch_size=9), "batch_size must be an integer from 1 to the 5 samples, not 9."),
    "key": (dict(batch_size=2), "key must be given with batch_size"),
    "number for a key": (dict(batch_size=2, key=0), "key must be a key such as jax.random.key(0), not 0."),
    "idle key": (dict(key=jax.random.key(0)), "key shuffles batches: pass batch_size with it"),
    "sizes": (dict(step=lambda k: jnp.ones(3)), "step must return one step size, a number, for a step k"),
    "metric": (dict(metrics={"m": lambda m: "a"}), "metrics['m'] must return an array or a number, not 'a'."),
    "stop": (dict(stop=3.0), "stop needs a clock, such as gflow.LossClock(); the number of steps is set by steps."),
    "clock": (dict(clock=gflow.TimeClock), "write its brackets."),
    "no points": (dict(clock=gflow.TimeClock()), "stop or save must be given, in the coordinate of the clock (t)."),
    "order": (dict(save=[2, 1]), "save must be finite and strictly increasing"),
    "beyond": (dict(save=[5, 21]), "save must not go beyond the end, step 20, but it holds 21."),
    "below": (
        dict(clock=gflow.LossClock(), save=[-3.0, 2.0]),
        "save and stop must not lie before the start, -log L 0, but one of them is -3.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    more, message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        gflow.gradient_descent(linear(), DATA, LABELS, **({"steps": 20} | more))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_descent_from_tiny_factors_passes_the_saddles(momentum):
    """Beside 5 the factors hold 1e-30, of which the next value grows: against the same iterates in 70 digits."""
    target = gflow.observe.symmetric([5.0, 2.0, 1.0], 3, jax.random.key(0))
    X, y = gflow.observe.everything(target)
    model = gflow.models.MatrixFactorization.gaussian([3, 3, 3], 1e-30, jax.random.key(1))
    eta, save = 0.02, [700, 1750, 4000]
    traj = gflow.gradient_descent(model, X, y, loss=SQUARE, step=eta, steps=4000, save=save, momentum=momentum)
    with ctx.workdps(70):
        exact = lambda M: arb_mat([[arb(float(v)) for v in row] for row in np.asarray(M)])
        # Rounded: intervals would widen.
        mid = lambda M: arb_mat([[M[i, j].mid() for j in range(3)] for i in range(3)])
        A, B = (exact(W) for W in model.factors)
        T, beta, before, products = exact(target), arb(momentum), (A, B), []
        for k in range(1, 4001):
            R = B * A - T
            downhill = (B.transpose() * R * arb(eta), R * A.transpose() * arb(eta))
            moved = [mid(W - d + (W - w) * beta) for W, d, w in zip((A, B), downhill, before, strict=True)]
            before, (A, B) = (A, B), moved
            if k in save:
                products.append([[float(v) for v in row] for row in (B * A).tolist()])
    values = np.linalg.svd(products, compute_uv=False)
    assert values[0, 1] < 1e-3 and 0.1 < values[1, 1] and 0.1 < values[2, 2]
    np.testing.assert_allclose(traj.model.product, products, atol=1e-11)


class Product(eqx.Module):
    """A factorization of a user's own, in its parameters."""

    A: jax.Array
    B: jax.Array

    def __call__(self, x):
        return self.B @ (self.A @ x)


def test_descent_says_where_rounding_decides_when_a_plateau_is_left():
    """From 1e-30 rounding of what is learned first seeds what comes next, in the coordinates that a traced model and a
    user's own run in; a factorization that is known has coordinates that it does not seed."""
    target = gflow.observe.symmetric([5.0, 2.0, 1.0], 3, jax.random.key(0))
    small, large = (gflow.models.MatrixFactorization.gaussian([3, 3, 3], s, jax.random.key(2)) for s in (1e-30, 1e-3))
    given = {"loss": SQUARE, "step": 0.02, "steps": 5000, "throw": False}
    descend = lambda model: gflow.gradient_descent(model, np.eye(3), target, **given)
    own = lambda model: Product(*model.factors)
    assert descend(small).success and descend(large).success
    for model in (jax.jit(lambda m: descend(m)), lambda m: descend(own(m))):
        code = lambda traj: int(traj.status_code)
        assert code(model(small)) == gflow.Status.seeded and code(model(large)) == gflow.Status.success
    np.testing.assert_allclose(descend(own(large)).final(np.eye(3)[0]), descend(large).final(np.eye(3)[0]), rtol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        {"momentum": 0.99},
        {"momentum": 0.999, "step": 0.3},
        {"step": lambda k: 0.05 * (1.0 + jnp.cos(jnp.pi * k.astype(float) / 5000.0)) + 1e-9},
        {"step": np.repeat([0.1, 1e-4], 2500), "momentum": 0.9},
    ],
)
def test_what_comes_to_rest_has_left_no_plateau(rule):
    """Heavy balls turn, and schedules end, without a plateau."""
    given = {"loss": gflow.losses.Square(), "step": 0.1, "steps": 5000} | rule
    assert gflow.gradient_descent(linear(), DATA, LABELS, **given).success
    assert gflow.gradient_descent(gflow.models.LinearModel(1), np.ones((1, 1)), np.ones(1), **given).success


def test_schedules_resume_where_a_program_rounds_otherwise_and_may_end_at_zero():
    for schedule in (lambda k: 0.1 / jnp.sqrt(1.0 + k.astype(float)), lambda k: 0.1 * 0.9 ** (k // 100).astype(float)):
        given = {"loss": gflow.losses.Square(), "step": schedule}
        whole = gflow.gradient_descent(linear(), DATA, LABELS, steps=90, **given)
        for cut in range(20, 41):
            part = gflow.gradient_descent(linear(), DATA, LABELS, steps=cut, save=[cut], **given)
            rest = gflow.gradient_descent(linear(), DATA, LABELS, steps=90, save=[cut, 90], resume=part, **given)
        np.testing.assert_allclose(rest.final.beta, whole.final.beta, rtol=1e-14)
    ends = np.append(np.full(9, 0.1), 0.0)
    assert gflow.gradient_descent(linear(), DATA, LABELS, step=ends, steps=10).success
