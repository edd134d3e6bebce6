"""Newton's method for the stages of a log-form collocation step, by the tangent kernel.

Unknowns of every stage i: the velocity F_i = da/ds of the coordinates a_i = a_0 + h sum_j A_ij F_j, the dual variables
of the samples (log-weights of a classification loss, relative residuals of the square loss), the log-pace R_i and
gamma_i. With J = grad f and V = M^-1 grad f (M the metric of the chart) they obey

    F_i = e^(R_i) sum_n c_n(dual_i) V_n(a_i),    rows of the loss: f(a_i), dual_i, gamma_i,    speed of F_i at a_0 = 1.

The change of V with a is left out of the Newton matrix: it only slows convergence. Two ways to solve it:

- `in_samples`: F is eliminated. What remains is the tangent kernel J V^T between the stages, stages * (N + 2) unknowns
  whatever the number P of parameters.
- `in_full`: F stays, beside the dual variables of the `count` samples of largest weight (the others are eliminated):
  stages * (P + count + 2) unknowns. For more samples than parameters; and for plateaus, on which coordinates rest
  because pulls cancel to 1e-20, so that no weights in float64 say how they move, while the rows of the loss do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..flow import Flow
from ..lapack import solve
from .reduction import Reduction

# Columns of large matrices that are multiplied at a time.
_BLOCK = 2048


class Stages(NamedTuple):
    """What Newton's method solves for, a row for each stage."""

    F: Float[Array, "s P"]
    dual: Float[Array, "s N"]
    R: Float[Array, " s"]
    gamma: Float[Array, " s"]


class Linearized(NamedTuple):
    """What the Newton matrix is made of. The rows are those of the loss, combined and scaled; `by_output` is in J."""

    hA: Float[Array, "s s"]
    J: Float[Array, "s N P"]
    V: Float[Array, "s N P"]
    pace: Float[Array, " s"]
    c: Float[Array, "s N"]
    dc: Float[Array, "s N"]
    miss: Float[Array, "s N"]
    by_dual: Float[Array, "s N N"]
    by_gamma: Float[Array, "s N"]
    sum_miss: Float[Array, " s"]
    sum_by_parameter: Float[Array, "s P"]
    sum_by_dual: Float[Array, "s N"]
    toward: Float[Array, "s P"]
    miss_F: Float[Array, "s P"]
    miss_pace: Float[Array, " s"]


class Solved(NamedTuple):
    stages: Stages
    converged: Bool[Array, ""]


def coordinates(a0: Array, hA: Array, stages: Stages) -> Float[Array, "s P"]:
    return a0[None] + hA @ stages.F


def _motion(flow: Flow, a0: Array, F: Array, R: Array, pull: Array) -> tuple[Array, Array, Array]:
    """d log speed(F) / dF, and what F misses, and its speed of one."""
    missed, toward = jax.value_and_grad(lambda F: jnp.log(flow.chart.speed(a0, F)))(F)
    return toward, F - jnp.exp(R) * pull, missed


def linearize(
    flow: Flow, a0: Array, hA: Array, unit: Array, reduction: Reduction | None, stages: Stages, blur: Any
) -> Linearized:
    chart, loss, X, y = flow.chart, flow.loss, flow.X, flow.y

    def at(a, F, dual, R, gamma):
        V, own = chart.velocities(a, X)
        V = V * jnp.exp(own - unit)
        c, dc = loss.pull(dual, y)
        rows = loss.dual_rows(chart.outputs(a, X), y, dual, gamma, blur)
        J = chart.jacobian(a, X)
        scale = jnp.maximum(1.0, jnp.abs(gamma))
        if reduction is None:
            top = rows.by_output[:, None] * J
            miss, by_dual, by_gamma = rows.miss, jnp.diag(rows.by_dual), rows.by_gamma * scale
        else:
            top, miss, by_dual, by_gamma = reduction.rows(chart, a, J, rows, gamma, scale)
        toward, miss_F, miss_pace = _motion(flow, a0, F, R, c @ V)
        return Linearized(
            hA=hA,
            J=top,
            V=V,
            pace=jnp.exp(R),
            c=c,
            dc=dc,
            miss=miss,
            by_dual=by_dual,
            by_gamma=by_gamma,
            sum_miss=rows.sum_miss,
            sum_by_parameter=rows.sum_by_output @ J,
            sum_by_dual=rows.sum_by_dual,
            toward=toward,
            miss_F=miss_F,
            miss_pace=miss_pace,
        )

    every = jax.vmap(at)(coordinates(a0, hA, stages), *stages)
    return every._replace(hA=hA)


