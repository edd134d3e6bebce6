"""Phase diagram: excess of l1 norm over initialization scale and accuracy, and whether mu = alpha^D / gamma says it
all.

If it did, the excess at every (alpha, gamma) would be that of one curve in mu, the irreversible path. That is its
limit for large alpha; how large alpha must be is measured here.
"""

import functools
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ... import limits, plots
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .accuracy import excess
from .problems import flows, ignore, Report, SAVES, separable, share, sparse_teacher

GAMMA = np.geomspace(2.5, 1e6, SAVES)
CLOSE = 0.1  # of the excess on the curve
FLOOR = 1e-6  # of excess l1 norm, below which nothing is asked
LATE = 100.0  # of gamma, from which on the two are compared


def data(quick: bool) -> dict[str, np.ndarray]:
    """The data sets by name."""
    sets = {"counterexample (N = 4, d = 6)": separable(33)}
    more = {"Gaussian (N = 3, d = 6)": separable(0, 3, 6), "sparse teacher (N = 10, d = 30)": sparse_teacher()}
    return sets if quick else sets | more


def diagram(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Excess of l1 norm at margin 1.

    **Returns:** over (set, depth, scale, gamma): `excess` of the flow and `path`, that of the irreversible path at the
    same mu; `arrived` per flow.
    """
    sets, depths, scales = data(quick), (2, 3) if quick else (2, 3, 4, 10), np.logspace(-2, 1, 13 if quick else 31)
    shape = (len(sets), len(depths), scales.size, SAVES)
    flow, path, arrived = np.full(shape, np.nan), np.full(shape, np.nan), np.ones(shape[:3], int)
    for i, X in enumerate(sets.values()):
        l1 = limits.l1_max_margin(X, np.ones(len(X)))
        for j, depth in enumerate(depths):
            part = functools.partial(share, report, i * len(depths) + j, len(sets) * len(depths))
            run = flows(X, depth, scales, GAMMA, rtol=1e-7, report=part)
            flow[i, j], arrived[i, j] = excess(X, run.beta, l1), run.arrived
            log_mu = depth * np.log(scales)[:, None] - np.log(GAMMA)
            grid = np.linspace(log_mu.min(), log_mu.max(), 241)
            along = limits.irreversible_path(X, np.ones(len(X)), mus=np.exp(grid), depth=depth)
            path[i, j] = np.interp(log_mu, grid, limits.excess_l1(along.beta, l1))
    dims = ("set", "depth", "scale", "gamma")
    return xr.Dataset(
        {"excess": (dims, np.where(np.isfinite(flow), flow, np.nan)), "path": (dims, path),
         "arrived": (dims[:3], arrived)},
        coords={"set": list(sets), "depth": list(depths), "scale": scales, "gamma": GAMMA},
    )  # fmt: skip


def _off(ds: xr.Dataset) -> xr.DataArray:
    """Largest distance of a flow's excess from the curve, relative to the curve."""
    return (np.abs(ds.excess - ds.path) / np.maximum(ds.path, FLOOR)).sel(gamma=slice(LATE, None)).max("gamma")


def diagram_claims(ds: xr.Dataset) -> list[Claim]:
    off, cases, under = _off(ds), {}, {}
    for s in ds.set.values:
        for d in ds.depth.values:
            for a in ds.scale.values:
                value = float(off.sel(set=s, depth=d, scale=a))
                if np.isfinite(value):
                    name = f"{s}, D = {d}, alpha = {a:.3g}"
                    cases[name], under[name] = value < CLOSE, a**d >= 9.99
    small = off.where(ds.scale < 0.1).max("scale").sel(depth=2)
    text = f"collapse on mu: excess of the flow within {CLOSE:.0%} of one curve in mu, for gamma from 100 to 1e6"
    return [
        Claim.at_most("flows that did not arrive at gamma = 1e6", 0, int((ds.arrived == 0).sum())),
        Claim.cases(text, "0", f"off by up to {float(off.max()):.3g} times its excess", cases,
                    condition="alpha^D >= 10, on the sets shown here", under=under),
        Claim.at_least("D = 2, alpha < 0.1: largest distance over that curve's excess, each data set", 2,
                       small.dropna("set").values),
    ]  # fmt: skip


def diagram_table(ds: xr.Dataset) -> pd.DataFrame:
    off = _off(ds)
    chosen = ds.scale.values[:: max(1, ds.sizes["scale"] // 6)]
    rows = {
        f"{s}, D = {d}": [float(off.sel(set=s, depth=d, scale=a)) for a in chosen]
        for s in ds.set.values for d in ds.depth.values if np.isfinite(off.sel(set=s, depth=d)).any()
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index", columns=[f"α = {a:.2g}" for a in chosen])


def draw_diagram(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    panels = [(s, d) for d in ds.depth.values for s in ds.set.values if np.isfinite(ds.path.sel(set=s, depth=d)).any()]
    columns = ds.sizes["set"] if len(panels) > 3 else len(panels)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.9 * rows), layout="constrained", squeeze=False)
    table = xr.Dataset(
        {"excess_l1": ds.excess, "Q_excess_l1": ds.path, "mu": ds.scale**ds.depth / ds.gamma}
    ).assign_coords(gamma=ds.gamma / np.log(10))
    table = table.rename(gamma="decades").transpose("set", "depth", "scale", "decades")
    for ax, (s, d) in zip(axes.ravel(), panels, strict=False):
        plots.phase_diagram(table.sel(set=s), int(d), ax, label=r"excess $\ell_1$ norm at margin 1")
        ax.set_title(f"{s}, D = {d}", fontsize=10)
    for ax in axes.ravel()[len(panels) :]:
        ax.set_axis_off()
    return figure


def draw_collapse(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    size = (ds.sizes["depth"], ds.sizes["set"])
    figure, axes = plt.subplots(*size, figsize=(4.2 * size[1] + 1.3, 3.1 * size[0]), layout="constrained",
                                squeeze=False, sharey="col")  # fmt: skip
    chosen = [a for a in ds.scale.values if abs(np.log10(a) * 2 % 1) < 1e-9][1:]
    shades = plt.get_cmap("cividis")(np.linspace(0.95, 0.0, len(chosen)))
    for row, d in enumerate(ds.depth.values):
        for ax, s in zip(axes[row], ds.set.values, strict=True):
            one = ds.sel(set=s, depth=d, gamma=slice(10, None))
            for shade, marker, a in zip(shades, MARKERS * 2, chosen, strict=False):
                at = one.sel(scale=a)
                ax.loglog(a**d / one.gamma, at.excess, marker, ms=3.5, color=shade, mfc="none", label=f"α = {a:.2g}")
            flat = one.stack(point=("scale", "gamma"))
            mu = (flat.scale**d / flat.gamma).values
            order = np.argsort(mu)
            ax.loglog(mu[order], flat.path.values[order], color=COLOURS[1], lw=1.5, label="irreversible path")
            ax.set(xlabel=rf"$\mu=\alpha^{{{d}}}/\gamma$", xlim=(1e-10, 1e3), ylim=(FLOOR, 30))
            ax.set_title(f"{s}, D = {d}", fontsize=10)
        axes[row, 0].set_ylabel(r"excess $\ell_1$ norm at margin 1")
    axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


PARTS = (
    Part("phase-diagram", "Phase diagram, and its collapse on μ", diagram, diagram_claims,
         {"phase-diagram": draw_diagram, "collapse": draw_collapse},
         {"Largest distance of the excess from one curve in μ, relative, γ from 100 to 1e6": diagram_table}),
)  # fmt: skip
