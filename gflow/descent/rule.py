"""How an iterate of gradient descent follows from the one before."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..flow import Flow
from ..losses import Square
from ..plateaus import Plateaus
from ..status import as_code, Status

# Steps after which coordinates are turned on: to turn costs more than a step.
_TIDY = 16
_EPS = float(jnp.finfo(jnp.float64).eps)
# The least shift of log t by rounding, of the exit from a plateau, that a run ends for.
_SHIFT = 1e-4
# A run rests whose coordinates move by less of their size in a step.
_SLOW = 1e-7


class Rule(eqx.Module):
    """How an iterate follows from the one before."""

    flow: Flow
    step: Any
    momentum: Array | None
    normalize: str | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    key: Array | None
    # Whether it is looked at if rounding has a part in when plateaus are left.
    watched: bool = eqx.field(static=True)

    def size(self, k: Int[Array, ""]) -> Float[Array, ""]:
        if callable(self.step):
            return jnp.asarray(self.step(k), float)
        return self.step[k] if self.step.ndim else self.step

    def shuffled(self, epoch: Int[Array, ""]) -> Int[Array, " N"] | None:
        if self.batch_size is None or self.key is None:
            return None
        return jax.random.permutation(jax.random.fold_in(self.key, epoch), self.flow.X.shape[0])

    def seen(self, k: Int[Array, ""], order: Int[Array, " N"] | None) -> Flow:
        """The problem whose gradient is taken at step k."""
        if order is None:
            return self.flow
        samples, size = order.shape[0], self.batch_size
        assert size is not None
        batch = jax.lax.dynamic_slice_in_dim(order, (k % (samples // size)) * size, size)
        y = self.flow.y.reshape(samples, -1)[batch].reshape(-1)
        return eqx.tree_at(lambda f: (f.X, f.y), self.flow, (self.flow.X[batch], y))


class Watch(eqx.Module):
    """What is remembered of a run to see if rounding has a part in when it leaves a plateau."""

    plateaus: Plateaus
    # The least share of their size that the coordinates have moved by in a step.
    slowest: Float[Array, ""]

    @classmethod
    def none(cls) -> "Watch":
        return cls(Plateaus.none(), jnp.full((), jnp.inf, float))


class Place(eqx.Module):
    """An iterate, the step that leads on from it, and the rule that made it."""

    coordinates: Float[Array, " P"]
    previous: Float[Array, " P"] | None
    move: Float[Array, " P"]
    log_duration: Float[Array, ""]
    gamma: Float[Array, ""]
    log_time: Float[Array, ""]
    order: Int[Array, " N"] | None
    steps: Int[Array, ""]
    # Judged by all samples, of batches after every epoch: gamma of the start and when it was last looked at, the
    # largest, and the step of that.
    first: Float[Array, ""]
    judged: Float[Array, ""]
    best: Float[Array, ""]
    best_at: Int[Array, ""]
    status: Int[Array, ""]
    size: Float[Array, ""]
    momentum: Array | None
    normalize: str | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    watch: Watch | None
    # Of a run that has ended, the points that were to be saved.
    points: Array | None = None


def _look(rule: Rule, a: Array, k: Array, order: Array | None) -> tuple[Array, Array, Array]:
    """At iterate k: the step that the gradient makes, log of the time that it takes, and gamma (of the batch)."""
    flow = rule.seen(k, order)
    v = flow.chart.velocity(a, flow.X, flow.loss.weights(flow.chart.outputs(a, flow.X), flow.y))
    gamma = flow.gamma(a)
    log_size = jnp.log(rule.size(k))
    if rule.normalize == "gradient":
        log_size = log_size - 0.5 * (jnp.log(v.slope) + v.log_speed)
        log_duration = log_size + gamma
    elif rule.normalize == "loss":
        log_duration = log_size + gamma
    else:
        log_duration, log_size = log_size, log_size - gamma
        if flow.loss.reduction == "sum" and rule.batch_size is not None:
            log_size = log_size + jnp.log(rule.flow.X.shape[0] / rule.batch_size)
    # At a stationary point the direction is 0 / 0, and at a loss of exactly zero so is the gradient of its logarithm
    # (which also underflows at an infinite loss, where nothing stands still).
    still = (v.log_speed == -jnp.inf) & (gamma > -700.0) | (gamma == jnp.inf)
    return jnp.where(still, 0.0, jnp.exp(log_size + v.log_speed) * v.direction), log_duration, gamma


@eqx.filter_jit
def start(rule: Rule) -> Place:
    # What is of weak type, as numbers of Python are, would make the second piece of a run compile anew.
    a = jnp.asarray(rule.flow.chart.coordinates(), float)
    zero, never = jnp.zeros((), int), jnp.full((), -jnp.inf, float)
    order = rule.shuffled(zero)
    move, log_duration, gamma = _look(rule, a, zero, order)
    previous = None if rule.momentum is None else a
    whole = gamma if rule.batch_size is None else rule.flow.gamma(a)
    status = jnp.where(jnp.isnan(gamma) | (gamma == -jnp.inf), int(Status.diverged), int(Status.running))
    return Place(
        a, previous, move, log_duration, gamma, never, order, zero, whole, whole, whole, zero, as_code(status),
        rule.size(zero), rule.momentum, rule.normalize, rule.batch_size, Watch.none() if rule.watched else None,
    )  # fmt: skip


def batches(rule: Rule) -> int:
    return 1 if rule.batch_size is None else rule.flow.X.shape[0] // rule.batch_size


def _displacement(rule: Rule, here: Place) -> Array:
    if rule.momentum is None or here.previous is None:
        return here.move
    return here.move + rule.momentum * rule.flow.chart.displacement(here.coordinates, here.previous)


def _watch(here: Place, displacement: Array, log_time: Array) -> tuple[Watch | None, Array]:
    """Of a step: what is remembered, and the status."""
    if here.watch is None:
        return None, here.status
    length = jnp.linalg.norm(displacement)
    if here.momentum is not None:
        # A heavy ball stands still where the slope is steepest, and is fastest where there is none.
        length = length + jnp.linalg.norm(here.move) / (1.0 - here.momentum)
    length = length / jnp.linalg.norm(here.coordinates)
    # What rounding leaves of a move says nothing.
    known = jnp.where(length > 8 * _EPS, length, 0.0)
    plateaus, seeded = here.watch.plateaus.passing(here.log_time, log_time, known, jnp.asarray(_SHIFT))
    slowest = jnp.minimum(here.watch.slowest, length)
    seeded = seeded & (slowest < _SLOW) & (length > _SLOW)
    return Watch(plateaus, slowest), as_code(jnp.where(seeded, int(Status.seeded), here.status))


def take(rule: Rule, here: Place) -> Place:
    d = _displacement(rule, here)
    a, k = rule.flow.chart.moved(here.coordinates, d), here.steps + 1
    log_time = jnp.logaddexp(here.log_time, here.log_duration)
    watch, status = _watch(here, d, log_time)
    previous = None if rule.momentum is None else here.coordinates
    if rule.flow.chart.graded:
        a, previous = jax.lax.cond(k % _TIDY == 0, functools.partial(_tidied, rule), lambda *at: at, a, previous)
    order = here.order
    if order is not None:
        n = batches(rule)
        order = jax.lax.cond(k % n == 0, lambda: rule.shuffled(k // n), lambda: order)
    move, log_duration, gamma = _look(rule, a, k, order)
    judged, fresh = gamma, True
    if rule.batch_size is not None:
        # Losses of different batches say nothing about each other.
        epoch = fresh = k % batches(rule) == 0
        judged = jax.lax.cond(epoch, lambda: rule.flow.gamma(a), lambda: here.judged)
    return Place(
        coordinates=a,
        previous=previous,
        move=move,
        log_duration=log_duration,
        gamma=gamma,
        log_time=log_time,
        order=order,
        steps=k,
        first=here.first,
        judged=judged,
        best=jnp.where(judged > here.best, judged, here.best),
        best_at=jnp.where(fresh & (judged >= here.best), k, here.best_at),
        status=status,
        size=rule.size(k),
        momentum=here.momentum,
        normalize=here.normalize,
        batch_size=here.batch_size,
        watch=watch,
    )


def _tidied(rule: Rule, a: Array, previous: Array | None) -> tuple[Array, Array | None]:
    """An iterate, and the one before, in other coordinates of the same models."""
    back = a if previous is None else a - previous
    a, back = rule.flow.chart.tidied(a, back[None])
    return a, None if previous is None else a - back[0]


def finite(rule: Rule, p: Place) -> Bool[Array, ""]:
    """Of the square loss gamma is infinite at a minimum."""
    known = p.gamma > -jnp.inf
    if not isinstance(rule.flow.loss, Square):
        known = known & (p.gamma < jnp.inf)
    return known & (jnp.max(jnp.abs(p.coordinates)) < jnp.inf)


def lost(rule: Rule, place: Place) -> Int[Array, ""]:
    """Why no finite iterate follows: the descent diverged, a finite step led to coordinates that are not, the loss left
    float64, or the schedule gave no step."""
    d = _displacement(rule, place)
    sound = (place.size >= 0) & (place.size < jnp.inf)
    moved = rule.flow.chart.moved(place.coordinates, d)
    left = jnp.all(jnp.isfinite(d)) & ~jnp.all(jnp.isfinite(moved))
    status = jnp.where(left, int(Status.left_chart), int(Status.diverged))
    status = jnp.where(rule.flow.gamma(moved) == jnp.inf, int(Status.loss_underflow), status)
    return jnp.where(sound, status, int(Status.bad_step))
