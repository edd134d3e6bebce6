"""A neuron at the origin, where all kinks meet: it leaves, or is held there as long as pulls cancel.

With output weight a, a neuron moves by a G(v) = grad psi(v), psi(v) = a sum_k h_k e_k.v, h_k = p_k or n_k by the side
of v: of degree one in v. It leaves along a v with psi(v) > 0 that its own velocity is parallel to. Where there is none,
zero lies among the velocities that the subdifferential allows, and the neuron rests: r independent kinks slide, with mu
that make the velocity zero exactly, and the others keep to a side. Such a choice is a vertex, as in linear programming,
and when a mu reaches its bound, another kink takes its place (a dual simplex step), or the neuron leaves.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..lapack import solve
from .box import Decision, inverse, least_norm
from .chart import PiecewiseChart

# Of a flow under a smoothed activation, whose steps are half of what its curvature allows; looked at after so many.
_MOST_LOOKS, _STEPS = 200, 100
_SMALL = 1e-9
_FAINT = 1e-8


def from_origin(chart: PiecewiseChart, a: Array, p: Array, n: Array) -> Decision:
    """How a neuron goes on from the origin: to where it is led if the slope of the activation rises from one side to
    the other within a width of one, and at zero is `at_kink`. Far out that is the way of the activation itself; or the
    pulls cancel before."""
    E, slope = chart.directions, chart.at_kink
    s = chart.layer.slope
    # With a slope of zero at zero and before, as in most libraries, no sample pulls.
    stay = (slope < 0) | (a == 0) | (slope == 0)
    blend = 0.5 if s == 1 else (jnp.where(stay, 1.0, slope) - s) / (1.0 - s)
    size = jnp.abs(a) * jnp.sum(jnp.maximum(jnp.abs(p), jnp.abs(n)))
    share = lambda v: jnp.clip(blend + E @ v, 0.0, 1.0)
    speed = lambda v: a * ((n + share(v) * (p - n)) @ E)
    rests = lambda v: jnp.sum(speed(v) ** 2) <= (_SMALL * size) ** 2
    step = 0.5 / jnp.maximum(jnp.abs(a) * jnp.sum(jnp.abs(p - n)), jnp.finfo(a.dtype).tiny)

    def look(carry):
        v, _, count = carry
        v = jax.lax.fori_loop(0, _STEPS, lambda _, v: v + step * speed(v), v)
        return v, _leaving(E, a, p, n, share(v)), count + 1

    first = step * speed(jnp.zeros(E.shape[1]))
    attracts = jnp.all(a * (p - n) <= 0)
    least = jax.lax.cond(attracts, lambda: _least(E, a, p, n), lambda: share(first * 1e300))
    settled = attracts & (jnp.sum((a * ((n + least * (p - n)) @ E)) ** 2) <= (1e-7 * size) ** 2)
    begin = (first, _leaving(E, a, p, n, least), 0)
    unfinished = lambda carry: carry[1].dependent & ~settled & ~rests(carry[0]) & (carry[2] < _MOST_LOOKS)
    v, leaving, _ = jax.lax.while_loop(unfinished, look, begin)
    held = leaving.dependent & (settled | rests(v)) & (a != 0)
    end = jnp.where(settled, least, share(v))
    new = jax.lax.cond(held, lambda: _held(E, a, p, n, end), lambda: leaving)
    pinned = stay & ~held
    return Decision(
        jnp.zeros(E.shape[1]),
        jnp.where(pinned, 0, new.sides),
        jnp.where(pinned, chart.held, new.holds),
        ~pinned & new.unique,
        ~pinned & new.dependent,
    )


def _least(E: Array, a: Array, p: Array, n: Array) -> Array:
    """The shares at which the velocity is least, which it is where all kinks attract; of several that cancel, those
    nearest to a half, as of a smoothed activation at rest. That is a little length along an axis of each kink's own."""
    width = jnp.where(p == n, 1.0, jnp.abs(p - n))
    own = jnp.diag(jnp.sqrt(_FAINT * jnp.max(width) / width))
    half = 0.5 * (p + n)
    # The last row is what half of all pulls: it stays.
    axes = jnp.block([[E, own], [(half @ E)[None], jnp.zeros((1, p.size))]])
    box = jnp.append(p != n, False)
    start = jnp.where(box, 0, 1)
    up, down = jnp.append(p - half, 1.0), jnp.append(n - half, 1.0)
    sides, holds = least_norm(axes, a, start, box, up, down)
    mu = -(holds @ (jnp.where(sides > 0, up, jnp.where(sides < 0, down, 0.0)) @ axes))
    sides, share = sides[:-1], 0.5 + mu[:-1] / jnp.where(p == n, 1.0, p - n)
    return jnp.where(sides > 0, 1.0, jnp.where(sides < 0, 0.0, share))


