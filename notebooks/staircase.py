# %% [markdown]
# # Deep factorization: a staircase of eigenvalues
#
# A product W₃W₂W₁ is trained from 0.1·I to a symmetric matrix with eigenvalues 10, 5 and 1 (and seventeen zeros). They
# are learned one after another, the largest first, at times that are known in closed form (vertical lines). Between two
# steps of the staircase the product has an effective rank that a theorem encloses (Chou et al. 2020, arXiv 2011.13772).
# Dots: gradient descent of step 0.005. Lines: the flow.
#
#     JAX_ENABLE_X64=1 python notebooks/staircase.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import gflow  # noqa: E402

EIGENVALUES, SIZE, DEPTH, SCALE, STEP = [10.0, 5.0, 1.0], 20, 3, 0.1, 5e-3
target = gflow.observe.symmetric(EIGENVALUES, SIZE, jax.random.key(0))
X, y = gflow.observe.everything(target)
model = gflow.models.MatrixFactorization.identical(SIZE, DEPTH, SCALE)
loss = gflow.losses.Square(reduction="sum")


def values(model):
    return jnp.linalg.eigvalsh(model.product)[::-1][:3]


metrics = {"values": values, "rank": gflow.metrics.effective_rank}
save = np.arange(0, 2401, 16)
descent = gflow.gradient_descent(model, X, y, loss=loss, step=STEP, steps=2400, save=save, metrics=metrics)
flow = gflow.gradient_flow(
    model, X, y, loss=loss, clock=gflow.TimeClock(), save=save[1:] * STEP, rtol=1e-9, metrics=metrics
)
print(flow)

# %%
closed = gflow.limits.factorization
learned = closed.learning_time(EIGENVALUES, DEPTH, SCALE, fraction=0.99)
colours = ("#0072B2", "#D55E00", "#009E73")
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
for k, colour in enumerate(colours):
    left.plot(save * STEP, descent.metrics["values"][:, k], ".", ms=3, color=colour, alpha=0.5)
    left.plot(save[1:] * STEP, flow.metrics["values"][:, k], color=colour, label=f"eigenvalue {EIGENVALUES[k]:g}")
    left.axvline(learned[k], color=colour, lw=0.8, ls="--")
    known = closed.rank_interval(EIGENVALUES, k + 1, DEPTH, SCALE, size=SIZE, miss=0.05, leak=0.05)
    end = min(known.end, save[-1] * STEP)
    right.fill_between([known.start, end], known.lower, known.upper, color=colour, alpha=0.35, label=f"rank {k + 1}")
left.set(xlabel="time t = η × step", ylabel="eigenvalues of the product")
left.legend(fontsize=8, loc="center right", title="dashed: 99% learned, closed form", title_fontsize=8)
right.plot(save * STEP, descent.metrics["rank"], ".", ms=3, color="0.5", label="descent")
right.plot(save[1:] * STEP, flow.metrics["rank"], color="black", lw=1, label="flow")
right.set(xlabel="time t = η × step", ylabel="effective rank of the product", ylim=(0.9, 2.2))
right.legend(fontsize=8, title="shaded: intervals of the theorem", title_fontsize=8)
plt.show()

# %% [markdown]
# The closed form of an eigenvalue of the flow, against the flow.

# %%
known = closed.scalar_flow(save[1:] * STEP, 5.0, DEPTH, SCALE) ** DEPTH
error = np.abs(np.asarray(flow.metrics["values"][:, 1]) - known).max()
print("learning times:", learned.round(4), f" largest error of the second eigenvalue: {error:.1e}")
