"""Flows of networks with kinks: reference cases, invariants, equivalences, conventions, bad input."""

import json
from pathlib import Path
from types import SimpleNamespace

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expi

import gflow
from gflow.charts import chart_of
from gflow.flow import Flow
from gflow.kinks import HiddenLayer
from gflow.kinks.chart import piecewise_chart
from gflow.kinks.origin import from_origin
from gflow.models import ReLUNeuron, TwoLayerNetwork
from gflow.status import Status

CASES = json.loads((Path(__file__).parent / "data" / "kinks.json").read_text())
DELTAS = np.array([1e-5, 1e-6])


def network(case):
    return TwoLayerNetwork(np.array(case["W0"]), np.array(case["a0"]), slope=case["slope"])


def data(case):
    return np.array(case["X"]), np.array(case["y"])


def run(case, **options):
    options = {"clock": gflow.TimeClock(), "stop": case["T"], "rtol": 1e-12, **options}
    return gflow.gradient_flow(network(case), *data(case), **options)


def expected(event):
    """Kinds of the reference, in the words of gflow."""
    if event["type"] == "leave_down":
        return "leave down"
    return {1: "up", -1: "down", 0: "slide"}[event["result"][str(event["sample"])]]


@pytest.fixture(scope="module", params=range(len(CASES)), ids=[case["name"] for case in CASES])
def solved(request):
    return CASES[request.param], run(CASES[request.param])


