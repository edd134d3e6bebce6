"""Sweeps by other processes: those of this machine, of Dask, and over several devices."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import psutil
import pytest
import xarray as xr
from small_sweep import network, run

import gflow
from gflow.sweeps import front, worker

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
def test_ctrl_c_ends_the_workers_too(tmp_path):
    code = """
        import numpy as np
        from small_sweep import run
        run(over={"scale": np.geomspace(0.001, 10.0, 20_000)}, store="s.zarr", workers=2)
    """
    process = python(code, tmp_path)
    marks = tmp_path / "s.zarr" / "status" / "c"
    while process.poll() is None and not (marks.exists() and len(list(marks.iterdir())) > 3):
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "SweepInterrupted: sweep was interrupted when" in error and "the same call goes on from there" in error
    assert not psutil.wait_procs(workers, timeout=10)[1]
