"""What a sweep returns: the flows of its points, whatever they are made and computed by."""

import functools
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from small_sweep import network, planned, run, SAVE, SCALES, SOLVER, X, y
from test_driver import counting_compilations

import gflow
from gflow.sweeps import chunks, models, probes


def l1(model):
    return jnp.sum(jnp.abs(model.beta))


@pytest.fixture(scope="module")
def ds():
    return run()


def test_points_are_the_flows_of_their_models(ds):
    assert dict(ds.sizes) == {"scale": 5, "save": 2, "coordinate": 3}
    assert ds.scale.values.tolist() == SCALES and ds.save.values.tolist() == SAVE
    assert (ds.status == gflow.Status.success).all()
    for scale in (0.1, 2.0):
        traj = gflow.gradient_flow(network(scale), X, y, save=jnp.asarray(SAVE), solver=SOLVER, rtol=1e-6)
        at = ds.sel(scale=scale)
        np.testing.assert_allclose(at.beta, traj.model.beta, rtol=1e-9)
        np.testing.assert_allclose(at.neg_log_loss, traj.neg_log_loss, rtol=1e-12)
        np.testing.assert_allclose(at.log_time, traj.log_time, rtol=1e-9)
        assert (int(at.steps), int(at.rejections)) == (int(traj.stats["steps"]), int(traj.stats["rejections"]))


def test_attributes_say_how_to_repeat_it(ds):
    assert ds.attrs["loss"].startswith("Exponential") and ds.attrs["clock"] == "LossClock"
    assert ds.attrs["rtol"] == 1e-6 and ds.attrs["solver"].startswith("Tsit5")
    assert ds.attrs["version_jax"] == jax.__version__ and len(ds.attrs["data_sha256"]) == 64
    assert ds.attrs["version_lineax"] and ds.attrs["jax_default_prng_impl"] == "threefry2x32"
    assert ds.attrs == run().attrs
    named = run(lambda of: network(of["scale"]), over={"of": {"small": {"scale": 0.1}, "large": {"scale": 2.0}}})
    assert named.attrs["over_of"] == "small: {'scale': 0.1}, large: {'scale': 2.0}" and "over_scale" not in ds.attrs


def test_one_compilation_for_a_shape(ds):
    ours = lambda names: [name for name in names if "compute" in name]
    with counting_compilations() as names:
        run(over={"scale": np.geomspace(0.01, 10.0, 150), "rtol": [1e-6, 1e-4]}, save=[0.5, 3.0])
    assert ours(names) == []
    over = {"data": {"a": (X, y), "b": (X[:, ::-1], y)}, "rtol": [1e-7, 1e-5], "scale": SCALES}
    with counting_compilations() as names:
        got = run(X=None, y=None, over=over, metrics={"l1": l1})
    assert len(ours(names)) == 1, names
    assert (got.steps.sel(rtol=1e-7) > got.steps.sel(rtol=1e-5)).all()
    assert got.data.values.tolist() == ["a", "b"]
    np.testing.assert_allclose(got.l1, np.abs(got.beta).sum("coordinate"), rtol=1e-14)
    np.testing.assert_allclose(got.beta.sel(data="a"), got.beta.sel(data="b")[..., ::-1], rtol=1e-7)


def test_results_do_not_depend_on_the_company(ds):
    many = run(over={"scale": np.unique([*SCALES, *np.geomspace(0.03, 3.0, 90)])})
    xr.testing.assert_identical(many.sel(scale=SCALES).drop_attrs(), ds.drop_attrs())


def test_threads_give_the_same(ds):
    with ThreadPoolExecutor(2) as pool:
        xr.testing.assert_identical(run(workers=None, executor=pool), ds)


@pytest.mark.slow
def test_lanes_in_lock_step_give_the_same(ds):
    lanes = run(batching="vmap")
    np.testing.assert_allclose(lanes.beta, ds.beta, rtol=1e-9)
    np.testing.assert_array_equal(lanes.steps, ds.steps)


def by_jax(seed, scale):
    return network(scale * jnp.exp(jax.random.normal(jax.random.key(seed), (3,))))


def by_numpy(seed, scale):
    return network(scale * np.exp(np.random.default_rng(seed).normal(size=3)))


