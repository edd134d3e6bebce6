"""What comes back from a run."""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from .clocks import AbstractClock
from .flow import Flow
from .kinks.events import join_logs
from .status import Status

if TYPE_CHECKING:
    import xarray as xr

# In -log L: a loss a thousand times as large.
_FAR_ABOVE = 7.0
_CHATTER = (
    " The model has kinks that it does not declare, where solvers chatter: steps are wasted, and digits with them; let "
    "it declare its pre-activations (one hidden layer, see gflow.kinks), or smooth its activation."
)

_DOUBT = (
    " At {} of its events a kink is met, or missed, by less than rtol resolves (resolved=False): the true flow may do "
    "the other; lower rtol."
)


class Trajectory(eqx.Module):
    """Saved points of a gradient flow or a gradient descent, with the evidence of how the run went.

    - `model`: saved models; every array leaf has a leading save axis (S, ...). `beta` follows where a model has one.
    - `final`: the model at the stop (or, of a run that failed, at the last accepted step).
    - `neg_log_loss`: gamma = -log L in nats, (S,), computed from the saved models.
    - `log_time`: log t of physical time, (S,).
    - `metrics`: dict of arrays with a leading save axis.
    - `success`, `status`: whether the stop was reached, and a sentence.
    - `stats`: steps, rejections, seconds (compilation included).
    - `step`: of a gradient descent, the number of steps taken at the saves, (S,); `log_time` is then the log of the sum
      of the step sizes, and the start (step 0) may be saved.

    A run that ended early holds the saves that were passed and, as its last row, the point where it stood. Inside
    `jax.jit`, `jax.vmap` or `jax.jvp`, where shapes are fixed, rows that were not reached are NaN instead.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> traj = gflow.gradient_descent(gflow.models.LinearModel(2), X, y, step=0.5, steps=100, save=[10, 100])
        >>> traj.success, traj.model.beta.shape, traj.final.beta.shape, traj.neg_log_loss.shape
        (True, (2, 2), (2,), (2,))

        ```
    """

    model: Any
    final: Any
    neg_log_loss: Float[Array, " S"]
    log_time: Float[Array, " S"]
    metrics: dict[str, Array]
    status_code: Int[Array, ""]
    stats: dict[str, Any]
    clock: AbstractClock | None
    flow: Flow
    position: Any
    step: Int[Array, " S"] | None = None
    log: Any = None

    @property
    def events(self) -> Any:
        """Of a model that declares its kinks, what happened at them: a list of `gflow.kinks.Event` in order of time.

        Inside a JAX transformation and after `vmap`, arrays instead, of which the first `count` rows count."""
        if self.log is None:
            return []
        return self.log.records() if _is_concrete_scalar(self.log.count) else self.log

    @property
    def success(self) -> Any:
        """Whether the stop was reached: a bool (an array inside a JAX transformation, or after `vmap`)."""
        done = self.status_code == Status.success
        return bool(done) if _is_concrete_scalar(done) else done

    @property
    def status(self) -> Any:
        """One sentence (inside a JAX transformation, the code of `gflow.Status`; after `vmap`, a list of them)."""
        if isinstance(self.status_code, Tracer):
            return self.status_code
        if np.ndim(self.status_code):
            return [Status(int(code)).sentence for code in np.ravel(self.status_code)]
        where = "" if self.success else f" It stands at -log L = {float(self.position.gamma):.6g}."
        if int(self.status_code) == Status.diverged:
            where = f" Since step {int(self.position.best_at)} the loss has been above what it was there.{where}"
        where += self._climb()
        jumps = int(self.status_code) == Status.loss_jumps
        chatter = _CHATTER if self.stats.get("chattering", False) and not jumps else ""
        chosen = sum(not event.unique for event in self.events)
        choice = f" At {chosen} of its events the flow was not determined, and at_kink chose." if chosen else ""
        open_ = sum(not event.resolved for event in self.events)
        doubt = _DOUBT.format(open_) if open_ else ""
        return Status(int(self.status_code)).sentence + where + chatter + choice + doubt

    def _climb(self) -> str:
        """Of a descent that has used up its steps, or reached its time, while it diverges slowly."""
        place = self.position
        if self.step is None or int(self.status_code) == Status.diverged or not hasattr(place, "first"):
            return ""
        if not float(place.judged) < float(place.first) - _FAR_ABOVE:
            return ""
        return (
            f" But it diverges, or has yet to come back: the loss was least at step {int(place.best_at)}, and is now e^"
            f"{float(place.first) - float(place.judged):.3g} times what it was at the start; lower the step size."
        )

    def to_xarray(self) -> "xr.Dataset":
        """The saves as an `xarray.Dataset` along the dimension `save`.

        **Returns:** variables `neg_log_loss` (nats), `decades` (log10 1/L), `log_time` (nats), `beta` (save,
        coordinate) where the model has one, each metric (as `metric_<name>` if its name is taken), and each array leaf
        of the model under `model<path>`; attributes `status`, `success`, `clock` and the stats.

        **Raises:** `ValueError` inside a JAX transformation.
        """
        if isinstance(self.neg_log_loss, Tracer) or np.ndim(self.neg_log_loss) != 1:
            raise ValueError("to_xarray needs one concrete trajectory: call it outside jit, vmap and jvp.")
        import xarray as xr  # half a second, which runs do not need

        gamma = np.asarray(self.neg_log_loss)
        data: dict[str, Any] = {
            "neg_log_loss": ("save", gamma, {"long_name": "-log L", "units": "nat"}),
            "decades": ("save", gamma / np.log(10.0), {"long_name": "log10 1/L", "units": "decade"}),
            "log_time": ("save", np.asarray(self.log_time), {"long_name": "log t", "units": "nat"}),
        }
        if self.step is not None:
            data["step"] = ("save", np.asarray(self.step))
        beta = getattr(self.model, "beta", None)
        if beta is not None:
            data["beta"] = (("save", "coordinate"), np.asarray(beta))
        for name, value in self.metrics.items():
            data[f"metric_{name}" if name in data else name] = _variable(name, np.asarray(value))
        for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(self.model, eqx.is_array)):
            name = "model" + jax.tree_util.keystr(path)
            data[name] = _variable(name, np.asarray(leaf))
        clock = "steps" if self.clock is None else type(self.clock).__name__
        attributes = {"status": self.status, "success": int(self.success), "clock": clock}
        return xr.Dataset(data, attrs=attributes | {k: float(v) for k, v in self.stats.items()})

    def __str__(self) -> str:
        if isinstance(self.neg_log_loss, Tracer) or np.ndim(self.neg_log_loss) != 1:
            return f"Trajectory(batched or traced, saves {self.neg_log_loss.shape})"
        gamma, log_time = np.asarray(self.neg_log_loss), np.asarray(self.log_time)
        leaves = jax.tree.leaves(eqx.filter(self.model, eqx.is_inexact_array))
        rows = [
            ("status", self.status),
            ("saves", f"{gamma.size}"),
            ("-log L", _span(gamma) + " nat"),
            ("log10 1/L", _span(gamma / np.log(10.0)) + " decades"),
            ("log t", _span(log_time) + " nat"),
            ("model", f"{type(self.final).__name__}, {sum(leaf[0].size for leaf in leaves)} numbers a save"),
            ("steps", f"{int(self.stats['steps'])} + {int(self.stats['rejections'])} rejected"),
            ("seconds", f"{float(self.stats['seconds']):.3g} (compilation included)"),
        ]
        rows += [(name, f"{_span(np.asarray(value))}, shape {value.shape}") for name, value in self.metrics.items()]
        width = max(len(name) for name, _ in rows)
        return "Trajectory\n" + "\n".join(f"  {name.ljust(width)}  {text}" for name, text in rows)

    def __repr__(self) -> str:
        return str(self)


