"""Rows of tied samples, told apart.

Far out the margins of samples that carry weight agree to a part 1 / gamma, and where samples share their values in the
dominant coordinates (usual on +-1 data, always for duplicates) what tells them apart is far below the rounding of a
margin. Elimination among these samples, largest coordinates first, combines the rows m + W = gamma into ones that hold
the dominant coordinates no longer: T X has exact zeros there, and what is left is computed to its own accuracy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import DualRows

# Below, margins in float64 tell all samples apart.
_FAR = 1e6
_TINY = 8 * float(jnp.finfo(jnp.float64).eps)


class Reduction(NamedTuple):
    """T, T diag(y) X, and the sums of the rows of T, for the rows of one step."""

    T: Float[Array, "N N"]
    X: Float[Array, "N d"]
    share: Float[Array, " N"]

    def rows(self, chart: Any, a: Array, J: Array, rows: DualRows, gamma: Array, scale: Array):
        """The rows of the loss combined, each in its own unit."""
        size = jnp.maximum(1.0, jnp.abs(self.X) @ jnp.abs(chart.readout(a)))
        # For rows that stay as they are the unit is gamma, and the derivative in the outputs may differ from one.
        alone = jnp.sum(self.T != 0, axis=1) == 1
        size = jnp.where(alone, scale, size)
        by_output = jnp.where(alone, rows.by_output * scale, 1.0)[:, None]
        margin = jnp.where(alone, rows.margin, chart.outputs(a, self.X))
        top = by_output * jnp.where(alone[:, None], J, chart.jacobian(a, self.X))
        by_dual = self.T * (rows.by_dual * scale)[None]
        miss = self.T @ rows.apart + margin - self.share * gamma
        return top / size[:, None], miss / size, by_dual / size[:, None], -self.share * scale / size


def reduce_rows(X: Array, y: Array, importance: Array, weights: Array, gamma: Array) -> Reduction:
    """Eliminate among the samples whose margins agree to a part in a million, coordinates of largest `importance` first
    and by the samples of largest weight."""
    signed = X * y[:, None]
    N, d = X.shape
    active = (weights > -jnp.maximum(60.0, 1e-6 * gamma)) & (gamma > _FAR)
    size = jnp.max(jnp.abs(signed), axis=1)

    def scores(Z, open_):
        return importance * jnp.max(jnp.where(open_[:, None], jnp.abs(Z), 0.0), axis=0)

    def unfinished(carry):
        rows, open_, _ = carry
        return jnp.any(open_) & (jnp.max(scores(rows[:, :d], open_)) > 0)

    def body(carry):
        rows, open_, k = carry
        column = jnp.argmax(scores(rows[:, :d], open_))
        entries = jnp.where(open_, rows[:, column], 0.0)
        usable = open_ & (jnp.abs(entries) > 1e-3 * size)
        usable = jnp.where(jnp.any(usable), usable, open_ & (entries != 0))
        pivot = jnp.argmax(jnp.where(usable, weights, -jnp.inf))
        others = open_ & (jnp.arange(N) != pivot)
        c = jnp.where(others, entries / entries[pivot], 0.0)[:, None]
        taken = c * rows[pivot][None]
        less = rows - taken
        # gamma times what rounding leaves of a zero would tell samples apart.
        less = jnp.where(jnp.abs(less) <= _TINY * (jnp.abs(rows) + jnp.abs(taken)), 0.0, less)
        return jnp.where(c != 0, less.at[:, column].set(0.0), rows), others, k + 1

    start = (jnp.concatenate([signed, jnp.eye(N), jnp.ones((N, 1))], axis=1), active, jnp.asarray(0))
    rows, _, _ = jax.lax.while_loop(unfinished, body, start)
    return Reduction(rows[:, d:-1], rows[:, :d], rows[:, -1])
