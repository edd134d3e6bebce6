"""Where a step passes a target of the clock."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..clocks import AbstractClock
from ..flow import Flow


def reading(flow: Flow, clock: AbstractClock, state: Array, gauge: Array) -> Array:
    """The inner coordinate of the clock."""
    return flow.gamma(state[:-1]) if clock.counts_loss else flow.log_time(state, gauge)


def beyond(clock: AbstractClock, reached: Array, target: Array) -> Array:
    """How far a reading is beyond a target. In time the difference is that of t itself: log t is -inf at the start."""
    return reached - target if clock.counts_loss else jnp.expm1(reached - target)


def passage(
    flow: Flow, clock: AbstractClock, along: Any, reach: Array, gauge: Array, target: Array, ends: tuple[Array, Array]
) -> Array:
    """How far the target is from the start of a step that passes it within `reach`, by its dense output `along`.
    `ends` are the readings at both ends of the step."""
    # Gamma may grow by many orders of magnitude in a step.
    even = (lambda v: jnp.arcsinh(v)) if clock.counts_loss else (lambda v: v)
    past = lambda reached: beyond(clock, even(reached), even(target))
    begin, end = ends
    return reach * root(lambda x: past(reading(flow, clock, along(x * reach), gauge)), past(begin), past(end))


def root(f: Callable, f0: Array, f1: Array) -> Array:
    """Root in [0, 1] of an increasing f with f(0) = f0 < 0 <= f(1) = f1, by the Illinois method with bisection in
    between."""

    def step(carry):
        lo, hi, flo, fhi, side, n = carry
        secant = hi - fhi * (hi - lo) / (fhi - flo)
        inside = (secant > lo) & (secant < hi) & (n % 4 != 3)
        x = jnp.where(inside, secant, 0.5 * (lo + hi))
        fx = f(x)
        up = fx >= 0
        # Illinois: an end that stays twice loses half of its weight.
        flo_, fhi_ = jnp.where(up & (side == 1), 0.5 * flo, flo), jnp.where(~up & (side == -1), 0.5 * fhi, fhi)
        return (
            jnp.where(up, lo, x),
            jnp.where(up, x, hi),
            jnp.where(up, flo_, fx),
            jnp.where(up, fx, fhi_),
            jnp.where(up, 1, -1),
            n + 1,
        )

    def wide(carry):
        lo, hi, _, fhi, _, n = carry
        return (n < 60) & (hi - lo > 1e-9 * hi) & (fhi > 0)

    one = jnp.ones(())
    lo, hi, flo, fhi, _, _ = jax.lax.while_loop(wide, step, (0 * one, one, f0, f1, 0, 0))
    return jnp.where(fhi <= 0, hi, jnp.where(jnp.isfinite(flo) & (fhi > flo), hi - fhi * (hi - lo) / (fhi - flo), hi))
