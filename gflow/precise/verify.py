"""How many digits are right: two solutions of different order, precision and steps.

The second solution starts its Newton iterations from the first one's polynomials. That saves most of its time and
none of its independence: it solves its own equations, at nodes of its own, on steps of its own.
"""

import math
from collections.abc import Sequence

from flint import arb

from .exact import log10


def relative_digits(first: Sequence[arb], second: Sequence[arb], limit: float, range_: float | None = None) -> float:
    """Digits that agree in the worst entry, each relative to its size.

    Entries below 10^-limit of the largest (or 10^-range_) count relative to that: what cancels exactly is not asked for
    digits.
    """
    sizes = [log10(v) for v in second]
    floor = max(sizes, default=-math.inf) - (limit if range_ is None else range_)
    if floor == -math.inf:
        return limit
    apart = (log10(a - b) - max(size, floor) for a, b, size in zip(first, second, sizes, strict=True))
    return min([limit, *(-v for v in apart)])


def mixed_digits(first: Sequence[arb], second: Sequence[arb], limit: float) -> float:
    """Digits that agree in the worst entry: behind the point below 1, significant above (for logarithms)."""
    apart = (log10(a - b) - max(log10(b), 0.0) for a, b in zip(first, second, strict=True))
    return min([limit, *(-v for v in apart)])


def point_digits(first: arb, second: arb, limit: float) -> float:
    """Digits behind the point that agree."""
    return min(limit, -log10(first - second))
