"""What the explorer shows, as a Dataset over (depth, scale, decades).

Beside the flows stand the four solutions that theory compares them with: l2 and l1 max margin, Q_mu max margin, and the
irreversible path, the last two at mu = scale^depth / gamma. All are drawn in one plane through the l2 and l1 max-margin
solutions; its second direction is the one in which the two paths leave their common line most (a principal component).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import ArrayLike, Float
from tqdm.auto import tqdm

from .. import limits
from ..clocks import decades as to_nats
from ..losses import AbstractLoss, Exponential
from .plane import Plane

GRID = ("depth", "scale", "decades")
DISTANCES = ("distance_l2", "distance_Q_mu", "distance_irreversible", "distance_l1")
_KEPT = ("log_time", "mu", "excess_l1", "excess_l2", *(name for name in DISTANCES if name != "distance_irreversible"))
_NEEDED = ("beta_over_gamma", "status", "l2_beta", "l1_beta", *_KEPT)
_CURVE = 121  # points of a path that is drawn
_KNOWN = 0.01  # error from which on a number is rounding and is not shown: of weights relative, of log10 absolute


def contents(
    ds: xr.Dataset,
    X: Float[ArrayLike, "N d"],
    y: Float[ArrayLike, " N"],
    *,
    loss: AbstractLoss = Exponential(),  # noqa: B008
    progress: bool = False,
) -> xr.Dataset:
    """What the page shows, computed from flows and limits.

    **Arguments:**

    - `ds`: from `gflow.studies.transition`.
    - `X`, `y`, `loss`: the data, shapes (N, d) and (N,), and the loss that it was computed with.
    - `progress`: show a bar over the limits' paths, in a terminal or notebook only.

    **Returns:** a Dataset

    - over (depth, scale, decades): `excess_l1`, `excess_l2`, `distance_l2`, `distance_Q_mu`, `distance_l1`, `log_time`
      (nats) and `mu` of `ds`; `distance_irreversible`, the relative distance to the irreversible path at the same mu;
      `log_time_loss`, log10 of t L; `weights` (..., sample), the samples' shares of the gradient of -log L, of sum
      1; `place` (..., axis), beta / gamma in the plane, where l2 is at (0, 0) and l1 at (1, 0), and `off_plane`, its
      distance from the plane over its norm; `Q_mu_place`, `irreversible_place`, the solutions at this mu;
    - over (depth, scale): `status`; over (depth, curve_mu): `Q_mu_curve` and `irreversible_curve` in the plane;
    - `l2_place`, `l1_place` (axis), and `plane_basis` (axis, coordinate), orthonormal.

    What a flow did not reach, what a limit cannot be followed to, and weights and times that are made of rounding are
    NaN. The attribute `notes` says what is missing, a line for each reason.

    **Raises:** `ValueError` if `ds` is not such a Dataset or the data are not those that it was computed with.

    !!! example

        ```python
        >>> import gflow, gflow.datasets, gflow.explorer, gflow.studies
        >>> data = gflow.datasets.load("toy")
        >>> ds = gflow.studies.transition(data.X, data.y, depths=[2], scales=[0.01, 1.0], decades=[100.0, 1000.0])
        >>> shown = gflow.explorer.contents(ds, data.X, data.y)
        >>> shown.weights.sizes["sample"], float(shown.weights.sum("sample").max().round(12))
        (3, 1.0)

        ```
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    _check(ds, X, y)
    beta = ds.beta_over_gamma.transpose(*GRID, "coordinate").values
    depths, mu = ds.depth.values, ds.mu.transpose(*GRID).values
    curve_mu = _curve(mu)
    notes: list[str] = []
    weights = _weights(ds, beta, X, y, loss, notes)
    at, curves = {}, {}
    with tqdm(total=2 * depths.size, unit=" paths", disable=None if progress else True) as bar:
        for name, solve in _paths(X, y).items():
            found = []
            for i, depth in enumerate(depths):
                found.append(_follow(solve, mu[i], curve_mu, int(depth), X.shape[1], notes))
                bar.update()
            at[name], curves[name] = (np.stack([one[k] for one in found]) for k in range(2))
    l2, l1 = ds.l2_beta.values, ds.l1_beta.values
    plane = Plane.through(l2, l1, np.concatenate([*curves.values()]).reshape(-1, l2.size))
    norm = np.linalg.norm(at["irreversible"], axis=-1)
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(beta - at["irreversible"], axis=-1) / norm
    axis, along = (*GRID, "axis"), ("depth", "curve_mu", "axis")
    variables: dict[str, Any] = {
        **{name: ds[name].transpose(*GRID) for name in _KEPT},
        "status": ds.status.transpose(*GRID[:2]),
        "distance_irreversible": (GRID, apart, {"long_name": "relative distance to the irreversible path"}),
        "log_time_loss": (GRID, _log_time_loss(ds), {"long_name": "log10 of t L"}),
        "weights": ((*GRID, "sample"), weights, {"long_name": "share of the gradient"}),
        "place": (axis, plane.of(beta), {"long_name": "beta / gamma in the plane"}),
        "off_plane": (GRID, plane.off(beta), {"long_name": "distance from the plane over the norm of beta / gamma"}),
        "plane_basis": (("axis", "coordinate"), plane.basis),
        "l2_place": ("axis", plane.of(l2)),
        "l1_place": ("axis", plane.of(l1)),
    }
    for name in at:
        variables[f"{name}_place"] = (axis, plane.of(at[name]))
        variables[f"{name}_curve"] = (along, plane.of(curves[name]))
    coords = {name: ds[name] for name in GRID} | {"curve_mu": curve_mu, "label": ("sample", y)}
    return xr.Dataset(variables, coords, ds.attrs | {"notes": "\n".join(notes)})


