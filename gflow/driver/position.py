"""Where the integration stands, and what it has saved: at the start, and as another solver takes over."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..clocks import AbstractClock
from ..falls import Falls
from ..flow import Flow, Sight
from ..plateaus import Plateaus
from ..solvers import first_step, FlowTerm, LogRadau, StepControl
from ..status import as_code, Status


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
    # Of the path, by which it is seen if rounding decides it.
    plateaus: Plateaus | Falls

    @property
    def gamma(self) -> Float[Array, ""]:
        return self.sight.gamma

    @property
    def log_time(self) -> Float[Array, ""]:
        return jnp.log(self.state[-1]) + self.gauge + self.sight.log_unit

    def inner(self, clock: AbstractClock) -> Float[Array, ""]:
        """The inner coordinate of the clock."""
        return self.gamma if clock.counts_loss else self.log_time


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


def terms_of(flow: Flow) -> FlowTerm:
    return FlowTerm(flow.field)


def with_tolerances(solver: Any, flow: Flow, state: Array, rtol: Array) -> Any:
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
    gauge = jax.lax.stop_gradient(flow.log_pace(a, rate))
    state = jnp.append(a, 0.0)
    sight, units = flow.sight(a), flow.chart.unit_sizes(a)
    h = first_step(flow, a)
    solver_ = with_tolerances(solver, flow, state, rtol)
    terms = terms_of(flow)
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
        plateaus=Plateaus.none() if units is None else Falls.begin(*units),
    )


def change_solver(flow: Flow, position: Position, solver: Any, rtol: Array) -> Position:
    """The same position for another solver. A run that had only used up its steps goes on."""
    terms = terms_of(flow)
    ready = with_tolerances(solver, flow, position.state, rtol)
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


def with_status(p: Any, status: Any) -> Any:
    """A position, of this driver or of another."""
    return eqx.tree_at(lambda q: q.status, p, as_code(status))
