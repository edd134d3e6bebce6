"""Observed errors over the requested tolerance: `python tests/test_tolerance.py` prints the table of the docs."""

import numpy as np
import pytest
from common import LOSSES, relative, X, y
from oracles import scipy_path

import gflow

RTOLS = (1e-4, 1e-6, 1e-8, 1e-10, 1e-11)
PROBLEMS = [(loss, depth, scale) for loss in LOSSES for depth in (2, 3, 4) for scale in (1e-6, 0.1, 1.0, 30.0)]
TARGETS = np.array([1.0, -0.5])


def observed(loss, depth, scale, rtols=RTOLS):
    """The worst relative error of beta, and of t, over the saves, for each tolerance; and the steps."""
    labels = TARGETS if loss == "square" else y
    gammas = np.array([1.3, 3.0, 8.0, 12.0]) if loss == "square" else np.array([0.7, 3.0, 20.0, 60.0])
    truth, log_times = scipy_path(X, labels, loss, depth, scale, gammas)
    rows = []
    for rtol in rtols:
        model = gflow.models.DiagonalNetwork(3, depth, scale)
        traj = gflow.gradient_flow(model, X, labels, loss=LOSSES[loss], save=gammas, rtol=rtol)
        errors = relative(traj.model.beta, truth).max(), np.abs(np.expm1(traj.log_time - log_times)).max()
        rows.append((*errors, int(traj.stats["steps"] + traj.stats["rejections"])))
    return rows


# One problem of each loss and depth in the fast suite, all of them in the slow one.
FAST = [("exponential", 2, 1e-6), ("exponential", 3, 1.0), ("square", 2, 1.0)]


@pytest.mark.parametrize(
    "loss, depth, scale", [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in PROBLEMS]
)
def test_errors_stay_below_ten_times_the_tolerance(loss, depth, scale):
    for rtol, (beta, time, _) in zip(RTOLS, observed(loss, depth, scale), strict=True):
        # Near L = 1e-11 the residuals of the square loss hold ten digits, and so does t.
        floor = 1e-10 if loss == "square" else 0.0
        assert beta < 10 * rtol and time < 10 * rtol + floor


@pytest.mark.parametrize("loss", ["exponential", pytest.param("logistic", marks=pytest.mark.slow)])
def test_times_of_collocation_stay_below_ten_times_the_tolerance(loss):
    """While the loss falls by orders of magnitude in a step, t is not superconvergent: it was off by 390 rtol."""
    gammas = np.array([0.7, 3.0, 10.0, 20.0, 40.0, 60.0])
    truth, log_times = scipy_path(X, y, loss, 2, 1e-6, gammas)
    for rtol in RTOLS[:4]:
        model, solver = gflow.models.DiagonalNetwork(3, 2, 1e-6), gflow.LogRadau()
        traj = gflow.gradient_flow(model, X, y, loss=LOSSES[loss], save=gammas, rtol=rtol, solver=solver)
        assert relative(traj.model.beta, truth).max() < 10 * rtol
        assert np.abs(np.expm1(traj.log_time - log_times)).max() < 10 * rtol


def main():
    print("loss         D  scale   " + "  ".join(f"{'rtol ' + format(r, 'g'):>19}" for r in RTOLS))
    print("                        " + "  ".join(f"{'beta':>6} {'t':>6} {'steps':>5}" for _ in RTOLS))
    for loss, depth, scale in PROBLEMS:
        cells = [
            f"{beta / rtol:6.2g} {time / rtol:6.2g} {steps:5}"
            for rtol, (beta, time, steps) in zip(RTOLS, observed(loss, depth, scale), strict=True)
        ]
        print(f"{loss:12} {depth} {scale:6g}   " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
