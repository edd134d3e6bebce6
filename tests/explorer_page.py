"""A Dataset like that of `studies.transition`, made without a flow: beta is a Q_mu max margin, scaled to the loss."""

import numpy as np
import xarray as xr
from scipy.optimize import brentq
from scipy.special import logsumexp

import gflow
from gflow import datasets, explorer, limits
from gflow.explorer.contents import GRID

DEPTHS = (2, 3)
SCALES = np.geomspace(0.01, 100.0, 5)
DECADES = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
# By depth and scale: a flow that ended after three accuracies.
LOST = (1, 4)


def made(X, y, depths=DEPTHS, scales=SCALES, decades=DECADES):
    gamma = gflow.decades(decades)
    shape = (len(depths), len(scales), len(decades))
    mu = np.stack([np.asarray(scales)[:, None] ** depth / gamma for depth in depths])
    beta, q = np.empty((*shape, X.shape[1])), np.empty((*shape, X.shape[1]))
    for i, depth in enumerate(depths):
        # The flow is late: its mu is three times the one that theory gives it.
        both = limits.q_max_margin(X, y, mu=np.append(mu[i], 3.0 * mu[i]), depth=depth).beta
        q[i], beta[i] = both.reshape(2, *shape[1:], -1)
    # Samples of different weight, which the scale decides.
    tilt = np.linalg.pinv(y[:, None] * X) @ np.linspace(0.0, 1.0, y.size)
    for at in np.ndindex(shape):
        shift = tilt * (1.0 + 0.3 * np.log10(scales[at[1]]))
        margins, more, goal = y * (X @ beta[at]), y * (X @ shift), gamma[at[2]]
        miss = lambda c, m=margins, n=more, g=goal: np.log(y.size) - logsumexp(-c * m - n) - g
        beta[at] = (beta[at] * brentq(miss, 0.0, goal + 10.0 * np.log(y.size), xtol=1e-13) + shift) / goal
    log_time = gamma - np.log(gamma) - 0.3 * np.log(scales)[:, None] + np.zeros(shape)
    status = np.full(shape[:2], int(gflow.Status.success))
    if len(depths) > LOST[0] and len(scales) > LOST[1]:
        beta[*LOST, 3:], log_time[*LOST, 3:], status[LOST] = np.nan, np.nan, int(gflow.Status.max_steps)
    l1, l2 = limits.l1_max_margin(X, y).beta, limits.l2_max_margin(X, y).beta
    apart = lambda limit: np.linalg.norm(beta - limit, axis=-1) / np.linalg.norm(limit, axis=-1)
    excess = lambda limit, order: np.linalg.norm(beta, order, axis=-1) / np.linalg.norm(limit, order) - 1.0
    fields = {
        "mu": mu, "log_time": log_time, "excess_l1": excess(l1, 1), "excess_l2": excess(l2, 2),
        "distance_l1": apart(l1), "distance_l2": apart(l2), "distance_Q_mu": apart(q),
    }  # fmt: skip
    return xr.Dataset(
        {name: (GRID, values) for name, values in fields.items()}
        | {"beta_over_gamma": ((*GRID, "coordinate"), beta), "status": (GRID[:2], status)}
        | {"l1_beta": ("coordinate", l1), "l2_beta": ("coordinate", l2)},
        coords={"depth": list(depths), "scale": scales, "decades": decades},
    )


def page(name):
    """The page of a data set, and what it shows."""
    data = datasets.load(name)
    shown = explorer.contents(made(data.X, data.y), data.X, data.y)
    return explorer.page(shown, title=f"A <test> of {name}", about=str(data)), shown
