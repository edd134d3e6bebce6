"""The flow of factors that are each other's transposes in reverse order, W_j = W_(N+1-j)^T, where pulls are symmetric.

They stay so, and W keeps the signs of its eigenvalues: from a positive one negative eigenvalues are never learned
(Gunasekar et al. 2017, arXiv 1705.09280, have W = U U^T so). In coordinates of all factors, rounding would tell one
from its transpose; where a pull is negative that grows exponentially, and they would be learned. Here the first half of
the factors are the coordinates, and the symmetric part of the one in the middle. So it is with W = F^T D F of signs D,
and with hidden units in another order (`gflow.mirror`).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .charts import AbstractChart, EuclideanChart
from .losses import AbstractLoss, Square
from .mirror import mirror_of
from .mixed_units import apart, mixed
from .models import MatrixFactorization
from .turned import cut, framed, turn_hidden, turned_if_small, TurnedChart

_ROOT = 2**0.5
_PROBES = 3


class SymmetricChart(TurnedChart):
    """Coordinates (sqrt(2) G_1, ..., sqrt(2) G_h, M, Q_1, ..., Q_h) with h = N // 2, and M where N is odd; W_j and Q_j
    as in `TurnedChart`, and Q_(N-j) = Q_j. With the root the flow of all factors is that of the coordinates. The
    template is mirrored; W_j = K_j (its factor j) K_(j-1)^T with `frames` K."""

    frames: list[Array] | None = None
    # D in the hidden space in the middle.
    signs: Float[Array, " m"] | None = None

    @property
    def _own(self) -> Any:
        """The factors that have coordinates."""
        return self.template.factors[: (len(self.template.factors) + 1) // 2]

    @property
    def _hidden(self) -> int:
        return len(self.template.factors) // 2

    @property
    def _moving_size(self) -> int:
        return sum(W.size for W in self._own)

    def _parts(self, a):
        shapes: list[Any] = [W.shape for W in self._own]
        shapes += [(m, m) for m, _ in shapes[: self._hidden]]
        parts = cut(a, shapes)
        G, Q = [v / _ROOT for v in parts[: self._hidden]], parts[len(self._own) :]
        middle = [(M + M.T) / 2 for M in parts[self._hidden : len(self._own)]]
        upper = [v.T for v in reversed(G)]
        if self.signs is not None:
            upper[0] = upper[0] * self.signs[None]
        # With an even number of factors one hidden space is its own mirror.
        return [*G, *middle, *upper], [*Q, *reversed(Q if middle else Q[:-1])]

    def _joined(self, G, Q):
        h = self._hidden
        moving = [*[_ROOT * v for v in G[:h]], *G[h : len(self._own)]]
        return jnp.concatenate([jnp.ravel(v) for v in (*moving, *Q[:h])])

    def unit_sizes(self, a):
        """Of an odd number of factors: of those in and below the middle, whose squares keep their difference. With an
        even number none ever passes zero."""
        if len(self.template.factors) % 2 == 0:
            return None
        G, _ = self._parts(a)
        below, middle = G[self._hidden - 1], G[self._hidden]
        sizes = jnp.stack([jnp.linalg.norm(below, axis=1), jnp.linalg.norm(middle, axis=1)])
        return sizes[:, None], jnp.arange(len(middle))

    def at(self, a):
        model = super().at(a)
        return model if self.frames is None else self._with(framed(model.factors, self.frames))

    def tidied(self, a, rates):
        G, Q = self._parts(a)
        F, _ = jax.vmap(self._parts)(rates)
        for j in range(self._hidden):
            turn = turn_hidden(j, G, Q, F, self._least, self.signs if j + 1 == self._hidden else None)
            if j + 1 < len(self._own) and j + 1 == self._hidden:
                # The factor in the middle has the same hidden space on both sides.
                G[j + 1], F[j + 1] = turn @ G[j + 1], turn @ F[j + 1]
        still = [jnp.zeros((len(rates), *q.shape)) for q in Q]
        return self._joined(G, Q), jax.vmap(self._joined)(F, still)


class MirroredChart(SymmetricChart):
    """The same coordinates, in hidden spaces that stay as they are: turns cost more than a step of descent."""

    graded: ClassVar[bool] = False

    def coordinates(self):
        return self._start()

    def tidied(self, a, rates):
        return a, rates


def unturned_if_large(chart: AbstractChart, targets: Array) -> AbstractChart:
    """A chart whose hidden spaces are turned only where a unit is so small that rounding has a part in its growth."""
    if not isinstance(chart, SymmetricChart):
        return turned_if_small(chart, targets)
    unknown = isinstance(jnp.sum(targets), Tracer)
    if unknown or chart.begin is not None or chart.has_small_units(targets):
        return chart
    return MirroredChart(chart.template, chart.floor, chart.observed, frames=chart.frames, signs=chart.signs)


def symmetric(chart: AbstractChart, X: Any, targets: Any, loss: AbstractLoss) -> AbstractChart:
    """The chart of mirrored factors where the flow keeps them so; any other chart as it is."""
    if type(chart) is not EuclideanChart or not isinstance(loss, Square):
        return chart
    mirror = mirror_of(chart.template)
    if mirror is None or any(isinstance(v, Tracer) for v in (X, targets)):
        return chart
    if not pulls_are_symmetric(chart, X, targets):
        return chart
    near_saddle = mixed(mirror.factors)
    if near_saddle and len(mirror.factors) > 2:
        return chart
    begin = apart(mirror.factors, mirror.signs) if near_saddle else None
    template = eqx.tree_at(lambda m: m.factors, chart.template, tuple(map(jnp.asarray, mirror.factors)))
    turned = any(not np.array_equal(K, np.eye(len(K))) for K in mirror.frames)
    frames = [jnp.asarray(K) for K in mirror.frames] if turned else None
    signs = jnp.asarray(mirror.signs) if mirror.signed else None
    return SymmetricChart(template, chart.floor, chart.observed, begin=begin, frames=frames, signs=signs)


def pull_of(chart: EuclideanChart, X: Array, targets: Array) -> Callable[[Array], Array]:
    """The gradient of half the squared residuals with respect to W."""

    def pull(W):
        outputs = lambda W: chart._observed(jnp.ravel(jax.vmap(MatrixFactorization([W]))(X)))
        residual, back = jax.vjp(lambda W: outputs(W) - jnp.ravel(targets), W)
        return back(residual)[0]

    return pull


def rounding_of_pulls(X: Array, size: int) -> float:
    """What rounding leaves of the symmetry of gradients, relative to them."""
    return 16 * float(jnp.finfo(float).eps) * (size + len(X) ** 0.5)


def probes(size: int, count: int = _PROBES) -> np.ndarray:
    """Symmetric matrices at which a gradient that is affine in W is looked at: random ones decide it."""
    draws = np.random.default_rng(0).normal(size=(count, size, size))
    return draws + np.swapaxes(draws, 1, 2)


def keeps_symmetry_in_batches(X: Any, batch_size: int) -> bool:
    """Whether the gradient of every batch is symmetric where that of all samples is: if all are in it, or each is of a
    symmetric measurement."""
    return batch_size == len(X) or measures_symmetrically(X)


def measures_symmetrically(X: Any) -> bool:
    """Whether X is known to hold symmetric measurements."""
    return X.ndim == 3 and not isinstance(X, Tracer) and np.array_equal(X, np.swapaxes(X, 1, 2))


def pulls_are_symmetric(chart: EuclideanChart, X: Array, targets: Array) -> bool:
    """Whether the gradient of the loss at a symmetric W is symmetric."""
    pull, size = pull_of(chart, X, targets), chart.template.factors[0].shape[1]
    for probe in probes(size):
        with jax.ensure_compile_time_eval():
            E = np.asarray(pull(jnp.asarray(probe)))
        if np.max(np.abs(E - E.T)) > rounding_of_pulls(X, size) * np.max(np.abs(E)):
            return False
    return True
