"""The parts of the leaky ReLU study on gradient descent from random weights: stable rank from the first step on.

Frei et al. 2023 (arXiv 2210.07082): a smooth leaky ReLU, output weights +-1/sqrt(m); from weights that are small enough
one step reduces the stable rank to a constant, and it stays small. Kou, Chen and Gu 2023 (arXiv 2310.18935): leaky ReLU
as it is and ReLU; of leaky ReLU each of the two blocks of neurons of one output sign tends to stable rank one, and all
margins become equal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ..clocks import LossClock
from ..descent import gradient_descent
from ..losses import Logistic
from ..models import TwoLayerNetwork
from .figures import COLOURS, MARKERS, panels
from .leaky_relu_flow import closed_form
from .leaky_relu_span import glorot, in_span, mixture, SmoothLeakyNetwork, Span, stable_rank
from .report import Claim, Part

SLOPE, WIDTH, SAMPLES = 0.1, 512, 100


def _network(kind: str, weights: np.ndarray, output: np.ndarray) -> Any:
    if kind == "smooth leaky ReLU":
        return SmoothLeakyNetwork(jnp.asarray(weights), jnp.asarray(output), SLOPE)
    return TwoLayerNetwork(weights, output, SLOPE if kind == "leaky ReLU" else 0.0, train_output=False)


def _ranks(kind: str, span: Span, scale: float, output: np.ndarray, y: np.ndarray, step: float, save: Any) -> tuple:
    """Stable rank of the weights and, the larger one, of the two blocks of equal output sign, at the saved steps."""
    model = _network(kind, scale * span.weights, output)
    traj = gradient_descent(
        model, span.inputs, y, loss=Logistic(), step=step, steps=int(save[-1]), save=save.astype(float)
    )
    outside = scale**2 * span.outside
    blocks = [np.flatnonzero(output > 0), np.flatnonzero(output < 0)]
    weights = np.asarray(traj.model.hidden)
    whole = [stable_rank(W, outside) for W in weights]
    split = [max(stable_rank(W[b], outside[np.ix_(b, b)]) for b in blocks) for W in weights]
    return whole, split, np.asarray(traj.neg_log_loss)


def _count_steps(axes: Any, last: int, label: str = "step of descent") -> None:
    """A logarithmic axis that begins at step 0."""
    ticks = [0, *(10**k for k in range(4) if 10**k <= last)]
    for ax in axes:
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks(ticks, [str(k) for k in ticks])
        ax.set(xlabel=label, xlim=(-0.1, 1.25 * last))


def _save(quick: bool) -> np.ndarray:
    return np.array([0, 1, 2, 5, 10, 20, 50] if quick else [0, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000])


def _first_steps(quick: bool, report: Callable) -> xr.Dataset:
    """The two panels of figure 1: several d at a 50th of Glorot's scale and step 0.01; several scales at d = 10,000 and
    step 0.16."""
    dimensions = np.array([1000, 10_000] if quick else [1000, 2000, 4000, 10_000])
    scales, save = np.array([1.0, 1 / 10, 1 / 50, 1 / 1000]), _save(quick)
    by_d, by_scale = np.zeros((dimensions.size, save.size)), np.zeros((scales.size, save.size))
    done, total = 0, dimensions.size + scales.size
    for k, d in enumerate(dimensions):
        rng = np.random.default_rng(int(d))
        X, y = mixture(SAMPLES, d, rng)
        hidden, output = glorot(WIDTH, d, rng)
        span = in_span(hidden, X)
        by_d[k] = _ranks("leaky ReLU", span, 1 / 50, output, y, 0.01, save)[0]
        done += 1
        report(done / total)
        if d == dimensions[-1]:
            for s, scale in enumerate(scales):
                by_scale[s] = _ranks("leaky ReLU", span, scale, output, y, 0.16, save)[0]
                done += 1
                report(done / total)
    return xr.Dataset(
        {"by_dimension": (("d", "step"), by_d), "by_scale": (("scale", "step"), by_scale)},
        coords={"d": dimensions, "scale": scales, "step": save},
    )


def two_directions(slope: float) -> float:
    """Stable rank of the limit on orthonormal samples of two classes of equal size, with as many neurons of either
    sign."""
    return 2 * (1 + slope**2) / (1 + slope) ** 2


def _first_claims(ds: xr.Dataset) -> Sequence[Claim]:
    ratio = (ds.by_dimension / ds.by_dimension[:, 0]).values
    ranks, after = ds.by_scale.values, ds.step.values >= 1
    return [
        Claim.at_most("the higher the dimension, the lower the rank after one step: largest change of the "
                      "reduction factor from one d to the next", 0.0, np.diff(ratio[:, 1])),
        Claim.at_most("d = 10,000, step 0.01, a 50th of Glorot's scale: rank after one step over that at the start",
                      0.6, ratio[-1, 1]),
        Claim.at_most("the smaller the initialization, the lower the rank after one step: largest change from one "
                      "scale to the next", 0.0, np.diff(ranks[:, 1])),
        Claim.at_least("Glorot's scale itself, step 0.16: the rank after one step and along training stays a large "
                       "share of that at the start", 0.9, ranks[0] / ranks[0, 0]),
        Claim.at_most("a 1000th of it: rank after one step, against that of the two directions of orthogonal samples",
                      two_directions(SLOPE), ranks[-1, 1]),
        Claim.at_most("a 1000th of it: largest rank along training", two_directions(SLOPE), ranks[-1, after]),
        Claim.at_most("a 50th of it: the rank never rises by a factor above", 1.0 + 1e-9,
                      ranks[-2, 1:] / ranks[-2, :-1]),
    ]  # fmt: skip


def _first_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(2, 5.0)
    left, right = axes[0]
    for k, d in enumerate(ds.d.values):
        share = ds.by_dimension[k] / ds.by_dimension[k, 0]
        left.plot(ds.step, share, marker=MARKERS[k], ms=4, color=COLOURS[k], label=f"d = {d:,}")
    for k, scale in enumerate(ds.scale.values):
        share = ds.by_scale[k] / ds.by_scale[k, 0]
        label = "Glorot's scale" if scale == 1 else f"1/{1 / scale:g} of it"
        right.plot(ds.step, share, marker=MARKERS[k], ms=4, color=COLOURS[k], label=label)
    left.set(title="a 50th of Glorot's scale, step size 0.01")
    right.set(title="d = 10,000, step size 0.16")
    _count_steps(axes[0], int(ds.step[-1]))
    for ax in axes[0]:
        ax.set(yscale="log", ylabel="stable rank over that at the start", ylim=(5e-4, 1.4))
    left.legend(fontsize=8, loc="lower left")
    right.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.9))
    return figure


KINDS = ("smooth leaky ReLU", "leaky ReLU", "ReLU")


def _activations(quick: bool, report: Callable) -> xr.Dataset:
    scales, save, d = np.array([1 / 50, 1 / 1000, 1e-5]), _save(quick), 2000 if quick else 10_000
    rng = np.random.default_rng(7)
    X, y = mixture(SAMPLES, d, rng)
    hidden, output = glorot(WIDTH, d, rng)
    span = in_span(hidden, X)
    shape = (len(KINDS), scales.size, save.size)
    whole, split, gamma = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for k, kind in enumerate(KINDS):
        for s, scale in enumerate(scales):
            whole[k, s], split[k, s], gamma[k, s] = _ranks(kind, span, scale, output, y, 0.16, save)
            report((k * scales.size + s + 1) / (len(KINDS) * scales.size))
    dims = ("activation", "scale", "step")
    return xr.Dataset(
        {"rank": (dims, whole), "block": (dims, split), "gamma": (dims, gamma)},
        coords={"activation": list(KINDS), "scale": scales, "step": save},
    )


def _activation_claims(ds: xr.Dataset) -> Sequence[Claim]:
    one = ds.sel(scale=1e-5)
    rank = lambda kind: one["rank"].sel(activation=kind).values
    block = lambda kind: one.block.sel(activation=kind).values
    text = "from 1e-5 of Glorot's scale: "
    return [
        Claim.close(text + "smooth leaky ReLU, rank after one step", 1.0, rank("smooth leaky ReLU")[1], 1e-3),
        Claim.at_most(text + "leaky ReLU, rank after one step", two_directions(SLOPE), rank("leaky ReLU")[1]),
        Claim.at_most(text + "smooth leaky ReLU, largest rank along training", 2.0, rank("smooth leaky ReLU")[1:]),
        Claim.at_most(text + "leaky ReLU, largest rank along training", 2.0, rank("leaky ReLU")[1:]),
        Claim.at_most(text + "leaky ReLU, a block of one output sign: rank at the end less that after one step",
                      0.0, block("leaky ReLU")[-1] - block("leaky ReLU")[1]),
        Claim.at_most(text + "ReLU, largest rank along training, against that of two blocks of neurons which see "
                      "random halves of orthogonal samples", 4.0, rank("ReLU")[1:]),
        Claim.at_most("the loss falls: largest change of log loss between saves", 0.0,
                      -np.diff(ds.gamma.values, axis=-1)),
    ]  # fmt: skip


def _activation_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(ds.sizes["scale"])
    for ax, scale in zip(axes[0], ds.scale.values, strict=True):
        for k, kind in enumerate(ds.activation.values):
            one = ds.sel(scale=scale, activation=kind).isel(step=slice(1, None))
            ax.plot(one.step, one["rank"], marker=MARKERS[k], ms=4, color=COLOURS[k], label=kind)
            ax.plot(one.step, one.block, ls="--", lw=1.2, color=COLOURS[k])
        label = f"1/{1 / scale:.0f}" if scale > 1e-4 else "$10^{-5}$"
        ax.set(xscale="log", xlabel="step of descent", title=f"{label} of Glorot's scale", ylim=(0.9, None))
    axes[0, 0].set(ylabel="stable rank")
    title = "dashed: the larger of the two\nblocks of one output sign"
    axes[0, 0].legend(fontsize=8, title=title, title_fontsize=8, loc="lower left")
    return figure


def _directions(quick: bool, report: Callable) -> xr.Dataset:
    """Descent with steps divided by the loss, to losses of e^-gamma, against the closed form of the flow's limit."""
    n, d, m = 20, 2000, 64
    gammas = np.geomspace(10, 1e3 if quick else 1e4, 7 if quick else 10)
    rng = np.random.default_rng(3)
    X, y = mixture(n, d, rng)
    hidden, output = glorot(m, d, rng)
    span = in_span(hidden / 1000, X)
    positive = int(np.sum(output > 0))
    limit = closed_form(span.inputs, y, positive, m - positive, SLOPE)
    wanted = np.where(output[:, None] > 0, limit.v, limit.u)
    wanted = wanted / np.linalg.norm(wanted)
    kinds = KINDS[:2]
    rows = {name: np.zeros((len(kinds), gammas.size)) for name in ("block", "spread", "angle", "rank")}
    for k, kind in enumerate(kinds):
        # Half of what the fastest mode of the margins allows.
        step = 0.5 * n / np.max(np.sum(X**2, axis=1))
        traj = gradient_descent(
            _network(kind, span.weights, output), span.inputs, y, loss=Logistic(), step=step, steps=10**6,
            normalize="loss", clock=LossClock(), save=gammas,
        )  # fmt: skip
        for g, W in enumerate(np.asarray(traj.model.hidden)):
            model = _network(kind, W, output)
            margins = y * np.asarray(jax.vmap(model)(jnp.asarray(span.inputs)))
            blocks = [stable_rank(W[s * output > 0], span.outside[np.ix_(s * output > 0, s * output > 0)])
                      for s in (1, -1)]  # fmt: skip
            rows["block"][k, g], rows["rank"][k, g] = max(blocks), stable_rank(W, span.outside)
            rows["spread"][k, g] = np.ptp(margins) / np.mean(margins)
            rows["angle"][k, g] = np.linalg.norm(W / np.linalg.norm(W) - wanted)
        report((k + 1) / len(kinds))
    singular = np.linalg.svd(wanted, compute_uv=False)
    return xr.Dataset(
        {name: (("activation", "gamma"), value) for name, value in rows.items()},
        coords={"activation": list(kinds), "gamma": gammas},
    ).assign(limit=float(np.sum(singular**2) / singular[0] ** 2), certified=int(limit.certified))


