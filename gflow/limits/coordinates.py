"""A coordinate of the potentials that has no pole and no overflow.

    depth 2:     y = w,            s = 2 sinh y
    depth > 2:   y = artanh w,     s = h_D(w) = 2 cosh(y)^p sinh(p y),   p = D/(D - 2)

y is proportional to s near 0 and to log s far out. Everything is a logarithm, because s reaches 1e300 and h' more. The
complement is c = 1 - |w|, which holds the digits of w near the poles of depth > 2.
"""

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, " k"]


def from_w(w: Vector, c: Vector, depth: int) -> Vector:
    if depth == 2:
        return w
    near = np.abs(w) < 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(near, np.arctanh(np.where(near, w, 0.0)), np.sign(w) * (np.log(2 - c) - np.log(c)) / 2)


def to_w(y: Vector, depth: int) -> tuple[Vector, Vector]:
    """w and c."""
    if depth == 2:
        return y, 1 - np.abs(y)
    e = np.exp(-2 * np.abs(y))
    return np.tanh(y), 2 * e / (1 + e)


def log_s(y: Vector, depth: int) -> Vector:
    """log |s|, -inf at 0."""
    if depth == 2:
        return np.log(2) + _log_sinh(y)
    p = depth / (depth - 2)
    return np.log(2) + p * _log_cosh(y) + _log_sinh(p * y)


def log_slope(y: Vector, depth: int) -> Vector:
    """log of ds/dw = h'."""
    if depth == 2:
        return np.log(2) + _log_cosh(y)
    p = depth / (depth - 2)
    return np.log(2 * p) + (p + 1) * _log_cosh(y) + _log_cosh((p + 1) * y)


def bend(y: Vector, depth: int) -> Vector:
    """d log h' / dy. Divided by dw/dy it is h''/h'."""
    if depth == 2:
        return np.tanh(y)
    p = depth / (depth - 2)
    return (p + 1) * (np.tanh(y) + np.tanh((p + 1) * y))


def log_stretch(y: Vector, depth: int) -> Vector:
    """log of dy/dw."""
    return np.zeros_like(y) if depth == 2 else 2 * _log_cosh(y)


def _log_cosh(y: Vector) -> Vector:
    y = np.abs(y)
    return y + np.log1p(np.exp(-2 * y)) - np.log(2)


def _log_sinh(y: Vector) -> Vector:
    y = np.abs(y)
    with np.errstate(divide="ignore"):
        return y + np.log(-np.expm1(-2 * y)) - np.log(2)
