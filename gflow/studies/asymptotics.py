"""How slowly the flow approaches its limits, far beyond float64: excess l1 norm to gamma = 1e100, frozen multipliers.

For D = 2 and a fixed scale, beta / gamma tends to the l1 max margin. On generic data the coordinates off its support
fall like gamma^-(1 - rho_i), rho_i = |X^T lambda|_i < 1 with lambda the multipliers of the l1 problem, so the excess
falls with slope -(1 - rho_max). On a fixed data set the slope is negative (strictly complementary solutions of a linear
program exist), but not uniformly so: on `ladder` data, with rho_i = 1 - 2^-i, the excess falls like 1/log gamma until
log gamma is about 2^d, the worst case of the theory. For D > 2 the excess need not vanish: the limit is a stationary
point of the l_{2/D} problem that depends on the path. As the scale grows at fixed mu = alpha^D / gamma the flow follows
the irreversible path, on which the multiplier of a sample that has left the support is frozen.

Source: Moroshko et al. 2020 (arXiv 2007.06738), with the rates of `gflow.limits`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from flint import fmpq
from mpmath import mp, mpf

from .. import limits, precise
from ..precise.exact import rational


def ladder(inputs: int) -> list[list[str]]:
    """One sample (1, 1/2, 3/4, 7/8, ...): coordinates that are ever more nearly as good as the first.

    !!! example

        ```python
        >>> from gflow.studies import asymptotics
        >>> asymptotics.ladder(4)
        [['1', '1/2', '3/4', '7/8']]

        ```
    """
    return [["1", *(f"{2**k - 1}/{2**k}" for k in range(1, inputs))]]


def excess_decay(
    X: Any,
    y: Any,
    *,
    depths: Sequence[int] = (2, 3),
    scale: Any = 1,
    decades: Sequence[int] = tuple(range(0, 101, 4)),
    digits: int = 30,
    progress: bool = False,
) -> xr.Dataset:
    """Excess l1 norm of beta / gamma at gamma = 10^decades, by `gflow.precise.diagonal_flow`.

    **Arguments:**

    - `X`, `y`: separable data, shapes (N, d) and (N,).
    - `depths`: D >= 2. `scale`, `digits`, `progress`: as in `gflow.precise.diagonal_flow`.
    - `decades`: log10 gamma, increasing integers.

    **Returns:** a Dataset over (depth, decade): `excess` (float64), `slope` (its slope in log gamma between saves; NaN
    at the first), `beta` (decimal strings), `digits` verified per depth, and `predicted_slope`, -(1 - rho_max), with
    `rho` per coordinate, for D = 2.

    !!! example

        ```python
        >>> from gflow.studies import asymptotics
        >>> ds = asymptotics.excess_decay([[1, 2, "1/2"], ["1/4", -1, 2]], [1, 1], depths=[2], decades=[0, 50, 100])
        >>> abs(float(ds.slope[0, -1] - ds.predicted_slope)) < 0.01
        True

        ```
    """
    rows = [[rational(v, "X") for v in row] for row in X]
    l1 = limits.l1_max_margin(_floats(rows), np.asarray(y, float))
    save = [f"1e{k}" for k in decades]
    excess, strings, verified = [], [], []
    for depth in depths:
        run = precise.diagonal_flow(X, y, depth=depth, scale=scale, save=save, digits=digits, progress=progress)
        with mp.workdps(digits + 5):
            direction = run.beta / run.neg_log_loss[:, None]
            exact = _exact_norm(rows, y, l1)
            excess.append([float(sum(abs(b) for b in row) / exact - 1) for row in direction])
        strings.append(run.to_xarray().beta.values)
        verified.append(run.digits)
    excess = np.array(excess)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.diff(np.log10(np.maximum(excess, 0.0)), axis=1) / np.diff(np.asarray(decades, float))
    slope = np.concatenate([np.full((len(depths), 1), np.nan), slope], axis=1)
    dims = ("depth", "decade")
    return xr.Dataset(
        {
            "excess": (dims, excess, {"long_name": "excess l1 norm"}),
            "slope": (dims, slope, {"long_name": "d log excess / d log gamma"}),
            "beta": ((*dims, "coordinate"), np.array(strings, dtype=object), {"long_name": "beta, decimal strings"}),
            "digits": ("depth", verified, {"long_name": "verified digits"}),
            "rho": ("coordinate", l1.rho, {"long_name": "|X^T lambda|"}),
            "predicted_slope": ((), l1.rho_max - 1.0, {"long_name": "-(1 - rho_max), D = 2"}),
        },
        coords={"depth": list(depths), "decade": ("decade", list(decades), {"long_name": "log10 gamma"})},
        attrs={"scale": str(scale)},
    )


def _floats(rows: list[list[fmpq]]) -> np.ndarray:
    return np.array([[float(v.p) / float(v.q) for v in row] for row in rows])


def _exact_norm(rows: list[list[fmpq]], y: Any, l1: limits.L1MaxMargin) -> mpf:
    """The l1 norm of the max margin, by the equations of its active margins; float64 where they do not determine it."""
    active = np.flatnonzero(l1.multipliers > 1e-9 * np.max(l1.multipliers))
    columns = np.flatnonzero(l1.beta != 0)
    if len(active) != len(columns):
        return mpf(float(np.abs(l1.beta).sum()))
    signs = [rational(v, "y") for v in y]
    number = lambda v: mpf(int(v.p)) / int(v.q)
    matrix = mp.matrix([[number(rows[n][i] * signs[n]) for i in columns] for n in active])
    solution = mp.lu_solve(matrix, mp.matrix([1] * len(active)))
    return sum((abs(v) for v in solution), mpf(0))


def frozen_multipliers(
    X: Any, y: Any, *, scales: Sequence[Any], mu: Sequence[Any], depth: int = 2, digits: int = 30
) -> xr.Dataset:
    """Multipliers lambda = 4 z (D = 2) or D (D-2) alpha^(D-2) z along mu = alpha^D / gamma, for growing scales.

    Beside them, `limits.irreversible_path`, their limit for alpha -> infinity, on which the multiplier of a sample that
    has left the support is constant.

    **Arguments:** data as in `excess_decay`; `scales` (A,), exact numbers; `mu` (M,), exact and decreasing.

    **Returns:** a Dataset over (scale, mu, sample): `multipliers` as decimal strings and `multipliers_float`, `change`
    (relative to the save before), and over (mu, sample) `limit`.

    !!! example

        ```python
        >>> from gflow.studies import asymptotics
        >>> ds = asymptotics.frozen_multipliers([[1, 2], [2, -1]], [1, 1], scales=[100], mu=["1/10"], digits=15)
        >>> float(abs(ds.multipliers_float[0, 0] - ds.limit[0]).max()) < 1e-4
        True

        ```
    """
    mus = [rational(v, "mu") for v in mu]
    tables, texts, verified = [], [], []
    for alpha in scales:
        exact = rational(alpha, "scale")
        save = [exact**depth / m for m in mus]
        run = precise.diagonal_flow(X, y, depth=depth, scale=alpha, save=save, digits=digits)
        with mp.workdps(digits + 5):
            power = mpf(4) if depth == 2 else depth * (depth - 2) * run.scale[0] ** (depth - 2)
            tables.append(run.dual * power)
            texts.append([[mp.nstr(v * power, digits) for v in row] for row in run.dual])
        verified.append(run.digits)
    table = np.array(tables)
    change = np.abs(np.diff(table, axis=1)) / np.abs(table[:, 1:])
    floats = _floats([[rational(v, "X") for v in row] for row in X])
    mu_floats = np.array([float(m.p) / float(m.q) for m in mus])
    limit = limits.irreversible_path(floats, np.asarray(y, float), mus=mu_floats, depth=depth)
    dims = ("scale", "mu", "sample")
    return xr.Dataset(
        {
            "multipliers": (dims, np.array(texts, dtype=object)),
            "multipliers_float": (dims, table.astype(float)),
            "change": (("scale", "step", "sample"), change.astype(float), {"long_name": "relative change"}),
            "limit": (("mu", "sample"), np.asarray(limit.multipliers, float)),
            "digits": ("scale", verified),
        },
        coords={"scale": [str(v) for v in scales], "mu": mu_floats},
    )
