"""What runs of the flow and of descent share: checked data, a bar and Ctrl-C on the way, models and metrics at the
saves, and how a run ends.
"""

import contextlib
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm.auto import tqdm

from . import driver, validate
from .charts import AbstractChart
from .clocks import AbstractClock
from .kinks import loop as kinks_loop
from .kinks.events import EventLog, join_logs
from .memory_maps import make_room
from .status import Status
from .trajectory import Trajectory


class FlowInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `.trajectory` holds it up to there, and `resume=` goes on from it.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> def press_ctrl_c(decades):
        ...     raise KeyboardInterrupt
        >>> model, clock = gflow.models.LinearModel(2), gflow.LossClock()
        >>> try:
        ...     gflow.gradient_descent(model, X, y, step=0.5, steps=3, clock=clock, stop=10.0, progress=press_ctrl_c)
        ... except gflow.FlowInterrupted as stopped:
        ...     print(stopped.trajectory.status)
        The run was interrupted; ...

        ```
    """

    def __init__(self, trajectory: Trajectory):
        run = "gradient_flow" if trajectory.step is None else "gradient_descent"
        super().__init__(
            f"{run} was interrupted. The run so far is the .trajectory of this exception (in an interactive "
            "session: sys.last_value.trajectory); resume= goes on from it, and throw=False returns it instead."
        )
        self.trajectory = trajectory


class FlowError(RuntimeError):
    """A run that did not reach its stop; `.trajectory` holds it up to the failure.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> model, clock = gflow.models.LinearModel(2), gflow.LossClock()
        >>> try:
        ...     gflow.gradient_descent(model, X, y, step=0.5, steps=3, clock=clock, stop=10.0)
        ... except gflow.FlowError as error:
        ...     print(int(error.trajectory.stats["steps"]), error.trajectory.success)
        3 False

        ```
    """

    def __init__(self, message: str, trajectory: Trajectory):
        super().__init__(message)
        self.trajectory = trajectory


def prepare(model: Any, X: Any, y: Any, loss: Any) -> tuple[Array, Array, Array, Array | None]:
    """Checked data: X and y as arrays, the targets that are observed in one row, and, where y is masked, their indices
    in the raveled y."""
    validate.require_x64()
    validate.check_data(X, y, loss)
    observed = None
    if np.ma.is_masked(y):
        observed = np.flatnonzero(~np.ma.getmaskarray(y))
        # Whoever reads all of y must notice.
        y = np.ma.filled(np.ma.asarray(y, float), np.nan)
    # What is known inside of `jit` stays so: charts are chosen by it.
    known = contextlib.nullcontext() if validate.traced(X, y) else jax.ensure_compile_time_eval()
    with known:
        X, y = jnp.asarray(X, float), jnp.asarray(y, float)
        observed = observed if observed is None else jnp.asarray(observed)
        targets = jnp.ravel(y) if observed is None else jnp.ravel(y)[observed]
    validate.check_model(model, X, y.shape[1:])
    return X, y, targets, observed


_BAR = "{l_bar}{bar}| {n:.1f}/{total:.1f}{unit} [{elapsed}<{remaining}]"


def in_chunks(
    run: Callable, position: Any, saves: Any, report: Callable, logs: list[EventLog] | None = None,
    most: int | None = None,
) -> Any:  # fmt: skip
    """Run in pieces of some tenths of a second, of `most` steps, so that there is a bar to show and Ctrl-C is heard.
    Events are taken out of the position into `logs`."""
    make_room()
    budget, half = 500, math.inf
    try:
        while int(position.status) == Status.running:
            began = time.perf_counter()
            position, saves = run(position, saves, budget)
            position = _take_events(position, logs)
            report(position)
            took = time.perf_counter() - began
            # Each piece copies what has been saved. Where twice the steps hardly took longer, that is most of it.
            if took < 0.1 or took < min(1.8 * half, 1.0):
                budget, half = min(2 * budget, most or 1_000_000), took
    except KeyboardInterrupt:
        position = driver.with_status(position, Status.interrupted)
    return position, saves


def _take_events(position: Any, logs: list[EventLog] | None) -> Any:
    if logs is None or not isinstance(position, kinks_loop.Position):
        return position
    logs.append(join_logs([position.log]))
    return eqx.tree_at(lambda p: p.log, position, position.log.emptied())


@contextlib.contextmanager
def decade_bar(clock: AbstractClock, end: Any, progress: bool | Callable[[float], None]):
    """A function that is told the position: it moves a bar, or calls the user's function, in decades."""
    decade = math.log(10.0)
    if not progress:
        yield lambda position: None
        return
    target = float(clock.inner(end)) / decade
    here = lambda p: target if int(p.status) == Status.success else max(inner_of(p, clock) / decade, 0.0)
    if callable(progress):
        yield lambda position: progress(here(position))
        return
    unit = " decades of 1/L" if clock.counts_loss else " decades of t"
    with tqdm(total=round(target, 1), unit=unit, bar_format=_BAR) as bar:

        def report(position: Any) -> None:
            bar.n = round(here(position), 1)
            bar.refresh()

        yield report


