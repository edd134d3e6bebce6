"""Logistic in place of exponential loss: the limits stay, the transient does not.

log(1 + e^-m) = e^-m - e^-2m / 2 + ..., so that late the two flows are driven by the same weights; early they are not,
and for D > 2, where history does not fade, a small scale can carry that into the choice of the limit.
"""

from typing import Any

import numpy as np
import xarray as xr

from ... import limits
from ...losses import Exponential, Logistic
from ..figures import COLOURS
from ..report import Claim, Part
from .problems import flows, ignore, relative, Report, SAVES, separable, slopes

LOSSES = {"exponential": Exponential(), "logistic": Logistic()}


def losses(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Both losses at equal gamma, at large scales for fixed mu and at fixed scales for growing gamma.

    **Returns:** over (depth, power, mu): `gap` of beta between the losses, and `to_path`, of the logistic flow to the
    irreversible path; over (set, depth, scale, gamma): `late`, the gap at fixed scales. All relative.
    """
    depths, X, y = (2,) if quick else (2, 3), separable(33), np.ones(4)
    powers, mus = np.logspace(2, 6, 3 if quick else 5), np.geomspace(1.0, 1e-4, SAVES)
    sets, scales = ((33, 11) if quick else (33, *range(19))), np.array([0.03, 0.1, 0.3, 1.0, 3.0])
    gamma = np.geomspace(0.7, 1e40, SAVES)
    gap, to_path = (np.empty((len(depths), powers.size, SAVES)) for _ in range(2))
    late = np.empty((len(sets), len(depths), scales.size, SAVES))
    for i, depth in enumerate(depths):
        save, alphas = powers[:, None] / mus, powers ** (1 / depth)
        runs = {name: flows(X, depth, alphas, save, loss=loss, rtol=1e-10) for name, loss in LOSSES.items()}
        path = limits.irreversible_path(X, y, mus=mus, depth=depth)
        gap[i] = relative(runs["logistic"].beta, runs["exponential"].beta)
        to_path[i] = relative(runs["logistic"].direction, path.beta)
        report((i + 0.3) / len(depths))
        for k, seed in enumerate(sets):
            pair = [flows(separable(seed), depth, scales, gamma, loss=loss).beta for loss in LOSSES.values()]
            late[k, i] = relative(pair[1], pair[0])
            report((i + 0.3 + 0.7 * (k + 1) / len(sets)) / len(depths))
    dims = ("depth", "power", "mu")
    return xr.Dataset(
        {"gap": (dims, gap), "to_path": (dims, to_path), "late": (("set", "depth", "scale", "gamma"), late)},
        coords={"depth": list(depths), "power": powers, "mu": mus, "set": list(sets), "scale": scales, "gamma": gamma},
    )


def loss_claims(ds: xr.Dataset) -> list[Claim]:
    rate = lambda table: slopes(ds.power.values, table.max("mu").values)[:, -1]
    end = ds.late.isel(gamma=-1)
    cases, under = {}, {}
    for s in ds.set.values:
        for d in ds.depth.values:
            for a in ds.scale.values:
                name = f"set {s}, D = {d}, alpha = {a:g}"
                cases[name], under[name] = float(end.sel(set=s, depth=d, scale=a)) < 1e-2, a >= 1
    return [
        Claim.close("gap of logistic to exponential loss at equal gamma, largest over mu: power of alpha^D", -1.0,
                    rate(ds.gap), 0.15),
        Claim.close("logistic flow to the irreversible path: power of alpha^D", -1.0, rate(ds.to_path), 0.15),
        Claim.cases("at a fixed scale both losses end at the same point: gap below 1e-2 at gamma = 1e40", "0",
                    f"gap up to {float(end.max()):.3g}", cases, under=under,
                    condition="alpha >= 1, on the sets and depths shown here"),
        Claim.at_least("the transient differs: largest gap for gamma < 10, median over sets, depths and scales", 0.02,
                       ds.late.sel(gamma=slice(0, 10)).max("gamma").median().values),
    ]  # fmt: skip


def draw_losses(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained", sharey=True)
    for ax, s in zip(axes, (33, 11), strict=True):
        for i, depth in enumerate(ds.depth.values):
            for k, scale in enumerate((0.1, 1.0, 3.0)):
                one = ds.late.sel(set=s, depth=depth, scale=scale)
                ax.loglog(ds.gamma, one, color=COLOURS[i], ls=("-", "--", ":")[k], label=f"D = {depth}, α = {scale:g}")
        ax.set(xlabel=r"$\gamma=-\log L$", title=f"set {s}")
    # Below lies rounding.
    axes[0].set_ylim(bottom=1e-16)
    axes[0].set_ylabel("logistic against exponential loss,\nrelative gap of β at equal γ")
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


PARTS = (Part("logistic", "Beyond exponential loss", losses, loss_claims, {"logistic": draw_losses}),)