def test_reference_states_and_events(solved):
    case, traj = solved
    assert traj.success
    np.testing.assert_allclose(traj.final.hidden, np.array(case["W_T"], float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(traj.final.output, np.array(case["a_T"], float), rtol=0, atol=1e-12)
    assert len(traj.events) == len(case["events"])
    for event, known in zip(traj.events, case["events"], strict=True):
        assert abs(np.exp(event.log_time) / float(known["t"]) - 1) < 1e-11
        assert abs(event.neg_log_loss - known["gamma"]) < 1e-11
        assert (event.neuron, event.sample, event.kind) == (known["neuron"], known["sample"], expected(known))
        assert event.unique and event.resolved


@pytest.mark.slow
def test_save_points_and_resume_do_not_change_the_path(solved):
    case, whole = solved
    times = np.array([0.3, 0.6, 2.0, 5.0, case["T"]])
    traj = run(case, save=times)
    assert float(jnp.max(jnp.abs(traj.final.hidden - whole.final.hidden))) < 1e-13
    np.testing.assert_allclose(traj.log_time, np.log(times), rtol=0, atol=1e-13)
    assert len(traj.events) == len(whole.events)
    part = run(case, save=times, max_steps=40, throw=False)
    assert "max_steps" in part.status
    on = run(case, save=times, resume=part)
    assert np.array_equal(on.model.hidden, traj.model.hidden)
    assert on.events == traj.events


def smoothed(case, delta):
    """The end of the flow with a slope that rises linearly over [-delta, delta]."""
    from scipy.integrate import solve_ivp

    X, y = data(case)
    s, (m, d) = case["slope"], np.shape(case["W0"])

    def field(t, theta):
        W, a = theta[: m * d].reshape(m, d), theta[m * d :]
        z = W @ X.T
        share = np.clip(0.5 * (z / delta + 1), 0, 1)
        slope = s + (1 - s) * share
        phi = np.where(np.abs(z) < delta, s * z + (1 - s) * delta * share**2, slope * z)
        c = y * np.exp(-y * (a @ phi)) / len(y)
        return np.concatenate([(a[:, None] * ((slope * c) @ X)).ravel(), phi @ c])

    start = np.concatenate([np.ravel(case["W0"]), case["a0"]])
    return solve_ivp(field, (0, case["T"]), start, method="LSODA", rtol=1e-11, atol=1e-13).y[:, -1]


def test_smoothed_activations_converge(solved):
    case, traj = solved
    end = np.concatenate([np.ravel(traj.final.hidden), traj.final.output])
    errors = np.array([np.max(np.abs(smoothed(case, delta) - end)) for delta in DELTAS])
    rates = np.log10(errors[:-1] / errors[1:])
    assert np.all(errors < 20 * DELTAS) and np.all(np.abs(rates - 1) < 0.05)


def many(neurons, samples, dim, seed=0):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(samples, dim)), np.sign(rng.normal(size=samples))
    hidden, output = rng.normal(size=(neurons, dim)), rng.normal(size=neurons)
    return TwoLayerNetwork(0.3 * hidden / np.sqrt(dim), 0.3 * output / np.sqrt(neurons)), X, y


def balance(model):
    return jnp.sum(model.hidden**2, axis=-1) - model.output**2


@pytest.fixture(scope="module")
def trained():
    model, X, y = many(50, 10, 20)
    return model, X, y, gflow.gradient_flow(model, X, y, save=gflow.decades(jnp.geomspace(0.1, 100.0, 20)))


def test_two_layer_network_to_1e_100(trained):
    model, X, y, traj = trained
    assert traj.success and float(traj.neg_log_loss[-1]) == pytest.approx(gflow.decades(100), rel=1e-12)
    # The whole model, not only the chart: outputs and loss as the module computes them.
    outputs = jax.vmap(traj.final)(jnp.asarray(X))
    y = jnp.asarray(y)
    assert float(gflow.losses.Exponential().neg_log(outputs, y)) == pytest.approx(gflow.decades(100), rel=1e-12)
    assert float(jnp.max(jnp.abs(balance(traj.model) - balance(model)[None]))) < 1e-10
    assert all(np.diff([event.neg_log_loss for event in traj.events]) >= 0)
    assert {"slide", "up", "down", "leave down"} <= {event.kind for event in traj.events}
    # A neuron slides where it said so.
    sliding = {(e.neuron, e.sample): e.kind == "slide" for e in traj.events}
    z = np.asarray(traj.final.hidden) @ X.T
    on = [abs(z[pair]) for pair, slides in sliding.items() if slides]
    assert len(on) > 20 and max(on) < 1e-12


def test_what_is_orthogonal_to_the_data_stays(trained):
    model, X, _, traj = trained
    away = np.eye(20) - np.linalg.pinv(X) @ X
    np.testing.assert_allclose(np.asarray(traj.final.hidden) @ away, np.asarray(model.hidden) @ away, atol=1e-12)


def test_one_compilation_for_other_values(trained):
    model, X, y, _ = trained
    compiled = gflow.solve._PIECEWISE.advance
    before = compiled._cached._cache_size()
    other = TwoLayerNetwork(0.5 * model.hidden, -model.output)
    gflow.gradient_flow(other, X[::-1], y, save=gflow.decades(jnp.geomspace(0.05, 3.0, 20)), rtol=1e-6)
    assert compiled._cached._cache_size() == before


@pytest.mark.slow
def test_single_neuron_by_hand():
    """x1 = e1, x2 = -e1 + e2: the flow crosses the kink of x2 and goes on alone."""
    X, y = np.array([[1.0, 0.0], [-1.0, 1.0]]), np.array([2.0, 0.0])
    traj = gflow.gradient_flow(
        ReLUNeuron(np.array([0.5, 1.0])),
        X,
        y,
        loss=gflow.losses.Square(reduction="sum"),
        clock=gflow.TimeClock(),
        stop=40.0,
        rtol=1e-12,
    )
    assert traj.success and [event.kind for event in traj.events] == ["down"]
    # w' = -(A w - b) with A = [[2, -1], [-1, 1]], b = (2, 0), until w1 = w2; then w1' = 2 - w1.
    A, b = np.array([[2.0, -1.0], [-1.0, 1.0]]), np.array([2.0, 0.0])
    values, vectors = np.linalg.eigh(A)
    rest = np.linalg.solve(A, b)
    at = lambda t: rest + vectors @ (np.exp(-values * t) * (vectors.T @ (np.array([0.5, 1.0]) - rest)))
    from scipy.optimize import brentq

    hit = brentq(lambda t: at(t)[0] - at(t)[1], 0.01, 3.0, xtol=1e-15)
    assert np.exp(traj.events[0].log_time) == pytest.approx(hit, rel=1e-11)
    assert float(traj.final.weights[1]) == pytest.approx(at(hit)[1], abs=1e-11)
    assert float(traj.final.weights[0]) == pytest.approx(2.0, abs=1e-11)


class Wrong(eqx.Module):
    W: jax.Array
    claim: HiddenLayer

    def __call__(self, x):
        return jnp.sum(jax.nn.relu(self.W @ x))

    def hidden_layer(self):
        return self.claim

    def with_hidden_layer(self, layer):
        return Wrong(layer.hidden, layer)


class Leaky(Wrong):
    """Of slope 0.3, which its claim need not be: on positive samples at positive weights nobody sees it."""

    def __call__(self, x):
        return jnp.sum(jax.nn.leaky_relu(self.W @ x, 0.3))

    def with_hidden_layer(self, layer):
        return Leaky(layer.hidden, layer)


class Clipped(Wrong):
    """Bends again at six, far from where it starts."""

    def __call__(self, x):
        return jnp.sum(jax.nn.relu6(self.W @ x))

    def with_hidden_layer(self, layer):
        return Clipped(layer.hidden, layer)


class Committee(eqx.Module):
    W: jax.Array

    def __call__(self, x):
        return jnp.mean(jax.nn.relu(self.W @ x))

    def hidden_layer(self):
        m = self.W.shape[0]
        return HiddenLayer(self.W, jnp.full(m, 1 / m), slope=0.0, train_output=False)

    def with_hidden_layer(self, layer):
        return Committee(layer.hidden)


@pytest.mark.slow
def test_a_module_of_ones_own():
    model = Committee(jnp.array([[1.0, -0.6], [0.3, 1.0]]))
    traj = gflow.gradient_flow(model, np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones(2), stop=gflow.decades(10))
    assert traj.success and isinstance(traj.final, Committee)
    assert [event.kind for event in traj.events] == ["up"]


@pytest.mark.slow
def test_no_slope_at_a_kink_pulls_nothing():
    """The convention of most libraries, phi'(0) = 0: what starts on a kink that repels, or at the origin, stays."""
    X, y = np.eye(2), np.ones(2)
    run = lambda W, at_kink: gflow.gradient_flow(
        TwoLayerNetwork(W, np.ones(2), slope=0.0, train_output=False), X, y, clock=gflow.TimeClock(), stop=1.0,
        at_kink=at_kink,
    )  # fmt: skip
    W = np.array([[1.0, 0.0], [0.0, 0.0]])
    for at_kink in (0.0, "stay"):
        traj = run(W, at_kink)
        assert [(event.kind, event.unique) for event in traj.events] == [("stay", False)] * 2
        # w' = exp(-w) / 2 from 1.
        np.testing.assert_allclose(traj.final.hidden, [[np.log(np.e + 0.5), 0], [0, 0]], rtol=1e-7)
    assert np.all(np.asarray(run(W, 0.5).final.hidden) > 0)


def test_bad_input():
    W = np.array([[1.0, 2.0], [0.5, -1.0]])
    X, y = np.array([[1.0, 0.5], [2.0, 3.0]]), np.ones(2)
    with pytest.raises(ValueError, match="slope must lie between 0"):
        TwoLayerNetwork(W, np.ones(2), slope=1.5)
    with pytest.raises(ValueError, match="slope must lie between 0"):
        ReLUNeuron(W[0], slope=-0.1)
    with pytest.raises(ValueError, match="slope must be a Python number between 0"):
        TwoLayerNetwork(W, np.ones(2), slope=True)
    with pytest.raises(ValueError, match="hidden must be an array of numbers, not None"):
        TwoLayerNetwork(None, np.ones(2))
    with pytest.raises(ValueError, match="X must hold a sample that is not zero"):
        gflow.gradient_flow(TwoLayerNetwork(W, np.ones(2)), 0 * X, y, stop=30.0)
    with pytest.raises(ValueError, match=r"at least one of each, not \(0, 2\)"):
        TwoLayerNetwork(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(ValueError, match="output must have one entry a neuron"):
        TwoLayerNetwork(W, np.ones(3))
    with pytest.raises(ValueError, match="weights must have shape"):
        ReLUNeuron(W)
    for claim in (
        HiddenLayer(jnp.asarray(W), jnp.ones(2), slope=0.1, train_output=False),
        HiddenLayer(jnp.asarray(2 * W), jnp.full(2, 0.5), train_output=False),
    ):
        with pytest.raises(ValueError, match=r"hidden_layer\(\) disagrees with the model"):
            gflow.gradient_flow(Wrong(jnp.asarray(W), claim), X, y, stop=30.0)
    for own, slope in ((Leaky, 0.1), (Clipped, 0.0)):
        up = jnp.asarray(0.01 + np.abs(W) / 100)
        with pytest.raises(ValueError, match=r"outputs with other weights of either sign, by with_hidden_layer,"):
            gflow.gradient_flow(own(up, HiddenLayer(up, jnp.ones(2), slope=slope, train_output=False)), X, y, stop=30.0)
    for choice in (0.05, None, True, "right", [0.5], 0.5j):
        with pytest.raises(ValueError, match=r"at_kink must be 'leave', 'stay' or a slope from 0\.1 to 1"):
            gflow.gradient_flow(TwoLayerNetwork(W, np.ones(2)), X, y, stop=30.0, at_kink=choice)
    for choice in ("stay", 0.5, None):
        with pytest.raises(ValueError, match="for models that declare their kinks by hidden_layer"):
            gflow.gradient_flow(gflow.models.LinearModel(2), X, y, stop=30.0, at_kink=choice)
    for bad, reason in ((W + 1j, "real numbers, not complex ones"), ([[1.0, 2.0], [3.0]], "its rows differ in length")):
        with pytest.raises(ValueError, match=f"hidden must .*{reason}"):
            TwoLayerNetwork(bad, np.ones(2))
        with pytest.raises(ValueError, match=f"weights must .*{reason}"):
            ReLUNeuron(bad)
        with pytest.raises(ValueError, match=f"X must .*{reason}"):
            gflow.gradient_flow(TwoLayerNetwork(W, np.ones(2)), bad, y, stop=30.0)
    with pytest.raises(ValueError, match="solver must be an explicit one"):
        gflow.gradient_flow(TwoLayerNetwork(W, np.ones(2)), X, y, stop=30.0, solver=gflow.LogRadau())
    with pytest.raises(ValueError, match="must map one sample of shape"):
        gflow.gradient_flow(TwoLayerNetwork(W, np.ones(2)), X[:, :1], y, stop=1.0)


@pytest.mark.slow
def test_jit_and_vmap_are_the_loop():
    model, X, y = many(4, 5, 3)
    X, y = jnp.asarray(X), jnp.asarray(y)

    def end(scale):
        start = TwoLayerNetwork(scale * model.hidden, model.output)
        traj = gflow.gradient_flow(start, X, y, loss=gflow.losses.Logistic(), stop=5.0, rtol=1e-10, throw=False)
        return traj.final.hidden, traj.events.count if isinstance(traj.events.count, jax.Array) else None

    scales = jnp.array([0.5, 1.0, 2.0])
    together, counts = jax.jit(jax.vmap(end))(scales)
    for k, scale in enumerate(scales):
        start = TwoLayerNetwork(scale * model.hidden, model.output)
        alone = gflow.gradient_flow(start, X, y, loss=gflow.losses.Logistic(), stop=5.0, rtol=1e-10)
        assert float(jnp.max(jnp.abs(alone.final.hidden - together[k]))) < 1e-9
        assert len(alone.events) == int(counts[k])


@pytest.mark.slow
def test_biases_are_an_input_of_one():
    model, X, y = many(6, 5, 3, seed=1)
    biased = TwoLayerNetwork(model.hidden[:, :2], model.output, bias=model.hidden[:, 2])
    flat = np.append(X[:, :2], np.ones((5, 1)), axis=1)
    a = gflow.gradient_flow(biased, X[:, :2], y, stop=gflow.decades(5))
    b = gflow.gradient_flow(model, flat, y, stop=gflow.decades(5))
    np.testing.assert_allclose(a.final.hidden, b.final.hidden[:, :2], atol=1e-12)
    np.testing.assert_allclose(a.final.bias, b.final.hidden[:, 2], atol=1e-12)


def test_where_nothing_moves_the_flow_rests():
    """A neuron that is off, as the loop leaves it where it died: in time it stays, and by the loss it has settled."""
    dead, X, y = ReLUNeuron(-np.ones(1)), np.ones((1, 1)), -np.ones(1)
    traj = gflow.gradient_flow(dead, X, y, stop=1.0, throw=False)
    assert int(traj.status_code) == gflow.Status.stationary_start
    stalled = eqx.tree_at(lambda p: p.status, traj.position, jnp.asarray(int(gflow.Status.step_too_small)))
    for clock, status in ((gflow.LossClock(), gflow.Status.settled), (gflow.TimeClock(), gflow.Status.success)):
        saves = gflow.driver.empty_saves(2, 1)
        points = clock.inner(jnp.array([1.0, 2.0]))
        end, saves = gflow.kinks.loop.conclude(traj.flow, stalled, saves, clock, points)
        assert int(end.status) == status
    np.testing.assert_allclose(saves.coordinates, -1.0, rtol=0)
    np.testing.assert_allclose(saves.log_time, points, rtol=0)


class Product(eqx.Module):
    factors: jax.Array

    def __call__(self, x):
        return self.factors[0] * self.factors[1] * x[0]


@pytest.mark.parametrize("factors, rests", [([1.5, 1.0 + 1e-13], True), ([1e-12, 1e-12], False)])
def test_rest_and_plateau_are_told_apart(factors, rests):
    """Both stand still to rounding; from one of them the flow leaves before the stop, at a rate of 1.5."""
    X, y = jnp.ones((2, 1)), jnp.array([1.0, 2.0])
    loss = gflow.losses.Square()
    flow = Flow(chart_of(Product(jnp.array(factors)), X, y, loss), X, y, loss)
    position = gflow.driver.start(flow, diffrax.Dopri8(scan_kind="lax"), jnp.asarray(1e-8))
    position = gflow.driver.with_status(position, gflow.Status.settled)
    for last, stays in ((1e-10, True), (1e3, rests)):
        end, saves = gflow.driver.rests_on(flow, position, gflow.driver.empty_saves(1, 2), jnp.log(jnp.array([last])))
        assert int(end.status) == (gflow.Status.success if stays else gflow.Status.settled)
        assert int(saves.filled) == stays


@pytest.mark.slow
def test_networks_rest_at_a_minimum_above_zero():
    """Of data that no two neurons fit: sliding along kinks, and at times that rounding ends long before."""
    for seed in (0, 2, 4):
        rng = np.random.default_rng(seed)
        X, y, W, a = rng.normal(size=(8, 3)), rng.normal(size=8), rng.normal(size=(2, 3)), rng.normal(size=2)
        run = lambda save: gflow.gradient_flow(
            TwoLayerNetwork(W, a), X, y, loss=gflow.losses.Square(), clock=gflow.TimeClock(), save=save  # noqa: B023
        )
        traj = run([100.0, 3000.0, 1e4])
        assert traj.success
        np.testing.assert_allclose(traj.neg_log_loss[2], traj.neg_log_loss[1], rtol=1e-9)


@pytest.mark.slow
def test_a_neuron_that_dies_rests():
    """w' = -exp(w) from 1 comes to zero at 1 - 1 / e, and all is done: in time it rests, and by the loss it settles."""
    start, X, y = ReLUNeuron(np.ones(1)), np.ones((1, 1)), -np.ones(1)
    times = np.array([0.1, 0.5, 0.7, 5.0])
    traj = gflow.gradient_flow(start, X, y, clock=gflow.TimeClock(), save=times)
    assert traj.success and [event.kind for event in traj.events] == ["slide"]
    assert np.exp(traj.events[0].log_time) == pytest.approx(1 - np.exp(-1), rel=1e-8)
    np.testing.assert_allclose(traj.model.weights[:2, 0], -np.log(np.exp(-1) + times[:2]), rtol=1e-7)
    np.testing.assert_allclose(traj.model.weights[2:, 0], 0.0, atol=1e-16)
    np.testing.assert_allclose(traj.log_time, np.log(times), rtol=1e-12)


@pytest.mark.slow
def test_networks_that_die_settle_by_the_loss_and_rest_in_time():
    rng = np.random.default_rng(9)
    X, hidden, output = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)) * 0.6, rng.normal(size=3)
    y = np.sign(rng.normal(size=3))
    model = TwoLayerNetwork(hidden, output, slope=0.0, train_output=False)
    for clock, stop in ((gflow.TimeClock(), 6.0), (gflow.LogTimeClock(), 3.0), (gflow.LossClock(), 3.0)):
        traj = gflow.gradient_flow(model, X, y, clock=clock, stop=stop, rtol=1e-11, throw=False)
        np.testing.assert_allclose(jax.vmap(traj.final)(jnp.asarray(X)), 0.0, atol=1e-15)
        assert int(traj.status_code) == (gflow.Status.settled if clock.counts_loss else gflow.Status.success)
        if not clock.counts_loss:
            assert float(traj.log_time[-1]) == pytest.approx(float(clock.inner(jnp.asarray(stop))), rel=1e-12)


