"""Stochastic gradient flow: noise of the size of the loss acts like a smaller initialization.

With L = ||X beta - y||^2 / (4 n) and beta = w_+^2 - w_-^2, stochastic gradient descent of step size eta is modelled by

    dw_+- = -grad_+- L dt +- 2 (eta L / n)^(1/2) w_+- (X^T dB),

for which Ito's formula gives log(w_+ w_-) = 2 log alpha - 4 eta diag(X^T X / n) int L ds on every path, so that the
limit is the least potential Q for the scales alpha exp(-2 eta diag(X^T X / n) int L ds), one per coordinate (Pesme,
Pillaud-Vivien & Flammarion 2021, arXiv 2106.09524). Paths are sampled by Diffrax in w, where this is not built in.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from mpmath import mpf

from ..figures import COLOURS
from ..report import Claim, Part
from .interpolation import least_potential, regression
from .problems import ignore, relative, Report

SCALE, ETA = 0.3, 0.1
# Of data on which the l1 norms of the limits are looked at.
SEEDS = (5, 2, 0, 1, 3, 4, 6, 7)
_END = 60.0


@eqx.filter_jit
def _paths(X: Any, y: Any, step: Any, keys: Any) -> Any:
    """beta and the integral of L at the end, shapes (paths, d) and (paths,)."""
    n, d = X.shape

    def split(state: Any) -> Any:
        w, _ = state
        residual = X @ (w[0] ** 2 - w[1] ** 2) - y
        return w, residual, jnp.sum(residual**2) / (4 * n)

    def drift(t: Any, state: Any, args: Any) -> Any:
        w, residual, loss = split(state)
        pull = X.T @ residual / n
        return jnp.stack([-pull * w[0], pull * w[1]]), loss

    def noise(t: Any, state: Any, args: Any) -> Any:
        w, _, loss = split(state)
        size = 2 * jnp.sqrt(ETA * loss / n)
        # The integral of L has no noise.
        return size * jnp.stack([w[0][:, None] * X.T, -w[1][:, None] * X.T]), jnp.zeros(n)

    def one(key: Any) -> Any:
        path = diffrax.UnsafeBrownianPath(shape=(n,), key=key)
        control = lambda vf, dB: (jnp.einsum("sdn,n->sd", vf[0], dB), vf[1] @ dB)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), _Noise(noise, path, control))
        start = jnp.full((2, d), SCALE), jnp.zeros(())
        answer = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, _END, step, start, max_steps=None, adjoint=diffrax.ForwardMode()
        )
        (w, integral) = jax.tree.map(lambda v: v[-1], answer.ys)
        return w[0] ** 2 - w[1] ** 2, integral

    return jax.vmap(one)(keys)


class _Noise(diffrax.ControlTerm):
    """Contracts the two parts of the state with the increments of one Brownian motion."""

    contract: Any = eqx.field(static=True)

    def __init__(self, field: Any, control: Any, contract: Any):
        super().__init__(field, control)
        self.contract = contract

    def prod(self, vf: Any, control: Any) -> Any:
        return self.contract(vf, control)


def noise(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Sampled paths at several time steps.

    **Returns:** over (step, path): `to_effective`, distance of the end from the least potential with the effective
    scales, and `to_initial`, with alpha itself, relative; `l1` of the end, `l1_flow` without noise, and `integral` of
    L; over (set, other_path), at one time step: `ratio`, the l1 norm over that without noise.
    """
    X, y = regression(True)
    paths, steps = (6, (8e-3, 5e-4)) if quick else (24, (8e-3, 2e-3, 5e-4, 1.25e-4))
    rows = []
    curvature = np.sum(X**2, axis=0) / len(X)
    for k, step in enumerate(steps):
        keys = jax.random.split(jax.random.key(k), paths)
        ends, integrals = map(np.asarray, _paths(jnp.asarray(X), jnp.asarray(y), jnp.asarray(step), keys))
        row = []
        for beta, integral in zip(ends, integrals, strict=True):
            # What is left of the loss at the end is put into the targets.
            goal, scales = (X @ beta).tolist(), SCALE * np.exp(-2 * ETA * curvature * integral)
            near, far = (
                np.array([float(v) for v in least_potential(X.tolist(), goal, [mpf(a) ** 2 for a in each], 2, 12)])
                for each in (scales, np.full(X.shape[1], SCALE))
            )
            row.append((relative(beta, near), relative(beta, far), np.abs(beta).sum(), np.abs(far).sum(), integral))
        rows.append(row)
        report((k + 1) / len(steps))
    table = np.moveaxis(np.array(rows), -1, 0)
    names = ("to_effective", "to_initial", "l1", "l1_flow", "integral")
    seeds = SEEDS[: 2 if quick else None]
    return xr.Dataset(
        {name: (("step", "path"), values) for name, values in zip(names, table, strict=True)}
        | {"ratio": (("set", "other_path"), np.array([_ratios(seed) for seed in seeds]))},
        coords={"step": list(steps), "set": list(seeds)},
    )


