"""Kernel, rich and intermediate limit: distances over (alpha, gamma), with predicted and measured rates.

With gamma = -log L and mu = alpha^D / gamma, beta / gamma is said to tend to

    mu -> infinity        what the linear model has at the same gamma, up to O(mu^-2); late, the l2 max margin,
    mu -> 0, alpha fixed  the l1 max margin for D = 2, a stationary point of the l_{2/D} problem for D > 2,
    alpha -> infinity     at fixed mu: the Q_mu max margin, up to O(1 / alpha^D).

Source: Moroshko et al. 2020 (arXiv 2007.06738); the rates are derived from the dual form of the flow.
"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ... import limits
from ...models import LinearModel
from ...solve import gradient_flow
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import flows, ignore, relative, Report, SAVES, separable, slopes

# Multipliers along mu are monotone for the first set; samples leave in the others.
SETS = (3, 37, 33)
# In the last set a multiplier of the l1 max margin is 1/194 of the largest.
RICH_SETS = (6, 44, 15)
# The smallest positive multiplier over the largest, from which on data count as well conditioned.
_SMALL = 0.05


def kernel(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Distance of the flow to the linear model at equal gamma, and of that to the l2 max margin.

    **Returns:** over (depth, scale, gamma): `gap`, relative; over gamma: `to_l2`. Scales are given as alpha^D.
    """
    X, gamma, depths = separable(3), np.geomspace(1.0, 100.0, SAVES), (2, 3) if quick else (2, 3, 4, 10)
    linear = gradient_flow(LinearModel(6), X, np.ones(4), save=gamma, rtol=1e-11)
    straight = np.asarray(linear.model.beta)
    powers = np.logspace(1, 5, 5 if quick else 9)
    gap = np.empty((len(depths), powers.size, SAVES))
    for i, depth in enumerate(depths):
        run = flows(X, depth, powers ** (1 / depth), gamma, rtol=1e-11)
        gap[i] = relative(run.beta, straight)
        report((i + 1) / len(depths))
    l2 = limits.l2_max_margin(X, np.ones(4)).beta
    return xr.Dataset(
        {"gap": (("depth", "power", "gamma"), gap), "to_l2": ("gamma", relative(straight / gamma[:, None], l2))},
        coords={"depth": list(depths), "power": powers, "gamma": gamma},
    )


def kernel_claims(ds: xr.Dataset) -> list[Claim]:
    late = ds.isel(gamma=[-24, -12, -1])
    claims = []
    for depth in ds.depth.values:
        one = late.gap.sel(depth=depth).transpose("gamma", "power")
        rate = slopes(ds.power.values, one.values)[:, -2:]
        text = f"D = {depth}: gap to the linear model at equal loss, power of alpha^D from 1e4 on"
        claims.append(Claim.close(text, -2.0, rate, 0.05))
    scaled = (late.gap * (late.power / late.gamma) ** 2).isel(power=-1)
    text = "gap over (gamma / alpha^D)^2 at alpha^D = 1e5: largest over smallest for gamma from 10 to 100, all D"
    spread = (scaled.max("gamma") / scaled.min("gamma")).values
    claims.append(Claim.at_most(text, 2.0, spread))
    tail = ds.isel(gamma=slice(-4, None))
    rate = slopes(tail.gamma.values, tail.to_l2.values)
    return [*claims, Claim.close("linear model to the l2 max margin: power of gamma", -1.0, rate, 0.05)]


def kernel_table(ds: xr.Dataset) -> pd.DataFrame:
    """Gaps at every depth, with the measured power of alpha^D."""
    late = ds.gap.isel(gamma=[0, 12, 24, 36, -1]).transpose("depth", "gamma", "power")
    values = late.values.reshape(-1, ds.sizes["power"])
    rows = [f"D = {d}, γ = {g:.3g}" for d in late.depth.values for g in late.gamma.values]
    frame = pd.DataFrame(values, index=rows, columns=[f"α^D = {p:.3g}" for p in ds.power.values])
    frame["measured power"] = slopes(ds.power.values, values)[:, -1]
    frame["predicted"] = -2.0
    return frame


