"""The potentials against mpmath, and their identities."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from gflow.limits.potentials import h, h_inverse, h_inverse_pair, q, q_conjugate

DEPTHS = (2, 3, 4, 5, 6, 10, 50)
DECADES = (-300, -200, -100, -20, -8, -3, 3, 8, 17, 30, 100, 200, 300)
SIZES = np.concatenate([[10.0**k for k in DECADES], np.geomspace(1e-2, 1e2, 41)])


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(280):
        yield


def exact_h(w, c, depth):
    """h at w, or at 1 - c where c is given, without cancellation."""
    if depth == 2:
        return 2 * mp.sinh(w)
    p = mp.mpf(depth) / (depth - 2)
    if c is None:
        return 2 * (1 - w * w) ** (-p / 2) * mp.sinh(p * mp.atanh(w))
    return c**-p - (2 - c) ** -p


def exact_conjugate(w, c, depth):
    if depth == 2:
        return 4 * mp.sinh(w / 2) ** 2
    r = mp.mpf(2) / (depth - 2)
    if c is None:
        return (2 * (1 - w * w) ** (-r / 2) * mp.cosh(r * mp.atanh(w)) - 2) / r
    return (c**-r + (2 - c) ** -r - 2) / r


def elasticity(w, c, depth):
    """d log h / d log w, or d log h / d log c."""
    if depth == 2:
        return w / mp.tanh(w)
    p = mp.mpf(depth) / (depth - 2)
    if c is None:
        return w * p * ((1 - w) ** (-p - 1) + (1 + w) ** (-p - 1)) / exact_h(w, None, depth)
    return c * p * (c ** (-p - 1) + (2 - c) ** (-p - 1)) / exact_h(None, c, depth)


@pytest.mark.parametrize("depth", DEPTHS)
def test_accuracy(depth):
    w, c = h_inverse_pair(SIZES, depth)
    forward, conjugate, potential = h(w, depth, complement=c), q_conjugate(w, depth, complement=c), q(SIZES, depth)
    for k, s in enumerate(SIZES):
        near = depth > 2 and w[k] > 0.5
        wk, ck = (None, mp.mpf(c[k])) if near else (mp.mpf(w[k]), None)
        value = exact_h(wk, ck, depth)
        # The error of the inverse is that of the equation which it should solve, over its elasticity.
        assert abs(value / mp.mpf(s) - 1) / elasticity(wk, ck, depth) < 1e-15
        assert abs(forward[k] / value - 1) < 2e-15
        if s > 1e-150:  # of order s^2
            dual = exact_conjugate(wk, ck, depth)
            assert abs(conjugate[k] / dual - 1) < 2e-15
            # s w - q*(w) is stationary at the w sought: an error of w in the last place does not matter.
            point = 1 - ck if near else wk
            assert abs(potential[k] / (s * point - dual) - 1) < 2e-15


@pytest.mark.parametrize("depth", DEPTHS)
def test_symmetry_and_origin(depth):
    assert np.array_equal(h_inverse(-SIZES, depth), -h_inverse(SIZES, depth))
    assert np.array_equal(q(-SIZES, depth), q(SIZES, depth))
    w = np.linspace(0, 0.99, 7)
    assert np.array_equal(h(-w, depth), -h(w, depth))
    assert np.array_equal(q_conjugate(-w, depth), q_conjugate(w, depth))
    assert h(0.0, depth) == h_inverse(0.0, depth) == q(0.0, depth) == q_conjugate(0.0, depth) == 0.0


def test_closed_forms():
    w = np.linspace(-0.9, 0.9, 13)
    np.testing.assert_allclose(h(w, 3), (6 * w + 2 * w**3) / (1 - w**2) ** 3, rtol=1e-14)
    np.testing.assert_allclose(h(w, 4), 4 * w / (1 - w**2) ** 2, rtol=1e-14)
    np.testing.assert_allclose(q_conjugate(w, 4), 2 * w**2 / (1 - w**2), rtol=1e-14)
    s = np.linspace(-20, 20, 13)
    np.testing.assert_allclose(q(s, 2), 2 - np.sqrt(4 + s**2) + s * np.arcsinh(s / 2), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("depth", (3, 4, 6, 10))
def test_asymptotics(depth):
    assert q(1e-6, depth) == pytest.approx((depth - 2) * 1e-12 / (4 * depth), rel=1e-11)
    s = 1e40
    assert 1 - q(s, depth) / s == pytest.approx(depth / 2 * s ** (2 / depth - 1), rel=1e-6)


@given(st.floats(1e-3, 1e3), st.sampled_from(DEPTHS))
def test_derivative_of_potential_is_inverse(s, depth):
    step = 1e-4 * s
    slope = (q(s + step, depth) - q(s - step, depth)) / (2 * step)
    assert slope == pytest.approx(float(h_inverse(s, depth)), rel=1e-7)


def test_poles():
    assert h(1.0, 3) == np.inf and h(-1.0, 4) == -np.inf and q_conjugate(1.0, 5) == np.inf
    for function in (h, q_conjugate):
        with pytest.raises(ValueError) as error:
            function([0.5, 1.5], 3)
        assert str(error.value) == (
            "w must lie between -1 and 1 for depth > 2, but it holds 1.5; h has poles at -1 and 1."
        )


@pytest.mark.parametrize("depth", [1, 2.0, True, "3", None])
@pytest.mark.parametrize("function", [h, h_inverse, h_inverse_pair, q, q_conjugate])
def test_bad_depth(function, depth):
    with pytest.raises(ValueError) as error:
        function(0.5, depth)
    assert str(error.value) == (
        f"depth must be an integer >= 2, not {depth!r}; a linear model (depth 1) has no such path."
    )
