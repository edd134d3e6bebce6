"""The front door: `gradient_flow`."""

import functools
import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from . import driver, validate
from .charts import AbstractChart, chart_of, descent_chart_of, EuclideanChart
from .clocks import AbstractClock, LossClock
from .flow import Flow
from .graded import graded_flow
from .interrupts import compiling_undisturbed
from .invariance import check_kept, checked
from .kinks import loop as kinks_loop
from .kinks.chart import piecewise_chart, PiecewiseChart
from .kinks.chatter import chatters
from .kinks.events import EventLog, join_logs
from .kinks.layer import check_layer, declared, has_undeclared_kinks, kink_slope, refuse_choice
from .losses import AbstractLoss, Exponential
from .modified import check_eta, ModifiedFlow
from .run import decade_bar, in_chunks, inner_of, judge, measure, model_at, models_at, prepare
from .solvers import choose, LogRadau, Phase
from .split import in_hidden_units
from .status import Status
from .trajectory import concatenate, same_tree, Trajectory, without_last_row


@compiling_undisturbed()
def gradient_flow(
    model: Any,
    X: Float[ArrayLike, "N ..."],
    y: Float[ArrayLike, " N"],
    *,
    loss: AbstractLoss = Exponential(),  # noqa: B008
    clock: AbstractClock = LossClock(),  # noqa: B008
    stop: float | Float[Array, ""] | None = None,
    save: Float[ArrayLike, " S"] | None = None,
    solver: Any = None,
    rtol: float | Float[Array, ""] = 1e-8,
    max_steps: int = 100_000,
    throw: bool = True,
    progress: bool | Callable[[float], None] = False,
    metrics: dict[str, Callable] | None = None,
    resume: Trajectory | None = None,
    eta: float | Float[Array, ""] | None = None,
    at_kink: str | float = "leave",
) -> Trajectory:
    """Integrate the gradient flow d theta / dt = -grad L(theta) of a model on data.

    **Arguments:**

    - `model`: any Equinox module that maps one sample x, shape (d,) or any other, to a scalar or, for `Square`, to an
      array. Its floating-point array leaves are trained, unless the model has a chart of its own
      (`gflow.models.DiagonalNetwork`).
    - `X`, `y`: samples, shape (N, d) or (N, ...), and targets, shape (N,): -1 or +1 for `Exponential` and `Logistic`,
      real for `Square`. Of a model with array output, y has shape (N, *output), and may be a NumPy masked array: masked
      entries are not observed, and take no part in the loss.
    - `loss`: from `gflow.losses`; the mean over the samples by default.
    - `clock`: what `stop` and `save` count in: `LossClock` (gamma = -log L in nats; see `gflow.decades`), `TimeClock`
      (t) or `LogTimeClock` (log(1 + t)).
    - `stop`: where to end; the last of `save` by default. `save`: increasing points in (start, stop]; `stop` alone by
      default. Save points do not change the path.
    - `solver`: a Diffrax solver with an error estimate, `gflow.LogRadau()`, or `None` to choose by the problem and by
      how far it goes (see docs/solvers.md).
    - `rtol`: relative tolerance, 1e-13 to 0.1. There is no absolute one: errors of a step are measured relative to the
      coordinates, to beta (if the model has one), to the outputs and to the time.
    - `max_steps`: largest number of steps, rejected ones included.
    - `throw`: raise if the run fails; otherwise the trajectory up to there comes back with its status.
    - `progress`: show a progress bar (decades of 1/L, or of t), or a function to be called with that number.
    - `metrics`: functions `f(model)` or `f(model, X, y)` evaluated at the saves; see `gflow.metrics`. Each is compiled
      once: define them outside of loops.
    - `resume`: a trajectory of the same flow that was interrupted, used up its steps, or should go further. The
      result holds its saves followed by the new ones; the path is that of an unbroken run with the same solver.
    - `eta`: follow gradient descent with this step size instead, up to O(eta^2): see `gflow.modified`.
    - `at_kink`: for models that declare their kinks (see `gflow.kinks`), how the flow goes on where that is not
      determined (a start on a kink that repels or at weights of zero, an output weight that passes through zero while
      its neuron slides): "leave", to the side that a smoothed activation selects; "stay"; or the slope of the
      activation at zero, as a number. Events at which this made a difference have `unique=False`. Other models take
      no choice but the default.

    **Returns:** a `Trajectory`.

    **Raises:** `ValueError` for bad input, before anything is compiled; `FlowError` (with `throw`) for a run that does
    not reach its stop, and `FlowInterrupted` on Ctrl-C: both carry the `trajectory` up to there. Without `throw` that
    is returned, with a status that says what happened.

    Works under `jax.jit`, `jax.vmap` and forward-mode differentiation (`jax.jvp`, `jax.jacfwd`; step sizes are held
    fixed, as in Diffrax). Models that declare their kinks cannot be differentiated, which raises: their events move
    with the parameters. Changing values of scale, data, stop or rtol does not recompile; changing shapes does, and so
    does the first stiff run of a shape, which hands over to `LogRadau` (`solver=None`).

    Source: rescaled time as in Lyu & Li 2020 (arXiv 1906.05890); see `gflow.flow` for the formulation.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=2, scale=0.1)
        >>> traj = gflow.gradient_flow(model, X, y, stop=gflow.decades(1000))
        >>> traj.success, round(float(traj.neg_log_loss[-1] / jnp.log(10)), 6)
        (True, 1000.0)

        ```
    """
    X, y, targets, observed = prepare(model, X, y, loss)
    validate.check_solver(solver)
    validate.check_progress(progress)
    validate.check_numbers(rtol, max_steps)
    validate.check_metrics(metrics, resume)
    if not declared(model):
        refuse_choice(model, at_kink)
    if declared(model):
        if eta is not None or observed is not None:
            raise ValueError(
                "model declares its kinks, for which neither a modified flow (eta) nor masked targets are supported."
            )
        check_layer(model, X)
        at_zero = kink_slope(at_kink, model.hidden_layer())
        engine, flow = _PIECEWISE, Flow(piecewise_chart(model, X, targets, loss, at_zero), X, targets, loss)
    elif eta is None:
        engine, flow = _SMOOTH, graded_flow(model, X, targets, loss, observed)
        if flow is None:
            chart = in_hidden_units(chart_of(model, X, targets, loss, observed), X, targets, loss, balances=True)
            flow = Flow(chart, X, targets, loss)
    else:
        engine, flow = _SMOOTH, _modified(model, X, targets, loss, observed, solver, eta)
    validate.check_points(clock, stop, save)
    earlier = None
    if resume is not None:
        flow, stop, save, earlier = _continue(resume, flow, clock, stop, save)
    concrete = not validate.traced(model, X, y, stop, save, rtol)
    end = save[-1] if stop is None else stop  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
    validate.check_separable(model, X, y, loss, clock, end)

    logs: list[EventLog] = []
    points = jnp.asarray([end] if save is None else save, float)
    count = points.shape[0]
    if save is not None:
        # The stop has a slot of its own, so that whether it is also a save point does not change the shapes.
        points = jnp.append(points, jnp.asarray(end, float))
    aims = clock.inner(points)
    if engine is _PIECEWISE:
        phases = (Phase(kinks_loop.solver_for(solver), None),)
    else:
        phases = _phases(flow, clock, end, resume) if solver is None else (Phase(solver, None),)
    rtol = jnp.asarray(rtol, float)
    began = time.perf_counter()
    taken = 0
    if resume is None:
        position = engine.start(flow, phases[0].solver, rtol)
        validate.check_start(clock, stop, save, position.gamma)
    else:
        position = driver.with_status(resume.position, Status.running)
        taken = position.steps + position.rejected
        if isinstance(position.solver, LogRadau.State):
            phases = phases[-1:]
    if not concrete:
        position = engine.refuse_points(position, clock, aims)
    saves = driver.empty_saves(points.shape[0], position.state.size - 1)
    limit = jnp.asarray(max_steps, int) + taken
    kinked = concrete and engine is _SMOOTH and eta is None and has_undeclared_kinks(flow)
    chattering = False
    with decade_bar(clock, end, progress if concrete else False) as report:
        advance = engine.advance if concrete else engine.advance_whole
        run = lambda p, s, budget, solver, steps, aims=aims: advance(
            flow, p, s, clock, aims, solver, rtol, jnp.asarray(budget), steps
        )
        attempt = functools.partial(run, s=saves, budget=1, steps=limit + _MORE)

        def look(position: Any, solver: Any) -> None:
            nonlocal chattering
            report(position)
            if kinked and not chattering and int(position.steps) >= _FEW_STEPS:
                here = driver.with_status(position, Status.running)
                beyond = jnp.full_like(aims, jnp.inf)
                chattering = chatters(flow, here, lambda p: attempt(p, solver=solver, aims=beyond)[0])

        for k, phase in enumerate(phases):
            if k > 0:
                if concrete and (int(position.status) != Status.max_steps or _taken(position) >= int(limit)):
                    break
                position = engine.change_solver(flow, position, phase.solver, rtol)
            steps = limit if phase.steps is None else jnp.minimum(limit, phase.steps)
            onward = functools.partial(run, solver=phase.solver, steps=steps)
            if not concrete:
                position, saves = onward(position, saves, max_steps)
            elif _taken(position) < int(steps):
                position, saves = in_chunks(
                    onward, position, saves, functools.partial(look, solver=phase.solver), logs,
                    _BETWEEN_LOOKS if kinked else None,
                )  # fmt: skip
            else:
                position = driver.with_status(position, Status.max_steps)
    if not concrete or int(position.status) in (Status.step_too_small, Status.max_steps):
        position, saves = engine.conclude(flow, position, saves, clock, aims)
    if not clock.counts_loss and eta is None and _linearizes(flow.chart):
        rests_on = lambda: engine.rests_on(flow, position, saves, aims)
        if not concrete:
            still = jnp.isin(position.status, jnp.asarray(_STILL))
            position, saves = jax.lax.cond(still, rests_on, lambda: (position, saves))
        elif int(position.status) in _STILL:
            position, saves = rests_on()
    if concrete and eta is not None and int(position.status) in _GIVEN_UP and has_undeclared_kinks(flow):
        position = driver.with_status(position, Status.loss_jumps)
    measured = lambda models: measure(metrics, models, X, y, compiled=concrete)
    seconds = time.perf_counter() - began
    traj = _collect(flow, position, saves, clock, count, concrete, seconds, measured, logs, chattering)
    traj = checked(traj, X, targets, observed, rtol)
    if earlier is not None:
        traj = concatenate(earlier, traj)
    return judge(traj, throw, concrete)


