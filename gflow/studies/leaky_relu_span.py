"""Random weights, samples, and descent of two-layer networks in the span of the samples.

Descent moves only the part of the weights in the span of the samples: with X = Z B^T, B (d, r) orthonormal and r =
min(n, d), the network on inputs Z with weights W B makes the same steps, and W W^T = (W B)(W B)^T + K with K, what W
has orthogonal to the span, constant. So a run costs m x n numbers whatever d is (`in_span`).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import eigsh


class SmoothLeakyNetwork(eqx.Module):
    """f(x) = sum_j output_j phi(hidden_j . x), phi(z) = slope z + (1 - slope) log((1 + e^z) / 2), output fixed.

    phi' lies in [slope, 1] and |phi''| <= (1 - slope) / 4.
    """

    hidden: Float[Array, "m d"]
    output: Float[Array, " m"]
    slope: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = self.hidden @ x
        return jax.lax.stop_gradient(self.output) @ (
            self.slope * z + (1.0 - self.slope) * (jax.nn.softplus(z) - np.log(2.0))
        )


class Span(NamedTuple):
    """A problem in the span of its samples: inputs Z (n, r), weights W B (m, r), and K (m, m), the Gram matrix of the
    part of W orthogonal to the span."""

    inputs: np.ndarray
    weights: np.ndarray
    outside: np.ndarray


def in_span(hidden: np.ndarray, X: np.ndarray) -> Span:
    """The same descent in min(n, d) dimensions.

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.studies import leaky_relu_span
        >>> W, X = np.array([[1.0, 2.0, 2.0]]), np.array([[2.0, 0.0, 0.0]])
        >>> span = leaky_relu_span.in_span(W, X)
        >>> (span.inputs @ span.weights.T).tolist(), span.outside.tolist()
        ([[2.0]], [[8.0]])

        ```
    """
    basis, triangle = np.linalg.qr(X.T)
    weights = hidden @ basis
    rest = hidden - weights @ basis.T
    return Span(triangle.T, weights, rest @ rest.T)


def stable_rank(weights: np.ndarray, outside: np.ndarray) -> float:
    """||W||_F^2 / ||W||_2^2 of the whole weights."""
    gram = np.asarray(weights) @ np.asarray(weights).T + outside
    if gram.shape[0] < 3:
        return float(np.trace(gram) / np.linalg.eigvalsh(gram)[-1])
    return float(np.trace(gram) / eigsh(gram, k=1, v0=np.ones(len(gram)), return_eigenvectors=False)[0])


def mixture(n: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes x = y mu e_1 + N(0, I), mu = d^0.26."""
    y = np.where(np.arange(n) % 2, -1.0, 1.0)
    X = rng.normal(size=(n, d))
    X[:, 0] += y * d**0.26
    return X, y


def glorot(m: int, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights of Glorot's uniform distribution, and output weights +-1/sqrt(m)."""
    return rng.uniform(-1, 1, size=(m, d)) * np.sqrt(6 / (m + d)), rng.choice([-1.0, 1.0], size=m) / np.sqrt(m)
