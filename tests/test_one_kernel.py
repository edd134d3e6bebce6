"""Loops compiled whole: the same numbers, and only what can be compiled so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow import one_kernel


@pytest.mark.parametrize("n", [1, 2, 3, 7, 30])
def test_elimination(n):
    rng = np.random.default_rng(n)
    A, b = rng.normal(size=(n, n)), rng.normal(size=(n, 2))
    # Rows must change places.
    A[0, 0] = 1e-18 if n > 1 else 1.0
    np.testing.assert_allclose(one_kernel.eliminate(jnp.asarray(A), jnp.asarray(b)), np.linalg.solve(A, b), rtol=1e-9)
    assert not np.all(np.isfinite(one_kernel.eliminate(jnp.zeros((n, n)), jnp.ones((n, 1)))))


def newton(A):
    """The root of a matrix, by Newton steps each of which solves a system."""
    solve = one_kernel.eliminate if one_kernel.inside() else jnp.linalg.solve
    return jax.lax.while_loop(
        lambda Y: jnp.max(jnp.abs(Y @ Y - A)) > 1e-9, lambda Y: (Y + solve(Y, A)) / 2.0, jnp.eye(len(A))
    )


def sorted_newton(A):
    return newton(A) + jnp.sort(A)


@pytest.mark.parametrize("function, possible", [(newton, True), (sorted_newton, False)])
def test_only_where_it_is_allowed_and_possible(function, possible):
    A = jnp.diag(jnp.arange(1.0, 9.0)) + 0.1
    expected = function(A)

    def text(allow):
        def program(A):
            if not allow:
                return one_kernel.one_kernel(function)(A)
            with one_kernel.allowed():
                return one_kernel.one_kernel(function)(A)

        compiled = jax.jit(program, compiler_options=one_kernel.options()).lower(A)
        np.testing.assert_allclose(compiled.compile()(A), expected, atol=1e-9)
        return compiled.as_text()

    assert "xla_cpu_small_call" not in text(False)
    assert ("xla_cpu_small_call" in text(True)) == (possible and one_kernel.options() is not None)


def test_what_is_not_an_array_comes_back():
    with one_kernel.allowed():
        run = one_kernel.one_kernel(lambda x, name: {"twice": 2.0 * x, name: None})
        assert jax.jit(lambda x: run(x, "name")["twice"])(jnp.ones(3)).tolist() == [2.0] * 3
