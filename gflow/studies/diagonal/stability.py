"""Finite steps: where gradient descent with step eta can stay, and the l1 norm there.

At zero loss (square loss, mean over samples) the Hessian is J^T J / n with rows 2 (x_n u_+, -x_n u_-), so that its
largest eigenvalue is at least that along the mean of the samples, 4 sum_i mean(x)_i^2 |beta_i|. Descent stays only
where it is at most 2 / eta: on data that are not centred this bounds a weighted l1 norm by 1 / (2 eta), and larger
steps end at a smaller norm than the flow (Nacson et al. 2022, "Implicit bias of the step size in linear diagonal
neural networks").
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from ...descent import gradient_descent
from ...losses import Square
from ..figures import COLOURS
from ..report import Claim, Part
from .problems import ignore, Report

LOSS = Square()
DIM, SCALE, STEPS = 12, 0.1, 30_000


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

    **Returns:** over eta: `loss`, `sharpness`, `l1` and `weighted`, sum_i mean(x)_i^2 |beta_i|, where descent ended.
    """
    rng = np.random.default_rng(2)
    X = 1.0 + rng.normal(size=(6, DIM))
    teacher = np.zeros(DIM)
    teacher[:2] = 1.0, -0.7
    y = X @ teacher
    etas = np.linspace(0.03, 0.3, 10 if quick else 19)
    model, rows = Weights(jnp.full((2, DIM), SCALE)), []
    for k, eta in enumerate(etas):
        run = gradient_descent(model, X, y, loss=LOSS, step=eta, steps=STEPS, throw=False)
        u, loss = np.asarray(run.final.u), float(np.exp(-np.asarray(run.neg_log_loss)[-1]))
        if run.success and 0 < loss < 1e-12 and np.all(np.isfinite(u)):
            beta = np.abs(u[0] ** 2 - u[1] ** 2)
            rows.append((loss, sharpness(u, X, y), beta.sum(), X.mean(axis=0) ** 2 @ beta))
        else:
            rows.append((np.nan,) * 4)
        report((k + 1) / etas.size)
    loss, sharp, norm, weighted = np.array(rows).T
    return xr.Dataset(
        {"loss": ("eta", loss), "sharpness": ("eta", sharp), "l1": ("eta", norm), "weighted": ("eta", weighted)},
        coords={"eta": etas},
    )


def step_claims(ds: xr.Dataset) -> list[Claim]:
    there = ds.dropna("eta")
    beyond = there.where(there.eta > 2 / float(there.sharpness[0]), drop=True)
    smaller = {f"eta = {eta:.3g}": float(beyond.l1.sel(eta=eta)) < float(there.l1[0]) for eta in beyond.eta.values}
    return [
        Claim.at_least("step sizes that settle at zero loss", 5, there.sizes["eta"]),
        Claim.at_most("where descent settles: sharpness times eta / 2", 1.0 + 1e-3,
                      (there.sharpness * there.eta / 2).values),
        Claim.at_most("weighted l1 norm times 2 eta", 1.0 + 1e-3, (there["weighted"] * 2 * there.eta).values),
        Claim.at_most("least l1 norm of a step that settles beyond 2 / sharpness of the flow, over that of the flow",
                      0.95, (beyond.l1.min() / there.l1[0]).values),
        Claim.cases("every step beyond 2 / sharpness of the flow that settles ends at a smaller l1 norm than the flow",
                    "all", f"l1 norms {float(beyond.l1.min()):.4g} to {float(beyond.l1.max()):.4g}, flow "
                    f"{float(there.l1[0]):.4g}", smaller),
    ]  # fmt: skip


def draw_steps(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    there = ds.dropna("eta")
    left.semilogy(there.eta, there.sharpness, "o-", color=COLOURS[0], label="sharpness at the end")
    left.semilogy(there.eta, 4 * there["weighted"], "s--", color=COLOURS[1], label=r"4 × weighted $\ell_1$ norm")
    left.semilogy(there.eta, 2 / there.eta, ":", color="black", label="2/η")
    left.set(xlabel="step size η", ylabel="largest Hessian eigenvalue")
    left.legend(fontsize=8)
    right.plot(there.eta, there.l1, "o-", color=COLOURS[0])
    right.set(xlabel="step size η", ylabel=r"$\ell_1$ norm at the end")
    return figure


PARTS = (Part("finite-steps", "Finite steps: stability and the l1 norm", finite_steps, step_claims,
              {"finite-steps": draw_steps}),)  # fmt: skip
