"""The parts of the leaky ReLU study on gradient flow: its limit in closed form, and when that holds.

Frei, Vardi, Bartlett, Srebro and Hu 2023 (arXiv 2210.07082). With output weights +-1/sqrt(m), shares p1 and p2 of
either sign and slope g of the activation, the flow of the exponential loss tends in direction to a network of rank two:
neurons with positive output weight to v, the others to u. In closed form (derived here, checked by the flow below):
with Q_ik = y_i y_k (x_i . x_k) c_ik, c = p1 + g^2 p2 for two positive samples, p2 + g^2 p1 for two negative ones, g
otherwise,

    lambda = Q^-1 1,
    v = (sum_+ lambda x - g sum_- lambda x) / sqrt(m),  u = (sum_- lambda x - g sum_+ lambda x) / sqrt(m),

with the certificate lambda > 0, y_i v . x_i > 0, y_i u . x_i < 0. Once signs have settled, margins obey
q' = Q e^-q / n, so t e^-q_i / n tends to lambda_i.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from .. import limits
from ..clocks import LogTimeClock, TimeClock
from ..models import TwoLayerNetwork
from ..solve import gradient_flow
from .figures import COLOURS, MARKERS
from .report import Claim, Part


class Limit(NamedTuple):
    """The limit of the flow: multipliers (n,), the two neurons (d,), the linear predictor z (d,) whose sign is that of
    the network, and whether the certificate holds."""

    multipliers: np.ndarray
    v: np.ndarray
    u: np.ndarray
    z: np.ndarray
    certified: bool


def closed_form(X: np.ndarray, y: np.ndarray, positive: int, negative: int, slope: float) -> Limit:
    """The limit, for `positive` and `negative` neurons of output weight +-1/sqrt(m).

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies import leaky_relu_flow
        >>> X = np.array([[1.0, 0.0], [0.01, np.sqrt(1 - 1e-4)]])
        >>> limit = leaky_relu_flow.closed_form(X, np.array([1.0, -1.0]), 2, 1, 0.5)
        >>> (limit.multipliers * 14999).round(6).tolist(), limit.certified
        ([20200.0, 30200.0], True)

        ```
    """
    m = positive + negative
    p1, p2, g = positive / m, negative / m, slope
    up = y > 0
    weight = np.where(up, p1 + g**2 * p2, p2 + g**2 * p1)
    c = np.where(up[:, None] == up[None], weight[:, None], g)
    Q = np.outer(y, y) * (X @ X.T) * c
    multipliers = np.linalg.solve(Q, np.ones(len(y)))
    plus, minus = multipliers[up] @ X[up], multipliers[~up] @ X[~up]
    v, u = (plus - g * minus) / np.sqrt(m), (minus - g * plus) / np.sqrt(m)
    z = (p1 + g * p2) * plus - (p2 + g * p1) * minus
    certified = bool(np.all(multipliers > 0) and np.all(y * (X @ v) > 0) and np.all(y * (X @ u) < 0))
    return Limit(multipliers, v, u, z, certified)


def _network(rng: np.random.Generator, positive: int, negative: int, dim: int, slope: float) -> TwoLayerNetwork:
    m = positive + negative
    output = np.repeat([1.0, -1.0], [positive, negative]) / np.sqrt(m)
    return TwoLayerNetwork(0.1 * rng.normal(size=(m, dim)) / np.sqrt(dim), output, slope, train_output=False)


def _sets(quick: bool) -> list[tuple]:
    rng = np.random.default_rng(1)
    pair = np.array([[1.0, 0.0], [0.01, np.sqrt(1 - 1e-4)]])
    sets: list[tuple] = [("two samples", pair, np.array([1.0, -1.0]), 2, 1, 0.5)]
    n, d = (6, 200) if quick else (12, 1000)
    X = rng.normal(size=(n, d)) / np.sqrt(d)
    return [*sets, (f"{n} samples in d = {d}", X, np.where(np.arange(n) % 2, -1.0, 1.0), 9, 6, 0.3)]


def _limit(quick: bool, report: Callable) -> xr.Dataset:
    names = ("multipliers", "neurons", "rank", "spread", "sign", "bound", "condition", "certified")
    rows: dict[str, list] = {name: [] for name in names}
    sets = _sets(quick)
    for k, (_, X, y, positive, negative, slope) in enumerate(sets):
        report(k / len(sets))
        rng = np.random.default_rng(k)
        limit = closed_form(X, y, positive, negative, slope)
        model = _network(rng, positive, negative, X.shape[1], slope)
        save = np.array([500.0, 1000.0])
        traj = gradient_flow(model, X, y, clock=LogTimeClock(), save=save, rtol=1e-12)
        first, last = np.asarray(traj.model.hidden)
        margins = y * np.asarray(jax.vmap(traj.final)(jnp.asarray(X)))
        found = np.exp(float(traj.log_time[-1]) - np.log(len(y)) - margins)
        # W = W* log t + const: what it gains says W* without the constant.
        gained = (last - first) / float(traj.log_time[1] - traj.log_time[0])
        wanted = np.where(np.asarray(model.output)[:, None] > 0, limit.v, limit.u)
        singular = np.linalg.svd(gained, compute_uv=False)
        probes = rng.normal(size=(2000, X.shape[1]))
        end = TwoLayerNetwork(gained, model.output, slope)
        signs = np.sign(np.asarray(jax.vmap(end)(jnp.asarray(probes)))) == np.sign(probes @ limit.z)
        kappa = np.sqrt(min(positive, negative) / max(positive, negative))
        svm = np.linalg.norm(limits.l2_max_margin(X, y).beta)
        gram = X @ X.T
        sizes = np.diag(gram)
        off = np.max(np.abs(gram - np.diag(sizes)))
        values = (
            np.max(np.abs(found / limit.multipliers - 1)),
            np.max(np.abs(gained - wanted)) / np.max(np.abs(wanted)),
            singular[2] / singular[0] if singular.size > 2 else 0.0,
            np.ptp(margins) / np.mean(margins),
            np.mean(signs),
            np.linalg.norm(limit.z) / svm * (kappa + slope) / 2,
            sizes.min() / (len(y) * off) / (3 * slope**-3 * sizes.max() / sizes.min()),
            limit.certified,
        )
        for name, value in zip(names, values, strict=True):
            rows[name].append(float(value))
    return xr.Dataset({name: ("set", value) for name, value in rows.items()}, coords={"set": [row[0] for row in sets]})


def _limit_claims(ds: xr.Dataset) -> Sequence[Claim]:
    claims = []
    for name in ds.set.values:
        one = ds.sel(set=name)
        claims += [
            Claim.close(f"{name}: certificate of the closed form holds", 1, one.certified, 0),
            Claim.at_most(f"{name}: relative error of the multipliers read off at log t = 1000", 1e-9, one.multipliers),
            Claim.at_most(f"{name}: relative distance of the neurons' growth to v and u", 1e-9, one.neurons),
            Claim.at_most(f"{name}: third singular value of the limit over the first (rank two)", 1e-9, one["rank"]),
            Claim.at_most(f"{name}: spread of the margins at log t = 1000, relative", 0.01, one.spread),
            Claim.close(f"{name}: share of random points with the sign of z . x (linear boundary)", 1, one.sign, 0),
            Claim.at_most(f"{name}: |z| over its bound 2 |z*| / (kappa + slope)", 1, one.bound),
        ]
    return claims


def _orthogonal(quick: bool, report: Callable) -> xr.Dataset:
    h = np.array([[0.1, -0.3, 0.2, -0.1], [-0.2, 0.4, 0.1, -0.5]])
    X, y = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0])
    hidden = (h / np.array([[2.0], [1.0]])).T
    model = TwoLayerNetwork(hidden, np.array([0.5, 0.5, -0.5, -0.5]), 0.25, train_output=False)
    traj = gradient_flow(model, X, y, clock=TimeClock(), save=np.array([5.0, 1e6]), rtol=1e-12)
    first = jax.tree.map(lambda v: v[0], traj.model)
    margins = np.array([y * np.asarray(jax.vmap(m)(jnp.asarray(X))) for m in (first, traj.final)])
    times = [np.exp(event.log_time) for event in traj.events]
    return xr.Dataset(
        {"time": ("event", times), "margin": (("save", "sample"), margins)},
        coords={"event": [f"neuron {e.neuron}, sample {e.sample}" for e in traj.events]},
    )


_KINKS = {
    "neuron 2, sample 0": 0.20673714789978287696,
    "neuron 1, sample 0": 1.7735150414476750104,
    "neuron 1, sample 1": 1.6528786018270832386,
    "neuron 3, sample 1": 15.199312428508038578,
}
_MARGINS = ((1.705805051410769531582, 0.5681015839852328926982), (13.87613536172549119754, 12.48983796333967504576))


def _orthogonal_claims(ds: xr.Dataset) -> Sequence[Claim]:
    text = "orthogonal samples, in closed form: "
    claims = [Claim.close(text + "number of kinks crossed", len(_KINKS), ds.sizes["event"], 0)]
    for name, time in _KINKS.items():
        claims.append(Claim.close(text + f"time of the kink of {name}", time, ds.time.sel(event=name), 1e-10))
    for k, name in enumerate(("t = 5", "t = 1e6")):
        for i in range(2):
            label = text + f"margin of sample {i} at {name}"
            claims.append(Claim.close(label, _MARGINS[k][i], ds.margin[k, i], 1e-10))
    return claims


def _scan(quick: bool, report: Callable) -> xr.Dataset:
    slopes = np.array([0.1, 0.3, 0.5, 0.9])
    dimensions = np.unique(np.geomspace(11, 1e11, 20 if quick else 40).astype(int))
    n, trials = 10, 10 if quick else 40
    ratio = np.zeros((dimensions.size, trials))
    spread = np.zeros_like(ratio)
    holds = np.zeros((slopes.size, *ratio.shape))
    for k, d in enumerate(dimensions):
        rng = np.random.default_rng(int(d))
        for trial in range(trials):
            # The Gram matrix of n Gaussian samples in d dimensions is a Wishart matrix (Bartlett's factor).
            L = np.tril(rng.normal(size=(n, n)), -1) + np.diag(np.sqrt(rng.chisquare(d - np.arange(n))))
            X = L / np.sqrt(d)
            gram = X @ X.T
            sizes = np.diag(gram)
            ratio[k, trial] = sizes.min() / (n * np.max(np.abs(gram - np.diag(sizes))))
            spread[k, trial] = sizes.max() / sizes.min()
            y = np.where(np.arange(n) % 2, -1.0, 1.0)
            for s, slope in enumerate(slopes):
                holds[s, k, trial] = closed_form(X, y, 1, 1, slope).certified
        report((k + 1) / dimensions.size)
    needed = 3 * slopes[:, None, None] ** -3 * spread[None]
    return xr.Dataset(
        {
            "ratio": (("d", "trial"), ratio),
            "holds": (("slope", "d", "trial"), holds),
            "promised": (("slope", "d", "trial"), (ratio[None] >= needed).astype(float)),
            "needed": ("slope", needed.min(axis=(1, 2))),
        },
        coords={"slope": slopes, "d": dimensions},
    )


def _scan_claims(ds: xr.Dataset) -> Sequence[Claim]:
    claims = []
    for slope in ds.slope.values:
        one = ds.sel(slope=slope)
        promised, holds = one.promised.values > 0, one.holds.values > 0
        lacking = float(np.sum(promised & ~holds))
        text = f"slope {slope:g}: of {promised.sum()} data sets under the theorem's condition, the conclusion fails on"
        claims.append(Claim.close(text, 0, lacking, 0))
        broken = ds.ratio.values[~holds]
        worst = float(broken.max()) if broken.size else 0.0
        text = (
            f"slope {slope:g}: largest min|x|^2 / (n max|x_i . x_j|) at which it fails, against the theorem's constant"
        )
        claims.append(Claim.at_most(text, float(one.needed), worst))
    return claims


def _scan_figure(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.8, 4), layout="constrained")
    edges = np.geomspace(ds.ratio.values.min(), ds.ratio.values.max() * 1.001, 24)
    middle = np.sqrt(edges[1:] * edges[:-1])
    bins = np.digitize(ds.ratio.values, edges) - 1
    styles = zip(ds.slope.values, COLOURS, MARKERS, strict=False)
    for slope, colour, marker in styles:
        holds = ds.holds.sel(slope=slope).values
        share = np.array([holds[bins == b].mean() if np.any(bins == b) else np.nan for b in range(middle.size)])
        ax.plot(middle, share, marker=marker, ms=4, color=colour, label=f"slope {slope:g}")
        needed = float(ds.needed.sel(slope=slope))
        if needed < edges[-1]:
            ax.axvline(needed, color=colour, ls=":", lw=1)
    ax.set(
        xscale="log",
        xlabel=r"near-orthogonality  $\min|x_i|^2 / (n \max|x_i\cdot x_j|)$",
        ylabel="share of data sets with the closed form",
    )
    ax.legend(fontsize=8, title="dotted: the theorem's constant", title_fontsize=8)
    return figure


PARTS = (
    Part("limit", "The limit and its multipliers", _limit, _limit_claims),
    Part("orthogonal", "Exactly orthogonal samples, kinks included", _orthogonal, _orthogonal_claims),
    Part("scan", "How orthogonal the data must be", _scan, _scan_claims, {"scan": _scan_figure}),
)
