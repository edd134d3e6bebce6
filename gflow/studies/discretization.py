"""Gradient descent against gradient flow: how far apart they are, and why.

The distance is O(eta) to the flow of L, and O(eta^2) to the modified flow of L + (eta / 4) ||grad L||^2 (Barrett &
Dherin 2021, arXiv 2009.11162). It grows where the Hessian has negative eigenvalues: to first order in eta

    distance(t) <= eta/2 int_0^t e^(int_s^t m) ||H grad L||(s) ds,   m = -lambda_min(H),

along the path of the flow (Elkabetz & Cohen 2021, arXiv 2107.06608). Where the largest eigenvalue exceeds 2 / eta
descent leaves the flow for good: the edge of stability (Cohen et al. 2021, arXiv 2103.00065).
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from .. import metrics, observe
from ..clocks import TimeClock
from ..descent import gradient_descent
from ..losses import AbstractLoss, Square
from ..metrics.spectra import loss_gradient
from ..models import MatrixFactorization
from ..modified import modified
from ..solve import gradient_flow
from .figures import COLOURS, panels
from .report import Claim, Part, Study

_SUM = Square(reduction="sum")


def _theta(model: Any) -> jax.Array:
    return ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0]


def _problem() -> tuple[MatrixFactorization, Any, Any]:
    """A deep factorization from small random factors, which passes saddles on its way."""
    X, y = observe.everything(observe.symmetric([2.0, 1.0], 4, jax.random.key(0)))
    return MatrixFactorization.gaussian([4, 4, 4, 4], 0.6, jax.random.key(1)), X, y


def drift(model: Any, X: Any, y: Any, *, loss: AbstractLoss = _SUM) -> jax.Array:
    """||H grad L||, twice the error of a step of descent over eta^2."""
    gradient, theta = loss_gradient(model, X, y, loss)
    g = gradient(theta)
    return jnp.linalg.norm(jax.jvp(gradient, (theta,), (g,))[1])


def distance(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Largest distance of descent to the flow and to the modified flow over a run, for step sizes eta; and the bound.

    **Returns:** over eta: `to_flow`, `to_modified`; over `time`: `gap` at the smallest eta, `bound`, `least` (smallest
    eigenvalue of the Hessian along the flow) and `largest`.
    """
    model, X, y = _problem()
    stop, count = 12.0, 25 if quick else 61
    # Whole multiples of every step size.
    times = np.linspace(0.0, stop, count)[1:]
    etas = [0.02, 0.01, 0.005] if quick else [0.05, 0.02, 0.01, 0.005, 0.0025]
    etas = [eta for eta in etas if np.allclose(times / eta, np.round(times / eta))]
    along = {"theta": _theta, "drift": drift, "ends": functools.partial(metrics.hessian_ends, loss=_SUM, rtol=1e-4)}
    until = {"loss": _SUM, "clock": TimeClock(), "save": times, "rtol": 1e-10}
    flow = gradient_flow(model, X, y, **until, metrics=along)
    report(0.3)
    gaps, to_modified = [], []
    modified_flow = lambda eta: modified(gradient_flow, eta)(model, X, y, **until, metrics={"theta": _theta})
    for n, eta in enumerate(etas):
        save = np.round(times / eta)
        down = gradient_descent(
            model, X, y, loss=_SUM, step=eta, steps=int(save[-1]), save=save, metrics={"theta": _theta}
        )
        gaps.append(np.linalg.norm(down.metrics["theta"] - flow.metrics["theta"], axis=1))
        near = modified_flow(eta).metrics["theta"]
        to_modified.append(np.max(np.linalg.norm(down.metrics["theta"] - near, axis=1)))
        report(0.3 + 0.7 * (n + 1) / len(etas))
    ends = np.asarray(flow.metrics["ends"])
    grid, m = np.append(0.0, times), -np.append(ends[:1, 0], ends[:, 0])
    source = np.append(flow.metrics["drift"][:1], flow.metrics["drift"])
    bound = etas[-1] / 2 * accumulated(grid, m, source)[1:]
    return xr.Dataset(
        {
            "to_flow": ("eta", [g.max() for g in gaps]), "to_modified": ("eta", to_modified),
            "gap": ("time", gaps[-1]), "bound": ("time", bound), "least": ("time", ends[:, 0]),
            "largest": ("time", ends[:, 1]),
        },
        coords={"eta": etas, "time": times},
    )  # fmt: skip