def _own(v: Array) -> Array:
    """A block for each stage on the diagonal: (s, r, c) to (s, r, s, c)."""
    s = v.shape[0]
    return jnp.where((jnp.arange(s)[:, None] == jnp.arange(s)[None])[:, None, :, None], v[:, :, None, :], 0.0)


def in_samples(o: Linearized) -> Stages:
    VE = o.V * o.pace[:, None, None]
    # Every row's effect on the path, and the path's on every row: outputs and the sum of the weights together.
    J = jnp.concatenate([o.J, o.sum_by_parameter[:, None]], axis=1)
    kernel = jnp.einsum("inp,jmp->injm", J, VE) * o.hA[:, None, :, None]
    behind = jnp.einsum("inp,ip->in", J, o.hA @ o.miss_F)
    push = jnp.einsum("sp,snp->sn", o.toward, VE)
    dual, R, gamma = _by_kernel(o, kernel, behind, push)
    F = jnp.einsum("sn,snp->sp", o.dc * dual + o.c * R[:, None], VE) - o.miss_F
    return Stages(F, dual, R, gamma)


def _by_kernel(o: Any, kernel: Array, behind: Array, push: Array) -> tuple[Array, Array, Array]:
    """Updates of the dual variables, R and gamma, from what a pull of each sample in each stage does to the rows, and
    to the pace (`push`). gamma is in units of max(1, |gamma|), here and below."""
    s, N = o.c.shape
    # The row of the pace is each stage's own, and R is solved from it: d log speed of a pull along F is near one.
    along = jnp.sum(push * o.c, axis=1)
    R_by_dual = -push * o.dc / along[:, None]
    R_alone = (jnp.sum(o.toward * o.miss_F, axis=1) - o.miss_pace) / along
    by_pace = jnp.einsum("injm,jm->inj", kernel, o.c)
    far = kernel * o.dc[None, None] + by_pace[..., None] * R_by_dual[None, None]
    near = jnp.concatenate(
        [
            jnp.concatenate([o.by_dual, o.by_gamma[..., None]], axis=2),
            jnp.concatenate([o.sum_by_dual, jnp.zeros((s, 1))], axis=1)[:, None],
        ],
        axis=1,
    )
    M = _own(near) + jnp.concatenate([far, jnp.zeros((s, N + 1, s, 1))], axis=3)
    right = behind - jnp.concatenate([o.miss, o.sum_miss[:, None]], axis=1) - by_pace @ R_alone
    d = _solve(M.reshape(s * (N + 1), -1), right.reshape(-1)).reshape(s, N + 1)
    dual, gamma = d[:, :N], d[:, N]
    return dual, R_alone + jnp.sum(R_by_dual * dual, axis=1), gamma


def in_full(o: Linearized, count: int) -> Stages:
    s, N = o.c.shape
    P = o.toward.shape[1]
    k = min(count, N)
    VE = o.V * o.pace[:, None, None]
    if k < N:
        kept = jax.lax.top_k(jnp.max(jnp.abs(o.dc), axis=0), k)[1]
        rest = jnp.ones(N).at[kept].set(0.0)
    else:
        kept, rest = jnp.arange(N), None
    take = lambda v: v[:, kept]
    by_pace = jnp.einsum("sn,snp->sp", o.c, VE)
    velocity = [
        jnp.broadcast_to(jnp.eye(P), (s, P, P)),
        -jnp.swapaxes(take(VE), 1, 2) * take(o.dc)[:, None, :],
        -by_pace[..., None],
    ]
    right_F, sums_parameter, sums_gamma, right_sum = -o.miss_F, o.sum_by_parameter, jnp.zeros(s), -o.sum_miss
    far_F = jnp.zeros((s, P, s, P))
    gamma_F, own = jnp.zeros((s, P, 1)), jnp.zeros((s, N))
    if rest is not None:
        # dual_n = -(miss_n + J_n da + by_gamma_n dgamma) / by_dual_nn for the samples that are left out.
        own = rest[None] / jnp.diagonal(o.by_dual, axis1=1, axis2=2)
        pull = VE * (o.dc * own)[..., None]
        curve = jnp.einsum("snp,snr->spr", pull, o.J)
        far_F = jnp.einsum("spr,sj->spjr", curve, o.hA)
        gamma_F = jnp.einsum("snp,sn->sp", pull, o.by_gamma)[..., None]
        right_F = right_F - jnp.einsum("snp,sn->sp", pull, o.miss)
        weight = o.sum_by_dual * own
        sums_parameter = sums_parameter - jnp.einsum("sn,snp->sp", weight, o.J)
        sums_gamma = -jnp.sum(weight * o.by_gamma, axis=1)
        right_sum = right_sum + jnp.sum(weight * o.miss, axis=1)
    rows = take(o.by_dual)[:, :, kept]
    empty = lambda *shape: jnp.zeros((s, *shape))
    near = jnp.concatenate(
        [
            jnp.concatenate([*velocity, gamma_F], axis=2),
            jnp.concatenate([empty(k, P), rows, empty(k, 1), take(o.by_gamma)[..., None]], axis=2),
            jnp.concatenate([empty(P), take(o.sum_by_dual), empty(1), sums_gamma[:, None]], axis=1)[:, None],
            jnp.concatenate([o.toward, empty(k + 2)], axis=1)[:, None],
        ],
        axis=1,
    )
    outer = jnp.concatenate([take(o.J), sums_parameter[:, None]], axis=1)
    far = jnp.concatenate(
        [far_F, jnp.einsum("ij,inp->injp", o.hA, outer), jnp.zeros((s, 1, s, P))], axis=1
    )
    M = _own(near) + jnp.concatenate([far, jnp.zeros((s, P + k + 2, s, k + 2))], axis=3)
    right = jnp.concatenate([right_F, -take(o.miss), right_sum[:, None], -o.miss_pace[:, None]], axis=1)
    d = _solve(M.reshape(s * (P + k + 2), -1), right.reshape(-1)).reshape(s, P + k + 2)
    F, some, R, gamma = d[:, :P], d[:, P : P + k], d[:, P + k], d[:, P + k + 1]
    if rest is None:
        return Stages(F, some, R, gamma)
    moved = jnp.einsum("snp,sp->sn", o.J, o.hA @ F)
    dual = -own * (o.miss + moved + o.by_gamma * gamma[:, None])
    return Stages(F, dual.at[:, kept].set(some), R, gamma)


