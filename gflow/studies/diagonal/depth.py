"""Deeper networks: near the l1 max margin, and away from it to a stationary point of min ||beta||_{2/D}.

For D > 2 the problem min ||beta||_{2/D}, margins >= 1, is not convex; what the flow tends to is one of its stationary
points. Those without a descent direction inside of a face are vertices: as many coordinates as active samples. All of
them can be listed for a few samples and inputs; which one the flow chooses depends on the scale. Even from infinite
scale the path does not end at the l1 vertex, since for D > 2 the multipliers stay finite and history never fades.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ... import limits
from ..figures import COLOURS
from ..report import Claim, Part
from .accuracy import excess
from .problems import flows, ignore, relative, Report, SAVES, separable

# Sets whose flows come near the l1 vertex and leave it, and one (3) with poor vertices at small scales.
SETS = (33, 11, 3)
SCALES = (0.05, 50.0)
END = 1e30
# A flow has left the least l1 norm again if its excess ends above the least one over this.
_LEAVES = 0.5
_APART = 1e-3  # of excess l1 norm, below which a flow has not left


def vertices(X: Float[np.ndarray, "N d"], depth: int) -> Float[np.ndarray, "V d"]:
    """All stationary vertices of min ||beta||_{2/depth} with margins X beta >= 1, best first.

    For every choice of as many coordinates as samples beta is solved for; it counts if the other margins are at least
    1 and the multipliers of |beta|^(2/depth - 1) sign(beta) = X^T lambda are not negative. Coordinates that are zero
    ask for nothing (depth > 2): the quasi-norm is infinitely steep there.

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies.diagonal import depth
        >>> depth.vertices(np.array([[3.0, 4.0]]), 3)
        array([[0.        , 0.25      ],
               [0.33333333, 0.        ]])

        ```
    """
    if depth <= 2:
        raise ValueError(f"depth must be above 2, where zero coordinates ask for nothing, not {depth}.")
    if X.ndim != 2 or not np.all(np.isfinite(X)):
        raise ValueError("X must be finite and of shape (N, d).")
    samples, inputs = X.shape
    found = []
    for size in range(1, min(samples, inputs) + 1):
        for active in combinations(range(samples), size):
            for support in combinations(range(inputs), size):
                square = X[np.ix_(active, support)]
                if np.linalg.cond(square) > 1e12:
                    continue
                values = np.linalg.solve(square, np.ones(size))
                if np.any(np.abs(values) < 1e-10 * np.max(np.abs(values))):
                    continue
                beta = np.zeros(inputs)
                beta[list(support)] = values
                pull = np.sign(values) * np.abs(values) ** (2 / depth - 1)
                if np.min(X @ beta) > 1 - 1e-9 and np.min(np.linalg.solve(square.T, pull)) >= -1e-12:
                    found.append(beta)
    if not found:
        raise ValueError("X has no stationary vertex with margins of 1: no beta gives all samples a positive margin.")
    table = np.array(found)
    return table[np.argsort(quasi_norm(table, depth), kind="stable")]


def quasi_norm(beta: np.ndarray, depth: int) -> np.ndarray:
    """||beta||_{2/D} over the last axis."""
    return np.sum(np.abs(beta) ** (2 / depth), axis=-1) ** (depth / 2)


def limit(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Flows to gamma = 1e30: excess along the way, the KKT residual at the end, and the vertex that is chosen.

    **Returns:** over (set, depth, scale, gamma): `excess`; over (set, depth, scale): `residual`, `chosen` (the rank of
    the nearest vertex by quasi-norm, 0 the best), `distance` to it, `price` (its quasi-norm over the best), and
    `to_l1`, distances relative; over (set, depth): `vertices`, their number, `l1_rank`, that of the l1 solution,
    `path_excess`, that of the irreversible path at mu = 1e-9, and of the deepest dip `dip` (its excess), `dip_scale`
    and `dip_gamma`, where it is; NaN where no flow leaves again.
    """
    sets, depths = (SETS[:2], (3,)) if quick else ((*SETS, 37, 7), (3, 4, 10))
    scales, gamma = np.geomspace(*SCALES, 9 if quick else 25), np.geomspace(1.0, END, SAVES)
    shape = (len(sets), len(depths), scales.size)
    along = np.full((*shape, SAVES), np.nan)
    names = ("residual", "chosen", "distance", "price", "to_l1")
    ends = {name: np.full(shape, np.nan) for name in names}
    heads = {
        name: np.full(shape[:2], np.nan)
        for name in ("vertices", "l1_rank", "path_excess", "dip", "dip_scale", "dip_gamma")
    }
    y = np.ones(4)
    for i, seed in enumerate(sets):
        X = separable(seed)
        l1 = limits.l1_max_margin(X, y)
        for j, depth in enumerate(depths):
            corners = vertices(X, depth)
            norms = quasi_norm(corners, depth)
            run = flows(X, depth, scales, gamma)
            end = run.direction[:, -1]
            apart = relative(end[:, None], corners)
            best = apart.argmin(axis=1)
            along[i, j] = excess(X, run.beta, l1)
            ends["residual"][i, j] = limits.kkt_residual(end, X, y, depth=depth)
            ends["chosen"][i, j], ends["distance"][i, j] = best, apart.min(axis=1)
            ends["price"][i, j], ends["to_l1"][i, j] = norms[best] / norms[0], relative(end, l1.beta)
            heads["vertices"][i, j] = len(corners)
            nearest = relative(corners, l1.beta)
            heads["l1_rank"][i, j] = nearest.argmin() if nearest.min() < 1e-9 else np.nan
            path = limits.irreversible_path(X, y, mus=[1e-9], depth=depth)
            heads["path_excess"][i, j] = limits.excess_l1(path.beta[0], l1)
            least, last = along[i, j].min(axis=-1), along[i, j, :, -1]
            least = np.where((least < _LEAVES * last) & (last > _APART), least, np.inf)
            a = int(least.argmin())
            if np.isfinite(least[a]):
                near, value = _dip(X, depth, scales[a], gamma, along[i, j, a], l1)
                heads["dip"][i, j], heads["dip_scale"][i, j], heads["dip_gamma"][i, j] = value, scales[a], near
            report((i + (j + 1) / len(depths)) / len(sets))
    dims = ("set", "depth", "scale")
    return xr.Dataset(
        {"excess": ((*dims, "gamma"), along)}
        | {name: (dims, table) for name, table in ends.items()}
        | {name: (dims[:2], table) for name, table in heads.items()},
        coords={"set": list(sets), "depth": list(depths), "scale": scales, "gamma": gamma},
    )


def _dip(
    X: np.ndarray, depth: int, scale: float, gamma: np.ndarray, along: np.ndarray, l1: limits.L1MaxMargin
) -> tuple[float, float]:
    """Where the excess along a flow is least, and how small: runs to points around the least of those before."""
    for _ in range(3):
        k = int(np.clip(along.argmin(), 1, gamma.size - 2))
        gamma = np.geomspace(gamma[k - 1], gamma[k + 1], SAVES)
        along = excess(X, flows(X, depth, [scale], gamma).beta[0], l1)
    return float(gamma[along.argmin()]), float(along.min())


def limit_claims(ds: xr.Dataset) -> list[Claim]:
    each = [(s, d, a) for s in ds.set.values for d in ds.depth.values for a in ds.scale.values]
    at = lambda name, s, d, a: float(ds[name].sel(set=s, depth=d, scale=a))
    named = lambda s, d, a: f"set {s}, D = {d}, alpha = {a:.3g}"
    best = {named(*k): at("chosen", *k) == 0 for k in each}
    sparse = {named(*k): at("to_l1", *k) < 1e-2 for k in each}
    vertex = {named(*k): bool(ds.l1_rank.sel(set=k[0], depth=k[1]).notnull()) and k[2] >= 1.5 for k in each}
    leaves = (ds.excess.min("gamma") < _LEAVES * ds.excess.isel(gamma=-1)) & (ds.excess.isel(gamma=-1) > _APART)
    kinds = {len(np.unique(ds.chosen.sel(set=s, depth=d))) for s in ds.set.values for d in ds.depth.values}
    worst = f"quasi-norm up to {float(ds.price.max()):.3g} times the least"
    apart = f"distance {float(ds.to_l1.min()):.3g} to {float(ds.to_l1.max()):.3g}, relative"
    large = ds.isel(scale=-1)
    # mu^(1/D) is what is left of inputs that have not grown; the residual adds it up over them.
    residual = ds.residual / (ds.scale**ds.depth / END) ** (1 / ds.depth)
    bounds = {3: 40.0, 4: 20.0, 10: 4.0}
    claims = [
        *(Claim.at_most(f"D = {d}: KKT residual of min ||beta||_(2/D) at gamma = {END:.0e}, over mu^(1/D)", bound,
                        residual.sel(depth=d).values)
          for d, bound in bounds.items() if d in ds.depth.values),
        Claim.at_most("distance of the end to the nearest stationary vertex, all listed; relative, median", 1e-4,
                      ds.distance.median().values),
        Claim.at_least("flows whose end is a stationary vertex to 1e-2, share", 0.9,
                       (ds.distance < 1e-2).mean().values),
        Claim.cases("D > 2: the limit is the vertex of least quasi-norm", "all", worst, best),
        Claim.cases("D > 2: the limit is the l1 max margin", "0", apart, sparse, under=vertex,
                    condition="the l1 solution is itself a stationary vertex and alpha >= 1.5, on the sets shown here"),
        Claim.at_least("the path comes twice as near to the least l1 norm as it ends, or nearer: share of the flows "
                       "from alpha >= 1", 0.2, leaves.where(ds.scale >= 1, drop=True).mean().values),
        Claim.at_least("vertices that one data set ends at as alpha varies, most", 2, max(kinds)),
        Claim.at_most("largest scale: excess at the end against the irreversible path at mu = 1e-9, median difference",
                      0.02, np.abs(large.excess.isel(gamma=-1) - large.path_excess).median().values),
    ]  # fmt: skip
    return claims


def limit_table(ds: xr.Dataset) -> pd.DataFrame:
    rows = {}
    for s in ds.set.values:
        for d in ds.depth.values:
            one = ds.sel(set=s, depth=d)
            dips = bool(one.dip.notnull())
            end = one.excess.isel(gamma=-1)
            rows[f"set {s}, D = {d}"] = {
                "stationary vertices": int(one.vertices),
                "rank of the l1 vertex": "-" if np.isnan(one.l1_rank) else int(one.l1_rank),
                "ranks chosen, α rising": " ".join(str(int(v)) for v in one.chosen.values),
                "deepest dip (excess)": float(one.dip) if dips else "none",
                "at α": float(one.dip_scale) if dips else "",
                "at γ": float(one.dip_gamma) if dips else "",
                "its end (excess)": float(end.sel(scale=one.dip_scale)) if dips else "",
                "flows that end at the ℓ1 solution": int((one.to_l1 < 1e-2).sum()),
                "largest KKT residual": float(one.residual.max()),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def draw_limit(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    count = min(ds.sizes["set"], 3)
    figure, axes = plt.subplots(2, count, figsize=(4.3 * count, 6.6), layout="constrained", squeeze=False)
    shades = plt.get_cmap("cividis")(np.linspace(0.95, 0.0, ds.sizes["scale"]))
    depth = int(ds.depth[0])
    for column, s in enumerate(ds.set.values[:count]):
        top, bottom = axes[:, column]
        for k, scale in enumerate(ds.scale.values):
            shown = k % max(1, ds.sizes["scale"] // 8) == 0
            values = ds.excess.sel(set=s, depth=depth, scale=scale).values
            if shown:
                top.loglog(ds.gamma, np.where(np.isfinite(values), values, np.nan), color=shades[k], lw=1.3,
                           label=f"α = {scale:.2g}")  # fmt: skip
        top.set(xlabel=r"$\gamma=-\log L$", title=f"set {s}, D = {depth}", ylim=(1e-3, 10))
        for k, d in enumerate(ds.depth.values):
            one = ds.sel(set=s, depth=d)
            bottom.semilogx(ds.scale, one.chosen, "os^"[k], color=COLOURS[k], ms=4 + 2 * (2 - k), mfc="none",
                            label=f"D = {d}, {int(one.vertices)} vertices")  # fmt: skip
        bottom.set(xlabel="initialization scale α", ylim=(-0.5, max(4.5, float(ds.chosen.sel(set=s).max()) + 1.5)))
        bottom.yaxis.get_major_locator().set_params(integer=True)
        bottom.legend(fontsize=8)
    axes[0, 0].set_ylabel(r"excess $\ell_1$ norm at margin 1")
    axes[1, 0].set_ylabel(r"rank of the vertex by $\|\beta\|_{2/D}$")
    axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


PARTS = (
    Part("depth", "Depth: past the l1 max margin to a stationary point of the l_{2/D} quasi-norm", limit, limit_claims,
         {"depth": draw_limit}, {"Dip, limit and chosen vertex (rank 0 has the least quasi-norm)": limit_table}),
)  # fmt: skip
