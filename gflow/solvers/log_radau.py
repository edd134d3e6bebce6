"""Radau IIA collocation in log form: the implicit step for stiff flows.

Late in training the flow is stiff with a ratio of about gamma, and a stock implicit solver has to find the weights
softmax(-m) by Newton's method although they change by e^(change of m). Here the dual variables of the samples, the
log-pace and gamma are unknowns of every stage (see `newton`), and they are carried from step to step: read off the
margins they would be rounding noise beyond gamma = 1e13.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..charts import AbstractChart, EuclideanChart
from ..flow import Flow, Sight
from ..losses import MarginLoss
from .collocation import lagrange, Polynomial, POWER, Tableau, tableau
from .elapsed import elapsed, elapsed_time
from .newton import (
    by_frozen_kernel,
    coordinates,
    freeze,
    in_full,
    in_samples,
    linearize,
    Linearized,
    newton,
    Solved,
    Stages,
)
from .reduction import reduce_rows, Reduction

# How much of the pull of a sample is missed on a step in which it joins or leaves those that carry weight: 0.001 to
# 0.05 was seen.
_KINK = 0.05
# Entries of a Jacobian above which one serves a whole step.
_LARGE = 20_000
# Largest Newton system, in unknowns, with the coordinates left in it.
_LARGEST_FULL = 600
# Below, the full system is compiled once, whatever it costs: in unknowns.
_SMALL_FULL = 100
# See `LogRadau.retried`; measured at saddles of the square loss.
_BESIDE, _ACROSS = 0.3, 100.0
# Failures after which the continuation is tried, which is dear.
_PATIENCE = 1


class FlowTerm(diffrax.ODETerm):
    """The term of a gradient flow: solvers made for flows find the flow in it."""

    @property
    def flow(self) -> Flow:
        return self.vector_field.__self__  # pyright: ignore[reportFunctionMemberAccess]


def _corner(flow: Flow, a: Array, unit: Array, end: Stages) -> Stages:
    """Stages of a path that leaves `a` along the coordinates that are not at rest.

    At a corner a coordinate reaches the point where its pulls cancel, and the next to move does so slower by orders of
    magnitude: the log-pace jumps, which no extrapolation says.
    """
    V, own = flow.chart.velocities(a, flow.X)
    V = V * jnp.exp(own - unit)
    c, _ = flow.loss.pull(end.dual[-1], flow.y)
    pull, size = c @ V, jnp.abs(c) @ jnp.abs(V)
    F = jnp.where(jnp.abs(pull) < 1e-3 * size, 0.0, pull)
    # Scaled: beside coordinates at rest the others' pull may be 1e-240.
    top = jnp.max(jnp.abs(F))
    F = F / jnp.where(top > 0, top, 1.0)
    norm = flow.chart.speed(a, F)
    R = -jnp.log(jnp.where(top > 0, norm * top, 1.0))
    rows = lambda v, like: jnp.broadcast_to(v, like.shape)
    return end._replace(F=rows(F / jnp.where(top > 0, norm, 1.0), end.F), R=rows(R, end.R))


def _anew(flow: Flow, a: Array, unit: Array, end: Stages) -> Stages:
    """Stages of a path that goes on as it starts at `a`: after a bend, as where other units come to lead."""
    v = flow.chart.velocity(a, flow.X, flow.loss.pull(end.dual[-1], flow.y)[0])
    R = -jnp.log(flow.chart.speed(a, v.direction))
    rows = lambda v, like: jnp.broadcast_to(v, like.shape)
    return end._replace(F=rows(v.direction * jnp.exp(R), end.F), R=rows(R - v.log_speed + unit, end.R))


def _reduction(flow: Flow, a: Array, stages: Stages) -> Reduction | None:
    if not (flow.chart.linear and isinstance(flow.loss, MarginLoss) and flow.X.shape[0] <= flow.X.shape[1]):
        return None
    one = jnp.ones((1, flow.X.shape[1]))
    importance = jnp.abs(flow.chart.jacobian(a, one) * flow.chart.velocities(a, one)[0])[0]
    return reduce_rows(flow.X, flow.y, importance, stages.dual[-1], stages.gamma[-1])


class _State(NamedTuple):
    """The stages of the last step, its size, and the derivatives of the state, gamma and log t at its end; the same of
    a step from there that is to be repeated with another size (none where `trial_h` is zero), and how many steps from
    there could not be solved; and the share of F = t L that no pace sustains."""

    stages: Stages
    unit: Float[Array, ""]
    h: Any
    trial: Stages
    trial_h: Any
    failures: Int[Array, ""]
    kink: Float[Array, " P+1"]
    field: Float[Array, " P+1"]
    slope: Float[Array, ""]
    log_rate: Float[Array, ""]
    excess: Float[Array, ""]


class LogRadau(diffrax.AbstractAdaptiveSolver):
    """Log-form Radau IIA collocation, for every loss.

    Works as a Diffrax solver inside `gflow.gradient_flow`: dense output, rejected steps and `vmap` as usual.

    **Arguments:**

    - `stages`: 3 (order 5) or 5 (order 9), any number from 2 on.
    - `max_newton`: iterations after which a step is given up and retried with a smaller one.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=2, scale=0.1)
        >>> traj = gflow.gradient_flow(model, X, y, stop=1e6, solver=gflow.LogRadau(), rtol=1e-6)
        >>> traj.success
        True

        ```
    """

    stages: int = eqx.field(default=5, static=True)
    max_newton: int = eqx.field(default=40, static=True)
    rtol: Any = None

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., Polynomial]] = Polynomial
    State: ClassVar = _State

    def order(self, terms):
        return 2 * self.stages - 1

    def error_order(self, terms):
        return POWER * self.stages

    def local_error(
        self, flow: Flow, state: _State, e: Array, before: Array, seen: Sight, after: Array
    ) -> tuple[Array, Sight]:
        """What the step misses by: for its smooth part from `e`, the relative size of the highest collocation
        coefficient, which falls like h^stages where the error falls like h^(2 stages) at best; and across kinks. And
        what is seen after it."""
        error = jax.vmap(lambda e: flow.error(e, before, seen, after), out_axes=(0, None))
        (smooth, kink), sight = error(jnp.stack([e, state.kink]))
        return jnp.maximum(smooth**POWER, kink), sight

    def init(self, terms, t0, t1, y0, args):
        flow, a = terms.flow, y0[:-1]
        dual, gamma = flow.loss.dual(flow.chart.outputs(a, flow.X), flow.y)
        V, unit = flow.chart.velocities(a, flow.X)
        F = flow.loss.pull(dual, flow.y)[0] @ V
        R = -jnp.log(flow.chart.speed(a, F))
        rows = lambda v: jnp.broadcast_to(v, (self.stages, *jnp.shape(v)))
        stages = Stages(rows(F * jnp.exp(R)), rows(dual), rows(R), rows(gamma))
        zero, none, still = jnp.zeros(()), jnp.zeros((), int), jnp.zeros_like(y0)
        return _State(stages, unit, jnp.asarray(t1 - t0), stages, zero, none, still, still, zero, zero, zero)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        flow: Flow = terms.flow
        radau = tableau(self.stages)
        a0, h = y0[:-1], t1 - t0
        hA = jnp.asarray(h * jnp.asarray(radau.A))
        _, unit = flow.chart.velocities(a0, flow.X)
        start = self._predict(flow, a0, hA, solver_state, h, radau.c)
        start = start._replace(R=start.R + unit - solver_state.unit)
        solved = self._solve(flow, a0, hA, unit, start, solver_state)
        stages = solved.stages
        a = coordinates(a0, hA, stages)
        pull, log_pace = jax.vmap(flow.loss.dual_slope, in_axes=(0, None, 0))(stages.dual, flow.y, stages.gamma)
        slopes = jax.vmap(lambda a, F, c: c @ jax.jvp(lambda b: flow.chart.outputs(b, flow.X), (a,), (F,))[1])(
            a, stages.F, pull
        )
        log_pace = stages.R + log_pace - unit - args
        if flow.counts_time:
            time = elapsed_time(jnp.asarray(h), log_pace + stages.gamma - flow.log_terms, y0[-1])
        else:
            climbs = stages.gamma - solver_state.stages.gamma[-1]
            time = elapsed(jnp.asarray(h), log_pace, slopes, climbs, y0[-1], solver_state.excess)
        values = jnp.concatenate([a, time.times[:, None]], axis=1)
        error = jnp.append(jnp.asarray(h * jnp.asarray(radau.top) @ stages.F), time.error * time.times[-1])
        error = jnp.where(solved.converged & (time.times[-1] > 0), error, jnp.inf)
        kink = jnp.append(h * self._kinks(flow, radau, a[-1], unit, stages, solver_state.stages.dual[-1]), 0.0)
        nodes = jnp.asarray(np.append(0.0, radau.c))
        dense = {"nodes": nodes, "values": jnp.concatenate([y0[None], values])}
        none = jnp.zeros_like(h), jnp.zeros((), int)
        field = jnp.append(stages.F[-1], time.rate)
        state = _State(stages, unit, h, stages, *none, kink, field, slopes[-1], time.log_rate, time.excess)
        return values[-1], error, dense, state, diffrax.RESULTS.successful

    def _solve(self, flow: Flow, a0: Array, hA: Array, unit: Array, start: Stages, last: _State) -> Solved:
        """Newton's method, and where it fails, from another guess: far out by interior-point continuation.

        Where a sample joins or leaves those that carry weight, the weights have a kink of relative width 1 / gamma,
        which no step resolves and a plain Newton iteration may not cross. With W replaced by blur * gamma * W in the
        rows m + W = gamma the kink has width `blur`: it is lowered from 0.1 until it has no effect. Early, the path has
        corners where a coordinate comes to rest on a plateau (see `_corner`).
        """
        if self._is_large(flow, a0):
            frozen = freeze(flow, jnp.mean(coordinates(a0, hA, start), axis=0))
            update = lambda stages, blur: by_frozen_kernel(flow, a0, hA, frozen, stages, blur)
        else:
            reduction = _reduction(flow, a0, last.stages)

            def update(stages, blur):
                o = linearize(flow, a0, hA, unit, reduction, stages, blur)
                return self._system(flow, o), o.dc

        attempt = lambda guess, blur: newton(
            flow, a0, hA, lambda stages: update(stages, blur), guess, self.rtol, self.max_newton
        )
        end = jax.tree.map(lambda v: jnp.broadcast_to(v[-1:], v.shape), last.stages)
        gentle = end._replace(dual=jnp.maximum(end.dual, -30.0), R=end.R + unit - last.unit)
        far = (end.gamma[-1] > 1e3) & jnp.asarray(isinstance(flow.loss, MarginLoss))
        retry = ~far | (last.failures >= _PATIENCE)
        corner = _corner(flow, a0, unit, end) if flow.chart.linear else _anew(flow, a0, unit, end)
        other = jax.tree.map(lambda a, b: jnp.where(far, a, b), gentle, corner)

        def body(carry):
            guess, blur, tries, _ = carry
            solved = attempt(guess, blur)
            first = tries == 0
            lower = jnp.where(first, jnp.where(far, 0.1, 0.0), blur * jnp.where(blur > 1e-12, 0.1, 1e-4))
            lower = jnp.where(lower * jnp.max(jnp.abs(solved.stages.gamma)) < 1e-3, 0.0, lower)
            guess = jax.tree.map(lambda a, b: jnp.where(first & ~solved.converged, a, b), other, solved.stages)
            sound = jnp.all(jnp.isfinite(guess.F))
            over = jnp.where(blur == 0, solved.converged | ~first | ~retry, ~sound)
            done = solved.converged & (blur == 0)
            return guess, jnp.where(over, -1.0, lower), tries + 1, done

        zero = jnp.zeros(())
        stages, _, _, converged = jax.lax.while_loop(
            lambda carry: carry[1] >= 0, body, (start, zero, jnp.asarray(0), jnp.asarray(False))
        )
        return Solved(stages, converged)

    def _is_large(self, flow: Flow, a: Array) -> bool:
        """Whether Jacobians at every stage and iteration cost more than the iterations that they save."""
        return isinstance(flow.chart, EuclideanChart) and flow.y.size * a.size > _LARGE

    def _system(self, flow: Flow, o: Linearized) -> Stages:
        """Whichever Newton system serves here."""
        s, N, P = o.J.shape
        if N > P:
            # Beyond, margins no longer tell the weights; but then no more samples carry weight than there are
            # parameters, and one.
            if s * (2 * P + 3) <= _SMALL_FULL:
                return in_full(o, P + 1)
            far = jnp.max(1.0 / jnp.max(jnp.abs(jnp.diagonal(o.by_dual, axis1=1, axis2=2)), axis=1)) > 1e8
            return jax.lax.cond(far, lambda o: in_full(o, P + 1), lambda o: in_full(o, 0), o)
        if not flow.chart.linear or s * (P + N + 2) > _LARGEST_FULL:
            return in_samples(o)
        # Rounding of the weights, as the coordinates feel it.
        pulls = o.pace[:, None] * jnp.einsum("sn,snp->sp", jnp.abs(o.c), jnp.abs(o.V))
        doubt = jnp.finfo(o.c.dtype).eps * jnp.max(pulls) * jnp.max(jnp.abs(o.hA))
        return jax.lax.cond(doubt > 1e-3 * self.rtol, lambda o: in_full(o, N), in_samples, o)

    def again(self, state: _State, tried: _State) -> _State:
        """The state from which to repeat the step that led to `tried`, with another size."""
        trial = tried.stages._replace(R=tried.stages.R + state.unit - tried.unit)
        return state._replace(trial=trial, trial_h=tried.h)

    def retried(self, flow: Flow, state: _State, h: Array, shorter: Array) -> Array:
        """The size for a step from `state` after one of size `h` could not be solved, where `shorter` is usual.

        At a saddle of a diagonal network the log-pace rises steeply and then stands still. With w the length over which
        it rises by one, the equations of a step have no solution between `_BESIDE` w and `_ACROSS` w, and longer ones
        lead across.
        """
        if not flow.chart.linear:
            return shorter
        rise = jnp.asarray(tableau(self.stages).end_slope) @ state.stages.R
        width = state.h / jnp.where(rise > 0, rise, 1.0)
        beside, across = _BESIDE * width, _ACROSS * width
        # A step that failed at `across` itself is not repeated.
        crosses = (h > jnp.where(state.failures == 0, beside, 1.01 * across)) & (shorter < across)
        size = jnp.where(crosses, across, jnp.where(h > beside, jnp.minimum(shorter, beside), shorter))
        return jnp.where(rise > 0, size, shorter)

    def failed(self, state: _State) -> _State:
        """The state from which to repeat a step whose equations could not be solved."""
        return state._replace(trial_h=jnp.zeros_like(state.trial_h), failures=state.failures + 1)

    def tidied(self, chart: AbstractChart, a: Array, state: _State) -> tuple[Array, _State]:
        """The coordinates in which the path goes on from `a`, and the state from which to go on there."""
        a, F = chart.tidied(a, state.stages.F)
        return a, state._replace(stages=state.stages._replace(F=F))

    def end_rates(self, state: _State) -> tuple[Array, Array, Array]:
        """Derivatives of the state, of gamma and of log t at the end of the step. From the outputs they could not be
        had: beyond gamma = 1e13 the weights of the samples are rounding there."""
        return state.field, state.slope, state.log_rate

    def _kinks(self, flow: Flow, radau: Tableau, a: Array, unit: Array, stages: Stages, before: Array) -> Array:
        """The part of F that is in doubt because a weight turns: where polynomials do not follow a log-weight, its
        weight is integrated wrongly, and the highest coefficient of F need not show it."""
        if not isinstance(flow.loss, MarginLoss):
            return jnp.zeros_like(a)
        # Of samples whose margins are the same to rounding, either may carry the weight.
        rounding = 4 * jnp.finfo(a.dtype).eps * jnp.abs(flow.chart.outputs(a, flow.X))
        turns = jnp.abs(jnp.asarray(radau.legendre[-1]) @ stages.dual)
        doubt = jnp.clip(turns - rounding, 0.0, 1.0) ** 2
        weight = jnp.exp(jnp.maximum(jnp.max(stages.dual, axis=0), before))
        if not flow.chart.linear:
            _, pull = jax.vjp(lambda b: flow.chart.outputs(b, flow.X), a)
            return _KINK * jnp.exp(stages.R[-1]) * pull(doubt * weight * flow.y)[0]
        V, own = flow.chart.velocities(a, flow.X)
        # A coordinate at rest is pulled by far more than moves it.
        most = jnp.max(jnp.abs(stages.F))
        pulls = jnp.clip(V * jnp.exp(stages.R[-1] + own - unit), -most, most)
        return _KINK * ((doubt * weight * flow.y) @ pulls)

    def _predict(self, flow: Flow, a0: Array, hA: Array, last: _State, h: Any, c: np.ndarray) -> Stages:
        """The polynomial through the last stages of the step before, drawn on, or through those of a step to be
        repeated; constants where a step could not be solved. Gamma, which grows by orders of magnitude, is read off the
        predicted coordinates, and so are the dual variables that go with it."""
        known = min(3, self.stages)
        x = jnp.minimum(1.0 + (h / last.h) * jnp.asarray(c), jnp.where(last.failures > 0, 1.0, 1.6))
        L = lagrange(c[-known:], x)
        retry = last.trial_h > 0
        M = lagrange(c, h / jnp.where(retry, last.trial_h, 1.0) * jnp.asarray(c))
        drawn = Stages(*(jnp.where(retry, M @ w, L @ v[-known:]) for v, w in zip(last.stages, last.trial, strict=True)))
        every = jax.lax.map if self._is_large(flow, a0) else lambda f, v: jax.vmap(f)(v)
        outputs = every(lambda a: flow.chart.outputs(a, flow.X), coordinates(a0, hA, drawn))
        dual, gamma = jax.vmap(flow.loss.dual, in_axes=(0, None))(outputs, flow.y)
        return drawn._replace(dual=flow.loss.drawn(drawn.dual, dual, gamma[:, None]), gamma=gamma)