@pytest.mark.slow
def test_conventions_where_the_flow_is_not_determined():
    X, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 1.0])
    # Exactly on the kink of the second sample, which repels.
    start = TwoLayerNetwork(np.array([[1.0, 0.0]]), np.ones(1), slope=0.0, train_output=False)
    ends = {}
    for at_kink in ("leave", "stay", 1.0):
        traj = gflow.gradient_flow(start, X, y, clock=gflow.TimeClock(), stop=1.0, at_kink=at_kink)
        (event,) = traj.events
        assert "At 1 of its events the flow was not determined" in traj.status
        assert not event.unique and (event.neuron, event.sample) == (0, 1)
        ends[at_kink] = float(traj.final.hidden[0, 1]), event.kind
    assert ends["leave"] == ends[1.0] and ends["leave"][0] > 0.1 and ends["leave"][1] == "up"
    assert ends["stay"] == (0.0, "stay")


@pytest.mark.slow
def test_parallel_samples_share_a_kink():
    """A sample that is a multiple of another, with the opposite sign: as by the general rule for a pair."""
    X, y = np.array([[1.0, 0.5], [-2.0, -1.0], [0.3, -1.0]]), np.array([1.0, -1.0, 1.0])
    model = TwoLayerNetwork(np.array([[-0.4, 0.3], [0.2, -0.7]]), np.array([0.8, -0.5]), slope=0.2)
    traj = gflow.gradient_flow(model, X, y, clock=gflow.TimeClock(), stop=3.0, rtol=1e-10)
    case = {"X": X, "y": y, "slope": 0.2, "W0": model.hidden, "a0": model.output, "T": 3.0}
    end = np.concatenate([np.ravel(traj.final.hidden), traj.final.output])
    assert traj.events and np.max(np.abs(smoothed(case, 1e-6) - end)) < 2e-5


