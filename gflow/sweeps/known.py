"""What a sweep is known by: what its models, losses, clock and metrics compute. A store asks for every digit of it
(`attributes`), a worker for six (`same`)."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..kinks.layer import declared
from ..run import measure
from . import alike
from .digest import code_in, is_own, numbers_in, Seen, seen, without_addresses
from .models import fixed_parts, program
from .point import beta_of, flow_of
from .probes import Forms
from .problem import Problem

# How many programs that make models are looked at.
_PROGRAMS = 4096


def of_models(problem: Problem, forms: Forms, most: int = _PROGRAMS) -> Iterator[Seen]:
    """A model of every form, and the programs that make models where there are any."""
    for point, model in forms:
        if isinstance(model, dict):
            continue
        X, y = (jnp.asarray(v, float) for v in problem.data[problem.data_index(point)])
        computed = seen(lambda model, x: model(x), model, X[0], derivatives=True)
        yield _current((alike.structure(model), X.shape), computed)
        yield seen(functools.partial(_asked_for, loss=problem.loss_at(point)), model, X, y)
        yield Seen(_fixed(model), [])
    if problem.traced:
        for point in fixed_parts(problem, most):
            make, columns = program(problem, point)
            try:
                yield seen(make, *columns)
            except Exception:
                # Where it cannot be traced models are made one by one.
                with contextlib.suppress(Exception):
                    yield numbers_in(problem.model(point))


def of_losses(problem: Problem) -> Iterator[Seen]:
    """For all data: the text of a loss of the user's own does not say what it computes."""
    for loss in problem.losses:
        for size in _sizes_for(loss, problem):
            computed = seen(functools.partial(_of_a_loss, loss), np.ones(size), np.ones(size), derivatives=True)
            yield _current((alike.known(loss), size), computed)


def of_clock(problem: Problem) -> Iterator[Seen]:
    yield Seen(f"{problem.clock.counts_loss} {problem.clock.label}", [])
    yield _current(alike.known(problem.clock), seen(problem.clock.inner, np.ones(())))


def of_solver(problem: Problem) -> Iterator[Seen]:
    # In capitals there are no numbers such as 1e5 in it.
    yield _current(alike.known(problem.solver), Seen(code_in(problem.solver).hex().upper(), []))


def of_metrics(problem: Problem, forms: Forms) -> Iterator[Seen]:
    for name, metric in sorted(problem.metrics.items()):
        yield Seen(name, [])
        for point, model in forms:
            X, y = problem.data[problem.data_index(point)]
            computed = seen(functools.partial(metric_of, name, metric), model, X, y)
            yield _current((alike.known(metric), alike.structure(model), X.shape), computed)


def metric_of(name: str, metric: Callable, model: Any, X: Any, y: Any) -> jax.Array:
    """A metric of one model, called as `gradient_flow` calls it."""
    models = jax.tree.map(lambda v: v[None] if eqx.is_array(v) else v, model)
    # Anew: what was compiled may be of before a number changed that it finds by name.
    return measure({name: metric}, models, jnp.asarray(X, float), jnp.asarray(y, float), compiled=False)[name][0]


# What a model, a loss, a clock, a solver or a metric was last, by its form or by itself.
_LAST: dict[Any, bytes] = {}


def _current(what: Any, computed: Seen) -> Seen:
    """`computed`; and where the same function or class has computed something else before, as after a global number of
    a notebook was changed, programs that were compiled of it are forgotten."""
    digest = hashlib.sha256(computed.exactly()).digest()
    if _LAST.setdefault(what, digest) != digest:
        _LAST[what] = digest
        jax.clear_caches()
    return computed


def _asked_for(model: Any, X: jax.Array, y: jax.Array, loss: Any) -> tuple:
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


def _fixed(model: Any) -> str:
    """What is no array of that."""
    if declared(model):
        layer = model.hidden_layer()
        return str((layer.slope, layer.train_output))
    return without_addresses(eqx.tree_pformat(model.chart(), short_arrays=True)) if hasattr(model, "chart") else ""


def _sizes_for(loss: Any, problem: Problem) -> list[int]:
    """Of the data: a loss of the user's own may do for no others."""
    return sorted({np.size(y) for _, y in problem.data}) if is_own(type(loss)) else [2]


def _of_a_loss(loss: Any, f: Any, y: Any) -> tuple:
    told = [loss.neg_log(f, y), loss.weights(f, y)]
    if is_own(type(loss)):
        dual, gamma = loss.dual(f, y)
        told += [loss.output_scale(f, y), loss.rounding(f, y), dual, gamma, loss.pull(dual, y), loss.admissible(dual)]
        told += [loss.dual_rows(f, y, dual, gamma, 0.1), loss.dual_slope(dual, y, gamma), loss.drawn(dual, dual, gamma)]
    return tuple(told)
