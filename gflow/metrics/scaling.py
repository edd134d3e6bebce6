"""Arithmetic on numbers that may lie outside float64, as a value of moderate size and the logarithm of its factor."""

import jax.numpy as jnp
from jaxtyping import Array


def positive(value: Array) -> Array:
    return jnp.where(value > 0, value, 1.0)


def finite_max(exponent: Array) -> Array:
    top = jnp.max(exponent)
    return jnp.where(jnp.isfinite(top), top, 0.0)


def times_exp(value: Array, exponent: Array) -> Array:
    """value * e^exponent, also where e^exponent alone is outside float64."""
    half = jnp.exp(exponent / 2.0)
    return jnp.where(value == 0, 0.0, value * half * half)


def frobenius(value: Array) -> Array:
    return jnp.sqrt(jnp.sum(value**2))


def log_frobenius(value: Array, log_factor: Array) -> Array:
    top = jnp.max(jnp.abs(value))
    return log_factor + jnp.log(top) + jnp.log(frobenius(value / positive(top)))
