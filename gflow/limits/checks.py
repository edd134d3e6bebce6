"""What the functions of this folder ask of their arguments, one sentence for each refusal."""

import numbers

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def check_data(X: ArrayLike, y: ArrayLike) -> Float[np.ndarray, "N d"]:
    """The rows y_n x_n: every statement of this folder is about data with the labels absorbed."""
    X, y = _floats("X", X), _floats("y", y)
    if X.ndim != 2 or y.ndim != 1 or X.shape[0] != y.shape[0]:
        raise ValueError(f"X must have shape (N, d) and y shape (N,) with the same N, not {X.shape} and {y.shape}.")
    if X.size == 0:
        raise ValueError(f"X must hold at least one sample and one feature, not shape {X.shape}.")
    if not np.all(np.isfinite(X)):
        raise ValueError("X must be finite, but it holds NaN or infinite values; remove or impute them.")
    wrong = y[~np.isin(y, (-1.0, 1.0))]
    if wrong.size:
        raise ValueError(f"y must hold labels -1 and +1, but it holds {wrong[0]:g}; map your classes to -1 and +1.")
    return y[:, None] * X


def check_mu(name: str, mu: ArrayLike) -> Float[np.ndarray, "*S"]:
    mu = _floats(name, mu)
    if mu.ndim > 1:
        raise ValueError(f"{name} must be a number or an array of shape (S,), not of shape {mu.shape}.")
    if mu.size == 0:
        raise ValueError(f"{name} must not be empty; pass at least one scale mu > 0.")
    wrong = mu[~((mu >= 1e-300) & (mu <= 1e300))]
    if wrong.size:
        raise ValueError(
            f"{name} must be positive, between 1e-300 and 1e300, but it holds {wrong.flat[0]:g}; "
            "mu = 0 is l1_max_margin and mu = inf is l2_max_margin."
        )
    return mu


def check_depth(depth: object) -> int:
    if isinstance(depth, bool | np.bool_) or not isinstance(depth, numbers.Integral) or depth < 2:
        raise ValueError(f"depth must be an integer >= 2, not {depth!r}; a linear model (depth 1) has no such path.")
    return int(depth)


def _floats(name: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of real numbers, not {type(values).__name__}.") from None
