"""Gradient descent for deep matrix factorization, with the flow beside the descent.

Chou, Gieshoff, Maly & Rauhut 2020 (arXiv 2011.13772): eigenvalues are learned one after another at predicted times, the
effective rank rests at that of the best approximations of the target, negative eigenvalues need a perturbed start, and
early stopping denoises. Beside it the role of the rank of the initialization in sensing (Eftekhari & Zygalakis 2020,
arXiv 2008.12091), limit directions of linear networks (Yun, Krishnan & Mobahi 2021, arXiv 2010.02501), and the rate of
convergence from unbalanced factors (Min et al. 2021, arXiv 2105.06351).

Every function computes one part as an `xarray.Dataset`; `gflow reproduce deep-factorization` writes them all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from .. import metrics, observe
from ..clocks import TimeClock
from ..descent import gradient_descent
from ..limits import factorization as closed
from ..losses import Square
from ..models import MatrixFactorization
from ..solve import gradient_flow
from . import factorization_plots as plots, linear_networks, saddles
from .report import Claim, Part, Study

EIGENVALUES = (10.0, 5.0, 1.0)
_SUM = Square(reduction="sum")
# Depth, scale, step size, steps: the learning times of the three eigenvalues are apart, and all of them in the run.
_RUNS = ((2, 1e-2, 1e-2, 800), (3, 0.1, 5e-3, 2400), (4, 0.3, 2e-3, 4000))


def _rows(steps: int, count: int) -> np.ndarray:
    """Steps to save, closer to one another early."""
    return np.unique((np.linspace(0, 1, count) ** 1.5 * steps).round().astype(int))


def _along(vectors: Any) -> Callable:
    """The diagonal of the product in this basis."""
    return lambda model: jnp.einsum("in,ij,jn->n", vectors, model.product, vectors)


def estimation(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """The whole target observed, from alpha I: descent for N = 2, 3, 4, flow and closed form beside it.

    **Returns:** over (depth, save): `time`, `rank` (effective); over (depth, save, eigenvalue) `descent`, `flow` (N=3)
    and `exact`; per depth and L the interval of the theorem: `start`, `end`, `lower`, `upper`.
    """
    size = 12 if quick else 50
    target = observe.symmetric(EIGENVALUES, size, jax.random.key(0))
    vectors = jnp.linalg.eigh(target)[1][:, ::-1][:, :3]
    X, y = observe.everything(target)
    seen = {"rank": metrics.effective_rank, "along": _along(vectors)}
    parts = []
    for n, (depth, scale, step, steps) in enumerate(_RUNS):
        model, save = MatrixFactorization.identical(size, depth, scale), _rows(steps, 81 if quick else 161)
        traj = gradient_descent(model, X, y, loss=_SUM, step=step, steps=steps, save=save, metrics=seen)
        times = save * step
        exact = closed.scalar_flow(times[:, None], np.array(EIGENVALUES)[None], depth, scale) ** depth
        flow = np.full(exact.shape, np.nan)
        if depth == 3:
            few = slice(1, None, 8)
            run = gradient_flow(
                model, X, y, loss=_SUM, clock=TimeClock(), save=times[few], rtol=1e-10, metrics={"along": seen["along"]}
            )
            flow[few] = run.metrics["along"]
        interval = lambda k, N=depth, alpha=scale: closed.rank_interval(
            EIGENVALUES, k, N, alpha, size=size, miss=0.05, leak=0.05
        )
        bounds = [interval(k) for k in (1, 2, 3)]
        dims = ("save", "eigenvalue")
        parts.append(
            xr.Dataset(
                {
                    "time": ("save", times), "rank": ("save", traj.metrics["rank"]),
                    "descent": (dims, traj.metrics["along"]), "flow": (dims, flow), "exact": (dims, exact),
                    "learned": ("eigenvalue", closed.learning_time(EIGENVALUES, depth, scale, fraction=0.5)),
                    "start": ("L", [b.start for b in bounds]), "end": ("L", [min(b.end, times[-1]) for b in bounds]),
                    "lower": ("L", [b.lower for b in bounds]), "upper": ("L", [b.upper for b in bounds]),
                },
                coords={"save": np.arange(times.size), "eigenvalue": list(EIGENVALUES), "L": [1, 2, 3]},
            )
        )  # fmt: skip
        report((n + 1) / 3)
    return xr.concat(parts, "depth", join="outer").assign_coords(depth=[run[0] for run in _RUNS])


def _estimation_claims(ds: xr.Dataset) -> list[Claim]:
    inside, plateaus = [], 0
    for depth in ds.depth.values:
        one = ds.sel(depth=depth)
        for k in ds.L.values:
            at = one.sel(L=k)
            # Descent keeps the flow's time to within a step or two of its own.
            here = ((one.time >= at.start) & (one.time <= at.end)).values
            plateaus += bool(here.any())
            rank = one["rank"].values[here]
            inside += [*(rank - float(at.lower)), *(float(at.upper) - rank)]
    flow = ds.sel(depth=3)
    known = np.isfinite(flow.flow.values)
    miss = np.abs(flow.flow.values[known] / flow.exact.values[known] - 1)
    gap = [float(np.nanmax(np.abs(ds.descent - ds.exact).sel(depth=d) / 10)) for d in ds.depth.values]
    learned = [ds.sel(depth=d).where(ds.time.sel(depth=d) >= ds.start.sel(depth=d, L=1)) for d in ds.depth.values]
    rising = [float(np.nanmin(np.diff(one["rank"].values))) for one in learned]
    return [
        Claim.at_most("flow, N = 3: error of the learned eigenvalues against the closed form, relative", 1e-8, miss),
        Claim.at_most("descent against the closed form of the flow, relative to the largest eigenvalue", 0.2, gap),
        Claim.at_least("effective rank inside the intervals of the theorem: distance to their ends", 0.0, inside),
        Claim.at_least("plateaus with an interval that is not empty", 6, plateaus),
        Claim.at_least("effective rank does not fall once the first eigenvalue is learned", -0.02, rising),
    ]


def sensing(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Fewer random measurements than entries: the effective rank from alpha I (N = 2, 3, 4) and from random factors.

    And, for symmetric W = U U^T from a start of rank r (N = 2, W_1 = W_2^T = alpha (I_r, 0)), what is recovered.
    """
    size, count, more = (20, 300, 1) if quick else (30, 500, 3)
    target = observe.symmetric(EIGENVALUES, size, jax.random.key(1))
    X, y = observe.measurements(target, count, jax.random.key(2))
    miss = lambda model: jnp.linalg.norm(model.product - target) / jnp.linalg.norm(target)
    seen = {"rank": metrics.effective_rank, "miss": miss}
    models = {
        "identical, N = 2": (MatrixFactorization.identical(size, 2, 1e-2), 1e-2, 1000 * more),
        "identical, N = 3": (MatrixFactorization.identical(size, 3, 0.1), 5e-3, 2400 * more),
        "identical, N = 4": (MatrixFactorization.identical(size, 4, 0.3), 2e-3, 4000 * more),
        "Gaussian, N = 2": (MatrixFactorization.gaussian([size] * 3, 1e-2, jax.random.key(3)), 1e-2, 1000 * more),
    }
    runs = {}
    for n, (name, (model, step, steps)) in enumerate(models.items()):
        save = _rows(steps, 41)
        traj = gradient_descent(model, X, y, loss=_SUM, step=step, steps=steps, save=save, metrics=seen)
        runs[name] = traj, save * step
        report((n + 1) / 8)
    # Of the flow with everything observed; the measurements shift times and ranks a little.
    bounds = [
        [closed.rank_interval(EIGENVALUES, k, N, scale, size=size, miss=0.05, leak=0.05) for k in (1, 2, 3)]
        for N, scale, *_ in _RUNS
    ]
    ranks, final = [1, 2, 3, size], []
    for n, rank in enumerate(ranks):
        U = 1e-2 * np.eye(size)[:, :rank]
        model = MatrixFactorization([np.pad(U, ((0, 0), (0, size - rank))).T, np.pad(U, ((0, 0), (0, size - rank)))])
        # As many saves as above: the same compiled program.
        save = _rows(2000 * more, 41)
        traj = gradient_descent(model, X, y, loss=_SUM, step=1e-2, steps=2000 * more, save=save, metrics=seen)
        values = metrics.singular_values(traj.final)
        final.append((float(traj.metrics["miss"][-1]), int(jnp.sum(values > 1e-8 * values[0]))))
        report(0.5 + (n + 1) / 8)
    return xr.Dataset(
        {
            "time": (("run", "save"), [times for _, times in runs.values()]),
            "rank": (("run", "save"), [run.metrics["rank"] for run, _ in runs.values()]),
            "miss": (("run", "save"), [run.metrics["miss"] for run, _ in runs.values()]),
            **{
                name: (("depth", "L"), [[min(getattr(b, name), 1e9) for b in row] for row in bounds])
                for name in ("start", "end", "lower", "upper", "plateau")
            },
            "final_miss": ("initial_rank", [m for m, _ in final]),
            "final_rank": ("initial_rank", [r for _, r in final]),
        },
        coords={"run": list(models), "initial_rank": ranks, "depth": [run[0] for run in _RUNS], "L": [1, 2, 3]},
    )


