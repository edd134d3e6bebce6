"""The loop of a flow with kinks: one step of a Diffrax solver on a fixed pattern at a time, up to the next event.

An accepted step is looked over for events by the quartics through the slacks. The first one is located on the dense
output; if that is not accurate enough there, the step is repeated up to it. Then the pattern of one neuron changes,
and nothing else is computed anew. Where a slack turns within the tolerance of zero, the run cannot tell whether it
meets its kink; it goes on by its own path, and says so in its events. Same functions as `gflow.driver`, for
`gflow.gradient_flow`.
"""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .. import driver
from ..clocks import AbstractClock
from ..driver import Saves
from ..flow import Flow
from ..losses import Square
from ..solvers import FlowTerm, LogRadau, StepControl
from ..status import as_code, Status
from .chart import Pattern, PiecewiseChart
from .events import at_start, blur, decide, empty_log, EventLog, KINDS, slack_at, slack_of, Watch, watch
from .search import first_meeting

_EPS = float(jnp.finfo(jnp.float64).eps)
# The dense output serves so near to the ends of a step, where its error is of second order in the distance. A step is
# repeated up to a little beyond the event, so that it is found again.
_NEAR = 1e-5
# Elsewhere it serves where its error is below this share of the tolerance.
_DENSE = 0.03
_BEYOND = 1e-6
# Pulls of the two sides closer than this, relative to all pulls, are one.
_NARROW = 1e-9


def solver_for(solver: Any) -> Any:
    """The solver of the pieces: many are short, so the order is moderate."""
    if isinstance(solver, diffrax.AbstractImplicitSolver | LogRadau):
        raise ValueError(
            f"solver must be an explicit one for a model that declares its kinks, not {type(solver).__name__}; use "
            "diffrax.Tsit5() or leave it out."
        )
    return diffrax.Tsit5(scan_kind="lax") if solver is None else solver


class Position(driver.Position):
    """Where the integration stands, and the pattern it is on."""

    pattern: Pattern
    armed: Bool[Array, "3 m k"]
    # Which slacks have been well above zero since they last came to it.
    clear: Bool[Array, "3 m k"]
    watch: Watch
    log: EventLog


def at(flow: Flow, position: Any) -> Flow:
    """The flow on the pattern of the position."""
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    return eqx.tree_at(lambda f: f.chart, flow, chart.on(position.pattern))


