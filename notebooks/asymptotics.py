"""Rates of the implicit bias far beyond float64, with verified digits.

    JAX_ENABLE_X64=1 python notebooks/asymptotics.py

Left: the excess l1 norm of beta / gamma to gamma = 1e100. Generic data follow the predicted slope -(1 - rho_max) for
D = 2, ladder data the 1/log law; D = 3 falls faster where its path leads to the l1 solution. Right: multipliers of four
samples along mu = alpha^2 / gamma; one leaves the support and is frozen, to all 30 digits.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_enable_x64", True)

from gflow.studies import asymptotics  # noqa: E402

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's, safe for the colour-blind


def separable(seed, samples, inputs):
    rng = np.random.default_rng(seed)
    X, b = rng.normal(size=(samples, inputs)), rng.normal(size=inputs)
    return (X * np.sign(X @ b)[:, None]).round(3).astype(str).tolist()


def main(out="docs/images/asymptotics.png"):
    decades = [1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    generic = asymptotics.excess_decay(separable(3, 3, 6), [1] * 3, depths=[2, 3], decades=decades)
    rungs = asymptotics.excess_decay(asymptotics.ladder(12), [1], depths=[2], decades=decades)
    mus = ["10", "3", "1", "0.5", "0.3", "0.2", "0.15", "0.1", "0.07", "0.05", "0.03"]
    frozen = asymptotics.frozen_multipliers(separable(33, 4, 6), [1] * 4, scales=["10", "100"], mu=mus)
    slope, predicted = float(generic.slope[0, -1]), float(generic.predicted_slope)
    print(f"generic data, D = 2: slope {slope:.8f}, predicted {predicted:.8f}")
    times_log = rungs.excess.values[0] * np.array(decades) * np.log(10)
    print("ladder: excess x log gamma =", ", ".join(f"{v:.3f}" for v in times_log[-6:]))
    print("relative change of the frozen multiplier, last three mu:", float(frozen.change[1, -3:, 0].max()))
    print("verified digits:", generic.digits.values, rungs.digits.values, frozen.digits.values)

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    k = np.array(decades, float)
    left.semilogy(k, generic.excess[0], "o-", ms=4, color=COLOURS[0], label="generic data, D = 2")
    tail = generic.excess.values[0, -1] * 10.0 ** (float(generic.predicted_slope) * (k - k[-1]))
    left.semilogy(k, tail, "--", color="black", lw=1, label=r"slope $-(1-\rho_{\max})$")
    left.semilogy(k, np.where(generic.excess[1] > 1e-25, generic.excess[1], np.nan), "s-", ms=4, color=COLOURS[1],
                  label="generic data, D = 3")  # fmt: skip
    left.semilogy(k, rungs.excess[0], "^-", ms=4, color=COLOURS[2], label="ladder data, D = 2")
    left.semilogy(k, times_log[-1] / (k * np.log(10)), ":", color="black", lw=1.5, label=r"$\propto 1/\log\gamma$")
    left.set(xlabel=r"$\log_{10}\gamma$,  loss $=e^{-\gamma}$", ylabel=r"excess $\ell_1$ norm of $\beta/\gamma$")
    left.set_ylim(1e-12, 1)
    left.legend(fontsize=8)
    for n in range(4):
        along, limit = frozen.multipliers_float[1, :, n], frozen.limit.values[:, n]
        right.loglog(frozen.mu, along, "o-", ms=4, color=COLOURS[n], label=f"sample {n + 1}")
        right.loglog(frozen.mu, np.where(limit > 0, limit, np.nan), "--", color="black", lw=0.8)
    right.invert_xaxis()
    right.set(xlabel=r"$\mu=\alpha^2/\gamma$  (falling)", ylabel=r"multiplier $\lambda_n=4z_n$,  $\alpha=100$")
    right.legend(fontsize=8, title="dashed: irreversible path", title_fontsize=8)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="docs/images/asymptotics.png")
    main(parser.parse_args().out)
