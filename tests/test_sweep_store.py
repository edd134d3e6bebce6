"""A store loses nothing, mixes nothing, and says what is wrong with it."""

import copy
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
import xarray as xr
from small_sweep import network, planned, run, SCALES, X

import gflow
from gflow.sweeps import chunks, front, store, worker


def content(folder):
    """Every file of a store that is part of it (not what a killed process left half-written)."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "whole.zarr"
    run(store=folder)
    return folder


def test_store_holds_what_memory_would(whole):
    ds = run(store=whole)
    assert not any(v.variable._in_memory for v in ds.data_vars.values())
    xr.testing.assert_identical(ds.load(), run())
    plain = xr.open_zarr(whole, chunks=None, consolidated=False)
    assert plain.scale.values.tolist() == sorted(SCALES) and set(plain.data_vars) == set(ds.data_vars)


class Killed(BaseException):
    pass


def test_a_store_that_was_left_at_any_moment_ends_the_same(whole, tmp_path, monkeypatch):
    """As by kill -9: after every single file that is written, and within one."""
    computed = []
    real_compute, real_write = worker.compute, store.OnDisk.write
    monkeypatch.setattr(worker, "compute", lambda problem, chunk: computed.append(1) or real_compute(problem, chunk))

    def dying_write(files):
        def write(self, chunk, values):
            names = [*(name for name in values if name != "status"), "status"]
            for name in names[:files]:
                self.arrays[name][chunk.region] = values[name]
            place = self._file(names[files], chunk).with_suffix(".1.partial") if files < len(names) else None
            if place:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"half")
            raise Killed

        return write

    folder, points = tmp_path / "s.zarr", len(SCALES)
    for k in range(points):
        # Each process gets one chunk done and dies within the next, a file further each time.
        wrote = []

        def once(self, chunk, values, wrote=wrote, k=k):
            if wrote:
                dying_write(2 * k)(self, chunk, values)
            wrote.append(1)
            real_write(self, chunk, values)

        monkeypatch.setattr(store.OnDisk, "write", once)
        try:
            run(store=folder)
        except Killed:
            assert len(wrote) == 1
    monkeypatch.setattr(store.OnDisk, "write", real_write)
    assert len(computed) <= 2 * points
    xr.testing.assert_identical(run(store=folder), run(store=whole))
    assert content(folder) == content(whole)


def test_finished_points_are_not_computed_again(whole, monkeypatch):
    monkeypatch.setattr(worker, "compute", lambda *more: pytest.fail("computed again"))
    run(store=whole)


def unlike(scale):
    return network(1.5 * scale)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(rtol=1e-5), "was made with rtol = 1e-06, and this call has 1e-05; choose another store or delete it."),
        (dict(over={"scale": [1.0, 2.0]}), "was made with scale = 0.1, 0.2, 0.5, 1.0, 2.0, and this call has 1.0, 2.0"),
        (dict(over={"depth": [2], "scale": SCALES}), "was made over scale, and this call is over depth, scale"),
        (dict(save=[1.0, 5.0]), "was made with save = 1.0, 4.0, and this call has 1.0, 5.0"),
        (dict(stop=9.0), "was made with stop = 'the last save', and this call has 9.0"),
        (dict(max_steps=99), "was made with max_steps = 100000, and this call has 99"),
        (dict(X=2.0 * X), "was made with other data"),
        (dict(make_model=unlike), "was made with other models"),
        (dict(loss=gflow.losses.Exponential(reduction="sum")), "was made with loss = "),
        (dict(solver=None), "was made with solver = "),
        (dict(metrics={"scale_of": lambda model: model.log_scale[0]}), "was made with metrics = 'none'"),
    ],
)
def test_a_store_of_other_arguments_is_refused(whole, change, message):
    before = content(whole)
    with pytest.raises(ValueError, match=f"store {whole} ") as caught:
        run(**{"store": whole} | change)
    assert message in str(caught.value)
    assert content(whole) == before


class Slower(gflow.charts.EuclideanChart):
    def velocity(self, a, X, c):
        velocity = super().velocity(a, X, c)
        return velocity._replace(log_speed=velocity.log_speed - 3.0)


def with_beta(factor):
    class Quadratic(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w**2 @ x

        @property
        def beta(self):
            return factor * self.w**2

    return lambda scale: Quadratic(scale * jnp.ones(X.shape[1]))


def with_chart(kind):
    class Charted(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w**2 @ x

        def chart(self):
            return kind(self, jnp.zeros(()))

    return lambda scale: Charted(scale * jnp.ones(X.shape[1]))


def with_kinks(train_output):
    class Kinked(eqx.Module):
        hidden: jax.Array
        output: jax.Array

        def __call__(self, x):
            return self.output @ jax.nn.leaky_relu(self.hidden @ x, 0.2)

        def hidden_layer(self):
            return gflow.kinks.HiddenLayer(self.hidden, self.output, None, 0.2, train_output)

        def with_hidden_layer(self, layer):
            return Kinked(layer.hidden, layer.output)

    draws = jax.random.normal(jax.random.key(0), (4, X.shape[1] + 1))
    return lambda scale: Kinked(scale * draws[:, 1:], scale * draws[:, 0])


@pytest.mark.parametrize(
    "make, first, other",
    [(with_beta, 2.0, 1.0), (with_chart, gflow.charts.EuclideanChart, Slower), (with_kinks, True, False)],
    ids=["beta", "chart", "kinks"],
)
def test_models_are_known_by_all_that_a_run_asks_them_for(tmp_path, make, first, other):
    settings = dict(over={"scale": [1.0]}, save=[4.0], stop=None, rtol=1e-3, workers=0, store=tmp_path / "s.zarr")
    settings |= dict(solver=None) if make is with_kinks else dict(solver=diffrax.Tsit5())
    run(make(first), max_steps=1, **settings)
    run(make(first), max_steps=1, **settings)
    with pytest.raises(ValueError, match="was made with other models"):
        run(make(other), max_steps=1, **settings)


def a_loss(factor):
    class Steeper(gflow.losses.Exponential):
        def output_scale(self, f, y):
            return factor * super().output_scale(f, y)

    return Steeper()


def a_solver(factor):
    class Off(diffrax.Tsit5):
        def step(self, *args, **more):
            y1, *rest = super().step(*args, **more)
            return factor * y1, *rest

    return Off()


FACTOR = np.ones(1)


def of_the_module(y):
    return y * FACTOR


def a_solver_of_globals(factor):
    """It knows the factor by a function of the module, and that by a name there."""
    global FACTOR
    FACTOR = np.array([factor])

    class Off(diffrax.Tsit5):
        def step(self, *args, **more):
            y1, *rest = super().step(*args, **more)
            return of_the_module(y1), *rest

    return Off()


@pytest.mark.parametrize(
    "name, make, other", [("loss", a_loss, 2.0), ("solver", a_solver, 1.001), ("solver", a_solver_of_globals, 1.001)]
)
def test_losses_and_solvers_of_the_users_are_known_by_what_they_do(tmp_path, name, make, other):
    settings = dict(over={"scale": [1.0]}, max_steps=1, workers=0, store=tmp_path / "s.zarr")
    run(**settings, **{name: make(1.0)})
    run(**settings, **{name: make(1.0)})
    with pytest.raises(ValueError, match=f"was made with other {'losses' if name == 'loss' else name}"):
        run(**settings, **{name: make(other)})


class Named:
    """A factor that a solver finds in an object."""

    def __init__(self, *numbers):
        self.numbers = numbers


def of_an_object(numbers):
    named = Named(*numbers)

    class Off(diffrax.Tsit5):
        def step(self, *args, **more):
            y1, *rest = super().step(*args, **more)
            return y1 * (1 + 1e-9 * named.numbers[0]), *rest

    return Off()


@pytest.mark.parametrize("numbers", [(1, 24), (12, 3), (1, 2, 3)])
def test_solvers_are_known_by_objects_that_they_find(tmp_path, numbers):
    settings = dict(over={"scale": [1.0]}, max_steps=1, workers=0, store=tmp_path / "s.zarr")
    run(**settings, solver=of_an_object((1, 23)))
    run(**settings, solver=of_an_object((1, 23)))
    with pytest.raises(ValueError, match="was made with other solver"):
        run(**settings, solver=of_an_object(numbers))


class Mapped(gflow.LossClock):
    by: object

    def inner(self, coordinate):
        return self.by(coordinate)


def test_addresses_and_the_order_of_metrics_do_not_matter(tmp_path):
    settings = dict(over={"scale": [1.0]}, max_steps=1, workers=0, store=tmp_path / "s.zarr")
    metrics = {"a": lambda model: model.beta[0], "b": lambda model: model.beta[1]}
    clock = lambda: Mapped(jax.jit(lambda coordinate: 2.0 * coordinate))
    one = run(**settings, clock=clock(), metrics=metrics)
    other = run(**settings, clock=clock(), metrics=dict(reversed(metrics.items())))
    xr.testing.assert_identical(one, other)


@pytest.mark.parametrize("first", [1.0, 0.01])
def test_every_program_of_make_model_is_looked_at(tmp_path, first):
    """At the first scale, 1, all kinds make the same model."""
    kinds = [f"k{k}" for k in range(40)]
    powers = dict.fromkeys(kinds, 1.0)
    make = lambda kind, scale: network(0.1 * scale ** powers[kind])
    settings = dict(over={"scale": [first, 2.0], "kind": kinds}, max_steps=1, workers=0, store=tmp_path / "s.zarr")
    run(make, **settings)
    powers["k17"] = 1.5
    with pytest.raises(ValueError, match="was made with other models"):
        run(make, **settings)


def test_values_of_another_type_are_told(tmp_path):
    make = lambda scale, seed: network(scale)
    settings = dict(max_steps=1, workers=0, store=tmp_path / "s.zarr")
    run(make, over={"scale": [1.0], "seed": np.arange(2, dtype=np.int32)}, **settings)
    with pytest.raises(ValueError, match="was made with seed as int32, and this call has int64"):
        run(make, over={"scale": [1.0], "seed": range(2)}, **settings)


@pytest.mark.slow
def test_models_and_metrics_are_known_by_what_they_compute(tmp_path):
    folder = tmp_path / "s.zarr"
    over = {"scale": [1.0]}
    run(lambda scale: network(scale), over=over, store=folder, metrics={"m": lambda model: 2.0 * model.beta[0]})
    run(network, over=over, store=folder, metrics={"m": lambda model: 2.0 * model.beta[0]})
    with pytest.raises(ValueError, match="was made with other metrics"):
        run(network, over=over, store=folder, metrics={"m": lambda model: 3.0 * model.beta[0]})


def weighted(numbers):
    return {"m": lambda model: model.beta @ jnp.asarray(numbers)}


def scattered(by):
    """Called with texts, and apart from others away from the axes along which models are looked at first."""
    return lambda a, b: network(by if a != "0" and b != "0" else 1.0)


def deepened(by):
    """Compiled along seeds, and another model at another depth."""
    return lambda depth, seed: network(1.0 + (0.1 if depth == 2 else by) * jnp.asarray(seed, float), depth)


def network_of(depth, seed):
    return network(1.0 + jnp.asarray(seed, float), depth)


class Halved(gflow.losses.Exponential):
    """A loss of the user's, whose text does not say what it computes."""

    by: float = eqx.field(default=0.5, static=True, repr=False)

    def neg_log_mean(self, f, y):
        return super().neg_log_mean(self.by * f, y)


