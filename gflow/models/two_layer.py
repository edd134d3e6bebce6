"""Two-layer networks of ReLU or leaky ReLU units, and the single neuron."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..kinks.layer import HiddenLayer
from ..validate import check_array


class TwoLayerNetwork(eqx.Module):
    """f(x) = sum_j output_j phi(hidden_j . x + bias_j), phi(z) = max(z, slope z).

    `gflow.gradient_flow` follows its kinks exactly (see `gflow.kinks`).

    **Arguments:**

    - `hidden`: weights, shape (m, d). `output`: shape (m,). `bias`: shape (m,), or None (default) for no bias.
    - `slope`: of phi for negative arguments, from 0 (ReLU) to 1 (linear).
    - `train_output`: whether the output weights move.

    **Raises:** `ValueError` for no neurons, weights that are not real, shapes that do not fit, or a slope outside
    [0, 1].

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> hidden, output = jnp.array([[1.0, 2.0], [0.5, -1.0]]), jnp.array([1.0, -1.0])
        >>> model = gflow.models.TwoLayerNetwork(hidden, output, slope=0.1)
        >>> float(model(jnp.array([1.0, 1.0])))  # 3 - 0.1 * (-0.5)
        3.05

        ```
    """

    hidden: Float[Array, "*saves m d"]
    output: Float[Array, "*saves m"]
    bias: Float[Array, "*saves m"] | None
    slope: float = eqx.field(static=True)
    train_output: bool = eqx.field(static=True)

    def __init__(self, hidden: Any, output: Any, slope: float = 0.1, train_output: bool = True, bias: Any = None):
        for name, value in (("hidden", hidden), ("output", output), ("bias", 0 if bias is None else bias)):
            check_array(name, value)
        self.hidden, self.output = jnp.asarray(hidden, float), jnp.asarray(output, float)
        self.bias = None if bias is None else jnp.asarray(bias, float)
        self.slope = slope.item() if isinstance(slope, np.number) else slope
        self.train_output = train_output
        self.hidden_layer()

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.hidden_layer()(x)

    def hidden_layer(self) -> HiddenLayer:
        return HiddenLayer(self.hidden, self.output, self.bias, self.slope, self.train_output)

    def with_hidden_layer(self, layer: HiddenLayer) -> "TwoLayerNetwork":
        return TwoLayerNetwork(layer.hidden, layer.output, self.slope, self.train_output, layer.bias)


class ReLUNeuron(eqx.Module):
    """f(x) = phi(weights . x), phi(z) = max(z, slope z).

    **Arguments:**

    - `weights`: shape (d,).
    - `slope`: of phi for negative arguments, 0 by default.

    **Raises:** `ValueError` for weights that are not a real vector or a slope outside [0, 1].

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> float(gflow.models.ReLUNeuron(jnp.array([1.0, -2.0]))(jnp.array([1.0, 1.0])))
        0.0

        ```
    """

    weights: Float[Array, "*saves d"]
    slope: float = eqx.field(static=True)

    def __init__(self, weights: Any, slope: float = 0.0):
        check_array("weights", weights)
        self.weights = jnp.asarray(weights, float)
        self.slope = slope.item() if isinstance(slope, np.number) else slope
        if self.weights.ndim != 1 or self.weights.size == 0:
            raise ValueError(f"weights must have shape (d,), not {self.weights.shape}.")
        self.hidden_layer()

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.hidden_layer()(x)

    def hidden_layer(self) -> HiddenLayer:
        return HiddenLayer(self.weights[None], jnp.ones(1), slope=self.slope, train_output=False)

    def with_hidden_layer(self, layer: HiddenLayer) -> "ReLUNeuron":
        return ReLUNeuron(layer.hidden[0], self.slope)