def accumulated(t: np.ndarray, m: np.ndarray, source: np.ndarray) -> np.ndarray:
    """e(t) of e' = m e + source, e(0) = 0, with m and the source piecewise linear, on a fine grid."""
    fine = np.linspace(t[0], t[-1], 40 * t.size)
    rate, push = np.interp(fine, t, m), np.interp(fine, t, source)
    exponent = np.append(0.0, np.cumsum(np.diff(fine) * (rate[1:] + rate[:-1]) / 2))
    weighed = push * np.exp(-exponent)
    total = np.append(0.0, np.cumsum(np.diff(fine) * (weighed[1:] + weighed[:-1]) / 2))
    return np.interp(t, fine, np.exp(exponent) * total)


def _distance_claims(ds: xr.Dataset) -> list[Claim]:
    slope = lambda v: float(np.polyfit(np.log(ds.eta), np.log(v), 1)[0])
    return [
        Claim.close("distance to the flow: order in eta", 1.0, slope(ds.to_flow), 0.1),
        Claim.close("distance to the modified flow: order in eta", 2.0, slope(ds.to_modified), 0.2),
        Claim.at_most("gap over the bound along the path, smallest eta", 1.05, (ds.gap / ds.bound).values),
        Claim.at_most("the path passes saddles: least Hessian eigenvalue along it", -0.05, float(ds.least.min())),
    ]


class Quartic(eqx.Module):
    """f = a^2 b^2, of which L = (f - 1)^2 / 2 is the smallest problem with an edge of stability (Zhu et al. 2023)."""

    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        return self.a**2 * self.b**2 * x[0]


