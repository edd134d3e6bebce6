"""Flows of an eigenvalue of the factors in closed form, in mpmath at working precision: see `factorization`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
from mpmath import mpf

# Its functions are made at import, where type checkers do not see them.
mp: Any = mpmath.mp
# Digits carried beyond those asked for.
GUARD = 15


def flow(t: Any, y: Any, N: int, a: Any) -> Any:
    if t < 0 or a <= 0:
        raise ValueError(f"time must not be negative and scale must be positive, not {mp.nstr(t)} and {mp.nstr(a)}.")
    if t == 0:
        return a
    if N == 1:
        return y + (a - y) * mp.exp(-t)
    if y == 0:
        return (a ** (2 - 2 * N) + (2 * N - 2) * t) ** (-mpf(1) / (2 * N - 2))
    if N == 2:
        return 1 / mp.sqrt(mp.exp(-2 * y * t) / a**2 - mp.expm1(-2 * y * t) / y)
    # d - limit falls like e^(-N limit^(2N-2) t), so that as many digits again may cancel; and where the limit is far
    # from alpha, the smaller of the two is to keep its digits beside the larger one.
    most, small = mp.ln(10) * (mp.dps + 2), +mp.eps
    apart = (N + 1) * _apart(y, N, a)
    with mp.extradps(mp.dps + GUARD + apart):
        if y == a**N:
            return a
        limit = y ** (mpf(1) / N) if y > 0 else mpf(0)
        if abs(a - limit) <= small**2 * a:
            # alpha is the limit, but for its rounding to float64 or less.
            return a
        step = t * a ** (N - 2) * (y - a**N)
        if abs(step) * N <= small:
            # So near to alpha its time has no digits, but goes with the distance.
            return a * (1 + step)
        # From alpha at x = -oo to the limit at x = oo.
        d = lambda x: limit + (a - limit) / (1 + mp.exp(x))
        slope = lambda x: -(a - limit) / (4 * mp.cosh(x / 2) ** 2) / (d(x) ** (N - 1) * (y - d(x) ** N))
        miss = lambda x: _passed(d(x), y, N, a) - t
        far = most + mp.ln(10) * apart
        if y > 0 and miss(far) <= 0:
            # Closer to the limit than digits tell.
            return limit
        lo, hi = mpf(-1), mpf(1)
        while miss(lo) > 0:
            lo *= 2
        while miss(hi) < 0:
            hi *= 2
        return d(_root(miss, slope, lo, hi, small))


def _root(f: Callable, slope: Callable, lo: Any, hi: Any, small: Any) -> Any:
    """The root, to within `small`, of an increasing function in [lo, hi]: Newton's method, and bisection where it
    leaves the bracket."""
    x = (lo + hi) / 2
    for _ in range(20 * mp.dps):
        value = f(x)
        lo, hi = (x, hi) if value < 0 else (lo, x)
        step = value / slope(x)
        ahead = x - step
        if abs(step) <= small or hi - lo <= 4 * mp.eps * abs(x):
            return ahead
        x = ahead if lo < ahead < hi else (lo + hi) / 2
    raise ArithmeticError("The time could not be inverted to the digits asked for.")


def _apart(y: Any, N: int, a: Any) -> int:
    """By how many powers of ten alpha and |lambda|^(1/N) differ."""
    return int(abs(mp.log10(abs(y)) / N - mp.log10(a))) + 1 if y else 0


def time(d: Any, y: Any, N: int, a: Any) -> Any:
    """t(d), with as many digits more as cancel in it."""
    if a <= 0:
        raise ValueError(f"scale must be positive, not {mp.nstr(a)}.")
    if d == a:
        return mpf(0)
    if d <= 0:
        return _passed(d, y, N, a)
    near = max(0, int(-mp.log10(abs(d - a) / a)))
    with mp.extradps((N + 1) * (_apart(y, N, a) + _apart(y, N, d)) + 2 * near):
        return _passed(d, y, N, a)


def _passed(d: Any, y: Any, N: int, a: Any) -> Any:
    if d == a:
        return mpf(0)
    # The share of the way to the limit that is left: nan for what d does not pass.
    left = (y - d**N) / (y - a**N) if y != a**N else mpf(-1)
    if not 0 <= left < 1 or (N > 1 and d <= 0):
        return mp.nan
    if left == 0:
        return mp.inf
    if N == 1:
        return -mp.log(left)
    if y == 0:
        return (d ** (2 - 2 * N) - a ** (2 - 2 * N)) / (2 * N - 2)
    if N == 2:
        return mp.log(d**2 / a**2 / left) / (2 * y)
    # The hypergeometric function by partial fractions over the roots u of u^N = lambda: twenty times as fast.
    roots = [mp.root(mp.mpc(y), N, k) for k in range(N)]
    phi = lambda x: -mp.fsum(mp.re(u**2 * mp.log(1 - x / u)) for u in roots) / (N * y)
    return ((a ** (2 - N) - d ** (2 - N)) / (N - 2) + phi(d) - phi(a)) / y


def imbalanced(t: Any, y: Any, a: Any, d: Any) -> Any:
    if t < 0:
        raise ValueError(f"time must not be negative, not {mp.nstr(t)}.")
    if a == d == 0:
        return mpf(0)
    D = abs(d**2 - a**2)
    if D == 0:
        if a == d:
            return y / (1 + (y / a**2 - 1) * mp.exp(-2 * y * t)) if y else 1 / (1 / a**2 + 2 * t)
        # d = -a: p = -a^2 is that of equal weights with the sign of the target turned.
        return -imbalanced(t, -y, a, a)
    # Where D is small beside p, e^theta spans many orders of magnitude.
    with mp.extradps(int(abs(mp.log10(D / (abs(a * d) + abs(y) + D)))) * 2 + 5):
        root = mp.sqrt(4 * y**2 + D**2)
        high, low = (2 * y + root) / D, (2 * y - root) / D
        E = mp.exp(mp.asinh(2 * a * d / D))
        q = (E - high) / (E - low) * mp.exp(-root * t)
        E = (high - q * low) / (1 - q)
        return D / 4 * (E - 1 / E)


class _Path(NamedTuple):
    """A monotone coordinate v of the flow, from `start` to `limit`, its velocity, and the product p."""

    start: Any
    limit: Any
    rate: Callable
    product: Callable


def _smaller(y: Any, N: int, a: Any, d: Any) -> _Path:
    """Of |a| < d: v = a, and d = (v^2 + D)^(1/2) is never zero."""
    D = d**2 - a**2
    other = lambda v: mp.sqrt(v**2 + D)
    product = lambda v: v * other(v) ** (N - 1)
    # The product rises, and is beyond v^N in size.
    bound = mp.sign(y) * abs(y) ** (mpf(1) / N)
    steep = lambda v: other(v) ** (N - 1) + (N - 1) * v**2 * other(v) ** (N - 3)
    least = mp.eps * abs(y) / other(bound) ** (N - 1)
    limit = _root(lambda v: product(v) - y, steep, min(bound, 0), max(bound, 0), least)
    return _Path(a, limit, lambda v: other(v) ** (N - 1) * (y - product(v)), product)


def _larger(y: Any, N: int, a: Any, d: Any) -> _Path:
    """Of a > d: v = d, and a = (v^2 + E)^(1/2) is never zero. Towards a target that is not positive d dies out."""
    E = a**2 - d**2
    other = lambda v: mp.sqrt(v**2 + E)
    product = lambda v: other(v) * v ** (N - 1)
    steep = lambda v: v**N / other(v) + (N - 1) * other(v) * v ** (N - 2)
    limit = mpf(0)
    if y > 0:
        bound = y ** (mpf(1) / N)
        limit = _root(lambda v: product(v) - y, steep, mpf(0), bound, mp.eps * bound)
    return _Path(d, limit, lambda v: other(v) * v ** (N - 2) * (y - product(v)), product)


def perturbed(t: Any, y: Any, N: int, a: Any, d: Any) -> Any:
    if t < 0:
        raise ValueError(f"time must not be negative, not {mp.nstr(t)}.")
    # Signs of two factors cancel.
    a, d = a * mp.sign(d) ** (N - 1), abs(d)
    side = mp.sign(a)
    if d == 0:
        return mpf(0)
    if abs(a) == d:
        return side * flow(t, side * y, N, d) ** N
    if abs(a) < d:
        return _after(t, _smaller(y, N, a, d))
    return side * _after(t, _larger(side * y, N, abs(a), d))


def _after(t: Any, path: _Path) -> Any:
    """The product at time t."""
    start, limit = path.start, path.limit
    if abs(limit - start) <= 4 * mp.eps * max(abs(limit), abs(start)):
        # It starts at the stationary point.
        return path.product(limit)
    at = lambda x: limit + (start - limit) / (1 + mp.exp(x))
    # Along x the integrand is smooth, and flat at both ends, or grows like an exponential.
    slope = lambda x: -(start - limit) / (4 * mp.cosh(x / 2) ** 2) / path.rate(at(x))
    span = lambda x, z: mp.quad(slope, [x, z], method="gauss-legendre")
    # Where the two differ in size, the smaller is to keep its digits beside the larger.
    apart = int(abs(mp.log10(abs(limit / start)))) + 1 if start and limit else 0
    x, most, passed, small = -mp.ln(10) * (mp.dps + 5 + apart), mp.ln(10) * (mp.dps + 5 + apart), mpf(0), +mp.eps
    if limit == 0:
        # Followed down to what no float64 holds.
        most += 400 * mp.ln(10)
    with mp.extradps(int(mp.dps / 2) + apart):
        v = limit
        while x < most:
            ahead = passed + span(x, x + 4)
            if ahead >= t:
                # Near the limit x is known, and needed, to fewer digits.
                enough = small * (1 + abs(limit / (start - limit)) * mp.exp(x))
                v = at(_root(lambda z, x=x, passed=passed: passed + span(x, z) - t, slope, x, x + 4, enough))
                break
            x, passed = x + 4, ahead
        return path.product(v)