@pytest.mark.parametrize("make_model, traced", [(by_jax, ("seed", "scale")), (by_numpy, ("scale",))])
def test_seeds_and_scales(make_model, traced):
    over = {"seed": [3, 1], "scale": [1.0, 0.1]}
    problem, _ = planned(make_model, over)
    assert problem.traced == traced
    got = run(make_model, over=over)
    traj = gflow.gradient_flow(make_model(1, 0.1), X, y, save=jnp.asarray(SAVE), solver=SOLVER, rtol=1e-6)
    np.testing.assert_allclose(got.beta.sel(seed=1, scale=0.1), traj.model.beta, rtol=1e-9)
    assert got.attrs["seed"] == "[3, 1]"


class Sloped(eqx.Module):
    """A number that is not trained: traced, it would be."""

    w: jax.Array
    slope: float

    def __call__(self, x):
        return self.slope * self.w @ x


class Fixed(eqx.Module):
    w: jax.Array
    slope: float = eqx.field(static=True)

    def __call__(self, x):
        return self.slope * self.w @ x


def decides(scale):
    return network(scale if scale > 0.3 else 2 * scale)


def coarse(scale):
    """What it gives when traced is another model."""
    return network(scale if isinstance(scale, float) else scale + 1e-3)


@pytest.mark.parametrize(
    "make_model", [lambda scale: Sloped(jnp.ones(3), scale), lambda scale: Fixed(jnp.ones(3), scale), decides, coarse]
)
def test_models_that_tracing_would_change_are_called(make_model):
    problem, layout = planned(make_model, save=[2.0, 4.0])
    assert problem.traced == ()
    points = next(chunks.cut(layout.shape, (5,))).points()
    for group in models.groups(problem, points, {}):
        for k, row in enumerate(group.rows):
            made = make_model(problem.axes[0].values[row])
            one = jax.tree.map(lambda leaf, k=k: leaf[k] if eqx.is_array(leaf) else leaf, group.models)
            assert eqx.tree_equal(made, one)


def test_a_program_is_compared_wherever_it_is_compiled():
    """With depth 2 seeds may be traced; with depth 3 what is drawn would be the same for all."""

    def make_model(depth, seed):
        if depth == 2:
            return network(jnp.exp(jnp.asarray(seed, float)))
        return network(1.0 + np.random.default_rng(zlib.crc32(f"run-{seed}".encode())).random(3), 3)

    problem, _ = planned(make_model, {"depth": [2, 3], "seed": [0, 1, 2, 3]})
    assert problem.traced == ("seed",)
    points = np.array([[1, k] for k in range(4)])
    (group,) = models.groups(problem, points, {})
    for k in range(4):
        np.testing.assert_array_equal(group.models.log_scale[k], make_model(3, k).log_scale)


