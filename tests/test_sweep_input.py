# ruff: noqa: E501 -- a sentence stands on one line, as users see it
"""Bad input to a sweep gets one sentence, before anything is compiled."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from small_sweep import network, run, SOLVER, X, y

import gflow
from gflow.sweeps.execute import SweepError

RNG = np.random.default_rng(0)
CASES = {
    "no dimensions": (dict(over={}), "over must be a dict of values for each dimension, such as {'scale': [0.1, 1.0]}, not {}."),
    "odd name": (dict(over={"a b": [1]}), "over must have names of arguments as keys, not 'a b'."),
    "taken name": (dict(over={"beta": [1.0]}), "over must not hold 'beta': the result has a variable of this name; rename it."),
    "a number": (dict(over={"scale": 1.0}), "over['scale'] must be a list, an array or a dict of values, not 1.0."),
    "an array of no axis": (dict(over={"scale": np.array(1.0)}), "must be a list, an array or a dict of values, not array(1.)"),
    "no values": (dict(over={"scale": []}), "over['scale'] must hold at least one value."),
    "objects": (dict(over={"scale": [max]}), "over['scale'] must hold numbers or texts; give other values names, as a dict of name: value."),
    "ragged": (dict(over={"scale": [[1.0, 2.0], [3.0]]}), "over['scale'] must hold numbers or texts; give other values names"),
    "numbers and texts": (dict(over={"scale": [1.0, "a"]}), "over['scale'] must hold numbers or texts, not both: [1.0, 'a']."),
    "twice": (dict(over={"scale": [1.0, 1.0]}), "over['scale'] must hold every value once, not [1.0, 1.0]."),
    "NaN": (dict(over={"scale": [np.nan]}), "over['scale'] must be finite, not [nan]."),
    "scale 0": (dict(over={"scale": [1.0, 0.0]}), "scale must be positive and finite, not 0.0."),
    "depth 1": (dict(over={"scale": [1.0], "depth": [2, 1]}), "depth must be an integer of at least 2, not 1; use gflow.models.LinearModel for depth 1."),
    "loss by name": (dict(over={"scale": [1.0], "loss": ["logistic"]}), "over['loss'] must hold gflow losses such as gflow.losses.Logistic(), as a list or a dict."),
    "rtol 1": (dict(over={"scale": [1.0], "rtol": [1.0]}), "over['rtol'] must hold numbers between 1e-13 and 0.1, not [1.0]."),
    "no data": (dict(X=None, y=None), "X and y must be given, or over['data'] with a dict of name: (X, y)."),
    "data twice": (dict(over={"scale": [1.0], "data": {"a": (X, y)}}), "X and y cannot be given beside over['data']; leave them out."),
    "labels": (dict(y=np.zeros(2)), "y must hold labels -1 and +1 for Exponential, but it holds 0; map your classes to -1 and +1."),
    "unsorted": (dict(save=[2.0, 1.0]), "save must be strictly increasing; sort it and drop repeated points."),
    "below the start": (dict(save=None, stop=-1.0), "stop must be finite and above the start: -log L starts at 0, and stop is -1."),
    "no model": (dict(make_model=3), "make_model must be a function or class that returns a model, not 3."),
    "not scalar": (dict(make_model=lambda scale: gflow.models.LinearModel(np.full(2, scale))), "model must map one sample of shape (3,) to a number"),
    "metric name": (dict(metrics={"beta": len}), "metrics must not be named 'beta', which the result has already; rename it."),
    "complex metric": (dict(metrics={"m": lambda m: m.beta.astype(complex)}), "metrics['m'] must give real numbers, not complex128; stack its parts."),
    "metric with a slash": (dict(metrics={"a/b": len}), "without a slash or a backslash, not 'a/b'."),
    "metric with NUL": (dict(metrics={"a\0b": len}), "of at most 200 printable characters"),
    "metric of an axis": (dict(metrics={"scale": len}), "metrics must not be named 'scale'"),
    "labels that cannot be written": (dict(over={"depth": ["\ud800"]}), "must hold texts that UTF-8 can hold"),
    "store in a store": (dict(store="a::b.zarr"), "store must be a path without '::'"),
    "metric with a backslash": (dict(metrics={r"$\ell_1$": len}), "without a slash or a backslash"),
    "numbers and truth values": (dict(over={"scale": [0.1, True]}), "must hold numbers or truth values, not both"),
    "metric of a dimension": (dict(metrics={"coordinate": lambda m: m.beta[0]}), "metrics must not hold 'coordinate': a variable of the result has this dimension; rename it."),
    "axis of a dimension": (dict(make_model=lambda coordinate: network(coordinate), over={"coordinate": [1.0]}), "over must not hold 'coordinate': a variable of the result has this dimension; rename it."),
    "not repeated": (dict(make_model=lambda scale: network(scale * RNG.random())), "make_model must give the same model whenever it is called with the same values, but two calls at scale ="),
    "not taken": (dict(over={"scal": [1.0]}), "make_model does not take 'scal', only scale, depth."),
    "masked": (dict(y=np.ma.masked_array(y, mask=[False, True])), "X and y must not be masked in a sweep; leave out the samples that have no value."),
    "progress": (dict(progress=3), "progress must be True, False or a function, not 3."),
    "batching": (dict(batching="scan"), "batching must be 'map', 'vmap' or 'single', not 'scan'."),
    "loss twice": (dict(loss=gflow.losses.Logistic(), over={"scale": [1.0], "loss": [gflow.losses.Exponential()]}), "loss cannot be given beside over['loss']; leave it out."),
    "rtol twice": (dict(rtol=1e-4, over={"scale": [1.0], "rtol": [1e-6]}), "rtol cannot be given beside over['rtol']; leave it out."),
    "rtol and digits": (dict(digits=30, solver=None, rtol=1e-4), "rtol must not be given with digits"),
    "unknown to the precise backend": (dict(digits=30, solver=None, rtol=1e-8, make_model=dict, over={"scal": [1]}), "make_model must give depth and scale where digits are given, not 'scal'."),
    "metric that cannot be computed": (dict(metrics={"m": lambda model: model.nothing}), "metrics['m'] cannot be computed: AttributeError: "),
    "store": (dict(store=5), "store must be the path of a folder, not 5."),
    "store here": (dict(store="."), "store must be a folder of its own, not '.', the folder that this process is in."),
    "store of nobody": (dict(store="~nobody-at-all/x"), "store must be the path of a folder, not '~nobody-at-all/x'"),
    "workers": (dict(workers=-1), "workers must be a number of processes, or 0 for none but this one, not -1."),
    "executor": (dict(workers=None, executor=3), "executor must be a concurrent.futures.Executor, not 3."),
    "rtol": (dict(rtol=1.0), "rtol must be a number between 1e-13 and 0.1, not 1.0."),
    "solver": (dict(solver=SOLVER.interpolation_cls), "solver must be a Diffrax solver such as diffrax.Tsit5()"),
    "digits": (dict(digits=30), "solver must not be given with digits, which say how accurate runs are and follow gamma; leave it or digits out."),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    arguments, message = CASES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**arguments)


def test_data_that_no_beta_separates():
    with pytest.raises(ValueError, match="no beta separates the data"):
        run(X=np.concatenate([X, -X]), y=np.ones(4), save=[1.0])


def test_executor_and_workers():
    with pytest.raises(ValueError, match=r"executor and workers cannot both be given: an executor brings its own\."):
        run(executor=object())


def test_an_executor_that_forks():
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.raises(ValueError, match="executor must not fork this process, in which JAX has threads"),
    ):
        run(workers=None, executor=pool)


def test_an_executor_that_is_shut():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(SweepError, match=r"the executor takes no work \(RuntimeError: cannot schedule new futures"):
        run(workers=None, executor=pool)


def test_names_of_points():
    assert run(network, over={"scale": {"small": 0.1, "large": 1.0}}).scale.values.tolist() == ["small", "large"]
