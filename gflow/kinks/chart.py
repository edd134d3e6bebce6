"""The flow of a layer with kinks while its pattern of slopes stays as it is: smooth, and in as few numbers as possible.

Samples x_i that are multiples lambda_i of one another share a kink, so kinks belong to unit vectors e_k, and neuron j
has the side s_jk = sign(v_j . e_k), or 0 where it slides along the kink. With c_i = d gamma / d f_i, the samples of a
kink pull with p_k = sum lambda_i c_i phi'(+lambda_i) on the one side and n_k = sum lambda_i c_i phi'(-lambda_i) on the
other. On the pattern,

    v_j' = a_j G_j,  G_j = sum_k h_jk e_k,  a_j' = sum_k h_jk v_j . e_k,  h_jk = p_k, n_k or mu_jk,

where mu_jk, for the kinks that neuron j slides along, is such that v_j . e_k stays zero. Only the part of the weights
in the span of the samples moves: v_j are its coordinates in an orthonormal basis, min(N, d) numbers whatever d is.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.sparse.csgraph import connected_components

from ..charts import AbstractChart, error_of_rows, Velocity
from ..validate import traced
from .layer import HiddenLayer

# Of the norm at the start: below it, steps are no longer measured by the norm.
_SMALL = 1e-8
# Unit vectors that differ by less are one.
_SAME = 1e-14
_EPS = float(np.finfo(float).eps)


class Pattern(eqx.Module):
    """Sides (1, -1, and 0 where the neuron slides), the matrix that gives mu = -holds G for those that slide, and
    whether any does. Sides are floats: the field is then made of products, which are faster than choices."""

    sides: Float[Array, "m k"]
    holds: Float[Array, "m k r"]
    slides: Bool[Array, ""]

    @classmethod
    def of(cls, sides: Array, holds: Array) -> "Pattern":
        sides = sides.astype(float)
        return cls(sides, holds, jnp.any(sides == 0))


class PiecewiseChart(AbstractChart):
    """Coordinates (v, a) on a pattern; made for the data at hand, so that the methods do not look at their `X`."""

    template: Any
    layer: HiddenLayer
    basis: Float[Array, "d r"]
    outside: Float[Array, "m d"]
    inside: Float[Array, "m r"]
    directions: Float[Array, "k r"]
    positive: Float[Array, "k N"]
    negative: Float[Array, "k N"]
    # The matrix `holds` of a neuron that is held at the origin by all kinks.
    held: Float[Array, "k r"]
    samples: Any
    # Whether samples share kinks without it being known when the chart was made.
    shared: Bool[Array, ""]
    floor: Float[Array, ""]
    at_kink: Float[Array, ""]
    pattern: Pattern

    def on(self, pattern: Pattern) -> "PiecewiseChart":
        return eqx.tree_at(lambda c: c.pattern, self, pattern)

    def split(self, a: Array) -> tuple[Float[Array, "m r"], Float[Array, " m"]]:
        v = a[: self.inside.size].reshape(self.inside.shape)
        return v, a[self.inside.size :] if self.layer.train_output else self.layer.output

    def join(self, v: Array, output: Array) -> Array:
        return jnp.append(v.ravel(), output) if self.layer.train_output else v.ravel()

    def coordinates(self):
        return self.join(self.inside, self.layer.output)

    def at(self, a):
        v, output = self.split(a)
        weights = self.outside + v @ self.basis.T
        d = self.layer.hidden.shape[1]
        layer = eqx.tree_at(lambda w: (w.hidden, w.output), self.layer, (weights[:, :d], output))
        if self.layer.bias is not None:
            layer = eqx.tree_at(lambda w: w.bias, layer, weights[:, d])
        return self.template.with_hidden_layer(layer)

    def outputs(self, a, X):
        v, output = self.split(a)
        # Sums over the neurons on the one side and on the other.
        both = self.pattern.sides * (v @ self.directions.T)
        difference, total = output @ both, output @ (self.pattern.sides * both)
        return 0.5 * ((total + difference) @ self.positive + (total - difference) @ self.negative)

    def pulls(self, c: Array) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """p and n: what the samples of each kink pull with on either side."""
        return self.positive @ c, self.negative @ c

    def velocity(self, a, X, c):
        v, output = self.split(a)
        p, n = self.pulls(c)
        h, G, _ = pull_on(self.pattern, self.directions, p, n)
        z = v @ self.directions.T
        w = self.join(output[:, None] * G, jnp.sum(h * z, axis=1))
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(w)))
        direction = w / jnp.where(top > 0, top, 1.0)
        return Velocity(direction, jnp.log(top), top * jnp.sum(direction**2))

    def velocities(self, a, X):
        def one(c):
            v = self.velocity(a, X, c)
            return v.direction * jnp.exp(v.log_speed)

        return jax.vmap(one)(jnp.eye(self.positive.shape[1])), jnp.zeros(())

    def confined(self, d):
        v, output = d[: self.inside.size].reshape(self.inside.shape), d[self.inside.size :]
        return jnp.append(v - jnp.einsum("jkr,jr->jk", self.pattern.holds, v) @ self.directions, output)

    def balanced(self, a: Array) -> Array:
        """`a` with |w_j|^2 - a_j^2 as at the start, which the flow keeps where both layers are trained: the nearest
        point, to first order, and on the same side of every kink."""
        if not self.layer.train_output:
            return a
        (v, output), begin = self.split(a), self.layer.output
        missing = jnp.sum(self.inside**2, axis=1) - begin**2 - (jnp.sum(v**2, axis=1) - output**2)
        size = 2.0 * (jnp.sum(v**2, axis=1) + output**2)
        share = missing / jnp.where(size > 0, size, 1.0)
        # More than an error of a step is missing where a neuron is known no better.
        share = jnp.where(jnp.abs(share) < 1e-3, share, 0.0)
        return self.join(v * (1.0 + share)[:, None], output * (1.0 - share))

    def length(self, a):
        return jnp.sqrt(jnp.mean(a**2) + self.floor**2)

    def error(self, e, a0, a1):
        # Relative to each layer, so that a small one keeps its digits beside a large one; and to each neuron that is
        # yet to be learned.
        def ratio(part):
            size = jnp.maximum(jnp.mean(part(a0) ** 2), jnp.mean(part(a1) ** 2))
            return jnp.mean(part(e) ** 2) / jnp.where(size > 0, size, jnp.finfo(e.dtype).tiny)

        k = self.inside.size
        layers = [lambda u: u[:k], lambda u: u[k:]] if self.layer.train_output else [lambda u: u]
        v = lambda u: self.split(u)[0]
        small = error_of_rows(v(e), v(a0), v(a1), self.inside)
        return jnp.maximum(jnp.sqrt(jnp.max(jnp.stack([ratio(part) for part in layers]))), small)

    def readout(self, a):
        return None


def pull_on(pattern: Pattern, E: Array, p: Array, n: Array) -> tuple[Array, Array, Array]:
    """h (0 where a neuron slides), G, and mu of every neuron."""
    h = 0.5 * pattern.sides * (pattern.sides * (p + n)[None] + (p - n)[None])
    G = h @ E

    def held():
        mu = -jnp.einsum("jkr,jr->jk", pattern.holds, G)
        # As many kinks as dimensions hold a neuron at the origin, exactly.
        rests = jnp.sum(pattern.sides == 0, axis=1, keepdims=True) >= E.shape[1]
        return jnp.where(rests, 0.0, G + mu @ E), mu

    G, mu = jax.lax.cond(pattern.slides, held, lambda: (G, jnp.zeros_like(h)))
    return h, G, mu


def piecewise_chart(model: Any, X: Array, y: Array, loss: Any, at_kink: Array) -> PiecewiseChart:
    layer: HiddenLayer = model.hidden_layer()
    m, N = layer.hidden.shape[0], X.shape[0]
    inputs, weights = X, layer.hidden
    if layer.bias is not None:
        inputs = jnp.append(X, jnp.ones((N, 1)), axis=1)
        weights = jnp.append(weights, layer.bias[:, None], axis=1)
    first, owner = (np.arange(N), np.arange(N)) if traced(inputs) else _parallel(np.asarray(inputs))
    # Inside of a transformation what is known becomes unknown by an index.
    known = None if traced(inputs) else np.asarray(inputs)[first]
    groups = None if known is None else _orthogonal_groups(known)
    basis = _span(inputs if known is None else known) if groups is None else jnp.asarray(groups[0])
    inside = weights @ basis
    size = jnp.linalg.norm(inputs[first], axis=1, keepdims=True)
    directions = (inputs[first] @ basis) / jnp.where(size > 0, size, 1.0)
    if groups is not None:
        directions = jnp.where(groups[1], 0.0, directions)
    multiple = jnp.sum(directions[owner] * (inputs @ basis), axis=1)
    member = jnp.asarray(owner[None] == np.arange(first.size)[:, None])
    share = lambda up: jnp.where(member, jnp.where(up, multiple, layer.slope * multiple)[None], 0.0)
    shape = (m, first.size)
    chart = PiecewiseChart(
        template=model,
        layer=layer,
        basis=basis,
        outside=weights - inside @ basis.T,
        inside=inside,
        directions=directions,
        positive=share(multiple > 0),
        negative=share(multiple < 0),
        held=jnp.linalg.pinv(directions.T),
        samples=jnp.asarray(first),
        shared=_share_kinks(directions, size) if traced(inputs) else jnp.asarray(False),
        floor=jnp.zeros(()),
        at_kink=at_kink,
        pattern=Pattern.of(jnp.sign(inside @ directions.T), jnp.zeros((*shape, inside.shape[1]))),
    )
    # From exactly zero, a unit of arc length is what would change gamma by one; a start elsewhere may come to zero, in
    # a finite time.
    upper = chart.on(Pattern.of(jnp.ones(shape), chart.pattern.holds))
    a = chart.coordinates()
    v = upper.velocity(a, X, loss.weights(upper.outputs(a, X), y))
    speed = jnp.exp(v.log_speed) * jnp.sqrt(jnp.sum(v.direction**2))
    floor = 1.0 / (jnp.where(speed > 0, speed, 1.0) * np.sqrt(a.size))
    return eqx.tree_at(lambda c: c.floor, chart, jnp.where(jnp.any(a != 0), _SMALL * jnp.sqrt(jnp.mean(a**2)), floor))


def _span(rows: Array | np.ndarray) -> Array:
    """An orthonormal basis of the span of the rows, shape (d, r): the axes where it is all."""
    k, d = rows.shape
    if not traced(rows):
        _, sizes, axes = np.linalg.svd(np.asarray(rows), full_matrices=False)
        rank = int(np.sum(sizes > sizes[:1] * max(k, d) * np.finfo(float).eps))
        if 0 < rank < min(k, d):
            return jnp.asarray(axes[:rank].T)
    return jnp.eye(d) if d <= k else jnp.linalg.qr(rows.T)[0]


def _orthogonal_groups(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A basis of the span of rows some of which are orthogonal but for rounding, and which coordinates of which rows
    are zero in it; None where there are no such rows.

    A neuron rests, with mu at a bound, on the kink of a sample that is orthogonal to all that drives it: what rounding
    leaves of their product would decide anew, and for ever, whether it does. So groups of rows that are orthogonal to
    one another have axes of their own, and of a group those come first that are so among themselves. None, too, where
    that would change the rows by more than rounding.
    """
    size = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(size > 0, size, 1.0)[:, None]
    gram, small = np.abs(unit @ unit.T), 4 * _EPS * np.sqrt(rows.shape[1])
    if not np.any((gram > 0) & (gram <= small)):
        return None
    count, group = connected_components(gram > small, directed=False)
    every = [_axes(unit[group == g], small) for g in range(count)]
    basis, triangle = np.linalg.qr(np.concatenate(every).T)
    basis = basis * np.sign(np.diag(triangle))
    owner = np.repeat(np.arange(count), [len(axes) for axes in every])
    zero = (group[:, None] != owner[None]) | (np.abs(unit @ basis) <= small)
    # An axis that nearly parallel rows leave open by more than rounding may lean towards the rows of another group.
    missed = np.where(zero, 0.0, unit @ basis) @ basis.T - unit
    return (basis, zero) if np.max(np.abs(missed)) <= 4 * small else None


