"""The limit of large scales is an irreversible path: how often it is not the Q_mu max margin, and by how much.

Along the flow beta = alpha^D h_D(w), w in proportion to X^T nu, where nu_n is the integral of the weight of sample n
and cannot decrease. The Q_mu problem asks for a multiplier of zero where a sample has left the margin; the flow keeps
what it had. `gflow.limits.irreversible_path` is the limit with this history. Random data decide how much it matters.
"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ... import limits
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import flows, ignore, relative, Report, SAVES, separable

MUS = np.geomspace(1e2, 1e-4, SAVES)
# alpha^D of the flows that decide between the two; errors of the limit are some 1 / POWER.
POWER = 1e6
# Relative differences from here on are told apart by those flows.
APART = 1e-3


def random_sets(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Both limits on random data sets, N = 4, d = 6, and the flow at alpha^D = 1e6 beside them.

    **Returns:** over (depth, set, mu): `difference` of the two limits, `to_Q` and `to_path` of the flow, all relative
    in l2, `excess_Q` and `excess_path` of l1 norm; over (depth, set): `left`, and `late`, the difference at mu = 1e-12
    and (D = 2) 1e-100.
    """
    sets, depths = 20 if quick else 200, (2, 3)
    shape = (len(depths), sets, SAVES)
    names = ("difference", "to_Q", "to_path", "excess_Q", "excess_path")
    tables = {name: np.full(shape, np.nan) for name in names}
    left, late = np.zeros(shape, int), np.full((2, sets, 2), np.nan)
    y = np.ones(4)
    for k in range(sets):
        X = separable(k)
        l1 = limits.l1_max_margin(X, y)
        for i, depth in enumerate(depths):
            mus = np.append(MUS, [1e-12, 1e-100] if depth == 2 else [1e-12])
            try:
                path = limits.irreversible_path(X, y, mus=mus, depth=depth)
                q = limits.q_max_margin(X, y, mu=mus, depth=depth)
            except RuntimeError:
                # Too close to degenerate for float64: told by NaN, and counted.
                continue
            run = flows(X, depth, [POWER ** (1 / depth)], POWER / MUS, rtol=1e-9)
            difference = relative(path.beta, q.beta)
            tables["difference"][i, k], late[i, k, : mus.size - SAVES] = difference[:SAVES], difference[SAVES:]
            tables["to_Q"][i, k] = relative(run.direction[0], q.beta[:SAVES])
            tables["to_path"][i, k] = relative(run.direction[0], path.beta[:SAVES])
            tables["excess_Q"][i, k] = limits.excess_l1(q.beta[:SAVES], l1)
            tables["excess_path"][i, k] = limits.excess_l1(path.beta[:SAVES], l1)
            left[i, k] = path.left[:SAVES].any(-1)
        report((k + 1) / sets)
    dims = ("depth", "set", "mu")
    return xr.Dataset(
        {name: (dims, table) for name, table in tables.items()}
        | {"left": (dims, left), "late": (("depth", "set", "late_mu"), late)},
        coords={"depth": list(depths), "set": np.arange(sets), "mu": MUS, "late_mu": [1e-12, 1e-100]},
    )


def _largest(ds: xr.Dataset) -> xr.DataArray:
    return ds.difference.max("mu")


