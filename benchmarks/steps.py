"""Steps of LogRadau, accepted + rejected, against gamma and depth: N = 4, d = 10, scale 1, rtol 1e-6.

    JAX_ENABLE_X64=1 python -m benchmarks.steps
"""

import numpy as np

import gflow

GAMMAS = (230.0, 1e4, 1e6, 1e20, 1e100)


def main() -> None:
    r = np.random.default_rng(0)
    teacher = r.normal(size=10)
    X = r.normal(size=(4, 10))
    X *= np.sign(X @ teacher)[:, None]
    print("| D |", " | ".join(f"{g:g}" for g in GAMMAS), "|")
    print("|" + "---|" * (len(GAMMAS) + 1))
    for depth in (2, 3, 4, 6):
        counts = []
        for gamma in GAMMAS:
            model = gflow.models.DiagonalNetwork(10, depth, 1.0)
            traj = gflow.gradient_flow(model, X, np.ones(4), stop=gamma, solver=gflow.LogRadau(), rtol=1e-6)
            counts.append(f"{int(traj.stats['steps'])} + {int(traj.stats['rejections'])}")
        print(f"| {depth} |", " | ".join(counts), "|", flush=True)


if __name__ == "__main__":
    main()
