"""Newton's method for the stages of a log-form collocation step, by the tangent kernel.

Unknowns of every stage i: the velocity F_i = da/ds of the coordinates a_i = a_0 + h sum_j A_ij F_j, the dual variables
of the samples (log-weights of a classification loss, relative residuals of the square loss), the log-pace R_i and
gamma_i. With J = grad f and V = M^-1 grad f (M the metric of the chart) they obey

    F_i = e^(R_i) sum_n c_n(dual_i) V_n(a_i),    rows of the loss: f(a_i), dual_i, gamma_i,    rms(F_i) = length(a_0).

The change of J and V with a is left out of the Newton matrix: it only slows convergence. Two ways to solve it:

- `in_samples`: F is eliminated. What remains is the tangent kernel J V^T between the stages, stages * (N + 2) unknowns
  whatever the number P of parameters.
- `in_full`: nothing is eliminated, stages * (P + N + 2) unknowns. The kernel squares the grading of V. Where that is
  beyond rounding (a plateau, on which some coordinates rest because pulls cancel to 1e-20; samples tied in their
  dominant coordinates) only the full system, whose rows are scaled one by one, still knows them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..flow import Flow
from ..losses import DualRows


class Stages(NamedTuple):
    """What Newton's method solves for, a row for each stage."""

    F: Float[Array, "s P"]
    dual: Float[Array, "s N"]
    R: Float[Array, " s"]
    gamma: Float[Array, " s"]


class Linearized(NamedTuple):
    """What the Newton matrix is made of."""

    hA: Float[Array, "s s"]
    J: Float[Array, "s N P"]
    V: Float[Array, "s N P"]
    pace: Float[Array, " s"]
    c: Float[Array, "s N"]
    dc: Float[Array, "s N"]
    rows: DualRows
    gamma_scale: Float[Array, " s"]
    toward: Float[Array, "s P"]
    miss_F: Float[Array, "s P"]
    miss_pace: Float[Array, " s"]


class Solved(NamedTuple):
    stages: Stages
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]


def coordinates(a0: Array, hA: Array, stages: Stages) -> Float[Array, "s P"]:
    return a0[None] + hA @ stages.F


def linearize(flow: Flow, a0: Array, hA: Array, unit: Array, length: Array, stages: Stages, blur: Array) -> Linearized:
    a = coordinates(a0, hA, stages)
    chart, loss, X, y = flow.chart, flow.loss, flow.X, flow.y

    def at(a, dual, gamma):
        V, own = chart.velocities(a, X)
        c, dc = loss.pull(dual, y)
        return chart.jacobian(a, X), V * jnp.exp(own - unit), c, dc, loss.dual_rows(
            chart.outputs(a, X), y, dual, gamma, blur
        )

    J, V, c, dc, rows = jax.vmap(at)(a, stages.dual, stages.gamma)
    pace = jnp.exp(stages.R)
    size = jnp.sum(stages.F**2, axis=1)
    return Linearized(
        hA=hA,
        J=J,
        V=V,
        pace=pace,
        c=c,
        dc=dc,
        rows=rows,
        gamma_scale=jnp.maximum(1.0, jnp.abs(stages.gamma)),
        toward=stages.F / size[:, None],
        miss_F=stages.F - pace[:, None] * jnp.einsum("sn,snp->sp", c, V),
        miss_pace=0.5 * jnp.log(size / stages.F.shape[1]) - jnp.log(length),
    )


def in_samples(o: Linearized) -> Stages:
    s, N = o.c.shape
    mine = jnp.eye(s)
    behind = jnp.einsum("snp,sp->sn", o.J, o.hA @ o.miss_F)
    VE = o.V * o.pace[:, None, None]
    kernel = jnp.einsum("inp,jmp->injm", o.J, VE) * o.hA[:, None, :, None]
    per_dual = kernel * o.dc
    per_pace = jnp.einsum("injm,jm->inj", kernel, o.c)
    own = lambda v: mine[:, None, :] * v[:, :, None]
    top = jnp.concatenate(
        [
            per_dual * o.rows.by_output[:, :, None, None] + jnp.einsum("ij,in,nm->injm", mine, o.rows.by_dual, jnp.eye(N)),
            (per_pace * o.rows.by_output[:, :, None])[..., None],
            own(o.rows.by_gamma * o.gamma_scale[:, None])[..., None],
        ],
        axis=3,
    )
    sums = jnp.concatenate(
        [
            jnp.einsum("in,injm->ijm", o.rows.sum_by_output, per_dual) + mine[:, :, None] * o.rows.sum_by_dual[:, None],
            jnp.einsum("in,inj->ij", o.rows.sum_by_output, per_pace)[..., None],
            jnp.zeros((s, s, 1)),
        ],
        axis=2,
    )
    push = jnp.einsum("sp,snp->sn", o.toward, VE)
    paces = mine[:, :, None] * jnp.concatenate(
        [push * o.dc, jnp.sum(push * o.c, axis=1, keepdims=True), jnp.zeros((s, 1))], axis=1
    )[:, None]
    M = jnp.concatenate([top, sums[:, None], paces[:, None]], axis=1)
    right = jnp.concatenate(
        [
            -o.rows.miss + o.rows.by_output * behind,
            (-o.rows.sum_miss + jnp.sum(o.rows.sum_by_output * behind, axis=1))[:, None],
            (-o.miss_pace + jnp.sum(o.toward * o.miss_F, axis=1))[:, None],
        ],
        axis=1,
    )
    d = _solve(M.reshape(s * (N + 2), -1), right.reshape(-1)).reshape(s, N + 2)
    dual, R = d[:, :N], d[:, N]
    F = jnp.einsum("sn,snp->sp", o.dc * dual + o.c * R[:, None], VE) - o.miss_F
    return Stages(F, dual, R, d[:, N + 1] * o.gamma_scale)


