# %% [markdown]
# # Fifty verified digits
#
# The same flow in float64 and in arbitrary precision, to a loss of 10^(−10^100). Every precise run solves twice, with
# another order, precision and tolerance, and states the digits on which the two agree. So the error of float64 is
# measured, not estimated: to the right of γ = 1e16 it is that of numbers whose unit of rounding is larger than 1.
#
#     JAX_ENABLE_X64=1 python notebooks/fifty_digits.py

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt  # noqa: E402
import mpmath  # noqa: E402
import numpy as np  # noqa: E402

import gflow  # noqa: E402
from gflow import precise  # noqa: E402

X, y = [[1, 2, "1/2"], [2, -1, "1/3"]], [1, 1]
floats, powers = np.array([[1.0, 2.0, 0.5], [2.0, -1.0, 1 / 3]]), [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 75, 100]
save = [f"1e{k}" for k in powers]
run = precise.diagonal_flow(X, y, depth=2, scale="1/8", save=save, digits=50)
print(run)
print("beta / gamma at 1e100:")
with mpmath.workdps(60):
    for value in run.beta[-1]:
        print("   ", mpmath.nstr(value / run.neg_log_loss[-1], 50))

# %%
model = gflow.models.DiagonalNetwork(dim=3, depth=2, scale=0.125)
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for rtol, colour, marker in ((1e-4, "#D55E00", "o"), (1e-7, "#009E73", "s"), (1e-10, "#0072B2", "^")):
    traj = gflow.gradient_flow(model, floats, np.array(y, float), save=np.array([float(s) for s in save]),
                               rtol=rtol, solver=gflow.LogRadau(stages=7))  # fmt: skip
    errors = []
    for k in range(len(save)):
        truth = [value / run.neg_log_loss[k] for value in run.beta[k]]
        found = [mpmath.mpf(float(b)) / mpmath.mpf(float(traj.neg_log_loss[k])) for b in traj.model.beta[k]]
        size = max(abs(value) for value in truth)
        errors.append(float(max(abs(a - b) for a, b in zip(found, truth, strict=True)) / size))
    ax.semilogy(powers, np.maximum(errors, 1e-17), marker=marker, ms=5, color=colour, label=f"rtol {rtol:.0e}")
    ax.axhline(rtol, color=colour, lw=0.8, ls="--")
ax.set(xlabel="log₁₀ γ,  loss = e^−γ", ylabel="error of β/γ in float64, relative", ylim=(1e-17, 1e-2))
ax.legend(title="dashed: what was asked for", title_fontsize=9)
plt.show()

# %% [markdown]
# `run.verified` holds the digits of agreement for each quantity at each save.

# %%
for name, digits in run.verified.items():
    print(f"{name:>12}: {np.min(digits):.0f} digits or more")