def inner_of(position: Any, clock: AbstractClock) -> float:
    """Where a position stands, in the inner coordinate of the clock."""
    return float(position.gamma if clock.counts_loss else position.log_time)


@eqx.filter_jit
def model_at(chart: AbstractChart, coordinates: Array) -> Any:
    return chart.at(coordinates)


@eqx.filter_jit
def models_at(chart: AbstractChart, coordinates: Array) -> Any:
    """A model per row; leaves that do not change are repeated, so that every array leaf has the save axis."""
    arrays = jax.vmap(lambda a: eqx.filter(chart.at(a), eqx.is_array))(coordinates)
    return eqx.combine(arrays, eqx.filter(chart.template, eqx.is_array, inverse=True))


def measure(
    metrics: dict[str, Callable] | None, models: Any, X: Array, y: Array, compiled: bool = True
) -> dict[str, Array]:
    """`fn(model)` or `fn(model, X, y)`, whichever it takes, at every save."""
    evaluate = _evaluate_compiled if compiled else _evaluate
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    measured = {}
    for name, fn in (metrics or {}).items():
        parameters = inspect.signature(fn).parameters.values()
        required = [p for p in parameters if p.kind in kinds and p.default is p.empty]
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
                raise ValueError(f"metrics[{name!r}] needs {p.name}: give functools.partial(metric, {p.name}=...).")
        try:
            measured[name] = evaluate(fn, models, () if len(required) == 1 else (X, y))
        except _NoArray as error:
            raise ValueError(f"metrics[{name!r}] must return an array or a number, not {error}.") from None
    return measured


class _NoArray(Exception):
    """What a metric returned."""


def _evaluate(fn: Callable, models: Any, extra: tuple) -> Array:
    def one(model):
        value = fn(model, *extra)
        if not isinstance(value, jax.Array | np.ndarray | np.number | int | float | list | tuple):
            raise _NoArray(repr(value))
        return jnp.asarray(value)

    # In turn: a metric may be large (a Hessian), may need as many iterations as it needs, and `gflow.lapack` says what
    # LAPACK in large batches does.
    arrays, rest = eqx.partition(models, eqx.is_array)
    return jax.lax.map(lambda leaves: one(eqx.combine(leaves, rest)), arrays)


_evaluate_compiled = eqx.filter_jit(_evaluate)


def judge(traj: Trajectory, throw: bool, concrete: bool) -> Trajectory:
    if not throw:
        return traj
    if not concrete:
        # On all of the trajectory: whoever reads only the final model must hear of it too.
        return eqx.error_if(
            traj,
            traj.status_code != Status.success,
            "The run did not reach its stop inside a JAX transformation; pass throw=False for the status.",
        )
    if int(traj.status_code) == Status.interrupted:
        raise FlowInterrupted(traj)
    if not traj.success:
        raise FlowError(f"{traj.status} (throw=False returns the trajectory up to here.)", traj)
    return traj
