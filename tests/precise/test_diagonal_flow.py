"""`precise.diagonal_flow` against closed forms, stored references, other routes, and its own promises."""

import itertools
import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from gflow import precise

REFERENCE = {
    p["id"]: p for p in json.loads((Path(__file__).parents[1] / "data" / "dual-flow.json").read_text())["problems"]
}
X = [["1/2", "1", "-3/8", "1/4", "5/8", "-1/8"], ["-1/4", "7/8", "1", "3/8", "-1/2", "3/4"],
     ["9/8", "-3/8", "1/2", "-5/8", "1/4", "1"]]  # fmt: skip
# Samples leave the support and come back.
KINKS = REFERENCE["P4"]["X"]
# And once more, the last time at 8e8.
KINKS_OF_BENCHMARK = [["-3/2", "-1/8", "-1/4", "-7/8", "-1/2", "-3/2"], ["9/8", "-7/8", "-1/8", "-5/4", "-5/4", "-7/8"],
                      ["-1/2", "-1/2", "1/8", "-1/2", "-15/8", "-11/8"]]  # fmt: skip
ONES = [1, 1, 1]


@pytest.fixture(autouse=True)
def many_digits():
    with mp.workdps(80):
        yield


def error(value, truth):
    """Largest relative error of the entries."""
    return max(abs(mpf(a) - mpf(b)) / abs(mpf(b)) for a, b in zip(np.ravel(value), np.ravel(truth), strict=True))


@pytest.mark.parametrize("name", ["P1", "P3", pytest.param("P4", marks=pytest.mark.slow)])
def test_reference_values_to_all_stated_digits(name):
    problem = REFERENCE[name]
    # Depth 4 to 1e1000 alone takes as long as the rest.
    points = [p for p in problem["points"] if p["gamma"] != "1e1000" or name != "P3"]
    save = [precise.decades(p["gamma"].split("*")[0]) if "*" in p["gamma"] else p["gamma"] for p in points]
    run = precise.diagonal_flow(
        problem["X"], [1] * problem["N"], depth=problem["D"], scale=problem["alpha"], save=save, digits=45
    )
    assert run.success and run.digits >= 45
    for k, point in enumerate(points):
        gamma = run.neg_log_loss[k]
        with mp.workdps(1100):
            late = run.log_time[k] - gamma
        assert error(run.dual[k], point["z"]) < mpf("2e-44")
        assert error(run.beta[k] / gamma, point["beta_over_gamma"]) < mpf("2e-44")
        assert error([late], [point["log_t_minus_gamma"]]) < mpf("2e-44")
        for mine, stated in zip(run.log_weights[k], point["log_p"], strict=True):
            assert abs(mine - mpf(stated)) < mpf("2e-44") * max(1, abs(mpf(stated)))
        for mine, stated in zip(run.weights[k], point["p"], strict=True):
            assert abs(mine - mpf(stated)) < mpf("1e-44")


def closed_form(X, z, depth, scale):
    """beta from the dual variables (docstring of gflow.precise.network), in mpmath."""
    X = [[mpf(int(v)) if "/" not in str(v) else mpf(v.split("/")[0]) / int(v.split("/")[1]) for v in row] for row in X]
    x = [mpmath.fdot(column, z) for column in zip(*X, strict=True)]
    if depth == 2:
        return [2 * scale**2 * mpmath.sinh(4 * v) for v in x]
    pull, power, rest = depth * (depth - 2), mpf(depth) / (depth - 2), scale ** (2 - depth)
    return [(rest - pull * v) ** -power - (rest + pull * v) ** -power for v in x]


