"""What `gflow.precise` returns."""

import math
from dataclasses import dataclass, field
from typing import Any

import mpmath
import numpy as np
import xarray as xr


@dataclass(frozen=True, eq=False)
class PreciseTrajectory:
    """States of a flow with the digits that are verified.

    Arrays hold mpmath numbers (dtype object), with a leading save axis; the first saves are there if a run was
    interrupted.

    - `neg_log_loss` (S,): gamma = -log L, in nats.
    - `dual` (S, N): z = integral of -dL/df dt. `beta` (S, d): the predictor.
    - `log_weights`, `weights` (S, N): W = log(-dL/df_n / L) and e^W (None for the square loss).
    - `residuals` (S, N): f(x_n) - y_n (square loss only, else None).
    - `log_time` (S,): log t of physical time, with `digits` digits behind the point.
    - `log_ratio` (S, 2, d): log(u_+ / alpha) and log(u_- / alpha).
    - `digits`: how many digits of everything saved are verified, the least entry of `verified`.
    - `verified`: digits per quantity, an array (S,) of floats each. For `dual`, `beta` and `residuals` they are
      significant digits of the worst entry (entries below 10^-digits of the largest count as parts of the largest);
      for `log_weights` significant digits, or digits behind the point below 1; for `weights` and `log_time` digits
      behind the point.
    - `success`, `status`: whether the stop was reached with the digits asked for, and a sentence.
    - `stats`: steps, rejections, Newton iterations, precision in bits of each solution, and seconds.

    !!! example

        ```python
        >>> from gflow import precise
        >>> run = precise.diagonal_flow([[1, 2], [2, -1]], [1, 1], depth=2, scale=1, stop=10, digits=15)
        >>> run.beta.shape, run.digits >= 15, run.success
        ((1, 2), True, True)

        ```
    """

    neg_log_loss: np.ndarray
    dual: np.ndarray
    beta: np.ndarray
    log_weights: np.ndarray | None
    weights: np.ndarray | None
    residuals: np.ndarray | None
    log_time: np.ndarray
    log_ratio: np.ndarray
    digits: int
    verified: dict[str, np.ndarray]
    success: bool
    status: str
    stats: dict[str, Any]
    depth: int
    scale: np.ndarray
    loss: str
    reduction: str
    requested: int = field(default=0)

    def to_xarray(self) -> xr.Dataset:
        """A Dataset with decimal strings; see `gflow.precise.bridges`."""
        from .bridges import to_xarray

        return to_xarray(self)

    def __str__(self) -> str:
        rows = [
            ("status", self.status),
            ("digits", f"{self.digits} verified, {self.requested} asked for"),
            ("saves", str(len(self.neg_log_loss))),
            ("-log L", span(self.neg_log_loss) + " nat"),
            ("log t", span(self.log_time) + " nat"),
            ("network", f"depth {self.depth}, {self.beta.shape[1]} inputs, {self.dual.shape[1]} samples"),
            ("steps", " and ".join(str(run["steps"]) for run in self.stats["runs"])),
            ("seconds", f"{self.stats['seconds']:.3g}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "PreciseTrajectory\n" + "\n".join(f"  {name.ljust(width)}  {text}" for name, text in rows)

    __repr__ = __str__


def span(values: np.ndarray) -> str:
    if len(values) == 0:
        return "none"
    first, last = (mpmath.nstr(v, 6) for v in (values[0], values[-1]))
    return first if len(values) == 1 else f"{first} ... {last}"


def whole_digits(verified: dict[str, np.ndarray]) -> int:
    """The least number of verified digits, rounded down."""
    least = min((float(v.min()) for v in verified.values() if v.size), default=0.0)
    return max(math.floor(least), 0)
