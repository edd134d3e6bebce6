"""Deep matrix factorization: when eigenvalues are learned, and where the effective rank rests.

    JAX_ENABLE_X64=1 python notebooks/deep_factorization.py --out factorization-output

The first parts of `gflow reproduce deep-factorization`, step by step: the target and what is observed of it, descent
with the flow beside it, the predicted learning times, and the intervals of the theorem.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_enable_x64", True)

import gflow  # noqa: E402

EIGENVALUES, SIZE, DEPTH, SCALE, STEP = [10.0, 5.0, 1.0], 20, 3, 0.1, 5e-3


def main(out="factorization-output"):
    target = gflow.observe.symmetric(EIGENVALUES, SIZE, jax.random.key(0))
    X, y = gflow.observe.everything(target)
    model = gflow.models.MatrixFactorization.identical(SIZE, DEPTH, SCALE)
    loss, metrics = gflow.losses.Square(reduction="sum"), {"rank": gflow.metrics.effective_rank}

    save = np.arange(0, 2401, 40)
    descent = gflow.gradient_descent(model, X, y, loss=loss, step=STEP, steps=2400, save=save, metrics=metrics)
    flow = gflow.gradient_flow(
        model, X, y, loss=loss, clock=gflow.TimeClock(), save=save[1:] * STEP, rtol=1e-9, metrics=metrics
    )
    print(flow)
    predicted = gflow.limits.factorization.learning_time(EIGENVALUES, DEPTH, SCALE, fraction=0.99)
    print("learning times, p = 0.99 lambda:", predicted.round(4))

    figure, ax = plt.subplots(layout="constrained")
    for rank, colour in zip((1, 2, 3), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        known = gflow.limits.factorization.rank_interval(
            EIGENVALUES, rank, DEPTH, SCALE, size=SIZE, miss=0.05, leak=0.05
        )
        end = min(known.end, save[-1] * STEP)
        ax.fill_between([known.start, end], known.lower, known.upper, color=colour, alpha=0.35, label=f"L = {rank}")
    ax.plot(save * STEP, descent.metrics["rank"], "o", ms=3, color="0.5", label="descent")
    ax.plot(save[1:] * STEP, flow.metrics["rank"], color="black", lw=1, label="flow")
    ax.set(xlabel="time t = η times step", ylabel="effective rank of the product", ylim=(0.9, 2.2))
    ax.legend(title="shaded: intervals of the theorem")
    Path(out).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(out) / "effective-rank.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="factorization-output")
    main(parser.parse_args().out)