def _sensing_claims(ds: xr.Dataset) -> list[Claim]:
    near = []
    for n, depth in enumerate(ds.depth.values):
        one = ds.isel(run=n)
        for k in ds.L.values:
            at = ds.sel(depth=depth, L=k)
            end = min(float(at.end), float(one.time[-1]))
            if end > float(at.start):
                middle = np.interp((float(at.start) + end) / 2, one.time, one["rank"])
                near.append(abs(middle - float(at.plateau)))
    return [
        Claim.at_most("sensing: effective rank in the middle of the intervals, off the plateau", 0.1,
                      near),
        Claim.at_least("intervals that are not empty", 6, len(near)),
        Claim.at_most("sensing recovers the target, N = 2, 3, 4: last relative error", 0.15,
                      ds.miss.isel(save=-1).values[:3]),
        Claim.at_most(
            "rank of the initialization bounds the rank of the limit: excess", 0.0,
            (ds.final_rank - ds.initial_rank).values,
        ),
        Claim.at_least("a start of rank below that of the target misses it", 0.05, ds.final_miss.values[:2]),
        Claim.at_most("a start of the rank of the target recovers it", 0.15, ds.final_miss.values[2:3]),
    ]  # fmt: skip


def signs(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Eigenvalues 2 and -1 from alpha I and from a perturbed start, N = 2, by descent and in closed form."""
    values = np.array([2.0, -1.0])
    X, y = observe.everything(np.diag(values))
    step, save = 5e-3, _rows(2400, 61)
    rows = {}
    for name, model in (
        ("identical", MatrixFactorization.identical(2, 2, 0.1)),
        ("perturbed", MatrixFactorization.perturbed(2, 2, 0.1, 0.05)),
    ):
        traj = gradient_descent(model, X, y, loss=_SUM, step=step, steps=2400, save=save)
        rows[name] = np.einsum("sii->si", traj.model.product)
    times = save * step
    exact = {
        "identical": closed.scalar_flow(times[:, None], values[None], 2, 0.1) ** 2,
        "perturbed": closed.perturbed_flow(times[:, None], values[None], 2, 0.05, 0.1),
    }
    dims = ("start", "save", "eigenvalue")
    report(1.0)
    return xr.Dataset(
        {"time": ("save", times), "descent": (dims, list(rows.values())), "exact": (dims, list(exact.values()))},
        coords={"start": list(rows), "eigenvalue": values},
    )


def _signs_claims(ds: xr.Dataset) -> list[Claim]:
    last = ds.descent.isel(save=-1)
    negative = last.sel(eigenvalue=-1)
    return [
        Claim.close("identical start: the eigenvalue -1 is lost", 0.0, negative.sel(start="identical"), 1e-6),
        Claim.close("perturbed start: the eigenvalue -1 is reached", -1.0, negative.sel(start="perturbed"), 1e-4),
        Claim.close("both: the eigenvalue 2 is reached", 2.0, last.sel(eigenvalue=2), 1e-6),
        Claim.at_most("descent against the closed forms", 0.05, np.abs(ds.descent - ds.exact).max().values),
    ]


def noise(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Noisy entries, N = 3: the error against the clean target, and the stop by the predicted learning time."""
    # Sizes and saves are those of `estimation`, so that what was compiled there serves here.
    size = 12 if quick else 50
    # The eigenvalues of the noise end at one half.
    deviation = 0.25 / size**0.5
    clean = observe.symmetric(EIGENVALUES, size, jax.random.key(4))
    raw = deviation * jax.random.normal(jax.random.key(5), (size, size))
    X, y = observe.everything(clean + (raw + raw.T) / 2**0.5)
    miss = lambda model: jnp.linalg.norm(model.product - clean) / jnp.linalg.norm(clean)
    save = _rows(20_000, 81 if quick else 161)
    traj = gradient_descent(
        MatrixFactorization.identical(size, 3, 0.1), X, y, loss=_SUM, step=5e-3, steps=20_000, save=save,
        metrics={"miss": miss},
    )  # fmt: skip
    report(1.0)
    stop = float(closed.learning_time(EIGENVALUES[-1], 3, 0.1, fraction=0.9))
    return xr.Dataset({"time": ("save", save * 5e-3), "miss": ("save", traj.metrics["miss"]), "stop": ((), stop)})


def _noise_claims(ds: xr.Dataset) -> list[Claim]:
    stopped = float(np.interp(ds.stop, ds.time, ds.miss))
    best, last = float(ds.miss.min()), float(ds.miss[-1])
    return [
        Claim.at_most("error at the predicted time over the least of all times", 1.5, stopped / best),
        Claim.at_least("error at the end over that at the predicted time", 1.1, last / stopped),
    ]


def steps(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Descent of one eigenvalue of the product, at and beyond the bounds on the step, from equal factors alpha and from
    perturbed ones.

    With P = |lambda|^(2-2/N), N P is the curvature at the minimum, but for what factors differ by. From equal factors
    the iteration is increasing up to 1 / (N P); from any start no run can stay at the minimum beyond 2 / (N P).

    **Returns:** over (depth, size) from equal factors and over (depth, sign, size) from perturbed ones: `least_move` of
    the product towards the target, `rise` of the loss over its value before, and `ending`, the distance to the target.
    """
    cases = ((2, 4.0, 0.1), (3, 2.0, 0.3)) if quick else ((2, 4.0, 0.1), (3, 2.0, 0.3), (4, 1.5, 0.5))
    equal, other = [], []
    for n, (depth, target, scale) in enumerate(cases):
        gap, increasing = scale / 2, 1.0 / (depth * target ** (2 - 2 / depth))
        one = MatrixFactorization.identical(1, depth, scale)
        sizes = [closed.step_bound(target, depth, scale), 0.99 * increasing, 1.1 * increasing, 1.9 * increasing,
                 2.1 * increasing]  # fmt: skip
        equal.append([_moves(one, target, eta, 1) for eta in sizes])
        two = MatrixFactorization.perturbed(1, depth, scale, gap)
        bound = closed.step_bound(target, depth, scale, gap)
        other.append([[_moves(two, sign * target, eta, 20) for eta in (bound, 2.2 * increasing)] for sign in (1, -1)])
        report((n + 1) / len(cases))
    names = ("least_move", "rise", "ending")
    fields = {name: (("depth", "size"), np.array(equal)[..., k]) for k, name in enumerate(names)}
    fields |= {f"{name}_perturbed": (("depth", "sign", "at"), np.array(other)[..., k]) for k, name in enumerate(names)}
    return xr.Dataset(
        fields,
        coords={
            "depth": [depth for depth, *_ in cases],
            "size": ["bound", "0.99 increasing", "1.1 increasing", "0.95 stability", "1.05 stability"],
            "at": ["bound", "1.1 stability"], "sign": [1, -1],
        },
    )  # fmt: skip


def _moves(model: MatrixFactorization, target: float, eta: float, stride: int) -> tuple[float, float, float]:
    """Least move towards the target, largest rise of the loss relative to what it was, and the distance at the end."""
    save = np.arange(0, 4001) * stride
    traj = gradient_descent(
        model, np.eye(1), target * np.eye(1), loss=_SUM, step=eta, steps=int(save[-1]), save=save, throw=False
    )
    p = np.asarray(traj.model.product)[:, 0, 0] * np.sign(target)
    miss = np.abs(p - abs(target))
    # Below, what moves is rounding. A tail of 50 tells a limit from a cycle.
    above = miss[:-1] > 1e-12
    rise = np.max(miss[1:][above] / miss[:-1][above] - 1, initial=-1.0)
    return np.min(np.diff(p)), rise, np.max(miss[-50:]) if traj.success else np.inf


def _steps_claims(ds: xr.Dataset) -> list[Claim]:
    bounded = ds.sel(at="bound")
    return [
        Claim.at_least("equal factors, at the bound and up to the increasing map: least move of the product", -1e-12,
                       ds.least_move.values[:, :2]),
        Claim.at_most("there they converge: distance to the target at the end", 1e-8, ds.ending.values[:, :2]),
        Claim.at_most("beyond it they overshoot: least move", -1e-6, ds.least_move.values[:, 2]),
        Claim.at_most("but converge below the limit of stability: distance at the end", 1e-8, ds.ending.values[:, 2:4]),
        Claim.at_least("beyond the limit of stability they do not: distance", 1e-3, ds.ending.values[:, 4]),
        Claim.at_most("perturbed factors, either sign, at their bound: distance at the end", 1e-8,
                      bounded.ending_perturbed.values),
        Claim.at_most("there the loss never rises: largest rise, relative", 0.0, bounded.rise_perturbed.values),
        Claim.at_least("beyond the limit of stability perturbed factors do not converge: distance", 1e-3,
                       ds.ending_perturbed.sel(at="1.1 stability").values),
    ]  # fmt: skip


STUDY = Study(
    "deep-factorization",
    "Gradient descent and flow for deep matrix factorization",
    "Chou, Gieshoff, Maly & Rauhut, arXiv 2011.13772; with arXiv 2008.12091, 2010.02501 and 2105.06351",
    "Eigenvalues of the target are learned one after another, at times that the closed forms predict; so the effective "
    "rank rests on plateaus. Parameters of the original experiments are not known: these are gflow's own.",
    (
        Part("estimation", "The whole target observed", estimation, _estimation_claims,
             {"eigenvalues": plots.eigenvalues, "effective-rank": plots.effective_rank}),
        Part("sensing", "Random measurements", sensing, _sensing_claims, {"sensing": plots.sensing}),
        saddles.SADDLES,
        Part("signs", "Positive and negative eigenvalues", signs, _signs_claims, {"signs": plots.signs}),
        Part("noise", "Noise and early stopping", noise, _noise_claims, {"noise": plots.noise}),
        Part("steps", "Step sizes, at and beyond their bounds", steps, _steps_claims),
        linear_networks.DIRECTIONS,
        linear_networks.IMBALANCE,
    ),
)  # fmt: skip
