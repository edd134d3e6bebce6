"""The potentials of diagonal linear networks.

The flow of beta = u_+^D - u_-^D from u = alpha has beta = alpha^D h_D(w) with w in the row space of the data, for

    h_2(w) = 2 sinh w,    h_D(w) = (1 - w)^(-p) - (1 + w)^(-p),   p = D/(D - 2),  |w| < 1,

and h_D is the inverse derivative of the potential q_D that the flow minimises (Woodworth et al. 2020,
arXiv 2002.09277; Moroshko et al. 2020, arXiv 2007.06738):

    q_D' = h_D^(-1),   q_D*' = h_D,
    q_2(s) = 2 - sqrt(4 + s^2) + s asinh(s/2),   q_2*(w) = 2 (cosh w - 1),
    q_D*(w) = ((D-2)/2) [(1 - w)^(-2/(D-2)) + (1 + w)^(-2/(D-2)) - 2],   q_D(s) = s w - q_D*(w) at w = h_D^(-1)(s).

q_D is quadratic near 0 and grows like |s| far out (|s| log |s| for D = 2). For D > 2, w rounds to 1 where s is large:
1 - |w|, which holds the digits, is handed out and taken in as `complement`.
"""

from fractions import Fraction

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from .checks import check_depth


def h(w: ArrayLike, depth: int, *, complement: ArrayLike | None = None) -> Float[np.ndarray, "*S"]:
    """h_D(w), the derivative of the conjugate potential.

    **Arguments:**

    - `w`: any shape; between -1 and 1 for depth > 2.
    - `depth`: D >= 2.
    - `complement`: 1 - |w|, for w so close to -1 or 1 that the difference has lost its digits. Not used for depth 2.

    **Returns:** an array of the shape of `w`, infinite at the poles.

    **Raises:** ValueError if `depth` is no integer >= 2, or |w| > 1 with depth > 2.

    !!! example

        ```python
        >>> from gflow.limits.potentials import h
        >>> float(h(0.5, depth=4))  # 4 w / (1 - w^2)^2
        3.5555555555555554

        ```
    """
    depth = check_depth(depth)
    w = np.asarray(w, dtype=np.float64)
    if depth == 2:
        with np.errstate(over="ignore"):
            return 2 * np.sinh(w)
    c = _complement(w, complement)
    p = Fraction(depth, depth - 2)
    with np.errstate(divide="ignore", over="ignore"):
        outer = _power(c, -p) - _power(2 - c, -p)
    return np.where(np.abs(w) < 0.5, _h_inner(np.clip(w, -0.5, 0.5), float(p)), np.copysign(outer, w))


def h_inverse(s: ArrayLike, depth: int) -> Float[np.ndarray, "*S"]:
    """w = h_D^(-1)(s), the derivative of the potential.

    **Arguments:**

    - `s`: any shape, finite.
    - `depth`: D >= 2.

    **Returns:** an array of the shape of `s`.

    **Raises:** ValueError if `depth` is no integer >= 2.

    !!! example

        ```python
        >>> from gflow.limits.potentials import h_inverse
        >>> float(h_inverse(3.5555555555555554, depth=4))
        0.5

        ```
    """
    return h_inverse_pair(s, depth)[0]


def h_inverse_pair(s: ArrayLike, depth: int) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
    """w = h_D^(-1)(s) together with 1 - |w|, both to a few units in the last place (depth > 2).

    **Arguments:**

    - `s`: any shape, finite.
    - `depth`: D >= 2. There is no pole for depth 2, whose second array is the plain difference.

    **Returns:** w and 1 - |w|, two arrays of the shape of `s`.

    **Raises:** ValueError if `depth` is no integer >= 2.

    !!! example

        ```python
        >>> from gflow.limits.potentials import h_inverse_pair
        >>> w, rest = h_inverse_pair(1e60, depth=3)
        >>> float(w), float(rest)
        (1.0, 1e-20)

        ```
    """
    depth = check_depth(depth)
    s = np.asarray(s, dtype=np.float64)
    if depth == 2:
        w = np.arcsinh(s / 2)
        return w, 1 - np.abs(w)
    p, size = Fraction(depth, depth - 2), np.abs(s)
    near = size < _h_inner(np.array(0.5), float(p))
    # |w| <= 1/2: Newton's method from the right of the root of a convex function.
    inner = np.where(near, size, 0.0)
    w = np.minimum(inner / (2 * float(p)), 0.5)
    for _ in range(7):
        w = w - (_h_inner(w, float(p)) - inner) / _slope(w, float(p))
    # 1/2 < |w|: c^(-p) = s + (2 - c)^(-p) as a fixed point that contracts by (c / (2 - c))^(p + 1) < 1/9.
    outer = np.where(near, 1e2, size)
    c = _power(outer, -1 / p)
    for _ in range(16):
        c = _power(outer + _power(2 - c, -p), -1 / p)
    return np.copysign(np.where(near, w, 1 - c), s), np.where(near, 1 - w, c)


