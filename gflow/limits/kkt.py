"""How far a beta is from the limits: the residual of the l_(2/D) conditions, and excesses of norm.

At fixed scale the parameters u, |beta_i| = u_i^D, converge in direction to a stationary point of

    min ||u||_2^2 / 2   such that   y_n x_n . beta >= 1,

that is of min ||beta||_(2/D) (Lyu & Li 2020, arXiv 1906.05890; Ji & Telgarsky 2020, arXiv 2006.06657). With
s_i = sign(beta_i), multipliers lambda_n >= 0 and m_n = y_n x_n . beta the conditions are

    u_i = D u_i^(D-1) s_i sum_n lambda_n y_n x_ni,      lambda_n (m_n - 1) = 0,      m_n >= 1.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from .checks import check_data, check_depth
from .result import L1MaxMargin, MaxMargin


def kkt_residual(beta: ArrayLike, X: ArrayLike, y: ArrayLike, *, depth: int) -> Float[np.ndarray, "*S"]:
    """How far the direction of `beta` is from a stationary point of min ||beta||_(2/depth), margins >= 1.

    With beta scaled to margin 1, U = ||u||_2^2 = ||beta||_(2/D)^(2/D) and multipliers lambda = U kappa / D it is the
    least over kappa >= 0 of

        ( sum_i (u_i - U u_i^(D-1) s_i (X^T kappa)_i)^2 / U  +  sum_n (kappa_n (m_n - 1))^2 )^(1/2),

    a number without units: 0 at stationary points, and 1 for kappa = 0. Coordinates with beta_i = 0 are stationary for
    any multipliers; for depth 2, whose problem is min ||beta||_1, they must also satisfy U |X^T kappa|_i <= 1, and the
    result is at least the largest violation of this.

    **Arguments:**

    - `beta` (..., d): the directions, of any length.
    - `X` (N, d): the samples.
    - `y` (N,): their labels, -1 or +1.
    - `depth`: D >= 2.

    **Returns:** an array (...), infinite where `beta` does not separate the data.

    **Raises:** ValueError for wrong shapes, labels or values.

    !!! example

        ```python
        >>> from gflow.limits import kkt_residual
        >>> X, y = [[3.0, 4.0]], [1]
        >>> [round(float(kkt_residual(beta, X, y, depth=3)), 12) for beta in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])]
        [0.0, 0.0, 0.141421356237]

        ```
    """
    rows, depth = check_data(X, y), check_depth(depth)
    betas = np.asarray(beta, dtype=np.float64)
    if betas.ndim == 0 or betas.shape[-1] != rows.shape[1]:
        raise ValueError(f"beta must have shape (..., {rows.shape[1]}) for these data, not {betas.shape}.")
    if not np.all(np.isfinite(betas)):
        raise ValueError("beta must be finite, but it holds NaN or infinite values; drop those points.")
    values = [_residual(one, rows, depth) for one in betas.reshape(-1, rows.shape[1])]
    return np.reshape(values, betas.shape[:-1])[()]


def _residual(beta: np.ndarray, rows: np.ndarray, depth: int) -> float:
    margin = (rows @ beta).min()
    if margin <= 0:
        return np.inf
    beta = beta / margin
    u = np.abs(beta) ** (1 / depth)
    length = np.linalg.norm(u)
    pull = rows * (np.sign(beta) * u ** (depth - 1) * length)
    system = np.vstack([pull.T, np.diag(rows @ beta - 1)])
    goal = np.append(u / length, np.zeros(len(rows)))
    # NNLS forms normal equations: columns of size 1 keep them within range.
    size = np.linalg.norm(system, axis=0)
    size = np.where(size > 0, size, 1.0)
    kappa, residual = nnls(system / size, goal, maxiter=30 * system.shape[1])
    if depth == 2:
        residual = max(residual, float(np.max(length**2 * np.abs(rows.T @ (kappa / size))) - 1))
    return float(residual)


def excess_l1(direction: ArrayLike, solution: MaxMargin) -> Float[np.ndarray, "*S"]:
    """||direction||_1 / ||beta||_1 - 1, with beta the l1 max-margin solution and direction the beta / gamma of a flow.

    **Arguments:**

    - `direction` (..., d): beta / gamma, gamma = -log L, for which it tends to margin 1; or any beta of margin 1.
    - `solution`: what `l1_max_margin` returned for the same data.

    **Returns:** an array (...). It is negative where the margin of `direction` is still below 1.

    **Raises:** ValueError if the shapes do not match.

    Source: Moroshko et al. 2020, arXiv 2007.06738.

    !!! example

        ```python
        >>> from gflow.limits import excess_l1, l1_max_margin, l2_max_margin
        >>> X, y = [[3.0, 4.0]], [1]
        >>> float(excess_l1(l2_max_margin(X, y).beta, l1_max_margin(X, y)))
        0.12

        ```
    """
    return _excess(direction, solution, 1)


def excess_l2(direction: ArrayLike, solution: MaxMargin) -> Float[np.ndarray, "*S"]:
    """||direction||_2 / ||beta||_2 - 1, with beta the l2 max-margin solution; otherwise as `excess_l1`.

    **Arguments:**

    - `direction` (..., d): beta / gamma, or any beta of margin 1.
    - `solution`: what `l2_max_margin` returned for the same data.

    **Returns:** an array (...).

    **Raises:** ValueError if the shapes do not match.

    !!! example

        ```python
        >>> from gflow.limits import excess_l2, l1_max_margin, l2_max_margin
        >>> X, y = [[3.0, 4.0]], [1]
        >>> float(excess_l2(l1_max_margin(X, y).beta, l2_max_margin(X, y)))
        0.25

        ```
    """
    return _excess(direction, solution, 2)


def _excess(direction: ArrayLike, solution: MaxMargin, order: int) -> Float[np.ndarray, "*S"]:
    fits = isinstance(solution, L1MaxMargin) if order == 1 else type(solution) is MaxMargin
    if not fits or solution.beta.ndim != 1:
        raise ValueError(f"solution must be what l{order}_max_margin returned, not {type(solution).__name__}.")
    direction, d = np.asarray(direction, dtype=np.float64), len(solution.beta)
    if direction.ndim == 0 or direction.shape[-1] != d:
        raise ValueError(f"direction must have shape (..., {d}) like the beta of solution, not {direction.shape}.")
    return np.linalg.norm(direction, order, axis=-1) / np.linalg.norm(solution.beta, order) - 1