def _leaving(E: Array, a: Array, p: Array, n: Array, share: Array) -> Decision:
    """The pattern of the shares at which a smoothed activation pulls, if a neuron leaves the origin along it."""
    sides = jnp.where(share >= 1.0, 1, jnp.where(share <= 0.0, -1, 0))
    slides = sides == 0
    few = jnp.sum(slides) < E.shape[1]
    holds = jax.lax.cond(few, lambda: inverse(E, slides) @ E, lambda: jnp.zeros_like(E))
    G = jnp.where(sides > 0, p, jnp.where(sides < 0, n, 0.0)) @ E
    mu = -(holds @ G)
    speed = a * (E @ (G + mu @ E))
    small = _SMALL * jnp.max(jnp.abs(speed))
    between = (mu >= jnp.minimum(p, n)) & (mu <= jnp.maximum(p, n)) & (a * (p - n) < 0)
    fits = jnp.where(slides, between & (jnp.abs(speed) <= small), sides.astype(a.dtype) * speed >= -small)
    leaves = few & jnp.all(fits) & (jnp.max(jnp.abs(speed)) > _SMALL * jnp.abs(a) * jnp.sum(jnp.abs(p) + jnp.abs(n)))
    return Decision(jnp.zeros(E.shape[1]), sides, holds, jnp.asarray(False), ~leaves)


def _held(E: Array, a: Array, p: Array, n: Array, share: Array) -> Decision:
    """A vertex at which pulls cancel, from where the smoothed activation has come to rest: kinks that hold in excess
    of the dimensions are moved to a side, one after the other, along what leaves the sum as it is."""
    r = E.shape[1]
    low, high = jnp.minimum(p, n), jnp.maximum(p, n)
    inside = (share > _SMALL) & (share < 1.0 - _SMALL) & (p != n)

    def drop(carry):
        mu, inside = carry
        rows = jnp.where(inside[:, None], E, 0.0)
        null = jnp.diag(inside.astype(mu.dtype)) - rows @ solve(rows.T @ rows, rows.T)
        way = null[:, jnp.argmax(jnp.diagonal(null))]
        moves = inside & (jnp.abs(way) > _SMALL)
        room = jnp.where(way > 0, high - mu, low - mu) / jnp.where(moves, way, 1.0)
        room = jnp.where(moves, room, jnp.inf)
        first = jnp.arange(mu.size) == jnp.argmin(room)
        bound = jnp.where(way > 0, high, low)
        return jnp.where(first, bound, mu + jnp.min(room) * jnp.where(inside, way, 0.0)), inside & ~first

    start = (n + share * (p - n), inside)
    mu, inside = jax.lax.while_loop(lambda carry: jnp.sum(carry[1]) > r, drop, start)
    sides = jnp.where(inside, 0, jnp.where(jnp.abs(mu - p) < jnp.abs(mu - n), 1, -1))
    holds = inverse(E, inside) @ E
    G = jnp.where(sides > 0, p, jnp.where(sides < 0, n, 0.0)) @ E
    exact = -(holds @ G)
    slack = 1e-6 * (high - low)
    fits = ~inside | ((exact >= low - slack) & (exact <= high + slack))
    # A kink that repels may also let it go.
    unique = jnp.all(a * (p - n) <= 0)
    return Decision(jnp.zeros(r), sides, holds, unique, ~jnp.all(fits) | (jnp.sum(inside) != r))


def released(chart: PiecewiseChart, a: Array, sides: Array, freed: Array, p: Array, n: Array) -> Decision:
    """A neuron that was held at the origin by `freed` and the kinks of `sides` 0: the first has gone to its side."""
    E = chart.directions
    on = sides == 0
    way = jnp.where(freed, sides, 0).astype(E.dtype) @ E
    way = way - (inverse(E, on) @ (E @ way)) @ E
    z = sides.astype(a.dtype) * (E @ way) / jnp.sqrt(jnp.sum(way**2))
    against = ~on & ~freed & (z < -_SMALL)
    attracts = a * (p - n) < 0
    # What repels is crossed on the way out; of what attracts and would be crossed, one kink takes over.
    takes_over = against & attracts
    over = jnp.any(takes_over) & (jnp.arange(z.size) == jnp.argmin(jnp.where(takes_over, z, jnp.inf)))
    flipped = jnp.where(against & ~attracts & ~jnp.any(takes_over), -sides, sides)
    sides = jnp.where(over, 0, flipped)
    return Decision(jnp.zeros(E.shape[1]), sides, inverse(E, sides == 0) @ E, jnp.asarray(True), jnp.asarray(False))
