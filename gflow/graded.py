"""The flow of a matrix factorization between saddles, in coordinates that keep the digits of what is small.

From small random factors the singular values of W = W_N ... W_1 are learned one after another (N > 2: at times that
differ by powers of the scale), and while the first is there and the second is not, the factors hold numbers of size 1
and of size 1e-15 or 1e-30 in the same entries, which float64 cannot. Here they are apart:

- With W = U P V^T, T = U S V^T the singular value decomposition of the target, the loss is c^2 ||P - S||^2 / 2.
- Hidden spaces are turned by orthogonal Q_j, W_1 = Q_1 G_1 V^T, W_j = Q_j G_j Q_(j-1)^T, W_N = U G_N Q_(N-1)^T, such
  that G_1, ..., G_(N-1) are triangular: a column for every singular value, each with digits of its own. After every
  step the Q_j are turned on, by QR decompositions of matrices that are nearly triangular, and whose columns' sizes
  fall; they keep the digits of each column (Cox & Higham 1998, doi 10.1007/978-3-642-18613-4).
- The residual R = P - S is carried as a coordinate, R' = -K R with K the tangent kernel. Read off P it would be
  rounding where a singular value has been learned, of 1e-16 where what moves the flow is 1e-30.
"""

import functools
import itertools
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .aligned import AlignedChart, runs_of_multiples
from .charts import AbstractChart, Velocity
from .flow import Flow
from .lapack import orthogonal
from .losses import AbstractLoss, Square
from .mirror import mirror_of
from .mixed_units import mixed
from .models import MatrixFactorization
from .turned import error_of_units

_EPS = float(jnp.finfo(jnp.float64).eps)
# Rounding of those pulls over what they leave: to 100 the steps of LogRadau get through.
_MOST_ROUNDING = 100.0
# What is smaller, beside the largest, is followed no further: its square would leave float64.
_LEAST = 1e-140


def _product(factors: tuple) -> Array:
    return functools.reduce(lambda below, above: above @ below, factors)


def _places(W: Array) -> Array:
    """The singular values in the order of the units: whichever has grown most comes first."""
    return jnp.argsort(-jnp.sum(W**2, axis=0))


def _without_least(v: Array, axis: Any) -> Array:
    """Zeros for entries, or rows or columns, that are nothing beside the others."""
    size = jnp.max(jnp.abs(v), axis=axis, keepdims=True)
    return jnp.where(size < _LEAST * jnp.max(size), 0.0, v)


