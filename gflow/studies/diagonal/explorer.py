"""A page to explore the flow between its limits: `gflow.explorer` on data where a sample leaves the margin."""

import functools

import numpy as np
import xarray as xr

from ... import explorer, limits
from ...clocks import decades as to_nats
from ...status import Status
from ..regimes import compare
from ..report import Claim, Part
from .problems import flows, ignore, Report, SAVES, separable, share

SET, RTOL = 33, 1e-7
POWER = 1e3  # of the flows that tell the two limits apart: they are off by some 1 / POWER,
APART = 0.02  # where the limits are so far apart, in the distance from l2 to l1


def grid(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """What the page shows: flows over (depth, scale, decades) to a loss of 10^-1,000,000."""
    X, y = separable(SET), np.ones(4)
    depths, scales = (2, 3) if quick else (2, 3, 4), np.logspace(-2, 2, 13 if quick else 41)
    decades = np.geomspace(1.0, 1e6, SAVES)
    runs = []
    for k, depth in enumerate(depths):
        part = functools.partial(share, report, k, len(depths))
        runs.append(flows(X, depth, scales, to_nats(decades), rtol=RTOL, report=part))
    dims = ("depth", "scale", "decades")
    ds = xr.Dataset(
        {
            "beta_over_gamma": ((*dims, "coordinate"), np.stack([run.direction for run in runs])),
            "log_time": (dims, np.stack([run.log_time for run in runs])),
            "status": (dims[:2], np.stack([run.status for run in runs])),
        },
        coords={"depth": list(depths), "scale": scales, "decades": decades},
    )
    ds = compare(ds, X, y, limits.l2_max_margin(X, y), limits.l1_max_margin(X, y))
    return explorer.contents(ds, X, y)


def claims(ds: xr.Dataset) -> list[Claim]:
    lost = int((ds.status != Status.success).sum())
    apart = np.hypot(*(ds.Q_mu_place - ds.irreversible_place).transpose("axis", ...))
    told = (ds.scale**ds.depth >= POWER) & (apart > APART)
    nearer = (ds.distance_irreversible / ds.distance_Q_mu).where(told).values
    nearer = nearer[np.isfinite(nearer)]
    text = f"alpha^D >= {POWER:.0e}, irreversible path and Q_mu {APART:g} apart in the plane: the flow's distance to"
    return [
        Claim.at_most("flows of the explorer that did not arrive at a loss of 10^-1,000,000", 0, lost),
        Claim.at_most(f"{text} the path over that to Q_mu", 0.1, nearer if nearer.size else np.nan),
    ]


def page(ds: xr.Dataset) -> str:
    return explorer.page(
        ds,
        title="Diagonal networks between kernel and rich regime",
        about=f"Gaussian samples, set {SET}: N = 4, d = 6, labels of a random direction, absorbed in the rows. "
        f"Exponential loss, rtol {RTOL:g}.",
    )


PARTS = (
    Part("explorer", "Explore: scale, depth and accuracy by sliders", grid, claims, pages={"explorer": page}),
)  # fmt: skip