def in_full(o: Linearized) -> Stages:
    s, N = o.c.shape
    P = o.toward.shape[1]
    mine = jnp.eye(s)
    VE = o.V * o.pace[:, None, None]
    block = lambda v: mine[:, None, :, None] * v[:, :, None, :]
    pulls = jnp.concatenate(
        [
            jnp.broadcast_to(jnp.eye(P), (s, P, P)),
            -jnp.swapaxes(VE, 1, 2) * o.dc[:, None, :],
            -jnp.einsum("sn,snp->sp", o.c, VE)[..., None],
            jnp.zeros((s, P, 1)),
        ],
        axis=2,
    )
    by_output = o.rows.by_output[:, :, None] * o.J
    middle = jnp.concatenate(
        [
            jnp.einsum("ij,inp->injp", o.hA, by_output),
            block(o.rows.by_dual[:, :, None] * jnp.eye(N)),
            jnp.zeros((s, N, s, 1)),
            block((o.rows.by_gamma * o.gamma_scale[:, None])[..., None]),
        ],
        axis=3,
    )
    sums = jnp.concatenate(
        [
            jnp.einsum("ij,in,inp->ijp", o.hA, o.rows.sum_by_output, o.J),
            mine[:, :, None] * o.rows.sum_by_dual[:, None],
            jnp.zeros((s, s, 2)),
        ],
        axis=2,
    )
    paces = mine[:, :, None] * jnp.concatenate([o.toward, jnp.zeros((s, N + 2))], axis=1)[:, None]
    M = jnp.concatenate([block(pulls), middle, sums[:, None], paces[:, None]], axis=1)
    right = -jnp.concatenate([o.miss_F, o.rows.miss, o.rows.sum_miss[:, None], o.miss_pace[:, None]], axis=1)
    d = _solve(M.reshape(s * (P + N + 2), -1), right.reshape(-1)).reshape(s, P + N + 2)
    return Stages(d[:, :P], d[:, P : P + N], d[:, P + N], d[:, P + N + 1] * o.gamma_scale)


def _solve(M: Array, right: Array) -> Array:
    size = jnp.max(jnp.abs(M), axis=1)
    return jnp.linalg.solve(M / size[:, None], right / size)


def newton(
    flow: Flow, a0: Array, hA: Array, unit: Array, start: Stages, rtol: Any, limit: int, system: Any, blur: Any = 0.0
) -> Solved:
    """Solve for the stages from the guess `start`."""
    length = flow.chart.length(a0)
    size0 = jnp.sqrt(jnp.mean(a0**2))
    finest = 8 * jnp.finfo(a0.dtype).eps * size0

    def body(carry):
        stages, iteration, last, _ = carry
        o = linearize(flow, a0, hA, unit, length, stages, blur)
        d = system(o)
        weighted = jnp.maximum(
            jnp.max(jnp.abs(d.dual * o.dc)),
            jnp.maximum(jnp.max(jnp.abs(d.R)), jnp.max(jnp.abs(d.gamma / o.gamma_scale))),
        )
        moved = jnp.sqrt(jnp.max(jnp.mean((hA @ d.F) ** 2, axis=1)))
        extent = jnp.sqrt(jnp.max(jnp.mean((hA @ (stages.F + d.F)) ** 2, axis=1)))
        # Converged: the stages move by less than a hundredth of the tolerance, or by their rounding, and the weights by
        # less than a thousandth.
        wanted = jnp.maximum(1e-2 * rtol * jnp.maximum(extent, 1e-3 * jnp.minimum(length, size0)), finest)
        size = jnp.maximum(moved / wanted, weighted / 1e-3)
        damp = jnp.minimum(1.0, 2.0 / weighted)
        stages = Stages(*(v + damp * dv for v, dv in zip(stages, d, strict=True)))
        stages = stages._replace(dual=flow.loss.admissible(stages.dual))
        # What remains after this update, by the rate at which updates shrink.
        rate = size / last
        remains = jnp.where(rate < 0.5, jnp.minimum(size, 2.0 * size * rate), size)
        return stages, iteration + 1, size, remains

    def unfinished(carry):
        _, iteration, _, remains = carry
        return (iteration < limit) & ~(remains < 1.0) & ~jnp.isnan(remains)

    none = jnp.asarray(jnp.inf)
    # An infinite first size would pass for convergence at once.
    first = jnp.asarray(jnp.finfo(a0.dtype).tiny)
    stages, iterations, _, remains = jax.lax.while_loop(unfinished, body, (start, jnp.asarray(0), first, none))
    good = (remains < 1.0) & jnp.all(jnp.isfinite(stages.F))
    return Solved(stages, good, iterations)
