# %% [markdown]
# # A sweep on a Dask cluster
#
# A hundred and twenty flows, 12 scales and ten random shapes of the initialization, each to a loss of 1e-100. The
# cluster here is two processes on this machine; an address of a real one in `Client(...)` is all that changes. The band
# holds the ten draws.
#
#     JAX_ENABLE_X64=1 python notebooks/dask_sweep.py

# %%
import os

# For the workers of the cluster, too: 64-bit floats, and one thread of XLA each.
os.environ |= {"JAX_ENABLE_X64": "1", "NPROC": "1"}

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, LocalCluster

import gflow
import gflow.datasets

data = gflow.datasets.load("toy")
l1 = gflow.limits.l1_max_margin(data.X, data.y)


def network(scale, seed):
    shape = jax.random.normal(jax.random.key(seed), (data.X.shape[1],))
    return gflow.models.DiagonalNetwork(data.X.shape[1], 2, scale * jnp.exp(0.3 * shape))


def excess(model, X, y):
    gamma = gflow.losses.Exponential().neg_log(X @ model.beta, y)
    return jnp.sum(jnp.abs(model.beta)) / gamma / np.abs(l1.beta).sum() - 1.0


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        ds = gflow.sweep(
            network,
            data.X,
            data.y,
            over={"scale": np.geomspace(0.01, 100, 12), "seed": range(10)},
            save=gflow.decades(np.array([3.0, 10.0, 30.0, 100.0])),
            rtol=1e-6,
            metrics={"excess": excess},
            executor=client.get_executor(),
        )
    print(ds)

    figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for k, colour in enumerate(("#D55E00", "#E69F00", "#009E73", "#0072B2")):
        at = ds.excess.isel(save=k)
        ax.fill_between(ds.scale, at.min("seed"), at.max("seed"), color=colour, alpha=0.25, lw=0)
        ax.semilogx(ds.scale, at.median("seed"), color=colour, label=f"1e-{(3, 10, 30, 100)[k]}")
    ax.set(xlabel="initialization scale α", ylabel="excess ℓ₁ norm of β/γ")
    ax.legend(title="loss")
    plt.show()

# %% [markdown]
# With `store="run.zarr"` the same call goes on after a crash of the cluster, or of this process, with the chunks that
# are missing.
