from functools import partial
from itertools import pairwise

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gflow
from gflow.losses import Exponential, Logistic, Square
from gflow.metrics import (
    balancedness,
    kernel_change,
    kernel_distance,
    kkt_residual,
    margin,
    normalized_margin,
    normalized_smoothed_margin,
    smoothed_margin,
    tangent_kernel,
)
from gflow.models import DiagonalNetwork, LinearModel


def separable(seed, N, d):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, d))
    return X, np.sign(X @ rng.normal(size=d))


X, y = separable(3, 4, 6)
FAST = {"solver": diffrax.Tsit5(), "rtol": 1e-7}  # quicker to compile than the default


def diagonal(depth, scale, log_ratio):
    model = DiagonalNetwork(np.shape(log_ratio)[1], depth=depth, scale=scale)
    return eqx.tree_at(lambda m: m.log_ratio, model, jnp.asarray(log_ratio))


def grown(depth, scale, size=1.0, seed=0):
    return diagonal(depth, scale, size * np.random.default_rng(seed).normal(size=(2, 6)))


def consistent(depth, w):
    """log(u / scale) on the exact flow, from the dual variables: see `closed form` in the paper notes."""
    w = np.asarray(w)
    return np.stack([w / 2, -w / 2]) if depth == 2 else np.stack([-np.log1p(-w), -np.log1p(w)]) / (depth - 2)


class Weights(eqx.Module):
    """The diagonal network in its weights, without a chart."""

    u: jax.Array
    depth: int = eqx.field(static=True)

    def __call__(self, x):
        return (self.u[0] ** self.depth - self.u[1] ** self.depth) @ x


class TwoLayer(eqx.Module):
    """A squared-ReLU network: smooth and homogeneous of degree 3."""

    hidden: jax.Array
    output: jax.Array

    def __call__(self, x):
        return self.output @ jax.nn.relu(self.hidden @ x) ** 2


def two_layer(scale=0.5, seed=1, width=8):
    rng = np.random.default_rng(seed)
    return TwoLayer(jnp.asarray(scale * rng.normal(size=(width, 6))), jnp.asarray(scale * rng.normal(size=width)))


def scaled(model, factor):
    return jax.tree.map(lambda leaf: leaf * factor, model)


@pytest.fixture(scope="module")
def flows():
    """Diagonal flows to gamma = 2302, from the rich to the kernel regime, with every metric along the way."""
    save = jnp.geomspace(1.0, 2302.0, 12)
    out = {}
    for depth, scale in ((2, 1e-60), (2, 1.0), (3, 0.1), (3, 1e3)):
        model = DiagonalNetwork(6, depth=depth, scale=scale)
        metrics = {
            "margin": margin,
            "normalized": normalized_margin,
            "smoothed": normalized_smoothed_margin,
            "gamma": partial(smoothed_margin, loss=Exponential()),
            "kernel": tangent_kernel,
            "change": partial(kernel_change, reference=model),
            "log_change": partial(kernel_change, reference=model, log=True),
            "distance": partial(kernel_distance, reference=model),
            "balance": balancedness,
            "kkt": kkt_residual,
        }
        out[depth, scale] = model, gflow.gradient_flow(model, X, y, save=save, metrics=metrics, **FAST)
    return out


@pytest.fixture(scope="module")
def homogeneous_flow():
    model = two_layer()
    metrics = {
        "smoothed": partial(normalized_smoothed_margin, degree=3),
        "normalized": partial(normalized_margin, degree=3),
        "kkt": kkt_residual,
    }
    save = jnp.geomspace(2.5, 200.0, 20)
    return gflow.gradient_flow(model, X, y, save=save, metrics=metrics, **FAST)


# Closed forms


