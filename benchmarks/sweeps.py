"""Sweeps: flows per second, and what chunks, workers and the store cost and gain.

    python -m benchmarks.sweeps                      everything: about half an hour on two cores
    python -m benchmarks.sweeps --only store         one part: throughput, chunks, workers, store, memory

The problem is that of `work_precision`: diagonal networks of depth 2, N = 4, d = 10, exponential loss, to gamma = 1e6
at rtol 1e-6, with scales from 1e-4 to 1e4.

- throughput: 1 to 10,000 scales by `gflow.sweep` with two worker processes; loops over SciPy's LSODA and SUNDIALS'
  CVODE, each in two processes; Diffrax's Kvaerno5 and Tsit5 under one `vmap`. The peers get the flow in a form made for
  them (`problem`, `peers`); their processes are started and all programs compiled before the clock runs. A peer that
  takes longer than the limit is not asked for more points. An answer counts if its gamma is within 1e-3 of the target.
- chunks: 10,000 scales in chunks of neighbours, against all of them in one `vmap` of `gradient_flow`.
- workers: 1,000 scales by one and by two workers.
- store: 1,000 scales with and without a store, in turns.
- memory: 100,000 networks, d = 100, to a loss of 1e-2 at rtol 1e-3; memory of all processes together.

Results go to `results/sweeps.json` and `.md`.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import problem
from .peers import SOLVERS
from .process import Worker

HERE = Path(__file__).parent
GAMMA, RTOL, DEPTH = 1e6, 1e-6, 2
COUNTS = (1, 10, 100, 1000, 10_000)
PEERS = ("lsoda", "cvode", "kvaerno5", "tsit5")
PARTS = ("throughput", "chunks", "workers", "store", "memory")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description="Flows per second in sweeps.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="how many points")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a peer may take for a number of points")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_ENABLE_X64": "1"}
    # One thread, as for the peers, whose LAPACK calls in one large `vmap` may wait for ever on two (jaxlib 0.10.2).
    os.environ["NPROC"] = "1"
    file = options.out / "sweeps.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results["machine"] = f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}"
    parts = {"throughput": _throughput, "chunks": _chunks, "workers": _workers, "store": _store, "memory": _memory}
    for name in options.only:
        results[name] = parts[name](options)
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "sweeps.md").write_text(markdown(results))
    print(markdown(results))


def scales(count: int) -> np.ndarray:
    return np.geomspace(1e-4, 1e4, count) if count > 1 else np.ones(1)


def sweep(count: int, **more: Any) -> Any:
    import gflow

    X = problem.data()
    arguments: dict[str, Any] = {"over": {"scale": scales(count)}, "stop": GAMMA, "rtol": RTOL, "workers": 2}
    return gflow.sweep(gflow.models.DiagonalNetwork, X, np.ones(len(X)), **(arguments | more))


def _timed(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    began = clock()
    answer = run()
    return clock() - began, answer


def _cost(run: Callable[[], Any]) -> dict[str, float]:
    """Wall time, and CPU time of this process and its workers and of this process alone, which does what is not flows.
    CPU time hardly depends on what else runs."""
    import psutil

    def spent() -> float:
        here = psutil.Process()
        return sum(sum(p.cpu_times()[:2]) for p in (here, *here.children(recursive=True)))

    before, here = spent(), time.process_time()
    seconds, _ = _timed(run)
    return {"seconds": seconds, "cpu": spent() - before, "here": time.process_time() - here}


def _answered(betas: np.ndarray) -> int:
    X = problem.data()
    return sum(problem.errors(beta, GAMMA, np.ones(X.shape[1]), X)[1] <= problem.LANDING for beta in betas)


def _throughput(options: Any) -> list[dict[str, Any]]:
    rows = []
    # Both workers compile.
    sweep(64)
    for count in options.counts:
        seconds, ds = _timed(lambda count=count: sweep(count))
        answers = _answered(ds.beta.values[:, -1])
        rows.append({"solver": "gflow.sweep", "points": count, "seconds": seconds, "answers": answers})
        print(rows[-1], flush=True)
    for key in PEERS:
        if SOLVERS[key].missing:
            continue
        worker = Worker(key, one_core=False)
        for count in options.counts:
            # The first call at a size compiles, at a low gamma; the limit is for the second.
            worker.ask(600.0, "sweep", DEPTH, scales(count), 10.0, 1e-4)
            got = worker.ask(options.limit, "sweep", DEPTH, scales(count), GAMMA, RTOL)
            row: dict[str, Any] = {"solver": SOLVERS[key].name, "points": count}
            if got is None or "betas" not in got:
                rows.append(row | {"reason": f"more than {options.limit:g} s" if got is None else got["reason"]})
                print(rows[-1], flush=True)
                break
            rows.append(row | {"seconds": got["seconds"], "answers": _answered(got["betas"])})
            print(rows[-1], flush=True)
        worker.close()
    return rows


def _chunks(options: Any) -> dict[str, Any]:
    import jax

    import gflow

    X = jax.numpy.asarray(problem.data())
    y = jax.numpy.ones(X.shape[0])

    def flow(scale):
        model = gflow.models.DiagonalNetwork(X.shape[1], DEPTH, scale)
        traj = gflow.gradient_flow(model, X, y, stop=GAMMA, solver=gflow.LogRadau(), rtol=RTOL, throw=False)
        return traj.final.beta, traj.stats["steps"]

    count = max(options.counts)
    found: dict[str, Any] = {"points": count}
    sweep(64, workers=0)
    # CPU time: one thread, whatever else the machine does.
    found["in turn, this process"], ds = _timed(lambda: sweep(count, workers=0), time.process_time)
    found["steps"] = [int(v) for v in np.percentile(ds.steps + ds.rejections, [0, 50, 100])]
    together = jax.jit(jax.vmap(flow)).lower(jax.numpy.asarray(scales(count))).compile()
    print(found, flush=True)
    all_at_once = lambda: jax.block_until_ready(together(jax.numpy.asarray(scales(count))))
    found["one vmap"], (betas, _) = _timed(all_at_once, time.process_time)
    found["largest difference"] = float(np.max(np.abs(np.asarray(betas) - ds.beta.values[:, -1])) / GAMMA)
    print(found, flush=True)
    return found


def _workers(options: Any) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    for workers in (1, 2):
        # Both have every program before they are timed.
        sweep(256, workers=workers)
        found[str(workers)] = [_cost(lambda n=workers: sweep(1000, workers=n)) for _ in range(3)]
        print(workers, found[str(workers)], flush=True)
    return found


def _store(options: Any) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    sweep(256)
    for _ in range(9):
        found["without"].append(_cost(lambda: sweep(1000)))
        with tempfile.TemporaryDirectory() as folder:
            found["with"].append(_cost(lambda folder=folder: sweep(1000, store=Path(folder) / "s.zarr")))
        print({name: costs[-1] for name, costs in found.items()}, flush=True)
    return found


def _uneven(scale, seed):
    """A network of 100 inputs whose coordinates start at different scales."""
    import jax

    import gflow

    scales = scale * jax.numpy.exp(0.1 * jax.random.normal(jax.random.key(seed), (100,)))
    return gflow.models.DiagonalNetwork(100, DEPTH, scales)


def _memory(options: Any) -> dict[str, Any]:
    import psutil

    import gflow

    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 100))
    X *= np.sign(X @ rng.normal(size=100))[:, None]
    here, peak, done = psutil.Process(), {"all": 0, "parent": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            sizes = []
            for process in (here, *here.children(recursive=True)):
                try:
                    # Pages that processes share count once.
                    sizes.append(process.memory_full_info().pss)
                except psutil.Error:
                    sizes.append(0)
            peak["all"], peak["parent"] = max(peak["all"], sum(sizes)), max(peak["parent"], sizes[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    folder = Path(tempfile.mkdtemp())
    try:
        over = {"scale": np.geomspace(0.1, 10.0, 1000), "seed": np.arange(100)}
        arguments: dict[str, Any] = {"stop": gflow.decades(2.0), "rtol": 1e-3, "store": folder / "s.zarr"}
        seconds, ds = _timed(lambda: gflow.sweep(_uneven, X, np.ones(4), over=over, workers=2, **arguments))
        size = sum(v.nbytes for v in ds.data_vars.values())
    finally:
        done.set()
        watcher.join()
        shutil.rmtree(folder)
    found = {"points": 100_000, "seconds": seconds, "result": size, "all": peak["all"], "parent": peak["parent"]}
    print(found, flush=True)
    return found


def markdown(results: dict[str, Any]) -> str:
    parts = [
        "# Sweeps",
        f"Written by `python -m benchmarks.sweeps`, which says how it measures. {results['machine']}.",
    ]
    if "throughput" in results:
        parts += ["## Flows per second", _throughput_table(results["throughput"])]
    if "chunks" in results:
        found = results["chunks"]
        turns, together = found["in turn, this process"], found["one vmap"]
        low, middle, high = found["steps"]
        parts += [
            f"## Chunks against one vmap, {found['points']:,} scales from 1e-4 to 1e4",
            f"In chunks, in turn: {turns:.1f} s; all in one `vmap`: {together:.1f} s: **{together / turns:.1f} ×**, "
            f"on one thread, without compilation. Flows take {low} to {high} steps (median {middle}).",
        ]
    if "workers" in results:
        one, two = (min(c["seconds"] for c in results["workers"][n]) for n in ("1", "2"))
        work = [float(np.median([c["cpu"] for c in results["workers"][n]])) for n in ("1", "2")]
        parts += [
            "## From one worker to two, 1,000 scales",
            f"{one:.2f} s and {two:.2f} s (best of {len(results['workers']['1'])}): efficiency {one / two / 2:.0%}. "
            f"CPU time of all processes: {work[0]:.2f} s and {work[1]:.2f} s (medians).",
        ]
    if "store" in results:
        names = {"seconds": "wall time", "cpu": "CPU time of all processes", "here": "of that, not in the workers"}
        rows = ["| seconds | without | with |", "|---|---|---|"]
        for key, name in names.items():
            cells = [", ".join(f"{cost[key]:.2f}" for cost in results["store"][n]) for n in ("without", "with")]
            rows.append(f"| {name} | {cells[0]} | {cells[1]} |")
        pairs = zip(results["store"]["without"], results["store"]["with"], strict=True)
        wall, cpu = np.median([[(b[k] - a[k]) / a[k] for k in ("seconds", "cpu")] for a, b in pairs], axis=0)
        parts += [
            "## What a store costs, 1,000 scales, two workers, in turns",
            "\n".join(rows),
            f"Pair by pair a store costs {wall:.1%} of the wall time and {cpu:.1%} of the CPU time (medians), most of "
            "it once, to make and to open it.",
        ]
    if "memory" in results:
        found = results["memory"]
        parts += [
            "## Memory of 100,000 points, d = 100, two workers, with a store",
            f"At most {found['all'] / 2**30:.2f} GiB in all processes together, {found['parent'] / 2**30:.2f} GiB in "
            f"the first; the result itself is {found['result'] / 2**30:.2f} GiB. {found['seconds']:.0f} s.",
        ]
    return "\n\n".join(parts) + "\n"


def _throughput_table(rows: list[dict[str, Any]]) -> str:
    counts = sorted({row["points"] for row in rows})
    lines = ["| | " + " | ".join(f"{n:,}" for n in counts) + " |", "|---|" + "---|" * len(counts)]
    for name in dict.fromkeys(row["solver"] for row in rows):
        cells = []
        for count in counts:
            row = next((r for r in rows if r["solver"] == name and r["points"] == count), None)
            if row is None:
                cells.append("–")
            elif "reason" in row:
                cells.append(row["reason"])
            else:
                lost = count - row["answers"]
                cells.append(f"{count / row['seconds']:.3g}" + (f" ({lost:,} without an answer)" if lost else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
