# ruff: noqa: E501 -- a sentence stands on one line, as users see it
"""Bad input gets one sentence that names the argument, its value and the remedy, before anything is compiled."""

import re
import subprocess
import sys

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import diagonal, X, y

import gflow
from gflow import solve

LOGISTIC = gflow.losses.Logistic()


def call(model=None, X=X, y=y, **more):
    more = {"stop": 10.0} | more
    return gflow.gradient_flow(diagonal(2, 0.1) if model is None else model, X, y, **more)


def with_(value, where, array):
    array = np.array(array, float)
    array[where] = value
    return array


class Vector(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return self.w * x


class Constant(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return 0.0 * self.w[0] + 1.0


class Integers(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return jnp.sum(self.w.astype(float) * x)


CASES = {
    "X of one axis": (dict(X=X[0]), "X must have shape (N, d) and y shape (N,) with the same N, not (3,) and (2,)."),
    "X masked": (dict(X=np.ma.masked_greater(X, 1.0)), "X must not be masked: every feature of a sample counts; leave samples out or fill them in."),
    "progress": (dict(progress="bar"), "progress must be True, False or a function, not 'bar'."),
    "y too short": (dict(y=y[:1]), "X must have shape (N, d) and y shape (N,) with the same N, not (2, 3) and (1,)."),
    "y of two axes": (
        dict(y=y[:, None]),
        "X must have shape (N, d) and y shape (N,) with the same N, not (2, 3) and (2, 1).",
    ),
    "no samples": (dict(X=X[:0], y=y[:0]), "X must hold at least one sample and one feature, not shape (0, 3)."),
    "NaN in X": (
        dict(X=with_(np.nan, (0, 1), X)),
        "X must be finite, but it holds NaN or infinite values; remove or impute them.",
    ),
    "inf in X": (
        dict(X=with_(np.inf, (0, 1), X)),
        "X must be finite, but it holds NaN or infinite values; remove or impute them.",
    ),
    "NaN in y": (
        dict(y=with_(np.nan, 0, y)),
        "y must be finite, but it holds NaN or infinite values; remove those samples.",
    ),
    "labels 0 and 1": (
        dict(y=with_(0.0, 0, y)),
        "y must hold labels -1 and +1 for Exponential, but it holds 0; map your classes to -1 and +1.",
    ),
    "labels of Logistic": (
        dict(y=with_(2.0, 0, y), loss=LOGISTIC),
        "y must hold labels -1 and +1 for Logistic, but it holds 2; map your classes to -1 and +1.",
    ),
    "loss class": (
        dict(loss=gflow.losses.Logistic),
        "loss must be a gflow loss such as gflow.losses.Exponential(), not <class 'gflow.losses.Logistic'>; write its brackets.",
    ),
    "clock class": (
        dict(clock=gflow.TimeClock),
        "clock must be gflow.LossClock(), gflow.TimeClock() or gflow.LogTimeClock(), not <class 'gflow.clocks.TimeClock'>; write its brackets.",
    ),
    "no stop": (dict(stop=None), "stop or save must be given, in the coordinate of the clock (-log L)."),
    "several stops": (
        dict(stop=np.array([1.0, 2.0])),
        "stop must be one number, not an array of shape (2,); use save for several.",
    ),
    "stop at the start": (
        dict(stop=0.0),
        "stop must be finite and above the start: -log L starts at 0, and stop is 0.",
    ),
    "stop below the start": (
        dict(stop=0.3, loss=LOGISTIC),
        "stop must be finite and above the start: -log L starts at 0.366513, and stop is 0.3.",
    ),
    "stop at infinity": (
        dict(stop=np.inf),
        "stop must be finite and above the start: -log L starts at 0, and stop is inf.",
    ),
    "time zero": (
        dict(stop=0.0, clock=gflow.TimeClock()),
        "stop must be finite and above the start: t starts at 0, and stop is 0.",
    ),
    "no save points": (dict(save=np.zeros(0)), "save must be a non-empty array of shape (S,), not of shape (0,)."),
    "save as a number": (dict(save=1.0), "save must be a non-empty array of shape (S,), not of shape ()."),
    "unsorted": (
        dict(save=np.array([2.0, 1.0])),
        "save must be strictly increasing; sort it and drop repeated points.",
    ),
    "repeated": (
        dict(save=np.array([2.0, 2.0])),
        "save must be strictly increasing; sort it and drop repeated points.",
    ),
    "save at the start": (
        dict(save=np.array([0.0, 1.0])),
        "save must lie in (start, stop] = (0, 10] in the coordinate of the clock (-log L), but it spans [0, 1].",
    ),
    "save beyond stop": (
        dict(save=np.array([1.0, 11.0])),
        "save must lie in (start, stop] = (0, 10] in the coordinate of the clock (-log L), but it spans [1, 11].",
    ),
    "NaN in save": (
        dict(save=np.array([1.0, np.nan])),
        "save must be strictly increasing; sort it and drop repeated points.",
    ),
    "rtol zero": (dict(rtol=0.0), "rtol must be a number between 1e-13 and 0.1, not 0.0."),
    "rtol one": (dict(rtol=1.0), "rtol must be a number between 1e-13 and 0.1, not 1.0."),
    "no steps": (dict(max_steps=0), "max_steps must be a positive integer, not 0."),
    "half a step": (dict(max_steps=1.5), "max_steps must be a positive integer, not 1.5."),
    "Euler": (
        dict(solver=diffrax.Euler()),
        "solver must estimate its error, and Euler does not; use diffrax.Tsit5() or Dopri8().",
    ),
    "solver by name": (
        dict(solver="Tsit5"),
        "solver must be a Diffrax solver such as diffrax.Tsit5(), or None to let gflow choose, not 'Tsit5'.",
    ),
    "float32": (
        dict(model=gflow.models.LinearModel(3)),
        "model must hold float64 arrays only, but it has a leaf of float32; build it after enabling jax_enable_x64, or convert its leaves.",
    ),
    "NaN in the model": (
        dict(model=gflow.models.LinearModel(np.array([1.0, np.nan, 0.0]))),
        "model must hold finite values, but a leaf holds NaN or infinite values.",
    ),
    "integers only": (
        dict(model=Integers(jnp.arange(3))),
        "model must hold floating-point array leaves to train, but Integers has none; pass an Equinox module.",
    ),
    "vector output": (
        dict(model=Vector(jnp.ones(3))),
        "model must map one sample to a scalar of shape (), but it returns (3,); index or squeeze its output.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sentence(case, monkeypatch):
    arguments, sentence = CASES[case]
    if case == "float32":
        model = eqx.tree_at(lambda m: m.beta, arguments["model"], jnp.zeros(3, jnp.float32))
        arguments = {"model": model}
    monkeypatch.setattr(solve, "_SMOOTH", solve._SMOOTH._replace(advance=None))
    with pytest.raises(ValueError, match=r"^" + re.escape(sentence) + "$"):
        call(**arguments)


def test_model_that_cannot_take_a_sample():
    with pytest.raises(
        ValueError, match=r"^model must map one sample of shape \(3,\) to a number, but calling it failed: "
    ):
        call(model=diagonal(2, 0.1, dim=4))


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(dim=0), "dim must be a positive integer, not 0."),
        (dict(dim=3.0), "dim must be a positive integer, not 3.0."),
        (
            dict(dim=3, depth=1),
            "depth must be an integer of at least 2, not 1; use gflow.models.LinearModel for depth 1.",
        ),
        (
            dict(dim=3, depth=2.5),
            "depth must be an integer of at least 2, not 2.5; use gflow.models.LinearModel for depth 1.",
        ),
        (dict(dim=3, scale=0.0), "scale must be positive and finite, not 0.0."),
        (dict(dim=3, scale=-1.0), "scale must be positive and finite, not -1.0."),
        (dict(dim=3, scale=np.nan), "scale must be positive and finite, not nan."),
        (dict(dim=3, scale=np.ones(2)), "scale must be a number or have shape (3,), not shape (2,)."),
    ],
)
def test_diagonal_network(arguments, sentence):
    with pytest.raises(ValueError, match=r"^" + re.escape(sentence) + "$"):
        gflow.models.DiagonalNetwork(**arguments)


def test_linear_model():
    with pytest.raises(ValueError, match=r"^beta given as a dimension must be at least 1, not 0\.$"):
        gflow.models.LinearModel(0)
    with pytest.raises(ValueError, match=r"^beta must have shape \(d,\), not \(2, 2\)\.$"):
        gflow.models.LinearModel(np.ones((2, 2)))


def test_without_64_bit_floats():
    run = subprocess.run(
        [sys.executable, "-c", "import gflow"], capture_output=True, text=True, cwd=str(gflow_root()), env=environment()
    )
    assert run.returncode != 0
    assert run.stderr.strip().splitlines()[-1] == (
        "ValueError: gflow needs 64-bit floats: set jax.config.update('jax_enable_x64', True), or JAX_ENABLE_X64=1 in the "
        "environment, before importing gflow."
    )


def gflow_root():
    from pathlib import Path

    return Path(gflow.__file__).parents[1]


def environment():
    import os

    return {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}


# x and -x with one label, and a third sample: no beta separates, and lambda = (1/2, 1/2, 0) proves it.
OPPOSED = np.array([[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    "loss, bound",
    [
        # L >= (e^-m + e^m) / 3 >= 2/3, and log(1+e^-m) + log(1+e^m) >= 2 log 2.
        (gflow.losses.Exponential(), np.log(3 / 2)),
        (gflow.losses.Logistic(), np.log(3 / 2) - np.log(np.log(2))),
        (gflow.losses.Exponential(reduction="sum"), -np.log(2)),
        (gflow.losses.Logistic(reduction="sum"), -np.log(2 * np.log(2))),
    ],
)
@pytest.mark.parametrize("model", [diagonal(2, 0.1), gflow.models.LinearModel(3)], ids=["diagonal", "linear"])
def test_data_that_no_beta_separates(model, loss, bound):
    sentence = f"but no beta separates the data: weights lambda >= 0 with X^T (lambda y) = 0 show that -log L cannot exceed {bound:.6g}; "
    with pytest.raises(ValueError, match=r"^stop asks for -log L = 10, " + re.escape(sentence)):
        call(model, OPPOSED, np.ones(3), loss=loss, stop=10.0)


def test_start_that_cannot_be_left():
    with pytest.raises(gflow.FlowError, match=r"^The flow cannot leave its start: the gradient there is zero"):
        call(model=Constant(jnp.ones(3)), stop=1000.0)


def test_lists_and_integers_are_data():
    rows, labels = [[1, 2, 3], [2, -1, 1]], [1, 1]
    a, b = call(X=rows, y=labels), call(X=np.array(rows, float), y=np.array(labels, float))
    assert np.array_equal(a.final.beta, b.final.beta)
    c = call(X=jnp.array(rows), y=jnp.array(labels), save=[1, 5, 10])
    assert np.array_equal(c.neg_log_loss.round(9), [1, 5, 10])