@pytest.mark.parametrize(("depth", "scale"), [(2, "1/3"), (2, "1e-60"), (3, "1/3"), (5, "2"), (3, "1000")])
def test_one_sample(depth, scale):
    """The margin is gamma, and beta is explicit in z."""
    run = precise.diagonal_flow([[1, "1/2"]], [-1], depth=depth, scale=scale, save=["1/4", 1, "1e50"], digits=40)
    assert run.success
    for k, gamma in enumerate(("0.25", "1", "1e50")):
        assert abs(-run.beta[k, 0] - run.beta[k, 1] / 2 - mpf(gamma)) < mpf("1e-39") * mpf(gamma)
        if gamma != "1e50":
            truth = closed_form([[-1, "-1/2"]], run.dual[k], depth, mpmath.mpf(run.scale[0]))
            assert error(run.beta[k], truth) < mpf("1e-36") * max(1, mpf("1e-30") / mpf(run.scale[0]))
    assert max(abs(w) for w in np.ravel(run.log_weights)) < mpf("1e-40")


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_margins_weights_and_dual_form_fit_together(loss, depth):
    """-log L of the returned beta is gamma, its weights are those returned, and beta follows from z."""
    run = precise.diagonal_flow(X, ONES, depth=depth, loss=loss, save=[1, 8, 60], digits=32)
    assert run.success
    rows = [[mpf(v.split("/")[0]) / int((v + "/1").split("/")[1]) for v in row] for row in X]
    for k, gamma in enumerate(run.neg_log_loss):
        m = [mpmath.fdot(row, run.beta[k]) for row in rows]
        losses = [mpmath.exp(-v) if loss == "exponential" else mpmath.log1p(mpmath.exp(-v)) for v in m]
        pulls = [mpmath.exp(-v) if loss == "exponential" else 1 / (1 + mpmath.exp(v)) for v in m]
        assert abs(-mpmath.log(mpmath.fsum(losses) / 3) - gamma) < mpf("1e-29")
        for n in range(3):
            assert abs(run.log_weights[k, n] - mpmath.log(pulls[n] / mpmath.fsum(losses))) < mpf("1e-29")
            assert abs(run.weights[k, n] - mpmath.exp(run.log_weights[k, n])) < mpf("1e-30")
        assert error(run.beta[k], closed_form(X, run.dual[k], depth, mpf(1))) < mpf("1e-27")


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_the_flow_as_it_stands_by_taylor_series(loss):
    """z' = -dL/dm in physical time, by mpmath's Taylor series method, at the time that the run states."""
    run = precise.diagonal_flow(X[:2], [1, 1], loss=loss, save=[1], digits=25)
    rows = [[mpf(v.split("/")[0]) / int((v + "/1").split("/")[1]) for v in row] for row in X[:2]]

    def field(t, z):
        beta = closed_form(X[:2], z, 2, mpf(1))
        m = [mpmath.fdot(row, beta) for row in rows]
        return [(mpmath.exp(-v) if loss == "exponential" else 1 / (1 + mpmath.exp(v))) / 2 for v in m]

    with mp.workdps(25):
        z = mpmath.odefun(field, 0, [mpf(0), mpf(0)], tol=mpf("1e-20"))(mpmath.exp(run.log_time[0]))
        assert error(run.dual[0], z) < mpf("1e-18")


def test_a_sum_is_a_mean_with_another_clock():
    mean = precise.diagonal_flow(X, ONES, save=[3, 50], digits=30)
    with mp.workdps(60):
        shifted = [v - mpmath.log(3) for v in (3, 50)]
    total = precise.diagonal_flow(X, ONES, save=shifted, digits=30, reduction="sum")
    assert error(mean.beta, total.beta) < mpf("1e-29")
    assert max(abs(a - b - mpmath.log(3)) for a, b in zip(mean.log_time, total.log_time, strict=True)) < mpf("1e-29")


def test_a_scale_per_coordinate():
    same = precise.diagonal_flow(X, ONES, depth=3, scale=["1/2"] * 6, save=[1, 100], digits=30)
    one = precise.diagonal_flow(X, ONES, depth=3, scale="1/2", save=[1, 100], digits=30)
    assert np.array_equal(same.beta, one.beta)
    # u_+ u_- is conserved, and equal to alpha_i^2, for D = 2: beta_i / (2 alpha_i^2) = sinh(4 x_i).
    scales = ["1/2", 1, 2, "1/8", 3, 1]
    run = precise.diagonal_flow(X, ONES, scale=scales, save=[5, 100], digits=30)
    assert run.success
    for k in range(2):
        unit = closed_form(X, run.dual[k], 2, mpf(1))
        truth = [b * mpf(a) ** 2 for a, b in zip(run.scale, unit, strict=True)]
        assert error(run.beta[k], truth) < mpf("1e-28")