def random_claims(ds: xr.Dataset) -> list[Claim]:
    claims, sets = [], ds.sizes["set"]
    unknown = int(ds.difference.isnull().any("mu").sum())
    claims.append(Claim.at_most("data sets on which a path could not be followed", 0, unknown))
    for depth, least, share in zip(ds.depth.values, (0.25, 0.4), (0.03, 0.05), strict=True):
        one = _largest(ds).sel(depth=depth).values
        apart = one > APART
        claims += [
            Claim.at_least(f"D = {depth}, {sets} random sets: share on which path and Q_mu differ", least,
                           apart.mean()),
            Claim.at_least(f"D = {depth}: median of the difference on these, relative in l2", share,
                           np.median(one[apart])),
        ]  # fmt: skip
    stays = ds.difference.where(ds.left == 0)
    claims.append(Claim.at_most("while no sample has left, the two are the same: difference", 1e-8, stays.max().values))
    cases, under = {}, {}
    wrong = ds.to_Q.max("mu") > APART
    for depth in ds.depth.values:
        for k in ds.set.values:
            name = f"set {k}, D = {depth}"
            cases[name] = not bool(wrong.sel(depth=depth, set=k))
            under[name] = int(ds.left.sel(depth=depth, set=k).max()) == 0
    differ = _largest(ds) > 10 * APART
    text = f"the flow at alpha^D = {POWER:.0e} is at Q_mu, to {APART:g}, for all mu from 1e2 to 1e-4"
    measured = f"off by up to {float(ds.to_Q.max()):.3g}"
    condition = "no sample leaves the margin"
    claims.append(Claim.cases(text, f"<= {APART:g}", measured, cases, condition=condition, under=under))
    text = f"the flow at alpha^D = {POWER:.0e} is at the irreversible path: largest distance of all sets and mu"
    claims.append(Claim.at_most(text, APART, ds.to_path.max().values))
    text = "where the limits differ by 1e-2 or more, the flow's distance to the path over that to Q_mu"
    claims.append(Claim.at_most(text, 0.1, (ds.to_path / ds.to_Q).where(ds.difference > 10 * APART).max().values))
    shallow, deep = (ds.late.sel(depth=d).where(differ.sel(depth=d)) for d in ds.depth.values)
    still = lambda late: float((late > APART).sum() / late.notnull().sum())
    return [
        *claims,
        Claim.at_most("D = 2: the difference fades; share of sets where it is above 1e-3 at mu = 1e-100", 0.25,
                      still(shallow.isel(late_mu=1))),
        Claim.at_least("D = 3: it stays; share of sets where it is above 1e-3 at mu = 1e-12", 0.4,
                       still(deep.isel(late_mu=0))),
    ]  # fmt: skip


