# %% [markdown]
# # The phase diagram: initialization scale against accuracy
#
# How far is "trained" from the sparse solution? Diagonal networks of depth 2 and 3 on iris (two of its classes), 17
# scales, each followed to a loss of 1e-1000. The colour is the excess of ℓ₁ norm over the ℓ₁ max margin: dark is the
# sparse solution; grey is too early to tell, the norm still being below that of any classifier of margin 1. Dashed
# curves are those of constant μ = α^D/γ, γ = −log L, on which theory (Moroshko et al. 2020, arXiv 2007.06738) says that
# one finds the same solution once the scale is large.
#
#     JAX_ENABLE_X64=1 python notebooks/phase_diagram.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import gflow.datasets  # noqa: E402
from gflow import plots, studies  # noqa: E402

data = gflow.datasets.load("iris")
print(data)
ds = studies.transition(
    data.X, data.y, depths=[2, 3], scales=np.geomspace(0.01, 100, 17), decades=np.geomspace(1, 1000, 25), workers=0
)
figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
for depth, ax in zip((2, 3), axes, strict=True):
    plots.phase_diagram(ds, depth, ax)
plt.show()

# %% [markdown]
# `ds` is an `xarray.Dataset`: everything that the figure shows, and more, by name. At a loss of 1e-1000:

# %%
last = ds.isel(decades=-1).sel(depth=2)
for k in (0, 4, 8, 12, 16):
    at = last.isel(scale=k)
    name = studies.regimes.LIMITS[int(at.nearest)]
    print(f"scale {float(at.scale):>6.4g}: excess of l1 norm {float(at.excess_l1):7.4f}, nearest limit {name}")

# %% [markdown]
# `gflow transition iris --depth 2 3 --out DIR` is this study as a command, on any CSV file with two classes.
