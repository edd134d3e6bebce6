"""The data sets of the study, and its flows: one compiled program for each depth, loss and shape."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...losses import Exponential
from ...models import DiagonalNetwork
from ...solve import gradient_flow
from ...solvers import LogRadau
from ...status import Status

# Every flow of the study is saved at so many points, so that all parts share the compiled programs.
SAVES = 48

Report = Callable[[float], None]


def ignore(fraction: float) -> None:
    """A `report` for calls that show no progress."""


def share(report: Report, k: int, count: int, fraction: float) -> None:
    """Report a fraction of the k-th of `count` tasks."""
    report((k + fraction) / count)


def separable(seed: int, samples: int = 4, inputs: int = 6) -> Float[np.ndarray, "N d"]:
    """Gaussian samples with the labels of a random direction, absorbed in the rows.

    !!! example

        ```python
        >>> from gflow.studies.diagonal import problems
        >>> problems.separable(33).shape
        (4, 6)

        ```
    """
    rng = np.random.default_rng(seed)
    X, direction = rng.normal(size=(samples, inputs)), rng.normal(size=inputs)
    return X * np.sign(X @ direction)[:, None]


def sparse_teacher(seed: int = 0, samples: int = 10, inputs: int = 30, nonzero: int = 3) -> Float[np.ndarray, "N d"]:
    """Gaussian samples with the labels of a direction that has few nonzero entries, absorbed in the rows."""
    rng = np.random.default_rng(seed)
    X, teacher = rng.normal(size=(samples, inputs)), np.zeros(inputs)
    teacher[:nonzero] = 1.0
    return X * np.sign(X @ teacher)[:, None]


class Flows(NamedTuple):
    """Flows from several scales; what was not reached is NaN."""

    beta: Float[np.ndarray, "A S d"]
    gamma: Float[np.ndarray, "A S"]
    log_time: Float[np.ndarray, "A S"]
    status: np.ndarray  # (A,), see gflow.Status

    @property
    def arrived(self) -> np.ndarray:
        return self.status == Status.success

    @property
    def direction(self) -> Float[np.ndarray, "A S d"]:
        """beta / gamma, which tends to margin 1."""
        return self.beta / self.gamma[..., None]


@eqx.filter_jit
def _flow(
    depth: int, scale: Array, X: Array, y: Array, loss: Any, save: Array, rtol: Array
) -> tuple[Array, Array, Array, Array]:
    traj = gradient_flow(
        DiagonalNetwork(X.shape[1], depth, scale), X, y, loss=loss, save=save, solver=LogRadau(),
        rtol=rtol, throw=False,
    )  # fmt: skip
    return traj.model.beta, traj.neg_log_loss, traj.log_time, traj.status_code


def flows(
    X: Any, depth: int, scales: Any, save: Any, *, y: Any = None, loss: Any = Exponential(), rtol: float = 1e-8,  # noqa: B008
    report: Report = ignore,
) -> Flows:  # fmt: skip
    """Flows of diagonal networks on rows y_n x_n.

    **Arguments:**

    - `X` (N, d): the rows; `depth`: D; `scales` (A,): initial scales.
    - `save` (S,) or (A, S): values of gamma = -log L, increasing. S = `SAVES` compiles nothing new.
    - `y` (N,): targets, of the square loss. `loss`, `rtol`: as in `gflow.gradient_flow`.

    **Returns:** `Flows`.
    """
    X, tolerance = jnp.asarray(X, float), jnp.asarray(rtol, float)
    y = jnp.ones(X.shape[0]) if y is None else jnp.asarray(y, float)
    scales = np.asarray(scales, float)
    save = np.broadcast_to(np.asarray(save, float), (scales.size, np.shape(save)[-1]))
    found = []
    for k, scale in enumerate(scales):
        found.append(_flow(depth, jnp.asarray(scale), X, y, loss, jnp.asarray(save[k]), tolerance))
        report((k + 1) / scales.size)
    return Flows(*(np.array([one[i] for one in found]) for i in range(4)))


def relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| / |b| over the last axis."""
    return np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """d log y / d log x between neighbours on the last axis."""
    return np.diff(np.log(y), axis=-1) / np.diff(np.log(x), axis=-1)
