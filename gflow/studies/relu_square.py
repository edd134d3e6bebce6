"""Implicit regularization in ReLU networks with the square loss: no function of the parameters says where it ends.

Vardi and Shamir 2021 (arXiv 2012.05156) show that for a single ReLU neuron trained from zero a function R such that the
limit always minimizes R among the points of zero loss would have to be constant. The data sets here are a construction
of its own with the same effect: x1 = (1, 0, 0), y1 = 1; x2 = (0, e, 0), y2 = e c; x3 = K (1, -1, 1), y3 = 0. The points
of zero loss are (1, c, s), s <= c - 1, the one of least norm is q = (1, c, 0). Early x3 is active and pushes w_3 below
zero; when w . x3 passes zero it falls silent, w_3 is frozen, and the flow ends at (1, c, s) != q with (limit - q)
orthogonal to q. So R(limit) <= R(q); on the data set {(q / |q|^2, 1)} the flow ends at q while `limit` has zero loss
too, so R(q) <= R(limit). Rotations, scalings and chains of such steps link all nonzero points, for d >= 3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from mpmath import mp, mpf

from ..models import ReLUNeuron, TwoLayerNetwork
from . import relu_square_norms as norms
from .figures import COLOURS
from .relu_square_exact import follow, refine
from .relu_square_norms import flow
from .report import Claim, Part, Study

# e, c, K.
SETS = (("1/10", "6/5", 10), ("1/2", "3/2", 3))


def impossible_set(e: Any, c: Any, K: Any) -> tuple[np.ndarray, np.ndarray]:
    """The data set above, X (3, 3) and y (3,).

    !!! example

        ```python
        >>> from gflow.studies import relu_square
        >>> relu_square.impossible_set(0.5, 1.5, 3)[1].tolist()
        [1.0, 0.75, 0.0]

        ```
    """
    return np.array([[1.0, 0, 0], [0, e, 0], [K, -K, K]]), np.array([1.0, e * c, 0.0])


def _rational(value: Any) -> mpf:
    """A number, or a fraction such as "6/5", at the current precision."""
    top, _, bottom = str(value).partition("/")
    return mpf(top) / mpf(bottom or 1)


def exact_end(e: Any, c: Any, K: Any, digits: int = 30) -> tuple[mpf, mpf]:
    """Time at which x3 falls silent, and the third coordinate of the limit, from w = 0 with slope 1 at zero.

    !!! example

        ```python
        >>> from gflow.studies import relu_square
        >>> print(relu_square.exact_end("1/2", "3/2", 3, digits=15)[0])
        1.81774980188098

        ```
    """
    path = follow(*impossible_set(float(_rational(e)), float(_rational(c)), K))
    assert path is not None
    times, end = _refined(e, c, K, path.times, path.samples, digits)
    return times[0], end[2]


def _refined(e: Any, c: Any, K: Any, times: Any, samples: Any, digits: int = 30) -> tuple[list, list]:
    with mp.workdps(digits + 15):
        e, c = _rational(e), _rational(c)
        return refine([[1, 0, 0], [0, e, 0], [K, -K, K]], [1, e * c, 0], times, samples, digits)


def _impossibility(quick: bool, report: Callable) -> xr.Dataset:
    times = np.concatenate([np.geomspace(1e-3, 1e2, 60), np.geomspace(120.0, 1e4, 20)])
    names = ("time", "time_exact", "time_ulp", "third", "third_exact", "path", "rise", "end")
    rows: dict[str, list] = {name: [] for name in names}
    # Of high order, for few steps: what is left is the rounding of each.
    solver = diffrax.Dopri8(scan_kind="lax")
    texts = []
    for k, (e, c, K) in enumerate(SETS):
        report(k / len(SETS))
        numbers = [float(_rational(v)) for v in (e, c)]
        X, y = impossible_set(numbers[0], numbers[1], K)
        traj = flow(ReLUNeuron(np.zeros(3)), X, y, at_kink=1.0, save=times, rtol=1e-13, solver=solver)
        path = np.vstack([np.zeros(3), np.asarray(traj.model.weights)])
        down = [event for event in traj.events if event.sample >= 0]
        told = [float(np.exp(event.log_time)) for event in down]
        refined, exact = _refined(e, c, K, told, [event.sample for event in down])
        time, third = refined[0], exact[2]
        # The distance to points of zero loss (1, c, s), s <= c - 1.
        points = np.array([[1.0, numbers[1], numbers[1] - 1 - gap] for gap in (0.0, 0.1, 0.5, 2.0)])
        distance = np.linalg.norm(path[:, None] - points[None], axis=2)
        for name, value in (
            ("time", told[0]),
            ("time_exact", float(time)),
            ("time_ulp", _rounding_of_time(X, y, float(time))),
            ("third", float(traj.final.weights[2])),
            ("third_exact", float(third)),
            ("path", path),
            ("rise", np.max(np.diff(distance, axis=0))),
            ("end", np.asarray(traj.final.weights)),
        ):
            rows[name].append(value)
        texts.append([mp.nstr(value, 21) for value in (time, third)])  # pyright: ignore[reportAttributeAccessIssue]
    dims = {"path": ("set", "save", "coordinate"), "end": ("set", "coordinate")}
    ds = xr.Dataset({name: (dims.get(name, ("set",)), np.array(value)) for name, value in rows.items()})
    return ds.assign(exact=(("set", "what"), np.array(texts, dtype=object))).assign_coords(
        set=[f"e={e}, c={c}, K={K}" for e, c, K in SETS],
        save=np.append(0.0, times),
        what=["event time", "third coordinate"],
    )


def _rounding_of_time(X: np.ndarray, y: np.ndarray, time: float) -> float:
    """By how much, relative to it, a rounding of w . x3 moves the time at which that is zero, all samples active."""
    values, vectors = np.linalg.eigh(X.T @ X)
    w = vectors @ (-np.expm1(-values * time) / values * (vectors.T @ (X.T @ y)))
    speed = abs(X[2] @ (X.T @ (y - X @ w)))
    return float(np.finfo(float).eps * np.linalg.norm(X[2]) * np.linalg.norm(w) / (speed * time))


# Event time, third coordinate of the limit and ratio of norms, computed apart from this module.
_KNOWN = (
    ("6.88380333595112410328", "-0.469378060206155294167", 1.04417112853063),
    ("1.81774980188097989715", "-0.141958216924958094288", 1.00309553734006),
)


def _impossibility_claims(ds: xr.Dataset) -> Sequence[Claim]:
    claims = []
    for k, (*digits, ratio) in enumerate(_KNOWN):
        name = str(ds.set.values[k])
        q = np.array([1.0, float(ds.end[k, 1].round(9)), 0.0])
        measured = float(np.linalg.norm(ds.end.values[k]) / np.linalg.norm(q))
        for i, what in enumerate(("time at which x3 falls silent", "third coordinate of the limit")):
            text = str(ds.exact.values[k, i])
            with mp.workdps(30):
                off = float(abs(mpf(text) - mpf(digits[i])))
            refined = "the flow's events, refined by the secant method on the exact pieces: "
            claims.append(Claim.at_most(f"{name}: {refined}{what} {text}, distance to {digits[i]}", 2e-20, off))
        time, third = float(ds.time_exact[k]), float(ds.third_exact[k])
        ulp = float(ds.time_ulp[k])
        claims += [
            # A few of the roundings of its thousand steps.
            Claim.at_most(f"{name}: the flow's limit in float64, relative error of its third coordinate (15 digits)",
                          2e-15, abs(float(ds.third[k]) / third - 1)),
            Claim.at_most(f"{name}: the flow's event time in float64, relative error; one rounding of w . x3 moves it "
                          f"by {ulp:.1e}", 3 * ulp, abs(float(ds.time[k]) / time - 1)),
            Claim.close(f"{name}: norm of the limit over that of q", ratio, measured, 1e-13),
            Claim.close(f"{name}: (limit - q) . q", 0.0, float((ds.end.values[k] - q) @ q), 1e-12),
        ]
    return [*claims, Claim.at_most("the distance to points of zero loss rises between saves by", 1e-12, ds.rise)]


def _impossibility_figure(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, ds.sizes["set"], figsize=(10, 3.8), layout="constrained")
    for k, ax in enumerate(axes):
        for i, (colour, dash) in enumerate(zip(COLOURS, ("-", "--", "-."), strict=False)):
            ax.plot(ds.save[1:], ds.path[k, 1:, i], dash, color=colour, label=rf"$w_{i + 1}$")
        ax.axvline(float(ds.time_exact[k]), color="black", lw=0.8, ls=":", label=r"$x_3$ falls silent")
        ax.axhline(0.0, color="0.7", lw=0.8)
        ax.set(xscale="log", xlabel="time t", ylabel="weights of the neuron", title=str(ds.set.values[k]))
        ax.legend(fontsize=8)
    return figure


def _monotone(quick: bool, report: Callable) -> xr.Dataset:
    rng = np.random.default_rng(0)
    count = 5 if quick else 10
    error, along = np.zeros(count), np.zeros(count)
    for k in range(count):
        X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
        traj = flow(ReLUNeuron(np.zeros(6), slope=0.2), X, y, at_kink=1.0, stop=1e4, rtol=1e-10)
        best = np.linalg.pinv(X) @ np.where(y > 0, y, y / 0.2)
        error[k] = np.linalg.norm(np.asarray(traj.final.weights) - best) / np.linalg.norm(best)
        along[k] = len(traj.events)
        report((k + 1) / count)
    return xr.Dataset({"error": ("set", error), "events": ("set", along)})


def _monotone_claims(ds: xr.Dataset) -> Sequence[Claim]:
    text = "a leaky ReLU neuron (slope 0.2), 3 samples in d = 6, from zero: relative distance to least norm"
    return [Claim.at_most(text, 1e-9, ds.error)]


def scalar_network(t: float, v0: float, w0: float, y: float) -> tuple[float, float]:
    """v and w of the two-layer network v relu(w x), x = 1, at time t, for w0 > |v0|, loss (v w - y)^2 / 2.

    D = w^2 - v^2 is conserved and u = v w = (D / 2) sinh(theta) obeys a Riccati equation in e^theta.

    !!! example

        ```python
        >>> from gflow.studies import relu_square
        >>> relu_square.scalar_network(2.0, 0.1, 0.2, 1.0)
        (0.736683190858904, 0.756770852830668)

        ```
    """
    D = w0**2 - v0**2
    s = np.sqrt(y**2 + D**2 / 4)
    start = np.exp(np.arcsinh(2 * v0 * w0 / D))
    high, low = (2 * y + 2 * s) / D, (2 * y - 2 * s) / D
    kappa = (start - high) / (start - low) * np.exp(-2 * s * t)
    theta = np.log((high - kappa * low) / (1 - kappa))
    return float(np.sqrt(D) * np.sinh(theta / 2)), float(np.sqrt(D) * np.cosh(theta / 2))


def _hidden_layer(quick: bool, report: Callable) -> xr.Dataset:
    X, y = impossible_set(0.1, 1.2, 10)
    toward = X.T @ y / np.linalg.norm(X.T @ y)
    thirds, drifts, scales = [], [], [1e-4, 1e-6]
    for k, scale in enumerate(scales):
        model = TwoLayerNetwork(scale * toward[None], np.array([scale]), slope=0.0)
        # A saddle of the start costs log(1 / scale); the slowest mode then falls like exp(-e^2 t / 2).
        traj = flow(model, X, y, stop=1e5, rtol=1e-11)
        function = np.asarray(traj.final.output)[:, None] * np.asarray(traj.final.hidden)
        thirds.append(function[0])
        drifts.append(abs(float(np.sum(traj.final.hidden**2) - np.sum(traj.final.output**2))))
        report((k + 1) / 4)
    times = np.array([1.0, 2.0, 5.0])
    traj = flow(
        TwoLayerNetwork(np.array([[0.2]]), np.array([0.1]), slope=0.0), np.ones((1, 1)), np.ones(1), save=times
    )
    exact = np.array([scalar_network(t, 0.1, 0.2, 1.0) for t in times])
    found = np.stack([np.asarray(traj.model.output)[:, 0], np.asarray(traj.model.hidden)[:, 0, 0]], axis=1)
    return xr.Dataset(
        {
            "limit": (("scale", "coordinate"), np.array(thirds)),
            "drift": ("scale", drifts),
            "scalar": (("time", "layer"), found),
            "scalar_exact": (("time", "layer"), exact),
        },
        coords={"scale": scales, "time": times},
    )


def _hidden_claims(ds: xr.Dataset) -> Sequence[Claim]:
    u = ds.limit.values
    return [
        Claim.close(
            "width 1, e = 1/10 set, from balanced weights of 1e-6: third coordinate of v w", -0.557588, u[1, 2], 1e-6
        ),
        Claim.close("norm of v w over that of q", 1.0618002162, np.linalg.norm(u[1]) / np.hypot(1, 1.2), 1e-9),
        Claim.close("the limits from 1e-4 and 1e-6 differ by", 0.0, u[0] - u[1], 1e-7),
        Claim.at_least("it differs from the single neuron's, -0.4694, by", 0.08, abs(u[1, 2] + 0.46937806)),
        Claim.at_most("drift of |w|^2 - v^2", 1e-10, ds.drift),
        Claim.at_most(
            "one sample, imbalanced: error of v and w at t = 1, 2, 5", 1e-10, np.abs(ds.scalar - ds.scalar_exact)
        ),
    ]


def _zero(quick: bool, report: Callable) -> xr.Dataset:
    X, y = impossible_set(0.5, 1.5, 3)
    toward = X.T @ y / np.linalg.norm(X.T @ y)
    scales = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    exact = float(exact_end("1/2", "3/2", 3)[1])
    thirds = []
    for k, scale in enumerate(scales):
        traj = flow(ReLUNeuron(scale * toward), X, y, stop=1e4)
        thirds.append(float(traj.final.weights[2]))
        report((k + 1) / len(scales))
    zero = flow(ReLUNeuron(np.zeros(3)), X, y, stop=1e4, at_kink=1.0)
    stays = flow(ReLUNeuron(np.zeros(3)), X, y, stop=1e4, at_kink="stay", throw=False)
    return xr.Dataset(
        {
            "error": ("scale", np.abs(np.array(thirds) - exact)),
            "from_zero": abs(float(zero.final.weights[2]) - exact),
            "flagged": int(not zero.events[0].unique),
            "moved": float(jnp.max(jnp.abs(stays.final.weights))),
        },
        coords={"scale": scales},
    )


def _zero_claims(ds: xr.Dataset) -> Sequence[Claim]:
    return [
        Claim.at_most("from scale * sum y_i x_i the limit is off by, over the scale", 1.0, ds.error / ds.scale),
        Claim.at_most("from exactly zero with slope 1 there, the limit is off by", 1e-10, ds.from_zero),
        Claim.close("the first event of that run says that the solution was not unique", 1, ds.flagged, 0),
        Claim.close("from exactly zero with at_kink='stay' the neuron moves by", 0.0, ds.moved, 0.0),
    ]


STUDY = Study(
    name="relu-square-loss",
    title="Implicit regularization in ReLU networks with the square loss",
    source="After G. Vardi and O. Shamir, COLT 2021, arXiv 2012.05156; the data sets are a construction of our own.",
    summary="A single ReLU neuron trained from zero on three samples ends at a point of zero loss that is not the one "
    "of least norm, by an amount that the data set decides; so no function of the parameters is the "
    "regularizer. What holds instead: the distance to every point of zero loss never increases, and so the "
    "norm of the limit is at most twice the least one.",
    parts=(
        Part(
            "impossibility",
            "Data sets on which no function of the parameters can be the regularizer",
            _impossibility,
            _impossibility_claims,
            {"paths": _impossibility_figure},
        ),
        Part(
            "norm-ratios",
            "How far the limit can be from least norm: a search",
            norms.ratios,
            norms.claims,
            {"ratios": norms.figure},
        ),
        Part("monotone", "Monotone activations give least norm", _monotone, _monotone_claims),
        Part("hidden-layer", "One hidden layer", _hidden_layer, _hidden_claims),
        Part("zero", "Starts near and at zero", _zero, _zero_claims),
    ),
)
