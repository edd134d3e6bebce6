"""Large networks by LogRadau: seconds and memory against the number of parameters.

    JAX_ENABLE_X64=1 python -m benchmarks.parameters         1e3 to 1e6 parameters: about three minutes on two cores

A two-layer GELU network of the given width, d = 50, N = 20 random labels, exponential loss, to a loss of 1e-100 at
rtol 1e-6, each size in a process of its own. The first run compiles and is not counted. Memory is the peak of the
process beyond what it held before the run, in units of the N x P Jacobian. Results go to `results/parameters.md`.
"""

import argparse
import multiprocessing
import os
import platform
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
N, DIM, DECADES = 20, 50, 100
WIDTHS = (20, 192, 1923, 19230)


def measure(width: int) -> list[str]:
    import equinox as eqx
    import jax

    import gflow

    class Network(eqx.Module):
        hidden: jax.Array
        bias: jax.Array
        output: jax.Array

        def __call__(self, x):
            return self.output @ jax.nn.gelu(self.hidden @ x + self.bias)

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, DIM)) / np.sqrt(DIM), np.sign(rng.normal(size=N))
    leaves = rng.normal(size=(width, DIM)), np.zeros(width), rng.normal(size=width) / np.sqrt(width)
    model = Network(*map(jax.numpy.asarray, leaves))
    size = sum(leaf.size for leaf in leaves)
    run = lambda stop: gflow.gradient_flow(model, X, y, stop=stop, rtol=1e-6, solver=gflow.LogRadau())
    began = time.perf_counter()
    run(1.0)
    first = time.perf_counter() - began
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    traj = run(gflow.decades(DECADES))
    seconds = time.perf_counter() - began
    more = _memory("VmHWM") - before
    steps = int(traj.stats["steps"]) + int(traj.stats["rejections"])
    print(f"{size} parameters: {seconds:.2f} s", flush=True)
    return [f"{size:,}", f"{first:.0f}", f"{seconds:.2f}", f"{steps}", f"{1e3 * seconds / steps:.1f}",
            f"{1e6 * seconds / steps / size:.2f}", f"{more / 2**20:.0f}", f"{more / (8 * N * size):.1f}"]  # fmt: skip


def _memory(name: str) -> int:
    """Of this process, in bytes: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parameters", description="Large networks by LogRadau.")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="hidden units")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for parameters.md")
    options = parser.parse_args(arguments)
    rows = []
    for width in options.widths:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (width,)))
    machine = f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}"
    head = ["parameters", "first run (s)", "to 1e-100 (s)", "steps", "ms a step", "us a step and parameter",
            "memory (MiB)", "memory / Jacobian"]  # fmt: skip
    line = lambda cells: "| " + " | ".join(cells) + " |\n"
    text = (
        "# Large networks by LogRadau\n\nWritten by `python -m benchmarks.parameters`, which says how it measures. "
        f"{machine}, load average {os.getloadavg()[0]:.1f}.\n\n{line(head)}{line(['---'] * len(head))}"
    ) + "".join(map(line, rows))
    print(text)
    if tuple(options.widths) == WIDTHS:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "parameters.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
