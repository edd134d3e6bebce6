"""Wide two-layer ReLU networks, logistic loss: both layers trained against the output layer alone.

Chizat and Bach 2020 (arXiv 2002.04486): as the width grows, the flow of both layers tends to the max margin in the
variation norm, the infimum of |nu| over signed measures nu on the sphere with f(x) = int relu(theta . x) d nu(theta);
the flow of the output layer alone to the max margin in the norm of the kernel k(x, x') = E relu(theta . x) relu(theta .
x'), theta uniform on the sphere. Inputs are points of the plane with a one appended.

Margins: of a network, min y_i f(x_i) over sum |a_j| |w_j|, which bounds the variation norm from above. The largest one
is a linear program on a grid of the sphere; its dual solution p gives an upper bound, max over theta of |sum p_i y_i
relu(theta . x_i)|, here on a grid that is finer by far.

The exact flow costs an event for every kink that a neuron meets, more than ten a neuron here, so wide networks are
followed by descent with steps divided by the loss, in legs whose step falls like 1 / log(1 / loss); where both run,
they are compared.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from scipy.optimize import linprog

from ..clocks import LossClock
from ..descent import gradient_descent
from ..limits import l2_max_margin
from ..losses import Logistic
from ..models import LinearModel, TwoLayerNetwork
from ..solve import gradient_flow
from .figures import COLOURS, panels
from .report import Claim, Part, Study

# Steps of descent times log(1 / loss) at the end of a leg; a quarter of what agrees with the flow to 1e-3.
STEP = 0.125


def clusters(seed: int = 2, points: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Nine squares of `points` samples in the plane with labels at random, and a one appended: X (9 points, 3), y."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1.0, 1.0, 3)
    centres = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    labels = np.repeat(rng.permutation(np.where(np.arange(9) % 2, -1.0, 1.0)), points)
    X = np.repeat(centres, points, axis=0) + 0.12 * rng.uniform(-1, 1, size=(9 * points, 2))
    return np.append(X, np.ones((len(X), 1)), axis=1), labels


def sphere(count: int) -> np.ndarray:
    """Points (count, 3) spread evenly over the sphere (Fibonacci's lattice).

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies import wide_networks
        >>> bool(np.allclose(np.linalg.norm(wide_networks.sphere(50), axis=1), 1))
        True

        ```
    """
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + np.sqrt(5)) * i
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)


class VariationMargin(NamedTuple):
    """The max margin on the grid `directions` (G, 3) with `weights` (G,) of total variation one, and the bound from
    above by the dual solution."""

    margin: float
    above: float
    directions: np.ndarray
    weights: np.ndarray


def variation_margin(X: np.ndarray, y: np.ndarray, count: int = 10_000, fine: int = 400_000) -> VariationMargin:
    """Max margin in the variation norm by a linear program on `count` directions.

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies import wide_networks
        >>> found = wide_networks.variation_margin(np.array([[0.0, 0.6, 0.8]]), np.ones(1), 2000)
        >>> found.margin <= found.above, round(found.margin, 2)
        (True, 1.0)

        ```
    """
    directions = sphere(count)
    rows = y[:, None] * np.maximum(X @ directions.T, 0.0)
    solved = linprog(np.ones(2 * count), A_ub=np.hstack([-rows, rows]), b_ub=-np.ones(len(y)), method="highs")
    if solved.status != 0:
        raise ValueError(f"no network separates the samples on this grid: {solved.message}")
    duals = -solved.ineqlin.marginals
    pulls = (duals * y) @ np.maximum(X @ sphere(fine).T, 0.0)
    weights = (solved.x[:count] - solved.x[count:]) / solved.fun
    return VariationMargin(1 / solved.fun, float(np.max(np.abs(pulls))) / solved.fun, directions, weights)


def kernel(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """E relu(theta . a) relu(theta . b), theta uniform on the sphere in three dimensions (Cho & Saul 2009).

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies import wide_networks
        >>> wide_networks.kernel(np.eye(3)[:1], np.eye(3)[:1]).round(12).tolist()  # E theta_1^2 / 2
        [[0.166666666667]]

        ```
    """
    sizes = np.linalg.norm(A, axis=1)[:, None] * np.linalg.norm(B, axis=1)[None]
    cosine = np.clip(A @ B.T / sizes, -1.0, 1.0)
    angle = np.arccos(cosine)
    return sizes * (np.sin(angle) + (np.pi - angle) * cosine) / (6 * np.pi)


def kernel_margin(gram: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Max margin in the norm of a kernel with this Gram matrix, and the coefficients c of f = sum_i c_i k(x_i, .)."""
    best = l2_max_margin(np.linalg.cholesky(gram), y)
    return float(1 / np.linalg.norm(best.beta)), best.multipliers * y


def start(width: int, seed: int) -> TwoLayerNetwork:
    """Directions uniform on the sphere, |w_j| = |a_j| = 1 / sqrt(width), signs at random."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(width, 3))
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True) * np.sqrt(width)
    return TwoLayerNetwork(hidden, rng.choice([-1.0, 1.0], size=width) / np.sqrt(width), 0.0)


def descend(model: TwoLayerNetwork, X: np.ndarray, y: np.ndarray, gammas: np.ndarray, step: float = STEP) -> list:
    """The network at each of the losses e^-gamma, by descent in legs whose steps are `step` / max(gamma, 10) divided by
    the loss."""
    found = []
    for gamma in gammas:
        traj = gradient_descent(
            model, X, y, loss=Logistic(), step=step / max(gamma, 10.0), normalize="loss", clock=LossClock(), stop=gamma,
            steps=200_000,
        )  # fmt: skip
        model = traj.final
        found.append(model)
    return found


def outputs(model: Any, X: np.ndarray) -> np.ndarray:
    hidden, output = np.asarray(model.hidden), np.asarray(model.output)
    return np.maximum(X @ hidden.T, 0.0) @ output


def margin(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(np.min(y * outputs(model, X)) / variation(model))


def variation(model: Any) -> float:
    return float(np.sum(np.abs(model.output) * np.linalg.norm(np.asarray(model.hidden), axis=1)))


def plane(count: int) -> np.ndarray:
    """A grid of the plane, with a one appended."""
    along = np.linspace(-1.3, 1.3, count)
    points = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
    return np.append(points, np.ones((len(points), 1)), axis=1)


def _gammas(quick: bool) -> np.ndarray:
    return np.array([3.0, 10.0, 30.0] if quick else [3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])


def _agreement(quick: bool, report: Callable) -> xr.Dataset:
    """The exact flow of both layers against descent, at the width where the exact flow takes seconds."""
    X, y = clusters()
    width, gammas = (30, _gammas(True)) if quick else (100, _gammas(False)[:4])
    traj = gradient_flow(start(width, 0), X, y, loss=Logistic(), save=gammas, rtol=1e-8)
    report(0.5)
    points = plane(60)
    models = [jax.tree.map(lambda v, k=k: v[k], traj.model) for k in range(gammas.size)]
    exact = [outputs(model, points) / variation(model) for model in models]
    steps = STEP * np.array([16.0, 4.0, 1.0])
    gap, margins = np.zeros((steps.size, gammas.size)), np.zeros((steps.size, gammas.size))
    for s, step in enumerate(steps):
        for g, model in enumerate(descend(start(width, 0), X, y, gammas, step)):
            found = outputs(model, points) / variation(model)
            gap[s, g] = np.max(np.abs(found - exact[g])) / np.max(np.abs(exact[g]))
            margins[s, g] = margin(model, X, y)
        report(0.5 + 0.5 * (s + 1) / steps.size)
    dims = ("factor", "gamma")
    return xr.Dataset(
        {"gap": (dims, gap), "margin": (dims, margins), "exact": ("gamma", [margin(m, X, y) for m in models]),
         "events": len(traj.events), "steps": int(traj.stats["steps"])},
        coords={"factor": steps, "gamma": gammas}, attrs={"width": width},
    )  # fmt: skip


def _agreement_claims(ds: xr.Dataset) -> Sequence[Claim]:
    text = f"width {ds.attrs['width']}, {int(ds.events)} events of the exact flow: "
    shared = np.abs(ds.margin.values[-1] / ds.exact.values - 1)
    return [
        Claim.at_most(text + "largest distance of descent to it over the plane, relative, at the step used below",
                      2e-3, ds.gap.values[-1]),
        Claim.at_most(text + "relative distance of the margins", 3e-3, shared),
        Claim.at_most("a step 16 times as long is farther away at the end, so that the step is what decides: ratio of "
                      "distances", 0.2, ds.gap.values[-1, -1] / ds.gap.values[0, -1]),
    ]  # fmt: skip


def _agreement_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(1, 5.2)
    for k, factor in enumerate(ds.factor.values):
        label = f"step {factor:g} / log(1/loss)"
        axes[0, 0].loglog(ds.gamma, ds.gap[k], marker="os^"[k], color=COLOURS[k], label=label)
    axes[0, 0].set(xlabel="log(1 / loss)", ylabel="largest distance to the exact flow, relative")
    for ax in axes.flat:
        _plain(ax)
    axes[0, 0].legend(fontsize=8, title=f"width {ds.attrs['width']}", title_fontsize=8)
    return figure


def _widths(quick: bool, report: Callable) -> xr.Dataset:
    X, y = clusters()
    widths = np.array([30, 300] if quick else [30, 100, 300, 1000, 4000])
    seeds, gammas = 2 if quick else 3, _gammas(quick)
    far = np.geomspace(10.0, 1e4, 7)
    best = variation_margin(X, y)
    wide, _ = kernel_margin(kernel(X, X), y)
    shape = (widths.size, seeds)
    both, output = np.full((*shape, gammas.size), np.nan), np.full((*shape, far.size), np.nan)
    quadratic, crossed = np.full(shape, np.nan), np.full(shape, np.nan)
    for w, width in enumerate(widths):
        # One run of the widest: it takes as long as all others together.
        for seed in range(1 if width > 1000 else seeds):
            model = start(int(width), seed)
            for g, found in enumerate(descend(model, X, y, gammas)):
                both[w, seed, g] = margin(found, X, y)
            directions = np.asarray(model.hidden) * np.sqrt(width)
            features = np.maximum(X @ directions.T, 0.0) / np.sqrt(width)
            basis, triangle = np.linalg.qr(features.T)
            quadratic[w, seed] = 1 / np.linalg.norm(l2_max_margin(triangle.T, y).beta)
            traj = gradient_flow(LinearModel(triangle.shape[0]), triangle.T, y, loss=Logistic(), save=far)
            betas = np.asarray(traj.model.beta)
            lowest = np.min(y[None] * (betas @ triangle), axis=1)
            output[w, seed] = lowest / np.linalg.norm(betas, axis=1)
            crossed[w, seed] = lowest[-1] / (np.sum(np.abs(basis @ betas[-1])) / np.sqrt(width))
            report((w + (seed + 1) / seeds) / widths.size)
    dims = ("width", "seed")
    return xr.Dataset(
        {"both": ((*dims, "gamma"), both), "output": ((*dims, "far"), output), "quadratic": (dims, quadratic),
         "crossed": (dims, crossed), "largest": best.margin, "above": best.above, "kernel": wide},
        coords={"width": widths, "gamma": gammas, "far": far},
    )  # fmt: skip


def _width_claims(ds: xr.Dataset) -> Sequence[Claim]:
    end = ds.both.isel(gamma=-1)
    mean = end.mean("seed").values
    widest, near = int(ds.width[-1]), 0.9 if float(ds.gamma[-1]) < 100 else 0.97
    finite = lambda v: v.values[np.isfinite(v.values)]
    # At moderate losses narrow networks are as near to the max margin.
    wider = Claim.at_least("both layers: mean margin at the largest width over that at the smallest", 1.0,
                           mean[-1] / mean[0])  # fmt: skip
    return [
        *([wider] if float(ds.gamma[-1]) > 100 else []),
        Claim.at_least("linear program: max margin on the grid over its bound from above", 0.95,
                       ds.largest / ds.above),
        Claim.at_most("both layers, all widths and losses: margin over that bound", 1.0,
                      finite(ds.both) / float(ds.above)),
        Claim.at_least(f"both layers, width {widest}: margin over the max margin of the linear program", near,
                       finite(end[-1]) / ds.largest.values),
        Claim.close("output layer alone, all widths: margin over the max margin of the quadratic program, "
                    "at a loss of exp(-10000)", 1.0, finite(ds.output.isel(far=-1) / ds.quadratic), 2e-3),
        Claim.close(f"output layer alone: max margin at width {widest} over that of the kernel of infinite width", 1.0,
                    finite(ds.quadratic[-1]) / ds.kernel.values, 0.25 if widest < 1000 else 0.1),
        Claim.at_most("output layer alone: its margin in the variation norm over that of both layers, largest width",
                      0.8, finite(ds.crossed[-1]).max() / mean[-1]),
    ]  # fmt: skip


def _width_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(3)
    left, middle, right = axes[0]
    for k, width in enumerate(ds.width.values):
        colour = COLOURS[k]
        left.plot(ds.gamma, ds.both[k, 0], marker="os^Dv"[k], ms=4, color=colour, label=f"width {width}")
        middle.plot(ds.far, 1 - ds.output[k, 0] / ds.quadratic[k, 0], marker="os^Dv"[k], ms=4, color=colour,
                    label=f"width {width}")  # fmt: skip
    left.axhspan(float(ds.largest), float(ds.above), color="0.8", label="max margin: linear program,\nits bound")
    left.set(xscale="log", xlabel="log(1 / loss)", ylabel="margin in the variation norm", title="both layers")
    middle.set(xscale="log", yscale="log", xlabel="log(1 / loss)", title="output layer alone",
               ylabel="margin missing to the quadratic\nprogram's, relative")  # fmt: skip
    for seed in range(ds.sizes["seed"]):
        labels = ("both layers", "output layer alone") if seed == 0 else (None, None)
        right.plot(ds.width, ds.both[:, seed, -1], "o-", ms=4, color=COLOURS[0], label=labels[0])
        right.plot(ds.width, ds.crossed[:, seed], "s--", ms=4, color=COLOURS[1], label=labels[1])
    right.axhspan(float(ds.largest), float(ds.above), color="0.8")
    right.set(xscale="log", xlabel="width", ylabel="margin in the variation norm", title="at the last loss of each")
    _plain(left)
    _plain(right)
    for ax in axes[0]:
        ax.legend(fontsize=7)
    return figure


def _boundaries(quick: bool, report: Callable) -> xr.Dataset:
    X, y = clusters()
    width, gamma = (300, _gammas(True)) if quick else (1000, _gammas(False)[:5])
    points = plane(121)
    model = start(width, 0)
    both = descend(model, X, y, gamma)[-1]
    report(0.6)
    directions = np.asarray(model.hidden) * np.sqrt(width)
    lift = lambda Z: np.maximum(Z @ directions.T, 0.0) / np.sqrt(width)
    _, coefficients = kernel_margin(lift(X) @ lift(X).T, y)
    best = variation_margin(X, y, 4000)
    _, wide = kernel_margin(kernel(X, X), y)
    fields = {
        f"both layers, width {width}": outputs(both, points),
        "max margin, variation norm": np.maximum(points @ best.directions.T, 0.0) @ best.weights,
        f"output layer alone, width {width}": lift(points) @ (lift(X).T @ coefficients),
        "max margin, kernel": kernel(points, X) @ wide,
    }
    side = round(np.sqrt(len(points)))
    values = np.stack([field / np.max(np.abs(field)) for field in fields.values()])
    return xr.Dataset(
        {"field": (("which", "v", "u"), values.reshape(-1, side, side)), "X": (("sample", "input"), X),
         "y": ("sample", y)},
        coords={"which": list(fields), "u": points[:side, 0], "v": points[::side, 1]},
    )  # fmt: skip


def _boundary_claims(ds: xr.Dataset) -> Sequence[Claim]:
    sign = np.sign(ds.field.values).reshape(4, -1)
    same = lambda i, j: float(np.mean(sign[i] == sign[j]))
    return [
        Claim.at_least("share of the plane where both layers decide as the max margin in the variation norm", 0.95,
                       same(0, 1)),
        Claim.at_least("share of the plane where the output layer decides as the max margin of the kernel", 0.95,
                       same(2, 3)),
        Claim.at_most("share of the plane where the two max margins decide alike", 0.99, same(1, 3)),
    ]  # fmt: skip


def _boundary_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(4, 3.3)
    for ax, which in zip(axes[0], ds.which.values, strict=True):
        one = ds.field.sel(which=which)
        ax.contourf(ds.u, ds.v, one, levels=np.linspace(-1, 1, 21), cmap="PuOr")
        ax.contour(ds.u, ds.v, one, levels=[0.0], colors="black", linewidths=1.5)
        for label, marker, face in ((1.0, "o", "#5e3c99"), (-1.0, "s", "#e66101")):
            on = ds.y.values == label
            ax.plot(ds.X[on, 0], ds.X[on, 1], marker, ms=5, color=face, mec="white", mew=0.7)
        ax.set(title=str(which), xlabel="$x_1$", aspect="equal")
        ax.title.set_fontsize(9)
    axes[0, 0].set_ylabel("$x_2$")
    return figure


STUDY = Study(
    name="wide-networks",
    title="Wide two-layer ReLU networks: the max margin of both layers, and that of the output layer",
    source="After L. Chizat and F. Bach, COLT 2020, arXiv 2002.04486. Samples: nine squares of the plane with "
    "labels at random.",
    summary="Trained in both layers by the logistic loss, a wide network tends to the max margin in the variation "
    "norm, trained in its output layer alone to that of a kernel. Both max margins are computed, by linear and "
    "quadratic programming, and networks of up to 4,000 neurons are held against them. The flow of both layers is "
    "followed kink by kink at a width of 100, and beyond by descent with steps divided by the loss, which is compared "
    "with it there.",
    parts=(
        Part("agreement", "Exact flow and descent", _agreement, _agreement_claims, {"agreement": _agreement_figure}),
        Part("widths", "Margins against width", _widths, _width_claims, {"widths": _width_figure}),
        Part("boundaries", "Decision boundaries", _boundaries, _boundary_claims, {"boundaries": _boundary_figure}),
    ),
)


def _plain(ax: Any) -> None:
    """Plain numbers along a logarithmic axis of about a decade, where powers with factors run into each other."""
    from matplotlib.ticker import LogLocator, ScalarFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(lambda value, place: "")
