"""How accurate is accurate enough? The loss epsilon(delta, alpha) at which the excess of l1 norm has come to delta.

The excess is that of beta at margin 1, ||beta||_1 / (min margin * ||beta_l1||_1) - 1 >= 0. Along the Q_mu path near mu
= 0 it is on generic data of order mu^(1 - rho_max) for D = 2 and mu for D > 2 (while the path heads for the l1
solution), and on the worst data 1 / log(1/mu) and mu^((D-2)/D). For a sample (1, 1 - eta) it is about eta mu^eta, and
eta mu (c + eta)^(-D/(D-2)) with c = mu^((D-2)/D): largest at eta = 1 / log(1/mu) and at an eta in proportion to c. So
samples of this kind with eta = 1/2, 1/4, 1/8, ..., each with two inputs of its own, come near the worst for every mu.
"""

import functools
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from mpmath import mp

from ... import limits, precise
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import flows, ignore, Report, SAVES, separable, share

# A data set whose multipliers are of one size, with rho_max = 0.854, and one on which nothing is: 0.953.
SETS = (41, 3)
DELTAS = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4, 1e-5, 1e-6])
_RANGE = (-8.0, 98.0)  # of log10 gamma
# Where the excess may fall and rise within less than the spacing of a grid over all of that: up to alpha^D.
_EARLY = ((-3.0, 4.0), (4.0, 11.0))
_MOST_DIPS = 6