@pytest.mark.slow
def test_parallel_samples_that_are_traced_are_told_of():
    """Which samples share a kink is not known of them: the flow went on as if none did, with success."""
    y, model = np.array([1.0, -1.0, 1.0]), TwoLayerNetwork(np.array([[-0.4, 0.3], [0.2, -0.7]]), np.array([0.8, -0.5]))

    @jax.jit
    def run(X):
        return gflow.gradient_flow(model, X, y, clock=gflow.TimeClock(), stop=0.5, throw=False).status_code

    for second, status in (([-2.0, -1.0], Status.parallel_samples), ([0.0, 0.0], Status.parallel_samples),
                           ([2.0, -1.0], Status.success)):  # fmt: skip
        assert int(run(np.array([[1.0, 0.5], second, [0.3, -1.0]]))) == status


@pytest.mark.slow
def test_large_network_to_1e_100():
    model, X, y = many(500, 20, 50)
    traj = gflow.gradient_flow(model, X, y, stop=gflow.decades(100))
    assert traj.success and len(traj.events) > 2000
    assert float(jnp.max(jnp.abs(balance(traj.final) - balance(model)))) < 1e-10


@pytest.mark.slow
def test_small_network_to_1e_4343(trained):
    model, X, y, _ = trained
    traj = gflow.gradient_flow(model, X, y, save=gflow.decades(jnp.geomspace(1.0, 4343.0, 20)))
    assert float(jnp.max(jnp.abs(balance(traj.model) - balance(model)[None]))) < 1e-10


