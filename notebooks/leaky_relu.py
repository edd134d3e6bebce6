# %% [markdown]
# # Leaky ReLU networks on nearly orthogonal data: the limit of the flow, and the rank that descent finds
#
# Two layers, output weights fixed at +-1/sqrt(m), two Gaussian classes in high dimensions.
#
#     JAX_ENABLE_X64=1 python notebooks/leaky_relu.py --out leaky-relu-output

# %%
import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_enable_x64", True)

import gflow  # noqa: E402
from gflow.models import TwoLayerNetwork  # noqa: E402
from gflow.studies import figures, leaky_relu_flow as flow, leaky_relu_span as spans  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("leaky-relu-output"))
out = parser.parse_known_args()[0].out
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The flow
#
# Its limit is known in closed form: multipliers Q^-1 1, and two neurons v, u. The flow is followed to t = e^300, with
# every kink that it crosses.

# %%
rng = np.random.default_rng(0)
X = rng.normal(size=(6, 200)) / np.sqrt(200)
y = np.where(np.arange(6) % 2, -1.0, 1.0)
output = np.repeat([1.0, -1.0], [9, 6]) / np.sqrt(15)
model = TwoLayerNetwork(0.1 * rng.normal(size=(15, 200)) / np.sqrt(200), output, 0.3, train_output=False)
limit = flow.closed_form(X, y, 9, 6, 0.3)
traj = gflow.gradient_flow(model, X, y, clock=gflow.LogTimeClock(), save=np.array([150.0, 300.0]), rtol=1e-12)
print(traj)
print("kinks crossed:", len(traj.events), " certificate of the closed form:", limit.certified)

# %%
margins = y * np.asarray(jax.vmap(traj.final)(X))
multipliers = np.exp(float(traj.log_time[-1]) - np.log(len(y)) - margins)
print("multipliers, from the flow:  ", multipliers)
print("multipliers, in closed form: ", limit.multipliers)
gained = np.asarray(traj.model.hidden[1] - traj.model.hidden[0]) / float(traj.log_time[1] - traj.log_time[0])
print("singular values of what the weights gain:", np.linalg.svd(gained, compute_uv=False)[:4])

# %% [markdown]
# ## Gradient descent
#
# 512 neurons, 100 samples in d = 10,000, in the span of the samples: W W^T = (W B)(W B)^T + K, K constant.

# %%
X, y = spans.mixture(100, 10_000, rng)
hidden, output = spans.glorot(512, 10_000, rng)
span = spans.in_span(hidden, X)
steps = np.array([0, 1, 2, 5, 10, 20, 50, 100])
figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for scale, colour, marker in zip((1.0, 1 / 10, 1 / 50, 1 / 1000), figures.COLOURS, figures.MARKERS, strict=False):
    down = gflow.gradient_descent(
        TwoLayerNetwork(scale * span.weights, output, 0.1, train_output=False),
        span.inputs,
        y,
        loss=gflow.losses.Logistic(),
        step=0.16,
        steps=100,
        save=steps.astype(float),
    )
    ranks = [spans.stable_rank(W, scale**2 * span.outside) for W in np.asarray(down.model.hidden)]
    print(f"scale {scale:g}: stable rank {ranks[0]:.1f}, after one step {ranks[1]:.2f}, at the end {ranks[-1]:.2f}")
    ax.plot(steps, ranks, marker=marker, ms=4, color=colour, label=f"{scale:g} of Glorot's scale")
ax.set_xscale("symlog", linthresh=1)
ax.set(yscale="log", xlabel="step of descent", ylabel="stable rank", xlim=(-0.1, 130))
ax.legend(fontsize=8)
figure.savefig(out / "stable-rank.png", dpi=150)