@pytest.mark.parametrize(
    "make_model, over, bad",
    [
        (lambda a, b: network(1 / (a * b)), {"a": [1, 10**10], "b": [1, 10**10]}, 0),
        (lambda a: network(1 / 3**a), {"a": [0, 45, 1, 2]}, 0),
        (lambda a: network(a**2), {"a": [-1.0, 0.0, 0.5, 1.0, 2.0]}, 1),
        (lambda a: network(1 / a), {"a": [1, 0, 2, 3]}, 1),
        (lambda a: network(1 + 0.01 * (10 // (a - 7))), {"a": [*range(6, 20)]}, 1),
        (lambda a: network(1 + 1e-19 * (a * (10**10 - a))), {"a": [1, 2, 5 * 10**9, 10**10 - 2, 10**10 - 1]}, 0),
        (lambda a: network(1 + jnp.floor(a / 0.1)), {"a": [0.1, 0.3, 0.5, 0.8]}, 0),
        (lambda a: network(jnp.where(jnp.asarray(a / 0.1) >= 3.0, 1.0, 2.0)), {"a": [0.1, 0.3, 0.5, 0.8]}, 0),
        (lambda a: network(1.0 + jnp.asarray(a / 0.1).astype(int)), {"a": [0.1, 0.3, 0.5, 0.8]}, 0),
        (lambda a: network(eqx.error_if(jnp.asarray(a), jnp.asarray(a) == 0.2, "no")), {"a": [0.1, 0.2, 0.3, 1.0]}, 1),
    ],
)
def test_what_arrays_would_hold_otherwise_is_called(make_model, over, bad):
    """Integers overflow, and a model that is refused when called is a model of infinities when traced."""
    with jax.numpy_dtype_promotion("standard"):
        problem, layout = planned(make_model, over)
        points = chunks.Chunk((0,) * len(over), layout.shape).points()
        failures = {}
        for group in models.groups(problem, points, failures):
            for k, row in enumerate(group.rows):
                made = make_model(**problem.arguments(points[row]))
                np.testing.assert_allclose(group.models.log_scale[k], made.log_scale, rtol=1e-12)
    assert len(failures) == bad


class Bent(eqx.Module):
    w: jax.Array
    activation: Callable

    def __call__(self, x):
        return self.activation(self.w @ x)


def with_closure(scale, by):
    return lambda z: by * jnp.tanh(z)


def with_default(scale, by):
    return lambda z, by=by: by * jnp.tanh(z)


def with_keyword_default(scale, by):
    return lambda z, *, by=by: by * jnp.tanh(z)


def with_function(scale, by):
    inner = lambda z: by * z
    return lambda z: jnp.tanh(inner(z))


def with_containers(scale, by):
    held = {"by": [by, np.ones(1)], "key": jax.random.key(0)}
    return lambda z: held["by"][0] * jnp.tanh(z)


def with_module(scale, by):
    linear = eqx.nn.Linear("scalar", "scalar", key=jax.random.key(0))
    return lambda z: by * jnp.tanh(linear(z))


def with_partial(scale, by):
    return functools.partial(jax.nn.leaky_relu, negative_slope=by)


@pytest.mark.parametrize(
    "make",
    [
        with_keyword_default,
        with_containers,
        *(
            pytest.param(make, marks=pytest.mark.slow)
            for make in (with_closure, with_default, with_function, with_module, with_partial)
        ),
    ],
)
def test_functions_made_anew_at_every_point_share_a_program(make):
    """But not with those that hold on to another number."""
    bent = lambda scale, by: Bent(jnp.full(3, scale), make(scale, by))
    # Arrays made while JAX traces are no numbers that could be compared.
    traceable = make not in (with_containers, with_module)
    assert planned(lambda scale: bent(scale, 0.5), save=[50.0])[0].traced == (("scale",) if traceable else ())
    problem, layout = planned(lambda scale: bent(float(scale), 0.5), save=[50.0])
    found = [g for chunk in chunks.cut(layout.shape, (2,)) for g in models.groups(problem, chunk.points(), {})]
    assert len(found) == 3 and len({id(group.models.activation) for group in found}) == 1
    problem, layout = planned(lambda scale: bent(1.0, scale), save=[50.0])
    (chunk,) = chunks.cut(layout.shape, (5,))
    groups = list(models.groups(problem, chunk.points(), {}))
    assert problem.traced == () and len(groups) == 5
    x = jnp.ones(3)
    for group in groups:
        model = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, group.models)
        assert model(x) == bent(1.0, problem.axes[0].values[group.rows[0]])(x)


@pytest.mark.slow
def test_models_of_array_output():
    make_model = lambda scale: gflow.models.MatrixFactorization.identical(2, depth=2, scale=scale)
    eye, target = np.eye(2), np.diag([2.0, 1.0])
    over, more = {"scale": [0.5, 0.1]}, {"loss": gflow.losses.Square(reduction="sum"), "save": [2.0, 20.0]}
    ds = gflow.sweep(make_model, eye, target, over=over, rtol=1e-6, workers=0, batching="map", **more)
    assert (ds.status == gflow.Status.success).all()
    for scale in over["scale"]:
        traj = gflow.gradient_flow(make_model(scale), eye, target, rtol=1e-6, **more)
        np.testing.assert_allclose(ds.log_time.sel(scale=scale), traj.log_time, rtol=1e-5)


def test_points_of_a_factorization_run_as_they_do_alone():
    """In one program for all, rounding learns the negative eigenvalue, which the flow from equal factors never does."""
    make_model = lambda scale: gflow.models.MatrixFactorization.identical(2, depth=3, scale=scale)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    eye, target = np.eye(2), turn @ np.diag([2.0, -1.5]) @ turn.T
    more = {
        "loss": gflow.losses.Square(reduction="sum"), "clock": gflow.TimeClock(), "save": [1.0, 300.0], "rtol": 1e-6,
        "metrics": {"product": lambda model: model.product},
    }  # fmt: skip
    ds = gflow.sweep(make_model, eye, target, over={"scale": [0.3, 0.1]}, workers=0, **more)
    learned = 2.0 * np.outer(turn[:, 0], turn[:, 0])
    for scale in (0.3, 0.1):
        traj = gflow.gradient_flow(make_model(scale), eye, target, **more)
        point = ds.sel(scale=scale)
        assert int(point.status) == gflow.Status.success and int(point.steps) == int(traj.stats["steps"])
        np.testing.assert_array_equal(point.product, traj.metrics["product"])
        # The negative one decays as 1 / t^3.
        np.testing.assert_allclose(point.product[-1], learned, atol=1e-4)


@pytest.mark.parametrize("batching", [None, "single"])
def test_data_that_a_call_refuses_have_a_status(batching):
    bad = (np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), np.ones(2))
    over = {"data": {"good": (X, np.ones(2)), "bad": bad}, "scale": [0.1, 1.0]}
    ds = run(gflow.models.DiagonalNetwork, None, None, over=over, save=[0.5, 3.0], batching=batching)
    assert (ds.status.sel(data="good") == gflow.Status.success).all()
    assert (ds.status.sel(data="bad") == gflow.Status.stationary_start).all()


def test_networks_with_kinks_on_parallel_samples(monkeypatch):
    """Which share kinks: known only where the data are. One data set of a chunk that has some is enough."""
    inputs = np.array([[1.0, 0.3], [0.2, -0.9], [-1.0, -0.3]])
    monkeypatch.setattr(chunks, "_FEWEST_CHUNKS", 1)

    def make_model(seed):
        draws = jax.random.normal(jax.random.key(seed), (3, 2))
        return gflow.models.TwoLayerNetwork(draws[:2], draws[2], slope=0.2)

    given = {"save": [1.0, 3.0], "rtol": 1e-6}
    labels = np.array([1.0, 1.0, -1.0])
    data = {"none": (inputs + np.eye(3, 2), labels), "parallel": (inputs, labels)}
    over = {"data": data, "seed": [0, 1]}
    ds = gflow.sweep(make_model, over=over, workers=0, **given)
    assert (ds.status == gflow.Status.success).all()
    traj = gflow.gradient_flow(make_model(1), inputs, [1.0, 1.0, -1.0], **given)
    np.testing.assert_array_equal(ds.log_time.sel(data="parallel", seed=1), traj.log_time)


def test_a_point_that_fails_alone_keeps_the_saves_before():
    make_model = lambda scale: gflow.models.MatrixFactorization.identical(2, depth=2, scale=scale)
    more = {"loss": gflow.losses.Square(reduction="sum"), "save": [0.5, 50.0], "rtol": 1e-6, "max_steps": 12}
    ds = gflow.sweep(make_model, np.eye(2), np.diag([2.0, 1.0]), over={"scale": [0.5, 1.2]}, workers=0, **more)
    assert ds.status.values.tolist() == [gflow.Status.max_steps, gflow.Status.bad_points]
    assert np.isfinite(ds.log_time.values).tolist() == [[True, False], [False, False]]
    assert (ds.final_neg_log_loss.values > [0.5, -np.inf]).all()


def test_a_point_without_a_model_does_not_spoil_the_others(ds):
    def fragile(scale):
        if float(scale) == 0.5:
            raise ArithmeticError("no such network")
        return network(scale)

    with pytest.warns(UserWarning, match=r"make_model failed at 1 points.* at scale = 0.5 it said: Arithmetic"):
        got = run(fragile)
    assert int(got.status.sel(scale=0.5)) == gflow.Status.no_model and np.isnan(got.beta.sel(scale=0.5)).all()
    rest = [0.1, 1.0, 2.0, 0.2]
    xr.testing.assert_identical(got.sel(scale=rest).drop_attrs(), ds.sel(scale=rest).drop_attrs())


def test_a_combination_that_does_not_fit_the_data_does_not_spoil_those_that_a_program_makes():
    make = lambda a, b, scale: gflow.models.DiagonalNetwork(4 if a == b == "y" else 3, 2, scale)
    over = {"a": ["x", "y"], "b": ["x", "y"], "scale": [0.1, 1.0]}
    with pytest.warns(UserWarning, match=r"at a = y, b = y, scale = .* it said: ValueError: model must map one sample"):
        ds = run(make, over=over)
    odd = (ds.a == "y") & (ds.b == "y")
    assert (ds.status == xr.where(odd, int(gflow.Status.no_model), int(gflow.Status.success))).all()


def test_a_model_of_nan_has_the_same_status_wherever_it_stands():
    def make_model(seed):
        draw = np.random.default_rng(seed).uniform(0.5, 1.0, 3)
        return gflow.models.LinearModel(draw * (np.nan if seed in (0, 5) else 1.0))

    with pytest.warns(UserWarning, match="must hold finite values"):
        ds = run(make_model, over={"seed": [3, 5, 0, 1, 2]}, save=[3.0, 4.0])
    assert (ds.status == np.where(np.isin(ds.seed, (0, 5)), gflow.Status.no_model, gflow.Status.success)).all()


@pytest.mark.parametrize("odd", [lambda: None, lambda: gflow.models.DiagonalNetwork(4, 2, 1.0)])
def test_a_point_without_a_model_of_the_data_does_not_spoil_the_others(odd):
    """Away from the axes along which models are looked at first."""
    make_model = lambda a, b: odd() if a == b == "y" else network(1.0)
    with pytest.warns(UserWarning, match=r"at a = y, b = y it said: ValueError: model must"):
        got = run(make_model, over={"a": ["x", "y"], "b": ["x", "y"]})
    done = gflow.Status.success
    assert got.status.values.tolist() == [[done, done], [done, gflow.Status.no_model]]


def test_where_runs_ended(ds):
    np.testing.assert_allclose(ds.final_neg_log_loss, SAVE[-1], rtol=1e-12)


def test_runs_that_fail_leave_gaps_and_a_status(ds):
    steps = (ds.steps + ds.rejections).values
    most, fewest = SCALES[int(np.argmax(steps))], SCALES[int(np.argmin(steps))]
    got = run(over={"scale": [most, fewest]}, max_steps=int(steps.max()) - 1)
    assert got.status.values.tolist() == [gflow.Status.max_steps, gflow.Status.success]
    assert np.isnan(got.neg_log_loss.sel(scale=most)).any() and 0 < float(got.final_neg_log_loss[0]) < 4.0


@pytest.mark.slow
def test_data_sets_of_other_shapes_and_losses():
    over = {
        "loss": [gflow.losses.Exponential(), gflow.losses.Logistic()],
        "data": {"wide": (X, y), "narrow": (X[:1, :2], y[:1])},
        "scale": [0.1, 1.0],
    }
    # What an earlier test has compiled would not be counted.
    jax.clear_caches()
    with counting_compilations() as names:
        got = run(gflow.models.DiagonalNetwork, None, None, over=over | {"depth": [2, 3]})
    assert len([name for name in names if "compute" in name]) == 8
    got = got.sel(depth=2)
    assert got.loss.values.tolist() == ["exponential", "logistic"] and got.sizes["coordinate"] == 3
    assert np.isnan(got.beta.sel(data="narrow")[..., 2]).all() and (got.status == gflow.Status.success).all()
    at = {"loss": "logistic", "data": "narrow", "scale": 0.1}
    model = gflow.models.DiagonalNetwork(2, 2, 0.1)
    logistic = gflow.losses.Logistic()
    traj = gflow.gradient_flow(model, X[:1, :2], y[:1], loss=logistic, save=jnp.asarray(SAVE), solver=SOLVER, rtol=1e-6)
    np.testing.assert_allclose(got.beta.sel(at)[:, :2], traj.model.beta, rtol=1e-9)


class Keyed(eqx.Module):
    w: jax.Array
    key: jax.Array

    def __call__(self, x):
        return jnp.sum(self.w @ x) + 0 * jax.random.normal(self.key)


@pytest.mark.slow
def test_models_may_hold_keys_and_seeds_are_traced():
    make_model = lambda seed: Keyed(0.1 * jax.random.normal(jax.random.key(seed), (2, 3)), jax.random.key(seed))
    problem, _ = planned(make_model, {"seed": [0, 1, 2]})
    assert problem.traced == ("seed",)
    assert (run(make_model, over={"seed": [0, 1]}).status == gflow.Status.success).all()


class Weights(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return jnp.sum(self.w @ x)


@pytest.mark.slow
def test_the_largest_shape_is_found_wherever_it_is():
    data = {"short": (X[:, :2], y), "long": (X, y)}
    over, metrics = {"width": [2, 3], "data": data}, {"flat": lambda model: model.w.ravel()}
    got = run(lambda dim, width: Weights(jnp.full((width, dim), 0.1)), None, None, over=over, metrics=metrics)
    assert got.sizes["flat_1"] == 9 and (got.status == gflow.Status.success).all()
    assert np.isfinite(got.flat).sum("flat_1").isel(save=0).values.tolist() == [[4, 6], [6, 9]]


@pytest.mark.slow
def test_a_shape_that_has_no_room_spoils_no_other_point(monkeypatch):
    monkeypatch.setattr(probes, "_EVERYWHERE", 0)
    monkeypatch.setattr(probes, "_SCATTERED", 0)
    make_model = lambda a, b: Weights(jnp.full((3 if a == b == "y" else 2, 3), 0.1))
    with pytest.warns(UserWarning, match=r"at a = y, b = y it said: ValueError: flat has shape \(2, 9\)"):
        got = run(make_model, over={"a": ["x", "y"], "b": ["x", "y"]}, metrics={"flat": lambda model: model.w.ravel()})
    done = gflow.Status.success
    assert got.status.values.tolist() == [[done, done], [done, gflow.Status.no_model]]


def test_what_a_partial_holds_is_not_given_again():
    make_model = functools.partial(gflow.models.DiagonalNetwork, dim=7)
    with pytest.raises(ValueError, match="model must"):
        run(make_model)
    assert run(functools.partial(make_model, dim=3)).sizes["coordinate"] == 3


def test_the_precise_backend_by_the_same_call():
    over, more = {"scale": ["1/8", "1"], "depth": [2, 3]}, {"save": ["10", "1e40"], "digits": 30}
    got = gflow.sweep(dict, [[1, 2], [2, -1]], [1, 1], over=over, workers=0, progress=False, **more)
    assert (got.status == gflow.Status.success).all() and (got.digits >= 30).all()
    single = gflow.precise.diagonal_flow([[1, 2], [2, -1]], [1, 1], depth=3, scale="1/8", **more)
    at = got.sel(scale="1/8", depth=3)
    for name in ("beta", "log_time", "neg_log_loss"):
        assert at[name].values.tolist() == single.to_xarray()[name].values.tolist()


def test_a_bad_point_of_the_precise_backend_does_not_spoil_the_others():
    make_model = lambda a, b: {"scale": 1, "depth": 1 if a == b == "y" else 2}
    over, more = {"a": ["x", "y"], "b": ["x", "y"]}, {"stop": 2, "digits": 15, "workers": 0, "progress": False}
    with pytest.warns(UserWarning, match=r"at a = y, b = y it said: ValueError: depth must be an integer"):
        got = gflow.sweep(make_model, [[1, 2], [2, -1]], [1, 1], over=over, **more)
    done = gflow.Status.success
    assert got.status.values.tolist() == [[done, done], [done, gflow.Status.no_model]]


@pytest.mark.parametrize("lengths, most", [((1000,), 64), ((7, 41), 64), ((2, 3, 999), 64), ((5,), 1), ((9, 999), 9)])
def test_chunks_cover_the_grid_once(lengths, most):
    shape = chunks.extents(lengths, range(len(lengths)), most)
    assert np.prod(shape) <= most
    seen = np.zeros(lengths, int)
    for chunk in chunks.cut(lengths, shape):
        seen[chunk.region] += 1
        assert all(a % side == 0 for a, side in zip(chunk.begin, shape, strict=True))
        assert [tuple(p) for p in chunk.points()[:1]] == [chunk.begin] and len(chunk.points()) == chunk.size
    assert (seen == 1).all()


def test_chunks_hold_points_of_about_one_cost():
    _, layout = planned(by_jax, {"scale": np.geomspace(1e-4, 1e4, 100), "seed": list(range(100))})
    assert layout.chunk == (1, 50)
    problem, _ = planned(over={"scale": [3.0, 1.0, 2.0]})
    assert problem.axes[0].labels.tolist() == [1.0, 2.0, 3.0]


def test_data_that_the_precise_backend_refuses_spoil_no_other():
    apart, not_apart = ([[1, 2], [2, -1]], [1, 1]), ([[1, 0], [-1, 0]], [1, 1])
    given = {"stop": "10", "digits": 15, "workers": 0}
    with pytest.warns(UserWarning, match="at data = bad, scale = 1 it said: ValueError: X and y cannot be separated"):
        ds = gflow.sweep(dict, over={"data": {"bad": not_apart, "good": apart}, "scale": ["1"]}, **given)
    assert ds.status.values.tolist() == [[gflow.Status.no_model], [gflow.Status.success]]
    with pytest.raises(ValueError, match="X and y cannot be separated"):
        gflow.sweep(dict, *not_apart, over={"scale": ["1"]}, **given)
