"""A sweep as a TOML file, for the command line.

model = "DiagonalNetwork"        # of gflow.models, or "module:function" (also from the current folder)
data = "iris"                    # as gflow.datasets.load takes it; or {path = "my.csv", label = "class"}
decades = "1:1000:31"            # log10 1/loss of the saves; or save, stop in the coordinate of the clock
loss = "logistic"                # exponential (the default), logistic, square
clock = "loss"                   # loss (the default), time, log-time
rtol = 1e-6                      # also max_steps, batching, digits
solver = "LogRadau"              # or one of Diffrax, "Kvaerno5" say; chosen by gflow if left out
metrics = ["normalized_margin"]  # of gflow.metrics, or "module:function"

[over]                           # a list, LOW:HIGH:COUNT (log-spaced) or FIRST..LAST (integers)
scale = "0.01:100:41"
depth = [2, 3]
seed = "0..9"

[arguments]                      # what else the model is made with
dim = 5
"""

import functools
import importlib
import math
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffrax
import numpy as np

from .. import clocks, datasets, losses, metrics, models, solvers

_CLOCKS = {"loss": clocks.LossClock, "time": clocks.TimeClock, "log-time": clocks.LogTimeClock}
_LOSSES = {"exponential": losses.Exponential, "logistic": losses.Logistic, "square": losses.Square}
_PLAIN = ("rtol", "max_steps", "batching", "digits", "stop")
_KEYS = ("model", "data", "decades", "save", "loss", "clock", "solver", "metrics", "over", "arguments", *_PLAIN)
# Values of one dimension; more would be a slip of the pen.
_MANY = 10_000_000


@dataclass(frozen=True)
class Job:
    """The arguments of `sweep` that a file stands for."""

    arguments: dict[str, Any]

    @property
    def points(self) -> int:
        return math.prod(len(values) for values in self.arguments["over"].values())

    def __str__(self) -> str:
        return " x ".join(f"{len(values)} {name}" for name, values in self.arguments["over"].items())


def read(path: Path) -> Job:
    """**Raises:** `ValueError` for a file that says something else than a sweep, with what is wrong; `OSError` if it
    cannot be read."""
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"config must be a TOML file that describes the sweep, but there is no {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise ValueError(f"{path} holds {unknown[0]!r}, which is none of {', '.join(_KEYS)}.")
    for key in ("model", "over"):
        if key not in table:
            raise ValueError(f"{path} must hold {key!r}.")
    if not isinstance(table["over"], dict):
        raise ValueError(f"{path} must hold a table [over], not over = {table['over']!r}.")
    over = {name: _values(name, values) for name, values in table["over"].items()}
    for name in ("data", "loss", "rtol"):
        if name in over and name in table:
            raise ValueError(f"{path} must hold {name} or over.{name}, not both.")
    given = table.get("arguments", {})
    if isinstance(given, dict) and (twice := [name for name in given if name in over]):
        raise ValueError(f"{path} must hold arguments.{twice[0]} or over.{twice[0]}, not both.")
    arguments: dict[str, Any] = {"over": over} | {key: table[key] for key in _PLAIN if key in table}
    exact = "digits" in table and table["model"] == "DiagonalNetwork"
    # Scales may be texts then, "1/8" or "1e-1000", which a model of floats does not take.
    make = _exact_network if exact else _found(table["model"], models, "model")
    arguments["make_model"] = _partly_called(make, table["arguments"]) if "arguments" in table else make
    if "data" in over:
        over["data"] = {name: datasets.load(name) for name in _names("data", over["data"])}
    elif "data" in table:
        about = dict(table["data"]) if isinstance(table["data"], dict) else {"path": table["data"]}
        try:
            data = datasets.load(about.pop("path"), **about)
        except (KeyError, TypeError) as error:
            raise ValueError(
                "data must be a name or file, or a table with path, label, intercept, standardize, not "
                f"{table['data']!r}."
            ) from error
        arguments |= {"X": data.X, "y": data.y}
    if "loss" in over:
        over["loss"] = {name: _chosen(name, _LOSSES, "loss") for name in _names("loss", over["loss"])}
    if "loss" in table:
        arguments["loss"] = _chosen(table["loss"], _LOSSES, "loss")
    if "clock" in table:
        arguments["clock"] = _chosen(table["clock"], _CLOCKS, "clock")
    if "decades" in table and "save" in table:
        raise ValueError(f"{path} must hold decades or save, not both.")
    if "decades" in table:
        arguments["save"] = clocks.decades(_numbers("decades", table["decades"]))
    elif "save" in table:
        arguments["save"] = _values("save", table["save"])
    if "solver" in table:
        room = solvers if table["solver"] == "LogRadau" else diffrax
        arguments["solver"] = _made(_found(table["solver"], room, "solver"), table["solver"])
    if not isinstance(table.get("metrics", []), list):
        raise ValueError(f"metrics must be a list of names, not {table['metrics']!r}.")
    names = [str(name).split(":")[-1] for name in table.get("metrics", [])]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"metrics must have names of their own, not {twice[0]!r} twice.")
    if "metrics" in table:
        found = (_found(name, metrics, "metrics") for name in table["metrics"])
        arguments["metrics"] = dict(zip(names, found, strict=True))
    return Job(arguments)