def how_often(ds: xr.Dataset) -> pd.DataFrame:
    """Shares and quantiles of the difference."""
    rows = {}
    for depth in ds.depth.values:
        one = _largest(ds).sel(depth=depth)
        apart = one.where(one > APART, drop=True)
        excess = (ds.excess_path - ds.excess_Q).sel(depth=depth, set=apart.set)
        rows[f"D = {depth}"] = {
            "sets": one.size,
            "a sample leaves": int((ds.left.sel(depth=depth).max("mu") > 0).sum()),
            f"differ by > {APART:g}": apart.size,
            "by > 0.1": int((one > 0.1).sum()),
            "median": float(apart.median()),
            "90%": float(apart.quantile(0.9)),
            "largest": float(apart.max()),
            "largest extra l1 norm": float(excess.max()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def draw_random(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
    for k, depth in enumerate(ds.depth.values):
        one = np.sort(_largest(ds).sel(depth=depth).values)
        share = 1 - np.arange(one.size) / one.size
        left.step(np.maximum(one, 1e-12), share, ("-", "--")[k], where="post", color=COLOURS[k], label=f"D = {depth}")
        typical = ds.difference.sel(depth=depth)
        typical = typical.where(_largest(ds).sel(depth=depth) > APART, drop=True)
        for level, style in ((0.5, "-"), (0.9, "--")):
            middle.semilogx(ds.mu, typical.quantile(level, "set"), style, color=COLOURS[k],
                            label=f"D = {depth}, {'median' if level == 0.5 else '90%'}")  # fmt: skip
        at = ds.sel(depth=depth).where(ds.difference.sel(depth=depth) > APART)
        right.loglog(at.to_Q.values.ravel(), at.to_path.values.ravel(), "os"[k], ms=2, alpha=0.4, color=COLOURS[k],
                     label=f"D = {depth}", rasterized=True)  # fmt: skip
    left.set(xscale="log", xlim=(1e-4, 1), xlabel=r"largest difference of path and $Q_\mu$ over $\mu$ (relative)",
             ylabel="share of random data sets at or above")  # fmt: skip
    left.legend(fontsize=8)
    middle.set(xlabel=r"$\mu=\alpha^D/\gamma$ (falling)", ylabel="relative difference, sets that differ")
    middle.invert_xaxis()
    middle.legend(fontsize=8)
    ends = np.array([APART, 1.0])
    right.loglog(ends, ends, ":", color="black", lw=1, label="equally far")
    right.set(xlabel=r"flow to $Q_\mu$ (relative)", ylabel="flow to the irreversible path (relative)")
    right.legend(fontsize=8, loc="lower right")
    return figure


def shapes(quick: bool = False, report: Report = ignore, sets: int | None = None) -> xr.Dataset:
    """How often the limits differ for other numbers of samples and inputs, on `sets` data sets of each size."""
    sizes = ((2, 4), (4, 6)) if quick else ((2, 2), (2, 4), (3, 6), (4, 6), (4, 20), (8, 12), (10, 30))
    sets, depths, mus = sets or (12 if quick else 60), (2, 3), np.geomspace(1e2, 1e-4, 24)
    largest = np.full((len(sizes), len(depths), sets), np.nan)
    for i, (samples, inputs) in enumerate(sizes):
        for k in range(sets):
            X, y = separable(1000 + k, samples, inputs), np.ones(samples)
            for j, depth in enumerate(depths):
                try:
                    path = limits.irreversible_path(X, y, mus=mus, depth=depth)
                    largest[i, j, k] = relative(path.beta, limits.q_max_margin(X, y, mu=mus, depth=depth).beta).max()
                except RuntimeError:
                    continue
            report((i + (k + 1) / sets) / len(sizes))
    return xr.Dataset(
        {"largest": (("size", "depth", "set"), largest)},
        coords={"size": [f"N = {n}, d = {d}" for n, d in sizes], "depth": list(depths)},
    )


def shape_claims(ds: xr.Dataset) -> list[Claim]:
    known = ds.largest.notnull()
    share = ((ds.largest > APART) & known).sum("set") / known.sum("set")
    return [
        Claim.at_least("share of sets followed to mu = 1e-4, each size and depth", 0.95, known.mean("set").values),
        Claim.at_least("deeper networks are affected more often: share at D = 3 less share at D = 2", 0.0,
                       (share.sel(depth=3) - share.sel(depth=2)).values),
    ]  # fmt: skip


def shape_table(ds: xr.Dataset) -> pd.DataFrame:
    rows = {}
    for size in ds["size"].values:
        rows[str(size)] = {}
        for depth in ds.depth.values:
            one = ds.largest.sel(size=size, depth=depth).dropna("set")
            apart = one.where(one > APART, drop=True)
            rows[str(size)][f"share that differs, D = {depth}"] = apart.size / one.size
            rows[str(size)][f"median of these, D = {depth}"] = float(apart.median()) if apart.size else np.nan
    return pd.DataFrame.from_dict(rows, orient="index")


def draw_shapes(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
    known = ds.largest.notnull()
    share = ((ds.largest > APART) & known).sum("set") / known.sum("set")
    for j, depth in enumerate(ds.depth.values):
        for i, size in enumerate(ds["size"].values):
            one = np.maximum(np.sort(ds.largest.sel(size=size, depth=depth).dropna("set").values), 1e-10)
            place = i + 0.4 * (j - 0.5) + np.linspace(-0.12, 0.12, one.size)
            label = f"D = {depth}" if i == 0 else None
            ax.semilogy(place, one, MARKERS[j], ms=3, color=COLOURS[j], mfc="none", label=label)
            ax.text(i + 0.4 * (j - 0.5), 2.0, f"{float(share[i, j]):.0%}", ha="center", fontsize=8, color=COLOURS[j])
    ax.axhline(APART, color="0.4", lw=0.8, ls=":", label=f"{APART:g}: differs (shares at the top)")
    ax.set(xlabel="samples and inputs", ylabel="largest difference of the limits\n(path, $Q_\\mu$), relative")
    ax.set_ylim(5e-11, 6)
    ax.set_xticks(range(ds.sizes["size"]), [str(v).replace(", ", "\n") for v in ds["size"].values], fontsize=8)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


PARTS = (
    Part("random-sets", "Irreversibility: how often and how much, on random data", random_sets, random_claims,
         {"irreversibility": draw_random}, {"Difference of the irreversible path and Q_μ": how_often}),
    Part("data-shapes", "Irreversibility for other numbers of samples and inputs", shapes, shape_claims,
         {"data-shapes": draw_shapes},
         {"Random data, both limits compared from μ = 100 to 1e-4": shape_table}),
)  # fmt: skip
