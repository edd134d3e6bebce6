"""What comes back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from common import diagonal, X, y

import gflow

SAVE = gflow.decades(np.array([1.0, 3.0, 10.0, 100.0]))


@pytest.fixture(scope="module")
def traj():
    metrics = {
        "l1": lambda model: jnp.sum(jnp.abs(model.beta)),
        "margins": lambda model, X, y: y * (X @ model.beta),
    }
    return gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, metrics=metrics)


def test_shapes(traj):
    assert traj.success is True and traj.status == "The run reached the stop."
    assert traj.neg_log_loss.shape == traj.log_time.shape == (4,)
    assert traj.model.beta.shape == (4, 3) and traj.final.beta.shape == (3,)
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(eqx.filter(traj.model, eqx.is_array)))
    np.testing.assert_array_equal(traj.model.beta[-1], traj.final.beta)
    assert set(traj.stats) >= {"steps", "rejections", "seconds"}


def test_metrics(traj):
    np.testing.assert_allclose(traj.metrics["l1"], np.abs(traj.model.beta).sum(1), rtol=1e-15)
    np.testing.assert_allclose(traj.metrics["margins"], traj.model.beta @ X.T, rtol=1e-14)


def test_gamma_is_that_of_the_saved_models(traj):
    f = np.asarray(traj.model.beta) @ X.T
    top = f.min(axis=1)
    np.testing.assert_allclose(traj.neg_log_loss, top - np.log(np.mean(np.exp(top[:, None] - f), axis=1)), rtol=1e-14)


def test_printed_form(traj):
    lines = str(traj).splitlines()
    assert lines[0] == "Trajectory" and repr(traj) == str(traj)
    texts = dict(line.strip().split(maxsplit=1) for line in lines[1:] if not line.startswith("  log"))
    assert texts["status"] == "The run reached the stop." and texts["saves"] == "4"
    assert texts["l1"].endswith("shape (4,)") and texts["margins"].endswith("shape (4, 2)")
    assert texts["steps"] == f"{int(traj.stats['steps'])} + {int(traj.stats['rejections'])} rejected"
    assert any("log10 1/L" in line and "1 ... 100 decades" in line for line in lines)


def test_xarray_and_netcdf(traj, tmp_path):
    data = traj.to_xarray()
    assert data.sizes["save"] == 4
    np.testing.assert_array_equal(data.neg_log_loss, traj.neg_log_loss)
    np.testing.assert_allclose(data.decades, [1, 3, 10, 100], rtol=1e-14)
    np.testing.assert_array_equal(data.log_time, traj.log_time)
    np.testing.assert_array_equal(data.beta, traj.model.beta)
    np.testing.assert_array_equal(data["model.log_ratio"], traj.model.log_ratio)
    np.testing.assert_array_equal(data.margins, traj.metrics["margins"])
    assert data.attrs["success"] == 1 and data.attrs["clock"] == "LossClock" and data.neg_log_loss.units == "nat"
    data.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as back:
        xr.testing.assert_identical(back.load(), data)


def test_failure_carries_the_trajectory():
    with pytest.raises(gflow.FlowError) as failure:
        gflow.gradient_flow(diagonal(2, 0.1), X, y, save=SAVE, max_steps=80)
    traj = failure.value.trajectory
    assert str(failure.value).startswith("The run used up max_steps before the stop; raise max_steps, loosen rtol")
    assert "It stands at -log L = " in traj.status
    # The saves that were passed, then the point where it stood.
    passed = np.asarray(traj.neg_log_loss)
    assert 1 < passed.size <= 4 and np.allclose(passed[:-1], SAVE[: passed.size - 1]) and passed[-1] > passed[-2]
    np.testing.assert_array_equal(traj.final.beta, traj.model.beta[-1])


@pytest.mark.slow
def test_batches_are_no_datasets():
    run = lambda scale: gflow.gradient_flow(diagonal(2, scale), X, y, save=SAVE, throw=False, solver=gflow.LogRadau(3))
    batch = jax.vmap(run)(jnp.array([0.1, 1.0]))
    assert batch.status == ["The run reached the stop."] * 2 and np.all(batch.success)
    assert str(batch) == "Trajectory(batched or traced, saves (2, 4))"
    with pytest.raises(
        ValueError, match=r"^to_xarray needs one concrete trajectory: call it outside jit, vmap and jvp"
    ):
        batch.to_xarray()