def _solve(M: Array, right: Array) -> Array:
    size = jnp.max(jnp.abs(M), axis=1)
    return solve(M / size[:, None], right / size)


class Frozen(NamedTuple):
    """What the Newton matrix of a large network is made of: one Jacobian for all stages and iterations of a step. The
    residuals stay exact, by a vector-Jacobian product at every stage."""

    J: Float[Array, "N P"]
    kernel: Float[Array, "N N"]


def freeze(flow: Flow, a: Array) -> Frozen:
    J = flow.chart.jacobian(a, flow.X)
    return Frozen(J, _inner(J, J))


def _inner(A: Float[Array, "n P"], B: Float[Array, "m P"]) -> Float[Array, "n m"]:
    """A B^T in blocks of columns: of whole rows of a million entries the library would copy both matrices first, which
    takes five times as long."""
    whole = A.shape[1] // _BLOCK

    def add(i, total):
        block = lambda M: jax.lax.dynamic_slice_in_dim(M, i * _BLOCK, _BLOCK, axis=1)
        return total + block(A) @ block(B).T

    rest = A[:, whole * _BLOCK :] @ B[:, whole * _BLOCK :].T
    return jax.lax.fori_loop(0, whole, add, rest) if whole else rest


class _Pulled(NamedTuple):
    c: Float[Array, "s N"]
    dc: Float[Array, "s N"]
    miss: Float[Array, "s N"]
    by_dual: Float[Array, "s N N"]
    by_gamma: Float[Array, "s N"]
    sum_miss: Float[Array, " s"]
    sum_by_dual: Float[Array, "s N"]
    by_output: Float[Array, "s N+1 N"]
    toward: Float[Array, "s P"]
    miss_F: Float[Array, "s P"]
    miss_pace: Float[Array, " s"]


def by_frozen_kernel(flow: Flow, a0: Array, hA: Array, frozen: Frozen, stages: Stages, blur: Any):
    """A Newton update with the tangent kernel of one point: linear in the number of parameters, in time and memory."""

    def at(stage):
        a, F, dual, R, gamma = stage
        f, pull = jax.vjp(lambda b: flow.chart.outputs(b, flow.X), a)
        c, dc = flow.loss.pull(dual, flow.y)
        rows = flow.loss.dual_rows(f, flow.y, dual, gamma, blur)
        toward, miss_F, miss_pace = _motion(flow, a0, F, R, pull(c)[0])
        return _Pulled(
            c=c,
            dc=dc,
            miss=rows.miss,
            by_dual=jnp.diag(rows.by_dual),
            by_gamma=rows.by_gamma * jnp.maximum(1.0, jnp.abs(gamma)),
            sum_miss=rows.sum_miss,
            sum_by_dual=rows.sum_by_dual,
            by_output=jnp.concatenate([jnp.diag(rows.by_output), rows.sum_by_output[None]]),
            toward=toward,
            miss_F=miss_F,
            miss_pace=miss_pace,
        )

    # One stage at a time: the intermediate values of a forward pass are the largest arrays here.
    o = jax.lax.map(at, (coordinates(a0, hA, stages), *stages))
    pace = jnp.exp(stages.R)
    seen = o.by_output @ frozen.kernel
    kernel = seen[:, :, None, :] * (hA * pace[None])[:, None, :, None]
    behind = jnp.einsum("imn,in->im", o.by_output, hA @ _inner(o.miss_F, frozen.J))
    push = _inner(o.toward, frozen.J) * pace[:, None]
    dual, R, gamma = _by_kernel(o, kernel, behind, push)
    F = (pace[:, None] * (o.dc * dual + o.c * R[:, None])) @ frozen.J - o.miss_F
    return Stages(F, dual, R, gamma), o.dc


