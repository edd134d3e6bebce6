"""Gradients and Hessians of a function of mpmath numbers, by complex steps.

For an analytic f that is real on the reals, d f/d x_k = Im f(x + i h e_k) / h up to h^2, without any cancellation, so a
tiny h gives the derivative to rounding (Squire & Trapp 1998, doi 10.1137/S003614459631241X). It sees through every
function that mpmath evaluates at complex numbers, and takes P evaluations for P parameters. A function that is not
analytic (absolute values, comparisons) would give wrong derivatives: `check` compares with differences.
"""

from collections.abc import Callable
from typing import Any

import mpmath
from mpmath import mp, mpf


def gradient(f: Callable, x: list[mpf], scales: list[mpf]) -> list[mpf]:
    """All d f/d x_k, at the working precision of mpmath."""
    small = mpf(10) ** -(mp.dps // 2 + 10)
    out = []
    for k, scale in enumerate(scales):
        h = scale * small
        moved = [v + mpmath.j * h if i == k else v for i, v in enumerate(x)]
        out.append(mpmath.im(f(moved)) / h)
    return out


def hessian(f: Callable, x: list[mpf], scales: list[mpf]) -> list[list[mpf]]:
    """Second derivatives to some 15 digits, by differences of complex steps."""
    with mp.workdps(60):
        step = mpf(10) ** -18
        columns = []
        for k, scale in enumerate(scales):
            sides = []
            for sign in (1, -1):
                moved = [v + sign * step * scale if i == k else v for i, v in enumerate(x)]
                sides.append(gradient(f, moved, scales))
            columns.append([(a - b) / (2 * step * scale) for a, b in zip(*sides, strict=True)])
        return [list(row) for row in zip(*columns, strict=True)]


def check(f: Callable, x: list[mpf], scales: list[mpf]) -> None:
    """Raise a sentence unless f is a real number at x, and analytic there."""
    try:
        value: Any = mpmath.mpmathify(f(x))
        with mp.workdps(60):
            exact = gradient(f, x, scales)
            step = mpf(10) ** -18
            for k, scale in enumerate(scales):
                near = [f([v + s * step * scale if i == k else v for i, v in enumerate(x)]) for s in (1, -1)]
                rough = (near[0] - near[1]) / (2 * step * scale)
                size = max(abs(exact[k]) * scale, abs(rough) * scale, abs(value) * mpf("1e-20"))
                if abs(rough - exact[k]) * scale > mpf("1e-9") * size:
                    raise ValueError(
                        f"loss must be analytic, but its derivative in theta[{k}] is {mpmath.nstr(rough, 5)} by "
                        f"differences and {mpmath.nstr(exact[k], 5)} by complex steps; avoid abs, max and comparisons."
                    )
    except (TypeError, NotImplementedError, IndexError) as error:
        raise ValueError(
            f"loss must be a function of a list of mpmath numbers, but calling it on {len(x)} of them failed: {error}"
        ) from error
    if isinstance(value, mpmath.mpc) or not mpmath.isfinite(value):
        raise ValueError(f"loss must return a finite real number at theta0, not {mpmath.nstr(value, 6)}.")
