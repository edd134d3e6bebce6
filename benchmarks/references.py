"""What the benchmark's errors are measured against: beta / gamma at the targets, stored in `references/diagonal.json`.

    python -m benchmarks.references

writes the file anew with `gflow.precise`, which integrates the dual form of the flow in arbitrary precision and checks
its digits with a second run. Where that is not installed, a run of LogRadau at rtol 1e-12 stands in, and the file says
so; it cannot be a judge of LogRadau itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import problem

FILE = Path(__file__).parent / "references" / "diagonal.json"
SWEEP_GAMMA = 1e6
# Of the thousand scales of a sweep, the errors of these are measured.
SWEEP_SAMPLE = slice(10, None, 20)
COMMAND = "python -m benchmarks.references"


def compute(depth: int, scale: float, gammas: list[float]) -> tuple[np.ndarray, str]:
    """beta / gamma, shape (len(gammas), d), and a sentence on where it comes from."""
    X = problem.data()
    y = np.ones(X.shape[0])
    try:
        from gflow.precise import diagonal_flow  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _by_log_radau(X, y, depth, scale, gammas), "LogRadau at rtol 1e-12, since gflow.precise is not there"
    run = diagonal_flow(X, y, depth=depth, scale=scale, stop=gammas[-1], save=gammas, digits=25)
    rows = [[float(b / g) for b in row] for row, g in zip(run.beta, run.neg_log_loss, strict=True)]
    return np.array(rows), "gflow.precise.diagonal_flow, 25 digits"


def _by_log_radau(X: np.ndarray, y: np.ndarray, depth: int, scale: float, gammas: list[float]) -> np.ndarray:
    import jax

    jax.config.update("jax_enable_x64", True)
    import gflow

    model = gflow.models.DiagonalNetwork(X.shape[1], depth, scale)
    traj = gflow.gradient_flow(model, X, y, save=np.asarray(gammas), solver=gflow.LogRadau(), rtol=1e-12, throw=False)
    rows = np.asarray(traj.model.beta)[: len(gammas)] / np.asarray(traj.neg_log_loss)[: len(gammas), None]
    out = np.full((len(gammas), X.shape[1]), np.nan)
    count = rows.shape[0] if traj.success else rows.shape[0] - 1
    out[:count] = rows[:count]
    return out


class References:
    """The stored values; what is not stored is computed on first use."""

    def __init__(self):
        stored = json.loads(FILE.read_text()) if FILE.exists() else {"source": "", "values": []}
        self._values = {
            _key(v["depth"], v["scale"], v["gamma"]): np.array(v["beta_over_gamma"]) for v in stored["values"]
        }
        self.sources = {stored["source"]} - {""}

    def __call__(self, depth: int, scale: float, gamma: float) -> np.ndarray:
        key = _key(depth, scale, gamma)
        if key not in self._values:
            rows, source = compute(depth, scale, [gamma])
            self._values[key] = rows[0]
            self.sources.add(source)
        return self._values[key]


def _key(depth: int, scale: float, gamma: float) -> tuple[int, str, str]:
    return depth, f"{scale:.12g}", f"{gamma:.12g}"


def _all() -> Iterator[tuple[int, float, list[float]]]:
    for depth in problem.DEPTHS:
        for scale in problem.SCALES:
            yield depth, scale, list(problem.GAMMAS)
        for scale in problem.sweep_scales()[SWEEP_SAMPLE]:
            yield depth, float(scale), [SWEEP_GAMMA]


def main() -> None:
    values: list[dict[str, Any]] = []
    source = ""
    for depth, scale, gammas in _all():
        rows, source = compute(depth, scale, gammas)
        for gamma, row in zip(gammas, rows, strict=True):
            if not np.all(np.isfinite(row)):
                print(f"No value for depth {depth}, scale {scale:g}, gamma {gamma:g}.")
                continue
            values.append({"depth": depth, "scale": scale, "gamma": gamma, "beta_over_gamma": row.tolist()})
    write(values, source)


def write(values: list[dict[str, Any]], source: str) -> None:
    FILE.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(v) for v in values)
    FILE.write_text(f'{{"source": {json.dumps(source)}, "command": {json.dumps(COMMAND)}, "values": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