def test_saving_does_not_change_the_path():
    few = precise.diagonal_flow(KINKS, ONES, scale="1/8", save=[1000], digits=18)
    many = precise.diagonal_flow(KINKS, ONES, scale="1/8", save=["1e-3", "1/2", 2, 30, 1000], digits=18)
    assert np.array_equal(few.beta[-1], many.beta[-1]) and np.array_equal(few.log_time[-1:], many.log_time[-1:])
    assert len(many.neg_log_loss) == 5 and many.success


@pytest.mark.parametrize("depth", [2, 3])
def test_ties_and_duplicates(depth):
    """Active samples that share their dominant coordinates: data of -1 and 1, and a sample twice."""
    data = [[1, 1, -1, 1], [1, -1, 1, 1], [1, 1, 1, -1], [1, 1, 1, -1]]
    run = precise.diagonal_flow(data, [1] * 4, depth=depth, stop="1e100", digits=30)
    assert run.success
    assert np.array_equal(run.dual[0, 2], run.dual[0, 3])
    m = [mpmath.fdot(row, run.beta[0]) for row in data]
    assert max(abs(v / mpf("1e100") - 1) for v in m) < mpf("1e-29") or depth == 3
    assert abs(mpmath.fsum(run.weights[0]) - 1) < mpf("1e-29")
    # Together the twins pull like one sample of the sum of their weights.
    assert abs(run.log_weights[0, 2] - run.log_weights[0, 3]) < mpf("1e-29")


@pytest.mark.parametrize(
    ("depth", "scale"),
    [(2, "1e-1000"), (2, "1e100"), *(pytest.param(3, v, marks=pytest.mark.slow) for v in ("1e-3", "1e-20"))],
)
def test_extreme_scales(depth, scale):
    run = precise.diagonal_flow(X, ONES, depth=depth, scale=scale, save=["1e-30", 2, "1e10"], digits=20)
    assert run.success
    for k, gamma in enumerate(("1e-30", "2", "1e10")):
        m = [mpmath.fdot([mpf(v.split("/")[0]) / int((v + "/1").split("/")[1]) for v in row], run.beta[k]) for row in X]
        if gamma == "1e-30":
            assert abs(mpmath.fsum(m) / 3 / mpf(gamma) - 1) < mpf("1e-18")
        else:
            truth = -mpmath.log(mpmath.fsum(mpmath.exp(-v) for v in m) / 3)
            assert abs(truth - mpf(gamma)) < mpf("1e-15") * mpf(gamma)


@pytest.mark.parametrize(
    ("seed", "shape", "depth", "scale", "stop"),
    [
        # A sample comes back at 1e65, within a few units of gamma.
        (7, (4, 10), 2, "1e-20", "1e100"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (9, (4, 10), 2, "1e-3", "1e1000"),
                (7, (4, 10), 2, "1e3", "1e1000"),
                (2, (4, 10), 2, "1e-60", "1e1000"),
                (7, (3, 6), 2, "1e-60", "1e1000"),
                (7, (4, 10), 3, "1e3", "1e1000"),
                (8, (4, 10), 4, "1e-3", "1e1000"),
                (1, (10, 30), 3, "1", "1e100"),
            )
        ),
    ],
)
def test_samples_that_come_back_far_out(seed, shape, depth, scale, stop):
    """m + W = gamma - log N, whether samples are active or not, and the weights sum to 1."""
    rng = np.random.default_rng(seed)
    data, direction = rng.normal(size=shape), rng.normal(size=shape[1])
    data *= np.sign(data @ direction)[:, None]
    run = precise.diagonal_flow(data, [1] * shape[0], depth=depth, scale=scale, stop=stop, digits=20)
    assert run.success
    gamma = run.neg_log_loss[0]
    with mp.workdps(1100):
        m = [mpmath.fdot([mpf(float(v)) for v in row], run.beta[0]) for row in data]
        for value, W in zip(m, run.log_weights[0], strict=True):
            assert abs(value + W - gamma) < mpf("1e-17") * abs(value)
    assert abs(mpmath.fsum(run.weights[0]) - 1) < mpf("1e-19")
    # The largest of N weights is at least 1/N.
    assert max(run.log_weights[0]) > -mpmath.log(shape[0]) - mpf("1e-15")


