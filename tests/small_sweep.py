"""A sweep that takes milliseconds a point, for the tests of what goes on around the flows. They share programs."""

import diffrax
import numpy as np

import gflow
from gflow.sweeps import plan

X = np.array([[1.0, 2.0, 0.5], [0.25, -1.0, 2.0]])
y = np.ones(2)
SOLVER = diffrax.Tsit5()
SAVE = [1.0, 4.0]
SCALES = [1.0, 0.1, 2.0, 0.5, 0.2]


def network(scale, depth=2):
    return gflow.models.DiagonalNetwork(3, depth, scale)


def run(make_model=network, X=X, y=y, *, over=None, **given):
    more = {"save": SAVE, "solver": SOLVER, "rtol": 1e-6, "workers": 0, "progress": False} | given
    if more["workers"] is None:
        del more["workers"]
    over = {"scale": SCALES} if over is None else over
    if "rtol" in over and "rtol" not in given:
        del more["rtol"]
    return gflow.sweep(make_model, X, y, over=over, **more)


def planned(make_model=network, over=None, **more):
    more = {"save": SAVE, "solver": SOLVER, "rtol": 1e-6, "loss": gflow.losses.Exponential()} | more
    rest = dict.fromkeys(("stop", "metrics", "digits", "batching"))
    more = rest | {"clock": gflow.LossClock(), "max_steps": 1000} | more
    return plan.plan(make_model, X, y, over={"scale": SCALES} if over is None else over, **more)
