"""Deep linear networks, two parts of the factorization study: which direction they tend to, and how fast they converge.

Directions: Yun, Krishnan & Mobahi 2021 (arXiv 2010.02501). Rates from unbalanced factors: Min, Tarmoun, Vidal & Mallada
2021 (arXiv 2105.06351).
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Int

from .. import limits, observe
from ..losses import Exponential, Square
from ..models import MatrixFactorization
from ..solve import gradient_flow
from ..solvers import LogRadau
from .figures import COLOURS, panels
from .report import Claim, Part

STRUCTURES = ("fully connected", "diagonal", "convolutional")


class LayeredNetwork(eqx.Module):
    """f(x) = beta . x with beta^T = W_N ... W_1, fully connected."""

    layers: list

    @property
    def beta(self):
        return functools.reduce(lambda below, above: above @ below, self.layers)[0]

    def __call__(self, x):
        return self.beta @ x


class FilteredNetwork(eqx.Module):
    """f(x) = beta . x with beta = w_1 * ... * w_N, (a * b)_i = sum_jk rule_ijk a_j b_k: entry by entry (diagonal), or
    circular convolutions of filters of full length. One class, so that both compile once."""

    layers: list
    rule: Int[Array, "d d d"]

    @property
    def beta(self):
        times = lambda a, b: jnp.einsum("ijk,j,k->i", self.rule.astype(float), a, b)
        return functools.reduce(times, self.layers)

    def __call__(self, x):
        return self.beta @ x


def network(structure: str, depth: int, scale: float, rng: np.random.Generator, d: int) -> eqx.Module:
    draw = lambda *shape: scale * jnp.asarray(rng.normal(size=shape))
    if structure == "fully connected":
        return LayeredNetwork([draw(4, d), *[draw(4, 4) for _ in range(depth - 2)], draw(1, 4)])
    i, j, k = np.ogrid[:d, :d, :d]
    rule = (i == j) & (j == k) if structure == "diagonal" else (j + k - i) % d == 0
    return FilteredNetwork([draw(d) for _ in range(depth)], jnp.asarray(rule, int))


def directions(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """Depth 2 and 3 (quick: 3), separable data, the exponential loss: where beta heads, and the KKT residual there.

    Fully connected: the l2 max margin. Diagonal: a stationary point of ||beta||_(2/N), and convolutional with filters
    of full length one of ||DFT beta||_(2/N), at margins of 1 or more.

    **Returns:** over (depth, structure, save): `residual` of its own norm; over (depth, structure, norm): `last`, the
    last residual in the norms of all structures; over (depth): `excess_l2` of the fully connected network.
    """
    rng = np.random.default_rng(0)
    d = 6
    X = rng.normal(size=(4, d))
    y = np.sign(X @ rng.normal(size=d))
    best = limits.l2_max_margin(X, y)
    save = np.geomspace(10, 1e6 if quick else 1e8, 13)
    depths = (3,) if quick else (2, 3)
    own, last, excess, done = [], [], [], 0
    for depth in depths:
        for structure in STRUCTURES:
            start = network(structure, depth, 0.1 if depth == 2 else 0.4, rng, d)
            traj = gradient_flow(start, X, y, loss=Exponential(), save=save, rtol=1e-6, solver=LogRadau(stages=3))
            betas = np.asarray(eqx.filter_vmap(lambda m: m.beta)(traj.model))
            own.append([residual(structure, depth, beta, X, y) for beta in betas])
            last.append([residual(norm, depth, betas[-1], X, y) for norm in STRUCTURES])
            if structure == "fully connected":
                excess.append(float(limits.excess_l2(betas[-1] / np.min(y * (X @ betas[-1])), best)))
            done += 1
            report(done / (3 * len(depths)))
    shape = (len(depths), len(STRUCTURES), -1)
    return xr.Dataset(
        {
            "residual": (("depth", "structure", "save"), np.reshape(own, shape)),
            "last": (("depth", "structure", "norm"), np.reshape(last, shape)),
            "excess_l2": ("depth", excess),
        },
        coords={
            "depth": list(depths), "structure": list(STRUCTURES), "norm": list(STRUCTURES),
            "save": ("save", save, {"long_name": "-log L"}),
        },
    )  # fmt: skip


def residual(structure: str, depth: int, beta: np.ndarray, X: np.ndarray, y: np.ndarray) -> float:
    """How far `beta` is from a KKT point of the norm of a structure, with the weights of the samples as multipliers.

    With b the transform of beta and z that of X^T lambda, the l2 norm has z parallel to b. ||b||_(2/N) comes from
    weights w = |b|^(1/N), which are parallel to z e^(-i arg b) w^(N-1) at KKT points: returned is one minus the cosine.
    For N = 2, where zeros of w say nothing but ||b||_1 asks for |z| <= 1 there, one minus <z, b> / (||z||_oo ||b||_1).
    """
    margins = y * (X @ beta)
    z = X.T @ (np.exp(-(margins - margins.min())) * y)
    if structure == "fully connected":
        return float(1 - z @ beta / np.linalg.norm(z) / np.linalg.norm(beta))
    if structure == "convolutional":
        z, beta = np.fft.fft(z), np.fft.fft(beta)
    if depth == 2:
        return float(1 - np.real(np.vdot(z, beta)) / np.max(np.abs(z)) / np.sum(np.abs(beta)))
    w = np.abs(beta) ** (1 / depth)
    pull = z * np.exp(-1j * np.angle(beta)) * w ** (depth - 1)
    return float(1 - np.real(np.vdot(w, pull)) / np.linalg.norm(w) / np.linalg.norm(pull))


def _directions_claims(ds: xr.Dataset) -> list[Claim]:
    drop = (ds.residual.isel(save=-1) / ds.residual.isel(save=0)).values
    elsewhere = [
        float(ds["last"].sel(depth=n, structure=s, norm=other) / ds["last"].sel(depth=n, structure=s, norm=s))
        for n in ds.depth.values for s in STRUCTURES for other in STRUCTURES if other != s
    ]  # fmt: skip
    return [
        Claim.at_most("KKT residual of the limit direction in the network's own norm, last", 0.02,
                      ds.residual.isel(save=-1).values),
        Claim.at_most("it falls along the flow: last over first", 0.5, drop),
        Claim.at_least("in the norms of the other structures it is larger: ratio", 3.0, elsewhere),
        Claim.at_most("fully connected: l2 norm over that of the max margin, less one", 0.01, ds.excess_l2.values),
    ]  # fmt: skip


def _draw_directions(ds: xr.Dataset) -> Any:
    figure, axes = panels(ds.sizes["depth"])
    for ax, depth in zip(axes[0], ds.depth.values, strict=True):
        for k, structure in enumerate(STRUCTURES):
            one = ds.residual.sel(depth=depth, structure=structure)
            ax.loglog(ds.save, np.maximum(one, 1e-16), "os^"[k] + "-", ms=4, color=COLOURS[k], label=structure)
        ax.set(xlabel="γ = −log L (nats)", ylabel="KKT residual of the direction", title=f"depth N = {depth}")
    axes[0, 0].legend(fontsize=8)
    return figure


DIRECTIONS = Part(
    "linear-networks", "Deep linear networks: limit directions", directions, _directions_claims,
    {"directions": _draw_directions},
)  # fmt: skip


# Rates

_SUM = Square(reduction="sum")
_OUT, _IN, _HIDDEN = 3, 4, 8


def _level(model: MatrixFactorization) -> jax.Array:
    """c = [lambda_n(D)]_+ + [lambda_m(-D)]_+ of the imbalance D = W_1 W_1^T - W_2^T W_2, eigenvalues decreasing."""
    first, second = model.factors
    values = jnp.linalg.eigvalsh(first @ first.T - second.T @ second)
    return jnp.maximum(values[-_IN], 0.0) + jnp.maximum(-values[_OUT - 1], 0.0)


def _rate(model: MatrixFactorization, X: Any, y: Any) -> jax.Array:
    """-d log L / dt = ||grad L||^2 / L."""
    first, second = model.factors
    E = second @ first - y.T
    gradients = second.T @ E, E @ first.T
    return 2 * sum(jnp.sum(g**2) for g in gradients) / jnp.sum(E**2)


def imbalance(quick: bool = False, report: Callable[[float], None] = lambda done: None) -> xr.Dataset:
    """A single hidden layer of width 8 from 4 inputs to 3 outputs, from random factors of growing size, and from
    balanced factors of the same products: the rate -d log L / dt along the flow, against the bound 2 c.

    Where D is conserved, lambda_n(W_1 W_1^T) >= lambda_n(D) and lambda_m(W_2^T W_2) >= lambda_m(-D) by Weyl's
    inequalities; and ||grad L||^2 >= 2 c L.
    """
    target = np.random.default_rng(1).normal(size=(_OUT, _IN))
    X, y = observe.everything(target)
    scales = np.array([0.3, 1.0, 2.0]) if quick else np.array([0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0])
    seen = {"level": _level, "rate": _rate}
    fields = {name: [] for name in ("level", "drift", "least", "balanced")}
    for n, scale in enumerate(scales):
        start = MatrixFactorization.gaussian([_IN, _HIDDEN, _OUT], scale, jax.random.key(0))
        even = MatrixFactorization.balanced(start.product, 2, widths=[_HIDDEN])
        rates = []
        for model in (start, even):
            begin = -np.log(np.sum((np.asarray(model.product) - target) ** 2) / 2)
            traj = gradient_flow(
                model, X, y, loss=_SUM, save=begin + np.linspace(0.1, 25.0, 60), rtol=1e-9, metrics=seen
            )
            rates.append(float(traj.metrics["rate"].min()))
            if model is start:
                level = np.asarray(traj.metrics["level"])
                fields["level"].append(level[0])
                fields["drift"].append(np.max(np.abs(level - level[0])) / np.sum(np.asarray(start.factors[0]) ** 2))
        fields["least"].append(rates[0])
        fields["balanced"].append(rates[1])
        report((n + 1) / scales.size)
    return xr.Dataset({name: ("scale", values) for name, values in fields.items()}, coords={"scale": scales})


def _imbalance_claims(ds: xr.Dataset) -> list[Claim]:
    large = ds.scale >= 1
    return [
        Claim.at_least("least rate of convergence over the bound 2 c of the imbalance", 1.0,
                       (ds.least / (2 * ds.level)).values),
        Claim.at_most("the imbalance is conserved: change of c relative to ||W_1||^2", 1e-7, ds.drift.values),
        Claim.at_least("rate over that from balanced factors of the same product, scales of 1 or more", 1.0,
                       (ds.least / ds.balanced).values[large.values]),
        Claim.at_least("the bound grows with the scale: steps", 0.0, np.diff(ds.level.values)),
    ]  # fmt: skip


def _draw_imbalance(ds: xr.Dataset) -> Any:
    figure, axes = panels(1, 5.2)
    ax = axes[0, 0]
    ax.loglog(ds.scale, 2 * ds.level, color="black", ls="--", label="bound 2c by the imbalance")
    ax.loglog(ds.scale, ds.least, "o-", color=COLOURS[0], label="random factors, least rate")
    ax.loglog(ds.scale, ds.balanced, "s-", color=COLOURS[1], label="balanced factors, same product")
    ax.set_xticks(ds.scale.values, [f"{v:g}" for v in ds.scale.values])
    ax.minorticks_off()
    ax.set(xlabel="scale of the random factors", ylabel="−d log L / dt, least along the flow")
    ax.legend(fontsize=8)
    return figure


IMBALANCE = Part(
    "imbalance", "Unbalanced factors: rates of convergence", imbalance, _imbalance_claims,
    {"imbalance": _draw_imbalance},
)  # fmt: skip
