"""Gradient descent next to the flow, at equal loss: how far apart as the step size falls.

Plain steps u -= eta grad L, and steps divided by the loss, u += eta grad gamma, which go to any loss (Lyu & Li 2020,
arXiv 1906.05890). Descent leaves the flow by O(eta); in u it does not keep u_+ u_- = alpha^2.
"""

from typing import Any

import numpy as np
import xarray as xr

from ...clocks import LossClock
from ...descent import gradient_descent
from ...models import DiagonalNetwork
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import flows, ignore, relative, Report, SAVES, separable, slopes

KINDS = ("plain", "divided by the loss")
POINTS = SAVES // 2


def steps(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Descent and flow on set 33 from alpha = 1, at the losses that descent passes.

    **Returns:** over (depth, kind, eta, point): `gap` of beta, relative, and `gamma` of the iterate.
    """
    X, y, depths = separable(33), np.ones(4), (2,) if quick else (2, 3)
    etas = 0.01 / 2.0 ** np.arange(3 if quick else 5)
    shape = (len(depths), 2, etas.size, POINTS)
    gap, gammas = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, depth in enumerate(depths):
        for j, kind in enumerate(KINDS):
            aims = np.linspace(1.0, 7.0, POINTS) if kind == "plain" else np.geomspace(1.0, 1e3, POINTS)
            for k, eta in enumerate(etas):
                run = gradient_descent(
                    DiagonalNetwork(6, depth, 1.0), X, y, step=eta, steps=10_000_000, clock=LossClock(), save=aims,
                    normalize=None if kind == "plain" else "loss",
                )  # fmt: skip
                gamma = np.asarray(run.neg_log_loss)
                beta, own = np.asarray(run.model.beta), np.unique(gamma)
                # The flow at the very losses of the iterates, and at points between to fill up its saves.
                spare = np.linspace(own[0], own[-1], 4 * SAVES)[1:-1]
                spare = spare[np.min(np.abs(spare[:, None] - own), axis=1) > 1e-6][: SAVES - own.size]
                save = np.sort(np.append(own, spare))
                flow = flows(X, depth, [1.0], save, rtol=1e-10).beta[0]
                gap[i, j, k] = relative(beta, flow[np.searchsorted(save, gamma)])
                gammas[i, j, k] = gamma
                report((i * 2 + j + (k + 1) / etas.size) / (2 * len(depths)))
    dims = ("depth", "kind", "eta", "point")
    return xr.Dataset(
        {"gap": (dims, gap), "gamma": (dims, gammas)},
        coords={"depth": list(depths), "kind": list(KINDS), "eta": etas},
    )


def step_claims(ds: xr.Dataset) -> list[Claim]:
    claims = []
    for kind in KINDS:
        largest = ds.gap.sel(kind=kind).max("point").values
        text = f"steps {kind}: largest gap to the flow at equal loss, power of eta" if kind != "plain" else (
            "plain steps: largest gap to the flow at equal loss, power of eta")  # fmt: skip
        claims.append(Claim.close(text, 1.0, slopes(ds.eta.values, largest), 0.1))
    least = ds.gap.isel(eta=-1).max(("point", "kind"))
    claims.append(Claim.at_most("largest gap at the smallest step, each depth", 0.05, least.values))
    late = ds.gamma.sel(kind=KINDS[1]).isel(point=-1)
    return [*claims, Claim.at_least("steps divided by the loss: last gamma", 1e3, late.values)]


def draw_steps(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    grey = np.linspace(0.7, 0.0, ds.sizes["eta"])
    for ax, kind in zip(axes[:2], KINDS, strict=True):
        for k, eta in enumerate(ds.eta.values):
            one = ds.sel(depth=2, kind=kind, eta=eta)
            ax.loglog(one.gamma, one.gap, color=(float(grey[k]),) * 3, label=f"η = {eta:.3g}")
        ax.set(xlabel=r"$\gamma=-\log L$", title=f"{kind} steps, D = 2" if kind == "plain" else f"steps {kind}, D = 2")
    axes[0].set_ylabel("relative gap of descent to the flow")
    axes[0].legend(fontsize=8)
    for i, depth in enumerate(ds.depth.values):
        for j, kind in enumerate(KINDS):
            one = ds.gap.sel(depth=depth, kind=kind).max("point")
            axes[2].loglog(ds.eta, one, MARKERS[i] + ("-", "--")[j], color=COLOURS[i], label=f"D = {depth}, {kind}")
    line = float(ds.gap.isel(depth=0, kind=0, eta=0).max()) * ds.eta / ds.eta[0]
    axes[2].loglog(ds.eta, 2 * line, ":", color="black", label="slope 1")
    axes[0].set_xscale("linear")
    axes[2].xaxis.set_minor_formatter("")
    axes[2].set(xlabel="step size η", ylabel="largest relative gap")
    axes[2].set_ylim(top=6 * float(ds.gap.max()))
    axes[2].legend(fontsize=8, loc="upper left")
    return figure


PARTS = (Part("descent", "Gradient descent next to the flow", steps, step_claims, {"descent": draw_steps}),)
