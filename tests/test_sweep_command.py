"""`gflow sweep`: sweeps from a file."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from small_sweep import run, SCALES, X

import gflow
from gflow import cli
from gflow.sweeps import config

TABLE = """
model = "DiagonalNetwork"
data = { path = "points.csv", label = "side", intercept = false, standardize = false }
solver = "Tsit5"
rtol = 1e-6
save = [1.0, 4.0]

[over]
scale = [1.0, 0.1, 2.0, 0.5, 0.2]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [",".join(map(repr, row.tolist())) for row in X]
    (tmp_path / "points.csv").write_text(f"a,b,c,side\n{rows[0]},1\n{rows[1]},2\n")
    (tmp_path / "models.py").write_text("import gflow\ndef network(size, depth=2):\n"
        "    return gflow.models.DiagonalNetwork(3, depth, size)\n")  # fmt: skip
    return tmp_path


def sweep(text, *more):
    with open("sweep.toml", "w") as file:
        file.write(text)
    cli.main(["sweep", "sweep.toml", "--store", "out.zarr", "--workers", "0", *more])


def test_command_runs_the_sweep_of_a_file(folder, capsys):
    sweep(TABLE)
    printed = capsys.readouterr().out
    assert "5 flows (5 scale). The store is out.zarr." in printed
    assert "xarray.open_zarr('out.zarr', consolidated=False)" in printed
    with xr.open_zarr(folder / "out.zarr", chunks=None, consolidated=False) as ds:
        direct = run(X=X, y=np.array([-1.0, 1.0]))
        np.testing.assert_array_equal(ds.beta.sel(scale=SCALES), direct.beta)
    sweep(TABLE.replace("DiagonalNetwork", "models:network").replace("scale", "size"), "--store", "other.zarr")
    with xr.open_zarr(folder / "other.zarr", chunks=None, consolidated=False) as ds:
        np.testing.assert_array_equal(ds.beta.sel(size=SCALES), direct.beta)


def test_runs_that_fail_are_counted(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        sweep("max_steps = 3\n" + TABLE)
    assert caught.value.code == 1
    assert "5 of 5 flows did not reach their stop:\n  5: The run used up max_steps" in capsys.readouterr().err


def test_scales_of_a_file_may_be_exact(folder):
    path = folder / "exact.toml"
    path.write_text("""
        model = "DiagonalNetwork"
        data = "toy"
        digits = 30
        save = ["1e3"]
        [over]
        scale = ["1/8", "1e-1000"]
        [arguments]
        depth = 3
        dim = 2
    """)
    make = config.read(path).arguments["make_model"]
    assert make(scale="1/8") == {"depth": 3, "scale": "1/8"}


def test_what_a_file_may_say(folder):
    path = folder / "all.toml"
    path.write_text("""
        model = "LinearModel"
        clock = "log-time"
        decades = "1:100:3"
        metrics = ["normalized_margin", "math:sqrt"]
        solver = "LogRadau"
        [over]
        beta = "0..9"
        data = ["toy"]
        loss = ["exponential", "logistic"]
        width = "0.1:10:3"
        [arguments]
        dim = 3
    """)
    job = config.read(path)
    more = job.arguments
    assert job.points == 60 and more["over"]["beta"] == list(range(10)) and more["make_model"].keywords == {"dim": 3}
    np.testing.assert_allclose(more["over"]["width"], [0.1, 1.0, 10.0])
    np.testing.assert_allclose(more["save"], gflow.decades(np.array([1.0, 10.0, 100.0])))
    assert type(more["clock"]) is gflow.LogTimeClock
    assert list(more["over"]["loss"]) == ["exponential", "logistic"] and more["over"]["data"]["toy"].X.shape == (3, 6)
    assert list(more["metrics"]) == ["normalized_margin", "sqrt"] and isinstance(more["solver"], gflow.LogRadau)


@pytest.mark.parametrize(
    "text, message",
    [
        ("model = ", "is not TOML"),
        ('modell = "x"', "holds 'modell', which is none of model, data,"),
        ('model = "LinearModel"', "must hold 'over'"),
        ('model = "LinearModel"\nover = 3', "must hold a table [over]"),
        ('model = "Perceptron"\n[over]\nscale = [1]', "model 'Perceptron' is not there: gflow.models has no"),
        ('model = "nowhere:f"\n[over]\nscale = [1]', "model 'nowhere:f' is not there: the module 'nowhere' has no 'f'"),
        ('model = "LinearModel"\n[over]\nscale = 3', "scale must be a list, LOW:HIGH:COUNT or FIRST..LAST, not 3"),
        ('model = "LinearModel"\n[over]\nscale = "1:0:3"', "'1:0:3' must be positive, with LOW below HIGH"),
        ('model = "LinearModel"\nclock = "sun"\n[over]\nscale = [1]', "clock must be loss, time, log-time, not 'sun'"),
        ('model = "LinearModel"\nclock = []\n[over]\nscale = [1]', "clock must be loss, time, log-time, not []"),
        ('model = "LinearModel"\nmetrics = 3\n[over]\nscale = [1]', "metrics must be a list of names, not 3"),
        ('model = "LinearModel"\nsolver = "ODETerm"\n[over]\nscale = [1]', "made without arguments, not 'ODETerm'"),
        ('model = "LinearModel"\narguments = 3\n[over]\nscale = [1]', "arguments must be a table of what the model"),
        (TABLE + "[arguments]\ndepht = 3", "make_model does not take 'depht', only dim, depth, scale."),
        (TABLE.replace("scale", "scal"), "make_model does not take 'scal', only dim, depth, scale."),
        ('model = "LinearModel"\ndata = "no.csv"\n[over]\nscale = [1]', "no.csv"),
        ('model = "LinearModel"\ndata = { file = 1 }\n[over]\nscale = [1]', "data must be a name or file, or a table"),
        ('model = "LinearModel"\nsave = [1]\ndecades = [1]\n[over]\nscale = [1]', "decades or save, not both"),
        ('model = "LinearModel"\ndecades = [1, "a"]\n[over]\nscale = [1]', "decades must hold numbers, not [1, 'a']"),
        (TABLE.replace("[over]", "[over]\ndata = ['toy']"), "must hold data or over.data, not both"),
        (TABLE + "\n[arguments]\nscale = 5.0", "must hold arguments.scale or over.scale, not both"),
        ('model = "LinearModel"\n[over]\ndata = [1, 2]', "over.data must hold names, each of them once, not [1, 2]"),
        ('model = "LinearModel"\n[over]\nloss = ["square", "square"]', "over.loss must hold names, each of them once"),
        ('metrics = ["math:sin"]\n' + TABLE, "metrics['sin'] cannot be computed: TypeError: "),
    ],
)
def test_files_that_say_something_else(folder, capsys, text, message):
    with pytest.raises(SystemExit) as caught:
        sweep(text)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("gflow: ") and message in error


def test_a_file_that_is_not_there(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["sweep", "none.toml", "--store", "out.zarr"])
    assert caught.value.code == 2 and "there is no none.toml" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_ctrl_c_while_xla_compiles_is_no_crash(folder, seconds):
    """Before: Python ended with a segmentation fault after its last words."""
    (folder / "sweep.toml").write_text(TABLE.replace('solver = "Tsit5"\n', "") + "depth = [2, 3, 4, 5, 6, 7, 8, 9]\n")
    command = [sys.executable, "-m", "gflow_command", "sweep", "sweep.toml", "--store", "out.zarr", "--workers", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and "40 flows" in process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "gflow: sweep was interrupted" in error