def test_margins_of_a_linear_model():
    beta = np.array([0.3, -1.0, 2.0, 0.5, 0.0, 1.0])
    m = y * (X @ beta)
    model = LinearModel(beta)
    assert float(margin(model, X, y)) == pytest.approx(m.min(), rel=1e-14)
    assert float(normalized_margin(model, X, y)) == pytest.approx(m.min() / np.linalg.norm(beta), rel=1e-14)
    gamma = -np.log(np.sum(np.exp(-m)))
    assert float(smoothed_margin(model, X, y)) == pytest.approx(gamma, rel=1e-13)
    assert float(smoothed_margin(model, X, y, loss=Exponential())) == pytest.approx(gamma + np.log(4), rel=1e-13)
    expected = gamma / np.linalg.norm(beta)
    assert float(normalized_smoothed_margin(model, X, y)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 800.0, 1e5, -30.0, -2000.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_smoothed_logistic_margin_inverts_the_loss(size, reduction):
    f = size * np.array([1.0, 1.5])
    with mpmath.workdps(60):
        losses = [mpmath.log1p(mpmath.exp(-mpmath.mpf(v))) for v in f]
        L = sum(losses) / (2 if reduction == "mean" else 1)
        expected = float(-mpmath.log(mpmath.expm1(L)))
    model = LinearModel(jnp.asarray(f))
    got = float(smoothed_margin(model, np.eye(2), np.ones(2), loss=Logistic(reduction=reduction)))
    assert got == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("depth", [2, 3, 10])
@pytest.mark.parametrize("scale", [1e-60, 1e-3, 1.0, 1e3])
def test_diagonal_network_against_mpmath(depth, scale):
    model, start = grown(depth, scale), DiagonalNetwork(6, depth=depth, scale=scale)
    with mpmath.workdps(60):
        mp = np.vectorize(mpmath.mpf, otypes=[object])
        # The model holds log scale, rounded.
        log_u = mp(np.asarray(model.log_scale))[None] + mp(np.asarray(model.log_ratio))
        u = np.vectorize(mpmath.exp, otypes=[object])(log_u)
        u0 = np.full((2, 6), mpmath.exp(mpmath.mpf(float(model.log_scale[0]))))
        A = mp(X)
        norm = lambda v: mpmath.sqrt(np.sum(v**2))
        kernel = lambda u: depth**2 * (A * np.sum(u ** (2 * depth - 2), axis=0)) @ A.T
        beta = u[0] ** depth - u[1] ** depth
        m = y * (A @ beta)
        K, K0 = kernel(u), kernel(u0)
        change = norm(K - K0) / norm(K0)
        distance = 1 - np.sum(K * K0) / norm(K) / norm(K0)
        weights = np.vectorize(mpmath.exp, otypes=[object])(-(m - min(m)))
        weights = weights / sum(weights)
        g = depth * u ** (depth - 1) * np.stack([A.T @ (y * weights), -(A.T @ (y * weights))])
        stationarity = norm(u / norm(u) - g / norm(g))
        expected_margin = float(min(m) / norm(u) ** depth)
        log_change, expected_kernel = float(mpmath.log(change)), K.astype(float)
    assert float(normalized_margin(model, X, y)) == pytest.approx(expected_margin, rel=1e-12)
    assert float(kernel_change(model, X, reference=start)) == pytest.approx(float(change), rel=1e-12)
    assert float(kernel_change(model, X, reference=start, log=True)) == pytest.approx(log_change, rel=1e-12)
    assert float(kernel_distance(model, X, reference=start)) == pytest.approx(float(distance), rel=1e-11)
    np.testing.assert_allclose(tangent_kernel(model, X), expected_kernel, rtol=2e-11)
    if scale <= 1.0:  # At 1e3 the margins are so large that their rounding errors decide about the weights.
        assert float(kkt_residual(model, X, y).stationarity) == pytest.approx(float(stationarity), rel=1e-10)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2, 0.9])
@pytest.mark.parametrize("depth", [2, 3, 10])
def test_small_kernel_changes_keep_their_digits(depth, size):
    log_ratio = consistent(depth, size * np.linspace(-1.0, 1.0, 6))
    model, start = diagonal(depth, 1e3, log_ratio), DiagonalNetwork(6, depth=depth, scale=1e3)
    with mpmath.workdps(80):
        s = np.array([sum(mpmath.exp((2 * depth - 2) * mpmath.mpf(v)) for v in column) - 2 for column in log_ratio.T])
        norm = lambda v: mpmath.sqrt(np.sum(v**2))
        A = np.vectorize(mpmath.mpf, otypes=[object])(X)
        expected = float(norm((A * s) @ A.T) / norm(2 * A @ A.T))
    assert float(kernel_change(model, X, reference=start)) == pytest.approx(expected, rel=1e-11)


