"""What ends a pattern, and the pattern that follows.

The velocity of a neuron is minus the element of least norm of the Clarke subdifferential. Where w_j lies on the kinks
K, that is the velocity of the mu_k in [p_k, n_k], k in K, for which |G_j| is least: a small quadratic program in a box,
provided that the e_k are independent. mu_k at a bound: the neuron leaves to that side; inside: it slides. That is so
for attracting kinks, a_j (p_k - n_k) < 0; one that repels is crossed, or left to the side that `at_kink` says.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..flow import Flow
from ..losses import Square
from .box import Decision, inverse, least_norm
from .chart import Pattern, PiecewiseChart, pull_on
from .origin import from_origin, released
from .search import ARMED

KINDS = ("up", "down", "slide", "leave up", "leave down", "stay", "near")
# What a run may be off by, in units of rtol: nearer to zero than this, a slack may as well be on the other side.
_BLUR = 10.0
# Rounding of a slack relative to its scale, and of residuals relative to the outputs: nearer, events happen at once.
_ROUNDING = 4 * float(np.finfo(float).eps)
# And of mu at a bound relative to the pulls that it balances, with room.
_REST = 4 * _ROUNDING
# Two samples' directions count as dependent below this squared distance.
_DEPENDENT = 1e-10


class Event(NamedTuple):
    """A neuron meets, crosses or leaves the kink of a sample, or stays on it.

    `kind`: "up" or "down" (it crosses to that side), "slide" (it begins to slide along), "leave up" or "leave down" (it
    slid along before), "stay" (it stays on a kink that repels), "near" (it turns back from a kink that it has not met).
    `unique` is False where the flow could go on in more than one way and `at_kink` chose. `resolved` is False where the
    run came so near to a turn that its tolerance leaves open whether the kink is met: every "near", and a kink that is
    met, or left again, by as little. Of parallel samples, which share a kink, the first is named; `sample` is -1 for a
    neuron at the origin, where all kinks meet ("up": it leaves).
    """

    log_time: float
    neg_log_loss: float
    neuron: int
    sample: int
    kind: str
    unique: bool
    resolved: bool


class EventLog(eqx.Module):
    """The events of a run in order. The loop pauses at `room` events to have them taken out; inside of a JAX
    transformation nobody can, and `count` may exceed what is kept."""

    log_time: Float[Array, " e"]
    gamma: Float[Array, " e"]
    neuron: Int[Array, " e"]
    sample: Int[Array, " e"]
    kind: Int[Array, " e"]
    unique: Bool[Array, " e"]
    resolved: Bool[Array, " e"]
    count: Int[Array, ""]
    room: Int[Array, ""]

    @property
    def columns(self) -> tuple:
        return self.log_time, self.gamma, self.neuron, self.sample, self.kind, self.unique, self.resolved

    def records(self) -> list[Event]:
        kept = min(int(self.count), self.neuron.shape[0])
        columns = [np.asarray(column)[:kept].tolist() for column in self.columns]
        return [Event(t, g, j, i, KINDS[kind], *flags) for t, g, j, i, kind, *flags in zip(*columns, strict=True)]

    def emptied(self) -> "EventLog":
        return eqx.tree_at(lambda log: log.count, self, jnp.zeros_like(self.count))

    def add(
        self, which: Array, log_time: Array, gamma: Array, neuron: Any, samples: Array, kinds: Any, unique: Any,
        resolved: Any,
    ) -> "EventLog":  # fmt: skip
        """One row for each kink in `which`."""
        rows = jnp.where(which, self.count + jnp.cumsum(which) - 1, self.neuron.shape[0])
        put = lambda column, value: column.at[rows].set(jnp.broadcast_to(value, rows.shape), mode="drop")
        new = (log_time, gamma, neuron, samples, kinds, unique, resolved)
        columns = [put(column, value) for column, value in zip(self.columns, new, strict=True)]
        return EventLog(*columns, count=self.count + jnp.sum(which), room=self.room)


def join_logs(logs: list[EventLog]) -> EventLog:
    """The events of several logs, and of these alone."""
    columns = [
        np.concatenate([np.asarray(c)[: int(log.count)] for c, log in zip(cs, logs, strict=True)])
        for cs in zip(*(log.columns for log in logs), strict=True)
    ]
    size = np.asarray(len(columns[0]))
    return EventLog(*columns, count=size, room=size)  # pyright: ignore[reportArgumentType]


def empty_log(neurons: int, kinks: int) -> EventLog:
    """With room for what one event can bring beyond `room`."""
    room = neurons + 1024
    number, integer = jnp.full((room + kinks,), jnp.nan, float), jnp.full((room + kinks,), -1, int)
    yes = jnp.ones(room + kinks, bool)
    return EventLog(number, number, integer, integer, integer, yes, yes, jnp.zeros((), int), jnp.asarray(room, int))


def slacks(
    flow: Flow, v: Array, output: Array, pattern: Pattern, c: Array
) -> Float[Array, "3 m k"]:
    """Functions that are positive on the pattern; an event is where one reaches zero.

    Of a free pair the first: its pre-activation on its side. Of a pair that slides the second and the third: how far mu
    is from the pull of the upper and of the lower side; and the first: whether the kink attracts. mu may rest at a
    bound for ever: what rounding does to it there is no event.
    """
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    E, sides = chart.directions, pattern.sides
    p, n = chart.pulls(c)
    h, _, mu = pull_on(pattern, E, p, n)
    # Pulls that turn do pass through a bound at which mu rests.
    margin = _REST * jnp.sqrt(jnp.sum(h**2, axis=1, keepdims=True)) if _relative(flow) else 0.0
    margin = jax.lax.stop_gradient(margin)
    p, n = p[None], n[None]
    toward = jnp.sign(p - n)
    free = sides * (v @ E.T)
    attracts = jnp.broadcast_to(-output[:, None] * toward, free.shape)
    slides = sides == 0
    # A neuron held at the origin by more kinks than dimensions stays there.
    held = jnp.sum(slides, axis=1, keepdims=True) > E.shape[1]
    bounds = jnp.stack(
        [jnp.where(slides, attracts, free), (p - mu) * toward + margin, (mu - n) * toward + margin]
    )
    only = jnp.stack([jnp.ones_like(slides), slides, slides]) & ~(held & slides)[None]
    return jnp.where(only, bounds, jnp.inf)


def _relative(flow: Flow) -> bool:
    """Whether the weight of each sample is known relative to itself."""
    return not isinstance(flow.loss, Square)


def scales(flow: Flow, a: Array, c: Array) -> Float[Array, "3 m k"]:
    """The sizes of what the slacks are differences of. mu balances the pulls of samples that the neuron sees, beside
    which that of its kink may be large for ever. Is each weight not known relative to itself, all pulls count."""
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    v, output = chart.split(a)
    p, n = chart.pulls(c)
    sides = chart.pattern.sides
    size = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    size = jnp.where(size > 0, size, jnp.abs(output)[:, None])
    pulls = jnp.where(sides > 0, p[None], jnp.where(sides < 0, n[None], 0.0))
    # Residuals are rounded as the outputs are.
    mu = jnp.sqrt(jnp.sum(pulls**2, axis=1, keepdims=True) if _relative(flow) else jnp.sum(p**2 + n**2)[None, None])
    bound = lambda h: jnp.maximum(jnp.abs(h)[None], mu)
    return jnp.stack([jnp.broadcast_to(v, sides.shape) for v in (size, bound(p), bound(n))])


class Watch(NamedTuple):
    """The slacks at a point, their derivatives along the arc length, their scales, and what they are rounded by."""

    slack: Float[Array, "3 m k"]
    drift: Float[Array, "3 m k"]
    scale: Float[Array, "3 m k"]
    rounding: Float[Array, "3 m k"]

    def deep(self, before: "Watch", length: Array, fuzz: Array) -> Bool[Array, "3 m k"]:
        """Whether each slack would turn more than `fuzz` beyond zero, by how its slope has changed on a step."""
        bend = (self.drift - before.drift) / length
        return ~(bend > 0) | (0.5 * self.drift**2 > fuzz * bend)

    @property
    def armed(self) -> Bool[Array, "3 m k"]:
        """Whether an event may happen: of a free pair once it is off the kink; what slides leaves without ado."""
        return (self.slack > ARMED * self.scale).at[1:].set(True)


def watch(flow: Flow, a: Array, rate: Array | None = None) -> Watch:
    """`rate`: the derivative of `a` along the arc length, where it is known."""
    rate = flow.rate(a).coordinates if rate is None else rate
    slack, drift, c = jax.jvp(lambda b: slack_at(flow, b), (a,), (rate,), has_aux=True)
    scale = scales(flow, a, c)
    return Watch(slack, drift, scale, (_ROUNDING * scale).at[1:].add(_doubt(flow, a, c)))


def slack_at(flow: Flow, a: Array) -> tuple[Float[Array, "3 m k"], Float[Array, " N"]]:
    """The slacks, and the weights of the samples that go with them."""
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    c = flow.loss.weights(chart.outputs(a, flow.X), flow.y)
    return slacks(flow, *chart.split(a), chart.pattern, c), c


def _doubt(flow: Flow, a: Array, c: Array) -> Float[Array, " k"]:
    """Rounding of the pulls of each kink beyond that relative to all: of residuals, which are rounded as the outputs
    are, however small all of them may be."""
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    if _relative(flow):
        return jnp.zeros(chart.positive.shape[0])
    outputs = chart.outputs(a, flow.X)
    size = jnp.sqrt(jnp.sum((outputs - flow.y) ** 2))
    by_residual = jnp.sqrt(jnp.sum(c**2)) / jnp.where(size > 0, size, 1.0)
    each = _ROUNDING * by_residual * (jnp.abs(outputs) + jnp.abs(flow.y))
    return jnp.maximum(jnp.abs(chart.positive), jnp.abs(chart.negative)) @ each


def blur(seen: Watch, rtol: Array) -> Float[Array, "3 m k"]:
    """What slacks may be off by. Steps are measured by all neurons together, so pre-activations of one that is small
    have no fewer; the weights of samples are each known relative to itself."""
    typical = jnp.sqrt(jnp.mean(seen.scale[0] ** 2, axis=0, keepdims=True))
    return _BLUR * rtol * seen.scale.at[0].max(typical)


def slack_of(flow: Flow, a: Array, index: tuple) -> Float[Array, ""]:
    """One of them."""
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    c = flow.loss.weights(chart.outputs(a, flow.X), flow.y)
    v, output = chart.split(a)
    kind, j, k = index
    pattern = Pattern(chart.pattern.sides[j][None], chart.pattern.holds[j][None], chart.pattern.slides)
    return slacks(flow, v[j][None], output[j][None], pattern, c)[kind, 0, k]


def decide(
    chart: PiecewiseChart, v: Array, a: Array, sides: Array, met: Array, freed: Array, p: Array, n: Array
) -> Decision:
    """A neuron with output weight `a` that slides on kinks (sides 0) and has `met` others from their `sides`, or has
    been `freed` from a kink to its side."""
    E = chart.directions
    on = met | (sides == 0)
    # Onto the kinks, exactly; a neuron left with nothing has come to the origin, where all kinks meet.
    before = jnp.sum(v**2)
    v = v - (inverse(E, on) @ (E @ v)) @ E
    at_origin = (jnp.sum(v**2) <= 1e-24 * before) & ~jnp.all(on)
    held_before = (before == 0) & jnp.any(freed) & (jnp.sum(on) == E.shape[1] - 1)
    there = lambda: jax.lax.cond(
        held_before, lambda: released(chart, a, sides, freed, p, n), lambda: from_origin(chart, a, p, n)
    )
    return jax.lax.cond(at_origin, there, lambda: _along(E, v, a, sides, met, p, n))


def _along(E: Array, v: Array, a: Array, sides: Array, met: Array, p: Array, n: Array) -> Decision:
    attracts = a * (p - n) < 0
    held, on = sides == 0, met | (sides == 0)
    sides = jnp.where(met & ~attracts, -sides, jnp.where(on, 0, sides))
    reach = E @ E.T
    spanned = lambda which: 1.0 - jnp.sum(reach * (inverse(E, which) @ reach), axis=0) < _DEPENDENT
    # A kink that meets with others where these meet is there as well, whichever of them rounding lets come first. One
    # of nearly the same direction is not: it is met by itself.
    there = jnp.abs(E @ v) <= ARMED * jnp.sqrt(jnp.sum(v**2))
    dependent = jnp.any(met & spanned(held & ~met)) | jnp.any(met) & jnp.any(~on & there & spanned(on))
    return Decision(v, *least_norm(E, a, sides, attracts & on, p, n), jnp.asarray(True), dependent)


def at_start(chart: PiecewiseChart, v: Array, a: Array, p: Array, n: Array) -> Decision:
    """A neuron at the start of the flow, which may lie on kinks exactly."""
    E = chart.directions
    z = E @ v
    sides = jnp.sign(z).astype(int)
    on = sides == 0
    a, unclear = _begins(chart, a, jnp.where(sides > 0, p, n) * z)
    attracts = a * (p - n) < 0
    # A kink that repels: the slope `at_kink` says whereto, where both sides would do.
    s = chart.layer.slope
    blend = 0.5 if s == 1 else (jnp.where(chart.at_kink < 0, 0.5 * (1 + s), chart.at_kink) - s) / (1.0 - s)
    h = jnp.where(sides > 0, p, jnp.where(sides < 0, n, n + blend * (p - n)))
    speed = a * (E @ (h @ E))
    up, down = speed + a * (p - h), speed + a * (n - h)
    open_ = on & ~attracts & (up >= 0) & (down <= 0) & (up > down)
    # By a slope of zero nothing may pull at all.
    stays = open_ & ((chart.at_kink < 0) | (speed == 0) & (blend <= 0))
    out = jnp.where(up <= 0, -1, jnp.where(down >= 0, 1, jnp.where(speed < 0, -1, 1)))
    sides = jnp.where(on, jnp.where(stays, 0, out), sides)

    def settle():
        new = _along(E, v, a, sides, on & attracts, p, n)
        return new._replace(unique=~jnp.any(open_), dependent=new.dependent | (jnp.any(on) & unclear))

    return jax.lax.cond(jnp.all(on), lambda: from_origin(chart, a, p, n), settle)


def _begins(chart: PiecewiseChart, a: Array, pulls: Array) -> tuple[Array, Array]:
    """The output weight as it is at once: trained and zero, it goes where the sum of `pulls` leads; and whether that
    is left open by pulls that cancel."""
    if not chart.layer.train_output:
        return a, jnp.asarray(False)
    way, size = jnp.sum(pulls), jnp.sum(jnp.abs(pulls))
    way = jnp.where(jnp.abs(way) > 1e-13 * size, way, 0.0)
    return jnp.where(a == 0, way, a), (a == 0) & (way == 0) & (size > 0)