def picked(numbers):
    return {"m": jax.jit(lambda model: model.beta[jnp.asarray(numbers)])}


def shifted(by):
    """Apart from others at a point that is at no end of its axis."""
    return lambda scale: network(jnp.where(jnp.abs(scale - 0.5) < 0.1, by, scale))


class Bent(eqx.Module):
    """What it computes hangs on a table that it holds on to."""

    beta: jax.Array
    bend: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.bend(self.beta @ x)


def bent(by):
    """Another function at the second value of its axis, with the same numbers."""
    bends = {"line": lambda z: z, "bow": lambda z: jnp.sinh(by * z)}
    return lambda bend: Bent(jnp.full(3, 1e-3), bends[bend])


def by_depth(numbers):
    """Another metric of models that are not first."""
    return {"m": lambda model: numbers[model.depth] * model.beta[0]}


def ruled(slope):
    """The same function with another derivative, which is what the flow follows."""

    @jax.custom_jvp
    def bend(z):
        return jnp.where(z > 0, z, 0.0)

    @bend.defjvp
    def _(primals, tangents):
        return bend(primals[0]), tangents[0] * jnp.where(primals[0] > 0, 1.0, slope)

    return lambda scale: Bent(scale * jnp.ones(3), bend)


def called_back(by):
    """A metric of which JAX sees nothing."""
    total, told = lambda beta: np.float64(by * beta.sum()), jax.ShapeDtypeStruct((), float)
    return {"m": lambda model: jax.pure_callback(total, told, model.beta, vmap_method="sequential")}