def _check(ds: xr.Dataset, X: np.ndarray, y: np.ndarray) -> None:
    missing = [name for name in _NEEDED if name not in ds]
    if missing:
        raise ValueError(f"ds must be a Dataset of gflow.studies.transition, but it has no {missing[0]!r}.")
    if X.ndim != 2 or y.shape != X.shape[:1] or X.shape[1] != ds.sizes["coordinate"]:
        raise ValueError(
            f"X and y must be the data that ds was computed with, d = {ds.sizes['coordinate']}, not of shapes "
            f"{X.shape} and {y.shape}."
        )
    l2 = limits.l2_max_margin(X, y).beta
    if not np.allclose(l2, ds.l2_beta.values, rtol=1e-6, atol=1e-9 * np.linalg.norm(l2)):
        raise ValueError("X and y must be the data that ds was computed with: their l2 max margin is another one.")


def _paths(X: np.ndarray, y: np.ndarray) -> dict[str, Callable[[np.ndarray, int], np.ndarray]]:
    return {
        "Q_mu": lambda mu, depth: limits.q_max_margin(X, y, mu=mu, depth=depth).beta,
        "irreversible": lambda mu, depth: limits.irreversible_path(X, y, mus=mu, depth=depth).beta,
    }


def _curve(mu: np.ndarray) -> np.ndarray:
    """Values of mu at which paths are drawn, from where they leave l2 to where they are near their ends."""
    low, high = np.clip([mu.min() / 10, mu.max() * 10], 1e-300, 1e300)
    return np.geomspace(min(low, 1e-6), max(high, 1e3), _CURVE)


def _follow(
    solve: Callable[[np.ndarray, int], np.ndarray], mu: np.ndarray, curve_mu: np.ndarray, depth: int, dim: int,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The path at the points of the grid and at those of the curve; NaN, with a note, where it cannot be followed."""
    # On grids of even steps most points share their mu with others, but for rounding.
    logs, where = np.unique(np.log(np.concatenate([mu.ravel(), curve_mu])).round(9), return_inverse=True)
    inside = np.abs(logs) < np.log(1e300)
    points = np.full((logs.size, dim), np.nan)
    try:
        points[inside] = solve(np.exp(logs[inside]), depth)
    except RuntimeError as error:
        notes.append(f"Depth {depth}: {error}")
    if not inside.all():
        notes.append(f"Depth {depth}: limits are computed for mu between 1e-300 and 1e300 only.")
    points = points[where]
    return points[: mu.size].reshape(*mu.shape, dim), points[mu.size :]


def _log_time_loss(ds: xr.Dataset) -> np.ndarray:
    """A difference of large numbers, and of nothing but rounding far out."""
    log_time = ds.log_time.transpose(*GRID).values / np.log(10.0)
    known = np.finfo(float).eps * np.abs(log_time) < _KNOWN
    return np.where(known, log_time - ds.decades.values, np.nan)


def _weights(
    ds: xr.Dataset, beta: np.ndarray, X: np.ndarray, y: np.ndarray, loss: AbstractLoss, notes: list[str]
) -> np.ndarray:
    """y_n d gamma / d f_n at the outputs f = X beta, divided by their sum.

    A flow carries its weights beside its margins, and the two agree to the rounding of the margins. That grows like
    gamma: at 1e12 it is all that a weight is made of.
    """
    gamma = to_nats(ds.decades.values)[:, None]
    outputs = gamma * (beta @ X.T)
    targets = jnp.asarray(y)
    read = jax.jit(jax.vmap(lambda f: (loss.neg_log(f, targets), loss.weights(f, targets))))
    stands, pulls = (np.asarray(values) for values in read(outputs.reshape(-1, len(y))))
    stands = stands.reshape(outputs.shape[:-1])
    off = np.abs(stands - gamma[:, 0]) - 1e-3 - 1e-6 * gamma[:, 0]
    if np.any(off > 0):
        raise ValueError(
            f"loss must be the one that ds was computed with: by {loss}, the flows do not have the losses of the grid."
        )
    weights = pulls.reshape(outputs.shape) * y
    weights = weights / weights.sum(-1, keepdims=True)
    rounding = 4.0 * np.finfo(float).eps * gamma * (np.abs(beta) @ np.abs(X).T)
    # Only of samples that have a share in the sum.
    unknown = (np.where(weights > 0, weights * rounding, 0.0).sum(-1, keepdims=True)) > _KNOWN
    if unknown.any():
        notes.append(
            "The weights of the samples are not shown where they are made of rounding: from a loss of about "
            f"10^-{ds.decades.values[unknown.any((0, 1, 3))].min():.3g} on."
        )
    return np.where(unknown, np.nan, weights)
