"""Radau IIA collocation in log form: the implicit step for stiff flows.

Late in training the flow is stiff with a ratio of about gamma, and a stock implicit solver has to find the weights
softmax(-m) by Newton's method although they change by e^(change of m). Here the log-weights W, the log-pace R and gamma
are unknowns of every stage i beside the coordinates a:

    a_i = a_0 + h sum_j A_ij F_j,            F_j = e^(R_j) sum_n e^(W_jn) V_n(a_j),    V_n = M^-1 grad m_n,
    W_in = log(-l'(m_n(a_i))) + gamma_i - log N,    sum_n e^(W_in) l(m_n)/(-l'(m_n)) = 1,    rms(F_i) = length(a_0).

The coordinates are unknowns too, and not computed from the weights: on a plateau a fast coordinate rests on weights
that float64 cannot hold finely enough to say where. The rows of the weights are linear in W: this is the central path
of an interior-point method with barrier 1/gamma, and Newton's method follows it where exponentials would overflow or
vanish. Curvature of the model is left out of the Newton matrix (it only slows convergence), so the system lives in
sample space, stages * (N + 2) unknowns, whatever the number of parameters P; where P < N the weights are eliminated
instead, which leaves stages * (P + 2).

Nodes and order: Hairer & Wanner, Solving ODEs II, sec. IV.5 (order 2 * stages - 1, L-stable).
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import eval_legendre, roots_jacobi

from ..flow import Flow
from ..losses import MarginLoss

# Between the 1 of the plain coefficient (wasteful) and the 2 of superconvergence (bold by up to 50 where the order is
# reduced): at 1.75 the observed error of beta stays below rtol from 1e-4 to 1e-11.
_POWER = 1.75


class _Tableau(NamedTuple):
    c: np.ndarray
    A: np.ndarray
    inverse: np.ndarray
    top: np.ndarray


def _tableau(stages: int) -> _Tableau:
    """Nodes c, matrix A, and the functional that reads off the highest Legendre coefficient of the integrand."""
    x = np.append(np.sort(roots_jacobi(stages - 1, 1.0, 0.0)[0]), 1.0)
    P = np.stack([eval_legendre(k, x) for k in range(stages + 1)], axis=1)
    integral = np.empty((stages, stages))
    integral[:, 0] = (x + 1.0) / 2.0
    for k in range(1, stages):
        integral[:, k] = (P[:, k + 1] - P[:, k - 1]) / (2.0 * (2 * k + 1))
    inverse = np.linalg.inv(P[:, :stages])
    A = integral @ inverse
    return _Tableau((x + 1.0) / 2.0, A, np.linalg.inv(A), inverse[-1] / (2.0 * (2 * stages - 1)))


class FlowTerm(diffrax.ODETerm):
    """The term of a gradient flow: solvers made for flows find the flow in it."""

    @property
    def flow(self) -> Flow:
        return self.vector_field.__self__  # pyright: ignore[reportFunctionMemberAccess]


class _Stages(NamedTuple):
    """Stage values of F, W, R and gamma on the last step, and its size: where the next prediction starts."""

    F: Float[Array, "s P"]
    W: Float[Array, "s N"]
    R: Float[Array, " s"]
    gamma: Float[Array, " s"]
    unit: Float[Array, ""]
    h: Any


class _Polynomial(diffrax.AbstractLocalInterpolation):
    """The collocation polynomial through the start and the stages."""

    t0: Any
    t1: Any
    nodes: Float[Array, " s+1"]
    values: Float[Array, "s+1 *y"]

    def evaluate(self, t0, t1=None, left=True):
        del left
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        x = (t0 - self.t0) / (self.t1 - self.t0)
        nodes = self.nodes
        gaps = nodes[:, None] - nodes[None, :] + jnp.eye(nodes.size)
        factors = jnp.where(jnp.eye(nodes.size, dtype=bool), 1.0, (x - nodes[None, :]) / gaps)
        return jnp.prod(factors, axis=1) @ self.values


class LogRadau(diffrax.AbstractAdaptiveSolver):
    """Log-form Radau IIA collocation, for the exponential and the logistic loss.

    Works as a Diffrax solver inside `gflow.gradient_flow`: dense output, rejected steps and `vmap` as usual.

    **Arguments:**

    - `stages`: 3 (order 5) or 5 (order 9), any number from 2 on.
    - `max_newton`: iterations after which a step is given up and retried with a smaller one.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> model = gflow.models.DiagonalNetwork(dim=2, depth=2, scale=0.1)
        >>> traj = gflow.gradient_flow(model, X, y, stop=1e6, solver=gflow.LogRadau(), rtol=1e-6)
        >>> traj.success
        True

        ```
    """

    stages: int = eqx.field(default=5, static=True)
    max_newton: int = eqx.field(default=20, static=True)
    rtol: Any = None

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., _Polynomial]] = _Polynomial
    State: ClassVar = _Stages

    def order(self, terms):
        return 2 * self.stages - 1

    def error_order(self, terms):
        return _POWER * self.stages

    def local_error(self, estimate: Array) -> Array:
        """What the step misses by, from the relative size of the highest collocation coefficient: that falls like
        h^stages, the error like h^(2 stages) at best."""
        return estimate**_POWER

    def init(self, terms, t0, t1, y0, args):
        flow, a = terms.flow, y0[:-1]
        weights, gamma = _log_weights(flow, flow.chart.outputs(a, flow.X))
        V, unit = flow.chart.velocities(a, flow.X)
        F = (flow.y * jnp.exp(weights)) @ V
        R = jnp.log(flow.chart.length(a)) - 0.5 * jnp.log(jnp.mean(F**2))
        rows = lambda v: jnp.broadcast_to(v, (self.stages, *jnp.shape(v)))
        return _Stages(rows(F * jnp.exp(R)), rows(weights), rows(R), rows(gamma), unit, jnp.asarray(t1 - t0))

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        flow: Flow = terms.flow
        tableau = _tableau(self.stages)
        a0, h = y0[:-1], t1 - t0
        start = self._predict(solver_state, h, tableau)
        _, unit = flow.chart.velocities(a0, flow.X)
        start = start._replace(R=start.R + solver_state.unit - unit)
        values, a, F, slopes, converged = _newton(flow, tableau, a0, h, unit, start, self.rtol, self.max_newton)
        # Time is linear in F = t L, given the stages.
        A = jnp.asarray(tableau.A)
        gauge = args
        pace = jnp.exp(values.R - unit - gauge)
        matrix = jnp.eye(self.stages) + h * A * slopes[None, :]
        times = jnp.linalg.solve(matrix, y0[-1] + h * A @ pace)
        rates = jnp.concatenate([F, (pace - slopes * times)[:, None]], axis=1)
        stage_values = jnp.concatenate([a, times[:, None]], axis=1)
        y1 = stage_values[-1]
        error = h * jnp.asarray(tableau.top) @ rates
        error = jnp.where(converged, error, jnp.inf)
        nodes = jnp.asarray(np.append(0.0, tableau.c))
        dense = {"nodes": nodes, "values": jnp.concatenate([y0[None], stage_values])}
        state = _Stages(F, values.W, values.R, values.gamma, unit, h)
        return y1, error, dense, state, diffrax.RESULTS.successful

    def _predict(self, last: _Stages, h: Any, tableau: _Tableau) -> _Stages:
        """The polynomial through the last stages of the step before, drawn on; at first, constants."""
        c = tableau.c
        x = jnp.minimum(1.0 + (h / last.h) * jnp.asarray(c), 1.6)
        known = range(max(self.stages - 3, 0), self.stages)
        lagrange = jnp.stack(
            [jnp.prod(jnp.stack([(x - c[k]) / (c[j] - c[k]) for k in known if k != j]), axis=0) for j in known], axis=1
        )
        at = lambda v: lagrange @ v[known[0] :]
        W = at(last.W)
        W = W - jax.nn.logsumexp(W, axis=1)[:, None]
        return _Stages(at(last.F), W, at(last.R), at(last.gamma), last.unit, h)


def _log_weights(flow: Flow, f: Array) -> tuple[Array, Array]:
    gamma = flow.loss.neg_log_mean(f, flow.y)
    return _margin_loss(flow).log_slope(flow.y * f)[0] + gamma - np.log(f.shape[0]), gamma


def _margin_loss(flow: Flow) -> MarginLoss:
    assert isinstance(flow.loss, MarginLoss)
    return flow.loss


def _newton(flow: Flow, tableau: _Tableau, a0, h, unit, start: _Stages, rtol, limit: int):
    """Solve for the stages. Returns them with coordinates, velocities F and d gamma / ds, and whether it converged."""
    A, inverse = jnp.asarray(tableau.A), jnp.asarray(tableau.inverse)
    N, P = flow.y.shape[0], a0.shape[0]
    y, loss, chart = flow.y, _margin_loss(flow), flow.chart
    log_n = np.log(N)
    length = chart.length(a0)

    def field(a):
        J = jax.vmap(lambda b: chart.jacobian(b, flow.X))(a) * y[None, :, None]
        V = jax.vmap(lambda b: _velocities_in(chart, b, flow.X, unit))(a) * y[None, :, None]
        return J, V

    def body(carry):
        values, a, iteration, _ = carry
        W, R, gamma = values.W, values.R, values.gamma
        J, V = field(a)
        q = jnp.exp(W + R[:, None])
        F = inverse @ (a - a0[None]) / h
        lag = a - a0[None] - h * A @ jnp.einsum("jn,jnp->jp", q, V)
        m = jax.vmap(lambda b: chart.outputs(b, flow.X))(a) * y[None]
        scale = jnp.maximum(1.0, jnp.abs(gamma))
        omega, domega = loss.log_slope(m)
        rho, drho = loss.log_ratio(m)
        total = jax.nn.logsumexp(W + rho, axis=1)
        system = _System(
            A=h * A,
            inverse=inverse / h,
            J=J,
            V=V,
            q=q,
            p=jnp.exp(W + rho - total[:, None]),
            toward=F / jnp.sum(F**2, axis=1)[:, None],
            domega=domega,
            drho=drho,
            scale=scale,
            lag=lag,
            miss=W - omega - gamma[:, None] + log_n,
            miss_sum=total,
            miss_pace=0.5 * jnp.log(jnp.mean(F**2, axis=1)) - jnp.log(length),
        )
        da, dW, dR, dgamma = (_in_samples if N <= P else _in_parameters)(system)
        weighted = jnp.max(
            jnp.concatenate([jnp.abs(dW) * system.p, jnp.abs(dR)[:, None], jnp.abs(dgamma / scale)[:, None]], axis=1)
        )
        moved = jnp.sqrt(jnp.max(jnp.mean(da**2, axis=1)))
        extent = jnp.sqrt(jnp.max(jnp.mean((a + da - a0[None]) ** 2, axis=1)))
        # Converged: the stages move by less than a hundredth of the tolerance, or by their rounding, and the weights by
        # less than a thousandth.
        finest = 8 * jnp.finfo(a.dtype).eps * jnp.sqrt(jnp.mean(a0**2))
        wanted = jnp.maximum(1e-2 * rtol * jnp.maximum(extent, length * 1e-3), finest)
        size = jnp.maximum(moved / wanted, weighted / 1e-3)
        damp = jnp.minimum(1.0, 2.0 / weighted)
        W = jnp.minimum(W + damp * dW, 0.7)
        values = values._replace(W=W, R=R + damp * dR, gamma=gamma + damp * dgamma)
        return values, a + damp * da, iteration + 1, size

    def unfinished(carry):
        _, _, iteration, size = carry
        return (iteration < limit) & ~(size < 1.0) & ~jnp.isnan(size)

    first = a0[None] + h * A @ start.F
    values, a, _, size = jax.lax.while_loop(unfinished, body, (start, first, 0, jnp.asarray(jnp.inf)))
    F = inverse @ (a - a0[None]) / h
    J = jax.vmap(lambda b: chart.jacobian(b, flow.X))(a) * y[None, :, None]
    slopes = jnp.einsum("jn,jnp,jp->j", jnp.exp(values.W), J, F)
    return values, a, F, slopes, (size < 1.0) & jnp.all(jnp.isfinite(a))


class _System(NamedTuple):
    """What the Newton matrix is made of; A and its inverse hold the step size. `lag`, `miss`, `miss_sum` and
    `miss_pace` are the residuals of the coordinates, the weights, their sum and the pace."""

    A: Array
    inverse: Array
    J: Array
    V: Array
    q: Array
    p: Array
    toward: Array
    domega: Array
    drho: Array
    scale: Array
    lag: Array
    miss: Array
    miss_sum: Array
    miss_pace: Array


def _velocities_in(chart, a, X, unit):
    V, own = chart.velocities(a, X)
    return V * jnp.exp(own - unit)


def _in_samples(o: _System):
    """Newton update (da, dW, dR, dgamma) from the tangent kernel between stages: stages * (N + 2) unknowns."""
    s, N = o.q.shape
    kernel = jnp.einsum("inp,jmp->injm", o.J, o.V)
    dm = o.A[:, None, :, None] * kernel * o.q[None, None]
    behind = jnp.einsum("inp,ip->in", o.J, o.lag)
    i, n = np.arange(s), np.arange(N)
    M = jnp.zeros((s, N + 2, s, N + 2))
    rows = -o.domega[:, :, None, None] * dm / o.scale[:, None, None, None]
    M = M.at[:, :N, :, :N].set(rows)
    M = M.at[:, :N, :, N].set(rows.sum(-1))
    M = M.at[i[:, None], n[None], i[:, None], n[None]].add((1.0 / o.scale)[:, None])
    M = M.at[i, :N, i, N + 1].add(-1.0)
    ratio = jnp.einsum("in,injm->ijm", o.p * o.drho, dm)
    M = M.at[:, N, :, :N].set(ratio)
    M = M.at[:, N, :, N].set(ratio.sum(-1))
    M = M.at[i, N, i, :N].add(o.p)
    push = jnp.einsum("jp,jn,jnp->jn", o.toward, o.q, o.V)
    M = M.at[i, N + 1, i, :N].set(push)
    M = M.at[i, N + 1, i, N].set(push.sum(-1))
    right = jnp.concatenate(
        [
            (o.miss + o.domega * behind) / o.scale[:, None],
            (o.miss_sum - jnp.sum(o.p * o.drho * behind, axis=1))[:, None],
            (o.miss_pace - jnp.sum(o.toward * (o.inverse @ o.lag), axis=1))[:, None],
        ],
        axis=1,
    )
    M = M.reshape(s * (N + 2), -1)
    size = jnp.max(jnp.abs(M), axis=1)
    d = -jnp.linalg.solve(M / size[:, None], right.reshape(-1) / size).reshape(s, N + 2)
    dW, dR = d[:, :N], d[:, N]
    da = o.A @ jnp.einsum("jn,jnp->jp", o.q * (dW + dR[:, None]), o.V) - o.lag
    return da, dW, dR, d[:, N + 1] * o.scale


def _in_parameters(o: _System):
    """The same update with the weights eliminated: stages * (P + 2) unknowns."""
    s, P = o.lag.shape
    i = np.arange(s)
    curve = jnp.einsum("jn,jnp,jnr->jpr", o.q * o.domega, o.V, o.J)
    pull = jnp.einsum("jn,jnp->jp", o.q * o.miss, o.V)
    drive = -jnp.einsum("ij,jp->ipj", o.A, jnp.einsum("jn,jnp->jp", o.q, o.V))
    M = jnp.zeros((s, P + 2, s, P + 2))
    M = M.at[:, :P, :, :P].set(-jnp.einsum("ij,jpr->ipjr", o.A, curve))
    M = M.at[i, :P, i, :P].add(jnp.eye(P)[None])
    M = M.at[:, :P, :, P].set(drive)
    M = M.at[:, :P, :, P + 1].set(drive * o.scale[None, None, :])
    M = M.at[i, P, i, :P].set(jnp.einsum("jn,jnp->jp", o.p * (o.domega + o.drho), o.J))
    M = M.at[i, P, i, P + 1].set(o.scale)
    M = M.at[:, P + 1, :, :P].set(o.toward[:, None, :] * o.inverse[:, :, None])
    right = jnp.concatenate(
        [o.A @ pull + o.lag, (o.miss_sum - jnp.sum(o.p * o.miss, axis=1))[:, None], o.miss_pace[:, None]], axis=1
    )
    M = M.reshape(s * (P + 2), -1)
    size = jnp.max(jnp.abs(M), axis=1)
    d = -jnp.linalg.solve(M / size[:, None], right.reshape(-1) / size).reshape(s, P + 2)
    da, dR, dgamma = d[:, :P], d[:, P], d[:, P + 1] * o.scale
    dW = o.domega * jnp.einsum("jnp,jp->jn", o.J, da) + dgamma[:, None] - o.miss
    return da, dW, dR, dgamma
