"""The Newton matrix of the stage equations in float64.

    d residual_j = D_j dV_j + P_j K_j sum_i A_ji E_i' dV_i,

K = X diag(d beta / d x) X^T the tangent kernel in the dual variables and E' = dE/dV. Rows and columns are scaled by
powers of 2, since W moves by much where its weight is nothing and margins are as large as gamma; K_j and E_i differ by
any power of ten, so they are combined before exponentials are taken.

Active samples may share their dominant coordinates (ties, duplicates). Then K is singular but for coordinates that are
smaller by powers of gamma, and rounding would hide what those decide. A change of basis T of the samples, by exact
elimination in the order of size, brings T X to echelon form: T K T^T is graded, and with its rows scaled it is well
conditioned (accurate factorisations of graded matrices: Demmel et al. 1999, doi 10.1016/S0024-3795(99)00134-2).
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flint import arb, arb_mat, fmpq
from scipy.linalg import get_lapack_funcs

from .exact import LOG2_10, log10
from .network import DualNetwork
from .tableau import Tableau

_getrf, _getrs = get_lapack_funcs(("getrf", "getrs"), (np.zeros((1, 1)),))
# Weights below e^-50 do not take part.
_NEGLIGIBLE = -50.0
# Smallest ratio of squared singular values at which the samples count as independent.
_INDEPENDENT = 1e-6


@dataclass(eq=False)
class Clock:
    """What is known at the stages: log d tau / ds and d tau / ds on the time clock, gamma on the loss clock; and which
    samples are left out."""

    on_loss: bool
    gamma: list[arb]
    pace: list[arb]
    lengths: list[arb]
    left_out: list[int] = field(default_factory=list)


class Failure(Exception):
    """The stage equations were not solved; a shorter step may do."""


def newton_matrix(
    network: DualNetwork,
    problem: Any,
    tableau: Tableau,
    clock: Clock,
    linear: Any,
    V: list[arb],
    E: list[arb],
    log_slopes: np.ndarray,
) -> "Plain | Tied":
    n, s = network.samples, tableau.stages
    weights = linear.weights
    if not (np.all(np.isfinite(weights)) and np.all(np.isfinite(log_slopes))):
        raise Failure("not finite")
    keep = np.max(weights, axis=0) > math.exp(_NEGLIGIBLE)
    solved = np.flatnonzero(keep)
    log_rates = problem.log_rates(V, clock).reshape(s, n)[:, solved]
    P, D = problem.linear(linear, clock)
    parts = (network, tableau, linear, solved.tolist(), weights[:, solved], log_slopes, log_rates)
    close = log_rates.size > 0 and bool(np.min(log_rates) > np.max(log_rates) - 300.0)
    if clock.on_loss and P is None and close and _dependent(network, solved, weights[s // 2], log_slopes[s // 2]):
        return Tied(*parts, E)
    return Plain(*parts, P, D)


def _dependent(network: DualNetwork, solved: np.ndarray, weights: np.ndarray, log_slopes: np.ndarray) -> bool:
    """Whether some active samples agree in the coordinates that count."""
    if len(solved) < 2:
        return False
    active = solved[weights[solved] > 1e-6]
    # Each row by its own largest entry, so that none underflows.
    with np.errstate(divide="ignore"):
        sizes = np.log(np.abs(network.floats[active])) + log_slopes / 2
    scaled = np.sign(network.floats[active]) * np.exp(sizes - sizes.max(axis=1, keepdims=True))
    if not np.all(np.isfinite(scaled)):
        raise Failure("not finite")
    values = np.linalg.svd(scaled / np.linalg.norm(scaled, axis=1, keepdims=True), compute_uv=False)
    return len(active) > len(values) or bool(values[-1] ** 2 < _INDEPENDENT)


class Matrix:
    """What both forms share: which samples are solved for."""

    def __init__(self, network: DualNetwork, solved: list[int]):
        self.network, self.solved = network, solved
        self.implied = [k for k in range(network.samples) if k not in set(solved)]

    def misses(self, linear: Any) -> bool:
        """Whether a sample that is not solved for has got a weight."""
        return bool(self.implied) and float(np.max(linear.weights[:, self.implied])) > math.exp(0.9 * _NEGLIGIBLE)

    def factorize(self, J: np.ndarray) -> None:
        self.rows = 1 / np.maximum(np.max(np.abs(J), axis=1), 1e-300) if J.size else np.ones(0)
        if J.size:
            self.factors, self.pivots, _ = _getrf(J * self.rows[:, None], overwrite_a=True)

    def backward(self, residual: np.ndarray) -> np.ndarray:
        if residual.size == 0:
            return residual
        step = _getrs(self.factors, self.pivots, residual.reshape(-1) * self.rows)[0].reshape(residual.shape)
        if not np.all(np.isfinite(step)):
            raise Failure("not finite")
        return step


class Plain(Matrix):
    """Samples as they are."""

    def __init__(
        self,
        network: DualNetwork,
        tableau: Tableau,
        linear: Any,
        solved: list[int],
        weights: np.ndarray,
        log_slopes: np.ndarray,
        log_rates: np.ndarray,
        P: np.ndarray | None,
        D: np.ndarray,
    ):
        super().__init__(network, solved)
        size, s = len(solved), tableau.stages
        heights = [max(0, math.ceil(log10(g) * LOG2_10)) if g > 0 else 0 for g in linear.gamma]
        low = -math.log(2.0) * np.array(heights, float)
        # Residuals come divided by 2^height; lift brings each stage to its own power of 2.
        self.height = max(heights)
        self.lift = np.exp2(np.array([min(self.height - h, 1000) for h in heights], float))
        weights = np.maximum(weights, 1e-300)
        columns = np.round(-np.log2(np.exp(np.maximum(low, -600.0))[:, None] + weights)).astype(int)
        self.columns = np.minimum(columns, 200)
        self.importance = np.exp2(self.columns) * np.maximum(weights, 1 / (1 + np.abs(np.log(weights))))
        log_rates = log_rates + math.log(2.0) * self.columns
        log_slopes = log_slopes + low[:, None]
        top = np.max(log_slopes, axis=1)
        X = network.floats
        kernel = np.einsum("ni,ji,mi->jnm", X, np.exp(log_slopes - top[:, None]), X, optimize=True)
        kernel = (P @ kernel if P is not None else kernel)[:, solved][:, :, solved]
        scales = np.exp(np.minimum(top[:, None, None] + log_rates[None], 650.0))
        J = tableau.integrals_float[:, None, :, None] * kernel[:, :, None, :] * scales[:, None, :, :]
        stages = np.arange(s)
        own = D[:, solved][:, :, solved]
        J[stages, :, stages, :] += own * np.exp(low[:, None] + math.log(2.0) * self.columns)[:, None, :]
        self.factorize(J.reshape(s * size, s * size))

    def update(self, gap: arb_mat, shift: int) -> tuple[arb_mat, float]:
        """2^-shift times the change of V that closes the gap to first order, and its weighted size."""
        s, n = gap.nrows(), gap.ncols()
        scale = arb((1, -self.height - shift))
        residual = np.array([float(v) for v in (gap * scale).entries()]).reshape(s, n)[:, self.solved]
        if not (np.all(np.isfinite(residual)) and np.max(np.abs(residual), initial=0.0) < 1e200):
            raise Failure("not finite")
        step = self.backward(residual * self.lift[:, None])
        update = np.zeros((s, n))
        with np.errstate(over="ignore"):
            update[:, self.solved] = step * np.exp2(self.columns)
        if not np.all(np.isfinite(update)):
            raise Failure("not finite")
        worst = float(np.max(np.abs(step) * self.importance)) if step.size else 0.0
        return arb_mat(s, n, update.ravel().tolist()), worst


class Tied(Matrix):
    """In the basis T of the samples: rows T residual, unknowns y with E dV = T^T y."""

    def __init__(
        self,
        network: DualNetwork,
        tableau: Tableau,
        linear: Any,
        solved: list[int],
        weights: np.ndarray,
        log_slopes: np.ndarray,
        log_rates: np.ndarray,
        E: list[arb],
    ):
        super().__init__(network, solved)
        n, s, size = network.samples, tableau.stages, len(solved)
        middle = s // 2
        order = _pivots(network.floats[solved], weights[middle], log_slopes[middle])
        self.T, T, X = _echelon(network, tuple(solved), order)
        self.weights = weights
        self.E = [[E[j * n + k] for k in solved] for j in range(s)]
        with np.errstate(divide="ignore"):
            log_X, log_T = np.log(np.abs(X)), np.log(np.abs(T))
        by_kernel = np.max(2 * log_X[None] + log_slopes[:, None, :], axis=2)
        by_weights = np.max(2 * log_T[None] - log_rates[:, None, :], axis=2)
        level = np.maximum(by_kernel, by_weights)
        if not (np.all(np.isfinite(level)) and np.max(np.abs(level)) < 1e15):
            raise Failure("not finite")
        self.level = np.round(level / math.log(2.0)).astype(int)
        # y is as large as E, which may lie outside float64.
        self.unit = round(float(np.max(log_rates)) / math.log(2.0))
        level = self.level * math.log(2.0)
        slopes = np.exp(np.minimum(log_slopes[:, None, :] - level[:, :, None], 600.0))
        kernel = np.einsum("ai,jai,bi->jab", X, slopes, X, optimize=True)
        rates = np.exp(np.minimum(-log_rates[:, None, :] - level[:, :, None], 600.0))
        own = np.einsum("an,jan,bn->jab", T, rates, T, optimize=True)
        total = np.logaddexp.reduce(log_rates, axis=1)
        sums = T.sum(axis=1)
        own -= np.exp(np.clip(-total[:, None] - level, -700.0, 600.0))[:, :, None] * (sums[:, None] * sums)
        J = tableau.integrals_float[:, None, :, None] * kernel[:, :, None, :]
        stages = np.arange(s)
        J[stages, :, stages, :] += own
        # Columns get the scale of their own diagonal.
        J = J.reshape(s * size, s * size)
        largest = np.maximum(np.max(np.abs(J), axis=0), 1e-300)
        if not np.max(largest) < 1e290:
            raise Failure("not finite")
        self.column = np.round(np.log2(largest)).astype(int).reshape(s, size)
        self.factorize(J * np.exp2(-self.column.reshape(-1).astype(float)))

    def update(self, gap: arb_mat, shift: int) -> tuple[arb_mat, float]:
        s, n, size = gap.nrows(), gap.ncols(), len(self.solved)
        entries = gap.entries()
        chosen = arb_mat(s, size, [entries[j * n + k] for j in range(s) for k in self.solved])
        rotated = (chosen * self.T.transpose()).entries()
        levels = (self.level + self.unit).ravel().tolist()
        residual = np.array([float(v * arb((1, -k - shift))) for v, k in zip(rotated, levels, strict=True)])
        step = self.backward(residual.reshape(s, size))
        powers = (self.unit - self.column).ravel().tolist()
        y = arb_mat(s, size, [arb(float(v)) * arb((1, c)) for v, c in zip(step.ravel(), powers, strict=True)])
        changes = (y * self.T).entries()
        update, worst = [arb(0)] * (s * n), 0.0
        for j in range(s):
            for column, k in enumerate(self.solved):
                value = changes[j * size + column] / self.E[j][column]
                update[j * n + k] = value
                p = float(self.weights[j, column])
                worst = max(worst, abs(float(value)) * max(p, 1 / (1 + abs(math.log(max(p, 1e-300))))))
        if not math.isfinite(worst):
            raise Failure("not finite")
        return arb_mat(s, n, update), worst


def _pivots(X: np.ndarray, weights: np.ndarray, log_slopes: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The order of elimination: complete pivoting by sqrt(p_n) |X_ni| sqrt(d beta_i / d x_i) of what is left."""
    left, rows, order = X.copy(), list(range(len(X))), []
    bonus = 0.5 * (np.log(np.maximum(weights, 1e-300))[:, None] + log_slopes[None, :])
    floor = 1e-11 * np.abs(X).max()
    while rows:
        size = np.abs(left[rows])
        sizes = np.where(size > floor, np.log(np.maximum(size, 1e-300)) + bonus[rows], -np.inf)
        at = int(np.argmax(sizes))
        row, column = rows[at // X.shape[1]], at % X.shape[1]
        if sizes.flat[at] == -np.inf:
            break
        order.append((row, column))
        rows.remove(row)
        for other in rows:
            left[other] -= left[other, column] / left[row, column] * left[row]
            left[other, column] = 0.0
    return tuple(order)


@functools.lru_cache(maxsize=256)
def _echelon(
    network: DualNetwork, solved: tuple[int, ...], order: tuple[tuple[int, int], ...]
) -> tuple[arb_mat, np.ndarray, np.ndarray]:
    """T and T X, exactly and rounded once."""
    size = len(solved)
    X = [list(network.exact[k]) for k in solved]
    T = [[fmpq(int(a == b)) for b in range(size)] for a in range(size)]
    rows = list(range(size))
    for row, column in order:
        rows.remove(row)
        if X[row][column] == 0:
            continue
        for other in rows:
            factor = X[other][column] / X[row][column]
            if factor:
                X[other] = [a - factor * b for a, b in zip(X[other], X[row], strict=True)]
                T[other] = [a - factor * b for a, b in zip(T[other], T[row], strict=True)]
    floats = lambda table: np.array([[float(arb(v)) for v in line] for line in table])
    return arb_mat([[arb(v) for v in line] for line in T]), floats(T), floats(X)