EXPONENTIAL, LOGISTIC = gflow.losses.Exponential(), gflow.losses.Logistic()
DEEP = {"depth": [2, 3], "seed": [0, 1, 2]}
TEXTS = {"a": ["0", "1", "2"], "b": ["0", "1", "2"]}
TOTAL = gflow.losses.Exponential(reduction="sum")


def test_threads_make_stores_side_by_side(tmp_path, monkeypatch):
    """Files of zeros are files in all of them, whoever switches zarr's setting."""
    layout, read = planned()[1], store.OnDisk._described
    monkeypatch.setattr(store.OnDisk, "_described", lambda self, what: (time.sleep(1e-3), read(self, what))[1])

    def filled(k):
        made = store.OnDisk(tmp_path / f"{k}.zarr", layout)
        for chunk in chunks.cut(layout.shape, layout.chunk):
            made.write(chunk, {v.name: v.empty(chunk.shape) for v in layout.variables})
        return store.OnDisk(tmp_path / f"{k}.zarr", layout).holds(chunk)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(filled, range(16)))
    assert len({frozenset(content(folder)) for folder in tmp_path.iterdir()}) == 1


class Stretched(gflow.clocks.AbstractClock):
    by: float
    counts_loss: ClassVar[bool] = True
    label: ClassVar[str] = "stretched"

    def inner(self, coordinate):
        return self.by * jnp.asarray(coordinate)


