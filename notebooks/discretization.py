"""Gradient descent against gradient flow: distances of order eta and eta^2, and the edge of stability.

    JAX_ENABLE_X64=1 python notebooks/discretization.py --out discretization-output

The figures of `gflow reproduce discretization`, and a network of the user's own beside its modified flow.
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import gflow  # noqa: E402
from gflow.studies import discretization  # noqa: E402


def network_of_ones_own():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10, 3)), rng.normal(size=10)
    network = eqx.nn.MLP(3, "scalar", 8, 1, activation=jax.nn.tanh, key=jax.random.key(0))
    weights = lambda model: np.concatenate([np.ravel(v) for v in jax.tree.leaves(eqx.filter(model, eqx.is_array))])
    until = dict(loss=gflow.losses.Square(), clock=gflow.TimeClock(), stop=4.0, rtol=1e-9)
    flow = weights(gflow.gradient_flow(network, X, y, **until).final)
    for eta in (0.1, 0.05, 0.025):
        down = weights(gflow.gradient_descent(network, X, y, loss=until["loss"], step=eta, steps=round(4 / eta)).final)
        near = weights(gflow.modified(gflow.gradient_flow, eta)(network, X, y, **until).final)
        print(f"eta = {eta:<6g} distance to the flow {np.linalg.norm(down - flow):.2e}, "
              f"to the modified flow {np.linalg.norm(down - near):.2e}")  # fmt: skip


def main(out="discretization-output"):
    network_of_ones_own()
    Path(out).mkdir(parents=True, exist_ok=True)
    for part in discretization.STUDY.parts:
        ds = part.compute(True, lambda done: None)
        for claim in part.claims(ds):
            print("holds" if claim.holds else "does not hold", "|", claim.text, "|", claim.measurement)
        for name, draw in part.figures.items():
            draw(ds).savefig(Path(out) / f"{name}.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="discretization-output")
    main(parser.parse_args().out)
