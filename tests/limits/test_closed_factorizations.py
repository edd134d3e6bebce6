"""Closed forms of the scalar flows of a factorization, against values at 50 digits and against the flow itself."""

import math

import jax
import numpy as np
import pytest
from mpmath import mp, mpf
from scipy.integrate import solve_ivp

from gflow import precise
from gflow.limits import factorization as closed

# t, d(t): mpmath at 50 digits, cross-checked by an independent Taylor integrator to 1e-31.
FLOWS = [
    (2, "1", "0.1", 3, "0.8960787648249918631133742"),
    (2, "5", "0.01", 1, "1.236557665161543604887086"),
    (3, "1", "0.1", 9, "0.7471711898540520976638853"),
    (3, "1", "0.1", 10, "0.9688485245540691716541541"),
    (4, "1", "0.2", 12, "0.7766124297169651580275878"),
    (3, "0", "0.5", 100, "0.2214250071345736865279416"),
    (2, "-1", "0.1", 2, "0.01346758517804424685604542"),
]
TIMES = [
    (2, "0.1", [".5750937314391571722703", "1.080772594588610859214", "4.595119850134589926852"]),
    (2, "0.01", [".8054017657527409", "1.541487813434487", "6.902680108555219652"]),
    (3, "0.1", ["1.036042640704126656265", "2.090747744576842293801", "10.77259041371874985534"]),
    (3, "0.01", ["10.03609214270423", "20.09094576057868", "100.7775424149496596"]),
]
PERTURBED = [
    ("-1", "0.05", "0.1", 2, "-0.03308894380114268436092995"),
    ("-1", "0.05", "0.1", 6, "-0.9903255532666667394910757"),
    ("2", "0.05", "0.1", 2, "1.787466994963202569568204"),
]


def agree(value, text, digits=24):
    """To the digits that the text has."""
    with mp.workdps(40):
        known = len(text.lstrip("-0.").replace(".", ""))
        return abs(value / mpf(text) - 1) < mpf(10) ** (1 - min(known, digits))


@pytest.mark.parametrize("depth, target, scale, time, truth", FLOWS)
def test_scalar_flow(depth, target, scale, time, truth):
    assert agree(closed.scalar_flow(time, target, depth, scale, digits=30), truth)
    single = closed.scalar_flow(float(time), float(target), depth, float(scale))
    assert isinstance(single, float) and abs(single / float(truth) - 1) < 4e-15
    value = closed.scalar_flow(time, target, depth, scale, digits=40)
    back = closed.scalar_time(value, target, depth, scale, digits=30)
    assert abs(back / time - 1) < 1e-28


@pytest.mark.parametrize("depth, scale, truths", TIMES)
def test_learning_times(depth, scale, truths):
    times = closed.learning_time(["10", "5", "1"], depth, scale, digits=25)
    assert all(agree(time, truth) for time, truth in zip(times, truths, strict=True))


@pytest.mark.parametrize("target, first, others, time, truth", PERTURBED)
def test_perturbed_flow_of_depth_two(target, first, others, time, truth):
    assert agree(closed.perturbed_flow(time, target, 2, first, others, digits=30), truth)


@pytest.mark.parametrize("target", ["-1", "0.7"])
def test_perturbed_flow_of_depth_three(target):
    """Against the flow of L = (a d1 d2 - lambda)^2 / 2 in arbitrary precision: all digits."""
    run = precise.flow(lambda w: (w[0] * w[1] * w[2] - mpf(target)) ** 2 / 2, ["0.3", "0.5", "0.5"], save=[2, 6],
                       digits=20)  # fmt: skip
    found = closed.perturbed_flow([2, 6], target, 3, "0.3", "0.5", digits=20)
    with mp.workdps(30):
        products = [w[0] * w[1] * w[2] for w in run.theta]
        assert all(abs(p / q - 1) < 1e-18 for p, q in zip(products, found, strict=True))


@pytest.mark.parametrize(
    "time, target, depth, first, others",
    [
        pytest.param(137.24855346300617, 0.5, 3, 0.015, 0.03, marks=pytest.mark.slow),
        (26.563922474157007, 1.0, 5, 0.27, 0.3),
        (2.735352237064056, 0.04515697327975016, 4, 0.004590377221134852, 0.4590377221134852),
        (35.41718968686117, 0.3291226566553581, 4, 0.4290045923515943, 1.4300153078386477),
    ],
)  # fmt: skip
def test_perturbed_flow_near_its_limit(time, target, depth, first, others):
    """Where the time could not be inverted: at 16 digits as at 30."""
    more = closed.perturbed_flow(time, target, depth, first, others, digits=30)
    assert closed.perturbed_flow(time, target, depth, first, others) == pytest.approx(float(more), rel=1e-14)


