"""Time along a step of collocation.

F = t L obeys dF / ds = e^u - F dgamma / ds, with u the log of d tau / ds. Given the stages that is linear,

    F_k = F_0 e^(gamma_0 - gamma_k) + integral up to stage k of e^(u + gamma - gamma_k) ds.

While gamma climbs little, the integral is taken by Gauss quadrature between the stages: u and the log of d gamma / ds
are smooth where e^gamma is not. Where it climbs by hundreds, F follows e^u / (dgamma / ds), and is found by
collocation. The part of it that no pace sustains, which is nearly all after a plateau, falls exactly like L there and
is taken apart. Of the square loss t itself is taken (`gflow.flow`), which is a plain integral.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..lapack import solve
from .collocation import panels, POWER, tableau

# Where gamma climbs, what is near the end of a step counts: the time has less of the superconvergence than the
# coordinates. Measured: errors of t below 5 rtol, and up to 400 without.
_FAR_POWER = 0.8
# The climb of gamma in a step up to which the quadrature is good to 1e-12, with so many points between two stages.
_NEAR = 40.0
# A climb in a step that is none.
_LEAST = 1e-14
_POINTS = 12


class Elapsed(NamedTuple):
    """F, or t, at the stages; its highest Legendre coefficient, relative to the end; its rate and that of log t at the
    end, and the share of F at the end that no pace sustains."""

    times: Float[Array, " s"]
    error: Float[Array, ""]
    rate: Float[Array, ""]
    log_rate: Float[Array, ""]
    excess: Float[Array, ""]


def elapsed(
    h: Array, log_pace: Float[Array, " s"], slopes: Float[Array, " s"], climbs: Float[Array, " s"], start: Array,
    excess: Array,
) -> Elapsed:  # fmt: skip
    """From F at the start, of which the share `excess` is sustained by no pace; `climbs` are gamma_k - gamma_0."""
    near = climbs[-1] < _NEAR
    close, missed = _by_quadrature(h, log_pace, slopes, climbs, start)
    far, missed_far, rate = _by_collocation(h, log_pace, slopes, climbs, start, excess)
    times = jnp.where(near, close, far)
    pace = jnp.exp(log_pace[-1])
    rate = jnp.where(near, pace - slopes[-1] * times[-1], rate)
    left = jnp.clip(-rate / (slopes[-1] * times[-1]), 0.0, 1.0)
    left = jnp.where(left > 0.3, left, 0.0)
    return Elapsed(times, jnp.where(near, missed, missed_far), rate, pace / times[-1], left)


def elapsed_time(h: Array, log_pace: Float[Array, " s"], start: Array) -> Elapsed:
    """t from t at the start, its integrand a polynomial in the log, which is superconvergent at the nodes of Radau."""
    fine = panels(log_pace.size, _POINTS)
    parts = h * jnp.sum(jnp.asarray(fine.weights) * jnp.exp(jnp.asarray(fine.values) @ log_pace), axis=1)
    times = start + jnp.cumsum(parts)
    missed = jnp.abs(jnp.asarray(tableau(log_pace.size).top) @ log_pace)
    missed = missed * _share(times[-1] - start, times[-1])
    rate = jnp.exp(log_pace[-1])
    return Elapsed(times, missed, rate, rate / times[-1], jnp.zeros(()))


def _by_quadrature(h: Array, log_pace: Array, slopes: Array, climbs: Array, start: Array) -> tuple[Array, Array]:
    fine = panels(log_pace.size, _POINTS)
    # At a saddle slopes are rounding, which no polynomial follows.
    log_slopes = jnp.log(jnp.maximum(slopes, _LEAST / h))
    u, slope = (jnp.asarray(fine.values) @ v for v in (log_pace, log_slopes))
    weights, slope = h * jnp.asarray(fine.weights), jnp.exp(slope)
    ahead = h * jnp.einsum("kpq,kq->kp", jnp.asarray(fine.onward), slope)
    parts = jnp.sum(weights * jnp.exp(u - ahead), axis=1)
    # Climbs by the same polynomial throughout: with those between the stages themselves the order would be s + 1.
    before = np.tri(log_pace.size)
    whole = jnp.asarray(before) @ jnp.sum(weights * slope, axis=1)
    falls = jnp.where(before, jnp.exp(jnp.minimum(whole[None] - whole[:, None], 0.0)), 0.0)
    top = jnp.asarray(tableau(log_pace.size).top)
    missed = jnp.abs(top @ log_pace) + jnp.abs(top @ log_slopes) * jnp.minimum(climbs[-1], 1.0)
    added = falls @ parts
    times = start * jnp.exp(-climbs) + added
    missed = missed * _share(added[-1], times[-1])
    return times, missed ** (1.0 - (1.0 - _FAR_POWER) * jnp.minimum(climbs[-1], 1.0))


def _share(added: Array, whole: Array) -> Array:
    """By what the missed of the pace counts: a step that adds nothing beside a long rest misses nothing of it."""
    return (added / whole) ** (1.0 / POWER)


def _by_collocation(
    h: Array, log_pace: Array, slopes: Array, climbs: Array, start: Array, excess: Array
) -> tuple[Array, Array, Array]:
    radau = tableau(log_pace.size)
    fallen = excess * start * jnp.exp(-climbs)
    before = start - excess * start
    # A row for each stage, so that none drowns in the others.
    inverse = jnp.asarray(radau.inverse) / h
    row = jnp.abs(slopes) + jnp.abs(jnp.diagonal(inverse))
    matrix = inverse + jnp.diag(slopes)
    sustained = solve(matrix / row[:, None], (jnp.exp(log_pace) + jnp.sum(inverse, axis=1) * before) / row)
    # As pace - slope * time it would be rounding, far out.
    climb = inverse @ (sustained - before)
    # An error decays along the flow, late within a small part of the step.
    room = (sustained[-1] + fallen[-1]) * (1.0 + h * slopes[-1] / log_pace.size**2)
    missed = jnp.abs(h * jnp.asarray(radau.top) @ climb / room) ** _FAR_POWER
    # Where it falls by many orders of magnitude the rate at the end is rounding of what it was at the start.
    falls = (before > 1e6 * sustained[-1]) & jnp.all(sustained > 0)
    ratio = jnp.where(falls, sustained / jnp.where(falls, before, 1.0), 1.0)
    rate = jnp.where(falls, sustained[-1] * (inverse[-1] @ jnp.log(ratio)), climb[-1])
    return sustained + fallen, missed, rate - slopes[-1] * fallen[-1]