def excess(X: np.ndarray, beta: np.ndarray, l1: limits.L1MaxMargin) -> np.ndarray:
    """Excess of l1 norm at margin 1; infinite while a sample is misclassified."""
    margin = np.min(beta @ X.T, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.abs(beta).sum(-1) / margin / np.abs(l1.beta).sum() - 1
    return np.where(margin > 0, value, np.inf)


def needed(X: np.ndarray, depth: int, scales: np.ndarray, rounds: int = 4, report: Report = ignore) -> np.ndarray:
    """log10 gamma at which the excess first comes to each of DELTAS, shape (A, 10); infinite where it never does, and
    minus infinity where it is there from the start, at gamma = 1e-8.

    Brackets on a grid of the path, which is finer below 1e11, are narrowed by running to points inside of them, as many
    for each delta, and the last bracket is interpolated. The excess may fall and rise again: least values on the grid
    are looked into as well.
    """
    if not np.all(np.asarray(scales) > 0):
        raise ValueError(f"scales must be positive, not {np.asarray(scales).tolist()}.")
    l1 = limits.l1_max_margin(X, np.ones(len(X)))
    grid = np.broadcast_to(np.linspace(*_RANGE, SAVES), (scales.size, SAVES))
    each = SAVES // DELTAS.size
    # A run out to the end of the range; the later ones only as far as they must.
    known = [(np.full(0, 0.0), np.full(0, 0.0)) for _ in scales]
    brackets = np.empty((scales.size, DELTAS.size, 2))
    for turn in range(total := rounds + len(_EARLY) + 1):
        if 0 < turn <= len(_EARLY):
            grid = np.broadcast_to(np.linspace(*_EARLY[turn - 1], SAVES), grid.shape)
        run = flows(X, depth, scales, 10.0**grid, rtol=1e-9, report=lambda f, k=turn: report((k + f) / total))
        values, grid = excess(X, run.beta, l1), np.array(grid)
        for a in range(scales.size):
            place, value = np.append(known[a][0], grid[a]), np.append(known[a][1], values[a])
            place, first = np.unique(place, return_index=True)
            known[a] = place, value[first]
            inside = []
            for j, delta in enumerate(DELTAS):
                below = np.flatnonzero(known[a][1] <= delta)
                k = below[0] if below.size else -1
                # From the start: a bracket of no width.
                brackets[a, j] = (place[max(k - 1, 0)], place[k]) if k >= 0 else (np.inf, np.inf)
                if k > 0:
                    inside.append(np.linspace(place[k - 1], place[k], each + 2)[1:-1])
            if turn == len(_EARLY):
                # Once, nothing but least values: the first of a delta may lie in one of them.
                inside, dips = [], _dips(known[a][1])[:_MOST_DIPS]
            else:
                dips = _dips(known[a][1])[: (SAVES - sum(map(len, inside))) // 4]
            room = SAVES - sum(map(len, inside))
            for k in dips:
                inside.append(np.linspace(place[k - 1], place[k + 1], room // len(dips) + 2)[1:-1])
            points = np.unique(np.concatenate(inside)) if inside else np.empty(0)
            # Filled up with points before the first, which cost nothing.
            start = points[0] if points.size else _RANGE[0] + 1
            spare = np.linspace(start - 0.5, start - 0.01, SAVES - points.size)
            grid[a] = np.sort(np.append(points, spare))
    found = np.full((scales.size, DELTAS.size), np.inf)
    for a in range(scales.size):
        place, value = known[a]
        for j, delta in enumerate(DELTAS):
            if np.isfinite(brackets[a, j, 1]):
                k = np.searchsorted(place, brackets[a, j, 1])
                if k == 0:
                    found[a, j] = -np.inf
                    continue
                part = (delta - value[k]) / (value[k - 1] - value[k]) if np.isfinite(value[k - 1]) else 0.0
                found[a, j] = place[k] + part * (place[k - 1] - place[k])
    return found


def _dips(values: np.ndarray) -> np.ndarray:
    """Where values are below both neighbours, those first that are the least above one of DELTAS."""
    inner = np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] <= values[2:])) + 1
    above = values[inner, None] / DELTAS[None]
    return inner[np.argsort(np.min(np.where(above > 1, above, np.inf), axis=1), kind="stable")]


def curves(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """epsilon(delta, alpha) by root finding on the path, with a check by verified digits.

    **Returns:** over (set, depth, scale, delta): `log_gamma` (log10; log10 1/epsilon is 10^this / 2.303, infinite where
    the excess never comes to delta, minus infinity where it is there from the start); over set `rho_max`; over check:
    `asked` and `precise`, delta and the excess that `gflow.precise` has there to 20 digits.
    """
    depths, scales = ((2, 3), np.logspace(-2, 1, 4)) if quick else ((2, 3, 4, 10), np.logspace(-2, 1, 13))
    sets = SETS[:1] if quick else SETS
    found, rho, checks = np.empty((len(sets), len(depths), scales.size, DELTAS.size)), [], []
    for i, seed in enumerate(sets):
        X = separable(seed)
        l1 = limits.l1_max_margin(X, np.ones(4))
        rho.append(l1.rho_max)
        for j, depth in enumerate(depths):
            part = functools.partial(share, report, i * len(depths) + j, len(sets) * len(depths))
            found[i, j] = needed(X, depth, scales, report=part)
            a, b = scales.size - 1, int(np.flatnonzero(np.isfinite(found[i, j, -1]))[-1])
            checks.append((DELTAS[b], _precise_excess(X, depth, scales[a], found[i, j, a, b], l1)))
    return xr.Dataset(
        {
            "log_gamma": (("set", "depth", "scale", "delta"), found, {"long_name": "log10 gamma"}),
            "rho_max": ("set", rho),
            "asked": ("check", [c[0] for c in checks]),
            "precise": ("check", [c[1] for c in checks]),
        },
        coords={"set": list(sets), "depth": list(depths), "scale": scales, "delta": DELTAS},
    )


def _precise_excess(X: np.ndarray, depth: int, scale: float, log_gamma: float, l1: Any) -> float:
    with mp.workdps(40):
        stop = mp.mpf(10) ** mp.mpf(log_gamma)
        run = precise.diagonal_flow(X.tolist(), [1] * len(X), depth=depth, scale=float(scale), stop=stop, digits=20)
        beta = run.beta[-1]
        margin = min(sum((float(v) * b for v, b in zip(row, beta, strict=True)), mp.mpf(0)) for row in X)
        return float(sum(abs(b) for b in beta) / margin / mp.mpf(float(np.abs(l1.beta).sum())) - 1)


def curve_claims(ds: xr.Dataset) -> list[Claim]:
    claims = [Claim.close("excess by gflow.precise at the epsilon(delta, alpha) found, over delta", 1.0,
                          (ds.precise / ds.asked).values, 2e-3)]  # fmt: skip
    for depth in ds.depth.values:
        for k, number in enumerate(ds.set.values):
            first = ds.isel(set=k)
            # For D > 2 flows leave the l1 solution again, on some sets before they are so near.
            if not np.isfinite(first.log_gamma.sel(depth=depth).isel(scale=-1, delta=-1)):
                continue
            predicted = 1 - float(first.rho_max) if depth == 2 else 1.0
            name = f"set {number}, D = {depth}, alpha = 10: -d log delta / d log gamma for the two least delta"
            name += f" (1 - rho_max = {predicted:.4f})" if depth == 2 else ""
            claims.append(Claim.close(name, predicted, _local_slope(first, depth), 0.1 * predicted))
    deep, least = ds.log_gamma.sel(depth=2).isel(set=0, delta=-1), f"{DELTAS[-1]:.0e}".replace("e-0", "e-")
    claims.append(Claim.at_least(f"D = 2: log10 log 1/epsilon needed for an excess of {least}, largest over alpha", 20,
                                 deep.max().values))  # fmt: skip
    unreached = {
        f"set {s}, D = {d}, alpha = {a:.2g}": bool((ds.log_gamma.sel(set=s, depth=d, scale=a) < np.inf).all())
        for s in ds.set.values for d in ds.depth.values for a in ds.scale.values
    }  # fmt: skip
    claims.append(
        Claim.cases(f"an excess of {least} is reached at some accuracy", "always",
                    f"{int((ds.log_gamma.isel(delta=-1) == np.inf).sum())} never", unreached, condition="D = 2",
                    under={name: "D = 2" in name for name in unreached})
    )  # fmt: skip
    return claims


def _local_slope(one: xr.Dataset, depth: int) -> float:
    at = one.log_gamma.sel(depth=depth).isel(scale=-1).values
    return float(-np.log10(DELTAS[-1] / DELTAS[-2]) / (at[-1] - at[-2]))


def curve_table(ds: xr.Dataset) -> pd.DataFrame:
    rows = {}
    for s in ds.set.values:
        for depth in ds.depth.values:
            for scale in ds.scale.values[:: max(1, ds.sizes["scale"] // 4)]:
                one = ds.log_gamma.sel(set=s, depth=depth, scale=scale).values
                rows[f"set {s}, D = {depth}, α = {scale:.2g}"] = [
                    {np.inf: "never", -np.inf: "before γ = 1e-8"}.get(v, f"1e-{10**v / np.log(10):.3g}") for v in one
                ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[f"δ = {d:g}" for d in ds.delta.values])


def draw_curves(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    size = (ds.sizes["set"], ds.sizes["depth"])
    figure, axes = plt.subplots(*size, figsize=(3.4 * size[1] + 1.5, 3.6 * size[0] + 0.3), squeeze=False,
                                layout="constrained", sharey=True)  # fmt: skip
    shades = plt.get_cmap("cividis")(np.linspace(0.95, 0.0, ds.sizes["scale"]))
    for row, s in zip(axes, ds.set.values, strict=True):
        for ax, depth in zip(row, ds.depth.values, strict=True):
            for k, scale in enumerate(ds.scale.values):
                at = ds.log_gamma.sel(set=s, depth=depth, scale=scale)
                shown = np.isfinite(at.values)
                ax.plot(at.values[shown] - np.log10(np.log(10)), np.log10(ds.delta.values[shown]), "o-", ms=3, lw=1,
                        color=shades[k], label=f"α = {scale:.2g}")  # fmt: skip
            ax.axvline(np.log10(100), color="0.5", lw=0.8, ls=":")
            ax.set_title(f"set {s}, D = {depth}")
        row[0].set_ylabel(r"$\log_{10}$ excess $\ell_1$ norm $\delta$")
    for ax in axes[-1]:
        ax.set_xlabel(r"$\log_{10}\log_{10}1/\varepsilon$")
    axes[0, -1].legend(fontsize=7, title="dotted: 1e-100", title_fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def worst(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Excess on 32 samples (1, 1 - 2^-k) with inputs of their own, along Q_mu, from which no sample leaves.

    **Returns:** over (depth, step): `mu`, `excess`.
    """
    X, y, depths = np.zeros((32, 64)), np.ones(32), (2, 3, 4, 10)
    for k in range(32):
        X[k, 2 * k : 2 * k + 2] = 1, 1 - 0.5 ** (k + 1)
    l1 = limits.l1_max_margin(X, y)
    table, mus = np.empty((4, 40)), np.empty((4, 40))
    for k, depth in enumerate(depths):
        # The eta end at 2^-32: mu^((D-2)/D) has to stay above.
        power = depth / (depth - 2) if depth > 2 else np.nan
        mus[k] = np.logspace(-5, -250, 40) if depth == 2 else np.logspace(-2 * power, -8 * power, 40)
        table[k] = excess(X, limits.q_max_margin(X, y, mu=mus[k], depth=depth).beta, l1)
        report((k + 1) / 4)
    return xr.Dataset(
        {"mu": (("depth", "step"), mus), "excess": (("depth", "step"), table)}, coords={"depth": list(depths)}
    )


def worst_claims(ds: xr.Dataset) -> list[Claim]:
    one = ds.sel(depth=2)
    times = (one.excess * np.log(1 / one.mu)).values
    claims = [Claim.at_most("D = 2: excess x log 1/mu, largest over smallest for mu from 1e-5 to 1e-250", 1.5,
                            times.max() / times.min())]  # fmt: skip
    for depth in ds.depth.values[1:]:
        one = ds.sel(depth=depth).isel(step=slice(20, None))
        rate = float(np.polyfit(np.log(one.mu), np.log(one.excess), 1)[0])
        claims.append(Claim.close(f"D = {depth}: power of mu, (D-2)/D", 1 - 2 / depth, rate, 0.01))
    return claims


def draw_worst(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    one = ds.sel(depth=2)
    log = np.log(1 / one.mu.values)
    left.loglog(log, one.excess, "o", ms=3.5, color=COLOURS[0], label="D = 2")
    left.loglog(log, float(one.excess[-1]) * log[-1] / log, ":", color="black", label=r"$\propto 1/\log(1/\mu)$")
    left.set(xlabel=r"$\log 1/\mu$", ylabel=r"excess $\ell_1$ norm")
    for k, depth in enumerate(ds.depth.values[1:]):
        one = ds.sel(depth=depth)
        right.loglog(one.mu, one.excess, MARKERS[k + 1], ms=3.5, color=COLOURS[k + 1], label=f"D = {depth}")
        line = float(one.excess[20]) * (one.mu / float(one.mu[20])) ** (1 - 2 / depth)
        right.loglog(one.mu, line, ":", color="black", label=r"$\propto\mu^{(D-2)/D}$" if k == 2 else None)
    right.set(xlabel=r"$\mu$", ylabel=r"excess $\ell_1$ norm")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return figure


PARTS = (
    Part("accuracy", "How accurate is accurate enough?", curves, curve_claims, {"accuracy": draw_curves},
         {"Loss ε needed for an excess ℓ1 norm of δ": curve_table}),
    Part("worst-case", "The slowest approach: pairs of inputs that are ever more nearly as good as one another", worst,
         worst_claims, {"worst-case": draw_worst}),
)  # fmt: skip