def stretched(by):
    class Clock(gflow.clocks.AbstractClock):
        counts_loss: ClassVar[bool] = True
        label: ClassVar[str] = "stretched"

        def inner(self, coordinate):
            return by * jnp.asarray(coordinate)

    return Clock()


def stiff(weight):
    finder = diffrax.VeryChord(rtol=1e-3, atol=1e-3, norm=lambda v: weight * optimistix.rms_norm(v))
    return diffrax.Kvaerno3(root_finder=finder)


@pytest.mark.parametrize(
    "first, second, message",
    [
        (dict(over={"loss": {"a": EXPONENTIAL}}), dict(over={"loss": {"a": LOGISTIC}}), "was made with loss = 'a: Exp"),
        (dict(over={"loss": [EXPONENTIAL]}), dict(over={"loss": [TOTAL]}), "was made with loss = 'exponential: Exp"),
        (
            dict(over={"scale": {"a": 0.1, "b": 0.2, "c": 0.3}}),
            dict(over={"scale": {"a": 0.1, "b": 0.5, "c": 0.3}}),
            "other models",
        ),
        (dict(make_model=shifted(3.0)), dict(make_model=shifted(4.0)), "other models"),
        (dict(make_model=scattered(3.0), over=TEXTS), dict(make_model=scattered(4.0), over=TEXTS), "other models"),
        (dict(make_model=deepened(0.2), over=DEEP), dict(make_model=deepened(5.0), over=DEEP), "other models"),
        (dict(over={"loss": {"a": Halved()}}), dict(over={"loss": {"a": Halved(by=0.25)}}), "other losses"),
        (dict(metrics=weighted([0.0, 1.0, 2.0])), dict(metrics=weighted([1.0, 2.0, 3.0])), "other metrics"),
        (
            dict(make_model=bent(1.0), over={"bend": ["line", "bow"]}),
            dict(make_model=bent(2.0), over={"bend": ["line", "bow"]}),
            "other models",
        ),
        (
            dict(make_model=network_of, over=DEEP, metrics=by_depth({2: 1.0, 3: 2.0})),
            dict(make_model=network_of, over=DEEP, metrics=by_depth({2: 1.0, 3: 3.0})),
            "other metrics",
        ),
        (dict(make_model=ruled(0.0)), dict(make_model=ruled(0.5)), "other models"),
        (dict(metrics=called_back(1.0)), dict(metrics=called_back(2.0)), "other metrics"),
        (dict(metrics=picked([0, 1])), dict(metrics=picked([1, 2])), "other metrics"),
        (dict(clock=Stretched(1.0)), dict(clock=Stretched(2.0)), "other clock|was made with clock"),
        (dict(clock=stretched(1.0)), dict(clock=stretched(2.0)), "other clock"),
        (dict(solver=stiff(1.0)), dict(solver=stiff(2.0)), "other solver"),
    ],
)
def test_differences_that_no_name_tells(tmp_path, monkeypatch, first, second, message):
    alone = lambda more: {"make_model": lambda scale=1.0: network(scale)} | more
    empty = lambda problem, chunk: ({v.name: v.empty(chunk.shape) for v in problem.variables}, {})
    monkeypatch.setattr(worker, "compute", empty)
    run(**alone(first), store=tmp_path / "s.zarr")
    run(**alone(first), store=tmp_path / "s.zarr")
    with pytest.raises(ValueError, match=message):
        run(**alone(second), store=tmp_path / "s.zarr")