def dip(alpha, pull, label):
    """A ReLU neuron on x1 = e1, x2 = 2 e2 and x3 = pull (1, -alpha), whose w . x3 falls towards zero and rises again:
    the data, and w . x3 as it is as long as no kink is met."""
    X, y = np.array([[1.0, 0.0], [0.0, 2.0], [pull, -pull * alpha]]), np.array([3.0, 4.0, label])
    values, vectors = np.linalg.eigh(X.T @ X)
    rest = np.linalg.solve(X.T @ X, X.T @ y)
    off = vectors.T @ (np.array([1.0, 0.2]) - rest)
    return X, y, lambda t: (rest + vectors @ (np.exp(-values * t) * off)) @ np.array([1.0, -alpha])


def dip_to(depth, pull, label):
    """The one that turns at minus `depth`, and when."""
    from scipy.optimize import brentq, minimize_scalar

    def bottom(alpha):
        z = dip(alpha, pull, label)[2]
        return minimize_scalar(z, bounds=(0.05, 1.0), method="bounded", options={"xatol": 1e-12})

    alpha = brentq(lambda alpha: bottom(alpha).fun + depth, 0.8, 1.5, xtol=1e-15)
    return *dip(alpha, pull, label), bottom(alpha).x


DEPTHS = (0.0, 1e-2, -1e-2, 1e-4, -1e-4, 1e-6, -1e-6, 1e-9, -1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("pull", "label"), [(1e-7, 0.0), (0.3, 0.05)], ids=["too small to matter", "repelling"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_dip_is_met_as_it_is_or_told_of(depth, pull, label):
    """At every tolerance, by steps that are long beside the dip: the kink is crossed twice, or not at all, or else the
    result says that it cannot tell. It must tell where the tolerance resolves the dip, and cannot where it only
    touches the kink."""
    from scipy.optimize import brentq

    X, y, z, low = dip_to(depth, pull, label)
    until = {"clock": gflow.TimeClock(), "stop": 3.0, "loss": gflow.losses.Square(reduction="sum")}
    for rtol in (1e-3, 1e-4, 1e-6, 1e-9, 1e-12):
        traj = gflow.gradient_flow(ReLUNeuron(np.array([1.0, 0.2])), X, y, rtol=rtol, **until)
        assert traj.success
        resolved = all(event.resolved for event in traj.events)
        assert resolved == ("rtol resolves" not in traj.status)
        assert not (resolved and abs(depth) < rtol) and (resolved or abs(depth) < 200 * rtol)
        if resolved:
            assert [event.kind for event in traj.events] == (["down", "up"] if depth > 0 else [])
        if resolved and depth > 0:
            # Near the bottom times are as the root of what states are off by.
            first = np.exp(traj.events[0].log_time)
            assert first == pytest.approx(brentq(z, 0.0, low), abs=3 * rtol / np.sqrt(depth))


@pytest.mark.slow
def test_events_that_count_as_resolved_are_those_of_a_tight_tolerance():
    crossings = lambda traj: sorted((e.neuron, e.sample, e.kind) for e in traj.events if e.kind != "near")
    doubtful = 0
    for seed in range(15):
        model, X, y = many(12, 8, 6, seed)
        options = {"clock": gflow.LogTimeClock(), "stop": 4.0}
        loose = gflow.gradient_flow(model, X, y, rtol=1e-4, **options)
        tight = gflow.gradient_flow(model, X, y, rtol=1e-10, **options)
        assert all(event.resolved for event in tight.events)
        if all(event.resolved for event in loose.events):
            assert crossings(loose) == crossings(tight)
        else:
            doubtful += 1
    assert doubtful < 15


@pytest.mark.slow
def test_from_the_origin_along_a_kink():
    """A leaky ReLU neuron at the origin whose velocity slides on the kink of a sample at first: the limit, as for any
    monotone activation, is of least norm."""
    rng = np.random.default_rng(0)
    X, y = [(rng.normal(size=(3, 6)), rng.normal(size=3)) for _ in range(5)][-1]
    options = {"clock": gflow.TimeClock(), "stop": 1e4, "loss": gflow.losses.Square(reduction="sum"), "at_kink": 1.0}
    traj = gflow.gradient_flow(ReLUNeuron(np.zeros(6), slope=0.2), X, y, rtol=1e-10, **options)
    assert [(event.sample, event.kind) for event in traj.events] == [(-1, "up"), (1, "leave down")]
    best = np.linalg.pinv(X) @ np.where(y > 0, y, y / 0.2)
    np.testing.assert_allclose(traj.final.weights, best, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "scale", "held"), [(0, 1.0, True), ((0, 9), 0.3, False)], ids=["held", "leaves"])
def test_neurons_that_come_to_the_origin_go_on_as_a_smoothed_activation_does(stream, scale, held):
    """Five samples in a plane: more kinks meet at the origin than there are dimensions."""
    rng = np.random.default_rng(stream)
    X, y, W, a = rng.normal(size=(5, 2)), np.sign(rng.normal(size=5)), rng.normal(size=(3, 2)), rng.normal(size=3)
    case = {"X": X, "y": y, "W0": scale * W, "a0": a, "slope": 0.1, "T": 15.0}
    network = TwoLayerNetwork(scale * W, a, slope=0.1)
    traj = gflow.gradient_flow(network, X, y, clock=gflow.TimeClock(), save=[4.0, 15.0], rtol=1e-9)
    assert np.any(np.all(np.asarray(traj.model.hidden[0]) == 0, axis=1)) == held
    end = np.concatenate([np.ravel(traj.final.hidden), traj.final.output])
    errors = [np.max(np.abs(smoothed(case, delta) - end)) for delta in (1e-4, 1e-6)]
    assert errors[1] < 1e-4 and errors[1] < 0.1 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("at_kink", ["leave", "stay"])
def test_a_neuron_that_died_on_a_kink_which_turns_to_repel(at_kink):
    """Neuron 0 sees sample 0 alone, which pushes it down to the kink until neuron 1 has raised the output past the
    label. Then it may rise, or stay: both are solutions."""
    X, y = np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([1.0, 8.0])
    net = TwoLayerNetwork(np.array([[0.0005, -1.0], [1.0, 0.5]]), np.array([-0.4, 0.6]), slope=0.0)
    traj = gflow.gradient_flow(
        net, X, y, loss=gflow.losses.Square(reduction="sum"), clock=gflow.TimeClock(), save=[0.01, 0.5], rtol=1e-9,
        at_kink=at_kink,
    )  # fmt: skip
    slide, leave = traj.events
    assert (slide.kind, slide.unique, leave.unique) == ("slide", True, False)
    assert "at_kink chose" in traj.status
    weight = traj.model.hidden[:, 0, 0]
    assert weight[0] == 0.0 and (leave.kind, bool(weight[1] == 0.0), bool(weight[1] > 0.1)) == (
        ("leave up", False, True) if at_kink == "leave" else ("leave down", True, False)
    )
    # When the residual turns, by DOP853 at 1e-12 for either piece.
    np.testing.assert_allclose(np.exp(leave.log_time), 0.021387186836971, rtol=1e-9)


ZERO_WEIGHT = {
    # Data of which the kink of the first sample repels, is crossed, or attracts, once the output weight has left zero.
    # The last sample is inactive.
    "repels": ([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]], [3.0, 1.0, 0.0]),
    "is crossed": ([[1.0, 0.0], [1.0, 1.0], [0.0, -1.0]], [1.0, 1.0, 0.0]),
    "attracts": ([[1.0, 0.0], [1.0, 1.0], [0.0, -1.0]], [-3.0, 1.0, 0.0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kink", ZERO_WEIGHT)
def test_an_output_weight_of_zero_goes_on_as_a_small_one(kink):
    X, y = map(np.array, ZERO_WEIGHT[kink])

    def run(weight, at_kink):
        model = TwoLayerNetwork(np.array([[0.0, 1.0]]), np.array([weight]), slope=0.0)
        square = gflow.losses.Square()
        return gflow.gradient_flow(
            model, X, y, loss=square, clock=gflow.TimeClock(), stop=3.0, rtol=1e-10, at_kink=at_kink
        )

    for at_kink in ("leave", "stay", 0.0):
        flows = [run(weight, at_kink) for weight in (0.0, 1e-12)]
        (event,), (other,) = (traj.events for traj in flows)
        assert event.log_time == -np.inf and event.resolved
        assert (event.kind, event.unique) == (other.kind, other.unique)
        assert event.unique == (kink != "repels")
        ends = [np.append(traj.final.hidden, traj.final.output) for traj in flows]
        np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-9)


def test_an_output_weight_that_nothing_moves_from_a_kink():
    X, y = np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]), np.array([2.0, 1.0, -1.0])
    model = TwoLayerNetwork(np.array([[0.0, 1.0]]), np.zeros(1), slope=0.0)
    run = lambda: gflow.gradient_flow(model, X, y, loss=gflow.losses.Square(), clock=gflow.TimeClock(), stop=1.0)
    with pytest.raises(gflow.FlowError, match="an output weight of zero that nothing moves"):
        run()