class GradedChart(AbstractChart):
    """Coordinates (G_1, ..., G_N, Q_1, ..., Q_(N-1), R)."""

    template: MatrixFactorization
    # U, V and S
    left: Float[Array, "m m"]
    right: Float[Array, "n n"]
    target: Float[Array, "m n"]
    # X is this multiple of an orthogonal matrix: outputs are the residual times it.
    gain: Float[Array, ""]
    graded: ClassVar[bool] = True

    @property
    def _shapes(self) -> list[Any]:
        factors = [W.shape for W in self.template.factors]
        return [*factors, *[(m, m) for m, _ in factors[:-1]], self.target.shape]

    def _split(self, a: Array) -> tuple[tuple, tuple, Array]:
        parts, start = [], 0
        for m, n in self._shapes:
            parts.append(a[start : start + m * n].reshape(m, n))
            start += m * n
        depth = len(self.template.factors)
        return tuple(parts[:depth]), tuple(parts[depth:-1]), parts[-1]

    def factors(self, a: Array) -> tuple:
        """G_1, ..., G_N."""
        return self._split(a)[0]

    def _joined(self, G: tuple, Q: tuple, R: Array) -> Array:
        return jnp.concatenate([jnp.ravel(v) for v in (*G, *Q, R)])

    def coordinates(self):
        W = list(self.template.factors)
        W[0], W[-1] = W[0] @ self.right, self.left.T @ W[-1]
        Q = tuple(jnp.eye(G.shape[0]) for G in W[:-1])
        a = self._joined(tuple(W), Q, _product(tuple(W)) - self.target)
        return self.tidied(a, a[None])[0]

    def at(self, a):
        G, Q, _ = self._split(a)
        frames = [self.right, *Q, self.left]
        factors = [after @ W @ before.T for W, before, after in zip(G, frames, frames[1:], strict=False)]
        return eqx.tree_at(lambda m: m.factors, self.template, tuple(factors))

    def outputs(self, a, X):
        return self.gain * jnp.ravel(self._split(a)[2])

    def velocity(self, a, X, c):
        G, Q, R = self._split(a)
        _, pull = jax.vjp(_product, G)
        (v,) = pull(self.gain * c.reshape(R.shape))
        top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, [jnp.max(jnp.abs(w)) for w in v]))
        v = tuple(w / top for w in v)
        _, push = jax.jvp(_product, (G,), (v,))
        slope = top * sum(jnp.sum(w**2) for w in v)
        still = tuple(jnp.zeros_like(q) for q in Q)
        return Velocity(self._joined(v, still, push), jnp.log(top), slope)

    def velocities(self, a, X):
        def one(c):
            G, Q, R = self._split(a)
            _, pull = jax.vjp(_product, G)
            (v,) = pull(self.gain * c.reshape(R.shape))
            _, push = jax.jvp(_product, (G,), (v,))
            return self._joined(v, tuple(jnp.zeros_like(q) for q in Q), push)

        return jax.vmap(one)(jnp.eye(self.target.size)), jnp.zeros(())

    def jacobian(self, a, X):
        count = self.target.size
        return jnp.zeros((count, a.size)).at[:, a.size - count :].set(self.gain * jnp.eye(count))

    def _moving(self, a: Array) -> Array:
        return jnp.concatenate([jnp.ravel(W) for W in self._split(a)[0]])

    def unit_sizes(self, a):
        """For every cut between two factors and every singular value, of what is below and what is above: the entries
        of its own unit, without what others lend it while they are learned; and which unit that is."""
        G = self.factors(a)
        k = jnp.arange(min(self.target.shape))
        unit = jnp.argsort(_places(G[0]))[k]

        def own(rows, columns, W):
            return jnp.abs(W.at[rows, columns].get(mode="fill", fill_value=0.0))

        below = itertools.accumulate(G[:-1], lambda inner, outer: outer @ inner)
        above = itertools.accumulate(G[:0:-1], lambda outer, inner: outer @ inner)
        below, above = [own(unit, k, W) for W in below], [own(k, unit, W) for W in above]
        return jnp.stack([jnp.stack(below), jnp.stack(above[::-1])]), unit

    def length(self, a):
        return jnp.sqrt(jnp.sum(self._moving(a) ** 2) / a.size)

    def extent(self, a):
        G, _, R = self._split(a)
        sizes = jnp.concatenate([jnp.ravel(jnp.abs(v)) for v in (*G, R)])
        return jnp.min(jnp.where(sizes > 0, sizes, jnp.inf))

    def error(self, e, a0, a1):
        return error_of_units(*map(self.factors, (e, a0, a1)), ends=True)

    def tidied(self, a, rates):
        """The same factors, with hidden spaces turned so that G_1, ..., G_(N-1) are triangular."""
        G, Q, R = self._split(a)
        G, Q = list(G), list(Q)
        F, still, residual = jax.vmap(self._split)(rates)
        F = list(F)
        order = _places(G[0])
        for j in range(len(Q)):
            columns = order if j == 0 else slice(None)
            turn, upper = orthogonal(jax.lax.stop_gradient(G[j][:, columns]))
            # Householder's reflections change signs: without them a turn by little is near the identity.
            sign = jnp.where(jnp.diagonal(turn) < 0, -1.0, 1.0)
            turn = turn * sign[None]
            # Its derivative is that of a constant turn; its zeros are exact.
            turned = turn.T @ G[j]
            upper = jnp.zeros_like(G[j]).at[:, columns].set(upper * sign[:, None])
            G[j] = upper + (turned - jax.lax.stop_gradient(turned))
            Q[j], G[j + 1] = Q[j] @ turn, G[j + 1] @ turn
            F[j], F[j + 1] = turn.T @ F[j], F[j + 1] @ turn
        return self._joined(*self._agreeing(G, R, tuple(Q))), jax.vmap(self._joined)(tuple(F), still, residual)

    def _agreeing(self, G: list, R: Array, Q: tuple) -> tuple[tuple, tuple, Array]:
        """Factors and residual without what their errors add up to: small residuals are right, small products too."""
        P = _product(tuple(G))
        learned = jnp.abs(R) < 0.5 * self.target
        ratio = jnp.where(learned, (self.target + R) / jnp.where(learned, P, 1.0), 1.0)
        G[-1] = G[-1] * jnp.prod(ratio, axis=1)[:, None]
        P = _product(tuple(G))
        # Of a product that cancels to rounding it is the residual that has digits.
        cancels = (self.target == 0) & (jnp.abs(P) <= 8 * _EPS * _product(tuple(map(jnp.abs, G))))
        R = jnp.where(learned | cancels, R, P - self.target)
        G[0], G[-1] = _without_least(G[0], axis=0), _without_least(G[-1], axis=1)
        return tuple(G), Q, _without_least(R, axis=())

    def readout(self, a):
        return None