def newton(flow: Flow, a0: Array, hA: Array, update: Any, start: Stages, rtol: Any, limit: int) -> Solved:
    """Solve for the stages from the guess `start`; `update` maps stages to their Newton update and d c / d dual."""
    # In units of arc length.
    own = flow.chart.extent(a0) / flow.chart.length(a0)
    finest = 8 * jnp.finfo(a0.dtype).eps * own
    # One at a time where they are large: all at once, XLA makes arrays of their size anew in every iteration.
    every = jax.lax.map if a0.size > _BLOCK else lambda f, v: jax.vmap(f)(v)
    longest = lambda moves: jnp.max(every(lambda v: flow.chart.speed(a0, v), moves))

    def body(carry):
        stages, iteration, last, _, idle = carry
        d, dc = update(stages)
        weighted = jnp.max(
            jnp.concatenate([jnp.abs(d.dual * dc), jnp.abs(d.R)[:, None], jnp.abs(d.gamma)[:, None]], axis=1)
        )
        moves, ways = hA @ d.F, hA @ (stages.F + d.F)
        moved, extent = longest(moves), longest(ways)
        # What the change of V with a does to a small unit comes in last.
        small = jnp.max(every(lambda v: flow.chart.error_of_small(v[0], a0, a0 + v[1]), (moves, ways)))
        # Converged: the stages move by less than a hundredth of the tolerance, or by their rounding, the weights by
        # less than a thousandth, and the log-pace, of which time is made, by less than a tenth of the tolerance.
        wanted = jnp.maximum(1e-2 * rtol * jnp.maximum(extent, 1e-3 * jnp.minimum(1.0, own)), finest)
        damp = jnp.minimum(1.0, 2.0 / weighted)
        dual = flow.loss.admissible(stages.dual + damp * d.dual)
        # A sample that had no weight, and so no derivative of it, may have some now.
        weights = lambda dual: flow.loss.pull(dual, flow.y[None])[0]
        weighted = jnp.maximum(weighted, jnp.max(jnp.abs(weights(dual) - weights(stages.dual))))
        off = jnp.maximum(jnp.maximum(moved / wanted, weighted / 1e-3), small / (1e-2 * rtol))
        size = jnp.stack([off, jnp.max(jnp.abs(d.R)) / (0.1 * rtol)])
        stages = Stages(
            stages.F + damp * d.F,
            dual,
            stages.R + damp * d.R,
            stages.gamma + damp * d.gamma * jnp.maximum(1.0, jnp.abs(stages.gamma)),
        )
        # What remains after this update, by the rate at which updates shrink.
        rate = size / last
        remains = jnp.where(rate < 0.5, jnp.minimum(size, 2.0 * size * jnp.maximum(rate, 0.05)), size)
        # Where pulls cancel, the log-pace ends in rounding: it no longer shrinks while all else has converged.
        idle = jnp.where((rate[1] >= 0.5) & (size[0] < 1.0), idle + 1, 0)
        return stages, iteration + 1, size, jnp.where(idle > 2, remains[0], jnp.max(remains)), idle

    def unfinished(carry):
        _, iteration, _, remains, _ = carry
        return (iteration < limit) & ~(remains < 1.0) & ~jnp.isnan(remains)

    none, zero = jnp.asarray(jnp.inf), jnp.asarray(0)
    # An infinite first size would pass for convergence at once.
    first = jnp.full(2, jnp.finfo(a0.dtype).tiny)
    stages, _, _, remains, _ = jax.lax.while_loop(unfinished, body, (start, zero, first, none, zero))
    good = (remains < 1.0) & jnp.all(jnp.isfinite(stages.F))
    return Solved(stages, good)
