# %% [markdown]
# # Your own Equinox model, on real data, to a loss of 1e-1000
#
# Scanned digits from scikit-learn, threes against eights, and a small network that gflow knows nothing about. At a loss
# of 1e-1000 a few images carry all the weight: the support vectors of the network. Left, those that count most; right,
# how the normalized margin still grows where training would have stopped.
#
#     JAX_ENABLE_X64=1 python notebooks/your_model.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import equinox as eqx  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

import gflow  # noqa: E402

digits = load_digits()
chosen = np.isin(digits.target, (3, 8))
X = digits.data[chosen][:80] / 16.0
y = np.where(digits.target[chosen][:80] == 3, 1.0, -1.0)


class Network(eqx.Module):
    hidden: jax.Array
    output: jax.Array

    def __call__(self, x):
        return self.output @ jax.nn.relu(self.hidden @ x) ** 2


key1, key2 = jax.random.split(jax.random.key(0))
model = Network(0.1 * jax.random.normal(key1, (16, 64)), 0.1 * jax.random.normal(key2, (16,)))


def normalized_margin(model, X, y):
    # The network is homogeneous of degree 3 in its weights.
    size = jnp.sqrt(jnp.sum(model.hidden**2) + jnp.sum(model.output**2))
    return jnp.min(y * jax.vmap(model)(X)) / size**3


save = gflow.decades(np.geomspace(1, 1000, 40))
traj = gflow.gradient_flow(model, X, y, save=save, rtol=1e-6, metrics={"margin": normalized_margin})
print(traj)

# %%
margins = y * np.asarray(jax.vmap(traj.final)(X))
weights = np.exp(margins.min() - margins)
weights /= weights.sum()
order = np.argsort(-weights)
figure = plt.figure(figsize=(12, 3.6), layout="constrained")
pictures, curve = figure.subfigures(1, 2, width_ratios=(1.25, 1))
for ax, k in zip(pictures.subplots(2, 6).flat, order, strict=False):
    ax.imshow(X[k].reshape(8, 8), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{'three' if y[k] > 0 else 'eight'}, {weights[k]:.2g}", fontsize=8)
pictures.suptitle("images of the largest weights at a loss of 1e-1000", fontsize=10)
ax = curve.subplots()
ax.semilogx(traj.neg_log_loss / np.log(10), traj.metrics["margin"], color="#0072B2")
ax.axvspan(1, 308, color="0.92", zorder=0)
ax.text(1.3, float(traj.metrics["margin"][-1]), "losses that float64 can hold", fontsize=8, va="top")
ax.set(xlabel="accuracy log₁₀(1/loss)", ylabel="normalized margin")
plt.show()

# %% [markdown]
# The margins of the support vectors are equal to a few units, in numbers of 2300.

# %%
print("smallest margins:", np.sort(margins)[:6].round(2), f" median: {np.median(margins):.0f}")
print(f"{int((weights > 1e-3).sum())} of {len(y)} images carry more than a thousandth of the weight")
