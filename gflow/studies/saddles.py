"""Random factors and their saddles, a part of the factorization study: when the singular values are learned.

Of W = W_2 W_1 from small factors, with eigenvectors v_i and eigenvalues lambda_1 > lambda_2 > ... of T: the vectors
w_i = (W_1 v_i + W_2^T v_i) / 2 of the hidden space grow like e^(lambda_i t), and what is orthogonal to those that have
been learned goes on growing, so that with g_i = |w_i - projection on w_1, ..., w_(i-1)|^2 at t = 0

    p_i(t) = lambda_i / (1 + (lambda_i / g_i - 1) e^(-2 lambda_i t)),

up to terms as small as the scale. For N = 3 the flow near zero has no scale of its own, and times are constants over
the scale. Saddles: Jacot et al. 2021 (arXiv 2106.15933).
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr

from .. import metrics, observe
from ..clocks import TimeClock
from ..descent import gradient_descent
from ..losses import Square
from ..models import MatrixFactorization
from ..solve import gradient_flow
from ..solvers import LogRadau
from ..status import Status
from .figures import COLOURS, panels
from .report import Claim, Part

_SUM = Square(reduction="sum")
EIGENVALUES = np.array([5.0, 2.0, 1.0])
_SMALLEST = 1e-30


def predicted(model: MatrixFactorization, target: Any, times: np.ndarray) -> np.ndarray:
    """p_i(t) for N = 2, shape (S, rank)."""
    values, vectors = np.linalg.eigh(np.asarray(target))
    rank = EIGENVALUES.size
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    first, second = (np.asarray(W) for W in model.factors)
    w = (first @ vectors + second.T @ vectors) / 2
    # On the diagonal of R of a QR decomposition: the lengths of what is orthogonal to the columns before.
    grown = np.diag(np.linalg.qr(w)[1]) ** 2
    with np.errstate(over="ignore"):
        return values / (1 + (values / grown - 1) * np.exp(-2 * values * times[:, None]))


def saddles(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Gaussian factors: N = 2 from scales 1e-2 and 1e-30 (flow and descent), N = 3 from 1e-4 to 1e-30.

    **Returns:** over (scale2, save, eigenvalue): `time`, `flow`, `exact`, and `descent`; over (scale3, learned):
    `learned_time`, when half of the first and of the second eigenvalue is learned, nan where the run stopped before,
    and `code` of its status.
    """
    size = 6 if quick else 10
    target = observe.symmetric(EIGENVALUES, size, jax.random.key(0))
    X, y = observe.everything(target)
    seen = {"values": lambda model: metrics.singular_values(model)[: EIGENVALUES.size]}
    rows, step = [], 2e-3
    for scale, stop in ((1e-2, 12.0), (_SMALLEST, 80.0)):
        model = MatrixFactorization.gaussian([size] * 3, scale, jax.random.key(1))
        times = np.round(np.linspace(0.0, stop, 81)[1:] / step) * step
        flow = gradient_flow(model, X, y, loss=_SUM, clock=TimeClock(), save=times, rtol=1e-9, metrics=seen)
        save = np.round(times / step)
        down = gradient_descent(model, X, y, loss=_SUM, step=step, steps=int(save[-1]), save=save, metrics=seen)
        rows.append((times, flow.metrics["values"], predicted(model, target, times), down.metrics["values"]))
        report(0.2 * len(rows))
    time, flow, exact, down = (np.array(column) for column in zip(*rows, strict=True))
    scales = [1e-4, 1e-10, 1e-16, 1e-30] if quick else [1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14, 1e-16, 1e-20, 1e-30]
    small = observe.symmetric([2.0, 1.0], 2, jax.random.key(2))
    X, y = observe.everything(small)
    points = -np.log([(1.0**2 + 1.0) / 2, 0.5**2 / 2])
    learned, codes = np.full((len(scales), 2), np.nan), []
    for n, scale in enumerate(scales):
        model = MatrixFactorization.gaussian([2] * 4, scale, jax.random.key(2))
        run = gradient_flow(model, X, y, loss=_SUM, save=points, rtol=1e-9, solver=LogRadau(), throw=False)
        reached = 2 if run.success else run.neg_log_loss.size - 1
        learned[n, :reached] = np.exp(run.log_time[:reached])
        codes.append(int(run.status_code))
        report(0.4 + 0.6 * (n + 1) / len(scales))
    dims = ("scale2", "save", "eigenvalue")
    return xr.Dataset(
        {
            "time": (dims[:2], time), "flow": (dims, flow), "exact": (dims, exact), "descent": (dims, down),
            "learned_time": (("scale3", "learned"), learned), "code": ("scale3", codes),
        },
        coords={"scale2": [1e-2, _SMALLEST], "eigenvalue": EIGENVALUES, "scale3": scales, "learned": [2.0, 1.0]},
    )  # fmt: skip