def test_precise_flow_agrees_to_all_digits():
    run = precise.flow(lambda w: (w[0] ** 3 - 1) ** 2 / 6, ["0.1"], save=[9, 10], digits=40)
    found = closed.scalar_flow([9, 10], 1, 3, "0.1", digits=40)
    assert all(abs(p / q - 1) < mpf(10) ** -38 for p, q in zip(run.theta[:, 0], found, strict=True))


def test_all_cases_of_scalar_time():
    """Above and below the limit, negative targets, depth one: dt = dd / (d^(N-1) (lambda - d^N)), by quadrature."""
    for depth, target, scale in [(1, 2, 0.1), (1, 2, 5), (2, 1, 3), (3, 1, 2), (3, -1, 0.5), (5, -2, 0.5), (4, 3, 0.1)]:
        value = closed.scalar_flow(0.3, target, depth, scale)
        with mp.workdps(30):
            time = mp.quad(lambda d, N=depth, y=target: 1 / (d ** (N - 1) * (y - d**N)), [scale, value])
        assert abs(time / mpf(0.3) - 1) < 1e-12
    assert closed.scalar_flow(0.0, 1.0, 3, 0.1) == 0.1
    assert closed.scalar_flow(1e6, 8.0, 3, 0.1) == 2.0
    assert closed.scalar_flow(1e200, -1.0, 3, 0.1) == pytest.approx(1e-200, rel=1e-10)
    assert math.isnan(closed.scalar_time(2.0, 1.0, 3, 0.1)) and closed.scalar_time(1.0, 1.0, 3, 0.1) == math.inf
    assert closed.learning_time(1.0, 3, 2.0) == 0.0


def test_rank_interval_holds():
    """The effective rank of the exact flow stays inside, from end to end."""
    values, size = np.array([10.0, 5.0, 1.0, *[0.0] * 17]), 20
    for depth, scale, rank in [(2, 1e-4, 1), (2, 0.01, 2), (3, 0.1, 2), (3, 0.1, 3)]:
        known = closed.rank_interval([10.0, 5.0, 1.0], rank, depth, scale, size=size, leak=0.02)
        assert known.plateau == [1.0, 1.5, 1.6][rank - 1] and known.start < known.end
        for time in np.linspace(known.start, min(known.end, 2 * known.start), 4):
            p = closed.scalar_flow(time, values, depth, scale) ** depth
            assert known.lower <= p.sum() / p.max() <= known.upper
    assert known.end == math.inf


@pytest.mark.parametrize("depth, target, scale", [(2, 4.0, 0.1), (3, 1.0, 0.1), (3, -1.0, 0.9)])
def test_step_bound(depth, target, scale):
    """Below it the descent is monotone; at ten times it, not."""
    monotone = []
    for factor in (0.999, 10.0):
        d = [scale]
        while len(d) < 300 and abs(d[-1]) < 1e6:
            d.append(d[-1] - factor * closed.step_bound(target, depth, scale) * d[-1] ** (depth - 1)
                     * (d[-1] ** depth - target))  # fmt: skip
        steps = np.diff(d) * (1 if target > 0 else -1)
        monotone.append(bool(np.all(steps >= -1e-15)))
    assert monotone == [True, False]


def perturbed_descent(depth, target, scale, gap, eta, steps):
    """|a d^(N-1) - lambda| along the descent, arrays of problems at once."""
    a, d, miss = scale - gap, scale.copy(), []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            r = a * d ** (depth - 1) - target
            a, d = a - eta * r * d ** (depth - 1), d - eta * r * a * d ** (depth - 2)
            miss.append(np.abs(r))
    return np.array(miss)


