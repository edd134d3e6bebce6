"""The problem that every solver is given, and the reduced log-domain field that the peers integrate.

A diagonal network beta = u_+^D - u_-^D from u_+ = u_- = alpha, exponential loss, on separable Gaussian data. The peers
get it in the best form that we know for a general ODE solver, which is a better one than gflow gives to itself:

- u_+^(2-D) + u_-^(2-D) stays what it was at the start, so c = (log u_+ - log u_-) / 2, one number per coordinate
  instead of two, says all (errors of c are relative errors of u):

      C = cosh((D-2) c),   beta = 2 alpha^D C^(D/(D-2)) sinh(D c)      (D = 2: beta = 2 alpha^2 sinh(2 c)).

- With d tau = L dt, dc / d tau = v = D alpha^(D-2) C^2 X^T softmax(-X beta), and gamma = -log L rises at the rate
  S = v . X^T softmax(-X beta) d beta / dc. The clock is g = log(1 + gamma / gamma_0), gamma_0 = min(1, alpha^D), so

      dc / dg = v gamma_0 e^g / S,

  which is smooth from the start at any scale, slow late, and ends at the target gamma without any search for events.

Here it stands in NumPy; `compiled` holds the same for numba, and `peers` the same in JAX.
"""

from typing import NamedTuple

import numpy as np

DEPTHS = (2, 3)
SCALES = (1.0, 1e-3)
GAMMAS = (230.0, 1e4, 1e6, 1e12, 1e20)
# Further off gamma than this (relative), a run has not answered the question.
LANDING = 1e-3


def data() -> np.ndarray:
    """X, shape (4, 10), labels absorbed in its rows."""
    rng = np.random.default_rng(0)
    w, X = rng.normal(size=10), rng.normal(size=(4, 10))
    return X * np.sign(X @ w)[:, None]


def sweep_scales(count: int = 1000) -> np.ndarray:
    return np.geomspace(1e-3, 1e3, count)


class Instance(NamedTuple):
    """Depth D, scale alpha, and the gamma to go to."""

    depth: int
    scale: float
    gamma: float

    @property
    def gamma_0(self) -> float:
        return min(1.0, self.scale**self.depth)

    @property
    def end(self) -> float:
        """The clock g at the target."""
        return float(np.log1p(self.gamma / self.gamma_0))

    @property
    def size(self) -> float:
        """About the size of c at the target where that is small: there an absolute tolerance is relative to it."""
        return min(1.0, self.gamma / self.scale**self.depth)


def beta(c: np.ndarray, depth: int, scale: float) -> np.ndarray:
    power = np.cosh((depth - 2) * c) ** (depth / (depth - 2)) if depth > 2 else 1.0
    return 2 * scale**depth * power * np.sinh(depth * c)


def gamma_of(beta: np.ndarray, X: np.ndarray) -> float:
    margins = X @ beta
    lowest = np.min(margins)
    return float(lowest - np.log(np.mean(np.exp(lowest - margins))))


def errors(beta: np.ndarray, gamma: float, reference: np.ndarray, X: np.ndarray) -> tuple[float, float]:
    """Error of beta / gamma, the largest of its entries relative to the largest of beta / gamma, and how far gamma is
    off the target. gamma is computed from beta, for everyone: that is kind to solvers that miss it a little."""
    if not np.all(np.isfinite(beta)):
        return np.inf, np.inf
    here = gamma_of(beta, X)
    if not here > 0:
        return np.inf, np.inf
    reference = np.asarray(reference)
    error = np.max(np.abs(beta / here - reference)) / np.max(np.abs(reference))
    return float(error), abs(here / gamma - 1.0)


class NumpyField:
    """dc / dg and its Jacobian, in as few array operations as we found."""

    def __init__(self, instance: Instance, X: np.ndarray):
        self.depth, scale, _ = instance
        self.X, self.XT, self.start = X, np.ascontiguousarray(X.T), instance.gamma_0
        self.beta_unit = 2 * scale**self.depth
        self.speed = self.depth * scale ** (self.depth - 2)
        self.evaluations = self.jacobians = 0

    def _parts(self, c: np.ndarray):
        """beta, d beta / dc, v over X^T p, and X^T p with the weights p."""
        D = self.depth
        if D == 2:
            e = np.exp(2 * c)
            half, inverse = 0.5 * self.beta_unit * e, 0.5 * self.beta_unit / e
            value, slope, speed = half - inverse, 2 * (half + inverse), self.speed
        else:
            C = np.cosh((D - 2) * c)
            lower = C * C if D == 3 else C ** (2 / (D - 2))
            value = self.beta_unit * lower * C * np.sinh(D * c)
            slope = self.beta_unit * D * lower * np.cosh((2 * D - 2) * c)
            speed = self.speed * C * C
        m = self.X @ value
        p = np.exp(m.min() - m)
        p /= p.sum()
        return slope, speed, p, self.XT @ p

    def field(self, g: float, c: np.ndarray) -> np.ndarray:
        self.evaluations += 1
        slope, speed, _, q = self._parts(c)
        v = speed * q
        return v * (self.start * np.exp(g) / np.dot(slope * q, v))

    def jacobian(self, g: float, c: np.ndarray) -> np.ndarray:
        self.jacobians += 1
        D = self.depth
        slope, speed, p, q = self._parts(c)
        tanh = np.tanh((D - 2) * c)
        dspeed = 2 * (D - 2) * tanh * speed
        dslope = slope * (2 * tanh + (2 * D - 2) * np.tanh((2 * D - 2) * c))
        dq = -((self.XT * p) @ self.X - np.outer(q, q)) * slope
        S = np.sum(slope * speed * q * q)
        dS = (dslope * speed + slope * dspeed) * q * q + 2 * (slope * speed * q) @ dq
        v = speed * q
        J = np.reshape(speed, (-1, 1)) * dq - np.outer(v, dS / S)
        J[np.diag_indices_from(J)] += dspeed * q
        return J * (self.start * np.exp(g) / S)