def test_depth_10_at_1e_60_does_not_underflow():
    start = DiagonalNetwork(6, depth=10, scale=1e-60)
    model = diagonal(10, 1e-60, np.stack([np.linspace(137.0, 138.5, 6), np.full(6, -0.08)]))
    assert np.all(tangent_kernel(start, X) == 0)  # as documented
    change = float(kernel_change(model, X, reference=start, log=True))
    s = np.exp(18 * (np.linspace(137.0, 138.5, 6) - 138.5))
    ratio = np.linalg.norm((X * s) @ X.T) / np.linalg.norm(2 * X @ X.T)
    assert change == pytest.approx(18 * 138.5 + np.log(ratio), rel=1e-13)
    assert 0 < float(kernel_distance(model, X, reference=start)) < 1
    assert float(normalized_margin(start, X, y)) == 0.0
    early = diagonal(10, 1e-60, 0.01 * np.asarray(consistent(10, np.linspace(-0.5, 0.5, 6))))
    assert np.all(early.beta == 0)
    same = diagonal(10, 1.0, np.asarray(early.log_ratio))
    assert float(normalized_margin(early, X, y)) == pytest.approx(float(normalized_margin(same, X, y)), rel=1e-11)
    assert float(normalized_margin(early, X, y)) != 0.0
    assert np.isfinite(float(kkt_residual(early, X, y).stationarity))


def test_an_inert_coordinate_of_another_scale_does_not_hide_the_rest():
    data = X * np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    log_ratio = np.asarray(grown(10, 1.0).log_ratio).copy()
    log_ratio[:, 5] = 0.0
    tiny, mixed = np.full(6, 1e-60), np.array([1e-60] * 5 + [1e3])
    model, start = (diagonal(10, mixed, log_ratio), DiagonalNetwork(6, depth=10, scale=mixed))
    expected = kernel_change(diagonal(10, tiny, log_ratio), data, reference=DiagonalNetwork(6, depth=10, scale=tiny))
    assert float(kernel_change(model, data, reference=start)) == pytest.approx(float(expected), rel=1e-12)
    # theta is almost all in the inert coordinate, so it is orthogonal to the gradient.
    assert float(kkt_residual(model, data, y).stationarity) == pytest.approx(np.sqrt(2.0), rel=1e-12)


def test_kkt_residual_at_a_max_margin_solution():
    data, labels = np.array([[1.0, 1.0], [1.0, -1.0], [3.0, 0.0]]), np.ones(3)
    exact = kkt_residual(LinearModel(jnp.array([1000.0, 0.0])), data, labels)
    assert float(exact.stationarity) < 1e-15
    assert float(exact.slackness) < 1e-300
    # Two samples at margins c and 3c: w = (1, e^-2c) / (1 + e^-2c), |grad gamma| = w . (1, 3).
    c = 0.7
    got = kkt_residual(LinearModel(jnp.array([c])), np.array([[1.0], [3.0]]), np.ones(2), loss=Exponential())
    w = np.array([1.0, np.exp(-2 * c)]) / (1 + np.exp(-2 * c))
    assert float(got.slackness) == pytest.approx(w[1] * 2 * c / (c * (w @ [1, 3])), rel=1e-14)
    wrong = kkt_residual(LinearModel(jnp.array([-1.0, 0.0])), data, labels)
    assert float(wrong.stationarity) == pytest.approx(2.0)
    assert np.isinf(float(wrong.slackness))


def test_layers_against_numpy():
    rng = np.random.default_rng(0)
    W = [rng.normal(size=shape) for shape in ((5, 3), (4, 5), (1, 4))]
    norm = np.linalg.norm
    grams = [(V.T @ V, U @ U.T) for U, V in pairwise(W)]
    expected = max(norm(a - b) / (norm(a) + norm(b)) for a, b in grams)
    arrays = [jnp.asarray(V) for V in W]
    assert float(balancedness(arrays)) == pytest.approx(expected, rel=1e-14)
    assert float(balancedness([*arrays[:2], arrays[2][0]])) == pytest.approx(expected, rel=1e-14)
    assert float(balancedness([1e-200 * V for V in arrays])) == pytest.approx(expected, rel=1e-13)
    diagonals = [(np.diag(a), np.diag(b)) for a, b in grams]
    expected = max(norm(a - b) / (norm(a) + norm(b)) for a, b in diagonals)
    assert float(balancedness(arrays, linear=False)) == pytest.approx(expected, rel=1e-14)
    assert float(balancedness(arrays, reference=arrays)) == 0.0
    assert float(balancedness([0 * V for V in arrays])) == 0.0


