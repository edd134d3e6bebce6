"""Workers know the models, metrics and losses of a sweep by what they compute, but for rounding."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_sweep import planned, X

import gflow
from gflow.sweeps.same import agree, mark


class Bounded(eqx.Module):
    w: jax.Array
    size: float = eqx.field(static=True)

    def __call__(self, x):
        return jnp.maximum(x, np.array([-np.inf, -np.inf, 0.0])) @ self.w / self.size


class Weighted(gflow.losses.Square):
    """Of these data only."""

    def neg_log_mean(self, f, y):
        return super().neg_log_mean(f * jnp.arange(1.0, 1 + len(X)), y)


def models(size=686.6204040719737, middle=2.0):
    return lambda kind: Bounded(jnp.ones(3) * (middle if kind == "b" else 1.0), size)


def marked(make, **more):
    over = {"kind": ["a", "b", "c"]}
    return mark(planned(make, over=over, loss=Weighted(), **more)[0])


def test_rounding_is_no_other_model():
    first = marked(models())
    assert agree(first, marked(models())) and np.all(np.isfinite(first.sums))
    assert agree(first, marked(models(size=686.6204040719736)))
    assert not agree(first, marked(models(size=686.7)))


@pytest.mark.parametrize("change", ["middle", "metric", "callback"])
def test_what_differs_anywhere_is_seen(change):
    if change == "middle":
        assert not agree(marked(models()), marked(models(middle=2.5)))
        return

    def metric(factor):
        plain = lambda model: factor * jnp.sum(model.w)
        shape = jax.ShapeDtypeStruct((), float)
        called = lambda model: jax.pure_callback(lambda w: factor * np.sum(w), shape, model.w, vmap_method="sequential")
        return {"m": plain if change == "metric" else called}

    assert agree(marked(models(), metrics=metric(1.0)), marked(models(), metrics=metric(1.0)))
    assert not agree(marked(models(), metrics=metric(1.0)), marked(models(), metrics=metric(2.0)))
