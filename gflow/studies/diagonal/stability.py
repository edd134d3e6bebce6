"""Finite steps: where gradient descent with step eta can stay, and the l1 norm there.

At zero loss (square loss, mean over samples) the Hessian is J^T J / n with rows 2 (x_n u_+, -x_n u_-), so that its
largest eigenvalue is at least that along the mean of the samples, 4 sum_i mean(x)_i^2 |beta_i|. Descent stays only
where it is at most 2 / eta: on data that are not centred this bounds a weighted l1 norm by 1 / (2 eta) (Nacson et al.
2022, "Implicit bias of the step size in linear diagonal neural networks"). Whether the plain l1 norm is smaller than
that of the flow, too, is a matter of the data.
"""

import itertools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from ...descent import gradient_descent
from ...losses import Square
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import ignore, Report

LOSS = Square()
DIM, SCALE, STEPS = 12, 0.1, 30_000
# Of samples; that of the first is drawn whole.
SEEDS = (2, 0, 1, 3, 4, 5)


class Weights(eqx.Module):
    """f(x) = (u_+^2 - u_-^2) . x in the weights themselves, which large steps may carry through zero."""

    u: Float[Array, "2 d"]

    @property
    def beta(self) -> Float[Array, " d"]:
        return self.u[..., 0, :] ** 2 - self.u[..., 1, :] ** 2

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.beta @ x


def sharpness(u: np.ndarray, X: np.ndarray, y: np.ndarray) -> float:
    """The largest eigenvalue of the Hessian of the mean of (f - y)^2 / 2."""
    rows, residual = 2 * np.hstack([X * u[0], -X * u[1]]), X @ (u[0] ** 2 - u[1] ** 2) - y
    bend = 2 * np.concatenate([X.T @ residual, -X.T @ residual])
    return float(np.linalg.eigvalsh((rows.T @ rows + np.diag(bend)) / len(X))[-1])


def finite_steps(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Descent from one start with growing steps, on samples of mean 1 in every coordinate.

    The smallest step stands for the flow; NaN is where descent does not settle at zero loss.

    **Returns:** over (set, eta): `loss`, `sharpness`, `l1` and `weighted`, sum_i mean(x)_i^2 |beta_i|, where descent
    ended.
    """
    etas, seeds = np.linspace(0.03, 0.3, 10 if quick else 19), SEEDS[: 2 if quick else None]
    model, rows = Weights(jnp.full((2, DIM), SCALE)), []
    for k, (seed, eta) in enumerate(itertools.product(seeds, etas)):
        X, y = _samples(seed)
        run = gradient_descent(model, X, y, loss=LOSS, step=eta, steps=STEPS, throw=False)
        u, loss = np.asarray(run.final.u), float(np.exp(-np.asarray(run.neg_log_loss)[-1]))
        if run.success and 0 < loss < 1e-12 and np.all(np.isfinite(u)):
            beta = np.abs(u[0] ** 2 - u[1] ** 2)
            rows.append((loss, sharpness(u, X, y), beta.sum(), X.mean(axis=0) ** 2 @ beta))
        else:
            rows.append((np.nan,) * 4)
        report((k + 1) / (len(seeds) * etas.size))
    names, table = ("loss", "sharpness", "l1", "weighted"), np.reshape(rows, (len(seeds), etas.size, 4))
    return xr.Dataset(
        {name: (("set", "eta"), table[..., k]) for k, name in enumerate(names)},
        coords={"set": list(seeds), "eta": etas},
    )


def _samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, teacher = 1.0 + np.random.default_rng(seed).normal(size=(6, DIM)), np.zeros(DIM)
    teacher[:2] = 1.0, -0.7
    return X, X @ teacher


def step_claims(ds: xr.Dataset) -> list[Claim]:
    first, smaller, ratios = ds.isel(set=0).dropna("eta"), {}, []
    for seed in ds.set.values:
        one = ds.sel(set=seed).dropna("eta")
        beyond = one.where(one.eta > 2 / float(one.sharpness[0]), drop=True)
        if beyond.eta.size:
            ratio = (beyond.l1 / one.l1[0]).values
            smaller[f"set {seed}"] = bool(np.all(ratio < 1.0))
            ratios += ratio.tolist()
    settled = ds.sharpness.notnull()
    return [
        Claim.at_least(f"step sizes that settle at zero loss on set {SEEDS[0]}", 5, first.sizes["eta"]),
        Claim.at_most("where descent settles: sharpness times eta / 2", 1.0 + 1e-3,
                      (ds.sharpness * ds.eta / 2).values[settled.values]),
        Claim.at_most("weighted l1 norm times 2 eta", 1.0 + 1e-3,
                      (ds["weighted"] * 2 * ds.eta).values[settled.values]),
        Claim.cases("every step beyond 2 / sharpness of the flow that settles ends at a smaller l1 norm than the flow",
                    "on every set", f"l1 norms {min(ratios):.3g} to {max(ratios):.3g} of the flow's", smaller),
    ]  # fmt: skip


def draw_steps(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    there = ds.isel(set=0).dropna("eta")
    left.semilogy(there.eta, there.sharpness, "o-", color=COLOURS[0], label="sharpness at the end")
    left.semilogy(there.eta, 4 * there["weighted"], "s--", color=COLOURS[1], label=r"4 × weighted $\ell_1$ norm")
    left.semilogy(there.eta, 2 / there.eta, ":", color="black", label="2/η")
    left.set(xlabel="step size η", ylabel="largest Hessian eigenvalue")
    left.legend(fontsize=8)
    for k, seed in enumerate(ds.set.values):
        one = ds.sel(set=seed).dropna("eta")
        right.plot(one.eta, one.l1 / one.l1[0], f"{MARKERS[k]}-", ms=4, color=COLOURS[k], label=f"set {seed}")
    right.axhline(1.0, color="0.6", lw=0.8)
    right.set(xlabel="step size η", ylabel=r"$\ell_1$ norm at the end over that of the flow")
    right.legend(fontsize=8)
    return figure


PARTS = (Part("finite-steps", "Finite steps: stability and the l1 norm", finite_steps, step_claims,
              {"finite-steps": draw_steps}),)  # fmt: skip