@pytest.mark.slow
def test_a_slack_whose_rounding_is_that_of_small_residuals_is_left():
    # At rtol 1e-10 a step ends so near to the event that only the rounding of the pulls is left between the two.
    rng = np.random.default_rng(537)
    X, hidden, output = rng.normal(size=(5, 2)), 0.5 * rng.normal(size=(5, 2)), 0.5 * rng.normal(size=5)
    y = rng.normal(size=5)
    model = TwoLayerNetwork(hidden, output, slope=0.0)
    run = lambda rtol: gflow.gradient_flow(
        model, X, y, loss=gflow.losses.Square(), clock=gflow.TimeClock(), stop=10.0, rtol=rtol
    )
    last, finer = (run(rtol).events[-1] for rtol in (1e-10, 3e-11))
    assert last.kind == finer.kind == "leave down"
    assert np.exp(last.log_time) == pytest.approx(np.exp(finer.log_time), rel=1e-10)


def test_pulls_that_cancel_hold_a_neuron_however_slowly_they_come_to():
    """All kinks attract; two of them are nearly opposite, and the pull of one is small beside the others'."""
    angles = np.array([-0.7275, -0.2714, 3.3134, 2.8575, -1.909])
    E, a = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1)), jnp.asarray(0.5)
    p, n = jnp.asarray([-0.4, -0.0034, -0.3, -0.001, -0.45]), jnp.zeros(5)
    layer = HiddenLayer(np.zeros((1, 2)), np.array([0.5]), slope=0.0)
    chart = SimpleNamespace(directions=E, at_kink=jnp.asarray(0.5), layer=layer, held=jnp.zeros((5, 2)))
    new = from_origin(chart, a, p, n)
    slides = new.sides == 0
    assert not new.dependent and new.unique and int(jnp.sum(slides)) == 2
    mu = -new.holds @ (jnp.where(new.sides > 0, p, 0.0) @ E)
    assert np.all((mu <= 0) & (mu >= p)) and np.all(mu[~slides] == 0)
    np.testing.assert_allclose((mu + jnp.where(new.sides > 0, p, 0.0)) @ E, 0.0, atol=1e-15)


