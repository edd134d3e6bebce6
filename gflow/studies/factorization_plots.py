"""Figures of the factorization study: Dataset in, matplotlib figure out."""

from typing import Any

import xarray as xr

from .figures import COLOURS, panels


def eigenvalues(ds: xr.Dataset) -> Any:
    figure, axes = panels(ds.sizes["depth"])
    for ax, depth in zip(axes[0], ds.depth.values, strict=True):
        one = ds.sel(depth=depth)
        for k, value in enumerate(ds.eigenvalue.values):
            ax.plot(one.time, one.exact[:, k], color=COLOURS[k], lw=1.5, label=f"λ = {value:g}")
            ax.plot(one.time[::5], one.descent[::5, k], "o", color=COLOURS[k], ms=3.5)
            ax.axvline(float(one.learned[k]), color=COLOURS[k], ls=":", lw=1.2)
        ax.set(xlabel="time t, or η times step", ylabel="eigenvalue of the product", title=f"depth N = {depth}")
    axes[0, 1].legend(fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.72), title_fontsize=8,
                      title="line: closed form of the flow\ndots: descent\ndotted: predicted p = λ/2")  # fmt: skip
    return figure


def effective_rank(ds: xr.Dataset) -> Any:
    figure, axes = panels(ds.sizes["depth"])
    for ax, depth in zip(axes[0], ds.depth.values, strict=True):
        one = ds.sel(depth=depth)
        for k in ds.L.values:
            at = one.sel(L=k)
            if float(at.end) > float(at.start):
                ax.fill_between([float(at.start), float(at.end)], float(at.lower), float(at.upper),
                                color=COLOURS[k - 1], alpha=0.35, lw=0, label=f"interval, L = {k}")  # fmt: skip
        ax.plot(one.time, one["rank"], color="black", lw=1.2)
        ax.set(xlabel="time t = η times step", ylabel="effective rank of the product", title=f"depth N = {depth}",
               ylim=(0.9, 2.2))  # fmt: skip
    axes[0, 1].legend(fontsize=8)
    return figure


def sensing(ds: xr.Dataset) -> Any:
    figure, axes = panels(ds.sizes["run"] + 1, 3.4)
    for n, (ax, run) in enumerate(zip(axes[0], ds.run.values, strict=False)):
        one = ds.sel(run=run)
        last = float(one.time[-1])
        for k in ds.L.values if n < ds.sizes["depth"] else ():
            at = ds.isel(depth=n).sel(L=k)
            if min(float(at.end), last) > float(at.start):
                ax.fill_between([float(at.start), min(float(at.end), last)], float(at.lower), float(at.upper),
                                color=COLOURS[k - 1], alpha=0.35, lw=0, label=f"interval, L = {k}")  # fmt: skip
        ax.plot(one.time, one["rank"], color="black", lw=1.2)
        for value in ds.plateau.values[0]:
            ax.axhline(value, color="0.6", lw=0.8, ls="--")
        ax.set(xlabel="time t = η times step", title=run, ylim=(0.9, 2.4))
    axes[0, 0].set_ylabel("effective rank of the product")
    axes[0, 1].legend(fontsize=8)
    right = axes[0, -1]
    right.bar([str(r) for r in ds.initial_rank.values], ds.final_miss, color=COLOURS[0])
    right.set(xlabel="rank of the initialization", ylabel="relative error at the end", yscale="log")
    right.set_title("W = U Uᵀ, N = 2")
    return figure


def signs(ds: xr.Dataset) -> Any:
    figure, axes = panels(2)
    for ax, start in zip(axes[0], ds.start.values, strict=True):
        one = ds.sel(start=start)
        for k, value in enumerate(ds.eigenvalue.values):
            ax.plot(ds.time, one.exact[:, k], color=COLOURS[k], label=f"λ = {value:g}")
            ax.plot(ds.time[::3], one.descent[::3, k], "o", ms=3.5, color=COLOURS[k])
            ax.axhline(value, color=COLOURS[k], ls=":", lw=1)
        ax.set(xlabel="time t, or η times step", ylabel="eigenvalue of the product", title=f"{start} start, N = 2")
    axes[0, 0].legend(fontsize=8, title="line: closed form, dots: descent", title_fontsize=8)
    return figure


def noise(ds: xr.Dataset) -> Any:
    figure, axes = panels(1, 5.2)
    ax = axes[0, 0]
    ax.plot(ds.time, ds.miss, color=COLOURS[0])
    ax.axvline(float(ds.stop), color=COLOURS[1], ls="--", label="predicted time of the last eigenvalue")
    ax.set(xlabel="time t = η times step", ylabel="relative error to the clean target", yscale="log")
    ax.legend(fontsize=8)
    return figure
