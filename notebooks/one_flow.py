# %% [markdown]
# # One flow to a loss of 10^(−10^100)
#
# A diagonal linear network of depth 2 on three samples in six dimensions. Its loss falls to 10^(−10^100), a number that
# no machine can hold; γ = −log L = 2.3·10^100 can be held, and that is what the flow counts in. Left: every coordinate
# of β/γ over a hundred powers of ten. Right: the distance to the ℓ₁ max margin, to which depth 2 tends from any scale.
#
#     JAX_ENABLE_X64=1 python notebooks/one_flow.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import gflow  # noqa: E402
import gflow.datasets  # noqa: E402

data = gflow.datasets.load("toy")
model = gflow.models.DiagonalNetwork(dim=6, depth=2, scale=1.0)
powers = jnp.linspace(0, 100, 201)
traj = gflow.gradient_flow(model, data.X, data.y, save=gflow.decades(10.0**powers), rtol=1e-8)
print(traj)

# %% [markdown]
# The limit is a linear program, solved apart from the flow. Off its support a coordinate of β/γ vanishes like
# γ^−(1−ρ), where ρ < 1 is what the program's multipliers say for this coordinate; the slowest of them sets the slope.

# %%
l1 = gflow.limits.l1_max_margin(data.X, data.y)
direction = np.asarray(traj.model.beta / traj.neg_log_loss[:, None])
slope = 1 - l1.rho_max
far = np.abs(direction - l1.beta).max(1)
fitted = np.polyfit(powers[20:40], np.log10(far[20:40]), 1)[0]
print(f"slope of the distance: measured {fitted:.4f}, predicted {-slope:.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
for i, colour in enumerate(colours):
    left.semilogy(powers, np.abs(direction[:, i]), color=colour, label=f"coordinate {i + 1}")
left.set(xlabel="x, loss = 10^(−10^x)", ylabel="size of the coordinates of β/γ")
left.legend(fontsize=8, ncol=2)
right.semilogy(powers, far, color="#0072B2", label="largest |β/γ − ℓ₁ max margin|")
right.semilogy(powers, far[30] * 10.0 ** (-slope * (powers - powers[30])), "--", color="black", lw=1, label="γ^−(1−ρ)")
right.set(xlabel="x, loss = 10^(−10^x)", ylabel="distance", xlim=(-1, 30), ylim=(1e-10, 2))
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# Physical time t overflows long before; its logarithm does not. Late, log t is γ less the logarithm of what the weights
# gain per unit of loss.

# %%
for k in (0, 20, 100, 200):
    gamma, log_time = float(traj.neg_log_loss[k]), float(traj.log_time[k])
    print(f"10^{float(powers[k]):g} decades: -log L = {gamma:.6g}, log t = {log_time:.6g}")
