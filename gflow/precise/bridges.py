"""From and to the float64 rooms: models of JAX, and xarray Datasets."""

import math
from typing import Any, TYPE_CHECKING

import mpmath
import numpy as np
import xarray as xr
from mpmath import mp

from .result import PreciseTrajectory

if TYPE_CHECKING:
    from ..models import DiagonalNetwork


def from_model(model: "DiagonalNetwork") -> dict[str, Any]:
    """The `depth` and `scale` of an untrained `gflow.models.DiagonalNetwork`, as arguments of `diagonal_flow`.

    The scale is that of the model to 60 digits: e to the power of its `log_scale`, which is a float64.

    **Raises:** `ValueError` for other models, and for one that has been trained (the flow starts at beta = 0).

    !!! example

        ```python
        >>> import gflow
        >>> from gflow import precise
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=3, scale=0.5)
        >>> arguments = precise.from_model(model)
        >>> run = precise.diagonal_flow([[1, 2], [2, -1]], [1, 1], **arguments, stop=10, digits=20)
        >>> arguments["depth"], run.success
        (3, True)

        ```
    """
    depth, log_scale = getattr(model, "depth", None), getattr(model, "log_scale", None)
    if depth is None or log_scale is None or np.ndim(log_scale) != 1:
        raise ValueError(f"model must be one gflow.models.DiagonalNetwork, not {type(model).__name__}.")
    if np.any(np.asarray(model.log_ratio) != 0):
        raise ValueError("model must be untrained, since a precise flow starts at beta = 0; build a new one.")
    with mp.workdps(60):
        return {"depth": int(depth), "scale": [mpmath.exp(mpmath.mpf(float(v))) for v in np.asarray(log_scale)]}


def to_model(run: PreciseTrajectory, save: int = -1) -> "DiagonalNetwork":
    """A `gflow.models.DiagonalNetwork` with the parameters of one save, rounded to float64 in its chart.

    !!! example

        ```python
        >>> from gflow import precise
        >>> run = precise.diagonal_flow([[1, 2], [2, -1]], [1, 1], depth=2, scale=1, stop=10, digits=15)
        >>> bool(abs(precise.to_model(run).beta[0] - float(run.beta[-1, 0])) < 1e-12)
        True

        ```
    """
    import equinox as eqx
    import jax.numpy as jnp

    from ..models import DiagonalNetwork

    model = DiagonalNetwork(run.beta.shape[1], run.depth, 1.0)
    log_scale = jnp.asarray([float(mpmath.log(v)) for v in run.scale], float)
    log_ratio = jnp.asarray(run.log_ratio[save].astype(float), float)
    return eqx.tree_at(lambda m: (m.log_ratio, m.log_scale), model, (log_ratio, log_scale))


def to_xarray(run: PreciseTrajectory) -> xr.Dataset:
    """A Dataset over `save`: numbers as decimal strings, with the digits that are verified as attributes.

    `decades` (log10 of -log L) is a float64, to plot against.
    """
    kept = max(run.digits, 15)
    variables: dict[str, Any] = {}
    axes = {"dual": "sample", "beta": "coordinate", "log_weights": "sample", "residuals": "sample"}
    for name, axis in axes.items():
        values = getattr(run, name)
        if values is not None:
            variables[name] = (("save", axis), _strings(values, kept), _about(run, name))
    for name in ("neg_log_loss", "log_time"):
        # What is behind the point of log t counts, however large it is.
        values = getattr(run, name)
        text = [_string(v, kept + max(0, math.ceil(float(mpmath.log10(abs(v) + 1))))) for v in values]
        variables[name] = ("save", np.array(text, dtype=object), _about(run, name))
    heights = [float(mpmath.log10(v)) if v > 0 else -np.inf for v in run.neg_log_loss]
    variables["decades"] = ("save", np.array(heights, float), {"long_name": "log10 of -log L"})
    attributes = {
        "digits": run.digits, "digits_requested": run.requested, "depth": run.depth, "loss": run.loss,
        "reduction": run.reduction, "scale": [_string(v, kept) for v in run.scale], "status": run.status,
        "success": int(run.success),
    }  # fmt: skip
    return xr.Dataset(variables, attrs=attributes)


def _about(run: PreciseTrajectory, name: str) -> dict[str, Any]:
    verified = run.verified.get(name)
    return {"precision": int(verified.min()) if verified is not None and verified.size else run.digits}


def _string(value: Any, digits: int) -> str:
    with mp.workdps(digits + 5):
        return mpmath.nstr(value, digits)


def _strings(values: np.ndarray, digits: int) -> np.ndarray:
    flat = [_string(v, digits) for v in values.ravel()]
    return np.array(flat, dtype=object).reshape(values.shape)