def test_a_kink_that_holds_for_ever_is_not_left_by_rounding():
    """The neuron slides along the kink of the first sample, whose pull stays, and by that of the second, which falls
    like 1 / t: exp(w_2) = C + t / 2. Beside the first the second was rounding from t = e^35 on, and the neuron left."""
    X, y = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([-1.0, 1.0])
    start, save = ReLUNeuron(np.array([0.1, 0.1])), np.array([1.0, 10.0, 50.0])
    traj = gflow.gradient_flow(start, X, y, clock=gflow.LogTimeClock(), save=save)
    assert [e.kind for e in traj.events] == ["slide"]
    w, t = traj.final.weights, np.exp(float(traj.log_time[-1]))
    np.testing.assert_allclose(w, [0.0, np.log(t / 2)], rtol=1e-8, atol=1e-14)


def test_a_feature_of_zeros_changes_nothing():
    """Whether a neuron has come to the origin is a matter of the span of the samples."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5, 2))
    y = np.sign(rng.normal(size=5))
    W, a = rng.normal(size=(3, 2)), rng.normal(size=3)
    run = lambda W, X: gflow.gradient_flow(TwoLayerNetwork(W, a), X, y, clock=gflow.TimeClock(), stop=15.0, rtol=1e-9)
    plane = run(W, X)
    wider = run(np.append(W, np.full((3, 1), 0.5), axis=1), np.append(X, np.zeros((5, 1)), axis=1))
    assert any(e.sample == -1 or not e.unique for e in plane.events)
    np.testing.assert_allclose(wider.final.hidden[:, :2], plane.final.hidden, atol=1e-12)
    np.testing.assert_allclose(wider.final.hidden[:, 2], 0.5, rtol=1e-14)
    kinds = lambda traj: [(e.neuron, e.kind, e.unique, e.resolved) for e in traj.events]
    assert kinds(wider) == kinds(plane)


def test_targets_of_zero_are_reached_and_rested_at():
    layer = np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]), np.array([-1.0, -1.0])
    model = TwoLayerNetwork(*layer, slope=0.1, train_output=False, bias=np.array([0.0, -1.0]))
    options = {"loss": gflow.losses.Square(), "clock": gflow.TimeClock(), "save": [1.0, 99.0]}
    traj = gflow.gradient_flow(model, np.array([[0.0, 1.0, 1.0]]), np.zeros(1), **options)
    assert traj.success and abs(float(traj.final(jnp.array([0.0, 1.0, 1.0])))) < 1e-11


def test_a_neuron_that_is_learned_second_keeps_its_digits():
    """Two orthogonal samples, a neuron each, from 1e-20. With p = a w the second obeys p' = x p e^(-x p)."""
    scale, x = 1e-20, 0.5
    time = 2 * np.log(1 / scale) / x
    model = TwoLayerNetwork(scale * np.array([[1.0, -0.2], [-0.3, 1.0]]), scale * np.ones(2), slope=0.0)
    traj = gflow.gradient_flow(model, np.diag([1.0, x]), np.ones(2), clock=gflow.TimeClock(), stop=time)
    p = float(traj.final.output[1] * traj.final.hidden[1, 1])
    # Ei(x p) - Ei(x p_0) = x t.
    started = np.euler_gamma + np.log(x * scale**2)
    assert float(expi(x * p)) - started == pytest.approx(x * time, rel=1e-9)


