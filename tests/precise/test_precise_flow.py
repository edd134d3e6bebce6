"""`precise.flow`, the square loss on diagonal networks, and the bridges to float64."""

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

import gflow
from gflow import precise

X = [["1", "1/2", "-1/4", "1/8"], ["-1/4", "1", "1/2", "1/3"]]
Y = [1, "-3/2"]


@pytest.fixture(autouse=True)
def many_digits():
    with mp.workdps(60):
        yield


def test_one_parameter_of_the_logistic_loss():
    """e^u + u - 1 = t, on every clock."""
    loss = lambda u: mpmath.log(1 + mpmath.exp(-u[0]))
    by_loss = precise.flow(loss, [0], clock=gflow.LossClock(), save=[1, 3], digits=30)
    by_time = precise.flow(loss, [0], save=list(by_loss.time), digits=30)
    by_log = precise.flow(loss, [0], clock="logtime", save=[mpmath.log1p(t) for t in by_loss.time], digits=30)
    for run in (by_loss, by_time, by_log):
        assert run.success and run.digits >= 30
        for u, t, log_t in zip(run.theta[:, 0], run.time, run.log_time, strict=True):
            assert abs(mpmath.exp(u) + u - 1 - t) < mpf("1e-28")
            assert abs(mpmath.exp(log_t) - t) < mpf("1e-28")
    assert max(abs(-mpmath.log(v) - g) for v, g in zip(by_loss.loss, (1, 3), strict=True)) < mpf("1e-29")


def test_every_coordinate_has_its_own_digits():
    """From (1, 1e-40) a stiff decay to 1e-80: exponentials."""
    run = precise.flow(lambda u: u[0] ** 2 / 2 + 20 * u[1] ** 2, ["1", "1e-40"], stop=2, digits=25)
    assert run.success
    assert abs(run.theta[0, 0] * mpmath.exp(2) - 1) < mpf("1e-25")
    assert abs(run.theta[0, 1] * mpf("1e40") * mpmath.exp(80) - 1) < mpf("1e-25")


def test_away_from_a_saddle_and_balanced():
    """u_1^2 - u_2^2 is conserved, to digits relative to itself, from 1e-60."""
    run = precise.flow(lambda u: (u[0] * u[1] - 1) ** 2 / 2, ["1e-60", "3e-60"], save=[100, 145], digits=15)
    assert run.success
    assert abs(run.theta[-1, 0] * run.theta[-1, 1] - 1) < mpf("1e-4")
    # As long as u_1 u_2 is small the flow is linear: u_1 = a cosh t + b sinh t.
    u = [mpf("1e-60") * mpmath.cosh(100) + mpf("3e-60") * mpmath.sinh(100)]
    assert abs(run.theta[0, 0] / u[0] - 1) < mpf("1e-15")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"loss": lambda u: abs(u[0])}, "loss must be analytic, but its derivative in theta[0] is 1.0 by differences"),
        ({"loss": lambda u: u[5]}, "loss must be a function of a list of mpmath numbers, but calling it on 1 of them"),
        ({"theta0": []}, "theta0 must hold at least one number."),
        ({"theta0": 3}, "theta0 must be a list of numbers, not 3."),
        ({"clock": "sun"}, "clock must be 'time', 'logtime', 'loss' or one of gflow's clocks, not 'sun'."),
        ({"digits": 3}, "digits must be an integer from 15 to 1,000,000, not 3; gflow.gradient_flow gives fewer."),
        ({"stop": -1}, "stop must lie above the start, the clock = 0, but it is -1.00000."),
    ],
)
def test_bad_input(change, sentence):
    with pytest.raises(ValueError) as caught:
        precise.flow(**({"loss": lambda u: u[0] ** 2, "theta0": [1], "stop": 1, "digits": 15} | change))
    assert str(caught.value).startswith(sentence)


def test_interruption_of_a_flow():
    def stop(place):
        if place > 1:
            raise KeyboardInterrupt

    run = precise.flow(lambda u: u[0] ** 2 / 2, [1], save=["1/2", 3], digits=15, progress=stop)
    assert not run.success and len(run.theta) == 1
    assert run.status == "The run was interrupted: 1 of 2 saves are there, 0 verified."


def test_rest_before_the_stop_is_said():
    run = precise.flow(lambda u: u[0] ** 2 / 2, [0], stop=1, digits=15)
    assert not run.success and run.status.startswith("The steps shrank to nothing")


