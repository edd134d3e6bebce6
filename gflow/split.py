"""The flow of two factors whose hidden units have parts that the flow keeps apart.

With z_i the vector of hidden unit i, row i of W_1 and column i of W_2, and E the gradient with respect to W,
z_i' = H z_i where H = [[0, -E^T], [-E, 0]]. A space that every H leaves invariant, whatever the residuals, holds a part
of each unit that evolves by itself, and nothing that is observed depends on how hidden units of one part are turned
against those of another. Of symmetric measurements these are sum and difference of W_1 and W_2^T; of entries in blocks
that share neither a row nor a column, those of each block. What has been learned in one part would take the digits of
what is yet to be learned in another, if hidden units were turned as a whole (see `gflow.turned`): here the hidden space
of each part is turned by itself.

The spaces are found from random H: those of a generic element of their algebra, joined where some H connects them.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Bool, Float

from .charts import AbstractChart, EuclideanChart
from .losses import AbstractLoss, Square
from .mirror import mirror_of
from .mixed_units import apart, mixed
from .models import MatrixFactorization
from .symmetric import (
    measures_symmetrically,
    probes,
    pull_of,
    pulls_are_symmetric,
    symmetric,
    unturned_if_large,
)
from .turned import cut, turn_hidden, turned, TurnedChart

# Below, relative to H, the search for spaces sees no connection; whether there is one is asked of what it finds.
_NONE = 1e-10
# Random H that the search is made of, and those that are asked: what is generic shows in any.
_MOST_PULLS, _TRIED = 64, 4
# What rounding of data leaves between two spaces.
_ROUNDING = 1e-13
# Beside what is learned.
_FAINT = 1e-8


class SplitChart(TurnedChart):
    """Coordinates (Y_1, ..., Y_K, Q_1, ..., Q_K): row i of Q_k Y_k is the part of unit i in space k, in its basis."""

    # Of each space, (n + m, b_k): columns that are orthogonal to each other, and 1 / their norms.
    columns_of: tuple[Float[Array, "z b"], ...] = ()
    scale_of: tuple[Float[Array, " b"], ...] = ()
    # Whether the spaces are invariant to the last bit, and not but for rounding of the data.
    exact: bool = eqx.field(static=True, default=True)

    @property
    def _bases(self) -> list[Array]:
        return [C * s[None] for C, s in zip(self.columns_of, self.scale_of, strict=True)]

    @property
    def _units(self) -> int:
        return self.template.factors[0].shape[0]

    @property
    def _labels(self) -> Array:
        return jnp.repeat(jnp.arange(len(self.columns_of), dtype=float), self._units)

    def _pieces(self, a: Array) -> tuple[list, list]:
        h = self._units
        shapes = [(h, C.shape[1]) for C in self.columns_of] + [(h, h)] * len(self.columns_of)
        parts = cut(a, shapes)
        return parts[: len(self.columns_of)], parts[len(self.columns_of) :]

    def _parts(self, a):
        # A hidden unit for every part of one.
        Y, Q = self._pieces(a)
        rows = jnp.concatenate([y @ B.T for y, B in zip(Y, self._bases, strict=True)])
        n = self.template.factors[0].shape[1]
        return [rows[:, :n], rows[:, n:].T], [block_diag(*Q)]

    def _joined(self, G, Q):
        h, rows = self._units, jnp.concatenate([G[0], G[1].T], axis=1)
        of = lambda k: slice(k * h, (k + 1) * h)
        Y = [rows[of(k)] @ B for k, B in enumerate(self._bases)]
        return jnp.concatenate([jnp.ravel(v) for v in (*Y, *(Q[0][of(k), of(k)] for k in range(len(Y))))])

    def _start(self):
        W1, W2 = self.template.factors
        if self.begin is None:
            # Sums and differences first: those of numbers near each other are exact.
            Z, frame = jnp.concatenate([W1, W2.T], axis=1), jnp.eye(self._units)
            Y = [(Z @ C) * s[None] for C, s in zip(self.columns_of, self.scale_of, strict=True)]
            Q = [frame] * len(Y)
        else:
            Y, Q = self.begin
        return jnp.concatenate([jnp.ravel(v) for v in (*Y, *Q)])

    def has_faint_parts(self, targets: Array) -> Bool[Array, ""]:
        """Whether a part of a unit is so small, and not zero, that rounding of the data is as large beside it."""
        G, _ = self._parts(self.coordinates())
        size = jnp.maximum(jnp.max(jnp.abs(G[0]), axis=1), jnp.max(jnp.abs(G[1]), axis=0))
        return jnp.any((size > 0) & (size < _FAINT * jnp.sqrt(jnp.max(jnp.abs(targets)))))

    def at(self, a):
        Y, Q = self._pieces(a)
        n = self.template.factors[0].shape[1]
        Z = jnp.concatenate([q @ y for q, y in zip(Q, Y, strict=True)], axis=1) @ jnp.concatenate(self._bases, axis=1).T
        return self._with((Z[:, :n], Z[:, n:].T))

    def tidied(self, a, rates):
        G, Q = self._parts(a)
        F, still = jax.vmap(self._parts)(rates)
        turn_hidden(0, G, Q, F, self._least, self._labels)
        return self._joined(G, Q), jax.vmap(self._joined)(F, still)


def split(chart: AbstractChart, X: Any, targets: Any, loss: AbstractLoss, whole: bool, balances: bool) -> AbstractChart:
    """The chart of two factors in parts, where there are several; any other chart as it is. `whole`: whether the pulls
    are of all samples, or of a batch that is as symmetric; `balances`: whether what is followed keeps
    W_1 W_1^T - W_2^T W_2, as the flow itself does."""
    if type(chart) is not EuclideanChart or not isinstance(loss, Square):
        return chart
    model = chart.template
    if not isinstance(model, MatrixFactorization) or len(model.factors) != 2:
        return chart
    if any(isinstance(v, Tracer) for v in (X, chart.observed)):
        return chart
    mirrored = mirror_of(model) is not None
    stays = whole and (mirrored or (balances and multiples_of_identity(model)))
    stays = stays and not isinstance(targets, Tracer) and pulls_are_symmetric(chart, X, targets)
    # Where W stays symmetric only pulls there are met. Of two mirrored parts see `gflow.symmetric`.
    pulls = _symmetric_pulls(chart, X, targets) if stays else _any_pulls(chart, X)
    spaces = invariant_spaces(pulls)
    if len(spaces) < 2 or (stays and mirrored and len(spaces) == 2):
        return chart
    columns, scales = zip(*map(_as_columns, spaces), strict=True)
    coupling = _coupling(pulls, columns)
    exact = coupling == 0 and all(np.array_equal(C, np.round(C)) for C in columns)
    unknown = any(isinstance(v, Tracer) for v in (targets, *model.factors))
    if not exact and (coupling > _ROUNDING or unknown):
        return chart
    begin = None
    if not any(isinstance(W, Tracer) for W in model.factors):
        begin = _begin([np.asarray(W) for W in model.factors], columns, scales)
    columns, scales = (tuple(map(jnp.asarray, v)) for v in (columns, scales))
    parts = SplitChart(
        model, chart.floor, chart.observed, begin=begin, columns_of=columns, scale_of=scales, exact=exact
    )
    # Parts that the data keep apart but for their rounding are followed only to be told of (see `gflow.invariance`).
    return parts if exact or bool(parts.has_faint_parts(targets)) else chart


def in_hidden_units(chart: AbstractChart, X: Any, targets: Any, loss: AbstractLoss, balances: bool) -> AbstractChart:
    """The chart of a factorization that keeps the digits of its hidden units; any other chart as it is."""
    return turned(symmetric(split(chart, X, targets, loss, True, balances), X, targets, loss))


def for_steps(chart: AbstractChart, X: Any, targets: Any, loss: AbstractLoss, whole: bool) -> AbstractChart:
    """The chart in which descent takes its steps: turns cost more than a step, and are taken where rounding would have
    a part in what grows."""
    parts = split(chart, X, targets, loss, whole, balances=False)
    unknown = isinstance(jnp.sum(chart.coordinates()) + targets[0], Tracer)
    if isinstance(parts, SplitChart) and (unknown or parts.has_small_units(targets)):
        return parts
    return unturned_if_large(symmetric(chart, X, targets, loss) if whole else chart, targets)


def multiples_of_identity(model: MatrixFactorization) -> bool:
    """Whether all factors are. Of two the flow keeps W symmetric where pulls at symmetric W are."""
    same = lambda W: W.shape[0] == W.shape[1] and np.array_equal(W, W[0, 0] * np.eye(len(W)))
    return not any(isinstance(W, Tracer) for W in model.factors) and all(map(same, model.factors))


def _any_pulls(chart: EuclideanChart, X: Array) -> Float[np.ndarray, "K m n"]:
    """Gradients with respect to W of random residuals."""
    W1, W2 = chart.template.factors
    n, m = W1.shape[1], W2.shape[0]
    outputs = lambda W: chart._observed(jnp.ravel(jax.vmap(MatrixFactorization([W]))(X)))
    with jax.ensure_compile_time_eval():
        found, back = jax.vjp(outputs, jnp.zeros((m, n)))
        draws = np.random.default_rng(1).normal(size=(min(n + m, _MOST_PULLS), found.size))
        pulls = np.asarray(jax.vmap(lambda c: back(c)[0])(jnp.asarray(draws)))
    # Sums of symmetric measurements are symmetric but for the order in which they were rounded.
    return _symmetric_part(pulls) if measures_symmetrically(X) else pulls


def _symmetric_pulls(chart: EuclideanChart, X: Array, targets: Array) -> Float[np.ndarray, "K n n"]:
    """Gradients with respect to W at random symmetric W."""
    pull, size = pull_of(chart, X, targets), chart.template.factors[0].shape[1]
    with jax.ensure_compile_time_eval():
        return _symmetric_part(np.asarray(jax.vmap(pull)(jnp.asarray(probes(size, min(2 * size, _MOST_PULLS))))))


def _symmetric_part(E: np.ndarray) -> np.ndarray:
    return (E + np.swapaxes(E, 1, 2)) / 2


def invariant_spaces(pulls: Float[np.ndarray, "K m n"]) -> list[np.ndarray]:
    """Orthonormal bases of the spaces of hidden units' vectors, (n + m, b), that the H of random gradients leave
    invariant, but for connections below `_NONE`; directions that none moves are one space."""
    from scipy.sparse.csgraph import connected_components

    _, m, n = pulls.shape
    size = max(float(np.linalg.norm(E, 2)) for E in pulls)
    if not 0 < size < np.inf:
        return [np.eye(n + m)]
    pulls = pulls / size
    # A generic element of the algebra of all H, since of one H eigenvalues of zero may be shared by several spaces: one
    # H, and squares of many. What it does not join, any two H do.
    weights = np.random.default_rng(2).uniform(1.0, 2.0, size=len(pulls)) / len(pulls)
    generic = _acting(pulls[:1])[0]
    generic[:n, :n] += np.einsum("k,kij,kil->jl", weights, pulls, pulls, optimize=True)
    generic[n:, n:] += np.einsum("k,kij,klj->il", weights, pulls, pulls, optimize=True)
    _, V = np.linalg.eigh(generic)
    links = np.max(np.abs(V.T @ _acting(pulls[:_TRIED]) @ V), axis=0) > _NONE * len(V)
    still = ~np.any(links, axis=1)
    links[np.ix_(still, still)] = True
    spaces, label = connected_components(links, directed=False)
    return [V[:, label == k] for k in range(spaces)]


def _acting(pulls: Float[np.ndarray, "K m n"]) -> Float[np.ndarray, "K z z"]:
    """H of each, but for its sign."""
    count, m, n = pulls.shape
    H = np.zeros((count, n + m, n + m))
    H[:, n:, :n], H[:, :n, n:] = pulls, np.swapaxes(pulls, 1, 2)
    return H


def _coupling(pulls: Float[np.ndarray, "K m n"], columns: Any) -> float:
    """The largest entry of some H between two spaces, relative to the largest of all. Where columns hold whole numbers
    it is exactly zero if nothing couples them."""
    C, label = np.concatenate(columns, axis=1), np.repeat(np.arange(len(columns)), [c.shape[1] for c in columns])
    between = C.T @ _acting(pulls[:_TRIED]) @ C
    return float(np.max(np.abs(between) * (label[:, None] != label[None])) / np.max(np.abs(pulls)))


def _as_columns(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A basis of the same space whose entries are whole numbers, if it has one, and 1 / the norms of its columns."""
    projector = basis @ basis.T
    twice = np.round(2 * projector)
    if np.max(np.abs(twice - 2 * projector)) < _NONE:
        columns = []
        for v in twice.T:
            if np.any(v) and not any(np.any((v != 0) & (w != 0)) for w in columns):
                columns.append(v / np.max(np.abs(v)))
        if len(columns) == basis.shape[1]:
            C = np.stack(columns, axis=1)
            return C, 1.0 / np.sqrt(np.sum(C**2, axis=0))
    return basis, np.ones(basis.shape[1])


def _begin(factors: list[np.ndarray], columns: Any, scales: Any) -> tuple[tuple, tuple] | None:
    """(Y, Q) of a start that has to be found with more digits."""
    from mpmath import mp, mpf, sqrt

    W1, W2 = factors
    Z, none = np.concatenate([W1, W2.T], axis=1), np.zeros((0, len(W1)))
    if not any(mixed([(Z @ C) * s, none]) for C, s in zip(columns, scales, strict=True)):
        return None
    exactly = np.vectorize(mpf, otypes=[object])
    Y, Q = [], []
    for C in columns:
        with mp.workdps(700):
            norms = np.array([1 / sqrt(sum(mpf(c) ** 2 for c in column)) for column in C.T], object)
            part = (exactly(Z) @ exactly(C)) * norms
        (y, _), (q,) = apart([part, none])
        Y.append(y)
        Q.append(q)
    return tuple(Y), tuple(Q)