def edge(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Sharpness along descent of a^2 b^2 -> 1 from unbalanced a, b, for growing eta, and along the flow.

    The minima are a b = 1, of sharpness 4 (a^2 + b^2); descent can stay only at those of sharpness 2 / eta or less.
    """
    model, one = Quartic(jnp.asarray(4.0), jnp.asarray(0.05)), np.ones((1, 1))
    seen = {"sharpness": functools.partial(metrics.sharpness, loss=_SUM), "norm": lambda m: m.a**2 + m.b**2}
    flow = gradient_flow(
        model, one, np.ones(1), loss=_SUM, clock=TimeClock(), save=np.geomspace(1e-3, 20.0, 60), metrics=seen
    )
    report(0.4)
    rows, etas = [], [0.02, 0.03, 0.04, 0.05, 0.06]
    save = np.unique(np.geomspace(1, 60_000, 80).round())
    for n, eta in enumerate(etas):
        down = gradient_descent(
            model, one, np.ones(1), loss=_SUM, step=eta, steps=60_000, save=save, metrics=seen, throw=False
        )
        full = lambda v: np.pad(np.asarray(v, float), (0, save.size - len(v)), constant_values=np.nan)
        rows.append([full(down.metrics["sharpness"]), full(down.metrics["norm"]), full(down.neg_log_loss)])
        report(0.4 + 0.6 * (n + 1) / len(etas))
    sharp, norm, gamma = np.moveaxis(np.array(rows), 1, 0)
    return xr.Dataset(
        {
            "sharpness": (("eta", "step"), sharp), "norm": (("eta", "step"), norm), "gamma": (("eta", "step"), gamma),
            "flow_sharpness": ("time", flow.metrics["sharpness"]), "flow_norm": ((), flow.metrics["norm"][-1]),
        },
        coords={"eta": etas, "step": save, "time": np.exp(flow.log_time)},
    )  # fmt: skip


def _edge_claims(ds: xr.Dataset) -> list[Claim]:
    last = ds.isel(step=-1)
    settled = (last.gamma > 20).values
    ratio = (last.sharpness * last.eta / 2).values
    beyond = float(ds.flow_sharpness[-1]) * ds.eta.values > 2
    return [
        Claim.at_most("limits of descent are stable: sharpness times eta / 2", 1.0 + 1e-6, ratio[settled]),
        Claim.at_least("where the flow ends beyond 2 / eta descent ends below the edge, but near it", 0.8,
                       ratio[settled & beyond]),
        Claim.at_least("larger steps beyond the edge end at a smaller norm: drops", 0.0,
                       -np.diff(last.norm.values[settled & beyond])),
        Claim.at_least("step sizes that settle beyond the edge of the flow", 2, int(np.sum(settled & beyond))),
    ]  # fmt: skip


def _draw_distance(ds: xr.Dataset) -> Any:
    figure, axes = panels(3)
    left, middle, right = axes[0]
    left.loglog(ds.eta, ds.to_flow, "o-", color=COLOURS[0], label="to the flow of L")
    left.loglog(ds.eta, ds.to_modified, "s-", color=COLOURS[1], label="to the modified flow")
    eta = ds.eta.values
    for order, start in ((1, ds.to_flow), (2, ds.to_modified)):
        left.loglog(eta, float(start[-1]) * (eta / eta[-1]) ** order, ":", color="black", lw=1)
    left.set(xlabel="step size η", ylabel="largest distance of descent")
    left.set_xticks(eta, [f"{v:g}" for v in eta])
    left.minorticks_off()
    left.legend(fontsize=8, title="dotted: orders 1 and 2", title_fontsize=8)
    middle.semilogy(ds.time, ds.bound, color="black", ls="--", label="bound along the path")
    middle.semilogy(ds.time, ds.gap, color=COLOURS[0], label=f"measured, η = {eta[-1]:g}")
    middle.set(xlabel="time t", ylabel="distance of descent and flow")
    middle.legend(fontsize=8)
    right.plot(ds.time, ds.largest, color=COLOURS[1], label="largest")
    right.plot(ds.time, ds.least, color=COLOURS[2], label="smallest")
    right.axhline(0.0, color="0.6", lw=0.8)
    right.set(xlabel="time t", ylabel="Hessian eigenvalue along the flow")
    right.legend(fontsize=8)
    return figure


def _draw_edge(ds: xr.Dataset) -> Any:
    figure, axes = panels(2, 4.8)
    left, right = axes[0]
    # The first is stable along the whole flow; the others leave it.
    for k, eta in enumerate(ds.eta.values[::2]):
        one = ds.sel(eta=eta)
        left.semilogx(one.step * eta, one.sharpness, color=COLOURS[k], lw=1.2, label=f"descent, η = {eta:g}")
        left.axhline(2 / eta, color=COLOURS[k], ls=":", lw=1)
    left.semilogx(ds.time, ds.flow_sharpness, color="black", ls="--", lw=1.5, label="flow")
    left.set(xlabel="time t, or η times step", ylabel="sharpness; dotted: 2/η", ylim=(0, 130))
    left.legend(fontsize=8)
    last = ds.isel(step=-1)
    right.plot(ds.eta, last.norm, "o-", color=COLOURS[0], label="descent, at the end")
    right.axhline(float(ds.flow_norm), color="black", ls="--", lw=1, label="flow")
    right.plot(ds.eta, 0.5 / ds.eta, ":", color=COLOURS[1], label="sharpness = 2/η")
    right.set(xlabel="step size η", ylabel="a² + b²", ylim=(0, 1.2 * float(ds.flow_norm)))
    right.set_xticks(ds.eta.values)
    right.legend(fontsize=8)
    return figure


STUDY = Study(
    "discretization",
    "Gradient descent against gradient flow",
    "Barrett & Dherin, arXiv 2009.11162; Elkabetz & Cohen, arXiv 2107.06608; Cohen et al., arXiv 2103.00065",
    "A deep matrix factorization that passes saddles, and the smallest problem with an edge of stability.",
    (
        Part("distance", "How far descent is from flow", distance, _distance_claims, {"distance": _draw_distance}),
        Part("edge", "The edge of stability", edge, _edge_claims, {"edge": _draw_edge}),
    ),
)
