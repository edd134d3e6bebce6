"""Closed forms of the flow of a matrix factorization W = W_N ... W_1 with the loss ||W - T||^2 / 2, T symmetric.

From W_j = alpha I the factors keep the eigenvectors of T and are equal, and each eigenvalue d of a factor obeys

    d' = d^(N-1) (lambda - d^N),   p = d^N,

with lambda the eigenvalue of T. From eigenvalues a of W_1 and d of the other factors,

    a' = d^(N-1) (lambda - a d^(N-1)),   d' = a d^(N-2) (lambda - a d^(N-1)),   d^2 - a^2 constant.

Source: Chou, Gieshoff, Maly & Rauhut 2020 (arXiv 2011.13772); the integrals by partial fractions. Computed by mpmath,
to float64 or to any number of digits.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mpmath import mpf

from ..validate import real, real_array, traced, whole
from . import eigenvalue
from .eigenvalue import GUARD, mp


def scalar_flow(time: Any, target: Any, depth: int, scale: Any, *, digits: int | None = None) -> Any:
    """d(t), from d(0) = alpha: an eigenvalue of each factor, d^depth that of the product.

    **Arguments:** numbers or arrays that broadcast together (mpmath numbers and decimal strings are taken exactly):

    - `time`: t >= 0.
    - `target`: the eigenvalue lambda of T, of any sign.
    - `depth`: N >= 1.
    - `scale`: alpha > 0.
    - `digits`: return mpmath numbers of so many significant digits; float64 by default.

    **Returns:** an array of the broadcast shape, or a number.

    **Raises:** `ValueError` for bad input.

    N = 1 and N = 2, and lambda = 0, are elementary; else t(d) is (see `scalar_time`), and is inverted.

    !!! example

        ```python
        >>> import gflow
        >>> float(gflow.limits.factorization.scalar_flow(9.0, 1.0, 3, 0.1))
        0.747171189854052...

        ```
    """
    whole("depth", depth)
    return _each(lambda t, y, a: eigenvalue.flow(t, y, depth, a), digits, time=time, target=target, scale=scale)


def scalar_time(value: Any, target: Any, depth: int, scale: Any, *, digits: int | None = None) -> Any:
    """The time t at which d(t) = `value`, infinite where that is the limit and nan where d does not pass it.

    For N >= 3 and lambda != 0

        t(d) = ((alpha^(2-N) - d^(2-N)) / (N-2) + Phi(d) - Phi(alpha)) / lambda,
        Phi(x) = x^2 / (2 lambda) 2F1(1, 2/N; 1 + 2/N; x^N / lambda).

    Arguments as in `scalar_flow`.

    !!! example

        ```python
        >>> import gflow
        >>> float(gflow.limits.factorization.scalar_time(0.747171189854052, 1.0, 3, 0.1))
        9.00000000000...

        ```
    """
    whole("depth", depth)
    return _each(lambda d, y, a: eigenvalue.time(d, y, depth, a), digits, value=value, target=target, scale=scale)


def learning_time(
    target: Any, depth: int, scale: Any, *, fraction: float = 0.99, digits: int | None = None
) -> Any:
    """The time at which p = d^N reaches `fraction` of an eigenvalue lambda > 0 of T.

    About log(1 / alpha^2) / (2 lambda) for N = 2, and alpha^(2-N) / ((N-2) lambda) for N >= 3: the deeper, the farther
    apart are the times of different eigenvalues. Arguments as in `scalar_flow`. Zero where p starts above.

    !!! example

        ```python
        >>> import gflow
        >>> gflow.limits.factorization.learning_time([10.0, 5.0, 1.0], 3, 0.1).round(6).tolist()
        [1.036043, 2.090748, 10.77259]

        ```
    """
    whole("depth", depth)
    _share("fraction", fraction)

    def one(y, a):
        if y <= 0:
            raise ValueError(f"target must be positive to be learned, not {mp.nstr(y, 6)}.")
        if a <= 0:
            raise ValueError(f"scale must be positive, not {mp.nstr(a)}.")
        d = (mpf(str(fraction)) * y) ** (mpf(1) / depth)
        return mpf(0) if a >= d else eigenvalue.time(d, y, depth, a)

    return _each(one, digits, target=target, scale=scale)


def perturbed_flow(
    time: Any, target: Any, depth: int, first: Any, others: Any, *, digits: int | None = None
) -> Any:
    """p(t) = a d^(N-1) from a(0) = `first` for one factor and d(0) = `others` for the rest, which need not be equal.

    For N = 2 with D = |d^2 - a^2| > 0, p = (D/2) sinh(theta) and theta' = 2 lambda - D sinh(theta): E = e^theta has
    (E - E_+) / (E - E_-) proportional to e^(-sqrt(4 lambda^2 + D^2) t), with E_+- = (2 lambda +- sqrt(4 lambda^2 +
    D^2)) / D. With it negative eigenvalues are reached. For N >= 3 the time is an integral over the smaller of |a| and
    |d|, by quadrature; a product below 1e-400 counts as zero.

    **Arguments:** as in `scalar_flow`; `first` and `others` are any real numbers.

    **Returns:** p(t).

    !!! example

        ```python
        >>> import gflow
        >>> float(gflow.limits.factorization.perturbed_flow(6.0, -1.0, 2, 0.05, 0.1))
        -0.990325553266...

        ```
    """
    whole("depth", depth)
    if depth == 1:
        raise ValueError("depth must be at least 2, or there is no other factor; use scalar_flow.")
    one = eigenvalue.imbalanced if depth == 2 else lambda t, y, a, d: eigenvalue.perturbed(t, y, depth, a, d)
    return _each(one, digits, time=time, target=target, first=first, others=others)


class RankInterval(NamedTuple):
    """While `start` <= t <= `end`, `lower` <= r(W(t)) <= `upper`, around the effective rank `plateau` of T_L."""

    start: float
    end: float
    lower: float
    upper: float
    plateau: float


def rank_interval(
    eigenvalues: Any, rank: int, depth: int, scale: float, *, size: int | None = None, miss: float = 0.01,
    leak: float = 0.01,
) -> RankInterval:  # fmt: skip
    """When the effective rank r(W) = ||W||_* / ||W||_2 of the flow from alpha I rests at that of T_L, the best
    approximation of T of rank L.

    While p_i >= (1 - miss) lambda_i for i <= L and p_i <= leak for i > L,

        (1 - miss) r(T_L) <= r(W) <= (r(T_L) + (n - L) leak / lambda_1) / (1 - miss),

    from the time when lambda_L is learned until lambda_(L+1) leaks in.

    **Arguments:**

    - `eigenvalues`: of T, decreasing and not negative; the rest of the n = `size` are zero.
    - `rank`: L >= 1, with lambda_L > 0.
    - `depth`, `scale`: N and alpha, with alpha^N <= leak and alpha^N <= lambda_L.
    - `miss`, `leak`: see above; `leak` in the units of lambda.

    **Returns:** a `RankInterval`; `end` is infinite where T has no further eigenvalues, and below `start` where the
    eigenvalues are learned too close together for a plateau.

    **Raises:** `ValueError` for bad input.

    Source: the theorem on time intervals of Chou et al. 2020 (arXiv 2011.13772), with the exact learning times.

    !!! example

        ```python
        >>> import gflow
        >>> gap = gflow.limits.factorization.rank_interval([10.0, 5.0, 1.0], 2, depth=3, scale=0.01)
        >>> round(gap.start, 3), round(gap.end, 3), gap.plateau
        (20.091, 95.382, 1.5)

        ```
    """
    whole("depth", depth)
    _share("miss", miss)
    values = np.asarray(real_array("eigenvalues", eigenvalues))
    for name, value in (("leak", leak), ("scale", scale)):
        if not real(value) or np.ndim(value) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, not {value!r}.")
    n = values.size if size is None else whole("size", size)
    if values.ndim != 1 or np.any(np.diff(values) > 0) or np.any(values < 0) or n < values.size:
        raise ValueError(f"eigenvalues must decrease, not be negative and not exceed size, not {eigenvalues!r}.")
    if not whole("rank", rank) <= values.size or values[rank - 1] <= 0:
        raise ValueError(f"rank must be from 1 to the number of positive eigenvalues, not {rank!r}.")
    if leak >= values[0]:
        raise ValueError(f"leak must be below the largest eigenvalue, {values[0]:g}, not {leak!r}.")
    if not scale**depth <= min(leak, values[rank - 1]):
        raise ValueError(f"scale must be such that scale^depth is below leak = {leak:g} and lambda_L, not {scale!r}.")
    following = values[rank] if rank < values.size else 0.0
    # An eigenvalue below leak never leaks.
    end = math.inf if following <= leak else float(scalar_time(leak ** (1 / depth), following, depth, scale))
    plateau = float(values[:rank].sum() / values[0])
    return RankInterval(
        start=float(learning_time(values[rank - 1], depth, scale, fraction=1 - miss)),
        end=end,
        lower=(1 - miss) * plateau,
        upper=(plateau + (n - rank) * leak / values[0]) / (1 - miss),
        plateau=plateau,
    )


def step_bound(target: float, depth: int, scale: float, gap: float | None = None) -> float:
    """A step size up to which descent of an eigenvalue converges.

    From equal factors alpha, d - eta d^(N-1) (d^N - lambda) converges monotonically below
    1 / ((3N - 2) M^(2N-2)), M = max(alpha, |lambda|^(1/N)): the derivative of the gradient is smaller than its inverse
    there, and the iteration an increasing map. From `perturbed` factors the bound is 1 / (9N (c M)^(2N-2)) with
    c = 1 + beta / alpha: of the published form, and checked by descents, not proven here.

    **Arguments:** `target` the eigenvalue lambda of T, `depth` N, `scale` alpha > 0, and `gap` beta in (0, alpha), of
    perturbed factors.

    **Raises:** `ValueError` for bad input.

    Source: Chou et al. 2020 (arXiv 2011.13772).

    !!! example

        ```python
        >>> import gflow
        >>> gflow.limits.factorization.step_bound(1.0, 3, 0.1)
        0.142857...

        ```
    """
    whole("depth", depth)
    target, scale = float(_number("target", target)), float(_number("scale", scale))
    if not (math.isfinite(target) and 0 < scale < math.inf):
        raise ValueError(f"target must be finite and scale a positive number, not {target!r} and {scale!r}.")
    size = max(scale, abs(target) ** (1 / depth))
    if gap is None:
        return 1.0 / ((3 * depth - 2) * size ** (2 * depth - 2))
    if not real(gap) or np.ndim(gap) or not 0 < gap < scale:
        raise ValueError(f"gap must be between 0 and scale, {scale:g}, not {gap!r}.")
    return 1.0 / (9 * depth * ((1 + float(gap) / scale) * size) ** (2 * depth - 2))


def _each(formula: Callable, digits: int | None, **named: Any) -> Any:
    """`formula` on every element of arrays that broadcast together, at a precision of `digits` and some."""
    if digits is not None:
        whole("digits", digits)
    if name := next((name for name, value in named.items() if traced(value)), None):
        raise ValueError(f"{name} must be known, not traced: mpmath computes closed forms outside of jit and vmap.")
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=object) for value in named.values()))
    with mp.workdps((16 if digits is None else digits) + GUARD):
        out = np.empty(arrays[0].shape, dtype=object)
        for index in np.ndindex(out.shape):
            numbers = [_number(name, array[index]) for name, array in zip(named, arrays, strict=True)]
            out[index] = formula(*numbers)
    if digits is None:
        out = out.astype(float)
    return out if out.ndim else out[()]


def _share(name: str, value: Any) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), not {value!r}.")


def _number(name: str, value: Any) -> Any:
    try:
        number = mpf(value.item() if isinstance(value, np.generic) or hasattr(value, "item") else value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold numbers, not {value!r}.") from None
    if not mp.isfinite(number):
        raise ValueError(f"{name} must be finite, not {value!r}.")
    return number
