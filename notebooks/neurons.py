# %% [markdown]
# # A leaky ReLU network: neurons that cross kinks, and neurons that slide along them
#
# Ten neurons in the plane, both layers trained. Grey lines are kinks: there a neuron's pre-activation of one sample is
# zero and the velocity jumps. A neuron that meets one may cross it (dot) or slide along it (thick), until it leaves.
# `gradient_flow` follows this exactly, and says what happened and when.
#
#     JAX_ENABLE_X64=1 python notebooks/neurons.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import gflow  # noqa: E402

rng = np.random.default_rng(3)
angles = np.array([0.3, 1.2, 2.0, 3.3, 4.4, 5.6])
X = np.stack([np.cos(angles), np.sin(angles)], axis=1)
y = np.array([1.0, 1.0, -1.0, 1.0, -1.0, -1.0])
model = gflow.models.TwoLayerNetwork(0.1 * rng.normal(size=(10, 2)), 0.1 * np.repeat([1.0, -1.0], 5), slope=0.1)
start = -float(np.log(np.mean(np.exp(-y * np.asarray(jax.vmap(model)(X))))))
save = start + np.geomspace(1e-4, gflow.decades(20) - start, 400)
traj = gflow.gradient_flow(model, X, y, save=save, rtol=1e-8)
print(traj)

# %%
# Length on a logarithmic scale, so that directions are seen from the start to the end.
hidden = np.asarray(traj.model.hidden)
radius = lambda w: np.log10(np.linalg.norm(w, axis=-1, keepdims=True) / 0.01)
place = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True) * radius(hidden)
times = np.asarray(traj.log_time)
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained", width_ratios=(1, 1.1))
reach = 1.1 * np.abs(place).max()
for x in X:
    left.plot(*np.outer([x[1], -x[0]], [-reach, reach]), color="0.8", lw=1, zorder=0)
for j in range(10):
    colour = "#0072B2" if float(model.output[j]) > 0 else "#D55E00"
    left.plot(*place[:, j].T, color=colour, lw=1)
    left.plot(*place[-1, j], "o", color=colour, ms=6)
    began = None
    for event in (e for e in traj.events if e.neuron == j):
        k = min(int(np.searchsorted(times, event.log_time)), len(times) - 1)
        if event.kind == "slide":
            began = k
        elif event.kind.startswith("leave") and began is not None:
            left.plot(*place[began : k + 1, j].T, color=colour, lw=4, solid_capstyle="round")
            began = None
        else:
            left.plot(*place[k, j], ".", color="black", ms=5)
    if began is not None:
        left.plot(*place[began:, j].T, color=colour, lw=4, solid_capstyle="round")
left.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
left.set_xlabel("weights of the neurons (length as log₁₀)\nblue: output > 0, orange: output < 0")

side = np.linspace(-1.5, 1.5, 200)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
outputs = np.asarray(jax.vmap(traj.final)(plane)).reshape(200, 200)
top = np.abs(outputs).max()
image = right.pcolormesh(side, side, outputs, cmap="RdBu", vmin=-top, vmax=top, rasterized=True)
right.contour(side, side, outputs, levels=[0.0], colors="black", linewidths=1)
for label, marker in ((1.0, "o"), (-1.0, "X")):
    right.plot(*X[y == label].T, marker, color="white", mec="black", ms=9, ls="", label=f"label {label:+.0f}")
figure.colorbar(image, ax=right, label="output at a loss of 1e-20")
right.set(aspect="equal", xlabel="x₁", ylabel="x₂")
right.legend(loc="upper right")
plt.show()

# %% [markdown]
# What happened, in order of time.

# %%
kinds = [event.kind for event in traj.events]
print({kind: kinds.count(kind) for kind in sorted(set(kinds))})
for event in traj.events[:8]:
    print(f"t = {np.exp(event.log_time):9.4f}  neuron {event.neuron}, sample {event.sample}: {event.kind}")

# %% [markdown]
# Between kinks |w_j|² − a_j² is conserved for every neuron, and crossing or sliding does not change it either.

# %%
output = np.asarray(traj.model.output)
balance = (hidden**2).sum(-1) - output**2
print(f"largest change of |w_j|^2 - a_j^2: {np.abs(balance - balance[0]).max():.1e}")
