"""Symmetries of a start that the exact flow of a factorization keeps, and whether a run has kept them.

Where pulls, the gradients at a symmetric W, are symmetric, factors that are each other's transposes in reverse order,
W_j = W_(N+1-j)^T, stay so; and of an even number of balanced factors (Arora, Cohen & Hazan 2018, arXiv 1802.06509) of a
symmetric W, which are that up to turns of their hidden spaces, W keeps the signs of its eigenvalues. Where all of the
target is observed and symmetric, factors that are multiples of the identity keep its eigenvectors. Rounding breaks
each, and where a pull is negative that grows exponentially, until eigenvalues are learned that the flow never learns.
Some charts cannot break it (`gflow.symmetric`, `gflow.aligned`); of the others it is measured.
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .aligned import AlignedChart
from .charts import EuclideanChart
from .losses import Square
from .mirror import Mirror, mirror_of
from .models import MatrixFactorization
from .split import multiples_of_identity, SplitChart
from .status import as_code, Status
from .symmetric import probes, pull_of, rounding_of_pulls, SymmetricChart
from .trajectory import Trajectory
from .turned import framed

# What rounding leaves of a symmetry that is kept, beside what a run may be wrong by.
_KEPT = 1e-9


def checked(traj: Trajectory, X: Any, targets: Any, observed: Any, rtol: Any) -> Trajectory:
    """A trajectory, failed where its saves lack, by more than ten times `rtol`, a symmetry that their start has and the
    flow keeps."""
    chart, loss = traj.flow.chart, traj.flow.loss
    start = getattr(chart, "template", None)
    if isinstance(chart, AlignedChart) or not isinstance(start, MatrixFactorization) or not isinstance(loss, Square):
        return traj
    in_parts = isinstance(chart, SplitChart)
    if multiples_of_identity(start):
        if in_parts:
            # What tells one from the other is a coordinate.
            return traj
        traj = _failed(traj, _told_apart_by_rounding(start, traj.model.product, jnp.asarray(rtol)), Status.seeded)
    if in_parts and not chart.exact:
        # Parts that the data tell apart but for rounding seed each other by that.
        traj = _failed(traj, chart.has_faint_parts(targets), Status.seeded)
    if isinstance(chart, SymmetricChart):
        whole = EuclideanChart(start, jnp.zeros(()), observed)
        grown = _from_rounding(start, traj.model.product, whole, X, targets, jnp.asarray(rtol))
        return _failed(traj, grown, Status.seeded)
    shapes = [W.shape for W in start.factors]
    if len(shapes) < 2 or any(shape != (n, m) for shape, (m, n) in zip(shapes, reversed(shapes), strict=True)):
        return traj
    saves, mirror = traj.model, mirror_of(start)
    if mirror is not None:
        start, saves = (_turned(model, mirror) for model in (start, saves))
    whole = EuclideanChart(start, jnp.zeros(()), observed)
    lost, seeded = _broken(start, saves, whole, X, targets, jnp.asarray(rtol))
    if isinstance(chart, EuclideanChart) and not in_parts:
        traj = _failed(traj, seeded, Status.seeded)
    return _failed(traj, lost, Status.symmetry_broken)


def _failed(traj: Trajectory, lost: Bool[Array, ""], status: Status) -> Trajectory:
    code = jnp.where(lost & (traj.status_code == Status.success), int(status), traj.status_code)
    return eqx.tree_at(lambda t: t.status_code, traj, as_code(code))


def _turned(model: MatrixFactorization, mirror: Mirror) -> MatrixFactorization:
    """A model, or one for each save, turned as its start is to be mirrored; of another W if there are signs."""
    factors = framed(model.factors, [K.T for K in mirror.frames])
    if mirror.signs is not None:
        factors[len(factors) // 2] @= jnp.diag(jnp.asarray(mirror.signs))
    return eqx.tree_at(lambda m: m.factors, model, tuple(factors))


def check_kept(resume: Trajectory) -> None:
    if int(resume.status_code) == Status.symmetry_broken:
        raise ValueError("resume must be a run that can go on, but rounding has broken its symmetry; start anew.")


def _largest(v: Array) -> Array:
    return jnp.nanmax(jnp.abs(v))


@eqx.filter_jit
def _broken(
    start: MatrixFactorization, saves: Any, chart: EuclideanChart, X: Array, targets: Array, rtol: Array
) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether a symmetry of the start is lost; and whether factors that are nearly mirrored have learned a sign of
    eigenvalues that mirrored ones keep, of which rounding decides when."""
    at_zero, whole, symmetric = _observed_by(chart, X, targets)
    apart = lambda E: _largest(E - jnp.swapaxes(E, -1, -2))
    size = jnp.max(jnp.stack([_largest(W) for W in saves.factors]))
    gone = lambda misses, size: jnp.max(jnp.stack(misses)) > (10 * rtol + _KEPT) * size
    mirror = lambda W, V: _largest(W - jnp.swapaxes(V, -1, -2))
    misses = jnp.stack([mirror(*pair) for pair in zip(start.factors, reversed(start.factors), strict=True)])
    off_mirror = gone([mirror(*pair) for pair in zip(saves.factors, reversed(saves.factors), strict=True)], size)
    lost = symmetric & jnp.all(misses == 0) & off_mirror
    apart_at_start, largest = jnp.max(misses), jnp.max(jnp.stack([_largest(W) for W in start.factors]))
    # Measured: rounding shifts what is learned by a twentieth of its share of the difference.
    unknown = float(jnp.finfo(float).eps) * largest > jnp.where(rtol > 0, 100 * rtol, 1e-3) * apart_at_start
    near = symmetric & (apart_at_start > 0) & unknown
    balanced = symmetric & (_balanced(start) if len(start.factors) % 2 == 0 else jnp.asarray(False))
    gained = lambda: _gained(start.product, saves.product, rtol)
    gained = jax.lax.cond(near | balanced, gained, lambda: jnp.asarray(False))
    lost, seeded = lost | (balanced & gained), near & gained
    if any(W.shape != at_zero.shape for W in start.factors):
        return lost, seeded
    multiples = [_largest(W - W[0, 0] * jnp.eye(len(W))) == 0 for W in start.factors]
    turned = [_largest(W @ at_zero - at_zero @ W) for W in saves.factors]
    off_vectors = gone(turned, size * jnp.linalg.norm(at_zero)) | gone([apart(W) for W in saves.factors], size)
    return lost | (whole & jnp.all(jnp.stack(multiples)) & off_vectors), seeded


