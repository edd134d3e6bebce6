"""The flows of a chunk, in one compiled program, or one by one where their coordinates are chosen by their values.

On a CPU the program takes the points in turn (`map`): a small flow has nothing to gain from lanes in lock-step, which
all take as many steps as the slowest and solve their small systems batched. On other devices all points of a chunk go
at once (`vmap`), which is why those that cost about the same share one. Either way the points of a chunk are spread
over the devices that JAX sees.
"""

import threading
from collections.abc import Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ..losses import MarginLoss
from ..memory_maps import make_room
from ..solve import gradient_flow
from ..solvers import choose
from ..status import Status
from .chunks import Chunk
from .models import Group, groups
from .point import alone, beta_of, by_values, flow_of, values_of
from .problem import Problem


def run_chunk(problem: Problem, chunk: Chunk) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The variables of a chunk, as arrays of its shape, and of points that could not be made what was said."""
    make_room()
    points = chunk.points()
    values = {v.name: v.empty((len(points),)) for v in problem.variables}
    failures: dict[int, str] = {}
    for group in groups(problem, points, failures):
        for rows, found in _results(problem, group, points, failures):
            if wrong := _too_large(problem, found):
                failures.update(dict.fromkeys(rows.tolist(), wrong))
                continue
            for name, value in found.items():
                # Smaller where other points have more (data sets of several dimensions, say).
                inner = tuple(slice(0, n) for n in value.shape[1:])
                values[name][(rows, *inner)] = value
    values["status"][list(failures)] = int(Status.no_model)
    shaped = {v.name: values[v.name].reshape(*chunk.shape, *v.shape) for v in problem.variables}
    return shaped, {problem.describe(points[row]): text for row, text in failures.items()}


def _results(
    problem: Problem, group: Group, points: np.ndarray, failures: dict[int, str]
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows, and what was found at them."""
    rows, names = group.rows, [v.name for v in problem.variables]
    pick = lambda got, count: {name: got[name][:count] for name in names if name in got}
    batching = _batching(problem, group.models, points[rows])
    if batching != "single":
        yield rows, pick(jax.device_get(_flows(problem, group.models, points[rows], batching)), len(rows))
        return
    refused = []
    for k, row in enumerate(rows):
        try:
            # As it is called: a program may round otherwise, and what is symmetric to the last bit would not be.
            model = problem.model(points[row])
        except Exception as error:
            failures[row] = f"{type(error).__name__}: {error}"
            continue
        try:
            got = alone(problem, model, points[row])
        except ValueError:
            refused.append(k)
            continue
        yield np.array([row]), pick({name: np.asarray(value)[None] for name, value in got.items()}, 1)
    if refused:
        # What a call says before it begins, a program says by its status.
        filled = np.array(refused + refused[-1:] * (problem.batch - len(refused)))
        models = jax.tree.map(lambda leaf: leaf[filled] if eqx.is_array(leaf) else leaf, group.models)
        got = jax.device_get(_flows(problem, models, points[rows[refused]], "map"))
        yield rows[refused], pick(got, len(refused))


def _batching(problem: Problem, models: Any, points: np.ndarray) -> str:
    """How the points of a group are computed: as the user says, or as suits them and the device."""
    if problem.batching is not None:
        return problem.batching
    model, loss = _first(models), problem.loss_at(points[0])
    used = {problem.data_index(point) for point in points}
    return "single" if any(by_values(model, problem.data[k][0], loss) for k in used) else suits_device()


def _first(models: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, models)


def suits_device() -> str:
    return "map" if jax.default_backend() == "cpu" else "vmap"


def _too_large(problem: Problem, found: dict[str, np.ndarray]) -> str:
    """What does not fit into the result, whose shapes come from points that were looked at first; empty if all does."""
    for variable in problem.variables:
        if variable.name not in found:
            continue
        shape = found[variable.name].shape[1:]
        if len(shape) != len(variable.shape) or any(n > m for n, m in zip(shape, variable.shape, strict=True)):
            return f"ValueError: {variable.name} has shape {shape}, and the result has room for {variable.shape}"
    return ""


