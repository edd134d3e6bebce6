# %% [markdown]
# # Deep matrix factorization: when eigenvalues are learned, and where the effective rank rests
#
# The product $W_3W_2W_1$ is fitted to a matrix of eigenvalues 10, 5, 1 from $W_j=\alpha I$. Each eigenvalue of the
# product follows an equation of its own, $p'=3p^{4/3}(\lambda-p)$, and is learned at a time that a closed form tells;
# between two such times the effective rank $\|W\|_*/\|W\|_2$ rests at that of the best approximation of rank 1, 2, 3
# (Chou, Gieshoff, Maly & Rauhut, arXiv 2011.13772). `gflow reproduce deep-factorization` has the rest of the paper.
#
#     JAX_ENABLE_X64=1 python notebooks/deep_factorization.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import gflow  # noqa: E402
from gflow.limits import factorization as closed  # noqa: E402
from gflow.studies.figures import COLOURS  # noqa: E402

EIGENVALUES, SIZE, DEPTH, SCALE, STEP = [10.0, 5.0, 1.0], 20, 3, 0.1, 5e-3
target = gflow.observe.symmetric(EIGENVALUES, SIZE, jax.random.key(0))
X, y = gflow.observe.everything(target)
model = gflow.models.MatrixFactorization.identical(SIZE, DEPTH, SCALE)
print("learning times, p = 0.99 λ:", closed.learning_time(EIGENVALUES, DEPTH, SCALE, fraction=0.99).round(4))

# %% [markdown]
# ## Descent, and the flow beside it

# %%
loss, metrics = gflow.losses.Square(reduction="sum"), {"rank": gflow.metrics.effective_rank}
save = np.arange(0, 2401, 40)
times = save * STEP
descent = gflow.gradient_descent(model, X, y, loss=loss, step=STEP, steps=2400, save=save, metrics=metrics)
flow = gflow.gradient_flow(
    model, X, y, loss=loss, clock=gflow.TimeClock(), save=times[1:], rtol=1e-9, metrics=metrics
)
print(flow)

# %% [markdown]
# ## The intervals of the theorem
#
# While the first $L$ eigenvalues are learned to 5% and the others are below 0.05, the effective rank lies between two
# numbers around that of the best approximation of rank $L$.

# %%
figure, ax = plt.subplots(layout="constrained")
inside = outside = 0
for rank, colour in zip((1, 2, 3), COLOURS, strict=False):
    known = closed.rank_interval(EIGENVALUES, rank, DEPTH, SCALE, size=SIZE, miss=0.05, leak=0.05)
    there = flow.metrics["rank"][(times[1:] >= known.start) & (times[1:] <= known.end)]
    good = (there >= known.lower) & (there <= known.upper)
    inside, outside = inside + int(np.sum(good)), outside + int(np.sum(~good))
    end = min(known.end, times[-1])
    ax.fill_between([known.start, end], known.lower, known.upper, color=colour, alpha=0.35, lw=0, label=f"L = {rank}")
print(f"effective ranks of the flow inside of their interval: {inside}, outside: {outside}")
ax.plot(times, descent.metrics["rank"], "o", ms=3, color="0.5", label="descent")
ax.plot(times[1:], flow.metrics["rank"], color="black", lw=1, label="flow")
ax.set(xlabel="time t = η times step", ylabel="effective rank of the product", ylim=(0.9, 2.2))
ax.legend(title="shaded: intervals of the theorem")
plt.show()
