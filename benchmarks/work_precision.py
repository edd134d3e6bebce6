"""Work against precision: how long does a solver take for a given error of beta / gamma?

    python -m benchmarks.work_precision            everything: about an hour on two cores
    python -m benchmarks.work_precision --quick    gamma = 230 and 1e4, single runs only: a few minutes

What is measured: diagonal networks, N = 4, d = 10, depths 2 and 3, scales 1 and 1e-3, exponential loss, to gamma = 230
(a loss of 1e-100), 1e4, 1e6, 1e12 and 1e20; gflow against Diffrax, SciPy, SUNDIALS and a compiled LSODA, each at rtol
from 1e-2 to 1e-10; and a thousand scales at once to gamma = 1e6.

How: every solver runs in a process of its own, single runs on one core, sweeps on all. Time is the median of several
runs after a run that compiles (compilation is reported apart). The error is the largest entry of the difference of
beta / gamma to the reference, relative to the largest entry of that; references are computed in high precision
(`references`). The peers get the flow in a reduced form made for them, with a clock that ends at gamma (`problem`), and
each the settings that suit it best (`peers`). A run beyond the wall limit is ended and counts as no answer; after two
of them the solver's other tolerances at this gamma are left out, and one is tried at the gammas beyond.

Times at equal error are interpolated, log-log, between the solver's undominated runs. Results go to
`results/work_precision.json` and `.md`, and to the figure `docs/images/work-precision.png`.
"""

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from . import problem, report
from .peers import Solver, SOLVERS
from .process import Worker
from .references import References, SWEEP_GAMMA, SWEEP_SAMPLE

HERE = Path(__file__).parent
# The middle first: solvers that need a tight or a loose tolerance are found out either way.
RTOLS = (1e-6, 1e-4, 1e-8, 1e-5, 1e-7, 1e-3, 1e-9, 1e-2, 1e-10)
SWEEP_RTOLS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
# Two runs without an answer within the wall limit, and the other tolerances are left out.
PATIENCE = 2
COMPILE_LIMIT = 600.0
# A sample of 50 scales may take this long; whether all of them are then run, instead of extrapolated, also.
SWEEP_LIMIT = 120.0
PACKAGES = ("gflow", "jax", "diffrax", "optimistix", "scipy", "numpy", "scikit-sundae", "numba", "numbalsoda")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.work_precision",
        description="Work against precision: time for a given error of beta / gamma, gflow and other solvers.",
    )
    parser.add_argument("--quick", action="store_true", help="gamma = 230 and 1e4, without the sweeps")
    parser.add_argument("--gammas", type=float, nargs="+", help="targets -log L")
    names = ", ".join(SOLVERS)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), metavar="NAME", help=names)
    parser.add_argument("--depths", type=int, nargs="+", default=list(problem.DEPTHS))
    parser.add_argument("--scales", type=float, nargs="+", default=list(problem.SCALES))
    parser.add_argument("--rtols", type=float, nargs="+", default=list(RTOLS))
    parser.add_argument("--error", type=float, default=1e-6, help="the error at which times are compared")
    parser.add_argument("--limit", type=float, default=20.0, help="wall limit of a run in seconds")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--no-sweep", action="store_true", help="leave out the thousand scales")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    parser.add_argument("--figure", type=Path, help="its file; docs/images/work-precision.png, or in --out if given")
    options = parser.parse_args(arguments)
    gammas = sorted(options.gammas or (problem.GAMMAS[:2] if options.quick else problem.GAMMAS))
    # Tiny systems: threads of BLAS only get in each other's way. Inherited by the solvers' processes.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    solvers, skipped = {}, []
    for key in options.solvers:
        if SOLVERS[key].missing:
            skipped.append(f"{SOLVERS[key].name} is left out: {', '.join(SOLVERS[key].missing)} is not installed.")
        else:
            solvers[key] = SOLVERS[key]
    print("\n".join(skipped), flush=True)
    references = References()
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}",
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "error": options.error,
        "limit": options.limit,
        "solvers": {key: {"name": s.name, "ours": s.ours} for key, s in solvers.items()},
        "skipped": skipped,
        "compile": [],
        "runs": [],
        "sweeps": [],
    }
    for key, solver in solvers.items():
        _single(key, solver, options, gammas, references, results)
    if not (options.quick or options.no_sweep):
        for key, solver in solvers.items():
            if solver.sweep is not None:
                _sweeps(key, solver, options, references, results)
    results["references"] = sorted(references.sources)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "work_precision.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    (options.out / "work_precision.md").write_text(text)
    default = HERE.parent / "docs" / "images" if options.out == HERE / "results" else options.out
    report.figure(results, options.figure or default / "work-precision.png")
    print(text)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _single(key: str, solver: Solver, options: Any, gammas: list[float], references: References, results: Any) -> None:
    worker = Worker(key, one_core=True)
    for depth, scale in itertools.product(options.depths, options.scales):
        answered = True
        for gamma in gammas:
            late = answers = 0
            for rtol in options.rtols if answered else options.rtols[:1]:
                trouble = _compile(worker, key, depth, results)
                if trouble:
                    print(f"{solver.name}, D = {depth}: {trouble}", flush=True)
                    worker.close()
                    return
                got = worker.ask(options.limit, "run", depth, scale, gamma, rtol, options.repeats)
                run = {"solver": key, "depth": depth, "scale": scale, "gamma": gamma, "rtol": rtol}
                run |= _judged(got, gamma, references(depth, scale, gamma), options.limit)
                results["runs"].append(run)
                print(_line(solver.name, run), flush=True)
                answers += run["outcome"] == "answer"
                late += got is None
                if late == PATIENCE:
                    break
            answered = answers > 0
    worker.close()