def q(s: ArrayLike, depth: int) -> Float[np.ndarray, "*S"]:
    """The potential q_D(s): beta minimises sum_i q_D(beta_i / mu) among the beta of margin 1.

    **Arguments:**

    - `s`: any shape, finite. Below about 1e-154 the result, of order s^2, underflows to 0.
    - `depth`: D >= 2.

    **Returns:** an array of the shape of `s`, >= 0.

    **Raises:** ValueError if `depth` is no integer >= 2.

    !!! example

        ```python
        >>> from gflow.limits.potentials import q
        >>> float(q(1e-3, depth=2))  # s^2 / 4 - ...
        2.49999994791667e-07

        ```
    """
    s = np.asarray(s, dtype=np.float64)
    w, c = h_inverse_pair(s, depth)
    # s w is at least twice q*: the difference loses one digit at most.
    return s * w - q_conjugate(w, depth, complement=c)


def q_conjugate(w: ArrayLike, depth: int, *, complement: ArrayLike | None = None) -> Float[np.ndarray, "*S"]:
    """The conjugate potential q_D*(w) = max_s s w - q_D(s).

    **Arguments:**

    - `w`: any shape; between -1 and 1 for depth > 2.
    - `depth`: D >= 2.
    - `complement`: 1 - |w|, for w so close to -1 or 1 that the difference has lost its digits. Not used for depth 2.

    **Returns:** an array of the shape of `w`, >= 0, infinite at the poles.

    **Raises:** ValueError if `depth` is no integer >= 2, or |w| > 1 with depth > 2.

    !!! example

        ```python
        >>> from gflow.limits.potentials import q_conjugate
        >>> float(q_conjugate(0.5, depth=4))  # 2 w^2 / (1 - w^2)
        0.6666666666666665

        ```
    """
    depth = check_depth(depth)
    w = np.asarray(w, dtype=np.float64)
    if depth == 2:
        with np.errstate(over="ignore"):
            return 4 * np.sinh(w / 2) ** 2
    c = _complement(w, complement)
    r = Fraction(2, depth - 2)
    with np.errstate(divide="ignore", over="ignore"):
        # (1 - w)^(-r) + (1 + w)^(-r) - 2 = 2 (e^a cosh b - 1), of which every term is positive.
        a = -float(r) / 2 * (np.log(c) + np.log(2 - c))
        a = np.where(np.abs(w) < 0.5, -float(r) / 2 * np.log1p(-np.minimum(w * w, 0.25)), a)
        b = float(r) * np.where(np.abs(w) < 0.5, np.arctanh(np.clip(w, -0.5, 0.5)), (np.log(2 - c) - np.log(c)) / 2)
        mild = np.minimum(a + np.abs(b), 2.0) == a + np.abs(b)
        a, b = np.where(mild, a, 0.0), np.where(mild, b, 0.0)
        inner = 2 * (np.expm1(a) * np.cosh(b) + 2 * np.sinh(b / 2) ** 2)
        outer = _power(c, -r) + _power(2 - c, -r) - 2
    return np.where(mild, inner, outer) / float(r)


def _h_inner(w: np.ndarray, p: float) -> np.ndarray:
    return 2 * (1 - w * w) ** (-p / 2) * np.sinh(p * np.arctanh(w))


def _slope(w: np.ndarray, p: float) -> np.ndarray:
    return p * ((1 - w) ** (-p - 1) + (1 + w) ** (-p - 1))


def _power(base: np.ndarray, exponent: Fraction) -> np.ndarray:
    """base^exponent. Rounding the exponent alone would cost a factor log(base) in the relative error."""
    rounded = float(exponent)
    rest = float(exponent - Fraction(rounded))
    value = np.power(base, rounded)
    return value if rest == 0 else value * (1 + rest * np.log(np.where(base > 0, base, 1.0)))


def _complement(w: np.ndarray, complement: ArrayLike | None) -> np.ndarray:
    if np.any(np.abs(w) > 1):
        raise ValueError(
            f"w must lie between -1 and 1 for depth > 2, but it holds {w[np.abs(w) > 1].flat[0]:g}; h has poles at "
            "-1 and 1."
        )
    return 1 - np.abs(w) if complement is None else np.asarray(complement, dtype=np.float64)