def _ratios(seed: int) -> np.ndarray:
    """The l1 norm at the end of paths over that of the least potential of alpha, on another data set."""
    X, y = regression(True, seed)
    keys = jax.random.split(jax.random.key(0), 8)
    ends = np.asarray(_paths(jnp.asarray(X), jnp.asarray(y), jnp.asarray(1e-3), keys)[0])
    alone = [least_potential(X.tolist(), (X @ b).tolist(), [mpf(SCALE) ** 2] * X.shape[1], 2, 12) for b in ends]
    return np.abs(ends).sum(axis=1) / np.array([sum(abs(float(v)) for v in b) for b in alone])


def noise_claims(ds: xr.Dataset) -> list[Claim]:
    finest = ds.isel(step=-1)
    error = ds.to_effective.mean("path").values
    rate = np.log(error[-1] / error[0]) / np.log(ds.step.values[-1] / ds.step.values[0])
    return [
        Claim.close("distance to the least potential of the effective scales, power of the time step (Euler: 1/2)", 0.5,
                    rate, 0.3),
        Claim.at_most("finest step: that distance over the distance to the least potential of alpha, mean of paths",
                      0.2, (finest.to_effective.mean() / finest.to_initial.mean()).values),
        Claim.cases("the limit has smaller l1 norm than without noise, on all paths", "on every set",
                    f"l1 norms {float(ds.ratio.min()):.4f} to {float(ds.ratio.max()):.4f} of those without noise",
                    {f"set {s}": bool((ds.ratio.sel(set=s) < 1.0).all()) for s in ds.set.values}),
    ]  # fmt: skip


def draw_noise(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, colour, label in (("to_effective", COLOURS[0], "effective scales"), ("to_initial", COLOURS[1], "alpha")):
        left.loglog(ds.step, ds[name].mean("path"), "o-", color=colour, label=label.replace("alpha", "initial scale α"))
    left.loglog(ds.step, float(ds.to_effective.mean("path")[0]) * (ds.step / ds.step[0]) ** 0.5, ":", color="black",
                label="slope 1/2")  # fmt: skip
    left.xaxis.set_minor_formatter("")
    left.set(xlabel="time step of the sampled paths", ylabel="relative distance to the least potential")
    left.legend(fontsize=8)
    last = ds.isel(step=-1)
    right.plot(last.integral, last.l1 / last.l1_flow, "o", ms=4, color=COLOURS[0])
    right.axhline(1.0, color="0.6", lw=0.8)
    right.set(xlabel=r"$\int L\,ds$ of the path", ylabel=r"$\ell_1$ norm of the limit over that without noise")
    return figure


PARTS = (Part("stochastic-flow", "Stochastic gradient flow", noise, noise_claims, {"stochastic-flow": draw_noise}),)
