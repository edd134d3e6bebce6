"""One point of a sweep: its flow, and what is kept of it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..charts import chart_of
from ..flow import Flow
from ..kinks.chart import shares_kinks
from ..kinks.layer import declared
from ..losses import AbstractLoss, Square
from ..models import MatrixFactorization
from ..solve import gradient_flow
from ..status import Status
from ..trajectory import Trajectory, without_last_row
from .problem import Problem


def flow_of(model: Any, X: Any, y: Any, loss: Any) -> Flow:
    """The flow of one model, of array output too."""
    y = jnp.ravel(y)
    return Flow(chart_of(model, X, y, loss), X, y, loss)


def beta_of(model: Any) -> Any:
    """The linear predictor of one model, if it has one."""
    beta = getattr(model, "beta", None)
    return beta if isinstance(beta, jax.Array) and jnp.issubdtype(beta.dtype, jnp.floating) else None


def values_of(traj: Trajectory, beta: bool) -> dict[str, Any]:
    """The variables of a point."""
    values = {
        "neg_log_loss": traj.neg_log_loss,
        "log_time": traj.log_time,
        # The last save of a run lies beyond the step from which it was interpolated.
        "final_neg_log_loss": jnp.nanmax(jnp.append(traj.neg_log_loss, traj.position.gamma)),
        "status": traj.status_code,
        "steps": traj.stats["steps"],
        "rejections": traj.stats["rejections"],
    }
    values |= {name: jnp.asarray(value, float) for name, value in traj.metrics.items()}
    if beta:
        values["beta"] = eqx.filter_vmap(beta_of)(traj.model)
    return values


def by_values(model: Any, X: Any, loss: AbstractLoss) -> bool:
    """Whether the coordinates of a flow are chosen by the values of its model (`gflow.graded`, `gflow.aligned`,
    `gflow.symmetric`, `gflow.mixed_units`) or data (`gflow.kinks`), which a program for many points does not know."""
    if isinstance(model, MatrixFactorization):
        return isinstance(loss, Square)
    return declared(model) and shares_kinks(model, X)


def alone(problem: Problem, model: Any, index: np.ndarray) -> dict[str, Any]:
    """The variables of a point by the call of `gradient_flow` that it stands for; of a run that fails, with the saves
    that there are. Raises ValueError where it does, and KeyboardInterrupt on a Ctrl-C, which is meant for the sweep."""
    X, y = problem.data[problem.data_index(index)]
    traj = gradient_flow(
        model,
        X,
        y,
        loss=problem.loss_at(index),
        clock=problem.clock,
        stop=problem.stop,
        save=problem.save,
        solver=problem.solver,
        rtol=float(problem.value("rtol", index, problem.rtol)),
        max_steps=problem.max_steps,
        throw=False,
        metrics=problem.metrics,
        progress=False,
    )
    if int(traj.status_code) == Status.interrupted:
        raise KeyboardInterrupt
    # Of a run that failed the last row is where it failed, and no save.
    failed = int(traj.status_code) not in (Status.success, Status.symmetry_broken)
    return values_of(without_last_row(traj) if failed else traj, beta_of(model) is not None)