def draw_kernel(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for k, depth in enumerate(ds.depth.values):
        one = ds.gap.sel(depth=depth).isel(gamma=slice(4, None, 6))
        x = (one.gamma / one.power).transpose(*one.dims).values.ravel()
        order = np.argsort(x)
        ax.loglog(x[order], one.values.ravel()[order], MARKERS[k], ms=4, color=COLOURS[k], label=f"D = {depth}")
    x = np.geomspace(1e-4, 1, 2)
    anchor = ds.gap.isel(power=-1, gamma=-1).min()
    ax.loglog(x, float(anchor) * (x / 1e-3) ** 2, ":", color="black", label="slope 2")
    ax.set(xlabel=r"$1/\mu=\gamma/\alpha^D$", ylabel="relative distance to the linear model")
    ax.legend(fontsize=8)
    return figure


def rich(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Fixed scales, gamma to 1e40: distance to the l1 max margin, and the KKT residual of the l_{2/D} problem."""
    seeds, scales = RICH_SETS, np.array([0.1, 1.0, 10.0])
    depths, gamma = (2, 3) if quick else (2, 3, 4), np.geomspace(1.0, 1e40, SAVES)
    shape = (len(seeds), len(depths), scales.size, SAVES)
    to_l1, residual, rho, least = np.full(shape, np.nan), np.full(shape, np.nan), [], []
    for i, seed in enumerate(seeds):
        X, y = separable(seed), np.ones(4)
        l1 = limits.l1_max_margin(X, y)
        rho.append(l1.rho_max)
        least.append(l1.multipliers[l1.multipliers > 0].min() / l1.multipliers.max())
        for j, depth in enumerate(depths):
            run = flows(X, depth, scales, gamma)
            to_l1[i, j] = relative(run.direction, l1.beta)
            residual[i, j] = limits.kkt_residual(run.direction, X, y, depth=depth)
            report((i + (j + 1) / len(depths)) / len(seeds))
    dims = ("set", "depth", "scale", "gamma")
    return xr.Dataset(
        {"to_l1": (dims, to_l1), "residual": (dims, residual), "rho_max": ("set", rho), "least": ("set", least)},
        coords={"set": list(seeds), "depth": list(depths), "scale": scales, "gamma": gamma},
    )


def rich_claims(ds: xr.Dataset) -> list[Claim]:
    claims = []
    for seed in ds.set.values[ds.least.values > _SMALL]:
        near = ds.to_l1.sel(set=seed, depth=2).values
        last = _last_power(ds, near)
        rho = float(ds.rho_max.sel(set=seed))
        text = f"D = 2, set {seed}, rho_max = {rho:.4f}: distance to the l1 max margin, power of gamma"
        claims.append(Claim.close(text, rho - 1, last, 0.01))
    deep = ds.sel(depth=ds.depth > 2).isel(gamma=-1)
    text = "D > 2: KKT residual of the l_{2/D} problem at gamma = 1e40"
    claims.append(Claim.at_most(text, 1e-6, deep.residual.values))
    for d in deep.depth.values:
        # Inputs that have not grown are of size mu^(1/D).
        rate = _last_power(ds, ds.residual.sel(depth=d).values)
        claims.append(Claim.close(f"D = {d}: that residual, power of gamma (-1/D)", -1 / d, rate, 0.01))
    cases, under = {}, {}
    for s in ds.set.values:
        for d in ds.depth.values:
            for a in ds.scale.values:
                name = f"set {s}, D = {d}, alpha = {a:g}"
                cases[name] = float(ds.to_l1.sel(set=s, depth=d, scale=a)[-1]) < 1e-2
                under[name] = d == 2 and float(ds.least.sel(set=s)) > _SMALL and float(ds.rho_max.sel(set=s)) < 0.9
    slow = float(ds.to_l1.sel(set=ds.set[ds.least < _SMALL], depth=2).isel(gamma=-1).max())
    claims.append(
        Claim.cases(
            "at a fixed scale beta / gamma tends to the l1 max margin: within 1% at gamma = 1e40", "0",
            f"distance up to {float(deep.to_l1.max()):.3g} for D > 2, and {slow:.3g} for D = 2", cases, under=under,
            condition="D = 2, rho_max < 0.9 and no positive l1 multiplier is below 1/20 of the largest",
        )
    )  # fmt: skip
    return claims


def _last_power(ds: xr.Dataset, near: np.ndarray) -> np.ndarray:
    """Powers of gamma, over the last axis, by four steps that are late and above the rounding of float64; else NaN."""
    rate = np.where((near[..., 1:] < 1e-3) & (near[..., 1:] > 1e-11), slopes(ds.gamma.values, near), np.nan)
    mean = lambda row: row[np.isfinite(row)][-4:].mean() if np.isfinite(row).sum() >= 4 else np.nan
    return np.apply_along_axis(mean, -1, rate)


_SHOWN = (1e1, 1e5, 1e10, 1e20, 1e40)


def rich_table(ds: xr.Dataset) -> pd.DataFrame:
    """Distances to the l1 max margin, with the power of gamma; for D > 2 they do not vanish."""
    rows = {}
    for s in ds.set.values:
        for d in ds.depth.values:
            predicted = float(ds.rho_max.sel(set=s)) - 1 if d == 2 else np.nan
            for a in ds.scale.values:
                one = ds.to_l1.sel(set=s, depth=d, scale=a)
                at = one.sel(gamma=list(_SHOWN), method="nearest").values
                power = float(_last_power(ds, one.values)) if d == 2 else np.nan
                rows[f"set {s}, D = {d}, α = {a:g}"] = [*at, power, predicted]
    columns = [*_at_gamma(ds), "measured power", "predicted"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def residual_table(ds: xr.Dataset) -> pd.DataFrame:
    """KKT residuals of the l_{2/D} problem, D > 2, with the power of gamma."""
    rows = {}
    for s in ds.set.values:
        for d in ds.depth.values[ds.depth.values > 2]:
            for a in ds.scale.values:
                one = ds.residual.sel(set=s, depth=d, scale=a)
                at = one.sel(gamma=list(_SHOWN), method="nearest").values
                rows[f"set {s}, D = {d}, α = {a:g}"] = [*at, float(_last_power(ds, one.values)), -1 / d]
    columns = [*_at_gamma(ds), "measured power", "predicted"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _at_gamma(ds: xr.Dataset) -> list[str]:
    return [f"γ = {g:.0e}" for g in ds.gamma.sel(gamma=list(_SHOWN), method="nearest").values]


def draw_rich(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, ds.sizes["set"], figsize=(4.2 * ds.sizes["set"] + 1.3, 7), layout="constrained",
                                sharex=True, sharey="row")  # fmt: skip
    for column, s in enumerate(ds.set.values):
        top, bottom = axes[:, column]
        for j, depth in enumerate(ds.depth.values):
            for k, scale in enumerate(ds.scale.values):
                # Wide below, narrow above: lines that coincide are all seen.
                style: dict = {"color": COLOURS[j], "ls": ("-", "--", ":")[k], "lw": (3.0, 1.9, 1.2)[k],
                               "alpha": (0.45, 1.0, 1.0)[k], "label": f"D = {depth}, α = {scale:g}"}  # fmt: skip
                one = ds.sel(set=s, depth=depth, scale=scale)
                top.loglog(ds.gamma, one.to_l1, **style)
                if depth > 2:
                    bottom.loglog(ds.gamma, one.residual, **style)
        top.set_title(f"set {s}")
        bottom.set(xlabel=r"$\gamma=-\log L$")
    axes[0, 0].set_ylabel(r"relative distance to the $\ell_1$ max margin")
    axes[1, 0].set_ylabel(r"KKT residual of min $\|\beta\|_{2/D}$")
    axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def intermediate(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Gap of the flow to Q_mu and to the irreversible path at mu = alpha^D / gamma, for growing scales.

    **Returns:** over (set, depth, power, mu): `gap_Q` and `gap_path`, relative; over (set, depth, mu): `left`.
    """
    depths = (2, 3) if quick else (2, 3, 4, 10)
    powers, mus = np.logspace(1, 6, 6), np.geomspace(1e1, 1e-3, SAVES)
    shape = (len(SETS), len(depths), powers.size, SAVES)
    to_q, to_path, left = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros((*shape[:2], SAVES), int)
    for i, seed in enumerate(SETS):
        X, y = separable(seed), np.ones(4)
        for j, depth in enumerate(depths):
            run = flows(X, depth, powers ** (1 / depth), powers[:, None] / mus, rtol=1e-10)
            path = limits.irreversible_path(X, y, mus=mus, depth=depth)
            to_q[i, j] = relative(run.direction, limits.q_max_margin(X, y, mu=mus, depth=depth).beta)
            to_path[i, j] = relative(run.direction, path.beta)
            left[i, j] = path.left.any(-1)
            report((i + (j + 1) / len(depths)) / len(SETS))
    dims = ("set", "depth", "power", "mu")
    return xr.Dataset(
        {"gap_Q": (dims, to_q), "gap_path": (dims, to_path), "left": (("set", "depth", "mu"), left)},
        coords={"set": list(SETS), "depth": list(depths), "power": powers, "mu": mus},
    )


def intermediate_claims(ds: xr.Dataset) -> list[Claim]:
    rate = lambda gap: np.mean(slopes(ds.power.values, gap.max("mu").values)[..., -2:], axis=-1)
    all_paths = rate(ds.gap_path)
    worst = ds.gap_Q.max("mu").isel(power=-1)
    monotone = {s: int(ds.left.sel(set=s).max()) == 0 for s in ds.set.values}
    cases, under = {}, {}
    for s in ds.set.values:
        for d in ds.depth.values:
            name = f"set {s}, D = {d}"
            cases[name] = float(worst.sel(set=s, depth=d)) < 1e-2
            under[name] = int(ds.left.sel(set=s, depth=d).max()) == 0
    held = [v for s in ds.set.values if monotone[s] for v in np.ravel(rate(ds.gap_Q.sel(set=s)))]
    frozen = ds.gap_Q.where(ds.left > 0).max("mu")
    change = np.abs(frozen.isel(power=-1) / frozen.isel(power=-2) - 1).values
    return [
        Claim.close("gap to the irreversible path, largest over mu: power of alpha^D", -1.0, all_paths, 0.05),
        Claim.close("gap to Q_mu on monotone data, largest over mu: power of alpha^D", -1.0, held, 0.05),
        Claim.cases(
            "alpha -> infinity at fixed mu leads to the Q_mu max margin: gap below 1e-2 at alpha^D = 1e6", "0",
            f"gap up to {float(worst.max()):.4g}", cases, condition="no sample leaves the margin", under=under,
        ),
        Claim.at_most(
            "where a sample has left, the gap to Q_mu is settled: change from alpha^D = 1e5 to 1e6", 0.01,
            change[np.isfinite(change)],
        ),
    ]  # fmt: skip


def intermediate_table(ds: xr.Dataset) -> pd.DataFrame:
    """Largest gaps over mu."""
    rows = {}
    for s in ds.set.values:
        for d in ds.depth.values:
            for name, label in (("gap_Q", "Q_μ"), ("gap_path", "irreversible path")):
                gap = ds[name].sel(set=s, depth=d).max("mu").values
                measured = float(slopes(ds.power.values, gap)[-1])
                rows[f"set {s}, D = {d}: to {label}"] = [*gap, measured, -1.0]
    columns = [*(f"α^D = {p:.0e}" for p in ds.power.values), "measured power", "predicted"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def draw_intermediate(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, ds.sizes["set"], figsize=(12.5, 3.8), layout="constrained", sharey=True)
    for ax, s in zip(axes, ds.set.values, strict=True):
        for k, d in enumerate(ds.depth.values[:2]):
            one = ds.sel(set=s, depth=d)
            colour = COLOURS[k]
            ax.loglog(ds.power, one.gap_Q.max("mu"), "o-", color=colour, label=rf"to $Q_\mu$, D = {d}")
            ax.loglog(ds.power, one.gap_path.max("mu"), "s--", mfc="none", ms=9 - 4 * k, color=colour,
                      label=f"to the path, D = {d}")  # fmt: skip
        ax.set(xlabel=r"$\alpha^D$", title=f"set {s}" + (", samples leave" if int(ds.left.sel(set=s).max()) else ""))
    line = np.array([1e4, 1e6])
    axes[0].loglog(line, 3 * float(ds.gap_path.isel(set=0, depth=0, power=-1).max()) * 1e6 / line, ":", color="black",
                   label="slope −1")  # fmt: skip
    axes[0].set_ylabel(r"largest relative gap over $10^{-3}\leq\mu\leq 10$")
    axes[0].legend(fontsize=8)
    return figure


PARTS = (
    Part("kernel", "Kernel regime: the linear model at the same loss", kernel, kernel_claims, {"kernel": draw_kernel},
         {"Relative distance to the linear model": kernel_table}),
    Part("rich", "Rich regime: fixed scale, losses to e^(-1e40)", rich, rich_claims, {"rich": draw_rich},
         {"Relative distance of β/γ to the ℓ1 max margin; for D > 2 it is not the limit, and has no rate": rich_table,
          "KKT residual of the ℓ2/D problem, D > 2: inputs that have not grown are of size μ^(1/D)": residual_table}),
    Part("intermediate", "Between them: large scales at fixed μ = α^D / γ", intermediate, intermediate_claims,
         {"intermediate": draw_intermediate},
         {"Largest relative gap of β/γ over 0.001 ≤ μ ≤ 10": intermediate_table}),
)  # fmt: skip