@pytest.mark.parametrize("loss", [gflow.losses.Exponential(), gflow.losses.Square()], ids=["exponential", "square"])
def test_samples_orthogonal_but_for_rounding_are_orthogonal(loss):
    """A neuron rests on the kink of a sample beside which nothing drives it: rounding of the products decided anew, and
    for ever, on which side of it. As on the axes, where the products are zero."""
    stop, ended = 8.0, 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        y = np.sign(rng.normal(size=3))
        z = 0.1 * rng.normal(size=(4, 3))
        a = rng.choice([-1.0, 1.0], size=4) * np.linalg.norm(z, axis=1)
        flows = [
            gflow.gradient_flow(TwoLayerNetwork(z @ turn, a, slope=0.0), turn, y, loss=loss, clock=gflow.TimeClock(),
                                stop=stop, throw=False)
            for turn in (np.eye(3), axes)
        ]  # fmt: skip
        assert flows[1].success == flows[0].success
        if not (flows[0].success and all(e.unique for e in flows[0].events)):
            continue
        ended += 1
        ends = [np.asarray(flow.final.hidden) @ turn.T for flow, turn in zip(flows, (np.eye(3), axes), strict=True)]
        np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6, atol=1e-9 * np.abs(ends[0]).max())
        named = [[(e.neuron, e.sample, e.kind, e.resolved) for e in flow.events] for flow in flows]
        assert named[1] == named[0]
    assert ended >= 4


def test_orthogonal_groups_have_axes_of_their_own():
    """Whatever the turn: products across groups are zero."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    groups = np.zeros((6, 6))
    groups[:2, :2], groups[2:4, 2:4], groups[4:, 4:] = rng.normal(size=(3, 2, 2))
    X = groups @ turn
    network = TwoLayerNetwork(rng.normal(size=(2, 6)), np.ones(2))
    chart = piecewise_chart(network, jnp.asarray(X), jnp.ones(6), gflow.losses.Exponential(), jnp.ones(()))
    E = np.asarray(chart.directions)
    products, unit = E @ E.T, X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(products, unit @ unit.T, atol=1e-15)
    assert np.all(products[np.kron(np.eye(3), np.ones((2, 2))) == 0] == 0)
    basis = np.asarray(chart.basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-14)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-12])
def test_three_kinks_that_meet_at_once_are_told_of(rtol):
    """Points on a line and a bias: a neuron that slides along one of their kinks comes to all three at once. Which of
    the others came first was decided by rounding, and with it where the neuron went."""
    x = np.array([-0.6368, 2.1626])
    X = np.stack([x, -1.7 * x, 0.4 * x, np.array([1.9187, -0.5351])])
    model = TwoLayerNetwork(
        np.array([[8.5308e-06, 3.8776e-06], [6.2282e-06, 1.3987e-05]]), np.array([-9.3206e-07, 2.2378e-05]), slope=0.5,
        bias=np.array([-1.2639e-05, 2.1007e-05]),
    )  # fmt: skip
    y = np.array([1.0, 1.0, -1.0, -1.0])
    traj = gflow.gradient_flow(model, X, y, clock=gflow.LogTimeClock(), stop=11.3, rtol=rtol, throw=False)
    assert int(traj.status_code) == Status.kinks_meet
    assert abs(float(jnp.exp(traj.log_time[-1])) - 6.6928) < 1e-3


@pytest.mark.parametrize("gap", [1e-6, 1e-11])
def test_kinks_of_nearly_parallel_samples_are_met_one_by_one(gap):
    """Beside the kink of one sample that of its near twin is met by itself: nothing is undecided."""
    for seed in range(1, 4):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(4, 3))
        X[1] = 1.3 * X[0] + gap * rng.normal(size=3)
        y = np.sign(rng.normal(size=4))
        y[1] = y[0]
        model = TwoLayerNetwork(0.3 * rng.normal(size=(4, 3)), 0.3 * rng.choice([-1.0, 1.0], size=4), slope=0.1)
        traj = gflow.gradient_flow(model, X, y, clock=gflow.TimeClock(), stop=8.0)
        assert traj.success and {e.sample for e in traj.events} >= {0, 1}


def test_axes_that_rounding_leaves_open_change_no_sample():
    """Two rows apart by 1e-7 and a third orthogonal to both but for rounding: the axis on which the two differ may lean
    towards the third by 1e-9, which is more than the third's rounding."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        X = np.array([[1.0, 0, 0], [1.0, 1e-7, 0], [0, 0, 1.0]])[rng.permutation(3)] @ turn
        network = TwoLayerNetwork(rng.normal(size=(2, 3)), np.ones(2))
        chart = piecewise_chart(network, jnp.asarray(X), jnp.ones(3), gflow.losses.Exponential(), jnp.ones(()))
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        np.testing.assert_allclose(np.asarray(chart.directions) @ np.asarray(chart.basis).T, unit, atol=1e-14)
