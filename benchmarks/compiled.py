"""The field of `problem` and its Jacobian, compiled by numba. Needs numba.

Both take one vector of parameters, so that they also serve as C callbacks:
(D, alpha, gamma_0, N, d, field evaluations so far, Jacobians so far, X row by row).
"""

import math

import numba
import numpy as np

from .problem import Instance

_HEAD = 7
_EVALUATIONS, _JACOBIANS = 5, 6


def parameters(instance: Instance, X: np.ndarray) -> np.ndarray:
    head = [instance.depth, instance.scale, instance.gamma_0, *X.shape, 0, 0]
    return np.concatenate([np.asarray(head, float), X.ravel()])


def counts(p: np.ndarray) -> dict[str, int]:
    return {"evaluations": int(p[_EVALUATIONS]), "jacobians": int(p[_JACOBIANS])}


@numba.njit(error_model="numpy", cache=True)
def _coordinates(c, p, beta, slope, speed):
    D, scale = p[0], p[1]
    unit, rate = 2.0 * scale**D, D * scale ** (D - 2.0)
    for i in range(c.size):
        e = math.exp(c[i])
        r = 1.0 / e
        if D == 2.0:
            e *= e
            r *= r
            beta[i] = unit * (math.sinh(2.0 * c[i]) if abs(c[i]) < 0.5 else 0.5 * (e - r))
            slope[i] = unit * (e + r)
            speed[i] = rate
        else:
            C = 0.5 * (e + r) if D == 3.0 else math.cosh((D - 2.0) * c[i])
            lower = C * C if D == 3.0 else C ** (2.0 / (D - 2.0))
            beta[i] = unit * lower * C * math.sinh(D * c[i])
            slope[i] = unit * D * lower * math.cosh((2.0 * D - 2.0) * c[i])
            speed[i] = rate * C * C


@numba.njit(error_model="numpy", cache=True)
def _weights(beta, p, w):
    """softmax(-X beta)"""
    d, lowest = beta.size, np.inf
    for n in range(w.size):
        s = 0.0
        for i in range(d):
            s += p[_HEAD + n * d + i] * beta[i]
        w[n] = s
        lowest = min(lowest, s)
    total = 0.0
    for n in range(w.size):
        w[n] = math.exp(lowest - w[n])
        total += w[n]
    for n in range(w.size):
        w[n] /= total


@numba.njit(error_model="numpy", cache=True)
def field(g, c, out, p):
    p[_EVALUATIONS] += 1
    d, N = c.size, int(p[3])
    beta, slope, speed, w = np.empty(d), np.empty(d), np.empty(d), np.empty(N)
    _coordinates(c, p, beta, slope, speed)
    _weights(beta, p, w)
    S = 0.0
    for i in range(d):
        q = 0.0
        for n in range(N):
            q += p[_HEAD + n * d + i] * w[n]
        out[i] = speed[i] * q
        S += slope[i] * q * out[i]
    pace = p[2] * math.exp(g) / S
    for i in range(d):
        out[i] *= pace


@numba.njit(error_model="numpy", cache=True)
def jacobian(g, c, J, p):
    p[_JACOBIANS] += 1
    d, N, D = c.size, int(p[3]), p[0]
    beta, slope, speed, w, q, dq = np.empty(d), np.empty(d), np.empty(d), np.empty(N), np.zeros(d), np.empty((d, d))
    _coordinates(c, p, beta, slope, speed)
    _weights(beta, p, w)
    S = 0.0
    for i in range(d):
        for n in range(N):
            q[i] += p[_HEAD + n * d + i] * w[n]
        S += slope[i] * speed[i] * q[i] * q[i]
    for i in range(d):
        for j in range(d):
            s = 0.0
            for n in range(N):
                s += p[_HEAD + n * d + i] * p[_HEAD + n * d + j] * w[n]
            dq[i, j] = -(s - q[i] * q[j]) * slope[j]
    pace = p[2] * math.exp(g) / S
    for j in range(d):
        tanh = math.tanh((D - 2.0) * c[j])
        dspeed = 2.0 * (D - 2.0) * tanh * speed[j]
        dslope = slope[j] * (2.0 * tanh + (2.0 * D - 2.0) * math.tanh((2.0 * D - 2.0) * c[j]))
        dS = (dslope * speed[j] + slope[j] * dspeed) * q[j] * q[j]
        for i in range(d):
            dS += 2.0 * slope[i] * speed[i] * q[i] * dq[i, j]
        for i in range(d):
            J[i, j] = pace * speed[i] * (dq[i, j] - q[i] * dS / S)
        J[j, j] += pace * dspeed * q[j]
