"""What makes a sweep repeatable: its arguments, data and versions, as attributes of the result."""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from . import known
from .axes import OWN
from .digest import Seen, without_addresses
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
        "models_sha256": _hash([Seen("".join(probes.numbers), []), *known.of_models(problem, probes.models)]),
        "data_sha256": data.hexdigest(),
        "loss": _losses(problem),
        "loss_sha256": _hash(known.of_losses(problem)),
        "clock": _text(problem.clock).removesuffix("()"),
        "clock_sha256": _hash(known.of_clock(problem)),
        "stop": "the last save" if problem.stop is None else _plain(problem.stop),
        "seed": "none" if seeds is None else str(seeds) if len(seeds) <= 20 else f"{len(seeds)} along its dimension",
    }
    for axis in problem.axes:
        if axis.name not in OWN and [*map(str, axis.values)] != [*map(str, axis.labels.tolist())]:
            told = ", ".join(f"{k}: {eqx.tree_pformat(v)}" for k, v in zip(axis.labels, axis.values, strict=True))
            about[f"over_{axis.name}"] = " ".join(without_addresses(told).split())[:10_000]
    if exact:
        about["digits"] = problem.digits
    else:
        along = any(axis.name == "rtol" for axis in problem.axes)
        about |= {
            "rtol": "along its dimension" if along else float(problem.rtol),
            "solver": "chosen by gflow" if problem.solver is None else _text(problem.solver),
            "solver_sha256": _hash(known.of_solver(problem)),
            "max_steps": int(problem.max_steps),
            "metrics": ", ".join(sorted(problem.metrics)) or "none",
            "metrics_sha256": _hash(known.of_metrics(problem, probes.models)),
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
    return " ".join(without_addresses(eqx.tree_pformat(tree, short_arrays=False, width=10_000)).split())


def _hash(parts: Iterable[Seen]) -> str:
    return hashlib.sha256(b"".join(part.exactly() for part in parts)).hexdigest()
