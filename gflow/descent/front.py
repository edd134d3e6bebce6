"""Gradient descent on the problems of `gradient_flow`.

theta_{k+1} = theta_k - eta_k grad L(theta_k) + momentum (theta_k - theta_{k-1}), in the log domain: with gamma = -log L
the gradient is -e^-gamma grad gamma, and a step divided by the loss is eta grad gamma, which no loss is too small for
(Lyu & Li 2020, arXiv 1906.05890).
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int
from tqdm.auto import tqdm

from .. import validate
from ..charts import descent_chart_of, EuclideanChart
from ..clocks import AbstractClock
from ..flow import Flow
from ..interrupts import compiling_undisturbed
from ..invariance import checked
from ..losses import AbstractLoss, Exponential
from ..models import MatrixFactorization
from ..run import decade_bar, in_chunks, judge, measure, model_at, models_at, prepare
from ..split import for_steps
from ..status import Status
from ..symmetric import keeps_symmetry_in_batches
from ..trajectory import concatenate, Trajectory, without_last_row
from ..turned import in_columns
from .inputs import check_batch, check_rule, place_of, points_of
from .loop import advance, empty_rows, Rows
from .rule import Place, Rule, start


@compiling_undisturbed()
def gradient_descent(
    model: Any,
    X: Float[ArrayLike, "N ..."],
    y: Float[ArrayLike, "N ..."],
    *,
    loss: AbstractLoss = Exponential(),  # noqa: B008
    step: float | Float[ArrayLike, "..."] | Callable[[Int[Array, ""]], Float[Array, ""]] = 1e-2,
    steps: int = 1000,
    momentum: float | Float[Array, ""] = 0.0,
    batch_size: int | None = None,
    key: Array | None = None,
    normalize: Literal["loss", "gradient"] | None = None,
    clock: AbstractClock | None = None,
    stop: float | Float[Array, ""] | None = None,
    save: Float[ArrayLike, " S"] | None = None,
    throw: bool = True,
    progress: bool | Callable[[float], None] = False,
    metrics: dict[str, Callable] | None = None,
    resume: Trajectory | None = None,
) -> Trajectory:
    """Gradient descent theta_{k+1} = theta_k - eta_k grad L(theta_k), compiled, with what `gradient_flow` returns.

    **Arguments:**

    - `model`, `X`, `y`, `loss`: as in `gradient_flow`. The steps are taken in the parameters, of `DiagonalNetwork` in
      its weights u.
    - `step`: the step size eta > 0: a number, an array of shape (K,) with the sizes of steps 0 to K - 1 (K >= `steps`),
      or a function of the step k, such as an optax schedule (a function that jax can trace; it is compiled once, so
      define it outside of loops).
    - `steps`: the largest number of steps.
    - `momentum`: of the heavy ball, in [0, 1); 0 for none. Time counts the step sizes, so that momentum beta follows
      the flow about 1 / (1 - beta) times as fast.
    - `batch_size`, `key`: stochastic gradient descent: the loss of `batch_size` samples at each step, in epochs that
      are shuffled anew by `key` (a `jax.random.key`). What is left over at the end of an epoch is dropped. A loss that
      is a sum is taken N / batch_size times, so that steps are as large as those of all samples.
    - `normalize`: `"loss"` divides steps by the loss, theta += eta grad gamma with gamma = -log L, `"gradient"` by the
      norm of the gradient, in both cases in the log domain: losses far below 1e-300 are reached. Of a batch where there
      is one.
    - `clock`: what `stop` and `save` count in: steps (`None`), or the loss, time t = sum of eta_k (with the divisors of
      `normalize`) or log(1 + t) by `LossClock`, `TimeClock`, `LogTimeClock`. Saved is the first iterate that reaches a
      point, at most one step beyond it.
    - `stop`: where to end before `steps` are used up; for a clock the last of `save` by default.
    - `save`: increasing points from the start on, step 0 or time 0 included; the end alone by default.
    - `throw`, `progress`, `metrics`: as in `gradient_flow`; the bar counts steps, or decades of 1/L or t.
    - `resume`: a trajectory of the same descent that was interrupted, used up its steps, or should go further; `steps`
      and `save` are those of the whole run. The iterates are those of an unbroken run, bit for bit.

    **Returns:** a `Trajectory`, with `step` (S,) beside the fields that it has for a flow. A run that diverges, where
    the next iterate is not finite, ends with the last finite one; its status says since which step the loss (of all
    samples, looked at after every epoch) was rising. One that gets to its end while it diverges slowly is a success,
    whose status says so too.

    **Raises:** `ValueError` for bad input; `FlowError` (with `throw`) for a run that diverges or does not reach its
    `stop`; `FlowInterrupted` on Ctrl-C. Both carry the `trajectory` up to there.

    Works under `jax.jit` and `jax.vmap`. Changing values of the model, data, step size, momentum, key or save points
    does not recompile.

    Source: heavy ball, Polyak 1964 (doi 10.1016/0041-5553(64)90137-5); steps divided by the loss, Lyu & Li 2020 (arXiv
    1906.05890); by the norm of the gradient, Nacson et al. 2019 (arXiv 1803.01905).

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=2, scale=0.1)
        >>> traj = gflow.gradient_descent(model, X, y, step=0.01, steps=2000, normalize="loss", save=[0, 1000, 2000])
        >>> traj.success, traj.step.tolist(), bool(traj.neg_log_loss[-1] > gflow.decades(300))
        (True, [0, 1000, 2000], True)

        ```
    """
    X, y, targets, observed = prepare(model, X, y, loss)
    validate.check_metrics(metrics, resume)
    validate.check_progress(progress)
    step, inertia = check_rule(step, steps, momentum, normalize)
    check_batch(batch_size, key, X, observed)
    chart = descent_chart_of(model, observed)
    known = isinstance(model, MatrixFactorization) and not validate.traced(model, X, y)
    whole = batch_size is None or keeps_symmetry_in_batches(X, batch_size)
    chart = for_steps(chart, X, targets, loss, whole)
    # Of what is known to be small, or not to be, rounding has no part in what grows.
    watched = type(chart) is EuclideanChart and batch_size is None and normalize is None and not known
    # A ball goes on at the speed that larger steps gave it.
    watched = watched and (inertia is None or not (callable(step) or jnp.ndim(step)))
    flow = Flow(chart if batch_size else in_columns(chart, X), X, targets, loss)
    rule = Rule(flow, step, inertia, normalize, batch_size, key, watched)
    earlier = None
    if resume is None:
        place = start(rule)
    else:
        place = place_of(resume, rule, clock, steps)
        earlier = resume if int(resume.status_code) == Status.success else without_last_row(resume)
    points, count = points_of(clock, stop, save, steps, place, earlier)
    asked = points[-1:] if save is None else jnp.asarray(save, float)
    place = eqx.tree_at(lambda p: p.points, place, None, is_leaf=lambda v: v is None)
    concrete = not validate.traced(model, X, y, step, points, inertia, key)
    aims = points if clock is None else clock.inner(points)
    rows = empty_rows(points.shape[0], place.coordinates.size)
    limit = jnp.asarray(steps, int)
    began = time.perf_counter()
    run = lambda place, rows, budget: advance(rule, place, rows, clock, aims, limit, jnp.asarray(budget))
    if not concrete:
        place, rows = run(place, rows, steps)
    else:
        with _bar(clock, points[-1], progress) as report:
            place, rows = in_chunks(run, place, rows, report)
    place = eqx.tree_at(lambda p: p.points, place, asked, is_leaf=lambda v: v is None)
    measured = lambda models: measure(metrics, models, X, y)
    traj = _collect(flow, place, rows, clock, count, concrete, time.perf_counter() - began, measured)
    if batch_size is not None:
        # Told is the loss of all samples, not of the last batch.
        traj = eqx.tree_at(lambda t: t.position.gamma, traj, _gammas(flow, traj.position.coordinates[None])[0])
    else:
        traj = checked(traj, X, targets, observed, 0.0)
    if earlier is not None:
        traj = concatenate(earlier, traj)
    return judge(traj, throw, concrete)


@eqx.filter_jit
def _gammas(flow: Flow, coordinates: Array) -> Array:
    return jax.lax.map(flow.gamma, coordinates)


def _collect(
    flow: Flow, place: Place, rows: Rows, clock: Any, count: int, concrete: bool, seconds: float, measured: Callable
) -> Trajectory:
    coordinates, log_time, step = rows.coordinates, rows.log_time, rows.step
    last = place.coordinates
    if concrete:
        keep = slice(0, min(int(rows.filled), count))
        coordinates, log_time, step = coordinates[keep], log_time[keep], step[keep]
        if int(place.status) != Status.success:
            coordinates = jnp.concatenate([coordinates, last[None]])
            log_time, step = jnp.append(log_time, place.log_time), jnp.append(step, place.steps)
    else:
        coordinates, log_time, step = coordinates[:count], log_time[:count], step[:count]
    models = models_at(flow.chart, coordinates)
    stats = {"steps": place.steps, "rejections": jnp.zeros((), int), "seconds": jnp.asarray(seconds)}
    return Trajectory(
        models, model_at(flow.chart, last), _gammas(flow, coordinates), log_time, measured(models), place.status, stats,
        clock, flow, place, step,
    )  # fmt: skip


@contextlib.contextmanager
def _bar(clock: AbstractClock | None, end: Any, progress: bool | Callable[[float], None]):
    if clock is not None or not progress:
        with decade_bar(clock, end, progress) as report:  # pyright: ignore[reportArgumentType]
            yield report
        return
    if callable(progress):
        yield lambda place: progress(int(place.steps))
        return
    with tqdm(total=int(end), unit=" steps") as bar:

        def count(place: Place) -> None:
            bar.n = int(place.steps)
            bar.refresh()

        yield count