def _half(values: xr.DataArray, time: xr.DataArray) -> np.ndarray:
    """When half of each eigenvalue is learned: the logit of the share that is learned is a line in time."""
    share = np.clip(values.values / EIGENVALUES, 1e-300, 1 - 1e-12)
    logit = np.log(share / (1 - share))
    return np.array([np.interp(0.0, column, time.values) for column in logit.T])


def _claims(ds: xr.Dataset) -> list[Claim]:
    tiny = ds.sel(scale2=_SMALLEST)
    there = tiny.exact.values > 1e-3 * EIGENVALUES
    off = np.abs(tiny.flow.values / tiny.exact.values - 1)[there]
    usual = ds.sel(scale2=1e-2)
    late = _half(usual.flow, usual.time) / _half(usual.exact, usual.time) - 1
    apart = np.abs(usual.descent.values - usual.flow.values) / EIGENVALUES[0]
    # By (1 + eta lambda)^k in place of exp: 0.5 % at eta lambda = 0.01.
    behind = _half(tiny.descent, tiny.time) / _half(tiny.exact, tiny.time) - 1
    times = (ds.learned_time * ds.scale3).values
    passed = (ds.code == int(Status.success)).values
    stopped = ds.scale3.values < 5e-17
    return [
        Claim.at_most("N = 2 from 1e-30: singular values beyond 1e-3 λ against the prediction, relative", 1e-6, off),
        Claim.at_most("N = 2 from 1e-2: times of λ/2 against the prediction", 0.05, np.abs(late)),
        Claim.at_most("N = 2 from 1e-2: descent against the flow, relative to the largest eigenvalue", 0.05, apart),
        Claim.at_most("N = 2 from 1e-30: times of λ/2 of descent against the prediction", 0.006, np.abs(behind)),
        Claim.at_most("N = 3: learning times times the scale, 1e-4 to 1e-16: relative spread", 1e-2,
                      np.ptp(times[passed], axis=0) / times[passed].min(axis=0)),
        Claim.at_least("N = 3: scales from 1e-16 up pass both saddles", 1.0, passed[~stopped]),
        Claim.close("N = 3: from 1e-20 and 1e-30 the run stops on the plateau and says so: status", int(Status.plateau),
                    ds.code.values[stopped], 0.0),
    ]  # fmt: skip


def _draw(ds: xr.Dataset) -> Any:
    figure, axes = panels(3)
    for ax, scale in zip(axes[0], ds.scale2.values, strict=False):
        one = ds.sel(scale2=scale)
        for k, value in enumerate(EIGENVALUES):
            ax.plot(one.time, one.exact[:, k], color=COLOURS[k], lw=1.3, label=f"λ = {value:g}")
            ax.plot(one.time[::2], one.flow[::2, k], "o", color=COLOURS[k], ms=3.5)
            ax.plot(one.time, one.descent[:, k], ":", color=COLOURS[k], lw=1.8)
        ax.set(xlabel="time t, or η times step", ylabel="singular value of the product")
        ax.set_title(f"N = 2, scale {scale:g}")
    axes[0, 0].legend(fontsize=8, title="line: predicted\ndots: flow\ndotted: descent", title_fontsize=8, loc="right",
                      bbox_to_anchor=(1.0, 0.66))  # fmt: skip
    right = axes[0, 2]
    for k, value in enumerate(ds.learned.values):
        right.semilogx(ds.scale3, ds.learned_time[:, k] * ds.scale3, "os"[k] + "-", color=COLOURS[k], ms=4,
                       label=f"half of λ = {value:g}")  # fmt: skip
    first = True
    for scale, code in zip(ds.scale3.values, ds.code.values, strict=True):
        if code == int(Status.plateau):
            right.axvline(scale, color="0.6", ls=":", lw=1.2, label="stops on the plateau" if first else None)
            first = False
    right.set(xlabel="scale α", ylabel="learning time times α", title="N = 3")
    right.set_ylim(0, 1.6 * float((ds.learned_time * ds.scale3).max()))
    right.legend(fontsize=8)
    return figure


SADDLES = Part("saddles", "Random factors and their saddles", saddles, _claims, {"saddles": _draw})
