"""What `gradient_descent` is given, checked: one clear sentence for what cannot be."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import validate
from ..clocks import AbstractClock
from ..invariance import check_kept
from ..status import Status
from ..trajectory import same_tree, Trajectory
from .rule import batches, Place, Rule


def check_rule(step: Any, steps: Any, momentum: Any, normalize: Any) -> tuple[Any, Array | None]:
    """Step sizes and momentum as arrays (or a function, or None)."""
    validate.whole("steps", steps)
    if normalize not in (None, "loss", "gradient"):
        raise ValueError(f"normalize must be 'loss', 'gradient' or None, not {normalize!r}.")
    if not callable(step):
        if not validate.real(step) or np.ndim(step) > 1:
            raise ValueError(
                f"step must be a positive number, an array of shape (steps,) or a function of the step, not {step!r}."
            )
        if np.ndim(step) and np.shape(step)[0] < steps:
            raise ValueError(f"step must hold a size for each of {steps} steps, but it has {np.shape(step)[0]}.")
        if not validate.traced(step) and not _sizes(step):
            raise ValueError(f"step must be positive and finite, not {step}.")
        step = jnp.asarray(step, float)
    else:
        try:
            size = eqx.filter_eval_shape(step, jnp.zeros((), int))
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                "step must be a function that JAX can trace: of the step k, an array, with jnp.where in place of if."
            ) from error
        except TypeError as error:
            raise ValueError(f"step must be a function of the step k alone, but calling it failed: {error}.") from error
        if np.ndim(size) != 0 or not validate.real(np.zeros((), getattr(size, "dtype", float))):
            raise ValueError(f"step must return one step size, a number, for a step k, but it returns {size!r}.")
    if validate.traced(momentum):
        return step, momentum
    if not validate.real(momentum) or np.ndim(momentum) or not 0 <= momentum < 1:
        raise ValueError(f"momentum must be a number in [0, 1), not {momentum!r}.")
    return step, jnp.asarray(momentum, float) if momentum else None


def _sizes(step: Any) -> bool:
    """Whether these are step sizes; schedules may end at zero."""
    sizes = np.asarray(step)
    return bool(np.all(np.isfinite(sizes)) and np.all(sizes >= 0) and sizes.flat[0] > 0)


def check_batch(batch_size: Any, key: Any, X: Array, observed: Any) -> None:
    if batch_size is None:
        if key is not None:
            raise ValueError("key shuffles batches: pass batch_size with it, or leave it out.")
        return
    samples = X.shape[0]
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or not 1 <= batch_size <= samples:
        raise ValueError(f"batch_size must be an integer from 1 to the {samples} samples, not {batch_size!r}.")
    if key is None:
        raise ValueError("key must be given with batch_size, such as jax.random.key(0): it shuffles the samples.")
    validate.check_key(key)
    if observed is not None:
        raise ValueError("batch_size needs targets that are observed in full; pass each entry of y as a sample.")


def points_of(
    clock: Any, stop: Any, save: Any, steps: int, place: Place, earlier: Trajectory | None
) -> tuple[Array, int]:
    """Points to be saved that are still to come, and the end; and how many are asked for."""
    label = "step" if clock is None else clock.label if isinstance(clock, AbstractClock) else None
    if label is None:
        raise ValueError(
            "clock must be None (steps), gflow.LossClock(), gflow.TimeClock() or gflow.LogTimeClock(), not "
            f"{clock!r}; write its brackets."
        )
    if clock is None and stop is not None:
        raise ValueError("stop needs a clock, such as gflow.LossClock(); the number of steps is set by steps.")
    if clock is not None and stop is None and save is None:
        raise ValueError(f"stop or save must be given, in the coordinate of the clock ({label}).")
    for name, value, axes in (("stop", stop, 0), ("save", save, 1)):
        if value is not None and (not validate.real(value) or np.ndim(value) != axes or np.size(value) == 0):
            shape = "a number" if axes == 0 else "a non-empty array of shape (S,)"
            raise ValueError(f"{name} must be {shape}, in the coordinate of the clock ({label}), not {value!r}.")
    last = steps if clock is None else np.asarray(save)[-1] if stop is None else stop  # pyright: ignore
    end = jnp.asarray(last, float)[None]
    if validate.traced(save, stop, place):
        return end if save is None else jnp.append(jnp.asarray(save, float), end), 1 if save is None else np.size(save)
    points = np.asarray([] if save is None else save, float)
    if not (np.all(np.isfinite(points)) and np.all(np.diff(points) > 0)):
        raise ValueError("save must be finite and strictly increasing; sort it and drop repeated points.")
    if clock is None and np.any(points != np.round(points)):
        raise ValueError(f"save must hold numbers of steps, integers, not {points.tolist()}; or pass a clock.")
    start = float(place.gamma) + 0.0 if clock is not None and clock.counts_loss else 0.0
    if earlier is not None and points.size:
        known = len(earlier.neg_log_loss)
        if clock is None and not np.array_equal(points[points <= int(place.steps)], np.asarray(earlier.step)):
            raise ValueError(
                f"save must hold the steps {np.asarray(earlier.step).tolist()} that resume has saved, and beyond "
                f"step {int(place.steps)} any others, not {points.tolist()}."
            )
        if clock is not None:
            _same_points(points, known, clock, place)
        points, start = points[known:], -np.inf
    if not np.isfinite(last) or (points.size and points[-1] > last):
        raise ValueError(f"save must not go beyond the end, {label} {last:.6g}, but it holds {points[-1]:.6g}.")
    if (points.size and points[0] < start) or last < start:
        raise ValueError(
            f"save and stop must not lie before the start, {label} {start:.6g}, but one of them is "
            f"{min([*points[:1], float(last)]):.6g}."
        )
    if save is None:
        return end, 1
    return jnp.append(jnp.asarray(points, float), end), points.size


def _same_points(points: np.ndarray, known: int, clock: AbstractClock, place: Place) -> None:
    here = float(place.gamma if clock.counts_loss else place.log_time)
    before = np.asarray([] if place.points is None else place.points)[:known]
    passed = np.asarray(clock.inner(jnp.asarray(points[known:]))) <= here
    if not np.array_equal(points[:known], before) or np.any(passed):
        raise ValueError(
            f"save must hold the points {before.tolist()} that resume has saved, and any others beyond where it stands "
            f"({clock.label}), not {points.tolist()}."
        )


def place_of(resume: Trajectory, rule: Rule, clock: Any, steps: int) -> Place:
    place = resume.position
    if not isinstance(place, Place) or not same_tree(resume.flow, rule.flow) or type(resume.clock) is not type(clock):
        raise ValueError(
            "resume must be a gradient descent on the same model, data, loss and clock; leave it out to start anew."
        )
    _same_rule(place, rule)
    check_kept(resume)
    if int(resume.status_code) in (Status.diverged, Status.left_chart, Status.loss_underflow, Status.bad_step):
        raise ValueError("resume must be a run that can go on, but it diverged; start anew with a lower step size.")
    if int(place.steps) >= steps:
        raise ValueError(f"steps must exceed the {int(place.steps)} that resume has taken, not {steps}.")
    return eqx.tree_at(lambda p: p.status, place, jnp.asarray(int(Status.running), int))


def _same_rule(place: Place, rule: Rule) -> None:
    """The next step of `place` has been made: by another rule it would be another."""
    number = lambda v: 0.0 if v is None else float(v)
    here = {
        "normalize": (place.normalize, rule.normalize),
        "batch_size": (place.batch_size, rule.batch_size),
        "momentum": (number(place.momentum), number(rule.momentum)),
        f"a step size at step {int(place.steps)}": (float(place.size), float(rule.size(place.steps))),
    }
    for name, (was, now) in here.items():
        # What is computed inside of a program may be rounded otherwise.
        near = isinstance(was, float) and isinstance(now, float) and math.isclose(was, now, rel_tol=1e-12)
        if was != now and not near:
            raise ValueError(
                f"resume must be a run of the same rule, but it has {name} = {was!r}, not {now!r}; to go on by another "
                "rule, start anew from its .final."
            )
    order = rule.shuffled(place.steps // batches(rule))
    if order is not None and place.order is not None and not np.array_equal(place.order, order):
        raise ValueError("resume must be a run with the same key, which shuffles the samples; pass that key.")
