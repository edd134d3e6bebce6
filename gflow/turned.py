"""The flow of a factorization in hidden coordinates that keep the digits of what is small.

Whatever is observed of W = W_N ... W_1, turning hidden spaces, W_j -> Q_j^T W_j Q_(j-1), leaves the flow as it is. As
the factors are given, every entry is a sum of what has been learned, of size one, and of what is yet to be, of 1e-20,
which rounding of the first would swallow. Here hidden spaces are turned such that hidden units are orthogonal to each
other: unit i of a space has as its vector z_i row i of the factor below and column i of the factor above, and what is
learned by one unit has no part in another. Then every unit has digits of its own.

For N = 2 all z_i obey the same linear equation, z' = H z, in which rounding is relative to each. Only, the one that
grows fastest would take over the others in time. Hence units are turned on after every step, by one sweep of Jacobi's
rotations from one side, which keep the digits of columns of different sizes (Demmel & Veselic 1992, doi
10.1137/0613074).
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .charts import AbstractChart, EuclideanChart
from .mixed_units import apart, mixed
from .models import MatrixFactorization

# What a turn leaves of a unit that depends on others.
_NOTHING = 1e-13
_FIRST_SWEEPS = 6
# What is smaller, beside the largest unit, is followed no further.
LEAST = 1e-150
_SMALL = 1e-8


class TurnedChart(EuclideanChart):
    """Coordinates (G_1, ..., G_N, Q_1, ..., Q_(N-1)) with W_j = Q_j G_j Q_(j-1)^T, where Q_0 = Q_N = I."""

    template: MatrixFactorization
    # (G, Q) of the template where they had to be found with more digits.
    begin: tuple[tuple, tuple] | None = None
    graded: ClassVar[bool] = True

    @property
    def _moving_size(self) -> int:
        return sum(W.size for W in self.template.factors)

    def _parts(self, a: Array) -> tuple[list, list]:
        shapes: list[Any] = [W.shape for W in self.template.factors]
        shapes += [(m, m) for m, _ in shapes[:-1]]
        parts = cut(a, shapes)
        depth = len(self.template.factors)
        return parts[:depth], parts[depth:]

    def _joined(self, G: Any, Q: Any) -> Array:
        return jnp.concatenate([jnp.ravel(v) for v in (*G, *Q)])

    def _start(self) -> Array:
        W = self.template.factors
        return self._joined(*(self.begin or (W, [jnp.eye(G.shape[0]) for G in W[:-1]])))

    def coordinates(self):
        # No unit is near its place yet.
        return jax.lax.fori_loop(0, _FIRST_SWEEPS, lambda _, b: self.tidied(b, b[None])[0], self._start())

    def at(self, a):
        return self._with(framed(*self._parts(a)))

    def _with(self, factors: Any) -> MatrixFactorization:
        return eqx.tree_at(lambda m: m.factors, self.template, tuple(factors))

    def _model(self, a):
        return self._with(self._parts(a)[0])

    def jacobian(self, a, X):
        return jax.jacrev(lambda b: self.outputs(b, X))(a)

    @property
    def _least(self) -> Array:
        """The size of units that have died out."""
        return LEAST * jnp.max(jnp.stack([jnp.max(jnp.abs(W)) for W in self.template.factors]))

    def length(self, a):
        return self.extent(a)

    def speed(self, a, rates):
        # Relative to each unit: beside what has been learned and rests, rates of which are rounding, others grow.
        scales = unit_scales(self._parts(a)[0], ends=False)
        ratios = [jnp.ravel(_ratio(F, size)) for F, size in zip(self._parts(rates)[0], scales, strict=True)]
        return jnp.sqrt(jnp.mean(jnp.concatenate(ratios) ** 2))

    def extent(self, a):
        sizes = jnp.concatenate([jnp.ravel(v) for v in unit_scales(self._parts(a)[0], ends=False)])
        return jnp.min(jnp.where(sizes > 0, sizes, jnp.inf))

    def has_small_units(self, targets: Array) -> bool:
        """Whether a unit is so small, beside what is to be learned, that rounding would have a part in its growth."""
        learned = jnp.max(jnp.abs(targets)) ** (1 / len(self.template.factors))
        return bool(self.extent(self.coordinates()) < _SMALL * learned)

    def error_of_small(self, e, a0, a1):
        # `error` is relative to every unit.
        return jnp.zeros(())

    def error(self, e, a0, a1):
        return error_of_units(*(self._parts(v)[0] for v in (e, a0, a1)), ends=False)

    def tidied(self, a, rates):
        G, Q = self._parts(a)
        F, still = jax.vmap(self._parts)(rates)
        for j in range(len(Q)):
            turn_hidden(j, G, Q, F, self._least)
        return self._joined(G, Q), jax.vmap(self._joined)(F, still)


def cut(a: Array, shapes: list[tuple[int, int]]) -> list[Array]:
    """The matrices of these shapes that lie in a row in `a`."""
    ends = np.cumsum([m * n for m, n in shapes])[:-1]
    return [v.reshape(shape) for v, shape in zip(jnp.split(a, ends), shapes, strict=True)]


def turn_hidden(j: int, G: list, Q: list, F: list, least: Array, signs: Array | None = None) -> Array:
    """Turn hidden space j, in these lists, such that its units are orthogonal to each other, or those of the same sign;
    the turn. Units smaller than `least` are let go."""
    units = jnp.concatenate([G[j], G[j + 1].T], axis=1)
    turned, turn = _sweep(units, jnp.eye(units.shape[0]), signs)
    turned = jnp.where(jnp.max(jnp.abs(turned), axis=1, keepdims=True) < least, 0.0, turned)
    n = G[j].shape[1]
    G[j], G[j + 1] = turned[:, :n], turned[:, n:].T
    Q[j] = Q[j] @ turn.T
    F[j], F[j + 1] = turn @ F[j], F[j + 1] @ turn.T
    return turn


def framed(factors: Any, frames: Any) -> list[Array]:
    """Q_j W_j Q_(j-1)^T, with `frames` Q_1, ..., Q_(N-1) of the hidden spaces; of one model, or of all saves."""
    turned = list(factors)
    for j, Q in enumerate(frames):
        turned[j], turned[j + 1] = Q @ turned[j], turned[j + 1] @ Q.T
    return turned


def unit_scales(G: Any, ends: bool) -> list:
    """For every entry of the factors the size of its hidden unit, between two hidden spaces the smaller one. A unit may
    be turned such that all of it is in one factor. One that has died out counts as `LEAST` of the largest. At `ends`
    the rows of the last factor and the columns of the first are taken for units too."""
    size = lambda W, axis: jnp.sqrt(jnp.mean(W**2, axis=axis))
    units = [jnp.maximum(size(below, 1), size(above, 0)) for below, above in itertools.pairwise(G)]
    units = [jnp.maximum(unit, LEAST * jnp.max(unit)) for unit in units]
    first, last = (size(G[0], 0), size(G[-1], 1)) if ends else (jnp.inf, jnp.inf)
    around = [jnp.broadcast_to(first, G[0].shape[1:]), *units, jnp.broadcast_to(last, G[-1].shape[:1])]
    return [jnp.minimum(after[:, None], before[None]) for before, after in itertools.pairwise(around)]


def error_of_units(e: Any, before: Any, after: Any, ends: bool) -> Array:
    """The size of an error of the factors relative to their units."""
    worst = []
    for d, *sizes in zip(e, unit_scales(before, ends), unit_scales(after, ends), strict=True):
        scale = jnp.maximum(*sizes)
        worst.append(jnp.sqrt(jnp.mean(_ratio(d, scale) ** 2)))
    return jnp.max(jnp.stack(worst))


def _ratio(d: Array, scale: Array) -> Array:
    return jnp.where(d == 0, 0.0, d / jnp.where(scale > 0, scale, jnp.finfo(d.dtype).tiny))


def _rounds(count: int) -> np.ndarray:
    """All pairs of `count` (even), in count - 1 rounds of disjoint pairs: shape (count - 1, 2, count / 2)."""
    ring, rounds = list(range(count)), []
    for _ in range(count - 1):
        rounds.append([ring[: count // 2], ring[: count // 2 - 1 : -1]])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return np.array(rounds)


def _sweep(units: Float[Array, "h n"], frame: Float[Array, "h h"], signs: Array | None) -> tuple[Array, Array]:
    """Rotations of every pair of rows that make the two orthogonal, of the rows of `frame` with them. If there are
    `signs`, of pairs that have the same."""
    h = units.shape[0]
    if h == 1:
        return units, frame
    # With an odd number each rests for a round.
    padded = jnp.concatenate([units, frame], axis=1)
    if h % 2:
        padded = jnp.concatenate([padded, jnp.zeros((1, padded.shape[1]))])
    signs = jnp.ones(len(padded)) if signs is None else jnp.append(signs, jnp.ones(len(padded) - h))
    width = units.shape[1]

    def turn(pairs, rows):
        first, second = rows[pairs[0]], rows[pairs[1]]
        u, v = (jax.lax.stop_gradient(r[:, :width]) for r in (first, second))
        su, sv = jnp.max(jnp.abs(u), axis=1), jnp.max(jnp.abs(v), axis=1)
        both = (su > 0) & (sv > 0)
        su, sv = jnp.where(both, su, 1.0), jnp.where(both, sv, 1.0)
        u, v = u / su[:, None], v / sv[:, None]
        dot = jnp.sum(u * v, axis=1)
        both = both & (dot != 0) & (signs[pairs[0]] == signs[pairs[1]])
        zeta = (jnp.sum(v**2, axis=1) * (sv / su) - jnp.sum(u**2, axis=1) * (su / sv)) / jnp.where(both, 2 * dot, 1.0)
        tan = jnp.where(zeta < 0, -1.0, 1.0) / (jnp.abs(zeta) + jnp.hypot(jnp.ones_like(zeta), zeta))
        tan = jnp.where(both, tan, 0.0)[:, None]
        cos = 1.0 / jnp.sqrt(1.0 + tan**2)
        return rows.at[pairs[0]].set(cos * (first - tan * second)).at[pairs[1]].set(cos * (second + tan * first))

    rounds = jnp.asarray(_rounds(padded.shape[0]))
    done = jax.lax.fori_loop(0, rounds.shape[0], lambda k, rows: turn(rounds[k], rows), padded)[:h]
    size = lambda rows: jnp.max(jnp.abs(rows), axis=1)
    # A unit that is a combination of others leaves rounding, which is none.
    gone = size(done[:, :width]) < _NOTHING * size(units)
    return jnp.where(gone[:, None], 0.0, done[:, :width]), done[:, width:]


def turned(chart: AbstractChart) -> AbstractChart:
    """The chart of a factorization with hidden units turned; any other chart as it is."""
    if type(chart) is not EuclideanChart or not isinstance(chart.template, MatrixFactorization):
        return chart
    if len(chart.template.factors) < 2:
        return chart
    factors = chart.template.factors
    concrete = not any(isinstance(W, Tracer) for W in factors)
    begin = apart(factors) if concrete and mixed(factors) else None
    return TurnedChart(chart.template, chart.floor, chart.observed, begin=begin)


def in_columns(chart: AbstractChart, X: Array) -> AbstractChart:
    """A chart that knows whether X is the identity: a product need not be multiplied with it."""
    if not isinstance(chart, EuclideanChart) or not isinstance(chart.template, MatrixFactorization):
        return chart
    if isinstance(X, Tracer) or X.ndim != 2 or X.shape[0] != X.shape[1] or not np.array_equal(X, np.eye(len(X))):
        return chart
    return dataclasses.replace(chart, columns=True)


def turned_if_small(chart: AbstractChart, targets: Array) -> AbstractChart:
    """Turned where there are small units."""
    turned_chart = turned(chart)
    if not isinstance(turned_chart, TurnedChart) or isinstance(jnp.sum(chart.coordinates()) + targets[0], Tracer):
        return chart
    return turned_chart if turned_chart.has_small_units(targets) else chart
