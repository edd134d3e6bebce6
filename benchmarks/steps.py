"""Steps of LogRadau, accepted + rejected: N = 4, d = 10, scale 1. Against gamma and depth at rtol 1e-6, and to
gamma = 1e6 against the number of stages and rtol, with the error of beta there (against rtol 1e-12).

    JAX_ENABLE_X64=1 python -m benchmarks.steps
"""

import numpy as np

import gflow

GAMMAS = (230.0, 1e4, 1e6, 1e20, 1e100)
DEPTHS = (2, 3, 4, 6)
STAGES, TOLERANCES = (3, 5, 7, 9), (1e-5, 1e-6, 1e-8)


def data() -> np.ndarray:
    r = np.random.default_rng(0)
    teacher = r.normal(size=10)
    X = r.normal(size=(4, 10))
    return X * np.sign(X @ teacher)[:, None]


def run(depth: int, gamma: float, rtol: float, stages: int = 5):
    model = gflow.models.DiagonalNetwork(10, depth, 1.0)
    return gflow.gradient_flow(model, data(), np.ones(4), stop=gamma, solver=gflow.LogRadau(stages), rtol=rtol)


def steps(traj) -> str:
    return f"{int(traj.stats['steps'])} + {int(traj.stats['rejections'])}"


def main() -> None:
    print("| D |", " | ".join(f"{g:g}" for g in GAMMAS), "|")
    print("|" + "---|" * (len(GAMMAS) + 1))
    for depth in DEPTHS:
        print(f"| {depth} |", " | ".join(steps(run(depth, gamma, 1e-6)) for gamma in GAMMAS), "|", flush=True)
    print("\n| D | stages |", " | ".join(f"rtol {rtol:g}" for rtol in TOLERANCES), "|")
    print("|" + "---|" * (len(TOLERANCES) + 2))
    for depth in (2, 3):
        truth = np.asarray(run(depth, 1e6, 1e-12).final.beta)
        for stages in STAGES:
            cells = []
            for rtol in TOLERANCES:
                traj = run(depth, 1e6, rtol, stages)
                error = np.max(np.abs(traj.final.beta - truth)) / np.max(np.abs(truth))
                cells.append(f"{steps(traj)}, {error:.0e}")
            print(f"| {depth} | {stages} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
