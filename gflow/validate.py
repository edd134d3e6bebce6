"""What bad input gets: one sentence that names the argument, its value and the remedy, before any compilation."""

from functools import lru_cache
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .clocks import AbstractClock
from .losses import AbstractLoss, Exponential, Logistic, MarginLoss, Square


def require_x64() -> None:
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            "gflow needs 64-bit floats: set jax.config.update('jax_enable_x64', True), or JAX_ENABLE_X64=1 in the "
            "environment, before importing gflow."
        )


def whole(name: str, value: Any) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}.")
    return int(value)


def check_key(key: Any) -> None:
    """A key of either kind that JAX has."""
    kind = getattr(key, "dtype", None)
    if kind is None or not (jnp.issubdtype(kind, jax.dtypes.prng_key) or (kind == jnp.uint32 and np.ndim(key) == 1)):
        raise ValueError(f"key must be a key such as jax.random.key(0), not {key!r}.")


def real_array(name: str, value: Any, finite: bool = True) -> Any:
    """A float64 array of real numbers, `finite` ones, where it is not traced."""
    if traced(value):
        return jnp.asarray(value, float)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, not {value!r}.")
    if finite and not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinite values.")
    return jnp.asarray(array, float)


def traced(*trees: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def check_array(name: str, value: Any) -> None:
    """A rectangular array of real numbers."""
    if traced(value):
        return
    try:
        complex_ = np.iscomplexobj(value)
    except ValueError:
        raise ValueError(f"{name} must be a rectangular array of numbers, but its rows differ in length.") from None
    if np.asarray(value).dtype.kind not in "bifuc":
        raise ValueError(f"{name} must be an array of numbers, not {value!r}.")
    if complex_:
        raise ValueError(f"{name} must hold real numbers, not complex ones; stack real and imaginary parts.")


def check_data(X: Any, y: Any, loss: Any) -> None:
    if not isinstance(loss, AbstractLoss):
        raise ValueError(
            f"loss must be a gflow loss such as gflow.losses.Exponential(), not {loss!r}; "
            "write its brackets."
        )
    check_array("X", X)
    check_array("y", y)
    arrays = isinstance(loss, Square)
    if np.ndim(X) < 2 or (np.ndim(y) != 1 and not (arrays and np.ndim(y))) or np.shape(X)[0] != np.shape(y)[0]:
        raise ValueError(
            f"X must have shape (N, d) and y shape (N,) with the same N, not {np.shape(X)} and {np.shape(y)}."
        )
    if np.size(X) == 0:
        raise ValueError(f"X must hold at least one sample and one feature, not shape {np.shape(X)}.")
    if not traced(X) and not np.all(np.isfinite(X)):
        raise ValueError("X must be finite, but it holds NaN or infinite values; remove or impute them.")
    if np.ma.is_masked(X):
        raise ValueError("X must not be masked: every feature of a sample counts; leave samples out or fill them in.")
    if np.ma.is_masked(y) and (np.ndim(y) == 1 or np.all(np.ma.getmaskarray(y))):
        raise ValueError(
            "y may be masked where single entries of array outputs are not observed, but not everywhere, and not with "
            f"shape {np.shape(y)}; leave out the samples that have no target."
        )
    if not traced(y) and not np.all(np.isfinite(y)):
        raise ValueError("y must be finite, but it holds NaN or infinite values; remove those samples.")
    if isinstance(loss, MarginLoss) and not traced(y):
        wrong = np.asarray(y)[~np.isin(np.asarray(y), (-1.0, 1.0))]
        if wrong.size:
            raise ValueError(
                f"y must hold labels -1 and +1 for {type(loss).__name__}, but it holds {wrong[0]:g}; "
                "map your classes to -1 and +1."
            )


@eqx.filter_jit
def _call(model: Any, sample: Any) -> Any:
    # Compiled functions are traced once a shape: a loop over models is not held up here.
    return model(sample)


def check_model(model: Any, X: Any, outputs: tuple[int, ...] = ()) -> None:
    """Whether the model maps samples like those of X to outputs of this shape."""
    leaves = [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    if not leaves:
        raise ValueError(
            f"model must hold floating-point array leaves to train, but {type(model).__name__} has none; "
            "pass an Equinox module."
        )
    for leaf in leaves:
        if leaf.dtype != jnp.float64:
            raise ValueError(
                f"model must hold float64 arrays only, but it has a leaf of {leaf.dtype}; build it after enabling "
                "jax_enable_x64, or convert its leaves."
            )
        if not isinstance(leaf, Tracer) and not np.all(np.isfinite(leaf)):
            raise ValueError("model must hold finite values, but a leaf holds NaN or infinite values.")
    try:
        out = eqx.filter_eval_shape(_call, model, jax.ShapeDtypeStruct(X.shape[1:], X.dtype))
    except Exception as error:
        raise ValueError(
            f"model must map one sample of shape {np.shape(X)[1:]} to {'an array' if outputs else 'a number'}, but "
            f"calling it failed: {error}"
        ) from error
    if outputs and getattr(out, "shape", None) != outputs:
        raise ValueError(
            f"model must map one sample to an array of the shape {outputs} that y holds for it, but it returns "
            f"{getattr(out, 'shape', out)!r}."
        )
    if not outputs and getattr(out, "shape", None) != ():
        raise ValueError(
            f"model must map one sample to a scalar of shape (), but it returns {getattr(out, 'shape', out)!r}; "
            "index or squeeze its output."
        )


def check_solver(solver: Any) -> None:
    if solver is None:
        return
    if not isinstance(solver, diffrax.AbstractSolver):
        raise ValueError(
            f"solver must be a Diffrax solver such as diffrax.Tsit5(), or None to let gflow choose, not {solver!r}."
        )
    if solver.term_structure not in (diffrax.AbstractTerm, diffrax.ODETerm):
        raise ValueError(
            f"solver must take a single ODE term, and {type(solver).__name__} splits it; use diffrax.Kvaerno5() for an "
            "implicit one."
        )
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver must estimate its error, and {type(solver).__name__} does not; use diffrax.Tsit5() or Dopri8()."
        )


def check_metrics(metrics: Any, resume: Any) -> None:
    if metrics is not None and not (isinstance(metrics, dict) and all(callable(f) for f in metrics.values())):
        raise ValueError(f"metrics must be a dict of functions of a model, not {metrics!r}.")
    if resume is not None:
        if not hasattr(resume, "position"):
            raise ValueError(f"resume must be a gflow.Trajectory, not {type(resume).__name__}.")
        if sorted(resume.metrics) != sorted(metrics or {}):
            raise ValueError(
                f"metrics must be those of the trajectory in resume, {sorted(resume.metrics)}, not "
                f"{sorted(metrics or {})}; the earlier saves hold no others."
            )


def real(value: Any) -> bool:
    return traced(value) or np.asarray(value).dtype.kind in "iuf"


def check_rtol(rtol: Any) -> None:
    if not real(rtol):
        raise ValueError(f"rtol must be a number between 1e-13 and 0.1, not {rtol!r}.")
    if not traced(rtol) and not (np.ndim(rtol) == 0 and 1e-13 <= rtol <= 0.1):
        raise ValueError(f"rtol must be a number between 1e-13 and 0.1, not {rtol}.")


def check_progress(progress: Any) -> None:
    if not isinstance(progress, bool) and not callable(progress):
        raise ValueError(f"progress must be True, False or a function, not {progress!r}.")


def check_numbers(rtol: Any, max_steps: Any) -> None:
    check_rtol(rtol)
    if not real(max_steps) or (not traced(max_steps) and not np.all(np.isfinite(max_steps))):
        raise ValueError(f"max_steps must be a positive integer, not {max_steps!r}.")
    if not traced(max_steps) and not (np.ndim(max_steps) == 0 and max_steps >= 1 and max_steps == int(max_steps)):
        raise ValueError(f"max_steps must be a positive integer, not {max_steps}.")


def check_points(clock: Any, stop: Any, save: Any) -> None:
    """Stop and save points of the clock, by themselves."""
    if not isinstance(clock, AbstractClock):
        raise ValueError(
            "clock must be gflow.LossClock(), gflow.TimeClock() or gflow.LogTimeClock(), "
            f"not {clock!r}; write its brackets."
        )
    for name, value in (("stop", stop), ("save", save)):
        if value is not None and not real(value):
            raise ValueError(f"{name} must be real, in the coordinate of the clock ({clock.label}), not {value!r}.")
    if stop is None and save is None:
        raise ValueError(f"stop or save must be given, in the coordinate of the clock ({clock.label}).")
    if stop is not None and np.ndim(stop) != 0:
        raise ValueError(f"stop must be one number, not an array of shape {np.shape(stop)}; use save for several.")
    if save is not None and (np.ndim(save) != 1 or np.size(save) == 0):
        raise ValueError(f"save must be a non-empty array of shape (S,), not of shape {np.shape(save)}.")
    if save is not None and not traced(save) and not np.all(np.diff(np.asarray(save, float)) > 0):
        raise ValueError("save must be strictly increasing; sort it and drop repeated points.")


def check_start(clock: AbstractClock, stop: Any, save: Any, gamma0: Any) -> None:
    """Stop and save points, for a flow that starts at `gamma0`."""
    if traced(stop, save, gamma0):
        return
    start = float(gamma0) + 0.0 if clock.counts_loss else 0.0  # + 0.0: no -0 in messages
    name, last = ("stop", stop) if stop is not None else ("the last of save", np.asarray(save)[-1])
    if not np.isfinite(last) or last <= start:
        raise ValueError(
            f"{name} must be finite and above the start: {clock.label} starts at {start:.6g}, and {name} is {last:.6g}."
        )
    if save is not None and not (np.asarray(save)[0] > start and np.asarray(save)[-1] <= last):
        raise ValueError(
            f"save must lie in (start, stop] = ({start:.6g}, {last:.6g}] in the coordinate of the clock "
            f"({clock.label}), but it spans [{np.asarray(save)[0]:.6g}, {np.asarray(save)[-1]:.6g}]."
        )


def check_separable(model: Any, X: Any, y: Any, loss: AbstractLoss, clock: AbstractClock, stop: Any) -> None:
    """Models linear in x on data that no beta separates: the loss has a positive lower bound."""
    linear = hasattr(model, "beta") and np.ndim(X) == 2
    if not (linear and clock.counts_loss and isinstance(loss, Exponential | Logistic)) or traced(X, y, stop):
        return
    entropy, peak = _certificate(np.asarray(X, float).tobytes(), np.asarray(y, float).tobytes(), len(np.asarray(y)))
    count = len(np.asarray(y)) if loss.reduction == "mean" else 1
    # Exponential: sum_n exp(-m_n) >= exp(entropy - lambda . m), and lambda . m = 0. Logistic: sum_n l(m_n) >=
    # sum_n lambda_n l(m_n) / max lambda >= l(0) / max lambda. Both by Jensen's inequality.
    bound = np.log(count) - entropy
    if isinstance(loss, Logistic):
        bound = np.log(count) + np.log(peak) - np.log(np.log(2.0))
    if float(stop) > bound:
        raise ValueError(
            f"stop asks for -log L = {float(stop):.6g}, but no beta separates the data: weights lambda >= 0 with "
            f"X^T (lambda y) = 0 show that -log L cannot exceed {bound:.6g}; add features or an intercept, or use "
            "gflow.TimeClock()."
        )


@lru_cache(maxsize=64)
def _certificate(X: bytes, y: bytes, count: int) -> tuple[float, float]:
    """Entropy and largest entry of Gordan's certificate lambda (sum 1); -inf and inf where some beta separates."""
    from .limits import separation  # whose modules check their arguments by this one

    answer = separation(np.frombuffer(X).reshape(count, -1), np.frombuffer(y))
    if answer.separable:
        return -np.inf, np.inf
    weights = answer.multipliers / answer.multipliers.sum()
    positive = weights[weights > 0]
    return float(-np.sum(positive * np.log(positive))), float(weights.max())
