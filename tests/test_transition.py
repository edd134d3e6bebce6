"""The transition study, its figures and the command line."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import gflow
from gflow import cli, datasets, limits, plots, studies
from gflow.studies import regimes as module

DATA = datasets.load("toy")
SMALL = {"depths": [2, 3], "scales": [0.05, 1.0, 20.0], "decades": [1.0, 30.0, 300.0]}


def transition(**more):
    return studies.transition(DATA.X, DATA.y, **({"workers": 0, "progress": False} | more))


@pytest.fixture(scope="module")
def ds():
    return transition(**SMALL)


def test_dataset_holds_the_flows(ds):
    assert dict(ds.sizes) == {"depth": 2, "scale": 3, "decades": 3, "coordinate": 6, "mu_grid": ds.sizes["mu_grid"]}
    assert (ds.status == gflow.Status.success).all()


@pytest.mark.slow
def test_flows_are_those_of_single_calls(ds):
    model = gflow.models.DiagonalNetwork(6, 3, 1.0)
    traj = gflow.gradient_flow(model, DATA.X, DATA.y, save=gflow.decades(np.array([30.0, 300.0])), rtol=1e-10)
    beta = np.asarray(traj.model.beta) / np.asarray(traj.neg_log_loss)[:, None]
    np.testing.assert_allclose(ds.beta_over_gamma.sel(depth=3, scale=1.0).values[1:], beta, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ds.log_time.sel(depth=3, scale=1.0).values[1:], traj.log_time, rtol=1e-6)


def test_excesses_and_distances_are_those_of_the_limits(ds):
    l1, l2 = limits.l1_max_margin(DATA.X, DATA.y), limits.l2_max_margin(DATA.X, DATA.y)
    beta = ds.beta_over_gamma.values
    np.testing.assert_allclose(ds.excess_l1, np.abs(beta).sum(-1) / np.abs(l1.beta).sum() - 1, atol=1e-12)
    np.testing.assert_allclose(
        ds.distance_l2, np.linalg.norm(beta - l2.beta, axis=-1) / np.linalg.norm(l2.beta), atol=1e-12
    )
    mu = float(ds.mu.sel(depth=2, scale=20.0, decades=300.0))
    assert mu == pytest.approx(400.0 / gflow.decades(300.0))
    q = limits.q_max_margin(DATA.X, DATA.y, mu=mu, depth=2).beta
    at = ds.beta_over_gamma.sel(depth=2, scale=20.0, decades=300.0).values
    assert float(ds.distance_Q_mu.sel(depth=2, scale=20.0, decades=300.0)) == pytest.approx(
        np.linalg.norm(at - q) / np.linalg.norm(q), abs=3e-5
    )


def test_rich_and_kernel_ends_are_told_apart():
    late = transition(depths=[2], scales=[0.01, 300.0], decades=[30.0, 300.0, 1000.0])
    names = [module.LIMITS[int(k)] for k in late.nearest.values[..., -1].ravel()]
    assert names == ["l1", "l2"]


def test_flows_are_kept_in_a_store(ds, tmp_path, monkeypatch):
    stopped = []

    def progress(done, total):
        if done == 2 and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    with pytest.raises(gflow.SweepInterrupted, match="2 of 6 points were finished"):
        transition(**SMALL, store=tmp_path / "t.zarr", progress=progress)
    xr.testing.assert_identical(transition(**SMALL, store=tmp_path / "t.zarr"), ds)
    with pytest.raises(ValueError, match=r"was made with rtol = 1e-06, and this call has 0.001; choose another store"):
        transition(**SMALL, rtol=1e-3, store=tmp_path / "t.zarr")


def test_flows_that_fail_leave_gaps_and_a_status():
    part = transition(depths=[2], scales=[1.0], decades=[1.0, 300.0, 1000.0], max_steps=20)
    assert int(part.status[0, 0]) == gflow.Status.max_steps
    assert np.isfinite(part.excess_l1[0, 0, 0]) and np.isnan(part.excess_l1[0, 0, 2])
    assert int(part.nearest[0, 0, 2]) == -1


def test_figures_draw_what_the_dataset_holds(ds, tmp_path):
    files = plots.transition_figures(ds, tmp_path)
    assert [file.name for file in files] == ["phase-diagram.png", "paths.png"]
    assert all(file.stat().st_size > 10_000 for file in files)
    ax = plots.excess_plane(ds, 2)
    curve = next(line for line in ax.lines if line.get_label() == r"$Q_\mu$ max margin")
    np.testing.assert_array_equal(curve.get_xdata(), ds.Q_excess_l1.sel(depth=2))
    paths = [line for line in ax.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(paths[0].get_ydata(), ds.excess_l2.sel(depth=2)[0])
    ax = plots.phase_diagram(ds, 3)
    for line in ax.lines:
        mu = line.get_xdata() ** 3 / gflow.decades(line.get_ydata())
        np.testing.assert_allclose(mu, 10 ** np.round(np.log10(mu[0])), rtol=1e-9)
    plt.close("all")


def test_command_writes_its_files_and_prints_its_table(tmp_path, capsys):
    out = tmp_path / "out"
    grids = ["--scales", "0.1:10:3", "--decades", "1:100:3"]
    cli.main(["transition", "toy", "--depth", "2", *grids, "--out", str(out), "--workers", "0"])
    names = sorted(file.name for file in out.iterdir())
    assert names == ["explorer.html", "flows.zarr", "paths.png", "phase-diagram.png", "table.csv", "transition.nc"]
    printed = capsys.readouterr().out
    assert "toy: N = 3, d = 6" in printed and "depth 2" in printed and "loss 1e-100" in printed
    with xr.open_dataset(out / "transition.nc") as ds:
        page = (out / "explorer.html").read_text(encoding="utf-8")
        assert "toy: N = 3, d = 6" in page and f"{float(ds.distance_l1[0, 2, 2]):.6g}" in page
        row = next(line for line in printed.splitlines() if line.startswith("10  "))
        assert f"{float(ds.excess_l1[0, 2, 2]):.4f}" in row


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no-such.csv"], "no-such.csv"),
        (["toy", "--depth", "1"], "depth"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["transition", *arguments, "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("gflow: ") and message in error.splitlines()[0]


@pytest.mark.parametrize("grid", ["1:2", "5:1:3", "a:b:c", "-1:1:3", "1:2:0"])
def test_command_refuses_odd_grids(grid, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["transition", "toy", f"--scales={grid}"])
    assert caught.value.code == 2 and repr(grid) in capsys.readouterr().err


def test_csv_that_cannot_be_separated_is_refused(tmp_path, capsys):
    table = tmp_path / "xor.csv"
    table.write_text("a,b,label\n0,0,0\n1,1,0\n0,1,1\n1,0,1\n")
    with pytest.raises(SystemExit):
        cli.main(["transition", str(table), "--out", str(tmp_path / "out")])
    assert "separa" in capsys.readouterr().err


def test_installed_command_switches_on_64_bit():
    code = "import gflow_command, sys; sys.argv = ['gflow', '--help']; gflow_command.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "transition" in done.stdout