# Two routes, one answer


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_autodiff_agrees_with_the_diagonal_formulas(depth):
    model, start = grown(depth, 0.7, 0.3), grown(depth, 0.7, 0.3, seed=5)
    plain, plain_start = Weights(model.weights, depth), Weights(start.weights, depth)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11)
    close(tangent_kernel(model, X), tangent_kernel(plain, X))
    for fn in (kernel_change, kernel_distance):
        close(fn(model, X, reference=start), fn(plain, X, reference=plain_start))
        close(fn(model, X, reference=start), fn(model, X, reference=plain_start))
    for fn in (normalized_margin, normalized_smoothed_margin):
        close(fn(model, X, y), fn(plain, X, y, degree=depth))
        close(fn(model, X, y, degree=7), fn(plain, X, y, degree=7))
    labels = np.sign(np.asarray(jax.vmap(model)(X)))  # so that the slackness is finite
    for loss in (Exponential(), Logistic()):
        close(kkt_residual(model, X, labels, loss=loss), kkt_residual(plain, X, labels, loss=loss))


def test_jit_and_vmap_agree_with_the_plain_call():
    models = [grown(3, 0.5, seed=seed) for seed in range(3)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    A, b = jnp.asarray(X), jnp.asarray(y)
    for fn in (
        margin,
        normalized_margin,
        normalized_smoothed_margin,
        kkt_residual,
        partial(kernel_change, reference=models[0]),
        lambda model, X, y: balancedness(model),
    ):
        loop = [jnp.asarray(fn(model, A, b)) for model in models]
        batch = eqx.filter_jit(eqx.filter_vmap(lambda model, fn=fn: jnp.asarray(fn(model, A, b))))(stack)
        np.testing.assert_allclose(batch, jnp.stack(loop), rtol=1e-12, atol=1e-14)


# Invariances


@pytest.mark.parametrize("factor", [1e-30, 1e-5, 1e5, 1e30])
def test_scale_invariance_of_homogeneous_networks(factor):
    model = two_layer()
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
    close(normalized_margin(scaled(model, factor), X, y, degree=3), normalized_margin(model, X, y, degree=3))
    other = two_layer(seed=2)
    distance = partial(kernel_distance, X=X)
    close(distance(scaled(model, factor), reference=scaled(other, 3.0)), distance(model, reference=other))
    layers = lambda m: [m.hidden, m.output]
    close(balancedness(layers(scaled(model, factor))), balancedness(layers(model)))


def test_order_of_samples_and_labels_flipped_with_inputs():
    model = grown(3, 0.5)
    order = np.array([2, 0, 3, 1])
    for fn in (margin, normalized_smoothed_margin, lambda *data: jnp.stack(kkt_residual(*data))):
        np.testing.assert_allclose(fn(model, X, y), fn(model, X[order], y[order]), rtol=1e-13)
        np.testing.assert_allclose(fn(model, X, y), fn(model, X * y[:, None], np.ones(4)), rtol=1e-13)


def test_integer_data_and_inputs_of_any_shape():
    class Sensing(eqx.Module):
        W: jax.Array

        def __call__(self, A):
            return jnp.sum(A * (self.W @ self.W))

    model = Sensing(jnp.array([[1.0, 2.0], [0.5, 3.0]]))
    A = np.arange(8).reshape(2, 2, 2)
    assert tangent_kernel(model, A).shape == (2, 2)
    direct = float(np.min(np.sum(A * np.asarray(model.W @ model.W), axis=(1, 2))))
    assert float(margin(model, A, np.array([1, 1]))) == pytest.approx(direct)
    assert np.isfinite(float(normalized_margin(model, A, np.array([1, 1]), degree=2)))


# Along flows


def test_conserved_quantities_along_diagonal_flows(flows):
    for (depth, _), (model, traj) in flows.items():
        assert float(jnp.max(traj.metrics["balance"])) < 1e-5
        end = traj.final
        assert float(balancedness(end, reference=model)) == pytest.approx(float(balancedness(end)), abs=1e-12)
        off = eqx.tree_at(lambda m: m.log_ratio, end, end.log_ratio.at[1, 0].add(0.01))
        assert float(balancedness(off)) > 1e-3 / depth


@pytest.mark.parametrize("depth", [2, 3, 4, 10])
def test_the_exact_flow_conserves(depth):
    model = diagonal(depth, 1e-60, consistent(depth, np.linspace(-1.0, 1.0, 6) * (1 - 1e-9)))
    assert float(balancedness(model)) < 1e-14


def test_margins_along_diagonal_flows(flows):
    for model, traj in flows.values():
        got = traj.metrics
        np.testing.assert_allclose(got["gamma"], traj.neg_log_loss, rtol=1e-7)
        assert np.all(got["margin"] <= traj.neg_log_loss + 1e-6)
        assert np.all(got["margin"] >= traj.neg_log_loss - np.log(4) - 1e-6)
        norm = np.linalg.norm(np.asarray(traj.model.weights), axis=(1, 2))
        np.testing.assert_allclose(got["normalized"], got["margin"] / norm**model.depth, rtol=1e-9)
        np.testing.assert_allclose(got["smoothed"], (traj.neg_log_loss - np.log(4)) / norm**model.depth, rtol=1e-6)


def test_normalized_smoothed_margin_increases(flows, homogeneous_flow):
    for traj in (*(traj for _, traj in flows.values()), homogeneous_flow):
        assert traj.success
        late = np.asarray(traj.neg_log_loss) > np.log(4)  # a sum of losses below 1
        values = np.asarray(traj.metrics["smoothed"])[late]
        assert values.size >= 10
        assert np.all(np.diff(values) >= -1e-7 * np.abs(values[1:]))
    assert np.all(np.diff(np.asarray(homogeneous_flow.metrics["smoothed"])) > 0)


def test_kkt_residual_vanishes(flows, homogeneous_flow):
    for key in ((2, 1e-60), (2, 1.0), (3, 0.1)):
        kkt = np.asarray(flows[key][1].metrics["kkt"])
        assert kkt.shape == (12, 2)
        assert np.all(kkt[-1] < 0.1)
        assert kkt[-1, 1] < 1e-3
        assert kkt[-1, 0] < 0.3 * kkt[0, 0]
    kkt = np.asarray(homogeneous_flow.metrics["kkt"])
    assert np.all(np.diff(kkt[:, 0]) < 0)
    assert kkt[-1, 0] < 0.4 * kkt[0, 0]
    # The slackness falls like 1 / gamma.
    late = np.asarray(homogeneous_flow.neg_log_loss) > 20
    product = kkt[late, 1] * np.asarray(homogeneous_flow.neg_log_loss)[late]
    assert np.max(product) < 1.3 * np.min(product)
    # In the kernel regime the flow is nowhere near a KKT point of the weights.
    assert float(flows[3, 1e3][1].metrics["kkt"][-1, 0]) > 1.0


def test_kernel_moves_in_the_rich_regime_only(flows):
    lazy = flows[3, 1e3][1].metrics
    assert np.all(lazy["change"] < 1e-10) and np.all(lazy["distance"] < 1e-20)
    rich = flows[2, 1e-60][1].metrics
    assert np.all(rich["change"] > 1e100) and np.all(rich["distance"] > 0.01)
    np.testing.assert_allclose(np.log(rich["change"]), rich["log_change"], rtol=1e-12)
    assert rich["kernel"].shape == (12, 4, 4)


def test_kernel_change_in_the_kernel_regime_is_quadratic_in_beta(flows):
    # With u = scale (1 +- b), b = beta / (2 D scale^D), the first orders of u_+ and u_- cancel; the second, from the
    # conserved quantity, gives u_+^(2D-2) + u_-^(2D-2) = 2 scale^(2D-2) (1 + k b^2), k = 8 for depth 3.
    _, traj = flows[3, 1e3]
    b = np.asarray(traj.final.beta) / (6 * 1e9)
    expected = np.linalg.norm((X * (8 * b**2)) @ X.T) / np.linalg.norm(X @ X.T)
    assert float(traj.metrics["change"][-1]) == pytest.approx(expected, rel=1e-2)


def test_layers_are_conserved_along_a_flow(homogeneous_flow):
    # Squared ReLU: d |hidden row|^2 = 2 d output^2, so the law is that of weights (hidden, sqrt 2 output).
    layers = lambda m: [m.hidden, jnp.sqrt(2.0) * m.output]
    start = layers(two_layer())
    change = eqx.filter_vmap(lambda m: balancedness(layers(m), reference=start, linear=False))
    assert float(jnp.max(change(homogeneous_flow.model))) < 1e-5
    moved = eqx.filter_vmap(lambda m: balancedness(layers(m), linear=False))(homogeneous_flow.model)
    assert float(jnp.ptp(moved)) > 0.01  # relative to weights that grow


@pytest.mark.parametrize("activation, linear", [(jax.nn.relu, False), (lambda z: z, True)], ids=["relu", "linear"])
def test_a_gradient_step_changes_an_mlp_at_second_order_only(activation, linear):
    start = eqx.nn.MLP(6, "scalar", 7, 3, activation, key=jax.random.key(2), dtype=float)
    gamma = lambda model: Exponential().neg_log(jax.vmap(model)(jnp.asarray(X)), jnp.asarray(y))
    gradient = eqx.filter_jit(eqx.filter_grad(gamma))(start)
    step = lambda h: eqx.apply_updates(start, jax.tree.map(lambda g: h * g, gradient))
    change = lambda h, linear: float(balancedness(step(h), reference=start, linear=linear))
    assert 0 < change(1e-4, linear) < 1e-7
    assert change(1e-4, linear) / change(1e-5, linear) == pytest.approx(100, rel=0.01)
    if not linear:  # beside the diagonal nothing is conserved
        assert change(1e-4, True) > 1e-6
    assert float(balancedness(start)) > 0.01


def test_sequential_layers():
    keys = jax.random.split(jax.random.key(0), 2)
    first = eqx.nn.Linear(3, 4, use_bias=False, key=keys[0], dtype=float)
    second = eqx.nn.Linear(4, 1, key=keys[1], dtype=float)
    model = eqx.nn.Sequential([first, eqx.nn.Lambda(jax.nn.relu), second])
    expected = balancedness([first.weight, second.weight], linear=False)
    assert float(balancedness(model)) == pytest.approx(float(expected), rel=1e-14)
    smooth = eqx.nn.Sequential([first, eqx.nn.Lambda(jax.nn.gelu), second])
    with pytest.raises(ValueError, match=r"^model must have activations that are homogeneous of degree 1"):
        balancedness(smooth)


# Bad input


def test_balance_of_a_factorization():
    model = gflow.models.MatrixFactorization([2 * np.eye(2), np.eye(2)])
    np.testing.assert_allclose(balancedness(model), balancedness(list(model.factors)))


def test_hessian_that_is_a_multiple_of_the_identity():
    """Lanczos' method ends after one step, and what is left is rounding."""
    linear = gflow.models.LinearModel(50)
    ends = gflow.metrics.hessian_ends(linear, np.eye(50), np.ones(50), loss=Square(reduction="sum"))
    np.testing.assert_allclose(ends, [1.0, 1.0, 0.0, 0.0], atol=1e-12)


def test_bad_input():
    model, plain = grown(3, 0.5), two_layer()
    eye = jnp.eye(2)
    for call, message in (
        (lambda: margin(model, X, y[:2]), r"^X must have shape \(N, d\) and y shape \(N,\) with the same N"),
        (lambda: margin(model, X, 2 * y), r"^y must hold labels -1 and \+1"),
        (lambda: margin(model, X[:, :3], y), r"^model must map one sample of shape \(3,\)"),
        (lambda: smoothed_margin(model, X, y, loss=Exponential), r"^loss must be a gflow loss"),
        (lambda: smoothed_margin(model, X, y, loss=Square()), r"^loss must be .*not Square, which has no margins"),
        (lambda: gflow.metrics.hessian_ends(plain, X, y, loss=Square(), rtol=-1.0), r"^rtol must be a number"),
        (lambda: kkt_residual(model, X, y, loss=Square()), r"^loss must be .*not Square, which has no margins"),
        (lambda: normalized_margin(plain, X, y), r"^degree must be given for TwoLayer"),
        (lambda: normalized_margin(plain, X, y, degree=-1), r"^degree must be a positive number, not -1\."),
        (lambda: tangent_kernel(model, X[0]), r"^X must have shape"),
        (lambda: kernel_change(model, X, reference=np.eye(4)), r"^reference must be a model, .*not ndarray\."),
        (lambda: balancedness(LinearModel(3)), r"^model must be a DiagonalNetwork, a model with layers or a list"),
        (lambda: balancedness([eye]), r"^model must hold at least two weight matrices"),
        (lambda: balancedness([eye, jnp.eye(3)]), r"^model must hold at least two weight matrices"),
        (lambda: balancedness([eye, eye.astype("float32")]), r"^model must hold float64 arrays only"),
        (lambda: balancedness([eye, eye], reference=[eye, jnp.ones((1, 2))]), r"^reference must have the layers"),
        (lambda: balancedness(model, reference=grown(2, 0.5)), r"^reference must be a DiagonalNetwork of 6 inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_model_with_a_chart_of_its_own_is_refused():
    class Charted(eqx.Module):
        a: jax.Array

        def __call__(self, x):
            return jnp.exp(self.a) @ x

        def chart(self):
            return "polar"

    with pytest.raises(ValueError, match=r"^model must be a DiagonalNetwork or run in its parameters"):
        tangent_kernel(Charted(jnp.zeros(6)), X)