def grid(text: str) -> np.ndarray:
    """LOW:HIGH:COUNT, log-spaced; a single number stands for itself."""
    try:
        parts = text.split(":")
        if len(parts) == 1:
            values = np.array([float(text)])
        else:
            low, high, count = parts
            if int(count) > _MANY:
                raise OverflowError
            values = np.geomspace(float(low), float(high), int(count)) if float(low) > 0 < float(high) else np.zeros(1)
    except ValueError:
        raise ValueError(f"{text!r} is not LOW:HIGH:COUNT, such as 0.01:100:41") from None
    except OverflowError:
        raise ValueError(f"{text!r} must have a COUNT of at most {_MANY:,}") from None
    if not (np.all(np.isfinite(values)) and np.all(values > 0) and values.size and np.all(np.diff(values) > 0)):
        raise ValueError(f"{text!r} must be positive, with LOW below HIGH and COUNT at least 1")
    return values


def _values(name: str, values: Any) -> Any:
    if isinstance(values, list):
        return values
    if isinstance(values, str) and (ends := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", values)):
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < _MANY:
            raise ValueError(f"{name} must hold 1 to {_MANY:,} values, not {values!r}.")
        return list(range(first, last + 1))
    if isinstance(values, str) and ":" in values:
        return grid(values)
    raise ValueError(f"{name} must be a list, LOW:HIGH:COUNT or FIRST..LAST, not {values!r}.")


def _names(name: str, values: Any) -> list[str]:
    if not all(isinstance(value, str) for value in values) or len(set(values)) < len(values):
        raise ValueError(f"over.{name} must hold names, each of them once, not {_plain(values)}.")
    return values


def _plain(values: Any) -> list:
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _numbers(name: str, values: Any) -> np.ndarray:
    values = _values(name, values)
    if not all(isinstance(value, int | float | np.floating) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{name} must hold numbers, not {values!r}.")
    return np.asarray(values, float)


def _exact_network(dim: int, depth: Any = 2, scale: Any = 1) -> dict[str, Any]:
    del dim
    return {"depth": depth, "scale": scale}


def _partly_called(make: Any, given: Any) -> Any:
    if not isinstance(given, dict):
        raise ValueError(f"arguments must be a table of what the model is made with, not {given!r}.")
    return functools.partial(make, **given)


def _made(solver: Any, name: str) -> Any:
    try:
        return solver()
    except TypeError as error:
        raise ValueError(f"solver must be a name of a solver that is made without arguments, not {name!r}.") from error


def _chosen(name: Any, choices: dict[str, Any], what: str) -> Any:
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"{what} must be {', '.join(choices)}, not {name!r}.")
    return choices[name]()


def _found(name: Any, room: Any, what: str) -> Any:
    """A function by name: of gflow's `room`, or as module:function."""
    module, _, inner = str(name).rpartition(":")
    try:
        if module:
            if "" not in sys.path:
                # As for `python -m`, the folder one stands in counts.
                sys.path.insert(0, "")
            return getattr(importlib.import_module(module), inner)
        return getattr(room, inner)
    except SyntaxError as error:
        raise ValueError(f"{what} {name!r} is in a file that Python cannot read: {error}.") from error
    except (ImportError, AttributeError) as error:
        place = f"the module {module!r}" if module else room.__name__
        raise ValueError(f"{what} {name!r} is not there: {place} has no {inner!r} ({error}).") from error
    except Exception as error:
        # Whatever a module does when it is imported.
        raise ValueError(f"{what} {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
