# %% [markdown]
# # Diagonal linear networks: from one picture to irreversibility
#
# A diagonal linear network of depth $D$ predicts $\beta\cdot x$ with $\beta=u_+^D-u_-^D$. It is trained by gradient
# flow from $u=\alpha$ on the exponential loss of separable data, and $\gamma=-\log L$ tells how far. Moroshko et al.
# 2020 (arXiv 2007.06738) place $\beta/\gamma$ by $\mu=\alpha^D/\gamma$: near the $\ell_2$ max margin where $\mu$ is
# large (the kernel regime), near the $\ell_1$ max margin where it is small (the rich regime, $D=2$), and near the
# $Q_\mu$ max margin in between. We look at this on four samples in six dimensions, and find out when the last
# statement is true.
#
#     JAX_ENABLE_X64=1 python notebooks/diagonal.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from gflow import limits  # noqa: E402
from gflow.studies.diagonal import depth, irreversible, problems  # noqa: E402
from gflow.studies.figures import COLOURS  # noqa: E402

X, y = problems.separable(33), np.ones(4)
l1, l2 = limits.l1_max_margin(X, y), limits.l2_max_margin(X, y)
print("l2 max margin:", l2.beta.round(3), "\nl1 max margin:", l1.beta.round(3))

# %% [markdown]
# ## One picture
#
# Excess of $\ell_1$ norm against $\mu$ for four scales, each from a loss of 0.6 to a loss of $e^{-10^{6}}$. Large
# scales fall on one curve, and the curve has a kink near $\mu=0.07$. The $Q_\mu$ max margin does not have the value of
# that curve.

# %%
mus = np.geomspace(1e2, 1e-4, problems.SAVES)
Q = limits.q_max_margin(X, y, mu=mus, depth=2)
path = limits.irreversible_path(X, y, mus=mus, depth=2)
gamma = np.geomspace(0.5, 1e6, problems.SAVES)
runs = problems.flows(X, 2, [0.1, 1.0, 10.0, 100.0], gamma)
figure, left = plt.subplots(figsize=(7, 4.2), layout="constrained")
for k, scale in enumerate((0.1, 1.0, 10.0, 100.0)):
    value = np.abs(runs.beta[k]).sum(-1) / (runs.beta[k] @ X.T).min(-1) / np.abs(l1.beta).sum() - 1
    value = np.where(value > 0, value, np.nan)
    left.loglog(scale**2 / gamma, value, color=COLOURS[k], label=f"α = {scale:g}")
left.loglog(mus, limits.excess_l1(Q.beta, l1), ":", color="black", label=r"$Q_\mu$ max margin")
left.set(xlabel=r"$\mu=\alpha^2/\gamma$", ylabel=r"excess $\ell_1$ norm at margin 1", xlim=(1e-5, 1e3), ylim=(1e-3, 1))
left.legend(fontsize=8)
plt.show()
plt.close(figure)

# %% [markdown]
# ## Why: multipliers that cannot fall
#
# Along the flow $\beta=2\alpha^2\sinh(4X^\top\nu)$, where $\nu_n$ is the integral over time of the weight of sample
# $n$. It can only grow. The multipliers of the $Q_\mu$ problem, in contrast, may return to zero as $\mu$ falls: the
# sample leaves the margin. Then the flow keeps what it had, and follows an *irreversible path*: the same optimality
# conditions, with multipliers that never decrease.

# %%
figure, right = plt.subplots(figsize=(7, 4.2), layout="constrained")
for n in range(4):
    right.loglog(mus, np.where(Q.multipliers[:, n] > 0, Q.multipliers[:, n], np.nan), ":", color=COLOURS[n])
    right.loglog(mus, np.where(path.multipliers[:, n] > 0, path.multipliers[:, n], np.nan), color=COLOURS[n],
                 label=f"sample {n + 1}")  # fmt: skip
right.invert_xaxis()
right.set(xlabel=r"$\mu$ (falling)", ylabel=r"multipliers: $Q_\mu$ (dotted), irreversible path")
right.legend(fontsize=8)
plt.show()
plt.close(figure)
first = int(np.flatnonzero(path.left.any(1))[0])
print(f"A sample has left by mu = {mus[first]:.3g}; the limits differ by up to",
      f"{problems.relative(path.beta, Q.beta).max():.3f} (relative)")  # fmt: skip

# %% [markdown]
# ## The flow decides
#
# At $\alpha^2=10^2, 10^4, 10^6$ and $\mu$ just as before: the distance to the irreversible path falls like
# $1/\alpha^2$, the distance to $Q_\mu$ stays.

# %%
for power in (1e2, 1e4, 1e6):
    run = problems.flows(X, 2, [power**0.5], power / mus)
    to_q, to_path = (problems.relative(run.direction[0], limit.beta)[24:].max() for limit in (Q, path))
    print(f"alpha^2 = {power:.0e}: to Q_mu {to_q:.2e}, to the irreversible path {to_path:.2e}")
assert to_path < 1e-6 < 1e-2 < to_q

# %% [markdown]
# ## How often
#
# Gaussian samples with the labels of a random direction. `gflow reproduce diagonal` does this for 200 sets, with the
# flow beside both limits, and for depth 3, where it is more frequent and does not fade as $\mu\to0$.

# %%
differences = []
for seed in range(12):
    rows = problems.separable(seed)
    without = limits.q_max_margin(rows, y, mu=mus[::2], depth=2)
    history = limits.irreversible_path(rows, y, mus=mus[::2], depth=2)
    differences.append(problems.relative(history.beta, without.beta).max())
apart = [value for value in differences if value > irreversible.APART]
print(f"{len(apart)} of 12 sets differ, by", np.round(apart, 3))

# %% [markdown]
# ## Deeper networks
#
# For $D>2$ the limit at fixed $\alpha$ is not the $\ell_1$ max margin but a stationary vertex of $\|\beta\|_{2/D}$.
# For few samples all of them can be listed.

# %%
corners = depth.vertices(X, 3)
path = limits.irreversible_path(X, y, mus=np.geomspace(1, 1e-12, 40), depth=3)
excess = limits.excess_l1(path.beta, l1)
nearest = problems.relative(path.beta[-1], corners)
print(f"{len(corners)} stationary vertices for D = 3. From infinite scale the excess of l1 norm falls to",
      f"{excess.min():.4f} and returns to {excess[-1]:.4f}, at vertex {nearest.argmin()} by quasi-norm",
      f"(distance {nearest.min():.1e})")  # fmt: skip
