"""The modified flow of gradient descent.

Descent with step eta follows the flow of L up to O(eta), and the flow of L + (eta / 4) ||grad L||^2 up to O(eta^2)
(backward error analysis: Barrett & Dherin 2021, arXiv 2009.11162).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .flow import Flow, Rate, Sight
from .validate import real, traced


class ModifiedFlow(Flow):
    """The flow of L + (eta / 4) ||grad L||^2, in coordinates of which the parameters are a function each."""

    eta: Float[Array, ""]
    explicit: ClassVar[bool] = True

    def gamma(self, a):
        """-log of the modified loss, gamma - log(1 + (eta / 4) L ||grad gamma||^2)."""
        gamma, slope = jax.value_and_grad(super().gamma)(a)
        return gamma - jnp.log1p(0.25 * self.eta * jnp.exp(-gamma) * jnp.sum(self.chart.inverse_metric(a) * slope**2))

    def rate(self, a):
        slope = jax.grad(self.gamma)(a)
        v = self.chart.inverse_metric(a) * slope
        pace = 1.0 / self.chart.speed(a, v)
        return Rate(v * pace, jnp.sum(slope * v) * pace, jnp.log(pace))

    def sight(self, a) -> Sight:
        return self._with_gamma(super().sight(a), a)

    def error(self, e, before, seen, after):
        size, sight = super().error(e, before, seen, after)
        return size, self._with_gamma(sight, after[:-1])

    def _with_gamma(self, sight: Sight, a: Array) -> Sight:
        gamma = self.gamma(a)
        return sight._replace(gamma=gamma, log_unit=self.log_unit(gamma))


def check_eta(eta: Any) -> None:
    if not real(eta) or np.ndim(eta) or (not traced(eta) and not 0 <= eta < math.inf):
        raise ValueError(f"eta must be a step size of at least 0, not {eta!r}.")


def modified(flow: Callable[..., Any], eta: float | Float[Array, ""]) -> Callable[..., Any]:
    """The flow that gradient descent with step `eta` follows up to O(eta^2), that of L + (eta / 4) ||grad L||^2.

    **Arguments:**

    - `flow`: `gflow.gradient_flow`, or a function with its arguments.
    - `eta`: the step size, at least 0. It can be an array: other values do not compile anew.

    **Returns:** a function with the arguments of `flow`, for models that are twice differentiable: those that declare
    kinks are refused, and one with kinks that it does not declare stalls at the first. Along it gamma, on the clock of
    the loss and in `traj.neg_log_loss`, is that of the modified loss; time is that of descent, t = eta k after k steps.
    It is solved by explicit Diffrax solvers (Dormand and Prince's order 8 by default), with products of the Hessian and
    a vector.

    **Raises:** `ValueError` for bad input.

    Source: Barrett & Dherin 2021 (arXiv 2009.11162), theorem 3.1.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.ones((1, 1)), jnp.ones(1)
        >>> loss, eta = gflow.losses.Square(), 0.1
        >>> modified_flow = gflow.modified(gflow.gradient_flow, eta)
        >>> traj = modified_flow(gflow.models.LinearModel(1), X, y, loss=loss, clock=gflow.TimeClock(), stop=2.0)
        >>> exact = 1 - jnp.exp(-2.0 * (1 + eta / 2))  # beta' = (1 + eta / 2) (1 - beta)
        >>> bool(abs(traj.final.beta[0] - exact) < 1e-7)
        True

        ```
    """
    if not callable(flow) or getattr(flow, "__name__", "") == "gradient_descent":
        raise ValueError(f"flow must be gflow.gradient_flow, or a function with its arguments, not {flow!r}.")
    check_eta(eta)
    return functools.partial(flow, eta=eta)