def start(flow: Flow, solver: Any, rtol: Array) -> Position:
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
    # An event moves with all that the flow depends on, which the loop does not differentiate.
    flow, a = eqxi.nondifferentiable((flow, chart.coordinates()), name="the flow of a network with kinks")
    v, output = chart.split(a)
    m, k = chart.pattern.sides.shape
    signs = jnp.sign(v @ chart.directions.T)
    p, n = chart.pulls(flow.loss.weights(chart.outputs(a, flow.X), flow.y))
    every = jax.lax.map(lambda one: at_start(chart, one[0], one[1], p, n), (v, jnp.broadcast_to(output, (m,))))
    pattern = Pattern.of(every.sides, every.holds)
    flow = eqx.tree_at(lambda f: f.chart, flow, chart.on(pattern))
    base = driver.start(flow, solver, rtol)
    log = empty_log(m, k)

    def note(j, log):
        row, on = every.sides[j], signs[j] == 0
        origin = jnp.all(on)
        held = jnp.sum(row == 0) >= v.shape[1]
        kinds = jnp.where(row == 0, jnp.where(every.unique[j], 2, 5), jnp.where(row > 0, 0, 1))
        kinds = jnp.where(origin, jnp.where(held, 5, 0), kinds)
        on = jnp.where(origin, jnp.arange(k) == 0, on)
        return log.add(on, -jnp.inf, base.gamma, j, jnp.where(origin, -1, chart.samples), kinds, every.unique[j], True)

    log = jax.lax.fori_loop(0, m, note, log)
    seen = watch(flow, a)
    status = jnp.where(jnp.any(every.dependent), int(Status.kinks_meet), base.status)
    status = jnp.where(chart.shared, int(Status.parallel_samples), status)
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    fields |= dict(status=as_code(status), clear=seen.slack > 8 * seen.rounding)
    return Position(**fields, pattern=pattern, armed=seen.armed, watch=seen, log=log)


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
    whole = flow
    zero = jnp.zeros(())
    last = targets.shape[0]
    until = position.steps + position.rejected + budget
    order = driver.order_of(solver, FlowTerm(flow.field))

    def take(flow, p, h):
        return solver.step(FlowTerm(flow.field), zero, h, p.state, p.gauge, p.solver, made_jump=p.restart)

    def body(carry):
        p, saves = carry
        flow = at(whole, p)
        y1, e, dense, solver_state, result = take(flow, p, p.h)
        along = solver.interpolation_cls(t0=zero, t1=p.h, **dense).evaluate
        chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
        balanced = lambda state: jnp.append(chart.balanced(state[:-1]), state[-1])
        y1 = balanced(y1)
        e = jnp.where(result == diffrax.RESULTS.successful, e, jnp.inf)
        size, sight = flow.error(e, p.state, p.sight, y1)
        size = jnp.where(jnp.all(jnp.isfinite(y1)), size, jnp.inf)
        keep, h_next, control = StepControl(rtol).adapt(size, p.h, order, p.control)
        # The dense output meets the equation at the ends.
        seen = watch(flow, y1[:-1], jax.jvp(along, (p.h,), (jnp.ones(()),))[1][:-1])
        # A kink that repels and is stayed on has no event until it attracts.
        stayed = ~p.armed & (p.pattern.sides == 0)[None]
        open_ = lambda slack: jnp.where(stayed, jnp.inf, slack)
        ends = (open_(p.watch.slack), p.h * p.watch.drift, open_(seen.slack), p.h * seen.drift)
        fuzz = blur(p.watch, rtol)
        # Of a step that is not kept, nothing.
        middle = open_(slack_at(flow, along(0.5 * p.h)[:-1])[0])
        meeting, turns = first_meeting(ends, middle, p.watch.scale, jnp.where(keep, fuzz, -jnp.inf), p.armed)
        hit, index = meeting.x < jnp.inf, meeting.which
        x, found, sharp = _locate(flow, along, p, rtol, hit, jnp.minimum(meeting.x, 1.0), index, meeting.slope, size)
        lands, repeat = hit & sharp, hit & ~sharp
        state, sight = jax.lax.cond(lands, lambda: _there(flow, balanced(along(x * p.h))), lambda: (y1, sight))
        # The loss cannot rise along a gradient flow: a step on which it does, beyond rounding, is wrong.
        noise = 16 * jnp.maximum(sight.rounding, p.sight.rounding)
        rises = keep & ~repeat & ~(sight.gamma >= p.gamma - noise)
        keep = keep & ~repeat & ~rises
        again = jnp.where(found, x * (1.0 + _BEYOND), jnp.clip(x, 1e-3, 0.5)) * p.h
        h_next = jnp.where(rises, 0.3 * p.h, jnp.where(repeat, again, h_next))
        extent = jnp.sqrt(jnp.mean(p.state[:-1] ** 2))
        stalled = ~keep & ~repeat & (h_next * flow.chart.length(p.state[:-1]) <= 4 * _EPS * extent)
        stalled = stalled | (h_next < 1e-300)
        if isinstance(flow.loss, Square):
            # A loss that is all rounding says nothing any more.
            empty = keep & ~(sight.rounding <= 0.5)
            keep, lands, stalled = keep & ~empty, lands & ~empty, stalled | empty
        # An event at the very start leaves no time behind.
        far = keep & (state[-1] > 0) & (jnp.abs(jnp.log(state[-1])) > driver.GAUGE_RANGE)
        shift = jnp.where(far, jnp.log(state[-1]), 0.0)

        here = driver.reading(flow, clock, state, p.gauge)

        def land(saves):
            """The next save, which the step has passed."""

            def correction(y):
                """What is missing from `y` on, and a Newton step there, of length and in the state."""
                field, slope, log_rate = flow.rates(y, p.gauge)
                speed = slope if clock.counts_loss else log_rate
                missing = targets[saves.filled] - driver.reading(flow, clock, y, p.gauge)
                ds = missing / speed
                return missing, jnp.where(jnp.isfinite(ds), ds, 0.0), field

            def closer(carry):
                """One Newton step, and half of the bracket where that leaves it: the clock only ever rises."""
                low, high, s, _, _, count = carry
                y = take(flow, p, s)[0]
                missing, ds, field = correction(y)
                low, high = jnp.where(missing > 0, s, low), jnp.where(missing > 0, high, s)
                inside = (s + ds >= low - 1e-9 * reach) & (s + ds <= high + 1e-9 * reach)
                y = jnp.where(inside, y + ds * field, y)
                # Residuals that are exactly zero have no direction: the flow rests.
                y = jnp.where(jnp.all(jnp.isfinite(y)), y, p.state)
                off = jnp.where(inside, jnp.abs(ds), high - low)
                return low, high, jnp.where(inside, s + ds, 0.5 * (low + high)), y, off, count + 1

            reach = jnp.where(lands, x, 1.0) * p.h
            s = driver.passage(flow, clock, along, reach, p.gauge, targets[saves.filled], (p.inner(clock), here))
            # Two corrections at least: the last one, of an Euler step, is to be of rounding size.
            unfinished = lambda carry: (carry[5] < 2) | ((carry[4] > 1e-9 * reach) & (carry[5] < 40))
            found = (zero, reach, s, p.state, jnp.asarray(jnp.inf), 0)
            ended = jax.lax.while_loop(unfinished, closer, found)[3]
            # Where residuals are mostly rounding, no bracket holds what is left of time.
            _, ds, field = correction(ended)
            ended = jnp.where(jnp.abs(ds) <= 1e-2 * reach, ended + ds * field, ended)
            put = lambda rows, v: rows.at[saves.filled].set(v, mode="drop")
            log_time = flow.log_time(ended, p.gauge)
            if not clock.counts_loss:
                # At rest, or where residuals are rounding, time passes without a motion that tells it.
                rests = jnp.all(ended == p.state) | (p.sight.rounding > 0.1)
                log_time = jnp.where(rests, targets[saves.filled], log_time)
            return Saves(
                put(saves.coordinates, ended[:-1]),
                put(saves.gamma, flow.gamma(ended[:-1])),
                put(saves.log_time, log_time),
                saves.filled + 1,
            )

        due = lambda s: targets[jnp.minimum(s.filled, last - 1)]
        passed = lambda s: keep & (s.filled < last) & (driver.beyond(clock, here, due(s)) >= 0)
        # In a branch of its own, or XLA would move what does not change between saves out of the loop, to every step.
        saves = jax.lax.cond(passed(saves), lambda: jax.lax.while_loop(passed, land, saves), lambda: saves)
        done = saves.filled == last
        status = jnp.where(stalled, int(Status.step_too_small), int(Status.running))
        status = as_code(jnp.where(done, int(Status.success), status))
        # A step that passes the stop is not kept: whoever resumes repeats it.
        moves = keep & ~done
        turned = (turns <= jnp.where(lands, x, 1.0)) & p.clear & moves
        clear = (p.clear & ~turned) | (moves & ~lands & (seen.slack > fuzz))
        p = _note_turns(flow, along, p, jnp.where(turned, turns, jnp.inf))
        deep = seen.deep(p.watch, jnp.where(lands, x, 1.0) * p.h, fuzz)
        # Pattern and log are left where they are: they are large, and change only at events.
        moved = dict(state=state.at[-1].multiply(jnp.exp(-shift)), gauge=p.gauge + shift, sight=sight)
        moved |= dict(solver=solver_state, restart=lands | far, armed=p.armed | seen.armed, clear=clear, watch=seen)
        before = {name: getattr(p, name) for name in moved}
        chosen = jax.tree.map(lambda a, b: jnp.where(moves, a, b), moved, before)
        h, control = jax.tree.map(lambda a, b: jnp.where(done, b, a), (h_next, control), (p.h, p.control))
        steps, rejected = p.steps + moves.astype(int), p.rejected + (~moves & ~done).astype(int)
        p = dataclasses.replace(p, **chosen, h=h, control=control, steps=steps, rejected=rejected, status=status)
        least = fuzz[index]
        resolved = (p.clear[index] | (meeting.height > least)) & (meeting.depth > least)
        p = _meet(whole, p, moves, lands, index, resolved, deep, rtol)
        out = (p.status == Status.running) & (p.steps + p.rejected >= max_steps)
        return driver.with_status(p, jnp.where(out, int(Status.max_steps), p.status)), saves

    def unfinished(carry):
        p, _ = carry
        return (p.status == Status.running) & (p.steps + p.rejected < until) & (p.log.count < p.log.room)

    return jax.lax.while_loop(unfinished, body, (position, saves))  # pyright: ignore[reportReturnType]