# In coordinates, a flow at rest that is looked at more closely.
_LARGEST_LINEARIZED = 1000
# Of a model with kinks that it does not declare: steps after which it is looked whether the solver chatters, and how
# often; and room for the steps that are looked at.
_FEW_STEPS, _BETWEEN_LOOKS, _MORE = 50, 500, 100
# What a run may end with that has come to rest.
_STILL = (Status.settled, Status.slow, Status.step_too_small)
# What a run may end with that has come to where its loss jumps.
_GIVEN_UP = (Status.max_steps, Status.slow, Status.step_too_small, Status.settled, Status.seeded)


def _linearizes(chart: AbstractChart) -> bool:
    small = jax.eval_shape(chart.coordinates).size <= _LARGEST_LINEARIZED
    return small and isinstance(chart, EuclideanChart | PiecewiseChart)


def _modified(
    model: Any, X: Array, targets: Array, loss: AbstractLoss, observed: Array | None, solver: Any, eta: Any
) -> ModifiedFlow:
    check_eta(eta)
    if isinstance(solver, LogRadau):
        raise ValueError("solver must be an explicit Diffrax solver or None for a modified flow, not LogRadau.")
    chart = descent_chart_of(model, observed)
    if not hasattr(model, "descent_chart"):
        # The same chart, with a unit of length for a start at zero.
        chart = in_hidden_units(chart_of(model, X, targets, loss, observed), X, targets, loss, balances=False)
    return ModifiedFlow(chart, X, targets, loss, jnp.asarray(eta, float))


