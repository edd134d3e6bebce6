"""One loop for everything: it takes one step of a Diffrax solver at a time and looks.

Where a step passes save points, the path waits while each is landed on: the point is found on the dense output, and an
excursion from the start of the step goes there, by steps of full order under the same error control. The path itself is
never shortened by save points, and a step that passes the stop is not kept: whoever resumes repeats it and finds the
same path, bit for bit.
"""

import functools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .charts import EuclideanChart
from .clocks import AbstractClock
from .flow import Flow, Sight
from .losses import Square
from .plateaus import Plateaus
from .solvers import first_step, FlowTerm, LogRadau, StepControl
from .status import as_code, Status

# F is brought back to size one when it leaves exp(+-GAUGE_RANGE).
GAUGE_RANGE = 60.0
# Steps of an excursion, after which a save point that cannot be met ends the run. Two or three are usual.
_MOST_TRIES = 60
_EPS = float(jnp.finfo(jnp.float64).eps)


class Position(eqx.Module):
    """Where the integration stands: all that is needed to go on exactly."""

    state: Float[Array, " P+1"]
    gauge: Float[Array, ""]
    sight: Sight
    h: Float[Array, ""]
    control: Any
    solver: Any
    restart: Bool[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    status: Int[Array, ""]
    plateaus: Plateaus

    @property
    def gamma(self) -> Float[Array, ""]:
        return self.sight.gamma

    @property
    def log_time(self) -> Float[Array, ""]:
        return jnp.log(self.state[-1]) + self.gauge + self.gamma


class Saves(eqx.Module):
    """What has been passed: a row per save point, NaN where not reached."""

    coordinates: Float[Array, "S P"]
    gamma: Float[Array, " S"]
    log_time: Float[Array, " S"]
    filled: Int[Array, ""]


def empty_saves(count: int, size: int) -> Saves:
    # By NumPy: nothing is compiled for it.
    nan = jnp.asarray(np.full(count, np.nan))
    return Saves(jnp.asarray(np.full((count, size), np.nan)), nan, nan, jnp.asarray(np.zeros((), int)))


def _terms(flow: Flow) -> FlowTerm:
    return FlowTerm(flow.field)


def _with_tolerances(solver: Any, flow: Flow, state: Array, rtol: Array) -> Any:
    """Implicit Diffrax solvers: Newton is asked for a share of `rtol`, relative to each coordinate's own scale."""
    if isinstance(solver, LogRadau):
        return eqx.tree_at(lambda s: s.rtol, solver, rtol, is_leaf=lambda v: v is None)
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return solver
    unset = [n for n in ("rtol", "atol", "norm") if not _is_set(getattr(solver.root_finder, n))]
    size = jnp.sqrt(jnp.mean(state[:-1] ** 2)) + flow.chart.length(state[:-1]) * 1e-3
    scale = jnp.append(jnp.broadcast_to(size, state[:-1].shape), jnp.abs(state[-1]) + 1e-3)
    values = {"rtol": rtol, "atol": jax.lax.stop_gradient(rtol * scale), "norm": lambda v: jnp.sqrt(jnp.mean(v**2))}
    return eqx.tree_at(
        lambda s: tuple(getattr(s.root_finder, n) for n in unset), solver, tuple(values[n] for n in unset)
    )


def _is_set(value: Any) -> bool:
    return callable(value) or isinstance(value, float | int) or eqx.is_array(value)


def start(flow: Flow, solver: Any, rtol: Array) -> Position:
    """The initial position. Its status says at once if the flow cannot leave it."""
    a = flow.chart.coordinates()
    rate = flow.rate(a)
    gauge = jax.lax.stop_gradient(rate.log_tau)
    state = jnp.append(a, 0.0)
    sight = flow.sight(a)
    h = first_step(flow, a)
    solver_ = _with_tolerances(solver, flow, state, rtol)
    terms = _terms(flow)
    moves = jnp.all(jnp.isfinite(rate.coordinates)) & jnp.isfinite(h) & jnp.isfinite(sight.gamma)
    return Position(
        state=state,
        gauge=gauge,
        sight=sight,
        h=h,
        # Python scalars and weak types would make the second piece of a run compile anew.
        control=jax.tree.map(jnp.asarray, StepControl(rtol).init(terms, h, order_of(solver, terms))),
        solver=solver_.init(terms, jnp.zeros(()), h, state, gauge),
        restart=jnp.asarray(False),
        steps=jnp.zeros((), int),
        rejected=jnp.zeros((), int),
        status=as_code(jnp.where(moves, Status.running, Status.stationary_start)),
        plateaus=Plateaus.none(),
    )


def change_solver(flow: Flow, position: Position, solver: Any, rtol: Array) -> Position:
    """The same position for another solver. A run that had only used up its steps goes on."""
    terms = _terms(flow)
    ready = _with_tolerances(solver, flow, position.state, rtol)
    return eqx.tree_at(
        lambda p: (p.control, p.solver, p.restart, p.status),
        position,
        (
            StepControl(rtol).init(terms, position.h, order_of(solver, terms)),
            ready.init(terms, jnp.zeros(()), position.h, position.state, position.gauge),
            jnp.asarray(False),
            as_code(jnp.where(position.status == Status.max_steps, int(Status.running), position.status)),
        ),
    )


def order_of(solver: Any, terms: Any) -> int:
    order = solver.error_order(terms)
    assert order is not None
    return order


def refuse_points(position: Position, clock: AbstractClock, targets: Float[Array, " S"]) -> Position:
    """For points that could not be looked at before the run: a status if they do not increase from the start."""
    begin = position.gamma if clock.counts_loss else -jnp.inf
    # The stop repeats the last save point where they are equal.
    good = jnp.all(targets[1:] >= targets[:-1]) & jnp.all(jnp.diff(targets[:-1]) > 0) & (targets[0] > begin)
    status = as_code(jnp.where(good, position.status, int(Status.bad_points)))
    return eqx.tree_at(lambda p: p.status, position, status)


class _Landing(eqx.Module):
    """An excursion to a save point: where it stands, how far the point is, and the position that the path goes on from
    after the last one."""

    active: Bool[Array, ""]
    at: Position
    left: Float[Array, ""]
    tries: Int[Array, ""]
    ahead: Position
    dense: Any


def reading(flow: Flow, clock: AbstractClock, state: Array, gauge: Array) -> Array:
    """The inner coordinate of the clock."""
    return flow.gamma(state[:-1]) if clock.counts_loss else flow.log_time(state, gauge)


def beyond(clock: AbstractClock, reached: Array, target: Array) -> Array:
    """How far a reading is beyond a target. In time the difference is that of t itself: log t is -inf at the start."""
    return reached - target if clock.counts_loss else jnp.expm1(reached - target)


def passage(flow: Flow, clock: AbstractClock, along: Any, reach: Array, gauge: Array, target: Array) -> Array:
    """How far the target is from the start of a step that passes it within `reach`, by its dense output `along`."""
    # Gamma may grow by many orders of magnitude in a step.
    even = (lambda v: jnp.arcsinh(v)) if clock.counts_loss else (lambda v: v)
    return reach * root(lambda x: beyond(clock, even(reading(flow, clock, along(x * reach), gauge)), even(target)))


def advance(
    flow: Flow,
    position: Position,
    saves: Saves,
    clock: AbstractClock,
    targets: Float[Array, " S"],
    solver: Any,
    rtol: Float[Array, ""],
    budget: Int[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Position, Saves]:
    """Take up to `budget` steps, or stop where the last of `targets` (inner coordinates of `clock`) is passed."""
    # The landing depends on its target; which step passes it does not.
    aims, targets = targets, jax.lax.stop_gradient(targets)
    terms = _terms(flow)
    order = order_of(solver, terms)
    implicit = isinstance(solver, LogRadau)
    zero = jnp.zeros(())
    last = targets.shape[0]
    until = position.steps + position.rejected + budget

    value = functools.partial(reading, flow, clock)
    distance = functools.partial(beyond, clock)

    def take(p: Position):
        ready = _with_tolerances(solver, flow, p.state, rtol)
        return ready.step(terms, zero, p.h, p.state, p.gauge, p.solver, made_jump=p.restart)

    def depart(p: Position, ahead: Position, dense, k) -> _Landing:
        along = solver.interpolation_cls(t0=zero, t1=p.h, **dense).evaluate
        left = jax.lax.stop_gradient(passage(flow, clock, along, p.h, p.gauge, targets[jnp.minimum(k, last - 1)]))
        start = eqx.tree_at(lambda q: (q.h, q.status), p, (left, ahead.status))
        if implicit:
            start = eqx.tree_at(lambda q: q.solver, start, solver.again(p.solver, ahead.solver))
        return _Landing(jnp.asarray(True), start, left, jnp.zeros((), int), ahead, dense)

    def attempt(p: Position):
        """A step from `p`: where it leads, whether to keep it, and `p` as it tries again."""
        y1, e, dense, solver_state, result = take(p)
        e = jnp.where(result == diffrax.RESULTS.successful, e, jnp.inf)
        size, sight = flow.error(e, p.state, p.sight, y1)
        size = solver.local_error(flow, size, p.state, p.sight, y1, solver_state) if implicit else size
        size = jnp.where(jnp.all(jnp.isfinite(y1)), size, jnp.inf)
        keep, h_next, control = StepControl(rtol).adapt(size, p.h, order, p.control)
        # The loss cannot rise along a gradient flow: a step on which it does, beyond rounding, is wrong.
        noise = 16 * jnp.maximum(sight.rounding, p.sight.rounding)
        rises = ~(sight.gamma >= p.gamma - noise)
        h_next = jax.lax.stop_gradient(jnp.where(keep & rises, 0.3 * p.h, h_next))
        keep = keep & ~rises
        extent = flow.chart.extent(p.state[:-1])
        stalled = ~keep & (h_next * flow.chart.length(p.state[:-1]) <= 4 * _EPS * extent) | (h_next < 1e-300)
        if isinstance(flow.loss, Square):
            # A loss that is all rounding says nothing any more.
            stalled = stalled | (jnp.where(keep, sight.rounding, p.sight.rounding) > 0.5)
        if implicit:
            stalled = stalled | flow.outlasts_float64(p.state[:-1], p.log_time)
        waits = as_code(jnp.where(stalled, Status.step_too_small, Status.running))
        plateaus, seeded = p.plateaus, jnp.asarray(False)
        if isinstance(flow.chart, EuclideanChart):
            # Other charts keep small directions apart.
            log_time = jnp.log(y1[-1]) + p.gauge + sight.gamma
            moved = p.h * flow.chart.length(p.state[:-1]) / extent
            plateaus, seeded = plateaus.passing(p.log_time, log_time, moved, rtol)
        far = jnp.abs(jnp.log(y1[-1])) > GAUGE_RANGE
        shift = jax.lax.stop_gradient(jnp.where(far, jnp.log(y1[-1]), 0.0))
        after = Position(
            state=jnp.append(flow.chart.tidied(y1[:-1]), y1[-1] * jnp.exp(-shift)),
            gauge=p.gauge + shift,
            sight=sight,
            h=h_next,
            control=control,
            solver=solver_state,
            restart=(shift != 0) | flow.chart.graded,
            steps=p.steps + 1,
            rejected=p.rejected,
            status=as_code(jnp.where(seeded, int(Status.seeded), waits)),
            plateaus=plateaus,
        )
        again = p.solver
        if implicit:
            # A step that was solved but missed the tolerance is where the shorter one starts to look.
            again = _pick(jnp.isfinite(size), solver.again(again, solver_state), solver.failed(again))
        retry = eqx.tree_at(
            lambda q: (q.h, q.control, q.solver, q.rejected, q.status),
            p,
            (h_next, control, again, p.rejected + 1, waits),
        )
        return y1, dense, keep, after, retry

    def land(p: Position, landing: _Landing, saves: Saves, outcome) -> tuple[_Landing, Saves]:
        """What the step of an excursion has brought."""
        y1, _, keep, after, retry = outcome
        q, k = landing.at, saves.filled
        field, slope = solver.end_rates(after.solver) if implicit else rates(flow, y1, q.gauge)
        speed = slope if clock.counts_loss else field[-1] / y1[-1] + slope
        reached = value(y1, q.gauge)
        ds = (aims[jnp.minimum(k, last - 1)] - reached) / speed
        ds = jnp.where(jnp.isfinite(ds) & (jnp.abs(ds) < q.h), ds, 0.0)
        whole = keep & (q.h >= landing.left)
        # What is left is covered along the tangent once its square is below tolerance.
        close = jnp.sqrt(rtol) * 1e-2
        near = jnp.abs(ds) <= close * jnp.minimum(1.0, jnp.abs(reached / slope) if clock.counts_loss else 1.0)
        # Nothing nearer can be told than the rounding of the outputs, which is what residuals are made of at last.
        near = near | (jnp.abs(ds * speed) <= 8 * after.sight.rounding)
        landed = whole & near
        lost = whole & ~near & (landing.tries >= _MOST_TRIES)
        ended = y1 + ds * field
        put = lambda rows, v: rows.at[k].set(jnp.where(landed, v, rows[k]), mode="drop")
        saves = Saves(
            put(saves.coordinates, ended[:-1]),
            put(saves.gamma, flow.gamma(ended[:-1])),
            put(saves.log_time, flow.log_time(ended, q.gauge)),
            k + landed.astype(int),
        )
        # A shortened step goes part of the way; a whole one that missed is repeated with its length corrected.
        ds = jax.lax.stop_gradient(ds)
        part = keep & ~whole
        left = jnp.where(part, landing.left - q.h, jnp.where(whole, landing.left + ds, landing.left))
        nxt = _pick(part, after, _pick(whole, eqx.tree_at(lambda r: r.solver, q, retry.solver), retry))
        h = jnp.where(whole, left, jnp.minimum(nxt.h, left))
        status = jnp.where(whole, Status.running, nxt.status)
        status = as_code(jnp.where(lost, int(Status.step_too_small), status))
        at = eqx.tree_at(lambda r: (r.h, r.status), nxt, (h, status))
        on = _Landing(landing.active, at, left, landing.tries + 1, landing.ahead, landing.dense)
        target = targets[jnp.minimum(saves.filled, last - 1)]
        more = (saves.filled < last) & (distance(value(landing.ahead.state, landing.ahead.gauge), target) >= 0)
        on = jax.lax.cond(
            landed & more, lambda: depart(p, landing.ahead, landing.dense, saves.filled), lambda: on
        )
        return eqx.tree_at(lambda o: o.active, on, ~landed | more), saves

    def body(carry):
        p, landing, saves = carry
        outcome = attempt(_pick(landing.active, landing.at, p))
        _, dense, keep, after, retry = outcome

        def on_excursion(p, landing, saves):
            landing, saves = land(p, landing, saves, outcome)
            done = saves.filled == last
            onward = landing.ahead
            p = _pick(landing.active | done, p, onward)
            status = jnp.where(landing.active, landing.at.status, p.status)
            return with_status(p, jnp.where(done, Status.success, status)), landing, saves

        def on_the_path(p, landing, saves):
            k = jnp.minimum(saves.filled, last - 1)
            passes = keep & (saves.filled < last) & (distance(value(after.state, after.gauge), targets[k]) >= 0)
            landing = jax.lax.cond(passes, lambda: depart(p, after, dense, k), lambda: landing)
            p = _pick(passes, p, _pick(keep, after, retry))
            return p, landing, saves

        p, landing, saves = jax.lax.cond(landing.active, on_excursion, on_the_path, p, landing, saves)
        out = (p.status == Status.running) & ~landing.active & (p.steps + p.rejected >= max_steps)
        return with_status(p, jnp.where(out, Status.max_steps, p.status)), landing, saves

    def unfinished(carry):
        p, landing, _ = carry
        return (p.status == Status.running) & (landing.active | (p.steps + p.rejected < until))

    blank = jax.eval_shape(lambda p: take(p)[2], position)
    blank = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), blank)
    idle = _Landing(jnp.asarray(False), position, zero, jnp.zeros((), int), position, blank)
    position, _, saves = jax.lax.while_loop(unfinished, body, (position, idle, saves))
    return position, saves


