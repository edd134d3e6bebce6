"""What makes a sweep repeatable: its arguments, data and versions, as attributes of the result."""

import contextlib
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..kinks.layer import declared
from ..run import measure
from .axes import OWN
from .digest import code_in, computation, is_own, without_addresses
from .models import program
from .point import beta_of, flow_of
from .probes import Probes
from .problem import Problem

# With other versions the digits may differ in the last place.
VERSIONS = ("gflow", "jax", "jaxlib", "equinox", "diffrax", "lineax", "optimistix", "numpy")
_EXACT_VERSIONS = ("gflow", "mpmath", "python-flint", "numpy")


def attributes(problem: Problem, probes: Probes) -> dict[str, Any]:
    """Attributes of the result. Its make_model is known again by the numbers in models all over the grid, by what
    models of every form compute, and by its program where it is compiled."""
    model = probes.models[0][1]
    data = hashlib.sha256()
    for X, y in problem.data:
        for part in (X, y):
            data.update(str(np.shape(part)).encode())
            data.update(part.tobytes() if part.dtype != object else str(part.tolist()).encode())
    exact = problem.digits is not None
    seeds = next((axis.labels.tolist() for axis in problem.axes if axis.name == "seed"), None)
    about: dict[str, Any] = {
        "model": _text(model).split("(")[0] if not isinstance(model, dict) else "DiagonalNetwork",
        "make_model": _name(problem.make_model),
        "models_sha256": _hash_models(problem, probes),
        "data_sha256": data.hexdigest(),
        "loss": _losses(problem),
        "loss_sha256": _hash_losses(problem),
        "clock": _text(problem.clock).removesuffix("()"),
        "clock_sha256": hashlib.sha256(computation(problem.clock.inner, np.ones(()))).hexdigest(),
        "stop": "the last save" if problem.stop is None else _plain(problem.stop),
        "seed": "none" if seeds is None else str(seeds) if len(seeds) <= 20 else f"{len(seeds)} along its dimension",
    }
    for axis in problem.axes:
        if axis.name not in OWN and [*map(str, axis.values)] != [*map(str, axis.labels.tolist())]:
            told = ", ".join(f"{k}: {eqx.tree_pformat(v)}" for k, v in zip(axis.labels, axis.values, strict=True))
            about[f"over_{axis.name}"] = " ".join(told.split())[:10_000]
    if exact:
        about["digits"] = problem.digits
    else:
        along = any(axis.name == "rtol" for axis in problem.axes)
        about |= {
            "rtol": "along its dimension" if along else float(problem.rtol),
            "solver": "chosen by gflow" if problem.solver is None else _text(problem.solver),
            "solver_sha256": hashlib.sha256(code_in(problem.solver)).hexdigest(),
            "max_steps": int(problem.max_steps),
            "metrics": ", ".join(problem.metrics) or "none",
            "metrics_sha256": _hash_metrics(problem, probes),
            "batching": problem.batching or "chosen by gflow",
            "devices": f"{jax.local_device_count()} {jax.default_backend()}",
        }
    versions = {name: importlib.metadata.version(name) for name in (_EXACT_VERSIONS if exact else VERSIONS)[1:]}
    from .. import __version__

    versions = {"gflow": __version__, **versions, "python": platform.python_version()}
    about = {f"jax_{name}": str(value) for name, value in problem.settings.items()} | about
    return about | {f"version_{name}": version for name, version in versions.items()}


def _losses(problem: Problem) -> str:
    """With the names of the losses where they are a dimension: a name does not say what it stands for."""
    for axis in problem.axes:
        if axis.name == "loss":
            return ", ".join(f"{k}: {_text(v)}" for k, v in zip(axis.labels.tolist(), axis.values, strict=True))
    return _text(problem.loss)


def _name(function: Any) -> str:
    """A function as it is called for: module, name, and what a partial one is given."""
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"{_name(function.func)}({', '.join(given)})"
    known = function if hasattr(function, "__qualname__") else type(function)
    return f"{known.__module__}.{known.__qualname__}"


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number | np.ndarray | jax.Array) else str(value)


