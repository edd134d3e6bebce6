"""How a model declares its pre-activations, and the check that they are those of its outputs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..charts import EuclideanChart
from ..validate import real, traced


class HiddenLayer(eqx.Module):
    """f(x) = sum_j output_j phi(z_j), z_j = hidden_j . x + bias_j, phi(z) = max(z, slope z).

    A model whose outputs have this form declares it by two methods, and `gradient_flow` then follows its kinks:

    - `model.hidden_layer()` returns its `HiddenLayer`;
    - `model.with_hidden_layer(layer)` returns the model with the arrays of another one. It must put them back as they
      are (no reparametrization), for the flow moves them.

    **Arguments:**

    - `hidden`: (m, d). `output`: (m,). `bias`: (m,), or None for no bias.
    - `slope`: of phi for z < 0, between 0 (ReLU) and 1 (linear).
    - `train_output`: whether `output` moves. `hidden` and `bias` always do, and nothing else.

    **Raises:** `ValueError` for no neurons, shapes that do not fit, or a slope outside [0, 1].

    !!! example

        ```python
        >>> import equinox as eqx, gflow, jax, jax.numpy as jnp
        >>> class Committee(eqx.Module):
        ...     W: jax.Array
        ...     def __call__(self, x):
        ...         return jnp.mean(jax.nn.relu(self.W @ x))
        ...     def hidden_layer(self):
        ...         m = self.W.shape[0]
        ...         return gflow.kinks.HiddenLayer(self.W, jnp.full(m, 1 / m), slope=0.0, train_output=False)
        ...     def with_hidden_layer(self, layer):
        ...         return Committee(layer.hidden)
        >>> model = Committee(jnp.array([[1.0, -0.6], [0.3, 1.0]]))
        >>> x = jnp.array([1.0, 2.0])
        >>> float(model(x)), float(model.hidden_layer()(x))
        (1.15, 1.15)

        ```
    """

    hidden: Float[Array, "m d"]
    output: Float[Array, " m"]
    bias: Float[Array, " m"] | None = None
    slope: float = eqx.field(default=0.0, static=True)
    train_output: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        number = isinstance(self.slope, int | float | np.number) and not isinstance(self.slope, bool)
        if not number:
            raise ValueError(f"slope must be a Python number between 0 (ReLU) and 1 (linear), not {self.slope!r}.")
        if not 0 <= self.slope <= 1:
            raise ValueError(f"slope must lie between 0 (ReLU) and 1 (linear), not {self.slope!r}.")
        if not isinstance(self.train_output, bool | np.bool_):
            raise ValueError(f"train_output must be True or False, not {self.train_output!r}.")
        shape = np.shape(self.hidden)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"hidden must have shape (neurons, inputs) with at least one of each, not {shape}.")
        for name, value in (("output", self.output), ("bias", self.bias)):
            if value is not None and np.shape(value) != shape[:1]:
                raise ValueError(f"{name} must have one entry a neuron, shape {shape[:1]}, not {np.shape(value)}.")

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = self.hidden @ x
        z = z if self.bias is None else z + self.bias
        output = self.output if self.train_output else jax.lax.stop_gradient(self.output)
        return output @ jnp.where(z > 0, z, self.slope * z)


def declared(model: Any) -> bool:
    """Whether the model declares its pre-activations."""
    return hasattr(model, "hidden_layer")


def check_layer(model: Any, X: Any) -> None:
    """Compare outputs and gradients of the model with those of its declared layer: at the model, beside it, and with
    all pre-activations of either sign and of other sizes."""
    if not callable(model.hidden_layer):
        name = type(model).__name__
        raise ValueError(f"hidden_layer of {name} must be a method that returns a gflow.kinks.HiddenLayer.")
    layer = model.hidden_layer()
    if not isinstance(layer, HiddenLayer):
        raise ValueError(f"hidden_layer() must return a gflow.kinks.HiddenLayer, not {type(layer).__name__}.")
    if not hasattr(model, "with_hidden_layer"):
        raise ValueError(f"{type(model).__name__} declares hidden_layer() and must have with_hidden_layer(layer) too.")
    if not callable(model.with_hidden_layer(layer)):
        raise ValueError(f"with_hidden_layer(layer) of {type(model).__name__} must return a model.")
    if np.ndim(X) != 2 or np.shape(X)[1] != layer.hidden.shape[1]:
        raise ValueError(
            f"X must have shape (N, {layer.hidden.shape[1]}), the inputs of the declared layer, not {np.shape(X)}."
        )
    if traced(model, X):
        return
    if layer.bias is None and not np.any(X):
        raise ValueError("X must hold a sample that is not zero: a layer without biases never moves there.")
    found, wanted = _probe(model, layer, jnp.asarray(X, float))
    if not all(np.all(np.isfinite(v)) for v in wanted):
        raise ValueError(
            f"the outputs of {type(model).__name__} or their squared gradients exceed float64 on these data; scale "
            "the weights or X down."
        )
    names = "outputs", "outputs with other weights of either sign, by with_hidden_layer,", "gradients"
    for name, a, b in zip(names, found, wanted, strict=True):
        error = np.max(np.abs(np.atleast_2d(a - b)), axis=1)
        wrong = ~(error <= 1e-9 * np.max(np.abs(np.atleast_2d(b)), axis=1) + np.finfo(float).tiny)
        if np.any(wrong):
            raise ValueError(
                f"{type(model).__name__}.hidden_layer() disagrees with the model: their {name} on the data differ by "
                f"up to {error[wrong][0]:.3g}; declare the pre-activations that the model uses."
            )


_FACTORS = (1.0, -1.0, 1e3, -1e3, 1e-3, -1e-3)


@eqx.filter_jit
def _probe(model: Any, layer: HiddenLayer, X: Array) -> tuple:
    """Outputs on the data, the same of models beside the given parameters, and squared gradients of the outputs there.

    The models beside have their pre-activations multiplied by `_FACTORS`: whatever the weights and the data are, every
    neuron is on both sides of every sample's kink.
    """
    arrays, rest = eqx.partition(layer, eqx.is_array)
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(arrays))))
    shift = lambda v: v + 0.1 * (jnp.sqrt(jnp.mean(v**2)) + 1e-3) * jax.random.normal(next(keys), v.shape)
    moved = eqx.combine(jax.tree.map(shift, arrays), rest)
    if not layer.train_output:
        moved = eqx.tree_at(lambda v: v.output, moved, layer.output)
    beside = model.with_hidden_layer(moved)

    def scaled(factor):
        hidden, bias = factor * moved.hidden, None if moved.bias is None else factor * moved.bias
        layer = eqx.tree_at(lambda v: (v.hidden, v.bias), moved, (hidden, bias), is_leaf=lambda v: v is None)
        return seen(model.with_hidden_layer(layer)), seen(layer)

    def gradients(m):
        grad = lambda x: jax.tree.leaves(eqx.filter_grad(lambda m: m(x))(m))
        return sum(jnp.sum(v.reshape(X.shape[0], -1) ** 2, axis=1) for v in jax.vmap(grad)(X))

    seen = lambda m: jax.vmap(m)(X)
    outputs, known = jax.lax.map(scaled, jnp.asarray(_FACTORS))
    return (seen(model), outputs, gradients(beside)), (seen(layer), known, gradients(moved))


def kink_slope(at_kink: Any, layer: HiddenLayer) -> Array:
    """`at_kink` as a number: the slope at zero, or -1 for "stay"."""
    if isinstance(at_kink, str) and at_kink in ("leave", "stay"):
        return jnp.asarray(-1.0 if at_kink == "stay" else 0.5 * (1.0 + layer.slope))
    number = not isinstance(at_kink, bool) and real(at_kink) and np.ndim(at_kink) == 0
    if not number or not (traced(at_kink) or layer.slope <= float(at_kink) <= 1):
        raise ValueError(f"at_kink must be 'leave', 'stay' or a slope from {layer.slope:g} to 1, not {at_kink!r}.")
    return jnp.asarray(at_kink, float)


def refuse_choice(model: Any, at_kink: Any) -> None:
    """Of a model that declares no kinks, which has none that `at_kink` could choose at."""
    if not (isinstance(at_kink, str) and at_kink == "leave"):
        raise ValueError(
            f"at_kink={at_kink!r} is for models that declare their kinks by hidden_layer(), which "
            f"{type(model).__name__} does not; leave it out, or see gflow.kinks.HiddenLayer."
        )


def has_undeclared_kinks(flow: Any) -> bool:
    """Whether a model in its plain parameters computes with operations that have kinks."""
    if not isinstance(flow.chart, EuclideanChart):
        return False
    model = flow.chart.template
    return bool(_KINKED & _operations(eqx.filter_make_jaxpr(model)(flow.X[0])[0].jaxpr))


_KINKED = {"max", "min", "abs", "sign", "select_n", "clamp", "floor", "ceil", "round", "cond", "sqrt", "pow", "cbrt"}
_KINKED |= {"reduce_max", "reduce_min", "argmax", "argmin", "sort", "top_k", "cummax", "cummin"}
_KINKED |= {"reduce_window_max", "reduce_window_min", "reduce_window", "select_and_gather_add"}
# A slope may be chosen by a product as well, z * (z > 0).
_KINKED |= {"gt", "ge", "lt", "le"}


def _operations(jaxpr: Any) -> set[str]:
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    names |= _operations(inner)
    return names
