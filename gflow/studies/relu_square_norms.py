"""The part of the study of ReLU with square loss on norms: how far the limit of a single neuron is from least norm."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.linalg import null_space
from scipy.optimize import nnls

from ..clocks import LossClock, TimeClock
from ..losses import Square
from ..models import ReLUNeuron
from ..solve import gradient_flow
from .figures import COLOURS, MARKERS
from .relu_square_exact import follow
from .report import Claim

# A loss that counts as zero, for labels of size one.
_ZERO = 1e-14
# The stiffest flow that the searches look at: an explicit solver follows it in some thousand steps.
_STIFFEST = 3000.0


def flow(model: Any, X: Any, y: Any, **options: Any) -> Any:
    options = {"loss": Square(reduction="sum"), "clock": TimeClock(), "rtol": 1e-12, **options}
    return gradient_flow(model, X, y, **options)


def least_norm(X: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """The point of zero loss of least norm: w . x_i = y_i where y_i > 0, w . x_i <= 0 where y_i = 0. None if none is.

    On the equations' solutions p + N v what remains is least distance programming (Lawson & Hanson 1974, ch. 23).

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies import relu_square, relu_square_norms
        >>> relu_square_norms.least_norm(*relu_square.impossible_set(0.5, 1.5, 3)).round(12).tolist()
        [1.0, 1.5, 0.0]

        ```
    """
    on = y > 0
    point = np.linalg.pinv(X[on]) @ y[on]
    if np.max(np.abs(X[on] @ point - y[on]), initial=0.0) > 1e-9 * np.max(y):
        return None
    if on.all():
        return point
    free = null_space(X[on])
    G, h = -X[~on] @ free, X[~on] @ point
    stacked = np.vstack([G.T, h])
    target = np.append(np.zeros(free.shape[1]), 1.0)
    residual = stacked @ nnls(stacked, target)[0] - target
    if abs(residual[-1]) < 1e-9:
        return None
    return point + free @ (-residual[:-1] / residual[-1])


def _random_set(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    """2 d samples that some neuron fits, at least one of label 0 and one positive; for d > 2 at least one of label 0 is
    active at first, without which the limit has least norm."""
    while True:
        X = rng.normal(size=(2 * d, d)) * np.exp(rng.normal(size=(2 * d, 1)))
        values = X @ rng.normal(size=d)
        # Of the values those below zero have label 0.
        y = np.maximum(values, 0.0)
        off = y == 0
        if 0 < off.sum() < 2 * d and (d == 2 or np.any(X[off] @ (X.T @ y) > 0)):
            return X / y.max(), y / y.max()


def ratio(X: np.ndarray, y: np.ndarray, stiffest: float = np.inf) -> float:
    """|limit| / |least norm| of the flow from zero, solved exactly; nan where it does not reach zero loss, or is too
    stiff.

    !!! example

        ```python
        >>> from gflow.studies import relu_square, relu_square_norms
        >>> round(relu_square_norms.ratio(*relu_square.impossible_set(0.1, 1.2, 10)), 9)
        1.044171129

        ```
    """
    best, path = least_norm(X, y), follow(X, y)
    if best is None or path is None or not np.any(best) or path.stiffness > stiffest:
        return np.nan
    loss = np.sum((np.maximum(X @ path.end, 0.0) - y) ** 2)
    return float(np.linalg.norm(path.end) / np.linalg.norm(best)) if loss <= 1e-22 * np.sum(y**2) else np.nan


def _by_flow(X: np.ndarray, y: np.ndarray) -> float:
    """The same by `gradient_flow`, at a loss of 1e-14; nan where it does not get there."""
    best = least_norm(X, y)
    assert best is not None
    options = {"clock": LossClock(), "stop": -np.log(_ZERO), "rtol": 1e-8, "throw": False, "max_steps": 100_000}
    traj = flow(ReLUNeuron(np.zeros(X.shape[1])), X, y, at_kink=1.0, **options)
    return float(np.linalg.norm(traj.final.weights) / np.linalg.norm(best)) if traj.success else np.nan


def _climb(rng: np.random.Generator, X: np.ndarray, y: np.ndarray, steps: int) -> tuple[list, np.ndarray, np.ndarray]:
    """Local search for a larger ratio: perturb samples and labels by a size that adapts, keep what is larger. All
    ratios that were found, that of the start too, and the best set."""
    top = ratio(X, y, _STIFFEST)
    size, found = 0.3, [top]
    for _ in range(steps):
        moved = rng.random(X.shape) < rng.choice([0.3, 1.0])
        length = np.linalg.norm(X, axis=1, keepdims=True) / np.sqrt(X.shape[1])
        near = X * np.exp(size * rng.normal(size=(len(y), 1))) + size * rng.normal(size=X.shape) * moved * length
        labels = y * np.exp(size * rng.normal(size=len(y)) * (rng.random(len(y)) < 0.5))
        found.append(ratio(near, labels, _STIFFEST))
        if found[-1] > top:
            X, y, top, size = near, labels, found[-1], min(1.0, 1.5 * size)
        else:
            # Now and then large steps again.
            size = max(1e-3, 0.97 * size) if rng.random() > 0.02 else 0.3
    return found, X, y


def _embed(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A set in one more dimension with the same ratio: two samples of label 0 along the new axis, which no weight
    leaves zero for."""
    d = X.shape[1]
    wider = np.zeros((len(y) + 2, d + 1))
    wider[: len(y), :d], wider[len(y) :, d] = X, [1.0, -1.0]
    return wider, np.append(y, [0.0, 0.0])


class _Search(NamedTuple):
    """Random sets, how many of the best of them local searches start from, and the steps of each."""

    sets: int
    starts: int
    steps: int

    @property
    def size(self) -> int:
        return self.sets + self.starts * (1 + self.steps)


_QUICK = _Search(100, 6, 800)
# The full study repeats the search of the quick one, so that it never finds less.
_FULL = (_QUICK, _Search(300, 12, 1500))


def _search(rng: np.random.Generator, d: int, plan: _Search, before: Any, report: Callable) -> tuple:
    """All ratios that were found, the random sets, and the set of the largest ratio."""
    sets = [_random_set(rng, d) for _ in range(plan.sets)]
    found = [ratio(X, y, _STIFFEST) for X, y in sets]
    order = np.argsort(-np.nan_to_num(found))
    # From the largest random ones, and from the best of a dimension less.
    begin = [sets[k] for k in order[: plan.starts]]
    if before is not None:
        begin[-1] = _embed(*before)
    ends = []
    for k, (X, y) in enumerate(begin):
        reached, X, y = _climb(rng, X, y, plan.steps)
        found.extend(reached)
        ends.append((X, y))
        report((k + 1) / plan.starts)
    return np.array(found), sets, max(ends, key=lambda one: ratio(*one))


def ratios(quick: bool, report: Callable) -> xr.Dataset:
    dimensions, plans = ((2, 3), (_QUICK,)) if quick else ((2, 3, 4, 5), _FULL)
    checks = 3 if quick else 4
    found = np.full((len(dimensions), sum(plan.size for plan in plans)), np.nan)
    random = np.concatenate([np.arange(plan.size) < plan.sets for plan in plans])
    checked = np.full((len(dimensions), checks, 2), np.nan)
    tops = np.full((len(dimensions), 2 * dimensions[-1], dimensions[-1] + 1), np.nan)
    before: list = [None] * len(plans)
    for i, d in enumerate(dimensions):
        parts, sets = [], []
        for k, plan in enumerate(plans):
            along = lambda share, i=i, k=k: report((i + 0.8 * (k + share) / len(plans)) / len(dimensions))
            part, drawn, before[k] = _search(np.random.default_rng([d, k] if k else d), d, plan, before[k], along)
            parts.append(part)
            sets.extend(one for one, value in zip(drawn, part, strict=False) if np.isfinite(value))
        found[i] = np.concatenate(parts)
        top = max(before, key=lambda one: ratio(*one))
        tops[i, : 2 * d, :d], tops[i, : 2 * d, d] = top
        # The best and some random ones by the flow, too.
        for k, (X, y) in enumerate([top, *sets[: checks - 1]]):
            checked[i, k] = ratio(X, y), _by_flow(X, y)
        report((i + 1) / len(dimensions))
    return xr.Dataset(
        {
            "ratio": (("d", "set"), found),
            "checked": (("d", "check", "by"), checked),
            "best": (("d", "sample", "input"), tops),
        },
        coords={"d": list(dimensions), "by": ["exact", "flow"],
                "searched": ("set", (~random).astype(int))},
    )  # fmt: skip


# The largest ratio that a search apart from this module found in three dimensions; sets of three samples lie in more
# dimensions, too.
_LARGEST_KNOWN = 1.129


def claims(ds: xr.Dataset) -> Sequence[Claim]:
    found = []
    for d in ds.d.values:
        one = ds.ratio.sel(d=d).values
        values, by_flow = one[np.isfinite(one)], ds.checked.sel(d=d, by="flow").values
        name = f"d = {d}: |limit| / |least norm| over {values.size} data sets, random ones and local searches"
        found.append(Claim.at_most(name + ", the bound 2 that follows from the distances", 2.0, values))
        found.append(Claim.at_most(name + ", the paper's sqrt 2", float(np.sqrt(2)) + 1e-9, values))
        if d == 2:
            found.append(Claim.close("d = 2: that ratio", 1.0, values, 1e-9))
        else:
            found.append(Claim.at_least(f"d = {d}: the largest found", _LARGEST_KNOWN, values.max()))
        off = np.abs(by_flow - ds.checked.sel(d=d, by="exact").values)
        text = f"d = {d}: the best set and {off.size - 1} random ones, ratio by the flow at loss 1e-14, off by"
        found.append(Claim.at_most(text, 1e-4, off))
    return found


def figure(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    picture, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    styles = zip(ds.d.values, COLOURS, MARKERS, strict=False)
    for d, colour, marker in styles:
        one = ds.ratio.sel(d=d)
        values = np.sort(one.where(ds.searched == 0).dropna("set").values)
        share = 1 - np.arange(values.size) / values.size
        ax.step(values - 1, share, where="post", color=colour, label=f"d = {d}, random")
        top = float(one.max())
        ax.plot(top - 1, 1 / values.size, marker, color=colour, label=f"d = {d}, largest by search: {top:.4f}")
    ax.axvline(np.sqrt(2) - 1, color="black", ls="--", lw=0.9, label=r"$\sqrt{2}$")
    ax.set(
        yscale="log",
        xlabel="norm of the limit over least norm of zero loss, less one",
        ylabel="share of data sets at or above",
        xlim=(-1e-3, 1),
    )
    ax.set_xscale("symlog", linthresh=1e-3)
    # Left of the line at sqrt 2.
    ax.legend(fontsize=7, loc="upper right", bbox_to_anchor=(0.92, 1.0))
    return picture