class GradedFlow(Flow):
    """Residuals as outputs, with targets of zero. `size` is the norm of the target."""

    chart: GradedChart | AlignedChart  # pyright: ignore[reportIncompatibleVariableOverride]
    size: Float[Array, ""]

    def all_rounding(self, sight):
        # The residual has digits of its own, to any size. The factors do not.
        return sight.output_scale[0] * math.sqrt(self.y.size) <= 2 * _EPS * self.size

    def at_floor(self, outputs):
        return jnp.linalg.norm(outputs) <= 1e-12 * self.size

    def outlasts_float64(self, a, log_time):
        # What has been learned relaxes at a rate of the size of the tangent kernel. Over a time t its pulls cancel to
        # 1 / (rate t) of themselves, and what they leave is rounding.
        sizes = jnp.stack([jnp.linalg.norm(G) for G in self.chart.factors(a)])
        rate = jnp.sum((jnp.prod(sizes) / sizes) ** 2)
        return log_time + jnp.log(rate * _EPS) > math.log(_MOST_ROUNDING)


def _keeps_signs(model: MatrixFactorization, target: np.ndarray) -> bool:
    """Whether the flow keeps signs of eigenvalues that the target has otherwise."""
    mirror = mirror_of(model)
    if mirror is None:
        return False
    if mirror.signs is not None and mirror.signed:
        return not np.all(mirror.signs < 0) or _least_eigenvalue(-target) < 0
    middle = mirror.factors[len(mirror.factors) // 2]
    return _least_eigenvalue(target) < 0 or (mirror.signs is None and _least_eigenvalue(middle) < 0)


def _least_eigenvalue(symmetric: np.ndarray) -> float:
    """Zero, if it is rounding."""
    value = np.linalg.eigvalsh(symmetric)[0]
    return 0.0 if abs(value) <= 8 * len(symmetric) * _EPS * np.linalg.norm(symmetric) else float(value)


def graded_flow(model: Any, X: Any, targets: Any, loss: AbstractLoss, observed: Any) -> GradedFlow | None:
    """The flow of a factorization whose target is observed in full, by samples that are orthogonal and equally long,
    X^T X = c^2 I; None for any other, and where negative eigenvalues are never learned (`gflow.symmetric`)."""
    if not isinstance(model, MatrixFactorization) or not isinstance(loss, Square) or observed is not None:
        return None
    concrete = not any(isinstance(v, Tracer) for v in (X, targets, *model.factors))
    if not concrete or len(model.factors) < 2 or X.ndim != 2 or mixed(model.factors):
        return None
    X = np.asarray(X)
    y = np.asarray(targets).reshape(X.shape[0], -1)
    gain = np.linalg.norm(X) / math.sqrt(X.shape[1])
    if gain == 0:
        return None
    T = y.T @ X / gain**2
    near = lambda v, w: np.max(np.abs(v - w)) <= 8 * X.shape[0] * _EPS * np.max(np.abs(w))
    # What no matrix fits is a loss of its own.
    if not near(X.T @ X, gain**2 * np.eye(X.shape[1])) or not near(X @ T.T, y):
        return None
    size = jnp.asarray(gain * np.linalg.norm(T))
    counts = runs_of_multiples(model.factors)
    if counts is not None and near(T, T.T):
        values, vectors = np.linalg.eigh((T + T.T) / 2)
        chart = AlignedChart(model, jnp.asarray(vectors), jnp.asarray(values), jnp.asarray(gain), counts)
        return GradedFlow(chart, X, jnp.zeros(values.size), loss, size)
    square = T.shape[0] == T.shape[1]
    if square and near(T, T.T) and _keeps_signs(model, T):
        return None
    U, s, Vt = np.linalg.svd(T)
    s[s <= max(T.shape) * _EPS * s[0]] = 0.0
    S = np.zeros(T.shape)
    np.fill_diagonal(S, s)
    chart = GradedChart(model, *map(jnp.asarray, (U, Vt.T, S, gain)))
    return GradedFlow(chart, X, jnp.zeros(T.size), loss, size)

