# %% [markdown]
# # Descent against flow
#
# The smallest deep network, f(x) = u·v·x, fitted to one sample with target 1. Minima are the hyperbola uv = 1; the flow
# keeps u² − v² and ends where the hyperbola crosses that curve. Gradient descent with a step η does not keep it: it
# ends elsewhere on the hyperbola. Up to O(η²) it follows another flow, that of L + (η/4)‖∇L‖² (Barrett and Dherin 2021,
# arXiv 2009.11162), which `gflow.modified` integrates.
#
#     JAX_ENABLE_X64=1 python notebooks/descent_against_flow.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import equinox as eqx  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import gflow  # noqa: E402


class Product(eqx.Module):
    u: jax.Array
    v: jax.Array

    def __call__(self, x):
        return self.u * self.v * x[0]


X, y = np.array([[1.0]]), np.array([1.0])
model = Product(jnp.asarray(2.4), jnp.asarray(0.1))
weights = lambda traj: np.stack([traj.model.u, traj.model.v], axis=-1)
until = dict(loss=gflow.losses.Square(), clock=gflow.TimeClock(), save=np.linspace(0.01, 4.0, 80), rtol=1e-10)
flow = weights(gflow.gradient_flow(model, X, y, **until))
steps = [0.1, 0.05, 0.025, 0.0125]
down, near = {}, {}
for eta in steps:
    count = round(4.0 / eta)
    run = gflow.gradient_descent(model, X, y, loss=until["loss"], step=eta, steps=count, save=np.arange(count + 1.0))
    down[eta] = weights(run)
    near[eta] = weights(gflow.modified(gflow.gradient_flow, eta)(model, X, y, **until))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", width_ratios=(1.4, 1))
u, v = np.meshgrid(np.linspace(2.38, 2.46, 200), np.linspace(0.08, 0.45, 200))
left.contour(u, v, 0.5 * (u * v - 1) ** 2, levels=np.geomspace(1e-4, 0.3, 12), colors="0.85", linewidths=0.8)
left.plot(u[0], 1 / u[0], color="black", lw=1.2, label="minima, uv = 1")
left.plot(*flow.T, color="#0072B2", label="flow")
left.plot(*near[0.1].T, "--", color="#009E73", label="modified flow, η = 0.1")
left.plot(*down[0.1].T, "o", color="#D55E00", ms=4, label="descent, η = 0.1")
left.set(xlabel="u", ylabel="v", xlim=(2.38, 2.46), ylim=(0.08, 0.45))
left.legend(fontsize=8)
to_flow = np.array([np.linalg.norm(down[eta][-1] - flow[-1]) for eta in steps])
to_near = np.array([np.linalg.norm(down[eta][-1] - near[eta][-1]) for eta in steps])
right.loglog(steps, to_flow, "o-", color="#0072B2", label="descent to the flow")
right.loglog(steps, to_near, "s-", color="#009E73", label="descent to the modified flow")
right.loglog(steps, to_flow[-1] * (np.array(steps) / steps[-1]), ":", color="black", lw=1, label="η, η²")
right.loglog(steps, to_near[-1] * (np.array(steps) / steps[-1]) ** 2, ":", color="black", lw=1)
right.set(xlabel="step size η", ylabel="distance at t = 4", xticks=steps, xticklabels=[f"{eta:g}" for eta in steps])
right.minorticks_off()
right.legend(fontsize=8)
plt.show()

# %%
orders = lambda distances: np.log2(distances[:-1] / distances[1:]).round(2)
print("measured order, to the flow:", orders(to_flow), " to the modified flow:", orders(to_near))
change = lambda path: float(abs(path[-1, 0] ** 2 - path[-1, 1] ** 2 - (2.4**2 - 0.1**2)))
print(f"change of u^2 - v^2: flow {change(flow):.0e}, descent with step 0.1 {change(down[0.1]):.2f}")
