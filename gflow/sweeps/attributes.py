"""What makes a sweep repeatable: its arguments, data and versions, as attributes of the result."""

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..solve import measure
from .problem import Problem

# With other versions the digits may differ in the last place.
VERSIONS = ("gflow", "jax", "jaxlib", "equinox", "diffrax", "numpy")
_EXACT_VERSIONS = ("gflow", "mpmath", "python-flint", "numpy")


def attributes(problem: Problem, models: Sequence[Any]) -> dict[str, Any]:
    """Attributes of the result. `models` are some of the sweep's, from which its make_model is known again."""
    data = hashlib.sha256()
    for X, y in problem.data:
        for part in (X, y):
            data.update(str(np.shape(part)).encode())
            data.update(part.tobytes() if part.dtype != object else str(part.tolist()).encode())
    exact = problem.digits is not None
    seeds = next((axis.labels.tolist() for axis in problem.axes if axis.name == "seed"), None)
    about: dict[str, Any] = {
        "model": _text(models[0]).split("(")[0] if not isinstance(models[0], dict) else "DiagonalNetwork",
        "make_model": getattr(problem.make_model, "__qualname__", type(problem.make_model).__qualname__),
        "models_sha256": _hash_models(problem, models),
        "data_sha256": data.hexdigest(),
        "loss": "along its dimension" if any(a.name == "loss" for a in problem.axes) else _text(problem.loss),
        "clock": type(problem.clock).__name__,
        "stop": "the last save" if problem.stop is None else _plain(problem.stop),
        "seed": "none" if seeds is None else str(seeds) if len(seeds) <= 20 else f"{len(seeds)} along its dimension",
    }
    if exact:
        about["digits"] = problem.digits
    else:
        along = any(axis.name == "rtol" for axis in problem.axes)
        about |= {
            "rtol": "along its dimension" if along else float(problem.rtol),
            "solver": "chosen by gflow" if problem.solver is None else _text(problem.solver),
            "max_steps": int(problem.max_steps),
            "metrics": ", ".join(problem.metrics) or "none",
            "metrics_sha256": _hash_metrics(problem, models[0]),
            "batching": problem.batching,
            "devices": f"{jax.local_device_count()} {jax.default_backend()}",
        }
    versions = {name: importlib.metadata.version(name) for name in (_EXACT_VERSIONS if exact else VERSIONS)[1:]}
    from .. import __version__

    versions = {"gflow": __version__, **versions, "python": platform.python_version()}
    return about | {f"version_{name}": version for name, version in versions.items()}


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number | np.ndarray | jax.Array) else str(value)


def _text(tree: Any) -> str:
    return " ".join(eqx.tree_pformat(tree, short_arrays=False, width=10_000).split())


def _hash_models(problem: Problem, models: Sequence[Any]) -> str:
    """Of the numbers in `models` and of what they compute."""
    digest = hashlib.sha256()
    for model in models:
        if isinstance(model, dict):
            digest.update(str(sorted(model.items())).encode())
            continue
        for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)):
            leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
            digest.update(np.asarray(leaf).tobytes())
    if not isinstance(models[0], dict):
        digest.update(_computation(models[0], np.asarray(problem.data[0][0][0], float)))
    return digest.hexdigest()


def _hash_metrics(problem: Problem, model: Any) -> str:
    digest = hashlib.sha256()
    X, y = problem.data[0]
    for name, metric in problem.metrics.items():
        digest.update(name.encode())
        digest.update(_computation(lambda metric=metric: metric_of(metric, model, X, y)))
    return digest.hexdigest()


def metric_of(metric: Callable, model: Any, X: Any, y: Any) -> jax.Array:
    """A metric of one model, called as `gradient_flow` calls it."""
    models = jax.tree.map(lambda v: v[None] if eqx.is_array(v) else v, model)
    return measure({"": metric}, models, jnp.asarray(X, float), jnp.asarray(y, float))[""][0]


def _computation(function: Callable, *inputs: Any) -> bytes:
    """A function as JAX sees it: what it computes, and the constants in it."""
    program = jax.make_jaxpr(function)(*inputs)
    constants = b"".join(np.asarray(value).tobytes() for value in program.consts if eqx.is_inexact_array_like(value))
    return re.sub(r"0x[0-9a-f]+", "", str(program)).encode() + constants
