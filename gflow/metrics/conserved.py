"""Conserved quantities of the flow: of diagonal networks per coordinate, of layers their balance."""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ..models import DiagonalNetwork
from .parameters import log_weights


def balancedness(model: Any, *, reference: Any = None, linear: bool | None = None) -> Float[Array, ""]:
    """How far the conserved quantities of the flow are from their values at the start; 0 on the exact flow.

    - `DiagonalNetwork`: u_+ u_- (depth 2) or u_+^(2-D) + u_-^(2-D) (depth D > 2), one per coordinate. Returned is the
      largest relative deviation from `reference`, by default from the start at u_+ = u_- = scale.
    - Layers W_1, ..., W_L with biases b_l: G_l = W_{l+1}^T W_{l+1} - W_l W_l^T - b_l b_l^T if the layers are linear,
      and the diagonal of G_l, one entry per hidden neuron, for activations that are homogeneous of degree 1 (ReLU,
      leaky ReLU). Returned is the largest over l of ||G_l - G_l(reference)|| /
      (||W_{l+1}^T W_{l+1}|| + ||W_l W_l^T + b_l b_l^T||), in the Frobenius norm, or for neurons that of the diagonals.
      Without a `reference` G_l is compared with 0, balanced layers; the value is then at most 1.

    **Arguments:**

    - `model`: a `DiagonalNetwork`; a model with `layers` that have a `weight` (out, in) and perhaps a `bias` (out,), as
      `equinox.nn.MLP` and `equinox.nn.Sequential`; or the list of the weights in the order in which they are applied,
      the last of which may be a vector.
    - `reference`: where the flow starts, of the same kind as `model`.
    - `linear`: whether the layers are linear. By default yes for a list and no for a model with `layers`.

    **Returns:** a scalar >= 0. It does not depend on the scale, and is at the level of the tolerance of the flow.

    **Raises:** `ValueError` for models without such layers and for activations that are not homogeneous.

    Source: Du, Hu & Lee 2018 (arXiv 1806.00900), theorems 2.1 and 2.2; for diagonal networks, Moroshko et al. 2020
    (arXiv 2007.06738).

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> float(gflow.metrics.balancedness([jnp.eye(2), jnp.eye(2)]))
        0.0
        >>> float(gflow.metrics.balancedness([2 * jnp.eye(2), jnp.eye(2)]))  # (4 - 1) / (4 + 1)
        0.6

        ```
    """
    if isinstance(model, DiagonalNetwork):
        return _diagonal_balancedness(model, reference)
    layers, linear = _layers("model", model, linear)
    start = None if reference is None else _layers("reference", reference, linear)[0]
    if start is not None and [W.shape for W in start] != [W.shape for W in layers]:
        raise ValueError(
            f"reference must have the layers of model, of shapes {[W.shape for W in layers]} (biases included), not "
            f"{[W.shape for W in start]}."
        )
    # A common factor keeps the squares inside float64.
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(W)) for W in (*layers, *(start or []))]))
    top = jnp.where(top > 0, top, 1.0)
    pairs = _grams(layers, top, linear)
    origin = [0.0] * len(pairs) if start is None else [above - below for above, below in _grams(start, top, linear)]
    worst = []
    for (above, below), g in zip(pairs, origin, strict=True):
        size = jnp.sqrt(jnp.sum(above**2)) + jnp.sqrt(jnp.sum(below**2))
        gap = jnp.sqrt(jnp.sum((above - below - g) ** 2))
        worst.append(jnp.where(gap == 0, 0.0, gap / size))
    return jnp.max(jnp.stack(worst))