def _direction_claims(ds: xr.Dataset) -> Sequence[Claim]:
    end = ds.isel(gamma=-1)
    to = f"to a loss of exp(-{float(ds.gamma[-1]):g}): "
    falls = lambda v: np.max(v[:, 1:] / v[:, :-1])
    scaled = lambda v: v[:, -1] * ds.gamma.values[-1] / (v[:, -2] * ds.gamma.values[-2])
    return [
        Claim.close("certificate of the closed form holds for these samples", 1, ds.certified, 0),
        Claim.at_most(to + "rank of either block, leaky ReLU and smooth", 1.001, end.block),
        Claim.close(to + "rank of the whole, against that of the closed form", float(ds.limit), end["rank"], 0.02),
        Claim.at_most(to + "spread of the margins, relative", 0.01, end.spread),
        Claim.at_most(to + "distance of directions, weights to closed form", 0.01, end.angle),
        Claim.at_most("that distance falls at every save by a factor of at most", 1.0, falls(ds.angle.values)),
        Claim.close("like 1 / log(1 / loss): what is left of distance times log(1 / loss) from the last save but one "
                    "to the last", 1.0, scaled(ds.angle.values), 0.1),
    ]  # fmt: skip


def _direction_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(2, 4.6)
    left, right = axes[0]
    for k, kind in enumerate(ds.activation.values):
        one = ds.sel(activation=kind)
        left.loglog(one.gamma, one.block - 1, marker=MARKERS[k], ms=4, color=COLOURS[k], label=kind)
        right.loglog(one.gamma, one.angle, marker=MARKERS[k], ms=4, color=COLOURS[k], label=f"{kind}: direction")
        right.loglog(one.gamma, one.spread, marker=MARKERS[k], ms=4, ls="--", mfc="white", color=COLOURS[k],
                     label=f"{kind}: margins")  # fmt: skip
    left.set(ylabel="stable rank of a block, less one")
    right.set(ylabel="relative distance, spread of margins")
    for ax in axes[0]:
        ax.set(xlabel="log(1 / loss)")
        ax.legend(fontsize=8)
    return figure