def _flows(problem: Problem, models: Any, points: np.ndarray, batching: str) -> dict[str, Any]:
    """The flows of `models` (batch of them, of which the first ones are meant) at `points`."""
    used = sorted({problem.data_index(point) for point in points})
    sets = [problem.data[k] for k in (used + used[-1:] * problem.width)[: problem.width]]
    X, y = (jnp.stack([jnp.asarray(pair[k], float) for pair in sets]) for k in (0, 1))
    spare = problem.batch - len(points)
    pad = lambda rows: jnp.asarray(np.concatenate([rows, np.repeat(rows[-1:], spare, axis=0)]))
    loss = problem.loss_at(points[0])
    program = {
        "X": X,
        "y": y,
        "loss": loss,
        "stop": None if problem.stop is None else jnp.asarray(problem.stop, float),
        "save": None if problem.save is None else jnp.asarray(problem.save, float),
        "max_steps": jnp.asarray(problem.max_steps, int),
    }
    fixed = (problem.clock, solver_of(problem, _first(models), X[0], y[0], loss), problem.metrics, batching)
    each = {
        "rtol": pad(np.array([problem.value("rtol", point, problem.rtol) for point in points], float)),
        "data": pad(np.array([used.index(problem.data_index(point)) for point in points])),
        "meant": jnp.arange(problem.batch) < len(points),
    }
    return _run(models, each, program, fixed)


def solver_of(problem: Problem, model: Any, X: Any, y: Any, loss: Any) -> Any:
    """The solver of a compiled program; None for explicit steps first and LogRadau after them."""
    if problem.solver is not None:
        return problem.solver
    flow = flow_of(model, X, y, loss)
    end = problem.save[-1] if problem.stop is None else problem.stop
    phases = choose(flow, float(problem.clock.inner(jnp.asarray(end, float))))
    if len(phases) == 1 or (flow.chart.linear and isinstance(loss, MarginLoss)):
        # Two solvers would both be compiled.
        return phases[-1].solver
    return None


def _run(models: Any, each: dict, program: dict, fixed: tuple) -> dict[str, Any]:
    if fixed[-1] == "map":
        return _compute(models, each, program, fixed)
    with _ALONE:
        return jax.block_until_ready(_compute(models, each, program, fixed))


# Batches of LAPACK's operations, which vmap makes, may wait for ever for those of another thread (see gflow.lapack):
# those of gflow are taken in pieces, those of a solver or a model cannot be.
_ALONE = threading.Lock()


def compute(models: Any, each: dict, program: dict, fixed: tuple) -> dict[str, Any]:
    """Flows of `models`, which have a leading axis as `each` has. Compiled once for all of one structure and shape."""
    clock, solver, metrics, batching = fixed
    arrays, rest = eqx.partition(models, eqx.is_array)

    # jit: traced once, though asked for its shapes first.
    @jax.jit
    def one(point: Any) -> dict[str, Any]:
        leaves, of = point
        traj = gradient_flow(
            eqx.combine(leaves, rest),
            program["X"][of["data"]],
            program["y"][of["data"]],
            loss=program["loss"],
            clock=clock,
            stop=program["stop"],
            save=program["save"],
            solver=solver,
            rtol=of["rtol"],
            max_steps=program["max_steps"],
            throw=False,
            metrics=metrics,
        )
        return values_of(traj, beta_of(eqx.combine(leaves, rest)) is not None)

    def in_turn(points: Any) -> dict[str, Any]:
        shapes = jax.eval_shape(one, jax.tree.map(lambda v: v[0], points))
        nothing = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)
        # Rows that only fill the program up cost nothing.
        return jax.lax.map(lambda p: jax.lax.cond(p[1]["meant"], one, lambda _: nothing, p), points)

    run = jax.vmap(one) if batching == "vmap" else in_turn
    # Lineax, of Diffrax's implicit solvers, takes the types of a shard for others than its own.
    devices = 1 if isinstance(solver, diffrax.AbstractImplicitSolver) else jax.local_device_count()
    if devices > 1 and each["meant"].shape[0] % devices == 0:
        rows = PartitionSpec("points")
        mesh = Mesh(np.array(jax.local_devices()), ("points",))
        run = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        # Dealt out one by one: the points that are meant come first, and each device takes rows that lie together.
        dealt = run(jax.tree.map(lambda v: _across(v, -1, devices), (arrays, each)))
        return jax.tree.map(lambda v: _across(v, devices, -1), dealt)
    return run((arrays, each))


_compute = eqx.filter_jit(compute)


def _across(v: jax.Array, *shape: int) -> jax.Array:
    """The rows of an array, written by rows of `shape`, read by its columns."""
    return jnp.swapaxes(v.reshape(*shape, *v.shape[1:]), 0, 1).reshape(v.shape)