def _pick(condition: Any, yes: Any, no: Any) -> Any:
    return jax.lax.cond(condition, lambda: yes, lambda: no)


def with_status(p: Position, status: Array) -> Position:
    return eqx.tree_at(lambda q: q.status, p, as_code(status))


def rates(flow: Flow, state: Array, gauge: Array) -> tuple[Array, Array]:
    """Derivatives of the state and of gamma along the arc length."""
    return flow.field(jnp.zeros(()), state, gauge), flow.rate(state[:-1]).gamma


def root(f) -> Array:
    """Root in [0, 1] of an increasing f with f(0) < 0 <= f(1), by the Illinois method with bisection in between."""

    def step(carry):
        lo, hi, flo, fhi, side, n = carry
        secant = hi - fhi * (hi - lo) / (fhi - flo)
        inside = (secant > lo) & (secant < hi) & (n % 4 != 3)
        x = jnp.where(inside, secant, 0.5 * (lo + hi))
        fx = f(x)
        up = fx >= 0
        # Illinois: an end that stays twice loses half of its weight.
        flo_, fhi_ = jnp.where(up & (side == 1), 0.5 * flo, flo), jnp.where(~up & (side == -1), 0.5 * fhi, fhi)
        return (
            jnp.where(up, lo, x),
            jnp.where(up, x, hi),
            jnp.where(up, flo_, fx),
            jnp.where(up, fx, fhi_),
            jnp.where(up, 1, -1),
            n + 1,
        )

    def wide(carry):
        lo, hi, _, fhi, _, n = carry
        return (n < 60) & (hi - lo > 1e-9 * hi) & (fhi > 0)

    one = jnp.ones(())
    lo, hi, flo, fhi, _, _ = jax.lax.while_loop(wide, step, (0 * one, one, f(0 * one), f(one), 0, 0))
    return jnp.where(fhi <= 0, hi, jnp.where(jnp.isfinite(flo) & (fhi > flo), hi - fhi * (hi - lo) / (fhi - flo), hi))