@pytest.mark.parametrize("depth", [3, *(pytest.param(N, marks=pytest.mark.slow) for N in (2, 4))])
def test_step_bound_of_perturbed_factors(depth):
    """At the bound the loss falls at every step, whatever the sign of the eigenvalue, and to zero where the run is long
    enough; 1.1 times beyond the limit of stability it does not."""
    rng = np.random.default_rng(depth)
    target = rng.choice([-1.0, 1.0], 200) * 10 ** rng.uniform(-0.5, 1.5, 200)
    scale = np.abs(target) ** (1 / depth) * rng.uniform(0.2, 1.5, 200)
    gap = scale * rng.uniform(0.05, 0.95, 200)
    bound = np.array([closed.step_bound(*v[:1], depth, *v[1:]) for v in zip(target, scale, gap, strict=True)])
    miss = perturbed_descent(depth, target, scale, gap, bound, 5000)
    assert np.all(np.diff(miss, axis=0) <= 1e-13 * np.abs(target))
    assert np.mean(miss[-1] < 1e-6 * np.abs(target)) > 0.6
    limit = 2 / (depth * np.abs(target) ** (2 - 2 / depth))
    assert np.all(~(perturbed_descent(depth, target, scale, gap, 1.1 * limit, 5000)[-50:].max(axis=0) < 1e-3))
    with pytest.raises(ValueError, match=r"gap must be between 0 and scale, 0\.1, not 0\.1"):
        closed.step_bound(1.0, depth, 0.1, 0.1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: closed.step_bound(1.0, 2, 0.0), "scale a positive number, not 1.0 and 0.0"),
        (lambda: closed.scalar_flow(1.0, 1.0, 0, 0.1), "depth must be a positive integer, not 0"),
        (lambda: closed.scalar_flow(-1.0, 1.0, 2, 0.1), "time must not be negative"),
        (lambda: closed.scalar_flow(np.nan, 1.0, 2, 0.1), "time must be finite, not nan"),
        (lambda: closed.learning_time(-1.0, 2, 0.1), "target must be positive to be learned, not -1.0"),
        (lambda: jax.jit(lambda a: closed.scalar_flow(1.0, 1.0, 3, a))(0.1), "scale must be known, not traced"),
        (lambda: closed.perturbed_flow(-1.0, 1.0, 3, 0.2, 0.1), "time must not be negative"),
        (lambda: closed.rank_interval([1.0, 2.0], 1, 2, 0.1), "eigenvalues must decrease"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("depth", [3, 4])
def test_perturbed_flow_of_a_target_of_zero_and_nearly_equal_factors(depth):
    # Equal factors: d^(2 - 2N) grows by (2N - 2) t.
    equal = (0.1 ** (2 - 2 * depth) + (2 * depth - 2) * 3.0) ** (-depth / (2 * depth - 2))
    assert closed.perturbed_flow(3.0, 0.0, depth, 0.0999999, 0.1) == pytest.approx(equal, rel=1e-5)


# a > d > 0, signs of either, equal sizes, and zeros.
IMBALANCED = [
    (3, 0.9, 0.2), (3, -0.9, 0.2), (3, -0.2, 0.9), (4, 0.7, -0.3), (4, -0.7, -0.3), (5, 0.4, 0.4), (5, -0.4, 0.4),
    (3, 0.0, 0.5), (4, 0.5, 0.0),
]  # fmt: skip


@pytest.mark.parametrize("depth, first, others", IMBALANCED)
@pytest.mark.parametrize("target", [1.5, 0.0, -0.7])
def test_imbalanced_factors_of_any_size_and_sign(depth, first, others, target):
    """Against the equations of both."""

    def slopes(t, z):
        miss = target - z[0] * z[1] ** (depth - 1)
        return [z[1] ** (depth - 1) * miss, z[0] * z[1] ** (depth - 2) * miss]

    end = solve_ivp(slopes, (0, 4.0), [first, others], method="DOP853", rtol=1e-12, atol=1e-17).y[:, -1]
    found = closed.perturbed_flow(4.0, target, depth, first, others)
    np.testing.assert_allclose(float(found), end[0] * end[1] ** (depth - 1), rtol=1e-9, atol=1e-13)


def test_imbalanced_flow_dies_out_with_all_digits():
    """d' = -a d (1 + a d^2) with a^2 = d^2 + E: 20 later it has as many digits."""
    with mp.workdps(60):
        early, late = (closed.perturbed_flow(t, -1, 3, 1, "0.3", digits=40) for t in (400, 420))
        # a -> E^(1/2) and d' = -a d: p falls as exp(-2 E^(1/2) t).
        np.testing.assert_allclose(float(mp.log(early / late)), 40 * 0.91**0.5, rtol=1e-14)


@pytest.mark.parametrize(
    "depth, scale, target", [(6, 1e-30, 1.0), (10, 1e-16, 1.0), (6, 1e-30, -1e10), (5, 1e-8, 1e-20)]
)
def test_a_start_that_hardly_moves(depth, scale, target):
    """d = alpha (1 + alpha^(N - 2) lambda t), as long as that is small: it was nan."""
    for power in (-30, -16, -12):
        time = 10.0**power / (scale ** (depth - 2) * abs(target))
        found = closed.scalar_flow(time, target, depth, scale, digits=40)
        with mp.workdps(60):
            a, y = mp.mpf(scale), mp.mpf(target)
            truth = a * (1 + mp.mpf(time) * a ** (depth - 2) * (y - a**depth))
            assert abs(found / truth - 1) < 10.0 ** max(2 * power + 2, -39)
        assert closed.scalar_flow(time, target, depth, scale) == pytest.approx(float(truth), rel=4e-16)
