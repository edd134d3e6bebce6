"""What a run that took ever smaller steps, or all that it may, has come to: rest, a minimum, a plateau, or the end of
float64."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..clocks import AbstractClock
from ..flow import Flow
from ..lapack import symmetric
from ..status import Status
from .position import Position, Saves


def conclude(
    flow: Flow, position: Position, saves: Saves, clock: AbstractClock, targets: Float[Array, " S"]
) -> tuple[Position, Saves]:
    """Tell a flow that has come to rest from one that float64 cannot resolve. In time, one at its minimum or with a
    velocity of exactly zero rests on."""
    a = position.state[:-1]
    outputs = flow.chart.outputs(a, flow.X)
    stalled = position.status == Status.step_too_small
    slow = flow.rate(a).gamma < 1e-6 * jnp.maximum(1.0, jnp.abs(position.gamma))
    still = stalled & flow.at_rest(a)
    settled = still | stalled & slow
    floor, minimum = stalled & flow.at_floor(outputs), jnp.asarray(False)
    if flow.chart.readout(a) is not None and flow.X.ndim == 2:
        # The loss is convex in beta: a vanishing gradient there is the minimum, and not a saddle of the parameters.
        pulls = flow.loss.weights(outputs, flow.y)[:, None] * flow.X
        minimum = settled & (_norm(jnp.sum(pulls, axis=0)) <= 1e-6 * jnp.sum(jnp.abs(pulls)))
    status = jnp.where(slow & (position.status == Status.max_steps), Status.slow, position.status)
    status = jnp.where(settled, Status.settled, status)
    status = jnp.where(minimum, Status.minimum, status)
    status = jnp.where(stalled & flow.outlasts_float64(a, position.log_time), Status.plateau, status)
    status = jnp.where(floor, Status.residual_floor, status)
    position = eqx.tree_at(lambda p: p.status, position, status)
    if clock.counts_loss:
        return position, saves
    return _resting(flow, position, saves, minimum | floor | still, targets)


def rests_on(
    flow: Flow, position: Position, saves: Saves, targets: Float[Array, " S"]
) -> tuple[Position, Saves]:
    """A flow that has come to rest to rounding stays there until the last of the times `targets`, if its velocity,
    linearized there, moves nothing by more than a billionth of the parameters until then; nor gamma by more than a
    millionth of it, where its steps became too small before all was rounding. On a plateau a direction grows meanwhile,
    and the status stays. For charts of a constant metric, in which the linearization is symmetric."""
    # Whether it rests is a decision, with no derivative.
    fixed = lambda tree: jax.tree.map(lambda v: jax.lax.stop_gradient(v) if eqx.is_inexact_array(v) else v, tree)
    flow, a = fixed(flow), fixed(position.state[:-1])

    def velocity(b):
        c = flow.loss.weights(flow.chart.outputs(b, flow.X), flow.y)
        v = flow.chart.velocity(b, flow.X, c)
        return jnp.exp(v.log_speed - flow.gamma(b)) * v.direction

    # Along what slides nothing may move but with it.
    slope = jax.jacfwd(lambda d: flow.chart.confined(velocity(a + flow.chart.confined(d))))(jnp.zeros_like(a))
    rates, ways = symmetric(0.5 * (slope + slope.T))
    left = jnp.exp(targets[-1]) - jnp.exp(position.log_time)
    # The integral of exp(rate t).
    span = jnp.where(rates == 0, left, jnp.expm1(rates * left) / jnp.where(rates == 0, 1.0, rates))
    pull = ways.T @ velocity(a)
    rests = _norm(pull * span) <= 1e-9 * _norm(a)
    gain = jnp.exp(position.gamma) * jnp.sum(pull**2 * span)
    rests = rests & ((position.status != Status.step_too_small) | (gain <= 1e-6 * jnp.abs(position.gamma)))
    # What is away from there dies out until then, or stays.
    lasting = jnp.abs(rates) <= rates.size * jnp.finfo(rates.dtype).eps * jnp.max(jnp.abs(rates))
    spans = jnp.maximum(jnp.exp(targets) - jnp.exp(jax.lax.stop_gradient(position.log_time)), 0.0)
    dying = jnp.exp(jnp.where(lasting, 0.0, jnp.minimum(rates, 0.0))[None] * spans[:, None])
    return _resting(flow, position, saves, rests, targets, lambda away: (dying * (away @ ways)[None]) @ ways.T)


def _resting(
    flow: Flow, position: Position, saves: Saves, rests: Array, targets: Array, onward: Callable = lambda v: v[None]
) -> tuple[Position, Saves]:
    """Success, and the place for every save that is still to come, where it rests. `onward` is what has become of a
    small vector there at each save, or at all."""
    rest = rests & (jnp.arange(targets.shape[0]) >= saves.filled)
    # The position is that at a length: nothing is added to it, but to its derivative, which is to be that at a time.
    field, _, log_rate = jax.lax.stop_gradient(flow.rates(position.state, position.gauge))
    way = jnp.where(jnp.isfinite(field / log_rate), field / log_rate, 0.0)[:-1]
    late = position.log_time - jax.lax.stop_gradient(position.log_time)
    late = jnp.where(jnp.isfinite(position.log_time), late, 0.0)
    a = jax.lax.stop_gradient(position.state[:-1])
    a = a[None] + onward(position.state[:-1] - a - way * late)
    saves = Saves(
        jnp.where(rest[:, None], a, saves.coordinates),
        jnp.where(rest, position.gamma, saves.gamma),
        jnp.where(rest, targets, saves.log_time),
        jnp.where(rests, targets.shape[0], saves.filled),
    )
    status = jnp.where(rests, Status.success, position.status)
    return eqx.tree_at(lambda p: p.status, position, status), saves


def _norm(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2))
