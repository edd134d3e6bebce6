"""Dataset in, matplotlib axes out. Colours are cividis, Okabe and Ito's, and greys: legible to the colour-blind."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

try:
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
except ImportError as error:  # pragma: no cover
    raise ImportError("gflow.plots needs matplotlib; install gflow[plot].") from error

_ORANGE, _BLUE, _GREEN = "#D55E00", "#0072B2", "#009E73"
_EXCESS = r"excess $\ell_1$ norm of $\beta/\gamma$"


def phase_diagram(ds: xr.Dataset, depth: int, ax: Any = None, label: str = _EXCESS) -> Any:
    """Excess l1 norm over (initialization scale, accuracy), with curves of constant mu.

    **Arguments:**

    - `ds`: from `gflow.studies.transition`.
    - `depth`: which of its depths.
    - `ax`: matplotlib axes, new ones by default.
    - `label`: of the colours, where `excess_l1` of `ds` is another measure of the excess.

    **Returns:** the axes.

    !!! example

        ```python
        >>> import gflow, gflow.datasets, gflow.plots, gflow.studies
        >>> data = gflow.datasets.load("toy")
        >>> ds = gflow.studies.transition(data.X, data.y, depths=[2], scales=[0.01, 1.0], decades=[100.0, 1000.0])
        >>> gflow.plots.phase_diagram(ds, 2).get_xlabel()
        'initialization scale α'

        ```
    """
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    one = ds.sel(depth=depth)
    scale, decades = one.scale.values, one.decades.values
    # Late enough for beta / gamma to have a margin near 1: earlier values are below zero, whatever the limit.
    late = one.excess_l1.values[:, decades >= min(10 * decades[0], decades[-1])]
    late = late[np.isfinite(late)]
    top = max(float(np.nanmax(one.Q_excess_l1)), np.quantile(late, 0.98) if late.size else 0.0, 1e-3)
    colours = plt.get_cmap("cividis").with_extremes(under="0.75")
    # A margin of a little less than 1 is no sign of being early.
    shown = np.where(one.excess_l1.values > -0.2 * top, np.maximum(one.excess_l1.values, 0.0), -1.0)
    image = ax.pcolormesh(
        _edges(scale), _edges(decades), shown.T, cmap=colours, vmin=0.0, vmax=top, rasterized=True
    )
    ax.figure.colorbar(image, ax=ax, label=label, extend="both")
    fine = np.geomspace(scale.min(), scale.max(), 200)
    drawn = np.log10(one.mu.values)
    for exponent in _mu_exponents(drawn.min(), drawn.max()):
        line = depth * np.log10(fine) - exponent - np.log10(np.log(10.0))
        inside = (line >= np.log10(decades.min())) & (line <= np.log10(decades.max()))
        if inside.sum() < 30:
            continue
        x, y = fine[inside], 10 ** line[inside]
        ax.plot(x, y, color="white", lw=2.4)
        ax.plot(x, y, color="black", lw=1.0, ls="--")
        k = len(x) // 2
        ax.text(
            x[k],
            y[k],
            rf"$\mu=10^{{{exponent}}}$",
            fontsize=8,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
        )
    ax.set(xscale="log", yscale="log", xlabel="initialization scale α", ylabel="accuracy  log₁₀(1/loss)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.set_title(f"depth {depth}: curves of constant μ = α{_superscript(depth)}/γ", fontsize=10)
    return ax


def excess_plane(ds: xr.Dataset, depth: int, ax: Any = None) -> Any:
    """Paths in the plane (excess l1, excess l2), one a scale, with the path of the Q_mu max margin.

    Arguments and return value as in `phase_diagram`.

    !!! example

        ```python
        >>> import gflow, gflow.datasets, gflow.plots, gflow.studies
        >>> data = gflow.datasets.load("toy")
        >>> ds = gflow.studies.transition(data.X, data.y, depths=[2], scales=[0.01, 1.0], decades=[100.0, 1000.0])
        >>> gflow.plots.excess_plane(ds, 2).get_xlabel()
        'excess ℓ₁ norm of β/γ'

        ```
    """
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    one = ds.sel(depth=depth)
    scale = one.scale.values
    norm = LogNorm(scale.min(), scale.max()) if scale.size > 1 else LogNorm(scale[0] / 2, scale[0] * 2)
    colours = plt.get_cmap("cividis")
    for j, value in enumerate(scale):
        ax.plot(one.excess_l1[j], one.excess_l2[j], color=colours(norm(value)), lw=1.0, alpha=0.9, zorder=2)
        ax.plot(one.excess_l1[j, -1:], one.excess_l2[j, -1:], "o", ms=3, color=colours(norm(value)), zorder=3)
    ax.plot(one.Q_excess_l1, one.Q_excess_l2, color=_ORANGE, lw=2.2, ls="--", label=r"$Q_\mu$ max margin", zorder=4)
    ax.plot(one.Q_excess_l1[-1], one.Q_excess_l2[-1], "s", color=_BLUE, ms=8, label=r"$\ell_2$ max margin", zorder=5)
    beta = ds.l1_beta.values
    end = np.linalg.norm(beta) / np.linalg.norm(ds.l2_beta.values) - 1.0
    ax.plot(0.0, end, "^", color=_GREEN, ms=9, label=r"$\ell_1$ max margin", zorder=5)
    bar = ax.figure.colorbar(plt.cm.ScalarMappable(norm, colours), ax=ax, label="initialization scale α")
    bar.ax.yaxis.set_major_locator(LogLocator())
    # Room for the ends of the paths, unless they are far from all limits.
    ends = np.stack([one.excess_l1[:, -1], one.excess_l2[:, -1]], axis=1)
    ends = ends[np.isfinite(ends).all(1)]
    size = np.array([max(np.nanmax(one.Q_excess_l1), 0.02), max(np.nanmax(one.Q_excess_l2), end, 0.02)])
    near = np.all(np.abs(ends) < 4 * size, axis=1)
    low = np.min(np.vstack([ends[near], -0.2 * size]), axis=0)
    high = np.max(np.vstack([ends[near], 1.1 * size]), axis=0)
    margin = 0.08 * (high - low)
    ax.set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + 3 * margin[1]),
        xlabel="excess ℓ₁ norm of β/γ",
        ylabel="excess ℓ₂ norm of β/γ",
    )
    if not near.all():
        note = f"{int((~near).sum())} of {scale.size} paths end outside"
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "0.8"}
        ax.text(0.98, 0.03, note, transform=ax.transAxes, fontsize=8, ha="right", bbox=box, zorder=6)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.legend(fontsize=8, loc="upper right", framealpha=0.9)
    last = float(ds.decades[-1])
    ax.set_title(f"depth {depth}: paths to a loss of 10$^{{-{last:g}}}$ (dots)", fontsize=10)
    return ax


def transition_figures(ds: xr.Dataset, folder: Path) -> list[Path]:
    """Write `phase-diagram.png` and `paths.png`, a panel for each depth, and return their paths.

    !!! example

        ```python
        >>> import gflow, gflow.datasets, gflow.plots, gflow.studies, pathlib, tempfile
        >>> data = gflow.datasets.load("toy")
        >>> ds = gflow.studies.transition(data.X, data.y, depths=[2], scales=[0.01, 1.0], decades=[100.0, 1000.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in gflow.plots.transition_figures(ds, pathlib.Path(folder))]
        ['phase-diagram.png', 'paths.png']

        ```
    """
    written = []
    for name, draw in (("phase-diagram", phase_diagram), ("paths", excess_plane)):
        figure, axes = plt.subplots(
            1, ds.sizes["depth"], figsize=(5.6 * ds.sizes["depth"], 4.4), layout="constrained", squeeze=False
        )
        for depth, ax in zip(ds.depth.values, axes[0], strict=True):
            draw(ds, int(depth), ax)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=150)
        plt.close(figure)
    return written


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells around log-spaced centres."""
    logs = np.log(centres)
    steps = np.diff(logs) if logs.size > 1 else np.array([0.5])
    inner = logs[:-1] + steps / 2 if logs.size > 1 else np.empty(0)
    return np.exp(np.concatenate([[logs[0] - steps[0] / 2], inner, [logs[-1] + steps[-1] / 2]]))


def _mu_exponents(low: float, high: float) -> list[int]:
    """Whole exponents of mu, about six over the range."""
    step = max(1, round((high - low) / 6))
    return list(range(int(np.ceil(low)), int(np.floor(high)) + 1, step))


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