def _digits(quick: bool, report: Callable) -> xr.Dataset:
    from sklearn.datasets import load_digits

    pixels, digit = (np.asarray(v) for v in load_digits(return_X_y=True))
    chosen = np.isin(digit, (3, 8))
    X, y = pixels[chosen] / 16.0, np.where(digit[chosen] == 8, 1.0, -1.0)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    train, held = slice(0, 250), slice(250, None)
    rng = np.random.default_rng(1)
    hidden, output = glorot(WIDTH, X.shape[1], rng)
    scales = np.array([1.0, 0.1, 0.01, 1e-3])
    save = np.array([0, 1, 3, 10, 30, 100, 300] if quick else [0, 1, 3, 10, 30, 100, 300, 1000, 3000])
    shape = (scales.size, save.size)
    rank, accuracy, fit = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    nothing = np.zeros((WIDTH, WIDTH))
    for s, scale in enumerate(scales):
        traj = gradient_descent(
            _network("leaky ReLU", scale * hidden, output), X[train], y[train], loss=Logistic(), step=0.1,
            steps=int(save[-1]), save=save.astype(float), batch_size=50, key=jax.random.key(0),
        )  # fmt: skip
        for k, W in enumerate(np.asarray(traj.model.hidden)):
            outputs = np.asarray(jax.vmap(_network("leaky ReLU", W, output))(jnp.asarray(X)))
            rank[s, k] = stable_rank(W, nothing)
            fit[s, k], accuracy[s, k] = np.mean(outputs[train] * y[train] > 0), np.mean(outputs[held] * y[held] > 0)
        report((s + 1) / scales.size)
    gram = X[train] @ X[train].T
    off = np.max(np.abs(gram - np.diag(np.diag(gram))))
    dims = ("scale", "step")
    return xr.Dataset(
        {"rank": (dims, rank), "train": (dims, fit), "test": (dims, accuracy),
         "orthogonality": np.diag(gram).min() / (len(gram) * off)}, coords={"scale": scales, "step": save},
    )  # fmt: skip