def test_a_store_of_digits_knows_models_off_its_axes(tmp_path):
    over = {"a": [0, 1], "b": [0, 1]}
    given = {"over": over, "save": ["5"], "digits": 15, "workers": 0, "store": tmp_path / "s.zarr"}
    gflow.sweep(lambda a, b: {"scale": 1 + a * b}, [[1, 2]], [1], **given)
    with pytest.raises(ValueError, match="was made with other models"):
        gflow.sweep(lambda a, b: {"scale": 1 + 2 * a * b}, [[1, 2]], [1], **given)


def test_other_versions_may_read_but_not_go_on(whole, tmp_path):
    folder = tmp_path / "s.zarr"
    shutil.copytree(whole, folder)
    about = folder / "zarr.json"
    about.write_text(about.read_text().replace(f'"version_gflow": "{gflow.__version__}"', '"version_gflow": "0.0.1"'))
    assert run(store=folder).attrs["version_gflow"] == "0.0.1"
    (folder / "status" / "finished" / "0").unlink()
    with pytest.raises(ValueError, match=r"unfinished and was made with gflow 0\.0\.1, and here is"):
        run(store=folder)


@pytest.mark.parametrize("value", [0, 0.0, False, ""])
def test_a_dimension_of_one_value_that_is_nothing(tmp_path, value):
    given = {"over": {"scale": [0.5, 1.0], "other": [value]}, "store": tmp_path / "s.zarr"}
    first = run(lambda scale, other: network(scale), **given).load()
    xr.testing.assert_identical(run(lambda scale, other: network(scale), **given).load(), first)