def test_a_column_of_zeros_stays_zero():
    run = precise.diagonal_flow([[1, 0, 2], [2, 0, -1]], [1, 1], depth=3, stop="1e6", digits=20)
    assert run.success and run.beta[0, 1] == 0


def test_stated_digits_hold_against_a_finer_run():
    coarse = precise.diagonal_flow(KINKS, ONES, depth=3, save=[1, 100, "1e4"], digits=16)
    fine = precise.diagonal_flow(KINKS, ONES, depth=3, save=[1, 100, "1e4"], digits=36)
    assert fine.digits >= 36 and 16 <= coarse.digits < 36
    limit = mpf(10) ** -min(coarse.digits, 19)
    assert error(coarse.beta, fine.beta) < limit and error(coarse.dual, fine.dual) < limit
    assert np.max(np.abs(coarse.log_time - fine.log_time)) < limit


def test_one_solution_that_falls_short_is_outvoted():
    """The second one has log t to 44 digits here, by chance: the first and the third agree."""
    run = precise.diagonal_flow(KINKS_OF_BENCHMARK, ONES, depth=3, stop=230, digits=50)
    assert run.success and run.digits >= 50
    assert len(run.stats["runs"]) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
def test_three_hundred_digits_far_out(depth):
    run = precise.diagonal_flow(KINKS, ONES, depth=depth, save=["1e4", "1e1000"], digits=300)
    assert run.success and run.digits >= 300


def test_progress_and_interruption():
    seen = []
    run = precise.diagonal_flow(X, ONES, save=[1, "1e20"], digits=20, progress=seen.append)
    assert run.success and max(seen) == pytest.approx(20.0)
    first = seen.index(max(seen))
    assert all(a <= b for a, b in itertools.pairwise(seen[: first + 1])) and seen[first + 1] < 1

    def stop_at(limit, passes):
        state = {"passes": 0, "last": 0.0}

        def report(decades):
            state["passes"] += decades < state["last"]
            state["last"] = decades
            if state["passes"] == passes and decades > limit:
                raise KeyboardInterrupt

        return report

    early = precise.diagonal_flow(X, ONES, save=[1, "1e20"], digits=20, progress=stop_at(5, 0))
    assert len(early.beta) == 1 and not early.success and early.digits == 0
    assert early.status == "The run was interrupted: 1 of 2 saves are there, 0 verified."
    assert error(early.beta, run.beta[:1]) < mpf("1e-20")
    late = precise.diagonal_flow(X, ONES, save=[1, "1e20"], digits=20, progress=stop_at(5, 1))
    assert len(late.beta) == 2 and not late.success
    assert late.status == "The run was interrupted: 2 of 2 saves are there, 1 verified."
    assert late.verified["beta"][0] >= 20


def test_a_bar(capsys):
    precise.diagonal_flow(X, ONES, stop="1e20", digits=20, progress=True)
    shown = capsys.readouterr().err
    assert "20.0/20.0 decades of gamma" in shown and "solving" in shown and "verifying" in shown


def test_the_summary_shows_what_matters():
    text = str(precise.diagonal_flow(X, ONES, save=[1, 10], digits=20))
    assert "verified, 20 asked for" in text and "1.0 ... 10.0 nat" in text and "depth 2, 6 inputs, 3 samples" in text


def test_precision_of_the_caller_is_left_alone():
    import flint

    flint.ctx.prec = 77
    precise.diagonal_flow(X, ONES, stop=5, digits=20)
    assert flint.ctx.prec == 77 and mp.dps == 80
    flint.ctx.prec = 53