class _Engine(NamedTuple):
    """What takes the steps."""

    start: Callable
    change_solver: Callable
    advance: Callable
    advance_whole: Callable
    conclude: Callable
    rests_on: Callable
    refuse_points: Callable

    @classmethod
    def of(cls, module: Any) -> "_Engine":
        compiled = (module.start, module.change_solver, module.advance, module.conclude, module.rests_on)
        start, change_solver, advance, conclude, rests_on = map(eqx.filter_jit, compiled)
        return cls(start, change_solver, advance, module.advance, conclude, rests_on, module.refuse_points)


_SMOOTH, _PIECEWISE = _Engine.of(driver), _Engine.of(kinks_loop)


def _phases(flow: Flow, clock: AbstractClock, end: Any, resume: Any) -> tuple[Phase, ...]:
    if resume is not None or validate.traced(end):
        return choose(flow, None)
    # Known inside of jit as well, where it says which one solver is to be compiled.
    with jax.ensure_compile_time_eval():
        return choose(flow, float(clock.inner(jnp.asarray(end, float))))


def _taken(position: Any) -> int:
    return int(position.steps) + int(position.rejected)


def _collect(
    flow: Flow, position: Any, saves: Any, clock: Any, count: int, concrete: bool, seconds: float, measured: Any,
    logs: list[EventLog], chattering: bool,
) -> Trajectory:
    coordinates, gamma, log_time = saves.coordinates, saves.gamma, saves.log_time
    last = np.asarray(coordinates)[-1] if concrete else coordinates[-1]
    if concrete:
        filled = min(int(saves.filled), count)
        # By NumPy: nothing is compiled for it.
        coordinates, gamma, log_time = (np.asarray(v)[:filled] for v in (coordinates, gamma, log_time))
        if int(position.status) != Status.success:
            # The point of failure is the last row.
            last = position.state[:-1]
            coordinates = np.concatenate([coordinates, last[None]])
            gamma = np.append(gamma, position.gamma)
            log_time = np.append(log_time, position.log_time)
        coordinates, gamma, log_time = map(jnp.asarray, (coordinates, gamma, log_time))
    else:
        coordinates, gamma, log_time = coordinates[:count], gamma[:count], log_time[:count]
    models = models_at(flow.chart, coordinates)
    stats = {"steps": position.steps, "rejections": position.rejected, "seconds": jnp.asarray(seconds)}
    steps, rejected = (v if not concrete else np.asarray(v) for v in (position.steps, position.rejected))
    # Of smooth flows a fifth of the steps is rejected, or less.
    failed = functools.reduce(operator.or_, [position.status == status for status in _GIVEN_UP])
    wasted = ((4 * rejected > steps) | failed) & (steps + rejected > 200)
    # The model is looked at only where there is something to say.
    wasted = wasted & ((not concrete or bool(wasted)) and has_undeclared_kinks(flow))
    stats["chattering"] = jnp.asarray(wasted | chattering)
    log = join_logs(logs) if logs else getattr(position, "log", None)
    return Trajectory(
        models, model_at(flow.chart, last), gamma, log_time, measured(models), position.status, stats, clock, flow,
        position, log=log,
    )  # fmt: skip


