"""Steps of gradient descent until a point is reached, compiled."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..clocks import AbstractClock
from ..status import as_code, Status
from .rule import finite, lost, Place, Rule, take

# Step sizes add up with rounding: a time is reached when this share of it is missing.
_SLACK = 1e-9
_NO_WALL = int(jnp.iinfo(jnp.int64).max)


class Rows(eqx.Module):
    """What has been saved: a row per point, NaN where not reached."""

    coordinates: Float[Array, "S P"]
    log_time: Float[Array, " S"]
    step: Int[Array, " S"]
    filled: Int[Array, ""]


@eqx.filter_jit
def advance(
    rule: Rule,
    place: Place,
    rows: Rows,
    clock: AbstractClock | None,
    aims: Float[Array, " S"],
    limit: Int[Array, ""],
    budget: Int[Array, ""],
) -> tuple[Place, Rows]:
    """Take up to `budget` steps, or stop where the last of `aims` is reached. Two loops, so that the rows are touched
    only when there is one to save."""
    last = aims.shape[0]
    until = jnp.minimum(place.steps + budget, limit)

    def due(p: Place, aim: Array) -> Bool[Array, ""]:
        if clock is None:
            return p.steps.astype(float) >= aim
        if clock.counts_loss:
            gamma = p.gamma if rule.batch_size is None else rule.flow.gamma(p.coordinates)
            return gamma >= aim
        return p.log_time >= aim - _SLACK

    def sound(p: Place, closely: Array) -> Bool[Array, ""]:
        """Of batches, whether the loss of all samples is finite is looked at where a run is kept, and on the way back
        to where it has not been."""
        if rule.batch_size is None:
            return finite(rule, p)
        return finite(rule, p) & jax.lax.cond(closely, lambda: rule.flow.gamma(p.coordinates) > -jnp.inf, lambda: True)

    def body(carry):
        p, rows, wall = carry
        aim = aims[jnp.minimum(rows.filled, last - 1)]
        goes_on = lambda p: (p.status == Status.running) & (p.steps < jnp.minimum(until, wall)) & ~due(p, aim)
        more = lambda p: goes_on(p) & sound(p, wall < _NO_WALL)
        ahead = jax.lax.while_loop(more, lambda p: take(rule, p), p)
        # An iterate that is not finite is not kept. Its predecessor is found by going there again: to carry that along
        # would cost every step a copy.
        good = sound(ahead, jnp.asarray(True))
        wall = jnp.where(good, wall, ahead.steps - 1)
        p = jax.tree.map(lambda new, old: jnp.where(good, new, old), ahead, p)
        saved = due(p, aim)
        put = lambda into, v: into.at[jnp.where(saved, rows.filled, last)].set(v, mode="drop")
        rows = Rows(
            put(rows.coordinates, p.coordinates),
            put(rows.log_time, p.log_time),
            put(rows.step, p.steps),
            rows.filled + saved.astype(int),
        )
        status = jnp.where(~saved & (p.steps >= limit), int(Status.steps_used), p.status)
        status = jnp.where(~saved & (p.steps >= wall), lost(rule, p), status)
        status = jnp.where((rows.filled == last) & (p.status == Status.running), int(Status.success), status)
        return eqx.tree_at(lambda q: q.status, p, as_code(status)), rows, wall

    def unfinished(carry):
        p, rows, _ = carry
        aim = aims[jnp.minimum(rows.filled, last - 1)]
        # At the limit there may be points that the last iterate reaches, and is to be told of none.
        return (p.status == Status.running) & ((p.steps < until) | (p.steps >= limit) | due(p, aim))

    return jax.lax.while_loop(unfinished, body, (place, rows, jnp.asarray(_NO_WALL)))[:2]


def empty_rows(count: int, size: int) -> Rows:
    none = jnp.full((count,), jnp.nan, float)
    return Rows(jnp.full((count, size), jnp.nan, float), none, jnp.full((count,), -1, int), jnp.zeros((), int))
