"""The first page of docs/start.md as a script, for environments that hold nothing but the wheel: `make package`."""

import importlib.util

import jax.numpy as jnp

import gflow
import gflow.datasets
from gflow import precise


def main():
    assert importlib.util.find_spec("matplotlib") is None, "meant for an environment without extras"
    data = gflow.datasets.load("toy")
    model = gflow.models.DiagonalNetwork(dim=6, depth=2, scale=0.1)
    traj = gflow.gradient_flow(model, data.X, data.y, save=gflow.decades(jnp.array([1.0, 10.0, 100.0, 1000.0])))
    print(traj)
    assert traj.success and traj.model.beta.shape == (4, 6)
    l1 = gflow.limits.l1_max_margin(data.X, data.y)
    assert 0 < gflow.limits.excess_l1(traj.model.beta[-1] / traj.neg_log_loss[-1], l1) < 0.1
    assert dict(traj.to_xarray().sizes)["save"] == 4
    assert precise.diagonal_flow([[1, 2], [2, -1]], [1, 1], scale="1/8", stop="1e6", digits=30).digits >= 30


if __name__ == "__main__":
    main()