def conclude(
    flow: Flow, position: Position, saves: Saves, clock: AbstractClock, targets: Float[Array, " S"]
) -> tuple[Position, Saves]:
    """Tell a flow that has come to rest from one that float64 cannot resolve. In time, one at its minimum or with a
    velocity of exactly zero rests on."""
    a = position.state[:-1]
    outputs = flow.chart.outputs(a, flow.X)
    stalled = position.status == Status.step_too_small
    still = stalled & flow.at_rest(a)
    settled = still | stalled & (flow.rate(a).gamma < 1e-6 * jnp.maximum(1.0, jnp.abs(position.gamma)))
    floor, minimum = stalled & flow.at_floor(outputs), jnp.asarray(False)
    if flow.chart.readout(a) is not None and flow.X.ndim == 2:
        # The loss is convex in beta: a vanishing gradient there is the minimum, and not a saddle of the parameters.
        pulls = flow.loss.weights(outputs, flow.y)[:, None] * flow.X
        minimum = settled & (_norm(jnp.sum(pulls, axis=0)) <= 1e-6 * jnp.sum(jnp.abs(pulls)))
    status = jnp.where(settled, Status.settled, position.status)
    status = jnp.where(minimum, Status.minimum, status)
    status = jnp.where(stalled & flow.outlasts_float64(a, position.log_time), Status.plateau, status)
    status = jnp.where(floor, Status.residual_floor, status)
    if not clock.counts_loss:
        rests = minimum | floor | still
        rest = rests & (jnp.arange(targets.shape[0]) >= saves.filled)
        status = jnp.where(rests, Status.success, status)
        saves = Saves(
            jnp.where(rest[:, None], a[None], saves.coordinates),
            jnp.where(rest, position.gamma, saves.gamma),
            jnp.where(rest, targets, saves.log_time),
            jnp.where(rests, targets.shape[0], saves.filled),
        )
    return eqx.tree_at(lambda p: p.status, position, status), saves


def _norm(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2))