@pytest.mark.parametrize("depth", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_square_loss_by_two_routes(depth):
    """The dual variables of `diagonal_flow` and the parameters u themselves by `flow`."""
    dual = precise.diagonal_flow(X, Y, depth=depth, scale="1/2", loss="square", save=[1, 6], digits=25)
    assert dual.success and dual.log_weights is None
    rows = [[mpmath.mpf(v.split("/")[0]) / int((v + "/1").split("/")[1]) for v in row] for row in X]

    def loss(u):
        beta = [a**depth - b**depth for a, b in zip(u[:4], u[4:], strict=True)]
        outputs = [sum(a * b for a, b in zip(row, beta, strict=True)) for row in rows]
        return ((outputs[0] - 1) ** 2 + (outputs[1] + mpf(3) / 2) ** 2) / 4

    raw = precise.flow(loss, ["1/2"] * 8, clock="loss", save=[1], digits=15)
    beta = [a**depth - b**depth for a, b in zip(raw.theta[0, :4], raw.theta[0, 4:], strict=True)]
    assert max(abs(a - b) for a, b in zip(beta, dual.beta[0], strict=True)) < mpf("1e-14")
    assert abs(raw.log_time[0] - dual.log_time[0]) < mpf("1e-14")
    for k, gamma in enumerate((1, 6)):
        assert abs(mpmath.fsum(e**2 for e in dual.residuals[k]) / 4 / mpmath.exp(-gamma) - 1) < mpf("1e-22")
        for e, row, y in zip(dual.residuals[k], rows, (1, mpf(-3) / 2), strict=True):
            assert abs(mpmath.fdot(row, dual.beta[k]) - y - e) < mpf("1e-24")


@pytest.mark.parametrize("exponent", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_jump_times_of_depth_two(exponent):
    """The first coordinate leaves when 4 |x_i| = log 1/alpha^2: at t = log(1/alpha) / (2 max |X^T y| / N)."""
    run = precise.diagonal_flow(
        X, Y, scale=f"1e-{exponent}", loss="square", save=["1/4", precise.decades(exponent)], digits=20
    )
    assert run.success
    columns = [(1, mpf(-1) / 4), (mpf(1) / 2, 1), (-mpf(1) / 4, mpf(1) / 2)]
    push = max(abs(a - b * mpf(3) / 2) / 2 for a, b in columns)
    times = [mpmath.exp(v) for v in run.log_time]
    assert abs(times[0] / (exponent * mpmath.log(10) / 2 / push) - 1) < 10 / mpf(exponent)
    assert max(abs(e) for e in run.residuals[1]) < mpf(10) ** (1 - exponent // 2)


@pytest.mark.parametrize(("depth", "exponent"), [(3, 20), (4, 10), pytest.param(3, 100, marks=pytest.mark.slow)])
def test_jump_times_of_depth_above_two(depth, exponent):
    """alpha^(2-D) = D (D-2) x at the first jump, up to O(1) in time."""
    run = precise.diagonal_flow(X, Y, depth=depth, scale=f"1e-{exponent}", loss="square", save=["1/4", 1], digits=20)
    assert run.success
    push = (1 + mpf(3) / 8) / 2
    expected = mpf(10) ** (exponent * (depth - 2)) / (depth * (depth - 2) * push)
    assert abs(mpmath.exp(run.log_time[0]) / expected - 1) < mpf(10) ** -min(exponent - 3, 19)


def test_targets_out_of_reach():
    with pytest.raises(ValueError) as caught:
        precise.diagonal_flow([[1], [1]], [1, 2], loss="square", stop=10, digits=20)
    assert str(caught.value) == (
        "stop asks for -log L = 10.0000, but no beta fits X and y exactly: -log L stays below 2.07944; add features, "
        "or lower stop."
    )
    with pytest.raises(ValueError, match="y must not be all 0"):
        precise.diagonal_flow([[1], [1]], [0, 0], loss="square", stop=10, digits=20)
    assert precise.diagonal_flow([[1], [1]], [1, 2], loss="square", stop=2, digits=20).success


@pytest.mark.parametrize("problems", [range(1), pytest.param(range(50), marks=pytest.mark.slow)], ids=["1", "50"])
def test_float64_agrees_on_random_problems(problems):
    """Depths, scales and losses at random; beta, log t and the model itself."""
    rng = np.random.default_rng(2024)
    data = rng.normal(size=(50, 2, 3))
    truth = rng.normal(size=(50, 3))
    for k in problems:
        depth, logistic = 2 + k % 2, k % 4 > 1
        rows, labels = data[k], np.sign(data[k] @ truth[k])
        model = gflow.models.DiagonalNetwork(3, depth, float(10 ** rng.uniform(-1, 0.5)))
        loss = gflow.losses.Logistic() if logistic else gflow.losses.Exponential()
        save = np.array([1.0, 12.0])
        exact = precise.diagonal_flow(rows, labels, **precise.from_model(model), loss=loss, save=save, digits=16)
        traj = gflow.gradient_flow(model, rows, labels, loss=loss, save=save, rtol=1e-8)
        assert exact.success
        beta = exact.beta.astype(float)
        gap = np.max(np.abs(np.asarray(traj.model.beta) - beta)) / np.max(np.abs(beta))
        assert gap < 1e-7
        assert np.max(np.abs(np.asarray(traj.log_time) - exact.log_time.astype(float))) < 1e-7
        np.testing.assert_allclose(precise.to_model(exact).beta, beta[-1], rtol=1e-12)


def test_bridges():
    model = gflow.models.DiagonalNetwork(4, 3, jnp.array([0.1, 1.0, 2.0, 0.5]))
    arguments = precise.from_model(model)
    run = precise.diagonal_flow(X, [1, 1], **arguments, save=[1, "1e30"], digits=20)
    ds = run.to_xarray()
    assert ds.attrs["digits"] >= 20 and ds.beta.attrs["precision"] >= 20 and ds.sizes["save"] == 2
    assert abs(mpf(str(ds.beta.values[1, 2])) / run.beta[1, 2] - 1) < mpf("1e-20")
    late = mpf(str(ds.log_time.values[1])) - mpf(str(ds.neg_log_loss.values[1]))
    assert abs(late - (run.log_time[1] - run.neg_log_loss[1])) < mpf("1e-18")
    assert ds.decades.values[1] == 30.0
    back = precise.to_model(run, 0)
    np.testing.assert_allclose(back.beta, run.beta[0].astype(float), rtol=1e-13)
    np.testing.assert_allclose(back.scale, model.scale, rtol=1e-14)
    with pytest.raises(ValueError, match="model must be untrained"):
        precise.from_model(back)
    with pytest.raises(ValueError, match="not LinearModel"):
        precise.from_model(gflow.models.LinearModel(3))
