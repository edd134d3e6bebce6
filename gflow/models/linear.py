"""The depth-1 linear model, f(x) = beta . x: its flow tends to the l2 max margin."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class LinearModel(eqx.Module):
    """f(x) = beta . x.

    **Arguments:**

    - `beta`: the starting point, shape (d,), or the dimension d for a start at zero.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> model = gflow.models.LinearModel(3)
        >>> model.beta.shape, float(model(jnp.ones(3)))
        ((3,), 0.0)

        ```
    """

    beta: Float[Array, " d"]

    def __init__(self, beta):
        if isinstance(beta, int | np.integer) and not isinstance(beta, bool):
            if beta < 1:
                raise ValueError(f"beta given as a dimension must be at least 1, not {beta}.")
            beta = jnp.zeros(int(beta))
        self.beta = jnp.asarray(beta, float)
        if self.beta.ndim != 1:
            raise ValueError(f"beta must have shape (d,), not {self.beta.shape}.")

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.beta @ x