def _axes(unit: np.ndarray, small: float) -> np.ndarray:
    """An orthonormal basis of the span of unit vectors (rows), by Gram-Schmidt in rounds, each of which takes as many
    as are orthogonal to one another."""
    axes, left = np.zeros((0, unit.shape[1])), unit
    while True:
        norms = np.linalg.norm(left, axis=1)
        if not np.max(norms, initial=0.0) > max(unit.shape) * _EPS or len(axes) == unit.shape[1]:
            return axes
        chosen: list[int] = []
        for i in np.argsort(-norms, kind="stable"):
            if norms[i] > 0.1 * np.max(norms) and np.all(np.abs(left[chosen] @ left[i]) <= small * norms[i]):
                chosen.append(i)
        new = np.linalg.qr((left[chosen] / norms[chosen, None]).T)[0].T
        axes = np.concatenate([axes, new])
        # Twice: what rounding leaves of the projection is large beside a small remainder.
        for _ in range(2):
            left = left - (left @ axes.T) @ axes
        left[chosen] = 0.0


def shares_kinks(model: Any, X: Any) -> bool:
    """Whether samples are zero or parallel to each other, with which a model that declares its kinks has fewer kinks
    than samples."""
    inputs = np.asarray(X)
    if model.hidden_layer().bias is not None:
        inputs = np.append(inputs, np.ones((len(inputs), 1)), axis=1)
    return len(_parallel(inputs)[0]) < len(inputs)


def _share_kinks(unit: Array, size: Array) -> Array:
    """Whether some samples are zero or multiples of one another."""
    toward = jnp.where(unit @ unit.T < 0, -1.0, 1.0)
    apart = jnp.linalg.norm(unit[:, None] - toward[..., None] * unit[None], axis=2)
    return jnp.any((apart < _SAME) & ~jnp.eye(len(unit), dtype=bool)) | jnp.any(size == 0)


def _parallel(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first sample of every kink, and the kink of every sample: parallel samples share one."""
    size = np.linalg.norm(inputs, axis=1)
    unit = inputs / np.where(size > 0, size, 1.0)[:, None]
    # A sample at the origin has no kink and may go with any.
    first, owner = [], np.zeros(len(inputs), int)
    for i in np.flatnonzero(size > 0):
        cosines = unit[first] @ unit[i]
        near = np.flatnonzero(np.abs(cosines) > 1 - 1e-9)
        same = [k for k in near if np.linalg.norm(np.sign(cosines[k]) * unit[i] - unit[first[k]]) < _SAME]
        if not same:
            same = [len(first)]
            first.append(i)
        owner[i] = same[0]
    return np.array(first or [0]), owner