def _compile(worker: Worker, key: str, depth: int, results: Any) -> str:
    """Have the worker compile, where it has not; what went wrong, if anything did."""
    if depth in worker.compiled:
        return ""
    got = worker.ask(COMPILE_LIMIT, "prepare", depth)
    if got is None:
        return f"no compilation within {COMPILE_LIMIT:g} s"
    if "reason" in got:
        return got["reason"]
    worker.compiled.add(depth)
    if not any(c["solver"] == key and c["depth"] == depth for c in results["compile"]):
        results["compile"].append({"solver": key, "depth": depth, "seconds": got["compile_seconds"]})
    return ""


def _judged(got: dict | None, gamma: float, reference: np.ndarray, limit: float) -> dict[str, Any]:
    if got is None:
        return {"outcome": "no answer", "reason": f"more than {limit:g} s"}
    if got.get("beta") is None:
        return {"outcome": "no answer", "reason": got["reason"], "counts": got.get("counts", {})}
    with np.errstate(all="ignore"):
        error, landing = problem.errors(got["beta"], gamma, reference, problem.data())
    if not math.isfinite(error):
        return {"outcome": "no answer", "reason": "not finite", "counts": got["counts"]}
    measured = {k: got[k] for k in ("seconds", "repeats", "counts")} | {"error": error, "landing": landing}
    return {"outcome": "answer" if landing <= problem.LANDING else "off gamma", **measured}


def _line(name: str, run: dict[str, Any]) -> str:
    where = f"{name}, D = {run['depth']}, scale {run['scale']:g}, gamma {run['gamma']:g}, rtol {run['rtol']:g}: "
    if "error" not in run:
        return f"{where}no answer ({run['reason']})"
    off = "" if run["outcome"] == "answer" else f", gamma off by {run['landing']:.1e}"
    return f"{where}{1e3 * run['seconds']:.3g} ms, error {run['error']:.1e}{off}"


def _sweeps(key: str, solver: Solver, options: Any, references: References, results: Any) -> None:
    """The fastest tolerance whose worst error on the sample is small enough; then all scales, or an extrapolation."""
    every = problem.sweep_scales()
    sample = every[SWEEP_SAMPLE]
    X = problem.data()
    worker = Worker(key, one_core=False)
    for depth in options.depths:
        row: dict[str, Any] = {"solver": key, "depth": depth, "scales": every.size, "gamma": SWEEP_GAMMA}
        best, tried = None, []
        for rtol in SWEEP_RTOLS:
            got = worker.ask(COMPILE_LIMIT, "sweep", depth, sample, 10.0, 1e-4)
            if got is not None and "reason" not in got:
                row.setdefault("compile_seconds", got["compile_seconds"])
                got = _shortest(worker, SWEEP_LIMIT, 2, depth, sample, SWEEP_GAMMA, rtol)
            if got is None or "reason" in got:
                tried.append({"rtol": rtol, "outcome": got["reason"] if got else f"more than {SWEEP_LIMIT:g} s"})
                print(f"Sweep, {solver.name}, D = {depth}, rtol {rtol:g}: {tried[-1]['outcome']}", flush=True)
                break
            judged = [
                problem.errors(beta, SWEEP_GAMMA, references(depth, float(s), SWEEP_GAMMA), X)
                for beta, s in zip(got["betas"], sample, strict=True)
            ]
            good = [error for error, landing in judged if landing <= problem.LANDING]
            one = {
                "rtol": rtol,
                "outcome": "answer",
                "seconds": got["seconds"],
                "scales": sample.size,
                "lost": sample.size - len(good),
                "error": max(good, default=1.0),
            }
            tried.append(one)
            print(f"Sweep, {solver.name}, D = {depth}: {one}", flush=True)
            if not one["lost"] and one["error"] <= options.error and (best is None or one["seconds"] < best["seconds"]):
                best = one
        row["sample"] = tried
        if best is not None:
            row |= {"rtol": best["rtol"], "error": best["error"], "extrapolated": True}
            row["seconds"] = best["seconds"] * every.size / sample.size
            if row["seconds"] < SWEEP_LIMIT:
                worker.ask(COMPILE_LIMIT, "sweep", depth, every, 10.0, 1e-4)
                got = _shortest(worker, 2 * SWEEP_LIMIT, 3, depth, every, SWEEP_GAMMA, best["rtol"])
                if got is not None and "reason" not in got:
                    row |= {"extrapolated": False, "seconds": got["seconds"]}
            how = "extrapolated" if row["extrapolated"] else "measured"
            print(f"Sweep, {solver.name}, D = {depth}: {row['seconds']:.3g} s ({how})", flush=True)
        results["sweeps"].append(row)
    worker.close()


def _shortest(worker: Worker, limit: float, repeats: int, *request: Any) -> dict | None:
    """The shortest of several runs of a sweep; of one, where that takes long."""
    best = worker.ask(limit, "sweep", *request)
    for _ in range(repeats - 1):
        if best is None or "reason" in best or best["seconds"] > 10.0:
            return best
        again = worker.ask(limit, "sweep", *request)
        if again is None or "reason" in again:
            return again
        best = min(best, again, key=lambda got: got["seconds"])
    return best


if __name__ == "__main__":
    main()
