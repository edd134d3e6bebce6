"""From the arguments of `sweep` to a checked problem and the form of its result, before anything runs."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import validate
from ..clocks import LossClock
from ..losses import Exponential, Square
from ..status import Status
from . import exact
from .attributes import attributes
from .axes import axes_of, Axis
from .batch import suits_device
from .chunks import extents, most_points
from .digest import numbers_of
from .known import metric_of
from .layout import Layout
from .models import traceable
from .point import beta_of, flow_of
from .probes import probe, probe_exact
from .problem import Problem, Variable

_TEXTS = {
    "neg_log_loss": {"long_name": "-log L", "units": "nat"},
    "log_time": {"long_name": "log t", "units": "nat"},
    "final_neg_log_loss": {"long_name": "-log L where the run ended", "units": "nat"},
    "status": {
        "long_name": "outcome of the run, see gflow.Status",
        "flag_values": [int(s) for s in Status],
        "flag_meanings": " ".join(s.name for s in Status),
    },
    "steps": {"long_name": "accepted steps"},
    "rejections": {"long_name": "rejected steps"},
    "beta": {"long_name": "linear predictor"},
    "digits": {"long_name": "verified digits"},
}


# What `sweep` takes where nothing is said.
RTOL, MAX_STEPS = 1e-8, 100_000


def plan(make_model: Callable[..., Any], X: Any, y: Any, *, over: Any, **arguments: Any) -> tuple[Problem, Layout]:
    """The problem and the form of its result. Raises ValueError for bad input."""
    if not callable(make_model):
        raise ValueError(f"make_model must be a function or class that returns a model, not {make_model!r}.")
    validate.check_metrics(arguments["metrics"], None)
    arguments["metrics"] = dict(arguments["metrics"] or {})
    if arguments["digits"] is not None:
        _check_none_given(arguments)
    if arguments["batching"] not in (None, "map", "vmap", "single"):
        raise ValueError(f"batching must be 'map', 'vmap' or 'single', not {arguments['batching']!r}.")
    for name in arguments["metrics"]:
        # zarr reads a backslash as a slash.
        told = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= 200
        if not told or "/" in name or "\\" in name or name.startswith((".", "__")) or name == "zarr.json":
            raise ValueError(
                "metrics must have names of variables as keys, of at most 200 printable characters without a slash or "
                f"a backslash, not {name!r}."
            )
        if name in (*_TEXTS, "save", *(over if isinstance(over, Mapping) else ())):
            raise ValueError(f"metrics must not be named {name!r}, which the result has already; rename it.")
    axes = axes_of(over, ("save", *_TEXTS, *arguments["metrics"]))
    for name, default in (("loss", Exponential()), ("rtol", RTOL)):
        if name in over and arguments[name] != default:
            raise ValueError(f"{name} cannot be given beside over[{name!r}]; leave it out.")
    data = _data(axes, X, y, exactly=arguments["digits"] is not None)
    problem = Problem(make_model, axes, data, **arguments)
    _check_call(problem)
    return (_float if problem.digits is None else _exact)(problem)


def _check_none_given(arguments: dict[str, Any]) -> None:
    """Whether something is given that runs in arbitrary precision have no use for."""
    given = [name for name in ("metrics", "solver", "batching") if arguments[name]]
    given += [name for name, default in (("rtol", RTOL), ("max_steps", MAX_STEPS)) if arguments[name] != default]
    given += ["clock"] * (type(arguments["clock"]) is not LossClock)
    if given:
        raise ValueError(
            f"{given[0]} must not be given with digits, which say how accurate runs are and follow gamma; leave it or "
            "digits out."
        )


def _check_call(problem: Problem) -> None:
    """Whether make_model takes what it will be given, where it tells."""
    make, given = problem.make_model, problem.arguments((0,) * len(problem.axes))
    if isinstance(make, functools.partial):
        # It has no signature if it is given what it does not take.
        make, given = functools.partial(make.func, *make.args), make.keywords | given
    try:
        takes = inspect.signature(make)
        takes.bind(**given)
    except ValueError:
        return
    except TypeError as error:
        takes = inspect.signature(make.func if isinstance(make, functools.partial) else make)
        # Without **kwargs, or it would not have been refused for what is too much.
        unknown = [name for name in given if name not in takes.parameters]
        if unknown and all(p.kind is not p.VAR_KEYWORD for p in takes.parameters.values()):
            raise ValueError(
                f"make_model does not take {unknown[0]!r}, only {', '.join(takes.parameters) or 'nothing'}."
            ) from error
        raise ValueError(f"make_model cannot be called with {', '.join(given) or 'nothing'}: {error}.") from error


def _data(axes: Sequence[Axis], X: Any, y: Any, exactly: bool) -> tuple[tuple[Any, Any], ...]:
    along = next((axis for axis in axes if axis.name == "data"), None)
    if along is None:
        if X is None or y is None:
            raise ValueError("X and y must be given, or over['data'] with a dict of name: (X, y).")
        pairs = [(X, y)]
    elif X is not None or y is not None:
        raise ValueError("X and y cannot be given beside over['data']; leave them out.")
    else:
        pairs = [(value.X, value.y) if hasattr(value, "X") else tuple(value) for value in along.values]
    if any(np.ma.is_masked(part) for pair in pairs for part in pair):
        raise ValueError("X and y must not be masked in a sweep; leave out the samples that have no value.")
    kind = object if exactly else None
    # Copies: the user may change theirs, and a problem is met again by what it was.
    return tuple((np.array(X, kind), np.array(y, kind)) for X, y in pairs)


def _model(problem: Problem, point: tuple[int, ...]) -> Any:
    """The model of a point that all depends on, or a sentence that says what make_model did."""
    try:
        return problem.model(point)
    except ValueError:
        raise
    except Exception as error:
        said = str(error).strip().split("\n")[0]
        raise ValueError(f"make_model failed at {problem.describe(point)}: {type(error).__name__}: {said}") from error


def _float(problem: Problem) -> tuple[Problem, Layout]:
    first = (0,) * len(problem.axes)
    for X, y in problem.data:
        for loss in problem.losses:
            validate.check_data(X, y, loss)
    problem.data = tuple((np.asarray(X, float), np.asarray(y, float)) for X, y in problem.data)
    model = _model(problem, first)
    _check_repeats(problem, model, problem.model(first))
    X, y = problem.data[problem.data_index(first)]
    validate.check_model(model, jnp.asarray(X), y.shape[1:])
    validate.check_solver(problem.solver)
    validate.check_numbers(problem.rtol, problem.max_steps)
    flow = flow_of(model, jnp.asarray(X), jnp.asarray(y), problem.loss_at(first))
    validate.check_points(problem.clock, problem.stop, problem.save)
    validate.check_start(problem.clock, problem.stop, problem.save, flow.gamma(flow.chart.coordinates()))
    _check_separable(problem, model)
    problem.stop = None if problem.stop is None else float(problem.stop)
    problem.save = None if problem.save is None else np.asarray(problem.save, float)

    problem.traced = traceable(problem)
    probes = probe(problem)
    shapes = {}
    for point, model in probes.models:
        for name, shape in _shapes(problem, point, model).items():
            if len(shapes.setdefault(name, shape)) != len(shape):
                raise ValueError(f"{name} must have as many axes at all points, not shapes {shapes[name]} and {shape}.")
            shapes[name] = tuple(map(max, shapes[name], shape))
    saves = problem.saves
    problem.variables = (
        Variable("neg_log_loss", ("save",), (saves,), float, _TEXTS["neg_log_loss"]),
        Variable("log_time", ("save",), (saves,), float, _TEXTS["log_time"]),
        *(
            Variable(name, ("save", *_inner(name, shape)), (saves, *shape), float, _TEXTS.get(name, {}))
            for name, shape in shapes.items()
        ),
        Variable("final_neg_log_loss", (), (), float, _TEXTS["final_neg_log_loss"]),
        *(Variable(name, (), (), int, _TEXTS[name]) for name in ("steps", "rejections", "status")),
    )
    _check_names(problem)
    parameters = max(_parameters(model) for _, model in probes.models)
    samples = max(y.size for _, y in problem.data)
    row = saves * (2 + sum(map(math.prod, shapes.values())) + parameters) + max(X.size for X, _ in problem.data)
    most = most_points(samples * parameters, 8 * row)
    chunk = extents([len(axis) for axis in problem.axes], _fill_order(problem.axes, probes.alike), most)
    problem.width = next((side for axis, side in zip(problem.axes, chunk, strict=True) if axis.name == "data"), 1)
    devices = jax.local_device_count()
    # In turn, rows that are not used cost nothing, and sweeps of any size share a program.
    batch = math.prod(chunk) if (problem.batching or suits_device()) == "vmap" else most
    problem.batch = -(-batch // devices) * devices
    save = np.array([problem.stop]) if problem.save is None else problem.save
    about = {"long_name": problem.clock.label}
    return problem, Layout(problem.axes, save, about, problem.variables, attributes(problem, probes), chunk)


def _exact(problem: Problem) -> tuple[Problem, Layout]:
    from ..precise import inputs

    if any(axis.name == "rtol" for axis in problem.axes):
        raise ValueError("over must not hold 'rtol' where digits are given: they say how accurate a run is.")
    problem.digits = inputs.check_digits(problem.digits)
    refusals = []
    for X, y in problem.data:
        for loss in problem.losses:
            margins = not isinstance(loss, Square)
            inputs.check_choice(type(loss).__name__.lower(), "loss", inputs.LOSSES)
            rows, targets = inputs.check_samples(X.tolist(), y.tolist(), margins)
            try:
                if margins:
                    inputs.check_separable([[v * label for v in row] for row, label in zip(rows, targets, strict=True)])
            except ValueError as error:
                refusals.append(error)
    if len(refusals) == len(problem.data) * len(problem.losses):
        raise refusals[0]
    if problem.stop is None and problem.save is None:
        raise ValueError("stop or save must be given: values of -log L.")
    first = (0,) * len(problem.axes)
    _check_repeats(problem, exact.arguments(problem, first), exact.arguments(problem, first))
    probes = probe_exact(problem)
    saves, width = problem.saves, max(X.shape[1] for X, _ in problem.data)
    problem.variables = (
        Variable("neg_log_loss", ("save",), (saves,), str, _TEXTS["neg_log_loss"]),
        Variable("log_time", ("save",), (saves,), str, _TEXTS["log_time"]),
        Variable("beta", ("save", "coordinate"), (saves, width), str, _TEXTS["beta"]),
        *(Variable(name, (), (), int, _TEXTS[name]) for name in ("digits", "steps", "rejections", "status")),
    )
    points = [problem.stop] if problem.save is None else list(problem.save)
    save = np.array([str(point) for point in points], np.dtypes.StringDType())
    shape = (1,) * len(problem.axes)
    about = {"long_name": "-log L"}
    return problem, Layout(problem.axes, save, about, problem.variables, attributes(problem, probes), shape)


def _check_repeats(problem: Problem, model: Any, again: Any) -> None:
    """Refuse what cannot be repeated. (A model that is no tree of arrays is refused later.)"""
    if numbers_of(model) != numbers_of(again):
        raise ValueError(
            "make_model must give the same model whenever it is called with the same values, but two calls at "
            f"{problem.describe((0,) * len(problem.axes))} differ; draw from a key or a generator that is made of what "
            "it is called with, such as jax.random.key(seed)."
        )


def _check_separable(problem: Problem, model: Any) -> None:
    """Refuse data that no beta separates, if there are no other: where there are, its runs say so by their status."""
    end = problem.save[-1] if problem.stop is None else problem.stop
    refusals = []
    for X, y in problem.data:
        for loss in problem.losses:
            try:
                validate.check_separable(model, X, y, loss, problem.clock, end)
            except ValueError as error:
                refusals.append(error)
    if len(refusals) == len(problem.data) * len(problem.losses):
        raise refusals[0]


def _fill_order(axes: Sequence[Axis], alike: set[str]) -> list[int]:
    """Axes along which a chunk may have several points, those of equal cost first."""
    rank = lambda axis: (axis.labels.dtype.kind == "f", axis.name == "data")
    return sorted((k for k, axis in enumerate(axes) if axis.name in alike), key=lambda k: rank(axes[k]))


def _check_names(problem: Problem) -> None:
    """What is within a variable must not be named as an axis, or a variable, is."""
    inner = {name for variable in problem.variables for name in variable.dims} - {"save"}
    for what, names in (("over", [axis.name for axis in problem.axes]), ("metrics", problem.metrics)):
        for name in names:
            if name in inner:
                raise ValueError(
                    f"{what} must not hold {name!r}: a variable of the result has this dimension; rename it."
                )


def _shapes(problem: Problem, point: tuple[int, ...], model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of beta and of every metric, of one model."""
    found = {}
    if beta_of(model) is not None:
        found["beta"] = beta_of(model).shape
    X, y = problem.data[problem.data_index(point)]
    for name, metric in problem.metrics.items():
        try:
            value = eqx.filter_eval_shape(functools.partial(metric_of, name, metric), model, X, y)
        except Exception as error:
            raise ValueError(f"metrics[{name!r}] cannot be computed: {type(error).__name__}: {error}") from error
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise ValueError(f"metrics[{name!r}] must give real numbers, not a random key.")
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise ValueError(f"metrics[{name!r}] must give real numbers, not {value.dtype}; stack its parts.")
        found[name] = value.shape
    return found


def _inner(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    if name == "beta" and len(shape) == 1:
        return ("coordinate",)
    return tuple(f"{name}_{k}" for k in range(1, len(shape) + 1))


def _parameters(model: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf))
