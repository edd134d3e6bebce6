"""LogRadau on diagonal networks to a loss of 10^(-4e99): depths, scales, losses, and data that make the flow hard."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import separable
from scipy.special import logsumexp

import gflow

SLOW = pytest.mark.slow
SCALES = (1e-60, 1e-20, 1e-3, 1.0, 1e3)
LOSSES = {"exponential": gflow.losses.Exponential(), "logistic": gflow.losses.Logistic()}
SHAPES = {"4x10": separable(0, 4, 10), "10x30": separable(3, 10, 30)}


def gamma_of(X, beta, loss="exponential"):
    """-log L from beta, by NumPy."""
    m = X @ np.asarray(beta)
    log_l = -m if loss == "exponential" else np.where(m > 40, -m, np.log(np.logaddexp(0.0, -np.minimum(m, 40.0))))
    return np.log(len(m)) - logsumexp(log_l)


def run(X, depth, scale, loss="exponential", stop=1e100):
    return gflow.gradient_flow(
        gflow.models.DiagonalNetwork(X.shape[1], depth, scale), X, np.ones(len(X)), loss=LOSSES[loss], stop=stop,
        rtol=1e-6, solver=gflow.LogRadau(), max_steps=1500, throw=False,
    )  # fmt: skip


def assert_arrives(X, depth, scale, loss="exponential", stop=1e100):
    traj = run(X, depth, scale, loss, stop)
    assert traj.success, traj.status
    # Where terms 1e6 times larger cancel in a margin, beta as float64 does not resolve it better.
    terms = np.max(np.abs(X) @ np.abs(np.asarray(traj.final.beta))) / stop
    assert gamma_of(X, traj.final.beta, loss) == pytest.approx(stop, rel=max(1e-10, 5e-14 * terms))
    return traj


# One compilation for every depth, loss and shape.
FAST = {(3, "exponential", "4x10")}


@pytest.mark.parametrize(
    "depth, loss, shape, scale",
    [
        pytest.param(*case, scale, marks=() if case in FAST else SLOW)
        for case in ((D, loss, shape) for loss in LOSSES for shape in SHAPES for D in (2, 3, 4, 6))
        for scale in SCALES
    ],
)
def test_every_scale_arrives(depth, loss, shape, scale):
    assert_arrives(SHAPES[shape], depth, scale, loss)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_depth_two_arrives_where_float64_ends(scale):
    assert_arrives(SHAPES["4x10"], 2, scale, stop=1e300)


def test_time_is_known_however_far():
    """t = e^gamma / (e^14 or more): log t is gamma to rounding."""
    stops, scales = (1e16, 1e20, 1e60, 1.3e60, 1e100), (1e-3, 1.0, 1e3)
    runs = [(stop, scale, run(SHAPES["4x10"], 2, scale, stop=stop)) for stop in stops for scale in scales]
    wrong = [(s, a, float(t.log_time[-1])) for s, a, t in runs if not abs(float(t.log_time[-1]) / s - 1) < 1e-12]
    assert not wrong, wrong


def ties(seed, n, d):
    """Entries +-1: samples share the values of the dominant coordinates."""
    r = np.random.default_rng(seed)
    X, b = np.sign(r.normal(size=(n, d))), np.sign(r.normal(size=d)) * (1 + 1e-3 * np.arange(d))
    return X * np.sign(X @ b)[:, None]


def robust_cases():
    X = SHAPES["4x10"]
    hollow, large, small = X.copy(), X.copy(), X.copy()
    hollow[:, 3] = 0.0
    large[0] *= 1e6
    small[0] *= 1e-6
    return {
        "ties": ties(1, 4, 10),
        "duplicate among four": np.vstack([X[:3], X[:1]]),
        "zero column": hollow,
        "a margin 1e6 larger": large,
        "a margin 1e6 smaller": small,
        "fifth sample a duplicate": np.vstack([X, X[:1]]),
        "every sample twice": np.vstack([X, X]),
        "one sample": X[:1],
        "one sample four times": np.repeat(X[:1], 4, axis=0),
        "symmetric": np.array([[1.0, 1.0], [1.0, -1.0]]),
        "symmetric in three": np.array([[1.0, 0.5, 0.5], [1.0, -0.5, 0.5], [1.0, 0.5, -0.5]]),
        "ties 10x30": ties(5, 10, 30),
        "ties 10x30, other": ties(6, 10, 30),
    }


ROBUST = robust_cases()
# They share the shape, and with it the compiled code, of the first test; a small one of its own.
CHEAP = [(name, D) for name in list(ROBUST)[:5] for D in (2,)] + [("symmetric", 2)]
CHEAP += [("ties 10x30", 3), ("every sample twice", 3)]
# At a saddle where the pulls of eight samples cancel but for rounding; it ends with `Status.plateau`.
STAYS = [("ties 10x30", 4, 1e-20)]


def marks(name, D, scale):
    stays = [pytest.mark.xfail(reason="stays at a saddle of tied samples")] if (name, D, scale) in STAYS else []
    return stays + ([] if (name, D) in CHEAP and scale == 1.0 else [SLOW])


@pytest.mark.parametrize(
    "name, depth, scale",
    [
        pytest.param(name, D, scale, marks=marks(name, D, scale))
        for D in (2, 3, 4)
        for name in ROBUST
        for scale in (1e-20, 1e-3, 1.0, 1e3)
    ],
)
def test_hard_data_arrives(name, depth, scale):
    assert_arrives(ROBUST[name], depth, scale)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
def test_one_sample_four_times_ends_on_its_largest_coordinate(depth):
    x = ROBUST["one sample"][0]
    top = np.argmax(np.abs(x))
    beta = np.asarray(assert_arrives(ROBUST["one sample four times"], depth, 1e-3).final.beta) / 1e100
    # D = 2: the others fall behind like gamma^(|x_k| / max |x| - 1) only.
    assert beta[top] * x[top] == pytest.approx(1.0, abs=1e-3) and np.sum(beta * x) == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize("depth, growth", [(2, 8), pytest.param(3, 8, marks=SLOW), pytest.param(4, 8, marks=SLOW)])
def test_no_more_steps_the_further_it_goes(depth, growth):
    steps = lambda stop: sum(int(run(SHAPES["4x10"], depth, 1.0, stop=stop).stats[k]) for k in ("steps", "rejections"))
    assert steps(1e100) - steps(1e60) <= growth


# What LogRadau cannot do, it says.


@pytest.mark.slow
def test_residuals_at_rounding_level():
    run = lambda decades: gflow.gradient_flow(
        gflow.models.DiagonalNetwork(1, 2, 0.1), np.ones((1, 1)), np.ones(1), loss=gflow.losses.Square(),
        stop=gflow.decades(decades), solver=gflow.LogRadau(), throw=False,
    )  # fmt: skip
    assert run(26.0).success
    traj = run(40.0)
    assert not traj.success and traj.status.startswith("The residuals are at rounding level")
    assert float(traj.neg_log_loss[-1]) > gflow.decades(27.0)


def test_used_up_steps_and_a_start_that_is_no_number():
    X = SHAPES["4x10"]
    go = lambda scale, steps: gflow.gradient_flow(
        gflow.models.DiagonalNetwork(10, 2, scale), X, np.ones(4), stop=1e100, rtol=1e-6, solver=gflow.LogRadau(),
        max_steps=steps, throw=False,
    )  # fmt: skip
    traj = go(1.0, 20)
    assert not traj.success and "used up max_steps" in traj.status and "It stands at -log L = " in traj.status
    assert int(traj.stats["steps"] + traj.stats["rejections"]) == 20
    assert gamma_of(X, traj.final.beta) == pytest.approx(float(traj.neg_log_loss[-1]), rel=1e-10)
    far = go(1e200, 1500)
    assert not far.success and "cannot leave its start" in far.status


@pytest.mark.slow
def test_contradicting_labels_of_a_network():
    """One sample with both labels: the loss stays above 1/2, and no step count or status pretends otherwise."""
    network = eqx.nn.MLP(3, "scalar", 8, 2, activation=jnp.tanh, key=jax.random.key(0))
    D = np.random.default_rng(0).normal(size=(4, 3))
    traj = gflow.gradient_flow(
        network, D[[0, 0, 1, 2]], np.array([1.0, -1.0, 1.0, -1.0]), stop=gflow.decades(20.0), rtol=1e-6, max_steps=500,
        solver=gflow.LogRadau(), throw=False,
    )  # fmt: skip
    assert not traj.success and float(traj.neg_log_loss[-1]) < np.log(2) + 1e-6
