"""How long until there is something: imports, and the first result of the README's example, compilation included.

    python -m benchmarks.startup                # all of it, some minutes

Each measurement is a process of its own, in turns, so that what else the machine does falls on all alike. What is
compared is CPU time of the process (user and system, one XLA thread); wall time is written beside it. The persistent
compilation cache is off. Files are byte-compiled and read once before.

*First result*: the README's example for one scale, iris, depth 2, 61 saves from 1e-1 to 1e-1000.

- `gflow`: `gradient_flow` as in the README.
- `diffrax, explicit` and `diffrax, implicit`: what a user of bare Diffrax would write for the same problem once the
  loss has been taken into the log domain: d log u / d log(1 + gamma) in the 2d coordinates, by autodiff, Tsit5 or
  Kvaerno5, saved at the same points, at tolerances of 1e-8 like gflow.

The last column is the largest error of beta / gamma against `gflow` at rtol 1e-10.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "startup.md"
SETUP = """
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np
from sklearn.datasets import load_iris
iris = load_iris()
two = iris.target < 2
X, y = iris.data[two], np.where(iris.target[two] == 0, -1.0, 1.0)
X = np.hstack([(X - X.mean(0)) / X.std(0), np.ones((len(X), 1))])
scale, save = 1.0, np.log(10.0) * np.geomspace(1, 1000, 61)
"""
GFLOW = """
import gflow
model = gflow.models.DiagonalNetwork(dim=5, depth=2, scale=scale)
traj = gflow.gradient_flow(model, X, y, save=save, rtol={rtol})
beta = np.asarray(traj.model.beta / traj.neg_log_loss[:, None])
"""
DIFFRAX = """
import diffrax

rows = jnp.asarray(y[:, None] * X)

def gamma_of(a):
    u = scale * jnp.exp(a)
    m = rows @ (u[:5] ** 2 - u[5:] ** 2)
    return jnp.log(len(y)) - jax.nn.logsumexp(-m)

def field(s, a, args):
    # d a / d tau = u^-2 grad_a gamma, divided by d log(1 + gamma) / d tau
    gradient = jax.grad(gamma_of)(a)
    velocity = gradient / (scale * jnp.exp(a)) ** 2
    return velocity * jnp.exp(s) / (gradient @ velocity)

points = jnp.log1p(save)
run = diffrax.diffeqsolve(
    diffrax.ODETerm(field), diffrax.{solver}(), 0.0, points[-1], 1e-3, jnp.zeros(10), saveat=diffrax.SaveAt(ts=points),
    stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8), max_steps=1_000_000,
)
u = scale * jnp.exp(run.ys)
beta = np.asarray((u[:, :5] ** 2 - u[:, 5:] ** 2) / save[:, None])
"""
WAYS = {
    "gflow": GFLOW.format(rtol="1e-8"),
    "diffrax, explicit (Tsit5)": DIFFRAX.format(solver="Tsit5"),
    "diffrax, implicit (Kvaerno5)": DIFFRAX.format(solver="Kvaerno5"),
}
IMPORTS = ("import diffrax", "import gflow")


def run(script: str) -> tuple[float, float, list]:
    """CPU seconds, wall seconds, and what the script left in `beta`, if anything."""
    tail = "\nimport json\nprint('RESULT', json.dumps(beta.tolist() if 'beta' in dir() else []))\n"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    environment = kept | {"JAX_ENABLE_X64": "1", "NPROC": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script + tail], env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall, json.loads(line[7:])


def turns(scripts: dict[str, str], count: int) -> dict[str, tuple[list[float], list[float], list]]:
    """The first turn is not counted: it fills caches of files."""
    found: dict[str, tuple[list[float], list[float], list]] = {name: ([], [], []) for name in scripts}
    for k in range(count + 1):
        for name, script in scripts.items():
            cpu, wall, beta = run(script)
            print(f"{name}: {cpu:.2f} s CPU, {wall:.2f} s", file=sys.stderr)
            if k:
                found[name][0].append(cpu)
                found[name][1].append(wall)
                found[name][2][:] = beta
    return found


def table(found: dict, reference: str, head: str, error: dict[str, float] | None = None) -> str:
    base = statistics.median(found[reference][0])
    lines = [
        f"| {head} | CPU seconds, median (least to most) | wall seconds, median | ratio{' | error' if error else ''} |",
        "|---|---|---|---|" + ("---|" if error else ""),
    ]
    for name, (cpu, wall, _) in found.items():
        middle = statistics.median(cpu)
        row = f"| {name} | {middle:.2f} ({min(cpu):.2f} to {max(cpu):.2f}) | {statistics.median(wall):.2f} |"
        lines.append(f"{row} {middle / base:.2f} |" + (f" {error[name]:.1e} |" if error else ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="how often the imports are measured; results: a third")
    parser.add_argument("--only", choices=("imports", "first"), help="print one of the two, and write nothing")
    options = parser.parse_args()
    text = [
        "# Startup",
        "",
        "Written by `python -m benchmarks.startup`, which says how it measures. 2 CPU cores, Linux, Python "
        f"{sys.version.split()[0]}, at a load average of {os.getloadavg()[1]:.1f}.",
        "",
    ]
    if options.only != "first":
        found = turns({name: name for name in IMPORTS}, options.turns)
        text += ["## Import", "", table(found, "import diffrax", "statement"), ""]
    if options.only != "imports":
        import numpy as np

        found = turns({name: SETUP + way for name, way in WAYS.items()}, max(1, options.turns // 3))
        truth = np.array(run(SETUP + GFLOW.format(rtol="1e-10"))[2])
        error = {name: float(np.max(np.abs(np.array(beta) - truth))) for name, (_, _, beta) in found.items()}
        text += [
            "## First result, imports and compilation included",
            "",
            table(found, "diffrax, implicit (Kvaerno5)", "way", error),
            "",
        ]
    print("\n".join(text))
    if options.only is None:
        RESULT.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