def test_notes_of_a_user_and_metrics_of_nothing_are_no_difference(tmp_path):
    import zarr

    folder, metrics = tmp_path / "s.zarr", {"empty": lambda model: jnp.zeros(0)}
    first = run(metrics=metrics, store=folder).load()
    group = zarr.open_group(folder, mode="r+")
    group.attrs["note"] = group["beta"].attrs["note"] = "mine"
    xr.testing.assert_equal(run(metrics=metrics, store=folder), first)


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=f"store {path} is there, and is no store of gflow.sweep"):
            run(store=path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("harm", ["truncated", "empty", "flipped", "swapped", "gone"])
@pytest.mark.parametrize("name", ["beta/c/3/0/0", "status/finished/3"])
def test_a_damaged_chunk_is_named(whole, tmp_path, name, harm):
    folder = tmp_path / "s.zarr"
    shutil.copytree(whole, folder)
    file, other = folder / name, folder / name.replace("3", "2")
    was = file.read_bytes()
    if harm == "gone":
        file.unlink()
        if "finished" in name:  # a chunk that is not done yet
            run(store=folder)
            assert content(folder) == content(whole)
            return
    else:
        flipped = bytes([was[0] ^ 1]) + was[1:]
        bad = {"truncated": was[:-9], "empty": b"", "flipped": flipped, "swapped": other.read_bytes()}
        file.write_bytes(bad[harm])
    fault = {"gone": "missing", "swapped": "that of another chunk"}.get(harm, "damaged")
    with pytest.raises(ValueError, match=rf"{name}, a part of the store, is {fault}; delete ") as caught:
        run(store=folder)
    # The remedy that it names.
    mark = str(caught.value).split("delete ")[1].split(", and")[0]
    os.unlink(mark)
    run(store=folder)
    assert content(folder) == content(whole)


def test_a_store_behind_a_link(whole, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "elsewhere")
    run(store=tmp_path / "link.zarr")
    assert content(tmp_path / "elsewhere") == content(whole)


@pytest.mark.parametrize("name", ["zarr.json", "beta/zarr.json", "scale/zarr.json", "scale/c/0"])
@pytest.mark.parametrize("harm", ["truncated", "gone"])
def test_a_damaged_description_is_named(whole, tmp_path, name, harm):
    folder = tmp_path / "s.zarr"
    shutil.copytree(whole, folder)
    file = folder / name
    was = file.read_bytes()
    file.write_bytes(was[: len(was) // 2])
    if harm == "gone":
        file.unlink()
    told = "in a file that describes it .*" + (name if name.endswith("c/0") else "")
    with pytest.raises(ValueError, match=rf"is damaged {told}.* All finished chunks stay"):
        run(store=folder)
    shutil.copy(whole / name, file)
    run(store=folder)
    assert content(folder) == content(whole)


def _nodes(tree, path=()):
    """The paths to all that is in a JSON document."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _nodes(value, (*path, key))


def _altered(tree, path, value):
    tree = inside = copy.deepcopy(tree)
    for key in path[:-1]:
        inside = inside[key]
    if value is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return tree


@pytest.mark.parametrize("value", [None, -1, "x", [0], {}], ids=str)
def test_a_description_that_is_altered_anywhere_is_told_or_harmless(whole, tmp_path, monkeypatch, value):
    """Each node of each zarr.json deleted or of another kind: one sentence, or the same result."""
    folder, layouts = tmp_path / "s.zarr", []
    shutil.copytree(whole, folder)
    monkeypatch.setattr(front, "OnDisk", lambda path, layout: layouts.append(layout) or store.OnDisk(path, layout))
    expected = run(store=folder).load()
    told = 0
    for file in (folder / name / "zarr.json" for name in (".", "beta", "scale", "status")):
        was = file.read_text()
        for path in list(_nodes(json.loads(was)))[1:]:
            file.write_text(json.dumps(_altered(json.loads(was), path, value)))
            try:
                found = store.OnDisk(folder, layouts[0]).dataset().load()
            except ValueError as error:
                assert str(error).startswith(f"store {folder} ")
                told += 1
            else:
                xr.testing.assert_equal(found, expected)
        file.write_text(was)
    assert told > 100


def test_a_full_disk_leaves_what_was_finished(whole, tmp_path, monkeypatch):
    """The limit on the size of a file fails writes as a full disk does."""
    folder = tmp_path / "s.zarr"
    real = store.OnDisk.write
    calls = []

    def write(self, chunk, values):
        calls.append(chunk)
        if len(calls) == 3:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
            try:
                real(self, chunk, values)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        real(self, chunk, values)

    monkeypatch.setattr(store.OnDisk, "write", write)
    with pytest.raises(OSError, match=r"cannot be written: File too large\. 2 of 5 points are on disk and sound; when"):
        run(store=folder)
    monkeypatch.undo()
    run(store=folder)
    assert content(folder) == content(whole)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"store .*s\.zarr cannot be made: (Not a directory|File exists); name a folder"):
        run(store=tmp_path / "file" / "s.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"cannot be made: Permission denied; name a folder"):
            run(store=tmp_path / "s.zarr")
    finally:
        tmp_path.chmod(0o700)


def test_ctrl_c_keeps_the_store_and_says_how_to_go_on(whole, tmp_path):
    def progress(done, total):
        if done == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "s.zarr"
    with pytest.raises(gflow.SweepInterrupted, match=r"3 of 5 points were finished\. They are in .*, and the same"):
        run(store=folder, progress=progress)
    xr.testing.assert_identical(run(store=folder), run(store=whole))
    with pytest.raises(gflow.SweepInterrupted, match=r"with store= the same call could go on") as caught:
        run(progress=progress)
    assert int((caught.value.dataset.status == gflow.Status.success).sum()) == 3


def test_ctrl_c_while_the_sweep_is_planned(monkeypatch):
    def interrupted(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(front, "plan", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"before its first chunk.* the same call goes on"):
        run()


def test_the_bar_is_for_terminals_only(whole, capfd):
    run(store=whole, progress=True)
    run(over={"scale": [1.0]}, progress=True)
    assert capfd.readouterr() == ("", "")


SCRIPT = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
import small_sweep, numpy as np
small_sweep.run(over={{"scale": np.geomspace(0.01, 10.0, 320)}}, store=sys.argv[1], workers=int(sys.argv[2]))
"""


def start(folder, workers):
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(workers)], env=environment)


def wait_for_chunks(folder, count, process):
    marks = folder / "status" / "finished"
    while process.poll() is None and (not marks.exists() or len(list(marks.iterdir())) < count):
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_of_a_sweep_with_workers(tmp_path, workers):
    """A process, and its workers with it; then the rest here, as by an unbroken run."""
    over = {"scale": np.geomspace(0.01, 10.0, 320)}
    process = start(tmp_path / "s.zarr", workers)
    wait_for_chunks(tmp_path / "s.zarr", 3, process)
    process.kill()
    assert process.wait() == -9
    done = len(list((tmp_path / "s.zarr" / "status" / "finished").iterdir()))
    assert 3 <= done < 16
    run(over=over, store=tmp_path / "s.zarr")
    run(over=over, store=tmp_path / "whole.zarr")
    assert content(tmp_path / "s.zarr") == content(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_two_processes_share_a_store(tmp_path):
    both = [start(tmp_path / "s.zarr", 0) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    over = {"scale": np.geomspace(0.01, 10.0, 320)}
    run(over=over, store=tmp_path / "whole.zarr")
    assert content(tmp_path / "s.zarr") == content(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_kill_9_again_and_again(tmp_path):
    """At moments that are not chosen, until nothing is left to do."""
    kills = 0
    wait = np.random.default_rng(0)
    process = start(tmp_path / "s.zarr", 0)
    wait_for_chunks(tmp_path / "s.zarr", 1, process)
    while process.poll() is None and kills < 12:
        process.kill()
        process.wait()
        kills += 1
        done = len(list((tmp_path / "s.zarr" / "status" / "finished").iterdir()))
        process = start(tmp_path / "s.zarr", 0)
        wait_for_chunks(tmp_path / "s.zarr", done + 1, process)
        time.sleep(wait.uniform(0.0, 0.05))
    assert process.wait() in (0, -9) and kills > 3
    over = {"scale": np.geomspace(0.01, 10.0, 320)}
    run(over=over, store=tmp_path / "s.zarr")
    run(over=over, store=tmp_path / "whole.zarr")
    assert content(tmp_path / "s.zarr") == content(tmp_path / "whole.zarr")
