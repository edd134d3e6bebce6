"""Where within a step a slack first reaches zero, and where one turns so near to zero that it might as well have.

Along a step a slack is taken for the quartic through its values at the ends and halfway and its slopes at the ends, x
from 0 to 1. On the dense output of Tsit5 a pre-activation is that quartic.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# A function of an event is armed above this, relative to its scale,
ARMED = 1e-13
# and one that was not fires below minus this: what a start on the kink may drift by rounding.
_DRIFT = 1e-9
# Pieces into which a quartic is cut, so that each holds at most one of its minima.
_PIECES = 8
_NODES = np.arange(_PIECES + 1) / _PIECES
# Neurons, and slacks of these, that are looked at together. Mostly there are fewer.
_ROWS, _ROOM = 64, 128


class Quartic(NamedTuple):
    start: Array
    slope: Array
    square: Array
    cube: Array
    fourth: Array

    @classmethod
    def through(cls, g0: Array, d0: Array, middle: Array, g1: Array, d1: Array) -> "Quartic":
        rise = g1 - g0
        fourth = 16.0 * (middle - 0.5 * (g0 + g1) - 0.125 * (d0 - d1))
        return cls(g0, d0, 3.0 * rise - 2.0 * d0 - d1 + fourth, d0 + d1 - 2.0 * rise - 2.0 * fourth, fourth)

    def at(self, x: Array) -> Array:
        return self.start + x * (self.slope + x * (self.square + x * (self.cube + x * self.fourth)))

    def slope_at(self, x: Array) -> Array:
        return self.slope + x * (2.0 * self.square + x * (3.0 * self.cube + x * 4.0 * self.fourth))

    def bend_at(self, x: Array) -> Array:
        return 2.0 * self.square + x * (6.0 * self.cube + x * 12.0 * self.fourth)


class Meeting(NamedTuple):
    """The first zero: where, of which slack (kind, neuron, kink), and its slope there; how far above zero the slack was
    before it in the step, and how far below zero the parabola through it turns."""

    x: Float[Array, ""]
    which: tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]
    slope: Float[Array, ""]
    height: Float[Array, ""]
    depth: Float[Array, ""]


def first_meeting(
    ends: tuple[Array, Array, Array, Array], middle: Array, scale: Array, blur: Array, armed: Bool[Array, "3 m k"]
) -> tuple[Meeting, Float[Array, "3 m k"]]:
    """The first zero within a step, at infinity if there is none, and where each slack turns less than `blur` above
    zero, else infinity. A slack that is not armed must rise first, or fall beyond the drift.

    **Arguments:**

    - `ends`: values and slopes at the start and at the end, (3, m, k) each; the slopes are those in x.
    - `middle`: values at x = 1/2.
    - `scale`, `blur`: (3, m, k).
    """
    g0, d0, g1, d1 = ends
    # A quartic lies above the least of its Bernstein coefficients: mostly that says already that nothing happens.
    inner = (8.0 * middle - 2.5 * (g0 + g1)) / 3.0 - (d0 - d1) / 6.0
    near = (g0 + 0.25 * d0 < blur) | (inner < blur) | (g1 - 0.25 * d1 < blur) | (g1 < blur)
    m, k = near.shape[1:]
    rows, room = min(m, _ROWS), min(3 * k * min(m, _ROWS), _ROOM)

    def look(carry):
        near, best, turns = carry
        (row,) = jnp.nonzero(jnp.any(near, axis=(0, 2)), size=rows, fill_value=m)
        chosen = jnp.where(row[None, :, None] < m, near[:, jnp.minimum(row, m - 1)], False)
        kind, at, kink = jnp.nonzero(chosen, size=room, fill_value=-1)
        there = kind >= 0
        kind, neuron, kink = (jnp.where(there, v, 0) for v in (kind, row[at], kink))
        neuron = jnp.minimum(neuron, m - 1)
        take = lambda v: v[kind, neuron, kink]
        some = Quartic.through(take(g0), take(d0), take(middle), take(g1), take(d1))
        first, turn = _first(some, take(scale), take(blur), take(armed))
        first = jnp.where(there, first, jnp.inf)
        i = jnp.argmin(first)
        x = first[i]
        one = Quartic(*(v[i] for v in some))
        slope, bend = one.slope_at(x), one.bend_at(x)
        depth = jnp.where(bend > 0, 0.5 * slope**2 / jnp.where(bend > 0, bend, 1.0), jnp.inf)
        height = jnp.max(jax.vmap(one.at)(jnp.where(x < jnp.inf, x, 0.0) * _NODES[:-1]))
        found = Meeting(x, (kind[i], neuron[i], kink[i]), slope, height, depth)
        best = jax.tree.map(lambda new, old: jnp.where(x < best.x, new, old), found, best)
        done = (jnp.where(there, kind, 3), neuron, kink)
        return near.at[done].set(False, mode="drop"), best, turns.at[done].set(turn, mode="drop")

    none = jnp.zeros((), int)
    far = jnp.asarray(jnp.inf)
    nothing = Meeting(far, (none, none, none), jnp.ones(()), far, far)
    start = (near, nothing, jnp.full(near.shape, jnp.inf))
    _, meeting, turns = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), look, start)
    return meeting, turns


def _first(some: Quartic, scale: Array, blur: Array, armed: Array) -> tuple[Array, Array]:
    """Of each quartic the first zero, and where it turns less than `blur` above zero."""
    column = Quartic(*(v[:, None] for v in some))
    nodes = jnp.asarray(_NODES)[None]
    g, d = column.at(nodes), column.slope_at(nodes)
    left, right = nodes[:, :-1], nodes[:, 1:]
    # The minimum inside of each piece that has one.
    dips = (d[:, :-1] < 0) & (d[:, 1:] >= 0)
    bottom = left + jnp.where(dips, d[:, :-1] / jnp.where(dips, d[:, :-1] - d[:, 1:], 1.0), 1.0) / _PIECES
    for _ in range(4):
        bend = column.bend_at(bottom)
        step = jnp.where(dips & (bend > 0), column.slope_at(bottom) / jnp.where(bend > 0, bend, 1.0), 0.0)
        bottom = jnp.clip(bottom - step, left, right)
    lowest = jnp.where(dips, column.at(bottom), jnp.inf)
    least = jnp.minimum(lowest, g[:, 1:])
    armed, drift = armed[:, None], _DRIFT * scale[:, None]
    seen = armed | (jax.lax.cummax(g[:, :-1], axis=1) > ARMED * scale[:, None])
    # What lies far below zero from the start is a kink that repels and is stayed on by choice.
    low = (seen & (least < 0)) | ((g[:, :1] >= -drift) & (least < -drift))
    piece = jnp.argmax(low, axis=1)[:, None]
    pick = lambda v: jnp.take_along_axis(jnp.broadcast_to(v, low.shape), piece, axis=1)[:, 0]
    begin, above, below = pick(left), jnp.maximum(pick(g[:, :-1]), 0.0), pick(lowest)
    span = jnp.where(below < 0, pick(bottom) - begin, 1.0 / _PIECES)
    end = jnp.where(below < 0, below, pick(g[:, 1:]))
    ratio = above / jnp.maximum(above - end, jnp.finfo(float).tiny)
    x = begin + span * jnp.where(below < 0, 1.0 - jnp.sqrt(1.0 - ratio), ratio)
    # A slack that has just left zero comes back at the other root of its parabola.
    returns = ~armed[:, 0] & (some.slope > 0) & (begin == 0)
    back = some.slope / jnp.where(returns, (some.slope / _PIECES - g[:, 1]) * _PIECES**2, 1.0)
    x = jnp.where(returns, jnp.clip(back, 0.0, 1.0), x)
    for _ in range(3):
        slope = some.slope_at(x)
        closer = x - some.at(x) / jnp.where(slope < 0, slope, 1.0)
        x = jnp.where((slope < 0) & (closer >= begin) & (closer <= begin + span), closer, x)
    turning = dips & armed & (lowest >= 0) & (lowest < blur[:, None])
    turn = jnp.min(jnp.where(turning, bottom, jnp.inf), axis=1)
    return jnp.where(jnp.any(low, axis=1), x, jnp.inf), turn
