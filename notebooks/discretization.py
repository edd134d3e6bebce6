# %% [markdown]
# # Gradient descent against gradient flow
#
# Descent with step $\eta$ is at distance $O(\eta)$ from the flow of $L$, and at distance $O(\eta^2)$ from the flow of
# $L+\frac{\eta}{4}\|\nabla L\|^2$ (Barrett & Dherin, arXiv 2009.11162). How far it can be is bounded along the path of
# the flow by the smallest eigenvalue of the Hessian (Elkabetz & Cohen, arXiv 2107.06608). And where the largest one
# comes to exceed $2/\eta$ descent leaves the flow for good (Cohen et al., arXiv 2103.00065). We see all four, the first
# three on a network of one's own. `gflow reproduce discretization` does it on a deep matrix factorization.
#
#     JAX_ENABLE_X64=1 python notebooks/discretization.py

# %%
import functools

import jax

jax.config.update("jax_enable_x64", True)

import equinox as eqx  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

import gflow  # noqa: E402
from gflow.studies import discretization  # noqa: E402
from gflow.studies.figures import COLOURS  # noqa: E402

rng = np.random.default_rng(0)
X, y = rng.normal(size=(10, 3)), rng.normal(size=10)
loss = gflow.losses.Square(reduction="sum")
network = eqx.nn.MLP(3, "scalar", 4, 1, activation=jax.nn.tanh, key=jax.random.key(0))

# %% [markdown]
# ## Orders one and two
#
# All parameters at forty times: of the flow, of the modified flow of each step size, and of descent. Along the flow
# also the ends of the Hessian's spectrum, by Lanczos' method, and $\|H\nabla L\|$, twice the error of a step over
# $\eta^2$.


# %%
def weights(model):
    return ravel_pytree(eqx.filter(model, eqx.is_inexact_array))[0]


times, etas = np.linspace(0.1, 4.0, 40), [0.01, 0.005, 0.0025]
ends = functools.partial(gflow.metrics.hessian_ends, loss=loss, rtol=1e-4)
drift = functools.partial(discretization.drift, loss=loss)
until = dict(loss=loss, clock=gflow.TimeClock(), save=times, rtol=1e-9)
flow = gflow.gradient_flow(network, X, y, **until, metrics={"theta": weights, "ends": ends, "drift": drift}).metrics

to_flow, to_modified = [], []
for eta in etas:
    save = np.round(times / eta)
    down = gflow.gradient_descent(
        network, X, y, loss=loss, step=eta, steps=int(save[-1]), save=save, metrics={"theta": weights}
    ).metrics["theta"]
    near = gflow.modified(gflow.gradient_flow, eta)(network, X, y, **until, metrics={"theta": weights})
    to_flow.append(np.linalg.norm(down - flow["theta"], axis=1))
    to_modified.append(np.linalg.norm(down - near.metrics["theta"], axis=1))
    print(f"eta = {eta:<7g} largest distance to the flow {max(to_flow[-1]):.2e}, to the modified flow "
          f"{max(to_modified[-1]):.2e}")  # fmt: skip
ratio = lambda rows: max(rows[-2]) / max(rows[-1])
print(f"halving the step divides them by {ratio(to_flow):.2f} and {ratio(to_modified):.2f}")

# %% [markdown]
# ## The bound along the path
#
# To first order in $\eta$ the distance obeys $e'\le -\lambda_{\min}(H)\,e+\frac{\eta}{2}\|H\nabla L\|$.

# %%
with_start = lambda v: np.append(v[:1], v)
bound = discretization.accumulated(
    np.append(0.0, times), -with_start(flow["ends"][:, 0]), etas[-1] / 2 * with_start(flow["drift"])
)[1:]
print(f"measured over the bound: {np.max(to_flow[-1] / bound):.3f} at most")

# %% [markdown]
# ## The edge of stability
#
# $L=(a^2b^2-1)^2/2$ has minima $ab=1$ of sharpness $4(a^2+b^2)$. From unbalanced $a$, $b$ the flow ends at a sharp
# one; descent can stay at those of sharpness $2/\eta$ and less, and ends just below: larger steps trade sharpness for
# a smaller norm.

# %%
quartic, one = discretization.Quartic(jnp.asarray(4.0), jnp.asarray(0.05)), np.ones((1, 1))
sharpness = functools.partial(gflow.metrics.sharpness, loss=loss)
sizes, at_the_end = [0.03, 0.04, 0.05, 0.06], []
for eta in sizes:
    traj = gflow.gradient_descent(
        quartic, one, np.ones(1), loss=loss, step=eta, steps=30_000, metrics={"sharpness": sharpness}
    )
    at_the_end.append((float(traj.metrics["sharpness"][0]) * eta / 2, float(traj.final.a**2 + traj.final.b**2)))
    print(f"eta = {eta:<5g} sharpness times eta / 2 = {at_the_end[-1][0]:.4f}, norm {at_the_end[-1][1]:.3f}")

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
left.loglog(etas, [max(v) for v in to_flow], "o-", color=COLOURS[0], label="to the flow of L")
left.loglog(etas, [max(v) for v in to_modified], "s-", color=COLOURS[1], label="to the modified flow")
left.set(xlabel="step size η", ylabel="largest distance of descent")
left.set_xticks(etas, [f"{eta:g}" for eta in etas])
left.minorticks_off()
middle.semilogy(times, bound, "--", color="black", label="bound along the path")
middle.semilogy(times, to_flow[-1], color=COLOURS[0], label=f"measured, η = {etas[-1]:g}")
middle.set(xlabel="time t", ylabel="distance of descent and flow")
right.plot(sizes, [norm for _, norm in at_the_end], "o-", color=COLOURS[0], label="descent, at the end")
right.plot(sizes, 0.5 / np.array(sizes), ":", color=COLOURS[1], label="sharpness = 2/η")
right.set(xlabel="step size η", ylabel="a² + b²")
for ax in (left, middle, right):
    ax.legend(fontsize=8)
plt.show()