def _text(tree: Any) -> str:
    return " ".join(eqx.tree_pformat(tree, short_arrays=False, width=10_000).split())


def _hash_models(problem: Problem, probes: Probes) -> str:
    """Of the numbers in models and of what they compute."""
    digest = hashlib.sha256(b"".join(probes.numbers))
    for point, model in probes.models:
        if isinstance(model, dict):
            continue
        X, y = (jnp.asarray(v, float) for v in problem.data[problem.data_index(point)])
        digest.update(computation(lambda model, x: model(x), model, X[0], derivatives=True))
        digest.update(computation(functools.partial(asked_for, loss=problem.loss_at(point)), model, X, y))
        digest.update(fixed(model).encode())
        if problem.traced:
            make, columns = program(problem, point)
            # Where it cannot be traced models are made one by one.
            with contextlib.suppress(Exception):
                digest.update(computation(make, *columns))
    return digest.hexdigest()


def asked_for(model: Any, X: jax.Array, y: jax.Array, loss: Any) -> tuple:
    """What a run asks a model for, beside its outputs."""
    told: list[Any] = [beta_of(model)]
    if declared(model):
        layer = model.hidden_layer()
        told += [layer, model.with_hidden_layer(layer)]
    elif hasattr(model, "chart"):
        told.append(model.chart())
        if is_own(type(model.chart())):
            flow = flow_of(model, X, y, loss)
            chart, a = flow.chart, flow.chart.coordinates()
            state = jnp.append(a, 1.0)
            told += [a, chart.at(a), flow.rate(a), flow.error(jnp.ones_like(state), state, flow.sight(a), state)]
            told += [chart.velocities(a, X), chart.jacobian(a, X), chart.length(a), chart.extent(a)]
            told.append(chart.tidied(a, a[None]))
    return tuple(told)


def fixed(model: Any) -> str:
    """What is no array of that."""
    if declared(model):
        layer = model.hidden_layer()
        return str((layer.slope, layer.train_output))
    return without_addresses(eqx.tree_pformat(model.chart(), short_arrays=True)) if hasattr(model, "chart") else ""


def _hash_losses(problem: Problem) -> str:
    """Of what losses compute of all data: the text of one of the user's own does not say it."""
    digest = hashlib.sha256()
    for loss in problem.losses:
        for size in sizes_for(loss, problem):
            f = y = np.ones(size)
            digest.update(computation(functools.partial(of_a_loss, loss), f, y, derivatives=True))
    return digest.hexdigest()


def sizes_for(loss: Any, problem: Problem) -> list[int]:
    """Of the data: a loss of the user's own may do for no others."""
    return sorted({np.size(y) for _, y in problem.data}) if is_own(type(loss)) else [2]


def of_a_loss(loss: Any, f: Any, y: Any) -> tuple:
    told = [loss.neg_log(f, y), loss.weights(f, y)]
    if is_own(type(loss)):
        dual, gamma = loss.dual(f, y)
        told += [loss.output_scale(f, y), loss.rounding(f, y), dual, gamma, loss.pull(dual, y), loss.drawn(dual, dual)]
        told += [loss.dual_rows(f, y, dual, gamma, 0.1), loss.dual_slope(dual, y, gamma), loss.admissible(dual)]
    return tuple(told)


def _hash_metrics(problem: Problem, probes: Probes) -> str:
    digest = hashlib.sha256()
    for name, metric in problem.metrics.items():
        digest.update(name.encode())
        for point, model in probes.models:
            X, y = problem.data[problem.data_index(point)]
            digest.update(computation(functools.partial(metric_of, name, metric), model, X, y))
    return digest.hexdigest()


def metric_of(name: str, metric: Callable, model: Any, X: Any, y: Any) -> jax.Array:
    """A metric of one model, called as `gradient_flow` calls it."""
    models = jax.tree.map(lambda v: v[None] if eqx.is_array(v) else v, model)
    return measure({name: metric}, models, jnp.asarray(X, float), jnp.asarray(y, float))[name][0]
