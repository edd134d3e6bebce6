"""The points of a sweep in arbitrary precision, by `gflow.precise.diagonal_flow`."""

import threading
from typing import Any

import numpy as np

from ..status import Status
from .chunks import Chunk
from .problem import Problem

# python-flint's precision belongs to the process: threads take turns.
_TURN = threading.Lock()


def arguments(problem: Problem, index: Any) -> dict[str, Any]:
    """Depth and scales of a point, exactly. Raises ValueError for what `diagonal_flow` would refuse."""
    from .. import precise
    from ..precise import inputs

    model = problem.model(index)
    wanted = dict(model) if isinstance(model, dict) else precise.from_model(model)
    if unknown := wanted.keys() - {"depth", "scale"}:
        raise ValueError(f"make_model must give depth and scale where digits are given, not {min(unknown)!r}.")
    width = problem.data[problem.data_index(index)][0].shape[1]
    return {
        "depth": inputs.check_depth(wanted.get("depth", 2)),
        "scale": inputs.check_scales(wanted.get("scale", 1), width),
    }


def run_chunk(problem: Problem, chunk: Chunk) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `batch.run_chunk`."""
    from .. import precise

    points = chunk.points()
    values = {v.name: v.empty((len(points),)) for v in problem.variables}
    failures: dict[int, str] = {}
    for row, index in enumerate(points):
        X, y = problem.data[problem.data_index(index)]
        loss = problem.loss_at(index)
        try:
            wanted = arguments(problem, index)
        except Exception as error:
            failures[row] = f"{type(error).__name__}: {error}"
            continue
        try:
            with _TURN:
                run = precise.diagonal_flow(
                    X, y, **wanted, stop=problem.stop, save=problem.save, digits=problem.digits or 50,
                    loss=type(loss).__name__.lower(), reduction=loss.reduction,
                )  # fmt: skip
        except ValueError as error:
            # Data that are not separable, or a start beyond a save point.
            failures[row] = f"ValueError: {error}"
            continue
        if run.status.startswith("The run was interrupted"):
            # It has heard a Ctrl-C that is meant for the sweep.
            raise KeyboardInterrupt
        texts = run.to_xarray()
        count = len(run.neg_log_loss)
        for name in ("neg_log_loss", "log_time", "beta"):
            found = texts[name].values.astype(np.dtypes.StringDType())
            values[name][(row, *(slice(0, n) for n in found.shape))] = found
        values["digits"][row] = run.digits
        values["status"][row] = _status(run.success, count == problem.saves)
        for name, key in (("steps", "steps"), ("rejections", "rejections")):
            values[name][row] = sum(solution[key] for solution in run.stats["runs"])
    values["status"][list(failures)] = int(Status.no_model)
    shaped = {v.name: values[v.name].reshape(*chunk.shape, *v.shape) for v in problem.variables}
    return shaped, {problem.describe(points[row]): text for row, text in failures.items()}


def _status(success: bool, complete: bool) -> int:
    if success:
        return int(Status.success)
    return int(Status.unverified if complete else Status.step_too_small)