def _diagonal_balancedness(model: DiagonalNetwork, reference: Any) -> Array:
    if reference is None:
        reference = eqx.tree_at(lambda m: m.log_ratio, model, jnp.zeros_like(model.log_ratio))
    shape = model.log_ratio.shape
    if (
        not isinstance(reference, DiagonalNetwork)
        or reference.depth != model.depth
        or reference.log_ratio.shape != shape
    ):
        raise ValueError(
            f"reference must be a DiagonalNetwork of {shape[-1]} inputs and depth {model.depth} like model, or None "
            "for its own start."
        )
    growth = (model.log_scale - reference.log_scale)[None] + (model.log_ratio - reference.log_ratio)
    if model.depth == 2:
        return jnp.max(jnp.abs(jnp.expm1(jnp.sum(growth, axis=0))))
    power = 2 - model.depth
    share = jax.nn.softmax(power * log_weights(reference), axis=0)
    return jnp.max(jnp.abs(jnp.sum(share * jnp.expm1(power * growth), axis=0)))


def _layers(name: str, model: Any, linear: bool | None) -> tuple[list[Array], bool]:
    """The matrices [W_l, b_l] of a model, and whether its layers are linear."""
    if isinstance(model, list | tuple):
        matrices = [jnp.asarray(W) for W in model]
        if matrices and matrices[-1].ndim == 1:
            matrices[-1] = matrices[-1][None]
        _check_matrices(name, matrices, matrices)
        return matrices, True if linear is None else linear
    layers = getattr(model, "layers", None)
    if not isinstance(layers, Sequence):
        raise ValueError(
            f"{name} must be a DiagonalNetwork, a model with layers or a list of weight matrices, not "
            f"{type(model).__name__}; for other models pass the list."
        )
    weighted = [layer for layer in layers if getattr(layer, "weight", None) is not None]
    between = [layer for layer in layers if getattr(layer, "weight", None) is None]
    for activation in [*between, *([model.activation] if hasattr(model, "activation") else [])]:
        _check_homogeneous(name, activation)
    matrices = [jnp.asarray(layer.weight) for layer in weighted]
    biased = [
        W if getattr(layer, "bias", None) is None else jnp.concatenate([W, layer.bias[:, None]], axis=1)
        for W, layer in zip(matrices, weighted, strict=True)
        if W.ndim == 2
    ]
    _check_matrices(name, matrices, biased)
    return biased, False if linear is None else linear


def _check_matrices(name: str, matrices: list[Array], biased: list[Array]) -> None:
    shapes = [W.shape for W in matrices]
    fits = len(shapes) >= 2 and all(len(shape) == 2 for shape in shapes)
    if not fits or any(after[1] != before[0] for before, after in itertools.pairwise(shapes)):
        raise ValueError(
            f"{name} must hold at least two weight matrices of shapes (n_1, n_0), (n_2, n_1), ..., not {shapes}; "
            "list them in the order in which they are applied."
        )
    for W in biased:
        if W.dtype != jnp.float64:
            raise ValueError(f"{name} must hold float64 arrays only, but it has a weight of {W.dtype}; convert it.")


def _check_homogeneous(name: str, activation: Any) -> None:
    """Refuse activations that are plainly not homogeneous of degree 1; one with traced parameters is trusted."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(activation)):
        return
    with jax.ensure_compile_time_eval():
        z = jnp.asarray([-1.5, -0.5, 0.5, 2.0])
        try:
            good = bool(jnp.allclose(2.0 * activation(z), activation(2.0 * z), rtol=1e-12, atol=0.0))
        except Exception:
            good = False
    if not good:
        raise ValueError(
            f"{name} must have activations that are homogeneous of degree 1, such as jax.nn.relu, but "
            f"{getattr(activation, '__name__', type(activation).__name__)} is not; it conserves no such quantity."
        )


def _grams(layers: list[Array], top: Array, linear: bool) -> list[tuple[Array, Array]]:
    """W_{l+1}^T W_{l+1} and W_l W_l^T + b_l b_l^T for each hidden layer, or their diagonals."""
    pairs = []
    for below, above in itertools.pairwise(layers):
        W, V = below / top, above[:, : below.shape[0]] / top
        pairs.append((V.T @ V, W @ W.T) if linear else (jnp.sum(V**2, axis=0), jnp.sum(W**2, axis=1)))
    return pairs
