"""Mirror flow d grad phi(beta) = -grad L dt on separable data: the direction is the max margin of the horizon function.

The horizon function of phi is its shape from far away, lim phi(beta / eta) rescaled: the squared l2 norm for the
squared l2 norm, the l1 norm for the hyperbolic entropy (depth 2), the l-infinity norm for sum cosh(beta_i) (Pesme,
Dragomir & Flammarion 2024, arXiv 2406.12763). The potentials of depth > 2 have bounded gradients, for which no such
limit is promised, and they have none (see `depth`).

With p = softmax(-margins) the direction of motion is v = (X^T p) / phi''(beta), and d beta / d gamma = v / (p . X v).
"""

from typing import Any

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.optimize import linprog
from scipy.special import logsumexp

from ... import limits
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import flows, ignore, relative, Report, SAVES, separable

# log phi'' of the potentials; the hyperbolic entropy is that of depth 2 from alpha = 1, of which 1/phi'' is a multiple.
POTENTIALS = {
    "squared l2 norm": lambda b: np.zeros_like(b),
    "hyperbolic entropy": lambda b: -np.log(b**2 + 4) / 2,
    "sum of cosh": lambda b: np.logaddexp(b, -b),
}
NORMS = {"squared l2 norm": 2, "hyperbolic entropy": 1, "sum of cosh": np.inf}
# Where each flow ends in gamma: cosh(beta) reaches e^gamma, and the flow is as stiff as that.
ENDS = (1e4, 1e4, 60.0)
# A data set whose max margins in the three norms are far apart.
SET = 43


def mirror_flow(X: np.ndarray, potential: str, gamma: np.ndarray, rtol: float = 1e-8) -> np.ndarray:
    """beta at gamma = -log of the mean of exp(-margins), from beta = 0, in the variable log(1 + gamma)."""
    curvature = POTENTIALS[potential]

    def rate(s: float, beta: np.ndarray) -> np.ndarray:
        margins = X @ beta
        p = np.exp(-margins - logsumexp(-margins))
        push, weight = X.T @ p, -curvature(beta)
        v = push * np.exp(weight - weight.max())
        return np.exp(s) * v / (p @ (X @ v))

    end = np.log1p(gamma)
    run = solve_ivp(rate, (0.0, end[-1]), np.zeros(X.shape[1]), "Radau", end, rtol=rtol, atol=1e-12)
    if not run.success:
        raise RuntimeError(f"The mirror flow of the {potential} stopped: {run.message}")
    return run.y.T


def max_margin(X: np.ndarray, norm: float) -> np.ndarray:
    """The beta of least norm (1, 2 or infinity) with margins of at least 1."""
    y = np.ones(len(X))
    if norm == 1:
        return limits.l1_max_margin(X, y).beta
    if norm == 2:
        return limits.l2_max_margin(X, y).beta
    d = X.shape[1]
    box = np.vstack([np.hstack([np.eye(d), -np.ones((d, 1))]), np.hstack([-np.eye(d), -np.ones((d, 1))])])
    margins = np.hstack([-X, np.zeros((len(X), 1))])
    answer = linprog(
        np.append(np.zeros(d), 1.0), A_ub=np.vstack([margins, box]), b_ub=np.append(-y, np.zeros(2 * d)),
        bounds=(None, None),
    )  # fmt: skip
    return answer.x[:d]


def horizons(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """The three flows.

    **Returns:** over (potential, save): `gamma` and `excess`, of the norm of the horizon function at margin 1 over its
    least; over potential: `others`, the least excess of the other two norms at the end; over save: `twin`, the distance
    of the flow of the hyperbolic entropy from that of a network of depth 2 at alpha = 1.
    """
    X, gammas = separable(SET), np.stack([np.geomspace(1.0, end, SAVES) for end in ENDS])
    table, others, twin = np.empty((len(POTENTIALS), SAVES)), np.empty(len(POTENTIALS)), np.zeros(SAVES)
    margins = {norm: np.linalg.norm(max_margin(X, norm), norm) for norm in NORMS.values()}
    excess = lambda beta, norm: np.linalg.norm(beta, norm, axis=1) / (beta @ X.T).min(axis=1) / margins[norm] - 1
    for k, (name, gamma) in enumerate(zip(POTENTIALS, gammas, strict=True)):
        beta = mirror_flow(X, name, gamma)
        table[k] = excess(beta, NORMS[name])
        others[k] = min(excess(beta[-1:], norm)[0] for norm in margins if norm != NORMS[name])
        if name == "hyperbolic entropy":
            twin = relative(beta, flows(X, 2, [1.0], gamma).beta[0])
        report((k + 1) / len(POTENTIALS))
    return xr.Dataset(
        {"gamma": (("potential", "save"), gammas), "excess": (("potential", "save"), table),
         "others": ("potential", others), "twin": ("save", twin)},
        coords={"potential": list(POTENTIALS)},
    )  # fmt: skip


def horizon_claims(ds: xr.Dataset) -> list[Claim]:
    late = ds.excess.isel(save=slice(SAVES // 2, None))
    half = (late.isel(save=-1) / late.isel(save=0)).values
    return [
        Claim.at_most("excess of each potential's horizon norm where its flow ends", 0.05, late.isel(save=-1).values),
        Claim.at_least("it is this norm and no other: least excess of the two others there", 0.1, ds.others.values),
        Claim.at_most("it falls: its end over its value at half of the decades", 0.5, half),
        Claim.at_most("two routes: hyperbolic entropy against the network of depth 2, relative", 1e-6, ds.twin.values),
    ]


def draw_horizons(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for k, (name, norm) in enumerate(zip(ds.potential.values, ("2", "1", r"\infty"), strict=True)):
        ax.loglog(ds.gamma[k], ds.excess[k], MARKERS[k] + "-", ms=3, color=COLOURS[k],
                  label=rf"{name}: $\ell_{norm}$")  # fmt: skip
    ax.set(xlabel=r"$\gamma=-\log L$", ylabel="excess of the norm at margin 1")
    ax.legend(fontsize=8)
    return figure


PARTS = (Part("mirror-flow", "Mirror flow and its horizon function", horizons, horizon_claims,
              {"mirror-flow": draw_horizons}),)  # fmt: skip