def _continue(resume: Trajectory, flow: Flow, clock: AbstractClock, stop: Any, save: Any) -> Any:
    """The flow of `resume`, where to stop, the save points that are still to come, and the saves that are there."""
    if not same_tree(resume.flow, flow) or type(resume.clock) is not type(clock):
        raise ValueError(
            "resume must be a trajectory of the same model, data, loss and clock; leave it out to start anew."
        )
    check_kept(resume)
    # The last row of a run that failed is where it failed, not a save.
    earlier = resume if int(resume.status_code) == Status.success else without_last_row(resume)
    stored = earlier.neg_log_loss if clock.counts_loss else earlier.log_time
    stop = save[-1] if stop is None else stop
    reached = max(inner_of(resume.position, clock), *(float(v) for v in stored[-1:]), -np.inf)
    beyond = lambda coordinate: np.asarray(clock.inner(jnp.asarray(coordinate, float))) > reached + 1e-9 * abs(reached)
    if not beyond(stop):
        raise ValueError(
            f"stop must lie beyond where resume stands, but it is {float(stop):.6g}; nothing is left to do."
        )
    if save is None:
        return resume.flow, stop, save, earlier
    save = np.asarray(save, float)
    for point, inner in zip(save, np.asarray(clock.inner(jnp.asarray(save))), strict=True):
        if not beyond(point) and not np.any(np.abs(stored - inner) <= 1e-9 * abs(inner)):
            raise ValueError(
                f"save holds {point:.6g}, which resume has passed without saving it; leave it out, or start a new run."
            )
    return resume.flow, stop, jnp.asarray(save)[beyond(save)], earlier