def _there(flow: Flow, state: Array) -> tuple[Array, Any]:
    return state, flow.sight(state[:-1])


def _locate(
    flow: Flow, along: Any, p: Position, rtol: Array, hit: Array, x: Array, index: tuple, slope: Array, size: Array
):
    """An event, seen on the cubic of its slack, on the dense output: where, as a share of the step; whether it is found
    and whether the dense output is sharp enough there."""
    h = p.h
    rounding = p.watch.rounding[index]
    # The place is as sharp as the coordinates are.
    own = jnp.sqrt(jnp.mean(p.state[:-1] ** 2)) / flow.chart.length(p.state[:-1])
    sharpest = jnp.maximum(1e-13, 4 * _EPS * own / h)

    def closer(carry):
        x, _, n = carry
        slack = slack_of(flow, along(x * h)[:-1], index)
        moved = jnp.clip(x - slack / slope, 0.0, 1.0)
        return moved, jnp.where(jnp.abs(slack) <= rounding, 0.0, jnp.abs(moved - x)), n + 1

    unfinished = lambda carry: (carry[1] > sharpest) & (carry[2] < 8)
    root, dx, _ = jax.lax.while_loop(unfinished, closer, (x, jnp.where(hit, jnp.inf, 0.0), 0))
    # Beside the first zero of a dip there is a second one, through which the slack rises.
    way = lambda u: slack_of(flow, along(u)[:-1], index)
    falls = jax.lax.cond(hit, lambda: jax.jvp(way, (root * h,), (jnp.ones(()),))[1] < 0, lambda: jnp.asarray(False))
    found = (dx <= sharpest) & falls
    x = jnp.where(found, root, x)

    def defect(u):
        state, rate = jax.jvp(along, (u,), (jnp.ones(()),))
        return rate - flow.field(u, state, p.gauge)

    def sharp():
        # What the dense output misses of the equation, halfway and at the end.
        small = lambda u: flow.error(x * h * defect(u), p.state, p.sight, p.state)[0] <= _DENSE * rtol
        return jax.lax.cond(small(x * h), lambda: small(0.5 * x * h), lambda: jnp.asarray(False))

    near = jnp.minimum(x, 1.0 - x) <= _NEAR
    fine = jax.lax.cond(hit & found & ~near & (size <= _DENSE * rtol), sharp, lambda: jnp.asarray(False))
    return x, found, found & (near | fine)


