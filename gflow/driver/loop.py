"""One loop for everything: it takes one step of a Diffrax solver at a time and looks.

Where a step passes save points, the path waits while each is landed on: the point is found on the dense output, and an
excursion from the start of the step goes there, by steps of full order under the same error control. The path itself is
never shortened by save points, and a step that passes the stop is not kept: whoever resumes repeats it and finds the
same path, bit for bit.
"""

import dataclasses
import functools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..charts import EuclideanChart
from ..clocks import AbstractClock
from ..falls import Falls
from ..flow import Flow
from ..plateaus import Plateaus
from ..solvers import LogRadau, StepControl
from ..status import as_code, Status
from .passage import beyond, passage
from .position import order_of, Position, Saves, terms_of, with_status, with_tolerances

# The time in the state is brought back to size one when it leaves exp(+-GAUGE_RANGE).
GAUGE_RANGE = 60.0
# Steps of an excursion, after which a save point that cannot be met ends the run. Two or three are usual.
_MOST_TRIES = 60
_EPS = float(jnp.finfo(jnp.float64).eps)


class _Landing(eqx.Module):
    """An excursion to a save point: where it stands, how far the point is, and the position that the path goes on from
    after the last one, with what is known of the step that led there: the solver's state from which to repeat it, and
    its dense output."""

    active: Bool[Array, ""]
    at: Position
    left: Float[Array, ""]
    tries: Int[Array, ""]
    ahead: Position
    again: Any
    dense: Any


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
    terms = terms_of(flow)
    order = order_of(solver, terms)
    implicit = isinstance(solver, LogRadau)
    zero = jnp.zeros(())
    last = targets.shape[0]
    until = position.steps + position.rejected + budget

    def passes(p: Position, k):
        """Whether the save point `k` is behind `p`."""
        return (k < last) & (beyond(clock, p.inner(clock), targets[jnp.minimum(k, last - 1)]) >= 0)

    def take(p: Position):
        ready = with_tolerances(solver, flow, p.state, rtol)
        return ready.step(terms, zero, p.h, p.state, p.gauge, p.solver, made_jump=p.restart)

    def depart(p: Position, landing: _Landing, k) -> _Landing:
        ahead = landing.ahead
        along = solver.interpolation_cls(t0=zero, t1=p.h, **landing.dense).evaluate
        target = targets[jnp.minimum(k, last - 1)]
        ends = p.inner(clock), ahead.inner(clock)
        left = jax.lax.stop_gradient(passage(flow, clock, along, p.h, p.gauge, target, ends))
        start = dataclasses.replace(p, h=left, status=ahead.status, solver=landing.again)
        return _Landing(jnp.asarray(True), start, left, jnp.zeros((), int), ahead, landing.again, landing.dense)

    def attempt(p: Position):
        """A step from `p`: where it leads, whether to keep it, and `p` as it tries again."""
        y1, e, dense, solver_state, result = take(p)
        e = jnp.where(result == diffrax.RESULTS.successful, e, jnp.inf)
        local_error = functools.partial(solver.local_error, flow, solver_state) if implicit else flow.error
        size, sight = local_error(e, p.state, p.sight, y1)
        size = jnp.where(jnp.all(jnp.isfinite(y1)), size, jnp.inf)
        keep, h_next, control = StepControl(rtol).adapt(size, p.h, order, p.control)
        if implicit:
            h_next = jnp.where(jnp.isfinite(size), h_next, solver.retried(flow, p.solver, p.h, h_next))
        # The loss cannot rise along a gradient flow: a step on which it does, beyond rounding, is wrong.
        noise = 16 * jnp.maximum(sight.rounding, p.sight.rounding)
        rises = ~(sight.gamma >= p.gamma - noise)
        h_next = jax.lax.stop_gradient(jnp.where(keep & rises, 0.3 * p.h, h_next))
        keep = keep & ~rises
        extent = flow.chart.extent(p.state[:-1])
        stalled = ~keep & (h_next * flow.chart.length(p.state[:-1]) <= 4 * _EPS * extent) | (h_next < 1e-300)
        stalled = stalled | jnp.where(keep, flow.all_rounding(sight), flow.all_rounding(p.sight))
        if implicit:
            stalled = stalled | flow.outlasts_float64(p.state[:-1], p.log_time)
        waits = as_code(jnp.where(stalled, Status.step_too_small, Status.running))
        plateaus, seeded = p.plateaus, jnp.asarray(False)
        if isinstance(flow.chart, EuclideanChart) and not flow.chart.graded:
            # Other charts keep small directions apart.
            log_time = jnp.log(y1[-1]) + p.gauge + sight.log_unit
            moved = p.h * flow.chart.length(p.state[:-1]) / extent
            assert isinstance(plateaus, Plateaus)
            plateaus, seeded = plateaus.passing(p.log_time, log_time, moved, rtol)
        a, ahead = y1[:-1], solver_state
        if flow.chart.graded:
            a, ahead = solver.tidied(flow.chart, a, ahead) if implicit else (flow.chart.tidied(a, a[None])[0], ahead)
        if isinstance(plateaus, Falls):
            units = flow.chart.unit_sizes(a)
            assert units is not None
            plateaus, seeded = plateaus.passing(*units, rtol)
        far = jnp.abs(jnp.log(y1[-1])) > GAUGE_RANGE
        shift = jax.lax.stop_gradient(jnp.where(far, jnp.log(y1[-1]), 0.0))
        after = Position(
            state=jnp.append(a, y1[-1] * jnp.exp(-shift)),
            gauge=p.gauge + shift,
            sight=sight,
            h=h_next,
            control=control,
            solver=ahead,
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
        # Solvers of no state of their own have None there, which `eqx.tree_at` does not find.
        retry = dataclasses.replace(
            p, h=h_next, control=control, solver=again, rejected=p.rejected + 1, status=waits
        )
        return y1, dense, keep, after, retry

    def land(landing: _Landing, saves: Saves, outcome) -> tuple[_Landing, Saves]:
        """What the step of an excursion has brought. It is active until it has landed."""
        y1, _, keep, after, retry = outcome
        q, k = landing.at, saves.filled
        field, slope, log_rate = solver.end_rates(after.solver) if implicit else flow.rates(y1, q.gauge)
        speed = slope if clock.counts_loss else log_rate
        reached = after.inner(clock)
        # Without a speed it cannot be met, unless it is met already.
        ds = (aims[jnp.minimum(k, last - 1)] - reached) / jnp.where(speed == 0, jnp.finfo(speed.dtype).tiny, speed)
        whole = keep & (q.h >= landing.left)
        # What is left is covered along the tangent once its square is below tolerance.
        close = jnp.sqrt(rtol) * 1e-2
        near = jnp.abs(ds) <= close * jnp.minimum(1.0, jnp.abs(reached / slope) if clock.counts_loss else 1.0)
        # Nothing nearer can be told than the rounding of gamma, or of F / L: at last residuals are that of the outputs.
        blur = _EPS if flow.counts_time and not clock.counts_loss else after.sight.rounding
        near = near | (jnp.abs(ds * speed) <= 8 * blur)
        landed = whole & near
        lost = whole & ~near & (landing.tries >= _MOST_TRIES)
        ended = y1 + ds * field
        gamma = flow.gamma(ended[:-1])
        put = lambda rows, v: rows.at[k].set(jnp.where(landed, v, rows[k]), mode="drop")
        saves = Saves(
            put(saves.coordinates, ended[:-1]),
            put(saves.gamma, gamma),
            put(saves.log_time, jnp.log(ended[-1]) + q.gauge + flow.log_unit(gamma)),
            k + landed.astype(int),
        )
        # A shortened step goes part of the way; a whole one that missed is repeated with its length corrected.
        ds = jax.lax.stop_gradient(jnp.clip(jnp.where(jnp.isnan(ds), 0.0, ds), -0.9 * q.h, q.h))
        part = keep & ~whole
        left = jnp.where(part, landing.left - q.h, jnp.where(whole, landing.left + ds, landing.left))
        nxt = _pick(part, after, _pick(whole, dataclasses.replace(q, solver=retry.solver), retry))
        h = jnp.where(whole, left, jnp.minimum(nxt.h, left))
        status = jnp.where(whole, Status.running, nxt.status)
        status = as_code(jnp.where(lost, int(Status.step_too_small), status))
        at = eqx.tree_at(lambda r: (r.h, r.status), nxt, (h, status))
        after_all = landing.ahead, landing.again, landing.dense
        return _Landing(~landed, at, left, landing.tries + 1, *after_all), saves

    def body(carry):
        p, landing, saves = carry
        outcome = attempt(_pick(landing.active, landing.at, p))
        _, dense, keep, after, retry = outcome

        def on_excursion(p, landing, saves):
            landing, saves = land(landing, saves, outcome)
            departs = ~landing.active & passes(landing.ahead, saves.filled)
            done = saves.filled == last
            p = _pick(landing.active | departs | done, p, landing.ahead)
            status = jnp.where(landing.active, landing.at.status, p.status)
            return with_status(p, jnp.where(done, Status.success, status)), landing, saves, departs

        def on_the_path(p, landing, saves):
            departs = keep & passes(after, saves.filled)
            landing = dataclasses.replace(landing, ahead=after, again=retry.solver, dense=dense)
            return _pick(departs, p, _pick(keep, after, retry)), landing, saves, departs

        p, landing, saves, departs = jax.lax.cond(landing.active, on_excursion, on_the_path, p, landing, saves)
        landing = jax.lax.cond(
            departs, lambda: depart(p, landing, saves.filled), lambda: landing
        )
        out = (p.status == Status.running) & ~landing.active & (p.steps + p.rejected >= max_steps)
        return with_status(p, jnp.where(out, Status.max_steps, p.status)), landing, saves

    def unfinished(carry):
        p, landing, _ = carry
        return (p.status == Status.running) & (landing.active | (p.steps + p.rejected < until))

    blank = jax.eval_shape(lambda p: take(p)[2], position)
    blank = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), blank)
    idle = _Landing(jnp.asarray(False), position, zero, jnp.zeros((), int), position, position.solver, blank)
    position, _, saves = jax.lax.while_loop(unfinished, body, (position, idle, saves))
    return position, saves


def _pick(condition: Any, yes: Any, no: Any) -> Any:
    return jax.lax.cond(condition, lambda: yes, lambda: no)