def _digit_claims(ds: xr.Dataset) -> Sequence[Claim]:
    ranks = ds["rank"].values
    needed = 3 * SLOPE**-3
    return [
        Claim.at_most("min|x|^2 / (n max|x_i . x_j|): far below the least that the theorem asks for, over that",
                      1e-3, ds.orthogonality / needed),
        Claim.at_most("yet the smaller the initialization the lower the rank after training: largest change of the "
                      "rank from one scale to the next", 0.0, np.diff(ranks[:, -1])),
        Claim.at_most("from a 1000th of Glorot's scale: rank after one step", 2.0, ranks[-1, 1]),
        Claim.at_most("from a 1000th of Glorot's scale: largest rank along training", 2.0, ranks[-1, 1:]),
        Claim.at_least("accuracy on digits held out, all scales", 0.93, ds.test[:, -1]),
    ]  # fmt: skip


def _digit_figure(ds: xr.Dataset) -> Any:
    figure, axes = panels(2, 4.6)
    left, right = axes[0]
    for k, scale in enumerate(ds.scale.values):
        label = "Glorot's scale" if scale == 1 else f"{scale:g} of it"
        left.plot(ds.step, ds["rank"][k], marker=MARKERS[k], ms=4, color=COLOURS[k], label=label)
        right.plot(ds.step, ds.test[k], marker=MARKERS[k], ms=4, color=COLOURS[k], label=f"{label}, held out")
        right.plot(ds.step, ds.train[k], ls="--", lw=1, color=COLOURS[k])
    left.set(yscale="log", ylabel="stable rank")
    left.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    left.minorticks_off()
    right.set(ylabel="accuracy (dashed: on the samples)", ylim=(0.4, 1.02))
    _count_steps(axes[0], int(ds.step[-1]), "step of stochastic descent")
    for ax in axes[0]:
        ax.legend(fontsize=8)
    return figure


PARTS = (
    Part("first-steps", "Gradient descent: stable rank from the first step on", _first_steps, _first_claims,
         {"first-steps": _first_figure}),
    Part("activations", "Smooth leaky ReLU, leaky ReLU and ReLU side by side", _activations, _activation_claims,
         {"activations": _activation_figure}),
    Part("directions", "Where descent goes: equal margins, and blocks of rank one", _directions, _direction_claims,
         {"directions": _direction_figure}),
    Part("digits", "Digits 3 and 8 in place of CIFAR", _digits, _digit_claims, {"digits": _digit_figure}),
)  # fmt: skip
