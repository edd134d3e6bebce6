"""From the kernel to the rich regime: where is the flow, at each initialization scale and accuracy?

For diagonal networks of depth D and scale alpha, beta / gamma tends to the l2 max margin where mu = alpha^D / gamma is
large, to the Q_mu max margin in between, and (D = 2) to the l1 max margin where mu is small
(Moroshko et al. 2020, arXiv 2007.06738).
"""

import math
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import ArrayLike, Float

from .. import limits
from ..clocks import decades as to_nats
from ..losses import AbstractLoss, Exponential
from ..models import DiagonalNetwork
from ..sweeps import sweep

# Limits in the order in which a tie is given: the simpler one first.
LIMITS = ("l2", "l1", "Q_mu")
# Distances that differ by less than this share of the limit's norm are a tie.
_TIE = 0.01


def transition(
    X: Float[ArrayLike, "N d"],
    y: Float[ArrayLike, " N"],
    *,
    depths: Sequence[int] = (2, 3),
    scales: Float[ArrayLike, " A"] | None = None,
    decades: Float[ArrayLike, " K"] | None = None,
    loss: AbstractLoss = Exponential(),  # noqa: B008
    rtol: float = 1e-6,
    max_steps: int = 1_000_000,
    solver: Any = None,
    store: str | Path | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> xr.Dataset:
    """Integrate diagonal networks over depths and scales, and compare beta / gamma with its limits.

    **Arguments:**

    - `X`, `y`: separable data, shapes (N, d) and (N,), labels -1 and +1.
    - `depths`: depths D >= 2.
    - `scales`: initial scales alpha, 41 from 1e-2 to 1e2 by default.
    - `decades`: accuracies log10 1/L, increasing, 31 from 1 to 1000 by default.
    - `loss`, `rtol`, `max_steps`, `solver`: as in `gflow.gradient_flow`.
    - `store`, `executor`, `workers`, `progress`: as in `gflow.sweep`, by which the flows are run.

    **Returns:** a Dataset over (depth, scale, decades): `beta_over_gamma`, `log_time` (nats), `mu`, `excess_l1` and
    `excess_l2` (norm of beta / gamma over that of the max-margin solution, minus 1), the relative distances
    `distance_l2`, `distance_Q_mu`, `distance_l1` to the limits, and `nearest`, the index of the nearest in `LIMITS`.
    Over (depth, mu_grid): `Q_excess_l1`, `Q_excess_l2` of the Q_mu path. Over (depth, scale): `status`, `steps`.
    What a flow did not reach is NaN.

    **Raises:** `ValueError` for bad input, data that cannot be separated included.

    !!! example

        ```python
        >>> import gflow, gflow.datasets, gflow.studies
        >>> data = gflow.datasets.load("toy")
        >>> ds = gflow.studies.transition(data.X, data.y, depths=[2], scales=[0.01, 100.0], decades=[100.0, 1000.0])
        >>> dict(ds.sizes)["scale"], bool(ds.excess_l1[0, 0, 1] < ds.excess_l1[0, 1, 1])
        (2, True)

        ```
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    scales = np.geomspace(1e-2, 1e2, 41) if scales is None else np.atleast_1d(np.asarray(scales, float))
    decades = np.geomspace(1.0, 1e3, 31) if decades is None else np.atleast_1d(np.asarray(decades, float))
    depths = [operator.index(depth) for depth in depths]
    for name, values in (("scales", scales), ("decades", decades)):
        if not (values.ndim == 1 and values.size and np.all(np.isfinite(values) & (values > 0))):
            raise ValueError(f"{name} must be positive finite numbers, not {values}.")
    if np.any(np.diff(decades) <= 0):
        raise ValueError("decades must be strictly increasing; sort them and drop repeated ones.")
    if not depths or min(depths) < 2 or len(set(depths)) < len(depths):
        raise ValueError(f"depths must be different integers of at least 2, not {depths}.")
    l2, l1 = limits.l2_max_margin(X, y), limits.l1_max_margin(X, y)
    flows = sweep(
        DiagonalNetwork,
        X,
        y,
        over={"depth": depths, "scale": scales},
        loss=loss,
        save=to_nats(decades),
        solver=solver,
        rtol=rtol,
        max_steps=max_steps,
        store=store,
        executor=executor,
        workers=workers,
        progress=progress,
    )
    return compare(_over_decades(flows, decades), X, y, l2, l1)


def _over_decades(flows: xr.Dataset, decades: np.ndarray) -> xr.Dataset:
    """beta / gamma, log t, status and steps of the flows, with the accuracy in decades as a dimension."""
    along = {"save": "decades"}
    steps = (flows.steps + flows.rejections).assign_attrs(long_name="steps, rejected ones included")
    ds = xr.Dataset(
        {
            "beta_over_gamma": (flows.beta / flows.neg_log_loss).rename(along),
            "log_time": flows.log_time.rename(along),
            "status": flows.status,
            "steps": steps,
        },
        attrs=flows.attrs,
    )
    ds["scale"].attrs["long_name"] = "initialization scale"
    return ds.assign_coords(decades=("decades", decades, {"long_name": "accuracy log10 1/L"})).load()


def compare(flows: xr.Dataset, X: np.ndarray, y: np.ndarray, l2: Any, l1: Any) -> xr.Dataset:
    """Excesses, distances and the Q_mu path beside the flows, given as `beta_over_gamma` (depth, scale, decades,
    coordinate); `l2` and `l1` are the max margins of `X` and `y`."""
    depths, scales = flows.depth.values, flows.scale.values
    gamma = to_nats(flows.decades.values)
    mu = np.exp(depths[:, None, None] * np.log(scales)[None, :, None] - np.log(gamma)[None, None, :])
    beta = flows.beta_over_gamma.values
    grid = _grid(mu)
    distance = lambda limit: np.linalg.norm(beta - limit, axis=-1) / np.linalg.norm(limit, axis=-1)
    path, q_beta = [], np.empty_like(beta)
    for i, depth in enumerate(depths):
        path.append(limits.q_max_margin(X, y, mu=grid, depth=int(depth)).beta)
        q_beta[i] = _between(np.log(grid), path[i], np.log(mu[i]))
    path = np.stack(path)
    apart = {"l2": distance(l2.beta), "l1": distance(l1.beta), "Q_mu": distance(q_beta)}
    stacked = np.stack([apart[name] for name in LIMITS], axis=-1)
    missing = np.isnan(stacked).any(-1)
    best = np.where(missing, np.inf, np.nan_to_num(stacked, nan=np.inf).min(-1))
    nearest = np.where(missing, -1, np.argmax(stacked <= best[..., None] + _TIE, axis=-1))
    dims = ("depth", "scale", "decades")
    excess = lambda b, ord, limit: np.linalg.norm(b, ord, axis=-1) / np.linalg.norm(limit.beta, ord) - 1.0
    ds = flows.assign_coords(mu_grid=("mu_grid", grid, {"long_name": "mu of the Q_mu path"}))
    along = ("depth", "mu_grid")
    variables: dict[str, Any] = {
        "mu": (dims, mu, {"long_name": "mu = scale^depth / gamma"}),
        "excess_l1": (dims, excess(beta, 1, l1), {"long_name": "excess l1 norm"}),
        "excess_l2": (dims, excess(beta, 2, l2), {"long_name": "excess l2 norm"}),
        "nearest": (dims, nearest, {"long_name": "nearest limit", "meaning": ", ".join(LIMITS)}),
        "Q_excess_l1": (along, excess(path, 1, l1), {"long_name": "excess l1 norm of Q_mu"}),
        "Q_excess_l2": (along, excess(path, 2, l2), {"long_name": "excess l2 norm of Q_mu"}),
        "l2_beta": ("coordinate", l2.beta),
        "l1_beta": ("coordinate", l1.beta),
    }
    for name in LIMITS:
        variables[f"distance_{name}"] = (dims, apart[name], {"long_name": f"relative distance to {name}"})
    return ds.assign(variables)


def _grid(mu: np.ndarray) -> np.ndarray:
    """Forty values of mu a decade, wide enough to show both ends of the path."""
    low, high = math.floor(math.log10(mu.min())) - 1, math.ceil(math.log10(mu.max())) + 1
    low, high = max(min(low, -6), -300), min(max(high, 3), 300)
    return np.logspace(low, high, 40 * (high - low) + 1)


def _between(log_grid: np.ndarray, path: np.ndarray, log_mu: np.ndarray) -> np.ndarray:
    """The path at other values of mu, linear in log mu."""
    flat = np.stack([np.interp(log_mu.ravel(), log_grid, column) for column in path.T], axis=-1)
    return flat.reshape(*log_mu.shape, path.shape[1])
