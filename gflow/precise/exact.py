"""Exact numbers in, mpmath numbers out.

Inputs are rational numbers (a float is the binary fraction that it stores) or multiples of log 10, so that they can be
rounded to any working precision. `arb` is python-flint's real number; its balls are used as plain floating point
here: digits are established by comparing solutions (`gflow.precise.verify`).
"""

import contextlib
import math
import numbers
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from flint import arb, ctx, fmpq, fmpz

LOG2_10 = math.log2(10.0)


@contextlib.contextmanager
def working_precision(bits: int) -> Iterator[None]:
    """Set python-flint's precision inside a block; it is changed freely there and restored in any case."""
    old = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = old


class Decades:
    """k log 10, exactly: -log L of the loss 10^-k. Made by `decades`."""

    def __init__(self, count: fmpq):
        self.count = count

    def __repr__(self) -> str:
        return f"decades({self.count})"


def decades(count: Any) -> Decades:
    """-log L of the loss 10^-count, to whatever precision a run needs.

    **Arguments:**

    - `count`: an int, str, Fraction, mpf or float, taken exactly.

    **Returns:** a number for `stop` and `save`.

    !!! example

        ```python
        >>> from gflow import precise
        >>> precise.decades("1e50")
        decades(100000000000000000000000000000000000000000000000000)

        ```
    """
    return Decades(rational(count, "count"))


def rational(value: Any, name: str) -> fmpq:
    """The exact value of an int, str, Fraction, mpf, fmpq or float (NumPy scalars too)."""
    if isinstance(value, fmpq):
        return value
    if isinstance(value, fmpz):
        return fmpq(value)
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str):
            value = Fraction(value.strip().replace(" ", ""))
        if isinstance(value, mpmath.mpf):
            if not mpmath.isfinite(value):
                raise ValueError
            sign, mantissa, exponent, _ = value._mpf_
            mantissa = fmpz(int(mantissa)) * (-1 if sign else 1)
            power = fmpz(2) ** abs(int(exponent))
            return fmpq(mantissa * power) if exponent >= 0 else fmpq(mantissa, power)
        if isinstance(value, numbers.Integral):
            return fmpq(int(value))
        if isinstance(value, numbers.Rational):
            return fmpq(int(value.numerator), int(value.denominator))
        if isinstance(value, numbers.Real):
            return fmpq(*float(value).as_integer_ratio())
        if getattr(value, "ndim", None) == 0:
            return rational(value.item(), name)
    except (ValueError, OverflowError, ZeroDivisionError):
        pass
    raise ValueError(
        f"{name} must hold finite numbers, each an int, float, Fraction, mpf or a text such as '1/8' or '1e100', "
        f"not {value!r}."
    )


def point(value: Any, name: str) -> Any:
    """A rational number, or a multiple of log 10."""
    return value if isinstance(value, Decades) else rational(value, name)


def evaluate(value: Any) -> arb:
    """An input at the current working precision."""
    if isinstance(value, Decades):
        return (arb(value.count) * arb.const_log10()).mid()
    return arb(value).mid()


def exact_sum(a: arb, b: arb) -> arb:
    """a + b without rounding, for times that are long beside the steps at their end."""
    with working_precision(1 << 24):
        return (a + b).mid()


def rounding() -> float:
    """-log of the largest weight beside 1 that counts as nothing at the working precision."""
    return 0.6932 * (ctx.prec + 20)


def log10(value: arb) -> float:
    """log10 |value| as a float, whatever the size of the value; -inf for 0, inf for what is not finite."""
    if not value.is_finite():
        return math.inf
    mantissa, exponent = value.mid().man_exp()
    if mantissa == 0:
        return -math.inf
    size = int(mantissa).bit_length()
    return (math.log2(abs(int(mantissa)) >> max(size - 60, 0)) + max(size - 60, 0) + int(exponent)) / LOG2_10


def logs(values: list[arb]) -> np.ndarray:
    """log |value| in float64, whatever the sizes; -inf for 0."""
    floats = np.abs([float(v) for v in values])
    with np.errstate(divide="ignore"):
        found = np.log(floats)
    for k in np.flatnonzero((floats < 1e-300) | (floats > 1e300)):
        found[k] = log10(values[k]) * math.log(10.0)
    return found


def to_mpf(value: arb, digits: int) -> mpmath.mpf:
    """The middle of a ball, rounded to `digits` significant digits (as an mpmath number, that is in binary)."""
    mantissa, exponent = value.mid().man_exp()
    with mpmath.workdps(digits):
        return +mpmath.mpf((int(mantissa), int(exponent)))


def from_mpf(value: mpmath.mpf) -> arb:
    sign, mantissa, exponent, _ = value._mpf_
    return arb((-int(mantissa) if sign else int(mantissa), int(exponent)))