def _note_turns(flow: Flow, along: Any, p: Position, turns: Array) -> Position:
    """Log what turned within the tolerance of zero, at these shares of the step."""
    chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]

    def note(carry):
        log, turns = carry
        index = jnp.unravel_index(jnp.argmin(turns), turns.shape)
        state = along(turns[index] * p.h)
        which = jnp.arange(turns.shape[2]) == index[2]
        when = flow.log_time(state, p.gauge), flow.gamma(state[:-1])
        log = log.add(which, *when, index[1], chart.samples, KINDS.index("near"), True, False)
        return log, turns.at[index].set(jnp.inf)

    log, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1] < jnp.inf), note, (p.log, turns))
    return eqx.tree_at(lambda q: q.log, p, log)


def _meet(
    whole: Flow, p: Position, moved: Array, hit: Array, index: tuple, resolved: Array, deep: Array, rtol: Array
) -> Position:
    """The pattern after the event `index`, if the step has hit one, and after those that happen at the same time."""

    def at_once(p: Position):
        w = p.watch
        now = p.armed & (w.slack <= w.rounding) & (w.drift < 0)
        return jnp.any(now), jnp.unravel_index(jnp.argmax(now), now.shape)

    def body(carry):
        p, _, (kind, j, k), resolved = carry
        flow = at(whole, p)
        chart: PiecewiseChart = flow.chart  # pyright: ignore[reportAssignmentType]
        a = p.state[:-1]
        v, output = chart.split(a)
        sides = p.pattern.sides[j].astype(int)
        this, slides = jnp.arange(sides.size) == k, sides == 0
        pulls = chart.pulls(flow.loss.weights(chart.outputs(a, flow.X), flow.y))
        # Both bounds of mu at once: a neuron that no other sample drives rests on the kink, which turns to repel.
        # That of a margin loss, which falls for ever, does not turn.
        all_pulls = jnp.sqrt(jnp.sum(pulls[0] ** 2 + pulls[1] ** 2))
        narrow = (kind > 0) & slides[k] & isinstance(flow.loss, Square)
        narrow = narrow & (jnp.abs(pulls[0][k] - pulls[1][k]) <= _NARROW * all_pulls)
        turns, stays = (kind == 0) & slides[k] | narrow, chart.at_kink < 0
        # It stays as one that is on the side whose pull is nothing.
        side = jnp.where(narrow & stays, -1, 1) * jnp.where(kind == 1, 1, -1)
        # Which way mu moves between the pulls of the two sides: a kink that turns to repel is left to the other one.
        w = p.watch
        growth = w.drift[2, j] * w.slack[1, j] - w.slack[2, j] * w.drift[1, j]
        left = jnp.where(this & (kind > 0), side, sides)
        left = jnp.where((kind == 0) & turns & ~stays & slides, jnp.where(growth > 0, -1, 1), left)
        met = this & (kind == 0) & ~slides
        new = decide(chart, v[j], output[j], left, met, this & slides, *pulls)
        kinds = jnp.where(slides, jnp.where(new.sides > 0, 3, 4), jnp.where(new.sides > 0, 0, 1))
        kinds = jnp.where(new.sides == 0, jnp.where(slides, 5, 2), kinds)
        changed = (new.sides != sides) | ((kind == 0) & turns & stays & slides)
        log_time = flow.log_time(p.state, p.gauge)
        log = p.log.add(changed, log_time, p.gamma, j, chart.samples, kinds, new.unique & ~turns, resolved)
        pattern = Pattern.of(p.pattern.sides.at[j].set(new.sides.astype(float)), p.pattern.holds.at[j].set(new.holds))
        state = jnp.append(chart.join(v.at[j].set(new.v), output), p.state[-1])
        seen = watch(eqx.tree_at(lambda f: f.chart, whole, chart.on(pattern)), state[:-1])
        armed = p.armed.at[:, j].set(seen.armed[:, j])
        beyond = seen.slack > blur(seen, rtol)
        clear = p.clear | beyond
        # The velocity of the neuron jumps: what fell towards another kink may rise now.
        turned = (w.drift[0, j] < 0) & (seen.drift[0, j] >= 0) & clear[0, j] & ~beyond[0, j] & ~changed & ~this
        log = log.add(turned, log_time, p.gamma, j, chart.samples, KINDS.index("near"), True, False)
        clear = clear.at[:, j].set(jnp.where(changed | this | turned, beyond[:, j], clear[:, j]))
        status = as_code(jnp.where(new.dependent, int(Status.kinks_meet), p.status))
        p = eqx.tree_at(
            lambda q: (q.state, q.pattern, q.armed, q.clear, q.watch, q.log, q.status),
            p,
            (state, pattern, armed, clear, seen, log, status),
        )
        more, following = at_once(p)
        return p, more & ~new.dependent, following, p.clear[following] & deep[following]

    tied, other = at_once(p)
    resolved = jnp.where(hit, resolved, p.clear[other] & deep[other])
    index = tuple(jnp.where(hit, i, j) for i, j in zip(index, other, strict=True))
    return jax.lax.while_loop(
        lambda carry: carry[1] & (carry[0].log.count < carry[0].log.room),
        body,
        (p, moved & (hit | tied), index, resolved),
    )[0]


def refuse_points(position: Position, clock: AbstractClock, targets: Array) -> Position:
    """As that of `gflow.driver`. Nobody can empty the log inside of a JAX transformation: it keeps what it has room
    for, and counts on."""
    refused = driver.refuse_points(position, clock, targets)
    return eqx.tree_at(lambda p: p.log.room, refused, jnp.asarray(jnp.iinfo(int).max, int))


def change_solver(flow: Flow, position: Position, solver: Any, rtol: Array) -> Position:
    return driver.change_solver(at(flow, position), position, solver, rtol)  # pyright: ignore[reportReturnType]


def rests_on(flow: Flow, position: Position, saves: Saves, targets: Array):
    return driver.rests_on(at(flow, position), position, saves, targets)


def conclude(flow: Flow, position: Position, saves: Saves, clock: AbstractClock, targets: Array):
    return driver.conclude(at(flow, position), position, saves, clock, targets)