@eqx.filter_jit
def _from_rounding(
    start: MatrixFactorization, after: Array, chart: EuclideanChart, X: Array, targets: Array, rtol: Array
) -> Bool[Array, ""]:
    """Whether an eigenvector of an observed target was learned of which the start has what rounding left of zero.

    Of mirrored factors what W_1 has not of an eigenvector it never gets: no chart keeps that.
    """
    at_zero, whole, _ = _observed_by(chart, X, targets)
    first, V = start.factors[0], jnp.linalg.eigh(at_zero)[1]
    content, terms = (jnp.linalg.norm(W, axis=0) for W in (first @ V, jnp.abs(first) @ jnp.abs(V)))
    # Of descent, which has no rtol, times are told to 1e-4.
    unknown = 4 * float(jnp.finfo(float).eps) * terms > jnp.where(rtol > 0, 10 * rtol, 1e-4) * content
    learned = jnp.abs(jnp.einsum("ik,tij,jk->tk", V, after, V))
    size = jnp.max(jnp.abs(after), axis=(1, 2))[:, None]
    return whole & jnp.any(unknown[None] & (learned > (10 * rtol + _KEPT) * size))


@eqx.filter_jit
def _told_apart_by_rounding(start: MatrixFactorization, after: Array, rtol: Array) -> Bool[Array, ""]:
    """Whether factors that are nearly the same multiple of I have learned a sign of eigenvalues that equal ones keep:
    rounding is as large a part of when as of the differences of their squares."""
    squares = jnp.sort(jnp.stack([W[0, 0] for W in start.factors]) ** 2)
    apart = jnp.diff(squares)
    least = jnp.min(jnp.where(apart > 0, apart, jnp.inf), initial=jnp.inf)
    unknown = 4 * float(jnp.finfo(float).eps) * squares[-1] > jnp.where(rtol > 0, 10 * rtol, 1e-4) * least
    return unknown & _gained(start.product, after, rtol)


def _observed_by(
    chart: EuclideanChart, X: Array, targets: Array
) -> tuple[Array, Bool[Array, ""], Bool[Array, ""]]:
    """The pull at zero; whether all of a symmetric target is observed, to one measure; and whether pulls are symmetric
    at all."""
    pull, tried = pull_of(chart, X, targets), probes(chart.template.factors[0].shape[1])
    at_zero = pull(jnp.zeros(tried[0].shape))
    apart = lambda E: _largest(E - jnp.swapaxes(E, -1, -2))
    near = lambda miss, size: miss <= rounding_of_pulls(X, len(tried[0])) * size
    symmetric = near(apart(at_zero), _largest(at_zero))
    whole = symmetric
    for P in tried:
        E = pull(jnp.asarray(P)) - at_zero
        symmetric = symmetric & near(apart(E), _largest(E))
        whole = whole & near(_largest(E - P * jnp.sum(E * P) / np.sum(P * P)), _largest(E))
    return at_zero, whole, symmetric


def _balanced(model: MatrixFactorization) -> Bool[Array, ""]:
    """Whether W_(j+1)^T W_(j+1) = W_j W_j^T, and the product is symmetric, to the last bits."""
    rounding = 8 * float(jnp.finfo(float).eps) * max(len(W) for W in model.factors)
    same = lambda A, B: _largest(A - B) <= rounding * _largest(B)
    pairs, product = itertools.pairwise(model.factors), model.product
    return jnp.all(jnp.stack([same(V.T @ V, W @ W.T) for W, V in pairs])) & same(product, product.T)


def _gained(before: Array, after: Array, rtol: Array) -> Bool[Array, ""]:
    """Whether more eigenvalues of any save, of its symmetric part, are positive, or negative, than of the start."""
    ends = jnp.linalg.eigvalsh(jnp.concatenate([before[None], jnp.nan_to_num(after)]))
    size = jnp.max(jnp.abs(ends), axis=1, keepdims=True)
    least = jnp.append(0.0, jnp.broadcast_to(10 * rtol + _KEPT, (len(ends) - 1,)))[:, None] * size
    count = jnp.stack([jnp.sum(ends > least, axis=1), jnp.sum(ends < -least, axis=1)])
    return jnp.any(count[:, 1:] > count[:, :1])