def _is_concrete_scalar(value: Any) -> bool:
    return not isinstance(value, Tracer) and np.ndim(value) == 0


def _span(values: np.ndarray) -> str:
    if values.size == 0:
        return "none"
    first, last = (f"{float(v):.6g}" for v in (np.ravel(values)[0], np.ravel(values)[-1]))
    return first if values.size == 1 else f"{first} ... {last}"


def _variable(name: str, value: np.ndarray) -> tuple:
    return (("save", *(f"{name}_{k}" for k in range(1, value.ndim))), value)


def concatenate(first: Trajectory, second: Trajectory) -> Trajectory:
    """`second`, which resumed `first`, with the saves of both."""
    join = lambda a, b: jnp.concatenate([a, b])
    arrays = lambda t: eqx.partition(t.model, eqx.is_array)
    model = eqx.combine(jax.tree.map(join, arrays(first)[0], arrays(second)[0]), arrays(second)[1])
    if first.log is not None:
        second = eqx.tree_at(lambda t: t.log, second, join_logs([first.log, second.log]))
    return _with_rows(second, model, lambda t: join(t(first), t(second)))


def without_last_row(traj: Trajectory) -> Trajectory:
    rows = lambda leaf: leaf[:-1]
    arrays, rest = eqx.partition(traj.model, eqx.is_array)
    return _with_rows(traj, eqx.combine(jax.tree.map(rows, arrays), rest), lambda t: rows(t(traj)))


def _with_rows(traj: Trajectory, model: Any, rows: Callable) -> Trajectory:
    """`traj` with this model and, in place of every other array with a save axis, rows(the function that reads it)."""
    places = [lambda t: t.neg_log_loss, lambda t: t.log_time]
    places += [lambda t, name=name: t.metrics[name] for name in traj.metrics]
    places += [] if traj.step is None else [lambda t: t.step]
    return eqx.tree_at(lambda t: [t.model, *(p(t) for p in places)], traj, [model, *(rows(p) for p in places)])


def same_tree(first: Any, second: Any) -> bool:
    """Whether two trees have the same structure and equal arrays."""
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )
