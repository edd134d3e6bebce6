"""Sweeps by other processes: those of this machine, of Dask, and over several devices."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
import xarray as xr
from small_sweep import network, planned, run

import gflow
from gflow.sweeps import front, worker
from gflow.sweeps.batch import _across
from gflow.sweeps.chunks import Chunk
from gflow.sweeps.pack import pack

MANY = {"scale": np.geomspace(0.01, 10.0, 320)}


class Losing(Executor):
    """Loses every third task, as a cluster loses workers."""

    _max_workers = 2

    def __init__(self, error, always=False):
        self.error, self.tasks, self.always = error, 0, always

    def submit(self, function, *arguments, **more):
        future = Future()
        self.tasks += 1
        if self.always or self.tasks % 3 == 0:
            future.set_exception(self.error)
        else:
            future.set_result(function(*arguments, **more))
        return future


def test_chunks_of_lost_workers_are_given_out_again():
    executor = Losing(ConnectionError("worker is gone"))
    xr.testing.assert_identical(run(workers=None, executor=executor), run())
    assert executor.tasks > 5


class Growing(Executor):
    """A worker at first, three once a task is done, as a cluster that grows."""

    def __init__(self):
        self.waiting, self.most, self.ready = [], [], threading.Semaphore(0)
        threading.Thread(target=self._work, daemon=True).start()
        self._max_workers = 1

    def submit(self, function, *arguments):
        future = Future()
        self.waiting.append((future, lambda: function(*arguments)))
        self.ready.release()
        return future

    def _work(self):
        while True:
            self.ready.acquire()
            time.sleep(0.05)
            self.most.append(len(self.waiting))
            future, task = self.waiting.pop(0)
            self._max_workers = 3
            future.set_result(task())


def test_workers_that_join_later_get_work(tmp_path):
    executor = Growing()
    xr.testing.assert_identical(run(workers=None, executor=executor, store=tmp_path / "s.zarr").load(), run())
    assert executor.most[0] == 1 and max(executor.most) == 3


def test_a_chunk_that_is_lost_again_and_again_ends_the_sweep(tmp_path):
    executor = Losing(ConnectionError("worker is gone"), always=True)
    with pytest.raises(gflow.SweepError, match=r"lost its worker 3 times.*ConnectionError: worker is gone"):
        run(workers=None, executor=executor, store=tmp_path / "s.zarr")
    xr.testing.assert_identical(run(store=tmp_path / "s.zarr"), run())


def test_a_broken_executor_is_an_error_that_says_so():
    with pytest.raises(gflow.SweepError, match="the executor has lost its workers and takes no more; make a new one"):
        run(workers=None, executor=Losing(BrokenProcessPool("killed"), always=True))


def test_with_a_store_no_chunk_starts_before_a_finished_one_is_on_disk(tmp_path, monkeypatch):
    under_way, most = set(), []
    real = worker.compute

    def watched(problem, chunk):
        under_way.add(chunk)
        most.append(len(under_way))
        return real(problem, chunk)

    monkeypatch.setattr(worker, "compute", watched)
    written = front.OnDisk.write
    monkeypatch.setattr(front.OnDisk, "write", lambda s, c, v: (written(s, c, v), under_way.discard(c))[0])
    with ThreadPoolExecutor(2) as pool:
        run(workers=None, executor=pool, store=tmp_path / "s.zarr")
    assert max(most) <= 2


def test_errors_of_a_chunk_name_it(monkeypatch):
    def fail(problem, chunk):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(worker, "compute", fail)
    with ThreadPoolExecutor(1) as pool, pytest.raises(gflow.SweepError, match=r"from scale = .* failed: ZeroDiv.*odd"):
        run(workers=None, executor=pool)


def test_models_that_cannot_travel_are_refused():
    lock = threading.Lock()
    make_model = lambda scale: network(scale) if lock else None
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match=r"must be picklable .* pass workers=0"):
        run(make_model, workers=None, executor=pool)


def defined_here():
    """Modules that no other process can import: as defined in a script or a notebook."""

    class Inner(eqx.Module):
        w: jax.Array = eqx.field(converter=lambda v: jnp.asarray(v, float))
        power: int = eqx.field(static=True, default=1)

        def __call__(self, x):
            return (self.w @ x) ** self.power

    class Written(Inner):
        gain: float = 2.0

        def __init__(self, scale, gain):
            super().__init__([scale, 0.0, 0.0])
            self.gain = gain

        def __check_init__(self):
            assert self.gain > 0

        @property
        def beta(self):
            return self.gain * self.w

        def __call__(self, x):
            return self.gain * super().__call__(x)

    class Holder(eqx.Module):
        both: tuple[Inner, Written]
        name: str = "sum"

        def __call__(self, x):
            return self.both[0](x) + self.both[1](x)

    return lambda scale: Holder((Inner([0.0, scale, 0.0]), Written(scale, 3.0)))


def test_modules_of_a_script_are_whole_in_another_process(tmp_path):
    make = defined_here()
    problem, _ = planned(make_model=make, over={"scale": [0.5, 2.0]})
    (tmp_path / "problem").write_bytes(pack(problem))
    code = """
        import pickle, sys, jax, numpy as np, gflow
        problem, _ = pickle.loads(open(sys.argv[1], "rb").read())
        holder = problem.model((1,))
        double = jax.tree.map(lambda v: 2 * v if isinstance(v, jax.Array) else v, holder)
        x = np.array([1.0, 10.0, 0.0])
        print(float(holder(x)), float(double(x)), holder.both[1].beta.tolist(), len(jax.tree.leaves(holder)))
        try:
            type(holder.both[1])(1.0, gain=-1.0)
        except AssertionError:
            print("checked")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "problem")]
    env = os.environ | {"JAX_ENABLE_X64": "1"}
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    holder = make(2.0)
    assert there.stdout == f"26.0 52.0 [6.0, 0.0, 0.0] {len(jax.tree.leaves(holder))}\nchecked\n"


def drawn(seed):
    return gflow.models.LinearModel(jax.random.normal(jax.random.key(seed), (3,)))


@pytest.mark.slow
def test_settings_of_jax_go_along():
    draws = lambda **more: run(make_model=drawn, over={"seed": range(4)}, save=[9.0], **more).beta
    usual = draws()
    with jax.threefry_partitionable(False), ThreadPoolExecutor(1) as threads:
        xr.testing.assert_identical(draws(workers=None, executor=threads), draws())
        assert not np.any(draws() == usual)
        with jax.default_prng_impl("rbg"):
            assert planned()[1].attributes["jax_default_prng_impl"] == "rbg"
    problem, _ = planned()
    problem.settings["random_seed_offset"] = 3
    with pytest.raises(gflow.SweepError, match="jax_random_seed_offset is 0 in the worker and 3 in the process that"):
        front._run(problem, front.InMemory(planned()[1]), [Chunk((0,), (1,))], front.Crew(Losing(None)), False)


def test_the_last_chunk_is_for_those_who_did_the_others(tmp_path, monkeypatch):
    """By other threads its last digit may be another."""
    monkeypatch.setattr(front, "Processes", lambda size: front.Crew(ThreadPoolExecutor(size)))
    monkeypatch.setattr(front, "cores", lambda: 2)
    run(workers=None, store=tmp_path / "s.zarr")
    next((tmp_path / "s.zarr" / "status" / "finished").iterdir()).unlink()
    monkeypatch.setattr(front, "run_here", None)
    run(workers=None, store=tmp_path / "s.zarr")


@pytest.mark.slow
def test_processes_of_this_machine_of_which_one_is_killed(tmp_path):
    """Both ways to run with processes: gflow's own, and an executor of the user's."""
    killed = []

    def progress(done, total):
        if done > 60 and not killed:
            victim = next(p for p in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(p.cmdline()))
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    got = run(over=MANY, workers=2, progress=progress)
    assert killed
    xr.testing.assert_identical(got, run(over=MANY))
    with ProcessPoolExecutor(2, execute_context()) as pool:
        xr.testing.assert_identical(run(over=MANY, workers=None, executor=pool), got)


def execute_context():
    import multiprocessing

    os.environ["JAX_ENABLE_X64"] = "1"
    return multiprocessing.get_context("spawn")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_cluster_of_which_a_worker_is_killed(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    killed = []
    of = {"n_workers": 3, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**of) as cluster, distributed.Client(cluster) as client:

        def progress(done, total):
            if done > 60 and not killed:
                address, pid = next(iter(client.run(os.getpid).items()))
                killed.append(address)
                os.kill(pid, signal.SIGKILL)

        got = run(over=MANY, workers=None, executor=client.get_executor(), progress=progress)
    assert killed
    xr.testing.assert_identical(got, run(over=MANY))


def python(code, tmp_path, **environment):
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n" + textwrap.dedent(code)
    environment = os.environ | {"JAX_ENABLE_X64": "1"} | environment
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["map", "vmap"])
def test_points_are_spread_over_devices(tmp_path, batching):
    code = f"""
        import jax, numpy as np
        from small_sweep import run
        assert jax.device_count() == 2
        run(over={{"scale": np.geomspace(0.01, 10.0, 101)}}, workers=None, batching={batching!r}).to_netcdf("two.nc")
    """
    process = python(code, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert process.communicate()[1] is not None and process.returncode == 0
    here = run(over={"scale": np.geomspace(0.01, 10.0, 101)})
    with xr.open_dataset(tmp_path / "two.nc") as two:
        assert two.attrs["devices"] == "2 cpu"
        for name in here.data_vars:
            np.testing.assert_allclose(two[name], here[name], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["map", "vmap"])
def test_implicit_solvers_where_there_are_two_devices(tmp_path, batching):
    code = f"""
        import diffrax, numpy as np
        from small_sweep import run
        ds = run(workers=None, batching={batching!r}, solver=diffrax.Kvaerno3(), rtol=1e-4)
        assert (ds.status == 1).all()
    """
    process = python(code, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert process.communicate()[1] is not None and process.returncode == 0


@pytest.mark.slow
def test_implicit_solvers_by_vmap_in_two_threads():
    """They waited for each other, for ever."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 60)), np.ones(8)
    with ThreadPoolExecutor(2) as pool:
        ds = gflow.sweep(
            functools.partial(gflow.models.DiagonalNetwork, 60, 2), X, y, over={"scale": np.geomspace(0.1, 10.0, 256)},
            save=[1.0, 2.0], solver=diffrax.Kvaerno3(), rtol=1e-3, executor=pool, progress=False, batching="vmap",
        )  # fmt: skip
    assert (ds.status == 1).all()


@pytest.mark.slow
def test_workers_have_the_models_of_the_call_or_say_no(tmp_path):
    """A module that was edited and loaded again: workers went on with the old one, under the name of the new."""
    code = """
        import importlib, pathlib, sys
        import gflow
        sys.dont_write_bytecode = True
        sys.path.insert(0, ".")
        text = "import gflow\\nDEPTH = 2\\n"
        text += "def make(scale):\\n    return gflow.models.DiagonalNetwork(2, DEPTH, {} * scale)\\n"
        pathlib.Path("mine.py").write_text(text.format("1.0"))
        import mine
        given = dict(over={"scale": [0.1, 0.2, 0.4, 0.8]}, stop=50.0, rtol=1e-6, progress=False)
        go = lambda **more: gflow.sweep(mine.make, [[1.0, 2.0], [2.0, -1.0]], [1.0, 1.0], **given, **more).beta.values
        first = go(workers=2)
        pathlib.Path("mine.py").write_text(text.format("100.0"))
        importlib.reload(mine)
        here = go(workers=0)
        assert (go(workers=2) == here).all() and not (here == first).any()
        mine.DEPTH = 3
        try:
            go(workers=2)
        except gflow.SweepError as error:
            assert "workers have other models, metrics or losses by the same names" in str(error)
        else:
            raise AssertionError
    """
    process = python(code, tmp_path)
    error = process.communicate()[1]
    assert process.returncode == 0, error


def test_points_are_dealt_out_one_by_one():
    rows = jnp.arange(12.0).reshape(6, 2)
    dealt = _across(rows, -1, 3)
    np.testing.assert_array_equal(dealt[:, 0] // 2, [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(_across(dealt, 3, -1), rows)


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_too(tmp_path):
    code = """
        import numpy as np
        from small_sweep import run
        run(over={"scale": np.geomspace(0.001, 10.0, 20_000)}, store="s.zarr", workers=2)
    """
    process = python(code, tmp_path)
    marks = tmp_path / "s.zarr" / "status" / "finished"
    while process.poll() is None and not (marks.exists() and len(list(marks.iterdir())) > 3):
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    for _ in range(3):  # as by an impatient user
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    error = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "SweepInterrupted: sweep was interrupted when" in error and "the same call goes on from there" in error
    assert not psutil.wait_procs(workers, timeout=10)[1]
